"""What holds of all modules: engines, policies and messages are asked for facts, tasks get groups, pages name what is.

`tests/test_floors.py` reads the imports.
"""

import ast
import importlib
import importlib.util
import re
from pathlib import Path

import pytest

from tilewright.backends import BACKENDS

ROOT = Path(__file__).parent.parent
EXAMPLES = {"runtime/x.py", "tilewright.x", "kernels/getxyz.py"}
"""Names that stand for any."""
PAGES = ("docs/design.md", "docs/extending.md")
FOLDERS = ("runtime", "kernels", "schedulers")


def texts():
    """Path from the top: the text of each module."""
    paths = (path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py")))
    return {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in paths}


TEXTS = texts()


def compared_names(text):
    """(line, what) of comparisons with the name of an engine: ``backend == "mpi"``, ``name in ("mpi", "dask")``."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Compare):
            constants = {
                part.value for side in node.comparators for part in ast.walk(side) if type(part) is ast.Constant
            }
            if constants & set(BACKENDS):
                found.append((node.lineno, ast.unparse(node)))
    return sorted(found)


ALLOWED = {
    # where a dask.array goes to its own engine unless the caller named another
    ("runtime/linalg/call.py", "backend not in (None, 'dask')")
}


def test_nobody_asks_for_the_name_of_an_engine_where_there_is_a_fact():
    found = {(path, what) for path, text in TEXTS.items() for _, what in compared_names(text)}
    assert found - ALLOWED == set()


def test_a_comparison_of_names_is_found():
    assert [line for line, _ in compared_names('if x:\n    y = backend == "mpi"\nz = kind in ("a", "dask")')] == [2, 3]
    assert compared_names('if backend == "else" or name not in known: pass') == []


def asked_policies(text):
    """Lines that ask a policy for what it may not have."""
    calls = (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call))
    names = ("policy", "scheduler")
    return [
        node.lineno
        for node in calls
        if isinstance(node.func, ast.Name) and node.func.id in ("getattr", "hasattr")
        if any(part.id in names for part in ast.walk(node.args[0]) if isinstance(part, ast.Name))
    ]


def decoders(text):
    """(function, line) where a function takes its ``*arguments`` apart by place instead of having them by name."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef) and node.args.vararg:
            rest = node.args.vararg.arg
            for part in ast.walk(node):
                by_place = isinstance(part, ast.Subscript) and part.value
                unpacked = isinstance(part, ast.Assign) and type(part.targets[0]) is ast.Tuple and part.value
                if any(type(value) is ast.Name and value.id == rest for value in (by_place, unpacked)):
                    found.add((node.name, part.lineno))
    return found


WRAPPERS = {"insert", "by_rows", "on_copies"}
"""They hand on what they are given: two graphs whose accesses come first, and what calls a kernel on other tiles."""


def test_no_task_finds_out_what_its_arguments_are():
    """A task over as many tiles as there are gets a list of them: a group."""
    found = {(path, *what) for path, text in TEXTS.items() for what in decoders(text)}
    assert {what for what in found if what[1] not in WRAPPERS} == set()


def test_a_function_that_takes_its_arguments_apart_is_found():
    text = (
        "def f(*rest):\n    *a, b = rest\n    return a[0]\ndef g(*x):\n    return x[0] + sum(x)\ndef h(*x):\n    y = x"
    )
    assert decoders(text) == {("f", 2), ("g", 5)}


def classes():
    """By name of a class that other modules may use, the modules that have one."""
    found = {}
    for path, text in TEXTS.items():
        for node in ast.parse(text).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found.setdefault(node.name, []).append(path)
    return found


ROWS_AND_RULES = {"Row", "Rule"}  # of a table, here and there
A_POLICY = {"CriticalPath"}  # named as what it looks at
FOR_CHECKERS = {"Engines", "OnDisk", "Options"}  # the kinds of keywords that only a type checker reads
LEFT = {"Outline", "Value"}  # of a picture and of a room; of a program and of a loop


def test_a_word_has_one_meaning():
    several = {name: paths for name, paths in classes().items() if len(paths) > 1}
    assert several.keys() == ROWS_AND_RULES | A_POLICY | FOR_CHECKERS | LEFT, several


def noun_missing(text):
    """Lines of strings, which document what stands above them, that begin with "Of": of what there is no noun."""
    strings = (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Constant) and type(node.value) is str)
    return [node.lineno for node in strings if re.match(r"Of [a-z`|(A-Z]", node.value.strip())]


def test_documentation_says_of_what_it_speaks():
    assert {(path, line) for path, text in TEXTS.items() for line in noun_missing(text)} == set()
    assert noun_missing('x = 1\n"""Of the matrix."""\ny = f(help="Of lu.")\n"""The rows of A."""') == [2, 3]


def assigned_facts(text):
    """Lines that say of a graph what its builder says: its recipe, closed form and extents."""
    facts = ("recipe", "closed_form", "extents")
    return [
        node.lineno
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Assign) and any(type(to) is ast.Attribute and to.attr in facts for to in node.targets)
        if not any(type(to) is ast.Attribute and ast.unparse(to.value) == "self" for to in node.targets)
    ]


def test_what_is_known_of_a_graph_is_said_where_it_is_built():
    """By `graph_builder`, or by a pass, which makes a graph of another one."""
    said = {path for path, text in TEXTS.items() if assigned_facts(text)}
    passes = {"runtime/graph/task_graph.py", "runtime/linalg/finals.py"} | {p for p in said if "/passes/" in p}
    assert said - passes == {"runtime/builder.py"}
    assert assigned_facts("g.recipe = f, ()\nself.recipe = 1\nx.closed_form = None") == [1, 3]


def test_policies_are_not_asked_for_what_they_may_not_have():
    """`BasePolicy` has the defaults; what a user's object has of them is looked up in one place."""
    assert {path for path, text in TEXTS.items() if asked_policies(text)} == {"schedulers/base.py"}
    assert asked_policies('x = getattr(policy, "fork", None)\ny = getattr(other, "policy")') == [1]


def named_paths(page):
    """Files and folders in backticks: `runtime/x.py`, `tests/kernels/`."""
    return sorted(set(re.findall(r"`((?:runtime|kernels|schedulers|benchmarks|tests|docs)/[\w./*-]*)`", page)))


def named_objects(page):
    """Dotted names in backticks or imports: `tilewright.kernels.register(...)`."""
    found = re.findall(r"`(tilewright(?:\.\w+)+)", page)
    for module, names in re.findall(r"^from (tilewright[\w.]*) import ([\w, ]+)$", page, re.M):
        found += [f"{module}.{name.strip()}" for name in names.split(",")]
    return sorted(set(found))


def resolved(name):
    """Whether an importable thing has this name."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        module = ".".join(parts[:count])
        try:
            found = importlib.util.find_spec(module)
        except ModuleNotFoundError:
            found = None
        if found is not None:
            value = importlib.import_module(module)
            for attribute in parts[count:]:
                if not hasattr(value, attribute):
                    return False
                value = getattr(value, attribute)
            return True
    return False


@pytest.mark.parametrize("page", PAGES)
def test_pages_of_the_house_name_what_there_is(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    short = re.findall(r"`((?:kernels|backends|schedulers|linalg)/\w+\.py)`", text)  # in runtime/, or at the top
    paths = [path for path in named_paths(text) if path not in EXAMPLES]
    missing = [path for path in paths if not (ROOT / path).exists() and not (ROOT / "runtime" / path).exists()]
    missing += [path for path in short if not any((ROOT / top / path).exists() for top in (".", "runtime"))]
    assert [path for path in missing if path not in EXAMPLES] == []
    rooms = [f"tilewright.{name}" for name in re.findall(r"`((?:linalg|backends|runs|passes)(?:\.[a-z_]+)*)`", text)]
    assert [name for name in (*named_objects(text), *rooms) if name not in EXAMPLES and not resolved(name)] == []
    links = re.findall(r"\]\(([\w/.-]+\.md)(?:#[\w-]+)?\)", text)
    assert links and [link for link in links if not (ROOT / "docs" / link).exists()] == []


def test_a_name_that_is_not_is_found():
    assert not resolved("tilewright.backends.execution.engine.Motor") and resolved("tilewright.schedulers.BasePolicy")
    assert named_objects("`tilewright.a.b(x)` and\nfrom tilewright.c import d, e\n") == [
        "tilewright.a.b", "tilewright.c.d", "tilewright.c.e"
    ]  # fmt: skip
