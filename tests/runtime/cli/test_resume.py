"""``tilewright resume``: a factorisation from a file to a file goes on."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from matrices import po_matrix, random_matrix

import tilewright as tw
from tilewright import cli
from tilewright.storage import parts
from tilewright.storage.checkpoint import Checkpoint


class Stopped(Exception):
    pass


def stop(monkeypatch, routine, a, **how):
    """Begin a run that ends where its third panel would be kept."""
    add = Checkpoint.add

    def two(self, panel, *args, **what):
        if panel == 2:
            raise Stopped
        add(self, panel, *args, **what)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "add", two)
        with pytest.raises(Stopped):
            routine(a, out="f.npy", tile_size=20, **how)


@pytest.fixture
def stopped(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("a.npy", random_matrix(100, 100))
    for a, folder in (("a.npy", "run"), (np.load("a.npy"), "other")):
        stop(monkeypatch, tw.lu_factor, a, checkpoint=folder)


def call(*args):
    return CliRunner().invoke(cli.main, [str(arg) for arg in args], catch_exceptions=False)


def test_it_goes_on_with_the_same_words_from_anywhere(stopped, tmp_path, monkeypatch):
    monkeypatch.chdir("/")
    result = call("resume", tmp_path / "run", "--memory", "4MB", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["routine"] == "lu_factor"
    wanted = tw.lu_factor(np.load(tmp_path / "a.npy"), tile_size=20, update="tile").lu
    assert np.array_equal(np.load(tmp_path / "f.npy"), wanted)


ROUTINES = {
    "tiled_cholesky": (po_matrix(2, 60), {}, ".npy", lambda factor: [factor]),
    "lu_factor": (random_matrix(60, 60), {"pivoting": "tournament"}, ".npz", lambda factor: [factor.lu, factor.piv]),
    "qr": (random_matrix(60, 60), {"tree": ("hierarchical", 2, "greedy", "greedy")}, ".npz", list),
    "qr_factor": (random_matrix(60, 60), {"tree": "flat"}, ".npz", lambda factor: [factor.explicit(), factor.R]),
}


@pytest.mark.parametrize("routine", ROUTINES)
def test_a_run_in_core_goes_on_and_its_factor_goes_to_a_file(routine, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    a, how, suffix, numbers = ROUTINES[routine]
    np.save("a.npy", a)
    keep = parts.keep

    def stop(folder, run, handles, *args, **what):
        if any(handle.name == "A" and handle.index[1] == 2 for handle in handles):
            raise Stopped
        keep(folder, run, handles, *args, **what)

    with monkeypatch.context() as patch:
        patch.setattr(parts, "keep", stop)
        for given, folder in ((np.load("a.npy", mmap_mode="r"), "run"), (a, "other")):
            with pytest.raises(Stopped):
                getattr(tw, routine)(given, checkpoint=folder, tile_size=20, **how)
    out = f"factor{suffix}"
    result = call("resume", "run", "--out", out, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) | {"tasks": 0, "seconds": 0, "memory": 0} == {
        "out": out, "routine": routine, "tasks": 0, "seconds": 0, "memory": 0,
    }  # fmt: skip
    found = np.load(out)
    found = [found] if suffix == ".npy" else [found[name] for name in found]
    wanted = numbers(getattr(tw, routine)(a, tile_size=20, **how))
    assert all(np.array_equal(one, other) for one, other in zip(found, wanted, strict=True))
    result = call("resume", "other", "--out", out)
    assert result.exit_code == 2 and "was an array; name a file that has it: --matrix A.npy" in result.output
    result = call("resume", "run", "--out", "factor.txt")
    assert result.exit_code == 2 and f"one that ends in {suffix}" in result.output
    result = call("resume", "other", "--out", out, "--matrix", "a.npy", "--backend", "serial", "--workers", "1")
    assert result.exit_code == 0 and "2 of 3 block columns were in other" in result.output


def test_words_of_runs_in_core_are_refused_for_others(stopped):
    result = call("resume", "run", "--matrix", "a.npy")
    assert (
        result.exit_code == 2
        and "--matrix is for runs in core; the run in run goes from a file to a file" in result.output
    )


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("other", "the matrix of the run in other was not in a file"),
        (".", "has no checkpoint"),
        ("no", "does not exist"),
    ],
)
def test_what_cannot_go_on_is_one_sentence(stopped, folder, message):
    result = call("resume", folder)
    assert result.exit_code == 2 and message in result.output and "Traceback" not in result.output


@pytest.mark.parametrize("routine", ["lu_factor", "tiled_cholesky"])
def test_a_checkpoint_alone_does_not_say_which_file_may_be_replaced(routine, tmp_path, monkeypatch):
    """Its folder may come from a stranger, with the name of a file that is dear to whoever resumes it."""
    monkeypatch.chdir(tmp_path)
    np.save("a.npy", po_matrix(2, 100))
    np.save("f.npy", np.arange(5))
    stop(monkeypatch, getattr(tw, routine), "a.npy", checkpoint="run", overwrite_out=True)
    result = call("resume", "run")
    assert result.exit_code == 2 and "the run in run replaces a file: " in result.output
    assert "f.npy exists; --overwrite-out replaces it" in " ".join(result.output.split())
    assert np.array_equal(np.load("f.npy"), np.arange(5))
    assert call("resume", "run", "--overwrite-out").exit_code == 0
    assert np.load("f.npy").shape == (100, 100)
