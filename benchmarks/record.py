"""One JSON line per measurement, and what it ran on."""

from __future__ import annotations

import json
import platform
import subprocess
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from tilewright.benchmarks.computer import computer, settings
from tilewright.kernels import choice

__all__ = ["append", "environment", "read"]

_PACKAGES = ("tilewright", "numpy", "scipy", "torch", "mkl", "dask", "distributed", "mpi4py", "mpich", "threadpoolctl")


def environment() -> dict[str, Any]:
    """The machine and the software of this run, the "experiment details" of every figure.

    ``computer`` is its fingerprint, ``settings`` are the variables that change what libraries do, ``blas`` says which
    library serves which op (for float32, float64, complex64, complex128) in which version and mode of reproducibility.
    """
    kernels = choice.choice()
    return {
        **_software(),
        "computer": computer(),
        "settings": settings(),
        "blas": {
            "ops": dict(kernels.libraries),
            "versions": {name: version for name, version, _ in kernels.modes},
            "modes": {name: mode for name, _, mode in kernels.modes},
        },
    }


@cache
def _software() -> dict[str, Any]:
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: found for name in _PACKAGES if (found := _version(name))},
    }


def append(path: Path | None, records: Iterable[dict[str, Any]]) -> None:
    """Add records to a file, one JSON object a line, each with the environment. Does nothing without a path."""
    if path is None:
        return
    with path.open("a") as file:
        for record in records:
            file.write(json.dumps(record | {"environment": environment()}) + "\n")


def read(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a file."""
    with path.open() as file:
        for line in file:
            yield json.loads(line)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
