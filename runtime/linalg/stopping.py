"""When an iteration ends: LAPACK's criterion, how far it is, how many steps are left, and how it ended."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, log

import numpy as np

from tilewright.linalg.residual import unit_roundoff

__all__ = ["Stop", "U", "steps_left", "worst"]

U = unit_roundoff(np.dtype(np.float64))
"""2^-53."""


@dataclass(frozen=True)
class Stop:
    """How an iteration ended."""

    method: str
    status: str
    """``converged``, ``slow`` (too many steps), ``stalled`` (steps no longer help), ``diverged``, ``indefinite``."""
    iterations: int

    @property
    def converged(self) -> bool:
        return self.status == "converged"


def worst(above: np.ndarray, below: np.ndarray) -> float:
    """The largest quotient; 0/0 is 0, a NaN wins."""
    with np.errstate(divide="ignore", invalid="ignore"):
        quotients = np.where(above == 0, 0.0, above / below)
    return float(quotients.max(initial=0))


def steps_left(history: list[float], excess: float) -> float:
    """Steps until the excess is 1, if it goes on as in this iteration or as in its second half, whichever is faster.

    Conjugate gradients may become faster with time; and their residual may jump, and go on as before.
    """
    left = inf
    for part in (history[len(history) // 2 :], history):
        if len(part) < 2 or not part[0] > 0 or not part[-1] > 0:
            return 0
        rate = log(part[-1] / part[0]) / (len(part) - 1)
        if rate < 0:
            left = min(left, log(max(excess, 1)) / -rate)
    return left
