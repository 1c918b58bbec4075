"""Optional packages: which extra brings a module, and the command that installs it where tilewright came from.

A clone, a folder or an archive that pip installed from has the extras beside it; ``pip install 'tilewright[mpi]'`` asks
an index, which may have no tilewright, or another one. What pip noted down says where it came from [1]_.

.. [1] PyPA specifications, Recording the Direct URL Origin of installed distributions (PEP 610).
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import os
import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

__all__ = ["EXTRAS", "brings", "command", "needed", "pip"]

EXTRAS = {
    "torch": "torch",
    "dask": "dask",
    "distributed": "dask",
    "bokeh": "dask",
    "cryptography": "dask",
    "mpi4py": "mpi",
    "cloudpickle": "mpi",
    "matplotlib": "plot",
    "pandas": "frames",
    "pymetis": "metis",
    "pydot": "graphs",
    "tensorboard": "tensorboard",
    "sklearn": "training",
    "mlxtend": "training",
    "pyarrow": "training",
    "PIL": "training",
    "zarr": "zarr",
    "h5py": "hdf5",
}
"""The extra of tilewright that brings a module."""


def brings(extra: str) -> str:
    """What ends a message about a missing package: the command, and that it helps."""
    return f"{command(extra)} brings it"


def needed(module: str, what: str) -> Any:
    """An optional package, imported. ModuleNotFoundError says what needs it and which command brings it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        sentence = f"{what} needs {module}, which is not installed; {brings(EXTRAS[module])}"
        raise ModuleNotFoundError(sentence, name=module) from None


def command(extra: str) -> str:
    """The command that adds this extra to the tilewright that runs, wherever it was installed from."""
    origin = _origin()
    url, folder, archive = origin.get("url", ""), origin.get("dir_info"), origin.get("archive_info")
    if folder is not None and _path(url).is_dir():
        return pip(*["-e"] * bool(folder.get("editable")), f"{_near(_path(url))}[{extra}]")
    if archive is not None and (urlsplit(url).scheme != "file" or _path(url).is_file()):
        return pip(f"tilewright[{extra}] @ {url}")
    if version := origin.get("vcs_info"):
        return pip(f"tilewright[{extra}] @ {version['vcs']}+{url}@{version['commit_id']}")
    return pip(f"tilewright[{extra}]")


def pip(*arguments: str) -> str:
    """``python -m pip install ...`` for this Python, by its path where ``python`` is another one or none."""
    found = shutil.which("python")
    same = found is not None and Path(found).parent == Path(sys.executable).parent
    if importlib.util.find_spec("pip") is None:  # an environment that uv made
        words = ["uv", "pip", "install", *["--python", _near(Path(sys.executable))] * (not same)]
    else:
        words = ["python" if same else _near(Path(sys.executable)), "-m", "pip", "install"]
    return " ".join(map(_quoted, [*words, *arguments]))


def _quoted(word: str) -> str:
    """As `shlex.quote`, but for Windows, where shells know double quotes alone."""
    if os.name == "nt":
        return word if re.fullmatch(r"[\w.:\\=-]+", word) else f'"{word}"'
    return shlex.quote(word)


def _near(path: Path) -> str:
    """As seen from the current folder, if it lies there."""
    with contextlib.suppress(OSError):  # the folder was deleted
        if path.is_relative_to(Path.cwd()):
            return os.path.join(".", *path.relative_to(Path.cwd()).parts)
    return str(path)


def _path(url: str) -> Path:
    return Path(url2pathname(urlsplit(url).path)) if urlsplit(url).scheme == "file" else Path(os.devnull)


def _origin() -> dict[str, Any]:
    """What pip wrote beside tilewright about where it came from; empty if it came from an index."""
    from importlib import metadata  # a quarter as long to import as NumPy

    try:
        # In the folder of a checkout there is another one, of the last build, in which nothing is noted.
        found = [d.read_text("direct_url.json") for d in metadata.distributions(name="tilewright")]
        noted = json.loads(next(filter(None, found), "{}"))
    except (OSError, ValueError):
        return {}
    return noted if isinstance(noted, dict) else {}
