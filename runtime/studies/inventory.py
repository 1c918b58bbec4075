"""What this installation has: versions, BLAS libraries, kernels, engines, policies, optional packages."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from tilewright import kernels
from tilewright.backends import BACKENDS
from tilewright.host.cores import cores
from tilewright.kernels import choice, cpu
from tilewright.kernels.table import unsteady
from tilewright.schedulers import SCHEDULERS

__all__ = ["OPTIONAL", "inventory"]

OPTIONAL = ("torch", "mkl", "dask", "distributed", "mpi4py", "matplotlib", "scikit-learn")
"""Packages that some part uses and the core does not need."""


def inventory() -> dict[str, Any]:
    """All of that as plain data, ready for JSON. Loads every BLAS there is; imports no optional package."""
    rules = choice.table()
    return {
        "tilewright": version("tilewright"),
        "python": platform.python_version(),
        "numpy": version("numpy"),
        "scipy": version("scipy"),
        "machine": platform.machine(),
        "cores": cores(),
        "cpu": cpu.model(),
        "blas": kernels.current().name,
        "libraries": {
            name: {"reason": found} if isinstance(found, str) else
            {"version": found.version, "path": found.path, "mode": found.mode(), "unsteady": unsteady(found.name)}
            for name, found in kernels.available().items()
        },
        "choice": [{"op": op, "dtypes": letters, "library": name, "why": why} for op, letters, name, why in rules],
        "kernels": [
            {"op": row.op, "device": row.device, "storage": row.storage, "accumulate": row.accumulate,
             "source": row.source}
            for row in kernels.rows()
        ],
        "backends": list(BACKENDS),
        "schedulers": list(SCHEDULERS),
        "optional": {name: _installed(name) for name in OPTIONAL},
    }  # fmt: skip


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
