"""``tilewright qr``, ``tilewright dag qr`` and the picture of trees."""

import json
import os

import numpy as np
import pytest
from click.testing import CliRunner

import tilewright as tw
from tilewright import cli


def call(*args):
    return CliRunner().invoke(cli.main, [str(arg) for arg in args], catch_exceptions=False)


@pytest.mark.parametrize("tree", ["auto", "greedy", "hierarchical:2,binary,flat"])
def test_json_says_what_ran_and_how_well(tree):
    result = call("qr", "--n", 40, "--rows", 90, "--tile-size", 15, "--workers", 2, "--tree", tree, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["shape"] == [90, 40] and found["tile_size"] == 15 and found["passed"] and found["gflops"] > 0
    assert 0 < found["residual"] < 30 and 0 < found["orthogonality"] < 30


def test_a_matrix_from_a_file_of_any_shape(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(12).reshape(3, 4))
    result = call("qr", "--matrix", tmp_path / "a.npy", "--trace", tmp_path / "trace.json")
    assert result.exit_code == 0 and "3 x 4, float64" in result.output and (tmp_path / "trace.json").exists()
    assert "(< 30): passes" in result.output


def test_from_a_file_to_two_files_and_on_from_its_checkpoint(tmp_path):
    """What stays of a run whose last parts are lost goes on by ``tilewright resume``, which finds matrix and files."""
    a = np.random.default_rng(0).standard_normal((60, 60))
    np.save(tmp_path / "a.npy", a)
    outs, run = (tmp_path / "Q.npy", tmp_path / "R.npy"), tmp_path / "run"
    how = ["--matrix", tmp_path / "a.npy", "--tile-size", 16, "--memory", "20MB", "--workers", 2]
    result = call("qr", *how, "--out", *outs, "--checkpoint", run, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["out"] == [str(path) for path in outs]
    q, r = tw.qr(a, mode="economic", tree="panel", tile_size=16)
    assert np.array_equal(np.load(outs[0]), q) and np.array_equal(np.load(outs[1]), r)
    for lost in [*outs, *sorted(run.glob("part-*.bin"), key=os.path.getmtime)[2:]]:
        lost.unlink()
    result = call("resume", run)
    assert result.exit_code == 0 and "block columns were in" in result.output, result.output
    assert np.array_equal(np.load(outs[0]), q) and np.array_equal(np.load(outs[1]), r)
    for words, message in ((["--memory", "1GB"], "with --out"), (["--out", *outs], "name it, --matrix")):
        result = CliRunner().invoke(cli.main, ["qr", "--n", "20", *map(str, words)])
        assert result.exit_code == 2 and message in result.output


def test_a_tree_that_is_none_is_refused_in_a_sentence():
    assert "unknown tree 'bush'" in call("qr", "--n", 9, "--tree", "bush").output
    assert "a hierarchical tree is" in call("dag", "qr", "--tree", "hierarchical:2").output


def test_graphs_are_drawn(tmp_path):
    result = call("dag", "qr", "--mt", 3, "--nt", 2, "--tree", "flat", "--svg", tmp_path / "qr.svg")
    assert result.exit_code == 0 and "8 tasks" in result.stderr
    assert "tsmqr(1,1,0)" in (tmp_path / "qr.svg").read_text()
    assert "digraph" in call("dag", "qr", "--nt", 2, "--tree", "panel").stdout
    assert "0* 1*" in call("trees", "--mt", 3, "--nt", 2, "--tree", "flat").stdout


def test_critical_paths_of_trees_are_a_table_and_a_picture(tmp_path):
    result = call("trees", "--nt", "1,4")
    assert result.exit_code == 0 and "16 x 4" in result.stdout
    row = next(line for line in result.stdout.splitlines() if line.strip().startswith("16 x 4"))
    assert row.split()[3:] == ["232", "138", "114", "86", "92"]
    pytest.importorskip("matplotlib")
    assert call("trees", "--nt", "4", "--plot", tmp_path / "trees.png").exit_code == 0
    assert (tmp_path / "trees.png").stat().st_size > 5000


def test_qr_is_simulated_and_compared():
    result = call("simulate", "qr", "--mt", 8, "--nt", 3, "--tree", "binary", "--workers", 4, "--gamma", 1e-10)
    assert result.exit_code == 0 and "ttmqr" in result.output
    result = call(
        "compare",
        "qr",
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
