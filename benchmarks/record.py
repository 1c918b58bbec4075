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

from tilewright.kernels import choice
from tilewright.machine import cores

__all__ = ["append", "environment", "read"]

_PACKAGES = ("tilewright", "numpy", "scipy", "torch", "dask", "distributed", "mpi4py", "mpich")


@cache
def environment() -> dict[str, Any]:
    """The machine and the software of this run, the "experiment details" of every figure."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "cpu": _cpu(),
        "cores": cores(),
        "python": platform.python_version(),
        "blas": f"{choice.current().name}: {choice.current().version}",
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


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
