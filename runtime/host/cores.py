"""The CPU time that a container or a batch system leaves this process: the quota of its control groups (Linux)."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path

__all__ = ["cores", "cpu_quota", "quota_of_this_process"]


def cpu_quota(root: Path = Path("/")) -> int | None:
    """Cores' worth of time that this process may use, rounded up; None if nothing limits it.

    A limit of any group above holds as well, so the smallest counts. Both versions of control groups are read:
    ``cpu.max`` (v2), ``cpu.cfs_quota_us`` over ``cpu.cfs_period_us`` (v1). Inside a container the path that the kernel
    names may be the host's; what of it is not mounted is passed over, up to the mount, which is the container's group.

    Parameters
    ----------
    root
        The folder that holds ``proc`` and ``sys``.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return None
    shares = [share for line in lines for group in _groups(root / "sys/fs/cgroup", line) for share in _shares(group)]
    return max(1, math.ceil(min(shares))) if shares else None


@cache
def quota_of_this_process() -> int | None:
    """`cpu_quota`, read once: limits seldom change under a process, and a small factorisation takes no longer."""
    return cpu_quota()


def _groups(mount: Path, line: str) -> Iterator[Path]:
    """The folders of one line of /proc/self/cgroup, ``number:controllers:path``, from its group up to the mount."""
    number, controllers, path = line.split(":", 2)
    if number == "0" and not controllers:
        tops = [mount, mount / "unified"]  # v2, alone or beside v1
    elif "cpu" in controllers.split(","):
        tops = [mount / controllers, mount / "cpu"]
    else:
        return
    inside = Path(path.lstrip("/"))
    for top in tops:
        for group in (inside, *inside.parents):
            if ".." not in group.parts:
                yield top / group


def _shares(group: Path) -> Iterator[float]:
    """What one group allows, in cores."""
    with contextlib.suppress(OSError, ValueError):
        quota, period = (group / "cpu.max").read_text().split()
        if quota != "max":
            yield int(quota) / int(period)
    with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
        share = int((group / "cpu.cfs_quota_us").read_text()) / int((group / "cpu.cfs_period_us").read_text())
        if share > 0:  # -1 is no limit
            yield share


def cores() -> int:
    """Cores this process may use: what its affinity mask allows and the CPU quota of its control groups.

    Batch systems and containers set the one or the other. A part of a core counts as one.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(allowed, quota_of_this_process() or allowed)
