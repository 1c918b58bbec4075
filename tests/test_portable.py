"""The pretended computers of portable.py: what their tests may import."""

import ast
import sys
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from portable import NUMERICAL

ROOT = Path(__file__).parent.parent
FILES = sorted(
    path for name in NUMERICAL for path in ((ROOT / name).rglob("*.py") if "." not in name else [ROOT / name])
)
CORE = {Requirement(line).name for line in requires("tilewright") if "extra ==" not in line}
TOOLS = {"pytest", "hypothesis", "packaging", "tilewright", "tests", "pyamg"}
OURS = {path.stem for path in (ROOT / "tests").rglob("*.py")}


def imported(body):
    """The packages that these statements import at once: not those inside of functions."""
    for node in body:
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.split(".")[0]
        elif isinstance(node, ast.If | ast.Try | ast.With | ast.ClassDef):
            yield from imported(node.body)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_numerical_test_can_be_read_where_there_is_the_core_alone(path):
    known = CORE | TOOLS | OURS | set(sys.stdlib_module_names)
    assert set(imported(ast.parse(path.read_text()).body)) - known == set()


def test_an_import_of_what_is_optional_is_seen():
    seen = imported(
        ast.parse("import dask.array as da\nclass A:\n    from mpi4py import MPI\ndef f():\n    import torch").body
    )
    assert list(seen) == ["dask", "mpi4py"]
