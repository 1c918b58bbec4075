"""Which library was the fastest for an op on this computer, if the user had that measured.

``tilewright calibrate --blas`` measures and stores; `tilewright.studies.calibration.fastest_libraries` does the work.

Nothing is measured by itself, as bits depend on the choice. What was stored belongs to one CPU and certain versions of
the libraries: with others it is not looked at.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from tilewright.host import cache as caches
from tilewright.kernels import blas, cpu

__all__ = ["forget", "path", "store", "stored"]


def path() -> Path:
    """The file for this CPU and these libraries."""
    versions = [one if isinstance(one, str) else one.version for one in blas.available().values()]
    return caches.file("blas", cpu.vendor(), cpu.model(), versions)


@cache
def stored() -> dict[str, str]:
    """Library by letter and op, such as ``{"dgemm": "openblas"}``; empty if nothing was stored.

    Warns
    -----
    RuntimeWarning
        There is a file that cannot be used; the rules hold.
    """
    return caches.read("blas", "the stored choice of BLAS is", path, _table) or {}


def _table(found: Any) -> dict[str, str]:
    if not isinstance(found, dict) or not all(isinstance(v, str) and v in blas.NAMES for v in found.values()):
        raise ValueError("it is no table of libraries")
    return found


def store(choice: dict[str, str]) -> Path:
    """Keep a preference; later processes use it. OSError if the file cannot be written."""
    file = path()
    caches.write(file, choice)
    stored.cache_clear()
    return file


def forget() -> None:
    """Remove the preference for this computer; the rules hold again."""
    path().unlink(missing_ok=True)
    stored.cache_clear()
