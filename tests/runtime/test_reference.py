"""The reference: every public name is in it, documents its parameters and has an example (`test_doctests` runs them)."""

import inspect
import re
from pathlib import Path

import numpy as np
import pytest

import tilewright as tw

REFERENCE = Path(__file__).parent.parent.parent / "docs" / "reference"
ROOMS = {
    "tilewright": tw,
    "tilewright.comm": tw.comm,
    "tilewright.linalg": tw.linalg,
    "tilewright.backends.mpi": tw.mpi,
}

# What the library makes and nobody calls says what its fields are, and not how it is made.
MADE_HERE = {"CriticalPath", "LUFactor", "Message", "MessageRecord", "Plan", "Prepared", "QRFactor", "Run", "SolveInfo"}
MADE_HERE |= {"Task", "TaskRecord", "Bounds", "Expression", "TiledMatrix", "Access", "Op"}

# Their examples need ranks, files or minutes: the page of the topic has them.
WITHOUT_EXAMPLE = {"AccuracyError", "AccuracyWarning", "CheckpointError", "LaunchError", "LUFactor", "Pool", "QRFactor"}
WITHOUT_EXAMPLE |= {"RankDied", "SchedulerError", "SolveInfo", "WorkerDied"}

# Calls that say "see `lu_factor`", or have a word that is explained in a sentence.
ELSEWHERE = {"det", "slogdet", "inv", "qr_factor", "solve", "PrecisionMap", "Resident"}


PUBLIC = [
    pytest.param(name, getattr(module, name), id=f"{room}.{name}")
    for room, module in ROOMS.items()
    for name in module.__all__
    if inspect.isfunction(getattr(module, name)) or inspect.isclass(getattr(module, name))
]
CALLS = [
    case
    for case in PUBLIC
    if case.values[0] not in MADE_HERE | ELSEWHERE
    and case.values[1] not in (tw.Distribution, tw.Policy)  # protocols
    and not (inspect.isclass(case.values[1]) and issubclass(case.values[1], Exception))
]


def listed():
    """(room, name) of each line of an autosummary."""
    for page in REFERENCE.glob("*.rst"):
        room = ""
        for line in page.read_text(encoding="utf-8").splitlines():
            if found := re.match(r"\.\. currentmodule:: (\S+)", line):
                room = found[1]
            elif found := re.match(r"   (\w+)$", line):
                yield room, found[1]


def test_every_public_name_is_on_a_page_of_the_reference():
    pages = set(listed())
    rooms = ROOMS | {"tilewright.plot": tw.plot}
    assert [
        f"{room}.{name}"
        for room, module in rooms.items()
        for name in module.__all__
        if (room, name) not in pages and not inspect.ismodule(getattr(module, name))
    ] == []


@pytest.mark.parametrize(("name", "thing"), PUBLIC)
def test_a_public_name_has_an_example(name, thing):
    assert (">>> " in (inspect.getdoc(thing) or "")) != (name in WITHOUT_EXAMPLE)


def documented(thing):
    """Names in the sections of parameters and attributes."""
    found = set()
    for section in re.findall(r"(?:Parameters|Attributes)\n-{10}\n(.*?)(?:\n\n|\Z)", inspect.getdoc(thing), re.S):
        for line in section.splitlines():
            if line and not line.startswith(" "):
                found |= {word.strip().lstrip("*") for word in line.split(" : ")[0].split(",")}
    return found


@pytest.mark.parametrize(("name", "thing"), CALLS)
def test_a_public_call_documents_every_parameter(name, thing):
    assert set(inspect.signature(thing).parameters) - documented(thing) == set()


def test_machine_says_what_each_of_its_fields_is_in_help():
    assert documented(tw.Machine) >= set(inspect.signature(tw.Machine).parameters)
    assert np.isfinite(tw.Machine().alpha)
