"""The examples in docstrings are true."""

import doctest
import importlib
import inspect
from pathlib import Path

import numpy as np
import pytest

import tilewright as tw
from tilewright.studies import calibration

ROOT = Path(__file__).parent.parent
ROOMS = {"runtime": "tilewright", "kernels": "tilewright.kernels", "schedulers": "tilewright.schedulers"}


def module_name(room, file):
    parts = file.relative_to(ROOT / room).with_suffix("").parts
    return ".".join([ROOMS[room], *(part for part in parts if part != "__init__")])


MODULES = sorted(
    module_name(room, file) for room in ROOMS for file in (ROOT / room).rglob("*.py") if ">>> " in file.read_text()
)


@pytest.mark.parametrize("name", MODULES)
def test_examples_of_the_docstrings_are_true(name):
    if ".mpi." in name:
        pytest.importorskip("mpi4py")
    with np.printoptions(legacy=False):
        failed, attempted = doctest.testmod(importlib.import_module(name))
    assert (failed, attempted > 0) == (0, True)


def parameters(function):
    """Names in the Parameters section of a docstring, in order."""
    section = inspect.getdoc(function).split("Parameters\n----------\n")[1].split("\n\n")[0]
    lines = [line for line in section.splitlines() if line and not line.startswith(" ")]
    return [name.strip() for line in lines for name in line.split(" : ")[0].split(",")]


@pytest.mark.parametrize(
    "function", [tw.run, tw.simulate, tw.compare_schedulers, calibration.calibrate], ids=lambda f: f.__name__
)
def test_docstrings_name_every_parameter_in_order(function):
    assert parameters(function) == list(inspect.signature(function).parameters)
