import json

import numpy as np
import pytest
import scipy.sparse as sp
from click.testing import CliRunner
from scipy.io import mmwrite

from tilewright.cli.spmv import spmv


def invoke(*arguments, code=0):
    result = CliRunner().invoke(spmv, arguments)
    assert result.exit_code == code, result.output
    return result.output


def test_spmv_on_ranks_reports_times_words_and_partitions():
    output = invoke(
        "--poisson", "20x30", "--powers", "3", "--method", "two-stage", "--solve", "--repeat", "1", "--json"
    )
    told = json.loads(output)
    assert (told["rows"], told["entries"], told["ranks"], told["messages"]) == (600, 5 * 600 - 2 * 50, 2, 2)
    assert (told["words"], told["redundant"]) == (2 * 3 * 30, 2 * 2 * 30)
    assert told["agrees"] and told["solve"]["converged"] and told["rank_seconds"] > 0
    assert (told["partitions"][0]["partition"], told["partitions"][0]["words"]) == ("rows", 60)


@pytest.mark.parametrize("backend", ["serial", "threads"])
def test_spmv_prints_a_table_on_engines_of_one_process(backend):
    output = invoke(
        "--example", "recirc_flow", "--backend", backend, "--partition", "metis", "--ranks", "3", "--repeat", "1"
    )
    assert "pyamg's recirc_flow: 225 x 225" in output and "ghost words" in output and "SciPy, one core" in output
    assert "on the ranks" not in output


@pytest.mark.parametrize("shape", [(4, 4), (3, 5)])
def test_spmv_multiplies_by_the_transpose_of_any_shape(tmp_path, shape):
    path = tmp_path / "a.npz"
    sp.save_npz(path, sp.csr_array(np.arange(shape[0] * shape[1]).reshape(shape)))
    told = json.loads(invoke("--matrix", str(path), "--transposed", "--backend", "serial", "--repeat", "1", "--json"))
    assert told["agrees"] and told["transposed"] and (told["rows"], told["columns"]) == shape


@pytest.mark.parametrize("suffix", ["mtx", "npz"])
def test_spmv_reads_files(tmp_path, suffix):
    A = sp.coo_array(np.diag([1.0, 2, 3]) + np.diag([1.0, 1], 1))
    path = tmp_path / f"a.{suffix}"
    if suffix == "mtx":
        mmwrite(path, A)
    else:
        sp.save_npz(path, A.tocsr())
    told = json.loads(invoke("--matrix", str(path), "--backend", "serial", "--repeat", "1", "--json"))
    assert (told["rows"], told["entries"], told["words"], told["agrees"]) == (3, 5, 1, True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--poisson", "ten"], "'ten' is not like 2x3"),
        (["--poisson", "3x0"], "'3x0' is not like 2x3"),
        (["--example", "teapot"], "pyamg has no example 'teapot'"),
        (["--poisson", "3x3", "--example", "bar"], "each name a matrix; give one of them"),
        (["--poisson", "3x3", "--transposed", "--powers", "2"], "--transposed is for one product, not for --powers 2"),
        (["--poisson", "3x3", "--method", "magic"], "'magic' is not one of"),
    ],
)
def test_bad_input_of_spmv_is_one_sentence(arguments, words):
    assert words in invoke(*arguments, code=2)


def test_a_file_of_another_kind_is_refused(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("1 2 3")
    assert "'a.txt' must be a Matrix Market file (.mtx)" in invoke("--matrix", str(path), code=2)


def test_a_system_that_is_not_definite_is_a_sentence(tmp_path):
    mmwrite(tmp_path / "minus.mtx", sp.coo_array(-np.eye(3)))
    arguments = ["--matrix", str(tmp_path / "minus.mtx"), "--backend", "serial", "--repeat", "1", "--solve"]
    assert "A is not positive definite" in invoke(*arguments, code=2)
