"""Libraries against each other: who is measured, and who wins."""

import json

import pytest
from click.testing import CliRunner

from tilewright.cli import main
from tilewright.kernels import blas, choice, contest, cpu, preference, steady
from tilewright.kernels.contest import Entry


@pytest.fixture
def own_cache(monkeypatch, tmp_path, restore_blas):
    monkeypatch.setenv("TILEWRIGHT_CACHE", str(tmp_path))
    monkeypatch.delenv(choice.VARIABLE, raising=False)
    preference.stored.cache_clear()
    choice.use(None)
    yield tmp_path
    monkeypatch.undo()
    preference.stored.cache_clear()


def test_every_op_of_every_library_is_timed():
    entries = contest.contest("d", tile_size=16, repeat=1)
    here = {name for name, found in blas.available().items() if isinstance(found, blas.Library)}
    assert {(e.op, e.library) for e in entries} == {(op, name) for op in steady.OPERANDS for name in here}
    assert all(e.gflops > 0 for e in entries)


def test_another_library_takes_over_where_it_is_clearly_faster(monkeypatch):
    monkeypatch.setenv(cpu.VARIABLE, "amd")  # openblas, mkl, torch
    entries = [
        Entry("gemm", "d", "torch", 40.0), Entry("gemm", "d", "openblas", 39.5),
        Entry("hemm", "s", "torch", 12.0), Entry("hemm", "s", "openblas", 10.0),
        Entry("trsm", "d", "torch", 30.0), Entry("trsm", "d", "openblas", 60.0),
    ]  # fmt: skip
    assert contest.winners(entries) == {"shemm": "torch", "shemmd": "torch"}


def test_the_command_keeps_the_winners_and_forgets_them(own_cache, monkeypatch):
    order = choice.rule("gemm", "d", cpu.vendor()).order
    here = [name for name in order if isinstance(blas.available()[name], blas.Library)]
    entries = [Entry("gemm", "d", name, rate) for rate, name in enumerate(here, 1)]
    monkeypatch.setattr(contest, "contest", lambda **_: entries)
    found = CliRunner().invoke(main, ["calibrate", "--blas", "--json"])
    assert found.exit_code == 0, found.output
    kept = json.loads(found.output)["preference"]
    assert kept == ({"dgemm": here[-1]} if len(here) > 1 else {})
    choice.use(None)
    assert choice.current().name == here[-1]
    assert "dgemm" in CliRunner().invoke(main, ["calibrate", "--blas"]).output
    assert CliRunner().invoke(main, ["calibrate", "--blas", "--forget"]).output == "The rules hold again.\n"
    choice.use(None)
    assert choice.current().name == here[0]


def test_forget_alone_is_refused():
    found = CliRunner().invoke(main, ["calibrate", "--forget"])
    assert found.exit_code == 2
    assert "--forget goes with --blas" in found.output
