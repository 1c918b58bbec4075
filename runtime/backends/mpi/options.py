"""What a call may say to the MPI engine, and what follows from it before a pool or a communicator is needed."""

from __future__ import annotations

import sys
from typing import Any

from tilewright.backends.mpi.launcher import require_mpi4py, under_launcher
from tilewright.graph import TaskGraph
from tilewright.host.cores import cores

__all__ = ["OPTIONS", "is_rank", "owner_for"]


OPTIONS = ("owner", "grid", "pool", "comm", "root", "gather", "window", "synchronous")


WINDOW = 256 << 20  # bytes


def is_rank() -> bool:
    """Whether this process is one of several ranks."""
    if under_launcher():
        require_mpi4py()
        return True
    if "mpi4py.MPI" not in sys.modules:
        return False
    from mpi4py import MPI

    return MPI.Is_initialized() and not MPI.Is_finalized() and MPI.COMM_WORLD.size > 1


def owner_for(graph: TaskGraph, owner: Any) -> Any:
    """The rule of a call, or where it has none that of the graph's layout."""
    if owner is None and graph.layout is not None:
        return {handle: graph.layout.owner(handle) for handle in graph.handles_used}
    return owner


def per_rank(workers: int | None, ranks: int) -> int:
    """Workers of each rank."""
    if workers is None:
        return max(1, cores() // ranks)
    if workers % ranks:
        raise ValueError(f"workers={workers} is not a multiple of the {ranks} ranks")
    return workers // ranks
