"""Cores to which workers are bound, where the operating system lets threads be bound (Linux)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["PIN", "as_pin", "pinned", "places", "sockets"]

PIN = ("cores",)
"""What ``pin=`` takes, beside None."""


def as_pin(value: Any) -> bool:
    """Whether a call asks for workers to be bound. ValueError or TypeError for another value, or where it cannot be."""
    if value is None:
        return False
    if not isinstance(value, str):
        raise TypeError(f"pin must be 'cores' or None, not {value!r}")
    if value not in PIN:
        raise ValueError(f"pin must be 'cores' or None, not {value!r}")
    if not hasattr(os, "sched_setaffinity"):
        raise ValueError("pin='cores' needs os.sched_setaffinity, which this system does not have; Linux does")
    return True


def places(workers: int, root: Path = Path("/")) -> list[int]:
    """The CPU of each worker: cores of their own, neighbours on one socket, sockets as even as `Machine` has them.

    Second hardware threads of cores are taken when all first ones are. Only CPUs are taken that this process may use.

    Raises
    ------
    ValueError
        There are fewer CPUs than workers.
    """
    allowed = sorted(os.sched_getaffinity(0))
    if workers > len(allowed):
        raise ValueError(f"pin='cores' needs a core for each of {workers} workers; this process may use {len(allowed)}")
    found = [(*_place(cpu, root), cpu) for cpu in allowed]
    seen: dict[tuple[int, int], int] = {}
    ordered = []  # (which hardware thread of its core, socket, core, CPU)
    for socket, core, cpu in sorted(found):
        thread = seen[socket, core] = seen.get((socket, core), -1) + 1
        ordered.append((thread, socket, core, cpu))
    ordered.sort()
    numbers = sorted({socket for _, socket, _, _ in ordered})
    chosen: list[tuple[int, int, int, int]] = []
    for k, number in enumerate(numbers):
        share = sum(worker * len(numbers) // workers == k for worker in range(workers))
        chosen += [row for row in ordered if row[1] == number][:share]
    if len(chosen) < workers:  # a socket has fewer than its share
        chosen = ordered[:workers]
    return [cpu for _, _, _, cpu in sorted(chosen, key=lambda row: (row[1], row[0], row[2], row[3]))]


def sockets(root: Path = Path("/")) -> int:
    """On how many sockets the CPUs are that this process may use; 1 where nobody says."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else ()
    return max(1, len({_place(cpu, root)[0] for cpu in allowed}))


def _place(cpu: int, root: Path) -> tuple[int, int]:
    """(socket, core) of a CPU, as the kernel says; one socket, and a core of its own, where it does not."""
    folder = root / f"sys/devices/system/cpu/cpu{cpu}/topology"
    try:
        return int((folder / "physical_package_id").read_text()), int((folder / "core_id").read_text())
    except (OSError, ValueError):
        return 0, cpu


class pinned:  # noqa: N801 - used like a function
    """In the calling thread: stay on the CPU of a worker; restored at the end. Without CPUs nothing."""

    __slots__ = ("before", "cpu")

    def __init__(self, cpus: Sequence[int] | None, worker: int) -> None:
        self.cpu = None if cpus is None else cpus[worker]

    def __enter__(self) -> None:
        if self.cpu is not None:
            self.before = os.sched_getaffinity(0)
            os.sched_setaffinity(0, {self.cpu})

    def __exit__(self, *error: object) -> None:
        if self.cpu is not None:
            os.sched_setaffinity(0, self.before)
