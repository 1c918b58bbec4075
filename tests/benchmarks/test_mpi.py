"""The MPI benchmark counts what the plan counts, and its command reports all three questions."""

import json

import pytest
from click.testing import CliRunner

from tilewright.benchmarks import mpi


def test_counts_stay_below_the_formula_and_the_symmetric_distribution_below_the_grid():
    grid, symmetric = mpi.counts(nt=36, nb=100, ranks=(16,))
    assert grid["messages"] < grid["formula"] == 36**2 // 2 * 6
    assert symmetric["ranks"] == 15
    assert symmetric["messages"] < 0.8 * grid["messages"]
    assert grid["gigabytes"] == pytest.approx(grid["messages"] * 8e-5)


def test_command_prints_rates_costs_and_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(mpi.counts, "__defaults__", ((16,),))
    arguments = ["--n", "300", "--repeat", "1", "--nt", "12", "--json"]
    arguments += ["--plot", str(tmp_path / "sent.svg"), "--output", str(tmp_path / "mpi.jsonl")]
    result = CliRunner().invoke(mpi.command, arguments)
    assert result.exit_code == 0, result.output
    printed = [json.loads(line) for line in result.output.splitlines()]
    assert [r.get("contender") or r.get("what") or r["distribution"] for r in printed] == [
        "threads, 2 workers", "mpi, 2 ranks", "start of 4 ranks", "call, n = 64", "block-cyclic 4 x 4",
        "symmetric, r = 6",
    ]  # fmt: skip
    assert all(r["gflops"] > 0 for r in printed[:2])
    assert len((tmp_path / "mpi.jsonl").read_text().splitlines()) == 6
    assert (tmp_path / "sent.svg").read_text().startswith("<?xml")
