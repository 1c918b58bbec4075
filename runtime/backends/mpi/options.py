"""What a call may say to the MPI engine, and what follows from it before a pool or a communicator is needed."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from tilewright.backends.execution.engine import Engine
from tilewright.backends.mpi.launcher import require_mpi4py, under_launcher
from tilewright.host.cores import cores, quota_of_this_process
from tilewright.scalars import instance, optional, positive, shown

__all__ = ["Mpi", "how", "cores_of_each", "is_rank", "per_rank"]


WINDOW = 256 << 20  # bytes


class Mpi(Engine):
    """The ranks of a pool, or those of a collective call."""

    name = "mpi"
    options = ("owner", "grid", "pool", "comm", "root", "gather", "window", "synchronous", "pin")
    in_process = False
    plans = False
    on_ranks = True
    moves_beside = True

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


def my_cpus() -> frozenset[int]:
    """The CPUs that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))


def cores_of_each(here: Sequence[Collection[int]], rank: int, quota: int | None) -> int:
    """Cores that a rank has for itself, one at least.

    Parameters
    ----------
    here
        The CPUs that each rank on the same computer may run on. Launchers bind ranks to CPUs of their own, or to
        none: those whose CPUs meet share them.
    rank
        Which of them it is.
    quota
        Cores' worth of time that all of them have together, if there is a limit.
    """
    mine = set(here[rank])
    sharing = sum(not mine.isdisjoint(other) for other in here)
    own = len(mine) // max(1, sharing)
    return max(1, own if quota is None else min(own, quota // len(here)))


def fewest_cores(comm: Any, neighbours: Any) -> int:
    """The fewest cores that a rank of ``comm`` has for itself: plans want as many workers of each rank. Collective.

    ``neighbours`` is the communicator of those on this computer.
    """
    own = cores_of_each(neighbours.allgather(sorted(my_cpus())), neighbours.rank, quota_of_this_process())
    return int(min(comm.allgather(own)))


def per_rank(workers: int | None, ranks: int, own: int | None = None) -> int:
    """Workers of each rank; by default ``own``, or this computer's cores over the ranks, which are all on it."""
    if workers is None:
        return max(1, cores() // ranks) if own is None else own
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
