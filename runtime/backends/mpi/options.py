"""What a call may say to the MPI engine, and what follows from it before a pool or a communicator is needed."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from tilewright.backends.execution.engine import Engine
from tilewright.backends.mpi.launcher import require_mpi4py, under_launcher
from tilewright.host.cores import cores
from tilewright.scalars import instance, optional, positive, shown

__all__ = ["Mpi", "how", "is_rank", "per_rank"]


WINDOW = 256 << 20  # bytes


class Mpi(Engine):
    """The ranks of a pool, or those of a collective call."""

    name = "mpi"
    options = ("owner", "grid", "pool", "comm", "root", "gather", "window", "synchronous", "pin")
    in_process = False
    plans = False

    @classmethod
    def together(cls, options: Mapping[str, Any]) -> bool:
        return options.get("comm") is not None or is_rank()

    @classmethod
    def check_place(cls, pool: Any, comm: Any) -> None:
        if pool is not None:
            from tilewright.backends.mpi.pool import Pool

            instance(pool, "pool", Pool, "a tilewright.backends.mpi.Pool, such as Pool(4)")
        if comm is not None and not (hasattr(comm, "Get_rank") and hasattr(comm, "Get_size")):
            raise TypeError(f"comm must be a communicator, such as mpi4py.MPI.COMM_WORLD, not {shown(comm)}")


def is_rank() -> bool:
    """Whether this process is one of several ranks."""
    if under_launcher():
        require_mpi4py()
        return True
    if "mpi4py.MPI" not in sys.modules:
        return False
    from mpi4py import MPI

    return MPI.Is_initialized() and not MPI.Is_finalized() and MPI.COMM_WORLD.size > 1


def per_rank(workers: int | None, ranks: int) -> int:
    """Workers of each rank."""
    if workers is None:
        return max(1, cores() // ranks)
    if workers % ranks:
        raise ValueError(f"workers={workers} is not a multiple of the {ranks} ranks")
    return workers // ranks


def how(options: Mapping[str, Any]) -> tuple[int, bool]:
    """Window and synchronous of a call. ValueError or TypeError that names them."""
    window, synchronous = options.get("window"), options.get("synchronous")
    return (
        WINDOW if window is None else positive(window, "window"),
        bool(optional(synchronous, "synchronous", bool | np.bool_, "True or False")),  # type: ignore[arg-type]
    )
