"""What is installed, and what an import costs."""

import ast
import itertools
import json
import os
import pickle
import re
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest

import tilewright as tw

ROOT = Path(__file__).parent.parent
SETUP = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
HEAVY = ("torch", "dask", "distributed", "mpi4py", "matplotlib", "pandas", "networkx", "scipy")


def folders_of_packages():
    """Folders with an ``__init__.py``, as git or a user's build folder may hold more than the source."""
    rooms = [ROOT / top for top in sorted(set(SETUP["package-dir"].values()))]
    return {file.parent.relative_to(ROOT).as_posix() for room in rooms for file in room.rglob("__init__.py")}


def folder_of(package):
    """The folder of a package under ``package-dir``: the longest listed parent, then the rest of the name."""
    parts = package.split(".")
    for length in range(len(parts), 0, -1):
        top = SETUP["package-dir"].get(".".join(parts[:length]))
        if top is not None:
            return "/".join([top, *parts[length:]])
    return "/".join(parts)


def test_every_folder_with_an_init_is_a_listed_package_and_the_other_way_round():
    assert sorted(map(folder_of, SETUP["packages"])) == sorted(folders_of_packages())


def test_every_module_stands_in_a_package():
    folders = {file.parent for top in set(SETUP["package-dir"].values()) for file in (ROOT / top).rglob("*.py")}
    assert {folder.relative_to(ROOT).as_posix() for folder in folders} == folders_of_packages()


def test_package_says_that_it_is_typed():
    assert SETUP["package-data"]["tilewright"] == ["py.typed"]
    assert (ROOT / "runtime" / "py.typed").exists()


def test_version_is_that_of_the_distribution():
    assert tw.__version__ == version("tilewright")


def test_the_citation_names_this_version_and_licence():
    cited = dict(re.findall(r"^(version|license): (.*)$", (ROOT / "CITATION.cff").read_text(encoding="utf-8"), re.M))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert cited == {"version": project["version"], "license": project["license"]}


def test_public_names_exist_and_are_sorted_as_ruff_does():
    assert all(hasattr(tw, name) for name in tw.__all__)
    assert len(set(tw.__all__)) == len(tw.__all__)


def imported_for_type_checkers(module):
    """(module, name) of what stands under ``if TYPE_CHECKING:``."""
    tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
    blocks = [node for node in tree.body if isinstance(node, ast.If) and isinstance(node.test, ast.Name)]
    return {
        (line.module, alias.name)
        for block in blocks
        for line in block.body
        if isinstance(line, ast.ImportFrom)
        for alias in line.names
    }


def test_type_checkers_see_the_names_that_are_imported_when_they_are_used():
    lazily = {(f"tilewright.{home}", name) for home, names in tw._HOMES.items() for name in names.split()}
    rooms = {("tilewright", name) for name in ("comm", "linalg", "plot", "training")}
    assert lazily | rooms == imported_for_type_checkers(tw)
    assert {name for _, name in lazily | rooms} == {*tw.__all__, "training"}
    assert imported_for_type_checkers(tw.linalg) == {(home, name) for name, home in tw.linalg._PUBLIC.items()}


def test_names_of_engines_and_policies():
    assert tw.BACKENDS[:2] == ("serial", "threads")
    assert list(tw.SCHEDULERS)[:5] == ["eager", "lifo", "random", "critical-path", "lws"]


def test_oldest_versions_are_those_that_pyproject_allows():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    floors = dict(re.findall(r"^([\w-]+)(?:\[[\w,]+\])?>=([\d.]+)", "\n".join(itertools.chain(*groups)), re.M))
    oldest = dict(re.findall(r"^([\w-]+)==([\d.]+)", (ROOT / "oldest.txt").read_text(), re.M))
    assert {name for name in floors if name in oldest} == set(oldest)
    for name, tried in oldest.items():
        floor = floors[name]
        assert f"{tried}.".startswith(f"{floor}."), f"{name}: {tried} is tried, where pyproject.toml says {floor}"
    core = {re.match(r"[\w-]+", line)[0] for line in project["dependencies"]}
    assert core <= set(oldest)


def told(code, **more):
    """What a fresh process prints, read as JSON."""
    environment = os.environ | more
    return json.loads(subprocess.check_output([sys.executable, "-c", f"import json, sys; {code}"], env=environment))


def test_import_loads_no_other_library_and_no_other_module_of_ours():
    code = "before = set(sys.modules); import tilewright; new = set(sys.modules) - before;"
    code += "print(json.dumps([name for name in new if name.split('.')[0] not in sys.stdlib_module_names]))"
    assert told(code) == ["tilewright"]


@pytest.mark.parametrize(
    "code",
    [
        "import tilewright.kernels, tilewright.schedulers, tilewright.backends.threads, tilewright.backends.serial",
        "import tilewright as tw; len(tw.cholesky_graph(nt=4)); tw.cholesky_graph(4).critical_path()",
        "from tilewright import tiled_cholesky, solve, lu, qr, svd, run, Machine, BACKENDS",
    ],
    ids=["rooms", "graph", "calls"],
)
def test_what_needs_numpy_alone_loads_no_other_heavy_library(code):
    assert told(f"{code}\nprint(json.dumps(sorted(set({HEAVY}) & set(sys.modules))))") == []


def test_names_are_there_when_they_are_asked_for_by_whatever_way():
    code = """
import pickle
import tilewright as tw
assert set(tw.__all__) <= set(dir(tw)) and "__version__" in dir(tw)
from tilewright import mpi, plot
from tilewright import Machine as M
assert tw.Machine is M and pickle.loads(pickle.dumps(M)) is M
assert tw.schedulers.Eager and tw.ops and tw.distribution.near_square
found = []
for name in ("solv", "_private", "__wrapped__", "nothing.here"):
    try:
        getattr(tw, name)
    except AttributeError as error:
        found.append(str(error))
print(json.dumps(found))
"""
    assert told(code) == [
        f"module 'tilewright' has no attribute {name!r}" for name in ("solv", "_private", "__wrapped__", "nothing.here")
    ]


def test_a_pickle_is_read_where_tilewright_was_not_imported_yet():
    text = pickle.dumps(tw.BlockCyclic(2, 3)).hex()
    assert (
        told(f"import pickle; print(json.dumps(str(pickle.loads(bytes.fromhex({text!r})))))") == "BlockCyclic(P=2, Q=3)"
    )


def test_import_works_from_elsewhere(tmp_path):
    code = "import tilewright as tw; print(len(tw.cholesky_graph(nt=4)))"
    assert subprocess.check_output([sys.executable, "-c", code], cwd=tmp_path, text=True).strip() == "20"


def test_factorisation_loads_no_torch_for_those_who_have_none_in_use():
    code = (
        "import numpy, sys, tilewright as tw; tw.tiled_cholesky(numpy.eye(9), tile_size=4, workers=2);"
        "print('torch' in sys.modules)"
    )
    environment = os.environ | {"TILEWRIGHT_BLAS": "openblas"}
    assert subprocess.check_output([sys.executable, "-c", code], env=environment, text=True).strip() == "False"
    environment.pop("TILEWRIGHT_BLAS")
    assert subprocess.check_output([sys.executable, "-c", code], env=environment, text=True).strip() == "False"
