"""Learning rates over time, as factors of the first one. Time is the number of updates: skipped steps do not count."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tilewright.keywords import strict
from tilewright.scalars import plain, positive, real

__all__ = ["SCHEDULES", "Cosine", "OneCycle", "schedule"]


@strict
@dataclass(frozen=True)
class Cosine:
    """From 1 to 0 along half a cosine over ``total`` updates.

    Parameters
    ----------
    total
        Updates until 0 is reached.

    Raises
    ------
    ValueError, TypeError
        ``total`` is no integer of at least 1.

    Examples
    --------
    >>> from tilewright import training
    >>> factor = training.Cosine(total=4)
    >>> [round(factor(update), 3) for update in range(5)]
    [1.0, 0.854, 0.5, 0.146, 0.0]
    """

    total: int

    def __post_init__(self) -> None:
        positive(self.total, "total")

    def __call__(self, updates: int) -> float:
        return 0.5 * (1 + math.cos(math.pi * min(updates / self.total, 1.0)))


@strict
@dataclass(frozen=True)
class OneCycle:
    """Up from 0.04 to 1 in the first ``warm`` part of ``total`` updates, then down to 0 along half a cosine.

    Parameters
    ----------
    total
        Updates until 0 is reached.
    warm
        The share of them that goes up.

    Raises
    ------
    ValueError, TypeError
        ``total`` is no integer of at least 1, or ``warm`` no number from 0 to below 1.

    Examples
    --------
    >>> from tilewright import training
    >>> factor = training.OneCycle(total=4, warm=0.5)
    >>> [round(factor(update), 3) for update in range(5)]
    [0.04, 0.52, 1.0, 0.5, 0.0]
    """

    total: int
    warm: float = 0.3

    def __post_init__(self) -> None:
        positive(self.total, "total")
        if real(self.warm, "warm", 0) >= 1:
            raise ValueError(f"warm must be below 1, not {self.warm}")

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


MOST_TRIED = 100_000
"""Updates for which a schedule is asked beforehand."""


def schedule(given: Any, total: int) -> Callable[[int], float] | None:
    """A schedule by name or as a function of the number of updates.

    ValueError for another name, or if a function gives no finite number from 0 for one of ``total`` updates.
    """
    if given is None:
        return None
    if isinstance(given, str) and given in SCHEDULES:
        return SCHEDULES[given](max(total, 1))
    if not callable(given):
        raise ValueError(f"unknown schedule {given!r}; known: {', '.join(SCHEDULES)}, or a function of updates")
    for update in range(min(total, MOST_TRIED)):
        factor = plain(given(update))
        if isinstance(factor, bool) or not isinstance(factor, int | float) or not 0 <= factor < math.inf:
            raise ValueError(f"schedule gives {factor!r} for update {update}; it must give a finite factor from 0")
    found: Callable[[int], float] = given
    return found
