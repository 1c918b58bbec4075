"""Learning rates over time, as factors of the first one. Time is the number of updates: skipped steps do not count."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["SCHEDULES", "Cosine", "OneCycle", "schedule"]


@dataclass(frozen=True)
class Cosine:
    """From 1 to 0 along half a cosine over ``total`` updates."""

    total: int

    def __call__(self, updates: int) -> float:
        return 0.5 * (1 + math.cos(math.pi * min(updates / self.total, 1.0)))


@dataclass(frozen=True)
class OneCycle:
    """Up from 0.04 to 1 in the first ``warm`` part of ``total`` updates, then down to 0 along half a cosine."""

    total: int
    warm: float = 0.3

    def __call__(self, updates: int) -> float:
        turn = self.warm * self.total
        if updates < turn:
            return 0.04 + 0.96 * updates / turn
        return 0.5 * (1 + math.cos(math.pi * min((updates - turn) / (self.total - turn), 1.0)))


SCHEDULES: dict[str, Callable[[int], Callable[[int], float] | None]] = {
    "constant": lambda total: None,
    "cosine": Cosine,
    "one-cycle": OneCycle,
}
"""By name: what makes a schedule for so many updates."""


def schedule(given: str | Callable[[int], float] | None, total: int) -> Callable[[int], float] | None:
    """A schedule by name or as a function of the number of updates. ValueError for another name."""
    if given is None or callable(given):
        return given
    if given not in SCHEDULES:
        raise ValueError(f"unknown schedule {given!r}; known: {', '.join(SCHEDULES)}, or a function of updates")
    return SCHEDULES[given](max(total, 1))
