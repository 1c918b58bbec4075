"""The reference: every public name is in it, documents its parameters and has an example (`test_doctests` runs them)."""

import ast
import dataclasses
import functools
import importlib.util
import inspect
import itertools
import re
import textwrap
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
if importlib.util.find_spec("torch"):
    from tilewright import training

    ROOMS |= {
        "tilewright.training": training,
        "tilewright.training.data": training.data,
        "tilewright.training.models": training.models,
    }

# What the library makes and nobody calls says what its fields are, and not how it is made.
MADE_HERE = {"CriticalPath", "LUFactor", "Message", "MessageRecord", "Plan", "Prepared", "QRFactor", "Run", "SolveInfo"}
MADE_HERE |= {"Task", "TaskRecord", "Bounds", "Expression", "TiledMatrix", "Access", "Op"}
MADE_HERE |= {"Comparison", "Event", "Result"}

PUBLIC = [
    pytest.param(name, getattr(module, name), id=f"{room}.{name}")
    for room, module in ROOMS.items()
    for name in module.__all__
    if inspect.isfunction(getattr(module, name)) or inspect.isclass(getattr(module, name))
]
CALLS = [
    case
    for case in PUBLIC
    if case.values[0] not in MADE_HERE
    and case.values[1] not in (tw.Distribution, tw.Policy)  # protocols
    and not (inspect.isclass(case.values[1]) and issubclass(case.values[1], Exception))
]


def test_calls_that_name_no_engine_have_the_same_one():
    """None, which `tilewright.run` explains; a comparison of policies is a simulation unless the caller has data."""
    defaults = {
        case.values[0]: found.default
        for case in CALLS
        if (found := inspect.signature(case.values[1]).parameters.get("backend")) is not None
        and found.default is not found.empty
    }
    some = {"run", "prepare", "solve", "cho_solve", "SparseOperator", *["fit"] * ("tilewright.training" in ROOMS)}
    assert some <= defaults.keys() and len(defaults) > 25
    assert {name: value for name, value in defaults.items() if value is not None} == {"compare_schedulers": "simulate"}
    assert tw.run(tw.cholesky_graph(nt=1), {"A": tw.TiledMatrix.view(np.eye(2), 2)}).backend == "threads"


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
    assert "\nExamples\n--------\n>>> " in (inspect.getdoc(thing) or "")


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


def below(thing):
    """Names with a string below them in the body of a class or of its __init__."""
    found = set()
    for part in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(thing)))):
        if isinstance(part, ast.ClassDef | ast.FunctionDef):
            for line, after in itertools.pairwise(part.body):
                says = isinstance(after, ast.Expr) and isinstance(getattr(after.value, "value", None), str)
                for target in getattr(line, "targets", [getattr(line, "target", None)]) if says else ():
                    found.add(getattr(target, "id", getattr(target, "attr", "")))
    return found


PROPERTIES = (property, functools.cached_property)


def fields(thing):
    """Data of a class, its own and inherited from ours: fields, slots, annotations, properties without a docstring."""
    ours = [kind for kind in thing.__mro__ if kind.__module__.startswith("tilewright.")]
    if dataclasses.is_dataclass(thing):
        yield from (field.name for field in dataclasses.fields(thing))
    for kind in ours:
        yield from inspect.get_annotations(kind)
        yield from kind.__dict__.get("__slots__", ())
        yield from (name for name, value in vars(kind).items() if isinstance(value, PROPERTIES) and not value.__doc__)


MADE = [case for case in PUBLIC if case.values[0] in MADE_HERE]


@pytest.mark.parametrize(("name", "thing"), MADE)
def test_what_is_only_made_here_says_what_each_of_its_fields_is(name, thing):
    said = documented(thing).union(
        *(below(kind) for kind in thing.__mro__ if kind.__module__.startswith("tilewright."))
    )
    assert {field for field in fields(thing) if not field.startswith("_")} - said == set()


def test_the_walk_finds_a_field_that_says_nothing():
    assert "index" in below(tw.Task)
    assert {"index", "params"} <= set(fields(tw.Task))
    assert "worker" in fields(tw.TaskRecord)
    assert "label" not in below(tw.Task)


def test_every_name_that_is_excused_from_documenting_parameters_is_public():
    assert {case.values[0] for case in MADE} == MADE_HERE


def test_machine_says_what_each_of_its_fields_is_in_help():
    assert documented(tw.Machine) >= set(inspect.signature(tw.Machine).parameters)
    assert np.isfinite(tw.Machine().alpha)
