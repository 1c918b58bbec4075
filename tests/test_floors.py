"""The house stands as docs/design.md says: no module imports from a floor above its own, and no imports run in circles.

Every import is read, those inside functions too. Left out is what stands under ``if TYPE_CHECKING:``, which never runs;
but not in ``tilewright`` itself, which imports what stands there when it is used.
"""

import ast
import importlib
import re
from pathlib import Path

import networkx as nx
import pytest

from tilewright.door import DOOR, upstairs

ROOT = Path(__file__).parent.parent
DESIGN = ROOT / "docs/design.md"
FOLDERS = {"runtime": "", "kernels": "kernels.", "schedulers": "schedulers.", "benchmarks": "benchmarks."}
ROW = re.compile(r"^\| `([a-z_.]+)` \|", re.M)
PICTURE = re.compile(r"```mermaid\nflowchart BT\n(.*?)```", re.S)


def floors():
    """Rooms from the ground up: the first column of the table in docs/design.md."""
    table = DESIGN.read_text(encoding="utf-8").split("## Rooms", 1)[1].split("\n## ", 1)[0]
    return ROW.findall(table)


def modules():
    """Name without ``tilewright.``: the text of the module. The package itself is ``tilewright``."""
    found = {}
    for folder, prefix in FOLDERS.items():
        for path in sorted(path for path in (ROOT / folder).rglob("*.py") if path.name != "__main__.py"):
            name = prefix + ".".join(path.relative_to(ROOT / folder).with_suffix("").parts)
            found[name.removesuffix("__init__").rstrip(".") or "tilewright"] = path.read_text(encoding="utf-8")
    return found


def imports(text, known, lazily=False):
    """The modules of the project that this text imports, wherever it does."""
    found = set()

    def look(node):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING" and not lazily:
            return
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            names = []
        for name in names:
            if name == "tilewright" or name.startswith("tilewright."):
                inner = name.removeprefix("tilewright").lstrip(".")
                while inner and inner not in known:
                    inner = inner.rpartition(".")[0]
                found.add(inner or "tilewright")
        for child in ast.iter_child_nodes(node):
            look(child)

    look(ast.parse(text))
    return found


def arrows(texts):
    """(module, module it imports) of all modules."""
    return {
        (name, other)
        for name, text in texts.items()
        for other in imports(text, texts, name == "tilewright")
        if other != name
    }


def room(module, table):
    """The room of a module: the longest row that is a prefix of its name."""
    fitting = [row for row in table if module == row or module.startswith(row + ".")]
    return max(fitting, key=len, default=None)


def upward(pairs, table):
    """The imports that run upward, ``a imports b``."""
    height = {name: floor for floor, name in enumerate(table)}
    return [f"{a} imports {b}" for a, b in sorted(pairs) if height[room(a, table)] < height[room(b, table)]]


def circles(pairs):
    """The sets of modules that import each other in circles."""
    return [sorted(part) for part in nx.strongly_connected_components(nx.DiGraph(pairs)) if len(part) > 1]


TEXTS = modules()
ARROWS = arrows(TEXTS)


def test_every_module_has_a_room_and_every_room_modules():
    table = floors()
    assert len(table) == len(set(table))
    assert [name for name in TEXTS if room(name, table) is None] == []
    assert [row for row in table if row not in {room(name, table) for name in TEXTS}] == []


def test_no_import_runs_upward():
    assert upward(ARROWS, floors()) == []


def test_no_imports_run_in_circles():
    assert circles(ARROWS) == []


@pytest.mark.parametrize(
    "line",
    ["import tilewright.engine", "def f():\n    from tilewright.plot import dag"],
    ids=["at the top", "in a function"],
)
def test_an_import_from_above_is_found(line):
    pairs = arrows({**TEXTS, "graph": TEXTS["graph"] + "\n" + line})
    assert len(upward(pairs, floors())) == 1
    assert circles(pairs)


def test_a_circle_within_a_room_is_found():
    pairs = arrows({**TEXTS, "runs.trace": TEXTS["runs.trace"] + "\nfrom tilewright.runs import run"})
    assert upward(pairs, floors()) == []
    assert any({"runs.trace", "runs.run"} <= set(circle) for circle in circles(pairs))


def test_what_only_a_type_checker_reads_is_no_import():
    assert imports("if TYPE_CHECKING:\n    from tilewright.engine import run", TEXTS) == set()


def test_everything_behind_the_door_is_there_and_above_those_who_ask():
    table = floors()
    height = {name: floor for floor, name in enumerate(table)}
    asked = {(name, word) for name, text in TEXTS.items() for word in re.findall(r'upstairs\("([\w.:]+)"\)', text)}
    assert {word for _, word in asked} == DOOR
    for name, word in asked:
        module, attribute = word.split(":")
        assert hasattr(importlib.import_module(f"tilewright.{module}"), attribute)
        assert height[room(module, table)] >= height[room(name, table)], f"{name} need not ask the door for {word}"
    with pytest.raises(KeyError, match="not in the table"):
        upstairs("plot.dag:layered")


def picture():
    """One arrow from each room to each that it stands on, where no other room is between."""
    table = floors()
    pairs = {(room(a, table), room(b, table)) for a, b in ARROWS}
    graph = nx.transitive_reduction(nx.DiGraph((a, b) for a, b in pairs if a != b))
    return "".join(f"  {a} --> {b}\n" for a, b in sorted(graph.edges))


def test_the_picture_of_the_rooms_is_true():
    drawn = PICTURE.search(DESIGN.read_text(encoding="utf-8"))
    assert drawn and drawn[1] == picture(), "python tests/test_floors.py draws it anew"


if __name__ == "__main__":
    text = DESIGN.read_text(encoding="utf-8")
    DESIGN.write_text(PICTURE.sub(f"```mermaid\nflowchart BT\n{picture()}```", text), encoding="utf-8")
