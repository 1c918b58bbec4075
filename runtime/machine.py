"""The machine a run is planned for or measured on."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np

__all__ = ["Machine", "cores", "worker_count"]


@dataclass(frozen=True, slots=True)
class Machine:
    """What a policy may know about the machine."""

    workers: int = 1
    """Workers that run tasks, numbered from 0."""


def cores() -> int:
    """Cores this process may use: its affinity mask, which containers and batch systems set."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def worker_count(workers: int | None) -> int:
    """The number of workers a user asked for, or one per core.

    Raises
    ------
    TypeError
        Not an integer.
    ValueError
        Below 1.
    """
    if workers is None:
        return cores()
    if isinstance(workers, bool) or not isinstance(workers, int | np.integer):
        raise TypeError(f"workers must be an integer, not {workers!r}")
    if workers < 1:
        raise ValueError(f"workers must be at least 1, not {workers}")
    return int(workers)
