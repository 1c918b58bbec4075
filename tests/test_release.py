"""What is published: built from the repository, installed where nothing of the repository is, and used there.

Nothing is fetched. The environment has the packages of this one behind its own, so it takes no second copy of NumPy.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
VERSION = PROJECT["project"]["version"]
OFFLINE = ("--no-deps", "--no-index", "--no-build-isolation", "--disable-pip-version-check")
MADE = (".git", ".venv", "build", "dist", "out", "*.egg-info", "__pycache__", ".*_cache", ".hypothesis", "gallery_*")
BUILD = "import sys; from setuptools import build_meta; print(getattr(build_meta, 'build_' + sys.argv[1])(sys.argv[2]))"


def ran(*arguments, cwd, **environment):
    """Standard output of a program that ends well, and what it says if it does not."""
    done = subprocess.run(
        [str(a) for a in arguments], cwd=cwd, env=os.environ | environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The source distribution of this tree, and the wheel of what was packed there."""
    folder = tmp_path_factory.mktemp("built")
    shutil.copytree(ROOT, folder / "tree", ignore=shutil.ignore_patterns(*MADE), symlinks=True)
    ran(sys.executable, "-c", BUILD, "sdist", folder, cwd=folder / "tree")
    source = folder / f"tilewright-{VERSION}.tar.gz"
    with tarfile.open(source) as archive:
        archive.extractall(folder, filter="data")
        names = [Path(*Path(one.name).parts[1:]).as_posix() for one in archive if one.isfile()]
    ran(sys.executable, "-c", BUILD, "wheel", folder, cwd=folder / f"tilewright-{VERSION}")
    wheel = folder / f"tilewright-{VERSION}-py3-none-any.whl"
    return SimpleNamespace(source=source, packed=set(names), wheel=wheel, held=set(zipfile.ZipFile(wheel).namelist()))


@pytest.fixture(scope="module")
def clean(built, tmp_path_factory):
    """An environment in which pip installed the wheel, and nothing leads to the repository."""
    folder = tmp_path_factory.mktemp("clean")
    venv.create(folder / "env", symlinks=True, with_pip=False)
    binaries = folder / "env" / ("Scripts" if os.name == "nt" else "bin")
    python = binaries / "python"
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = Path(ran(python, "-c", code, cwd=folder).strip())
    # A path in a .pth file: files of this kind behind it, such as that of an editable install, are not read.
    (packages / "behind.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")
    ran(python, "-m", "pip", "install", "--quiet", *OFFLINE, "--ignore-installed", built.wheel, cwd=folder)
    path = os.pathsep.join([str(binaries), os.environ["PATH"]])
    return SimpleNamespace(python=python, binaries=binaries, packages=packages, folder=folder, path=path)


def test_the_source_distribution_is_the_repository(built):
    if not (ROOT / ".git").exists():
        pytest.skip("not a clone: this is a source distribution already")
    tracked = set(ran("git", "ls-files", cwd=ROOT).splitlines())
    there = {name for name in tracked if (ROOT / name).exists()}  # a file may be removed, and not yet committed
    made = {"PKG-INFO", "setup.cfg"} | {name for name in built.packed if name.startswith("tilewright.egg-info/")}
    assert there - built.packed == set()
    new = set(ran("git", "ls-files", "--others", "--exclude-standard", cwd=ROOT).splitlines())
    assert built.packed - made - there - new == set()


def test_the_wheel_has_every_module_and_data_file_and_nothing_else(built):
    own = {name for name in built.held if not name.startswith(f"tilewright-{VERSION}.dist-info/")}
    expected = set()
    for package, folder in PROJECT["tool"]["setuptools"]["package-dir"].items():
        root = ROOT / folder
        for file in root.rglob("*"):
            if file.is_file() and "__pycache__" not in file.parts:
                expected.add(f"{package.replace('.', '/')}/{file.relative_to(root).as_posix()}")
    assert own == expected
    assert {"tilewright/py.typed", "tilewright/plot/page.js", "tilewright/studies/openmp.c"} <= own
    assert f"tilewright-{VERSION}.dist-info/licenses/LICENSE" in built.held


USE = """
import importlib.metadata, json, pkgutil
import numpy as np, tilewright as tw
A = tw.random_spd(40)
L, run = tw.tiled_cholesky(A, tile_size=16, workers=2, return_run=True)
assert np.allclose(L @ L.T, A)
run.report("run.html")
from tilewright.extras import command
print(json.dumps([tw.__file__, tw.__version__, importlib.metadata.version("tilewright"), command("mpi")]))
"""


def test_what_is_installed_works_away_from_the_repository(clean, built):
    said = json.loads(ran(clean.python, "-c", USE, cwd=clean.folder, PATH=clean.path))
    assert said[:3] == [str(clean.packages / "tilewright" / "__init__.py"), VERSION, VERSION]
    assert (clean.packages / "tilewright" / "py.typed").is_file()
    page = (clean.folder / "run.html").read_text(encoding="utf-8")
    assert (clean.packages / "tilewright" / "plot" / "page.css").read_text(encoding="utf-8").strip()[:40] in page
    # The message about a missing package names the wheel, and pip takes the command.
    assert shlex.split(said[3]) == ["python", "-m", "pip", "install", f"tilewright[mpi] @ {built.wheel.as_uri()}"]
    told = ran(*shlex.split(said[3]), "--dry-run", *OFFLINE, cwd=clean.folder, PATH=clean.path)
    assert "does not provide the extra" not in told


def test_the_command_line_is_installed(clean):
    program = clean.binaries / "tilewright"
    assert ran(program, "--version", cwd=clean.folder) == f"tilewright {VERSION}\n"
    said = json.loads(ran(program, "simulate", "cholesky", "--nt=4", "--workers=2", "--json", cwd=clean.folder))
    assert len(said["tasks"]) == 20


def test_the_changelog_has_a_section_for_this_version_and_it_comes_first():
    sections = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)
    assert VERSION in sections and sections.index(VERSION) <= 1
    assert [name for name in sections[: sections.index(VERSION)] if name != "Unreleased"] == []
