"""The ladder of precisions bf16 -> bf16x3 -> fp32 -> fp64, and on which rung a solution should start.

A factor in low precision is of H + E, with H = D A D scaled to a unit diagonal. It preconditions well while E is small
beside the smallest pivots of H, and breaks down where it is not. Both sizes can be seen in a Cholesky factor of a
small principal submatrix: how far the pivots fall from its middle to its end tells how far they will fall in all,
and the rows of the factor tell how rounding errors add up.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import expm1, log, log1p, sqrt

import numpy as np

from tilewright.kernels import table
from tilewright.kernels.threads import one_thread
from tilewright.pages import room
from tilewright.precision import FORMATS

__all__ = ["ON_CPU", "RUNGS", "Estimate", "estimate", "judge", "price", "rungs_from", "sample"]

RUNGS = ("bf16", "bf16x3", "fp32", "fp64")

ON_CPU = ("bf16", "fp32", "fp64")
"""Those that ``precision="auto"`` takes on a CPU. There a factor in bf16x3, three products on AMX and the splitting of
their operands, took 1.4 to 1.9 times as long as one in FP32."""

#            unit roundoff of the operands of products
ROUNDOFF = {name: FORMATS[name].u for name in ("bf16", "fp16", "tf32", "bf16x3", "fp32", "fp64")}

MARGIN = {"bf16": 6.0, "bf16x3": 6.0, "fp32": 30.0}
"""Pivots have to be that many times larger than the rounding errors: then refinement takes some 10 steps."""

ROWS_A_STEP = {"bf16x3": 400, "fp32": 400, "fp64": 200}
"""A factor takes as long as n over that many steps of conjugate gradients: n^3 flops against n^2 numbers to read.
Measured on two cores with AMX at n = 4096 and 8192. No clock is asked, so that the path does not depend on the hour."""

_AFTERWARDS = 4  # steps with the next factor

SMALL = 1024
"""Below, FP64 takes a few milliseconds, and the rungs under it no less."""

_RUNS = 4  # contiguous runs of rows in the sample: near neighbours see each other, and all parts of the matrix count
_SAMPLE = 1024
_ROWS = 32  # of the sample's factor, to see how rounding errors add up


@dataclass(frozen=True)
class Estimate:
    """What the principal submatrix says.

    Attributes
    ----------
    pivot
        Smallest pivot of H = D A D to expect, where the largest is 1; 0 if the submatrix is not positive definite.
    spread
        How rounding errors add up: E is about ``spread`` u in norm.
    rung
        Where to start.
    """

    pivot: float
    spread: float
    rung: str


def sample(n: int) -> np.ndarray:
    """Rows of the principal submatrix: n/8 of them, at most 1024, in four runs."""
    size = min(n, max(_RUNS, min(n // 8, _SAMPLE)))
    length = -(-size // _RUNS)
    starts = np.linspace(0, n - length, _RUNS).astype(int) if n > size else np.array([0])
    rows = (starts[:, None] + np.arange(length if n > size else n)).ravel()
    return np.unique(rows)


def estimate(a: np.ndarray, available: tuple[str, ...] = ON_CPU) -> Estimate:
    """On which rung to start with the Hermitian matrix ``a``, of which the lower triangle is read. (n/8)^3/3 flops.

    Where the eigenvectors are random, the pivot at a share t of the rows is 1 / S(-t), with S the S-transform of the
    distribution of eigenvalues [1]_; for eigenvalues in geometric progression that is a formula. The condition for
    which its pivots fall as far as those of the sample gives the last pivot of all.

    .. [1] D. Voiculescu, Multiplication of certain non-commuting random variables, J. Operator Theory 18 (1987), has S;
       that pivots follow it was checked against factors.
    """
    rows = sample(len(a))
    return judge(_principal(a, rows), len(a), available)


def _principal(a: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The lower triangle of the principal submatrix, run by run of rows; there may be anything above it."""
    starts = np.flatnonzero(np.diff(rows, prepend=-2) != 1)
    runs = [slice(s, e) for s, e in zip(starts, [*starts[1:], len(rows)], strict=True)]
    part = room((len(rows), len(rows)), a.dtype)
    for k, across in enumerate(runs):
        for down in runs[: k + 1]:
            part[across, down] = a[_stretch(rows[across]), _stretch(rows[down])]
    return part


def _stretch(rows: np.ndarray) -> slice:
    return slice(int(rows[0]), int(rows[-1]) + 1)


def judge(part: np.ndarray, n: int, available: tuple[str, ...] = RUNGS) -> Estimate:
    """`estimate` from the principal submatrix with the rows of `sample`, which is overwritten."""
    h = part
    with np.errstate(all="ignore"):
        d = 1 / np.sqrt(part.diagonal().real)
        h *= d
        h *= d[:, None]
    potrf = table.lookup("potrf", "cpu", str(h.dtype), str(h.dtype)).function
    with one_thread():  # 10 ms; a library's own threads would wait for each other longer where cores are shared
        info = potrf(h)
    diagonal = h.diagonal().real
    if info or not (np.isfinite(diagonal).all() and np.isfinite(np.tril(h[-_ROWS:], len(h) - _ROWS)).all()):
        return Estimate(0.0, 1.0, available[-1])
    size = len(part)
    logs = 2 * np.log(diagonal)
    window = max(1, size // 8)
    middle, end = logs[size // 2 - window // 2 :][:window].mean(), logs[-window:].mean()
    share = size / n * (1 - window / (2 * size))
    fall = float(end - middle)
    pivot = float(np.exp(min(end, logs.min()) if share >= 0.4 else end)) * _further(fall, share)
    tail = np.abs(np.tril(h[-min(window, _ROWS) :], size - min(window, _ROWS))) ** 2
    overlap = np.sqrt((tail @ tail.T)[np.tril_indices(len(tail), -1)])  # of row i with row j: sqrt(sum_k l_ik^2 l_jk^2)
    spread = max(1.0, sqrt(n) * float(overlap.mean())) if overlap.size else 1.0
    rung = next(
        (name for name in available if name == "fp64" or pivot > MARGIN.get(name, 6.0) * ROUNDOFF[name] * spread),
        available[-1],
    )
    return Estimate(pivot, spread, rung)


def _log_pivot(t: float, decades: float) -> float:
    """log of the pivot at share t for eigenvalues from 1 to exp(-decades) in geometric progression, mean not scaled."""
    if decades * t < 1e-9:
        return 0.0
    grown = expm1(decades * t)  # (1 + w) / (1 + w/kappa) = kappa^t
    w = grown / (1 - (grown + 1) * np.exp(-decades))
    return log(t) - log1p(-t) - log(w)


def _further(fall: float, share: float) -> float:
    """The last pivot over the one at ``share``, if the logarithms of the pivots fell by ``fall`` since its half."""
    if fall >= 0 or share >= 1:
        return 1.0
    low, high = 1e-3, 80.0
    for _ in range(60):
        decades = (low + high) / 2
        if _log_pivot(share, decades) - _log_pivot(share / 2, decades) > fall:
            low = decades
        else:
            high = decades
    last = log(decades) - decades - log1p(-np.exp(-decades))  # harmonic mean
    return float(min(1.0, np.exp(last - _log_pivot(share, decades))))


def price(rung: str, n: int) -> float:
    """What a solution from this rung costs on a CPU, in steps of conjugate gradients with the factor that is there."""
    return n / ROWS_A_STEP[rung] + _AFTERWARDS


def rungs_from(precision: str, fallback: bool, available: tuple[str, ...] = RUNGS) -> tuple[str, ...]:
    """The rungs to try in turn: ``precision`` and, with ``fallback``, the more exact ones."""
    if not fallback:
        return (precision,)
    above = tuple(name for name in available if ROUNDOFF[name] < ROUNDOFF[precision])
    return (precision, *above)
