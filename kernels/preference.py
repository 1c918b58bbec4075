"""Which library was the fastest for an op on this computer, if the user had that measured.

``tilewright calibrate --blas`` measures and stores; `tilewright.studies.calibration.fastest_libraries` does the work.

Nothing is measured by itself, as bits depend on the choice. What was stored belongs to one CPU and certain versions of
the libraries: with others it is not looked at.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from functools import cache
from pathlib import Path

from tilewright.host import cache as caches
from tilewright.host.files import write_text
from tilewright.kernels import blas, cpu

__all__ = ["forget", "path", "store", "stored"]


def path() -> Path:
    """The file for this CPU and these libraries."""
    versions = [one if isinstance(one, str) else one.version for one in blas.available().values()]
    digest = hashlib.sha256(json.dumps([cpu.vendor(), cpu.model(), versions]).encode()).hexdigest()[:16]
    return caches.folder() / f"blas-{digest}.json"


@cache
def stored() -> dict[str, str]:
    """Library by letter and op, such as ``{"dgemm": "openblas"}``; empty if nothing was stored.

    Warns
    -----
    RuntimeWarning
        There is a file that cannot be used; the rules hold.
    """
    try:
        folder = caches.folder()
        if not folder.is_dir():  # the usual case, in which no library is loaded for the name of the file
            return {}
        if not any(folder.glob("blas-*.json")):
            return {}
        file = path()
        if not file.exists():
            return {}
        found = json.loads(file.read_text())
        if not isinstance(found, dict) or not all(isinstance(v, str) and v in blas.NAMES for v in found.values()):
            raise ValueError("it is no table of libraries")
    except (OSError, RuntimeError, ValueError) as error:
        warnings.warn(f"the stored choice of BLAS is not used: {error}", RuntimeWarning, stacklevel=2)
        return {}
    return found


def store(choice: dict[str, str]) -> Path:
    """Keep a preference; later processes use it. OSError if the file cannot be written."""
    file = path()
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, json.dumps(choice, indent=1, sort_keys=True) + "\n")
    stored.cache_clear()
    return file


def forget() -> None:
    """Remove the preference for this computer; the rules hold again."""
    path().unlink(missing_ok=True)
    stored.cache_clear()
