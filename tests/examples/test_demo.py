"""The demo, on small matrices."""

import importlib.util
import json
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from tilewright.extras import brings

DEMO = Path(__file__).parents[2] / "examples" / "demo.py"


@pytest.fixture
def demo():
    spec = importlib.util.spec_from_file_location("demo", DEMO)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_demo_compares_and_writes_pictures(demo, tmp_path):
    result = CliRunner().invoke(demo.main, ["--n", "600", "--rounds", "1", "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert "digits, n = 1797" in result.stdout and "random, n = 600" in result.stdout
    assert result.stdout.count("PASS") == 2
    for name in ("digits", "random"):
        assert ET.parse(tmp_path / "out" / f"{name}-dag.svg").getroot().tag.endswith("svg")
        assert json.loads((tmp_path / "out" / f"{name}-trace.json").read_text())["traceEvents"]
        assert (tmp_path / "out" / f"{name}-gantt.png").read_bytes().startswith(b"\x89PNG")
        assert f"{name}-dag.svg" in result.stdout.replace("\n", "")


def test_without_scikit_learn_the_demo_says_how_to_install_it(demo, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    result = CliRunner().invoke(demo.main, ["--n", "50", "--rounds", "1", "--out", str(tmp_path)])
    assert result.exit_code == 1
    assert brings("demo") in result.stderr


def test_without_matplotlib_the_demo_writes_the_rest(demo, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr(demo, "digits_covariance", lambda: np.eye(60))
    result = CliRunner().invoke(demo.main, ["--n", "50", "--rounds", "1", "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert result.stdout.count("not written: a Gantt chart needs matplotlib") == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "digits-dag.svg",
        "digits-trace.json",
        "random-dag.svg",
        "random-trace.json",
    ]
