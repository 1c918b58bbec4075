"""On which rung a solution of a general system should start: what a sample of the matrix says, and what rungs cost.

The columns of a sample say how far pivots fall: those of A^T A, restricted to them, fall as the pivots of a positive
definite matrix do (`tilewright.linalg.ladder`), and the square root of the last one is the distance of the last column
from the span of the others. An LU factorisation of the square part of the sample says how rounding errors add up.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import log, sqrt
from typing import Any

import numpy as np

from tilewright.kernels import table
from tilewright.kernels.threads import limits, one_thread
from tilewright.linalg.equilibrate import Scaling
from tilewright.linalg.ladder import ON_CPU, ROUNDOFF, Estimate, last_pivot, sample, stretches
from tilewright.linalg.tuning import lu_plan, mixed_lu_tile_size
from tilewright.rates import Rates

__all__ = ["GeneralEstimate", "estimate", "factor_seconds", "price", "step_seconds"]

_SAMPLE = 256  # columns
_TAIL = 32  # rows of L and columns of U of the sample that show how rounding errors add up

MARGIN = {"fp32": 10.0}
"""So many times larger than the rounding errors the last pivot has to be; `NARROW` times where products are narrow."""

NARROW = 30.0
"""The sample sees how far pivots fall, not how many singular values are small. Each that is below the rounding
errors costs a step, and on 8 bits that may be many."""

AFTERWARDS = 4
"""Steps that a solution takes with the next factor, where the last one did not lead to it."""


@dataclass(frozen=True)
class GeneralEstimate(Estimate):
    """What a sample of D A E says. ``pivot`` is the distance of a last column from the span of the others."""

    def allows(self, rung: str) -> bool:
        return rung == "fp64" or self.pivot > MARGIN.get(rung, NARROW) * ROUNDOFF[rung] * self.spread

    def steps(self, rung: str, n: int) -> int:
        """Steps to expect of classical refinement or, where that is slow, of GMRES; one in FP64.

        With e = u spread / pivot a step gains a factor of 1 + 2/e. Observed at n = 1024: 4 steps at e = 0.007, 6 at
        0.03, 16 at 0.3, 23 at 1.2.
        """
        if rung == "fp64":
            return 1
        gain = 1.01 + 2 * self.pivot / (ROUNDOFF[rung] * self.spread)
        return max(3, int(-log(sqrt(n) * ROUNDOFF["fp64"]) / log(gain)) + 1)


def estimate(a: np.ndarray, scaling: Scaling) -> GeneralEstimate:
    """How far pivots of D A E fall and rounding errors add up, by n/8 of its columns, at most 256.

    n k^2 flops in FP32 for k columns. Whether a rung pays, `tilewright.linalg.ladder.cheapest` says.
    """
    n = len(a)
    columns = sample(n, _SAMPLE)
    part = np.empty((n, len(columns)), np.float32)
    for run in stretches(columns):
        across = slice(int(columns[run][0]), int(columns[run][-1]) + 1)
        np.multiply(
            a[:, across], scaling.rows[:, None] * scaling.columns[across], out=part[:, run], casting="same_kind"
        )
    with limits(False), one_thread(), np.errstate(all="ignore"):
        gram = (part.T @ part).astype(np.float64)
        square = np.asfortranarray(part[columns], np.float64)
        pivot, spread = _last_distance(gram, n), _spread(square, n)
    guess = GeneralEstimate(pivot, spread, "fp64") if np.isfinite(spread) else GeneralEstimate(0.0, 1.0, "fp64")
    return replace(guess, rung=next(filter(guess.allows, ON_CPU)))


def _last_distance(gram: np.ndarray, n: int) -> float:
    """How far the last column is from the span of the others, relative to its length; 0 where it depends on them."""
    d = 1 / np.sqrt(gram.diagonal())
    gram *= d
    gram *= d[:, None]
    info = _kernel("potrf", gram)(gram)
    diagonal = gram.diagonal()
    if info or not (np.isfinite(diagonal).all() and (diagonal > 0).all()):
        return 0.0
    return sqrt(last_pivot(2 * np.log(diagonal), n))


def _spread(b: np.ndarray, n: int) -> float:
    """How rounding errors of an LU factorisation add up in norm, in units of u and of the norm of a column."""
    size = len(b)
    norm = sqrt(float(np.square(b).mean())) or 1.0
    pivots = np.zeros(size, np.int32)
    _kernel("getrf", b, True)([b], pivots)
    tail = min(_TAIL, size)
    lower = np.tril(b, -1)[-tail:] + np.eye(size)[-tail:]
    products = np.square(lower) @ np.square(np.triu(b)[:, -tail:])  # sum_k l_ik^2 u_kj^2
    return max(1.0, sqrt(n / size) * float(np.sqrt(products).mean()) / norm)


def _kernel(op: str, a: np.ndarray, group: bool = False) -> Any:
    dtype = str(a.dtype)
    return table.lookup(op, "cpu", *((f"{dtype}", "any") if group else (dtype, dtype))).function


# ------------------------------------------------------------------ prices

_SCALED = 40  # bytes for each element of A: equilibrated, scaled, transposed on the way to FP32
_NARROWED = 3  # more, where operands are narrow
_PANELS = 0.4  # the rate of panels and substitutions over that of FP32 products
_SOLVED = 60  # bytes for each element of an FP64 factor: copied, substituted with, its condition estimated


def factor_seconds(rung: str, n: int, workers: int, rates: Rates) -> float:
    """Predicted time of a factor: products, panels, what is done to each element once, and what tasks add.

    2/3 n^3 / (rate of products) + n^2 nb / (rate of panels) + n^2 bytes / bandwidth + tasks. For FP64 with all that the
    solution takes beside it.
    """
    exact = rung == "fp64"
    nb = lu_plan(n, workers, True)[0] if exact else mixed_lu_tile_size(n, workers)
    nt = -(-n // max(nb, 1))
    panels = rates.computing("fp64" if exact else "fp32", workers) * _PANELS
    seconds = 2 / 3 * n**3 / rates.computing(rung, workers) + n**2 * nb / panels + (nt**3 / 3 + 3 * nt**2) * rates.task
    moved = _SOLVED if exact else _SCALED + (_NARROWED if rung in ("bf16", "fp16", "bf16x3") else 0)
    return seconds + n**2 * moved / rates.moving(workers)


def step_seconds(rung: str, n: int, workers: int, rates: Rates) -> float:
    """Predicted time of a step of refinement: the bytes of A and of the factor, and what tasks add."""
    nt = -(-n // max(mixed_lu_tile_size(n, workers), 1))
    read = 8 if rung == "fp64" else 12
    return n**2 * read / rates.moving(workers) + (2 * nt**2 + 8 * nt) * rates.task


def price(rung: str, below: str, n: int, workers: int, rates: Rates) -> float:
    """What a solution from this rung costs, in steps with the factor of the rung ``below`` that is there."""
    return factor_seconds(rung, n, workers, rates) / step_seconds(below, n, workers, rates) + AFTERWARDS
