"""What a message about a missing package says to type."""

import importlib.metadata
import json
import os
import re
import shlex
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tilewright import extras

ROOT = Path(__file__).parent.parent.parent
OPTIONAL = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
NAMED = {"sklearn": "scikit-learn", "PIL": "pillow"}
"""Distributions that are called otherwise than the module."""


def brought(extra):
    """Distributions that an extra asks for, by way of other extras too."""
    found = set()
    for line in OPTIONAL[extra]:
        requirement = Requirement(line)
        if requirement.name == "tilewright":
            found |= {name for inner in requirement.extras for name in brought(inner)}
        else:
            found |= {requirement.name, *({"bokeh"} if "diagnostics" in requirement.extras else ())}
    return found


@pytest.fixture
def origin(monkeypatch):
    """Pretend that pip noted this down, or nothing, where it installed tilewright; the Python is that of the path."""

    def pretend(text):
        class Distribution:
            def read_text(self, name):
                return text if name == "direct_url.json" else None

        monkeypatch.setattr(importlib.metadata, "distributions", lambda name: [Distribution()])

    monkeypatch.setenv("PATH", os.path.dirname(sys.executable), prepend=os.pathsep)
    return pretend


def words(folder, editable, extra="mpi"):
    """The words of the command where it was installed from a folder."""
    return ["python", "-m", "pip", "install", *["-e"] * editable, f"{folder}[{extra}]"]


@pytest.mark.parametrize("module", extras.EXTRAS)
def test_the_extra_of_a_module_brings_it(module):
    assert NAMED.get(module, module) in brought(extras.EXTRAS[module])


@pytest.mark.parametrize("editable", [True, False])
def test_from_a_checkout_the_command_names_its_folder(origin, tmp_path, editable):
    folder = tmp_path / "my clone's"
    folder.mkdir()
    origin(json.dumps({"url": folder.as_uri(), "dir_info": {"editable": True} if editable else {}}))
    assert shlex.split(extras.command("mpi")) == words(folder, editable)
    assert extras.brings("mpi") == f"{extras.command('mpi')} brings it"


def test_from_a_file_or_a_repository_the_command_names_it(origin, tmp_path):
    wheel = tmp_path / "tilewright.whl"
    wheel.touch()
    origin(json.dumps({"url": wheel.as_uri(), "archive_info": {}}))
    assert shlex.split(extras.command("mpi"))[-1] == f"tilewright[mpi] @ {wheel.as_uri()}"
    origin(json.dumps({"url": "https://git.example/t", "vcs_info": {"vcs": "git", "commit_id": "abc"}}))
    assert shlex.split(extras.command("mpi"))[-1] == "tilewright[mpi] @ git+https://git.example/t@abc"


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "{",
        "[]",
        "{}",
        '{"url": "file:///no/such/folder", "dir_info": {"editable": true}}',
        '{"url": "file:///no/such/file.whl", "archive_info": {}}',
    ],
)
def test_where_nothing_is_there_to_install_from_an_index_is_asked(origin, text):
    origin(text)
    assert extras.command("mpi") == "python -m pip install 'tilewright[mpi]'"


def test_where_python_is_another_one_or_none_the_command_has_the_path_of_this_one(origin, tmp_path, monkeypatch):
    origin(None)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert shlex.split(extras.command("plot"))[0] == sys.executable


def test_what_lies_in_the_current_folder_is_named_from_there(origin, tmp_path, monkeypatch):
    (tmp_path / "clone").mkdir()
    origin(json.dumps({"url": (tmp_path / "clone").as_uri(), "dir_info": {"editable": True}}))
    monkeypatch.chdir(tmp_path)
    assert extras.command("mpi") == "python -m pip install -e './clone[mpi]'"
    monkeypatch.chdir("clone")
    assert extras.command("mpi") == "python -m pip install -e '.[mpi]'"


def test_where_there_is_no_pip_the_command_is_that_of_uv(origin, monkeypatch):
    origin(None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert extras.pip("pyamg") == "uv pip install pyamg"


def test_no_message_has_a_command_of_its_own():
    rooms = ("runtime", "kernels", "schedulers", "benchmarks", "examples")
    files = [file for room in rooms for file in (ROOT / room).rglob("*.py") if file.name != "extras.py"]
    assert len(files) > 300
    assert [str(file) for file in files if re.search(r"pip install", file.read_text(encoding="utf-8"))] == []
