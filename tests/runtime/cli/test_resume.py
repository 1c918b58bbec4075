"""``tilewright resume``: a factorisation from a file to a file goes on."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from matrices import random_matrix

import tilewright as tw
from tilewright import cli
from tilewright.storage.checkpoint import Checkpoint


class Stopped(Exception):
    pass


@pytest.fixture
def stopped(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("a.npy", random_matrix(100, 100))
    add = Checkpoint.add

    def stop(self, panel, *args, **what):
        if panel == 2:
            raise Stopped
        add(self, panel, *args, **what)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "add", stop)
        for a, folder in (("a.npy", "run"), (np.load("a.npy"), "other")):
            with pytest.raises(Stopped):
                tw.lu_factor(a, out="f.npy", checkpoint=folder, tile_size=20)


def call(*args):
    return CliRunner().invoke(cli.main, [str(arg) for arg in args], catch_exceptions=False)


def test_it_goes_on_with_the_same_words_from_anywhere(stopped, tmp_path, monkeypatch):
    monkeypatch.chdir("/")
    result = call("resume", tmp_path / "run", "--memory", "4MB", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["routine"] == "lu_factor"
    wanted = tw.lu_factor(np.load(tmp_path / "a.npy"), tile_size=20, update="tile").lu
    assert np.array_equal(np.load(tmp_path / "f.npy"), wanted)


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
