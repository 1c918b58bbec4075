"""The machine a run is planned for or measured on."""

from __future__ import annotations

import os
from dataclasses import dataclass

__all__ = ["Machine", "cores"]


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
