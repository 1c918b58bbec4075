"""The MPI benchmark counts what the plan counts, and its command reports all four questions."""

import json

import pytest
from click.testing import CliRunner

from tilewright.benchmarks import mpi
from tilewright.benchmarks.scalapack import UnavailableError


def test_counts_stay_below_the_formula_and_the_symmetric_distribution_below_the_grid():
    grid, symmetric = mpi.counts(nt=36, nb=100, ranks=(16,))
    assert grid["messages"] < grid["formula"] == 36**2 // 2 * 6
    assert symmetric["ranks"] == 15
    assert symmetric["messages"] < 0.8 * grid["messages"]
    assert grid["gigabytes"] == pytest.approx(grid["messages"] * 8e-5)


def test_weak_scaling_keeps_the_share_of_a_rank():
    records = mpi.counts(nt=24, nb=100, ranks=(4, 16), scaling="weak")
    assert [(r["ranks"], r["nt"]) for r in records] == [(4, 12), (3, 12), (16, 24), (15, 24)]


def test_command_prints_rates_costs_and_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(mpi.counts, "__defaults__", ((16,), "strong"))
    monkeypatch.setattr(mpi, "tuned", no_scalapack)
    arguments = ["--n", "300", "--repeat", "1", "--nt", "12", "--json"]
    arguments += ["--plot", str(tmp_path / "sent.svg"), "--output", str(tmp_path / "mpi.jsonl")]
    result = CliRunner().invoke(mpi.command, arguments)
    assert result.exit_code == 0, result.output
    printed = [json.loads(line) for line in result.output.splitlines()]
    assert [r.get("contender") or r.get("what") or r["distribution"] for r in printed] == [
        "2 threads",
        "2 ranks",
        "2 ranks in place",
        "pdpotrf, 2 ranks",
        "start of 4 ranks",
        "call, n = 64",
        "block-cyclic 4 x 4",
        "symmetric, r = 6",
        "block-cyclic 4 x 4",
        "symmetric, r = 6",
    ]
    assert all(r["gflops"] > 0 for r in printed[:3])
    assert printed[3]["error"] == "no ScaLAPACK to compare with: it is not here"
    assert len((tmp_path / "mpi.jsonl").read_text().splitlines()) == 10
    assert (tmp_path / "sent.svg").read_text().startswith("<?xml")


def no_scalapack(n, rounds, routine):
    raise UnavailableError("it is not here")


class FakeScaLAPACK:
    nb, logical, ratio = 64, 32, float("nan")

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.ratio = 0.01

    def factor(self):
        return 0.5


def test_our_rate_is_compared_with_that_of_scalapack_and_its_factor_is_checked(monkeypatch):
    assert [(name, job.rival, job.flops) for name, job in mpi.JOBS.items()] == [
        ("cholesky", "pdpotrf", 1 / 3),
        ("lu", "pdgetrf", 2 / 3),
    ]
    monkeypatch.setattr(mpi, "tuned", lambda n, rounds, routine: FakeScaLAPACK() if routine == "pdgetrf" else None)
    records = {r["contender"]: r for r in mpi.rates(200, repeat=1, routine="lu")}
    theirs = records["pdgetrf, 2 ranks"]
    assert theirs["gflops"] == pytest.approx(2 / 3 * 200**3 / 0.5 / 1e9)
    assert theirs["ours_over_this"] == pytest.approx(records[mpi.IN_PLACE]["gflops"] / theirs["gflops"])
    assert (theirs["passed"], theirs["nb"], theirs["pblas_nb"]) == (True, 64, 32)


def test_counts_alone_run_nothing(monkeypatch):
    monkeypatch.setattr(mpi.counts, "__defaults__", ((16,), "strong"))
    monkeypatch.setattr(mpi, "rates", None)
    monkeypatch.setattr(mpi, "overhead", None)
    result = CliRunner().invoke(mpi.command, ["--counts", "--nt", "12", "--json"])
    assert result.exit_code == 0, result.output
    assert [json.loads(line)["messages"] for line in result.output.splitlines()] == [332, 286] * 2
