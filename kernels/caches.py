"""The caches of the CPU: their sizes, and what one core has of the second level. Tile sizes go by it."""

from __future__ import annotations

import contextlib
import os
import warnings
from functools import cache
from pathlib import Path
from typing import NamedTuple

__all__ = ["FALLBACK", "VARIABLE", "Cache", "caches", "level2", "read"]

VARIABLE = "TILEWRIGHT_CPU_CACHES"
"""Environment variable that pretends other caches, such as ``L1d=32K,L2=512K``: bytes that a core has of each, or
``none`` where nothing is known. It changes what is chosen, not what libraries do. For tests."""

FALLBACK = 1 << 20
"""Bytes of the second level where the system does not say: what most cores of servers have had since 2017. So it is
outside Linux, on some boards with Arm, and in containers that hide the folder."""

_FOLDER = Path("/sys/devices/system/cpu/cpu0/cache")
_UNITS = {"K": 10, "M": 20, "G": 30}


class Cache(NamedTuple):
    size: int
    """Bytes."""
    share: int
    """Bytes for each of the cores that share it; two threads of a core count as one."""


def caches() -> dict[str, Cache]:
    """Caches of the first CPU by name, such as L1d, L2, L3; without those that cannot be read.

    Warns
    -----
    RuntimeWarning
        ``TILEWRIGHT_CPU_CACHES`` is not of the form ``L1d=32K,L2=512K``; then nothing is known.
    """
    pretended = os.environ.get(VARIABLE)
    if pretended is None:
        return _system()
    try:
        return dict(_parse(pretended))
    except ValueError as error:
        warnings.warn(str(error), RuntimeWarning, stacklevel=2)
        return {}


def level2() -> int:
    """Bytes that a core has of the second level, or `FALLBACK`."""
    found = caches().get("L2")
    return found.share if found else FALLBACK


@cache
def _system() -> dict[str, Cache]:
    return read(_FOLDER)


@cache
def _parse(text: str) -> tuple[tuple[str, Cache], ...]:
    if text.strip() == "none":
        return ()
    found = []
    for part in text.split(","):
        name, _, size = (word.strip() for word in part.partition("="))
        try:
            number = _bytes(size)
        except ValueError:
            number = 0
        if number <= 0 or not name.startswith("L"):
            raise ValueError(
                f"{VARIABLE}={text!r}: {part!r} is no cache; nothing is taken as known; write L1d=32K,L2=512K or none"
            )
        found.append((name, Cache(number, number)))
    return tuple(found)


def read(folder: Path) -> dict[str, Cache]:
    """What Linux says in this folder, which has a folder ``index0``, ``index1``, ... for each cache of a CPU."""
    found: dict[str, tuple[int, int]] = {}
    for index in sorted(folder.glob("index*")):
        with contextlib.suppress(OSError, ValueError, KeyError):
            level, kind, size = ((index / name).read_text().strip() for name in ("level", "type", "size"))
            if (number := _bytes(size)) > 0:
                letter = {"Data": "d", "Instruction": "i", "Unified": ""}[kind]
                found[f"L{level}{letter}"] = number, _sharers(index)
    threads = found.get("L1d", (0, 1))[1]  # those of one core: each has a first level of its own
    return {name: Cache(size, size // max(1, sharers // threads)) for name, (size, sharers) in found.items()}


def _sharers(index: Path) -> int:
    """How many CPUs share a cache, by a list such as ``0-3,8``; 1 where there is none."""
    try:
        ranges = [part.split("-") for part in (index / "shared_cpu_list").read_text().strip().split(",")]
        return max(1, sum(int(ends[-1]) - int(ends[0]) + 1 for ends in ranges))
    except (OSError, ValueError):
        return 1


def _bytes(text: str) -> int:
    """The bytes that a number such as ``48K`` stands for."""
    unit = _UNITS.get(text[-1:])
    return int(text) if unit is None else int(text[:-1]) << unit
