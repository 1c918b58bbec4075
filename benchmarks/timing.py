"""Times taken side by side: contenders alternate, so that a machine that drifts drifts for all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Contender", "Times", "alternate"]

SETTLE = 0.15
"""Seconds between two measurements: BLAS and OpenMP threads spin for a while after their work is done."""


@dataclass(frozen=True)
class Contender:
    """Something to time: ``prepare`` before each time, off the clock; ``call`` on it."""

    name: str
    call: Callable[[], Any]
    prepare: Callable[[], Any] = lambda: None
    repeat: int | None = None
    """Times to take of this one, if fewer than of the others."""


@dataclass
class Times:
    """Seconds of one contender, in the order they were taken."""

    seconds: list[float] = field(default_factory=list)
    error: Exception | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.seconds) if self.seconds else float("nan")

    def record(self) -> dict[str, Any]:
        """min, median and max, and all times."""
        if not self.seconds:
            return {"error": f"{type(self.error).__name__}: {self.error}"}
        return {"median": self.median, "min": min(self.seconds), "max": max(self.seconds), "seconds": self.seconds}


def alternate(
    contenders: Iterable[Contender], repeat: int, *, settle: float | None = None, warm_up: bool = True
) -> dict[str, Times]:
    """Time the contenders in turn, ``repeat`` rounds, after one that warms up and is not counted.

    ``settle`` seconds pass before each time, `SETTLE` if it is None. A contender that raises is reported with its
    error and left out of later rounds.
    """
    runners = list(contenders)
    times = {contender.name: Times() for contender in runners}
    for turn in range(not warm_up, repeat + 1):
        for contender in runners:
            taken = times[contender.name]
            if taken.error or (contender.repeat is not None and turn > contender.repeat):
                continue
            contender.prepare()
            time.sleep(SETTLE if settle is None else settle)
            try:
                start = time.perf_counter()
                contender.call()
                seconds = time.perf_counter() - start
            except Exception as error:
                taken.error = error
                continue
            if turn:
                taken.seconds.append(seconds)
    return times
