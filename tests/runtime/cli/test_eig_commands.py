"""``tilewright dag eig``, ``simulate eig``, ``compare eig`` and ``bench eig``."""

import json

from click.testing import CliRunner

from tilewright import cli


def call(*args):
    return CliRunner().invoke(cli.main, [str(arg) for arg in args], catch_exceptions=False)


def test_the_reduction_to_a_band_is_drawn(tmp_path):
    result = call("dag", "eig", "--nt", 2, "--tile-size", 32, "--svg", tmp_path / "band.svg")
    assert result.exit_code == 0 and "5 tasks" in result.stderr
    assert "panel(0)" in (tmp_path / "band.svg").read_text()
    assert "digraph" in call("dag", "eig", "--nt", 3).stdout


def test_it_is_simulated_and_compared():
    result = call("simulate", "eig", "--nt", 4, "--tile-size", 64, "--workers", 4, "--gamma", 1e-10)
    assert result.exit_code == 0 and "panel" in result.output
    result = call("compare", "eig", "--nt", 3, "--tile-size", 8, "--workers", 2, "--schedulers", "eager")
    assert result.exit_code == 0 and "eager" in result.output


def test_every_kind_is_measured_beside_its_rivals():
    result = call("bench", "eig", "--n", 48, "--repeat", 1, "--json")
    assert result.exit_code == 0, result.output
    records = [json.loads(line) for line in result.stdout.splitlines()]
    found = {(r["kind"], r["contender"]) for r in records}
    assert {
        ("eigvalsh", "scipy"),
        ("eigh", "tilewright"),
        ("svdvals", "torch"),
        ("svd", "scipy"),
        ("svd_lowrank", "tilewright"),
    } <= found
    assert all(r["ours_over_this"] == 1 for r in records if r["contender"] == "tilewright")
