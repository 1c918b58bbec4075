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
    ("runtime/linalg/solve.py", "how['backend'] == 'threads'"),
    ("runtime/linalg/call.py", "backend not in (None, 'dask')"),
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
