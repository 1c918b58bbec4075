"""The examples in docstrings are true."""

import doctest
import importlib
from pathlib import Path

import numpy as np
import pytest

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
    with np.printoptions(legacy=False):
        failed, attempted = doctest.testmod(importlib.import_module(name))
    assert (failed, attempted > 0) == (0, True)
