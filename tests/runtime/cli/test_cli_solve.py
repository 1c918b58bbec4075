"""tilewright solve; tilewright bench solve and accuracy."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from tilewright.benchmarks.accuracy import gallery, sweep, table
from tilewright.benchmarks.solve import measure
from tilewright.cli import main


def run(*arguments, code=0):
    done = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert done.exit_code == code, done.output
    return done.output


def test_solve_prints_path_criterion_residual_and_rates():
    text = run("solve", "--n", 200, "--cond", "1e2", "--precision", "bf16", "--tile-size", 48)
    for word in (
        "bf16 converged after",
        "LAPACK's criterion",
        "HPL-MxP residual",
        "(<= 16)",
        "GFLOP/s, the factorisation alone",
    ):
        assert word in text


def test_solve_as_json_has_what_the_info_has():
    found = json.loads(run("solve", "--n", 120, "--cond", "1e6", "--precision", "bf16x3", "--rhs", 3, "--json"))
    assert found["n"] == 120 and found["right_hand_sides"] == 3
    assert found["hpl_mxp_residual"] <= 1 and found["criterion"] <= 1
    assert found["path"][-1]["status"] == "converged"
    assert found["code"] == found["path"][0]["code"]


def test_solve_takes_files_and_either_triangle(tmp_path):
    a = np.diag([4.0, 5.0, 6.0])
    a[0, 2] = 1
    np.save(tmp_path / "a.npy", a)
    assert "n = 3" in run("solve", "--matrix", tmp_path / "a.npy", "--upper")
    assert "not symmetric" in run("solve", "--matrix", tmp_path / "a.npy", "--check-symmetric", code=2)
    assert "--matrix" in run("solve", "--matrix", tmp_path / "a.npy", "--n", 3, code=2)


def test_failure_is_one_sentence_and_exit_code_1(tmp_path):
    text = run("solve", "--n", 200, "--cond", "1e12", "--precision", "bf16", "--no-fallback", "--tile-size", 48, code=1)
    assert "no solution with FP64 accuracy: bf16" in text and "Traceback" not in text
    np.save(tmp_path / "a.npy", -np.eye(3))
    assert "leading minor of order 1" in run("solve", "--matrix", tmp_path / "a.npy", code=1)


def test_bench_solve_compares_with_scipy_torch_and_our_fp64():
    records = measure(150, 1e2, "geometric", 1, precision="bf16")
    assert [record["contender"] for record in records] == [
        "tilewright bf16",
        "tilewright fp64",
        "scipy solve",
        "torch cholesky + solve",
    ]
    assert records[0]["this_over_ours"] == 1 and records[0]["hpl"] <= 1
    text = run("bench", "solve", "--n", 100, "--cond", "10", "--repeat", 1, "--no-rivals", "--json")
    assert [json.loads(line)["n"] for line in text.splitlines()] == [100, 100]


def test_general_systems_on_the_command_line_and_in_the_benchmark():
    text = run("solve", "--n", 200, "--cond", "10", "--precision", "fp32", "--tile-size", 48, "--assume-a", "gen")
    assert "fp32 converged after" in text and "HPL-MxP residual" in text
    text = run("solve", "--n", 100, "--cond", "10", "--refine", "cg", "--assume-a", "gen", code=2)
    assert "refine='cg' is not for a general matrix" in text
    records = measure(150, 1e2, "geometric", 1, precision="fp32", structure="gen")
    assert [record["contender"] for record in records] == [
        "tilewright fp32",
        "tilewright fp64",
        "scipy solve",
        "torch solve",
    ]
    assert records[0]["hpl"] <= 1
    assert records[1]["gflops"] == pytest.approx((2 / 3 * 150**3 + 2 * 150**2) / records[1]["median"] / 1e9)
    assert "--device" in run("bench", "solve", "--assume-a", "gen", "--device", "cuda", code=2)


def test_bench_solve_sweeps_auto_and_the_rungs_alone():
    text = run("bench", "solve", "--n", 100, "--cond", "1e2", "--cond", "1e12", "--sweep", "--repeat", 1, "--json")
    records = [json.loads(line) for line in text.splitlines()]
    assert [record["contender"] for record in records] == ["auto", "bf16", "fp32", "fp64"] * 2
    assert max(record["best_over_this"] for record in records[1:4]) == 1
    assert "AccuracyError" in records[5]["error"]
    assert "--device" in run("bench", "solve", "--sweep", "--device", "cuda", code=2)


def test_every_solution_of_the_sweep_keeps_the_promise():
    rows = list(sweep(70, 32))
    assert len(rows) == 4 * (4 * 8 + 8)
    assert all(row["passed"] for row in rows)
    assert {row["path"].split()[0] for row in rows} == {"bf16", "bf16x3", "fp32", "fp64"}


@pytest.mark.parametrize("n", [16, 100])
def test_gallery_is_symmetric_and_positive_definite(n):
    for name, a in gallery(n):
        assert np.array_equal(a, a.T), name
        assert np.linalg.eigvalsh(a)[0] > 0, name


def test_accuracy_prints_a_row_in_markdown_for_each_matrix(monkeypatch):
    monkeypatch.setattr("tilewright.benchmarks.accuracy.CONDITIONS", (1e2, 1e8))
    lines = run("bench", "accuracy", "--n", 40, "--tile-size", 16).splitlines()
    assert lines[0] == "| matrix | bf16 | bf16x3 | fp32 | fp64 | largest error / (n u) |"
    assert len({line.count("|") for line in lines}) == 1
    assert len(lines) == 2 + 4 * 2 + 8


def test_a_row_has_lapacks_code_where_it_began_and_the_rungs_after():
    rows = [
        {"matrix": "m", "precision": "bf16", "path": "bf16 (-31) -> fp64 (1)", "hpl": 0.02},
        {"matrix": "m", "precision": "fp64", "path": "fp64 (1)", "hpl": 0.01},
        {"matrix": "n", "precision": "bf16", "path": "AccuracyError"},
    ]
    assert list(table(rows))[2:] == ["| m | -31 -> fp64 (1) | 1 | 0.02 |", "| n | AccuracyError | **raised** |"]
