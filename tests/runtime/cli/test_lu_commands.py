"""``tilewright lu`` and ``tilewright dag lu``."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from tilewright import cli


def call(*args):
    return CliRunner().invoke(cli.main, [str(arg) for arg in args], catch_exceptions=False)


@pytest.mark.parametrize(
    ("pivoting", "more"),
    [("partial", ["--panel", "recursive"]), ("tournament", []), ("threshold", ["--threshold", 0.8])],
)
def test_json_says_what_ran_and_how_well(pivoting, more):
    result = call("lu", "--n", 100, "--tile-size", 30, "--workers", 2, "--pivoting", pivoting, *more, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["shape"] == [100, 100] and found["tile_size"] == 30 and found["info"] == 0 and found["passed"]
    assert found["ratio"] < 30 and 1 < found["growth"] < 60 and 0 < found["rcond"] < 1 and found["gflops"] > 0


def test_a_matrix_from_a_file_of_any_shape(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(12).reshape(3, 4))
    result = call("lu", "--matrix", tmp_path / "a.npy", "--trace", tmp_path / "trace.json")
    assert result.exit_code == 0 and "3 x 4, float64" in result.output and (tmp_path / "trace.json").exists()


def test_a_singular_matrix_is_said_to_be_so(tmp_path):
    np.save(tmp_path / "a.npy", np.diag([1.0, 0.0, 2.0]))
    result = call("lu", "--matrix", tmp_path / "a.npy")
    assert "diagonal number 2 of U is exactly zero" in result.output


def test_graphs_are_drawn(tmp_path):
    result = call("dag", "lu", "--nt", 4, "--panel", "recursive", "--dot", tmp_path / "lu.dot")
    assert "69 tasks" in result.stderr and "length 46.25" in result.stderr
    assert "getrf2(0,6)" in (tmp_path / "lu.dot").read_text()
    result = call("dag", "lu", "--nt", 4, "--svg", tmp_path / "lu.svg")
    assert result.exit_code == 0 and "27 tasks" in result.stderr and "length 53" in result.stderr
    assert "getrf(0)" in (tmp_path / "lu.svg").read_text()
    assert "digraph" in call("dag", "lu", "--nt", 2, "--pivoting", "tournament").stdout


def test_lu_is_simulated_and_compared():
    result = call("simulate", "lu", "--nt", 6, "--workers", 4, "--gamma", 1e-10)
    assert result.exit_code == 0 and "getrf" in result.output
    result = call(
        "compare",
        "lu",
        "--nt",
        3,
        "--tile-size",
        8,
        "--workers",
        2,
        "--backend",
        "threads",
        "--schedulers",
        "eager",
        "--repeat",
        1,
    )
    assert result.exit_code == 0 and "eager" in result.output
