"""The ladder of precisions bf16 -> bf16x3 -> fp32 -> fp64, and on which rung a solution should start.

A factor in low precision is of H + E, with H = D A D scaled to a unit diagonal. It preconditions well while E is small
beside the smallest pivots of H, and breaks down where it is not. Both sizes can be seen in a Cholesky factor of a
small principal submatrix: how far the pivots fall from its middle to its end tells how far they will fall in all,
and the rows of the factor tell how rounding errors add up.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import expm1, inf, log, log1p, sqrt

import numpy as np

from tilewright.host.memory import room
from tilewright.kernels import table
from tilewright.kernels.caches import FALLBACK
from tilewright.kernels.threads import limits, one_thread
from tilewright.linalg.tuning import cholesky_tile_size, mixed_tile_size
from tilewright.precision import FORMATS
from tilewright.rates import Rates

__all__ = [
    "ON_CPU",
    "RUNGS",
    "Estimate",
    "Price",
    "cheapest",
    "estimate",
    "factor_seconds",
    "judge",
    "last_pivot",
    "price",
    "rungs_from",
    "sample",
    "step_seconds",
    "stretches",
]

RUNGS = ("bf16", "bf16x3", "fp32", "fp64")

ON_CPU = ("bf16", "fp32", "fp64")
"""Those that ``precision="auto"`` takes on a CPU: bf16x3 is slower than FP32 and less exact on all that we know."""

#            unit roundoff of the operands of products
ROUNDOFF = {name: FORMATS[name].u for name in ("bf16", "fp16", "tf32", "bf16x3", "fp32", "fp64")}

MARGIN = {"bf16": 6.0, "bf16x3": 6.0, "fp32": 30.0}
"""Pivots have to be that many times larger than the rounding errors: then refinement takes some 10 steps."""

AFTERWARDS = 4
"""Steps that a solution takes with the next factor, where the last one did not lead to it."""

SMALL = 1024
"""Below, FP64 takes a few milliseconds, and the rungs under it no less."""

_RUNS = 4  # contiguous runs of rows in the sample: near neighbours see each other, and all parts of the matrix count
_SAMPLE = 1024
_ROWS = 32  # so many of the sample's factor show how rounding errors add up


@dataclass(frozen=True)
class Price:
    """What a solution from one rung is predicted to take, in seconds."""

    rung: str
    factor: float
    step: float
    """One step of refinement."""
    steps: int
    """How many steps are expected; 0 where the pivots do not allow this rung."""
    reason: str = ""
    """Why its products have this rate."""

    @property
    def seconds(self) -> float:
        """Infinite where the rung is not allowed."""
        return self.factor + self.steps * self.step if self.steps else inf

    def __str__(self) -> str:
        if not self.steps:
            return f"{self.rung} not allowed by the pivots"
        return f"{self.rung} {1e3 * self.seconds:.3g} ms ({self.steps} x {1e3 * self.step:.3g} ms after the factor)"


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
    prices
        What was compared; nothing where the lowest rung that the pivots allow was taken.
    """

    pivot: float
    spread: float
    rung: str
    prices: tuple[Price, ...] = ()

    def allows(self, rung: str) -> bool:
        """Whether the pivots stand out from the rounding errors of that precision."""
        return rung == "fp64" or self.pivot > MARGIN.get(rung, 6.0) * ROUNDOFF[rung] * self.spread

    def steps(self, rung: str, n: int) -> int:
        """Steps of conjugate gradients to expect, or of classical refinement in FP64: one.

        With a preconditioner that is off by e = u spread / pivot the condition is (1 + e) / (1 - e), and a step gains a
        factor of 2 / e at least, and 4 / e as the spectrum of the errors is. Observed at n = 1536 to 6144: 5 and 6 from
        bf16 at conditions 1e1 and 1e2, 3 from fp32 up to 1e4, 5 at 1e6.
        """
        if rung == "fp64":
            return 1
        gain = max(4 * self.pivot / (ROUNDOFF[rung] * self.spread), 1.01) if self.pivot > 0 else 1.01
        return max(3, int(-log(sqrt(n) * ROUNDOFF["fp64"]) / log(gain)))


def sample(n: int, most: int = _SAMPLE) -> np.ndarray:
    """Rows of the principal submatrix: n/8 of them, at most 1024, in four runs."""
    size = min(n, max(_RUNS, min(n // 8, most)))
    length = -(-size // _RUNS)
    starts = np.linspace(0, n - length, _RUNS).astype(int) if n > size else np.array([0])
    rows = (starts[:, None] + np.arange(length if n > size else n)).ravel()
    return np.unique(rows)


def estimate(a: np.ndarray, available: tuple[str, ...] = ON_CPU) -> Estimate:
    """The lowest rung that the Hermitian matrix ``a`` allows; its lower triangle is read. (n/8)^3/3 flops.

    Whether that is the quickest, `cheapest` says.

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
    runs = stretches(rows)
    part = room((len(rows), len(rows)), a.dtype)
    for k, across in enumerate(runs):
        for down in runs[: k + 1]:
            part[across, down] = a[_stretch(rows[across]), _stretch(rows[down])]
    return part


def stretches(rows: np.ndarray) -> list[slice]:
    """Where in ``rows`` its runs of neighbours are."""
    starts = np.flatnonzero(np.diff(rows, prepend=-2) != 1)
    return [slice(s, e) for s, e in zip(starts, [*starts[1:], len(rows)], strict=True)]


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
    #   10 ms; a library's own threads would wait for each other longer where cores are shared
    with limits(False), one_thread():
        info = potrf(h)
    diagonal = h.diagonal().real
    if info or not (np.isfinite(diagonal).all() and np.isfinite(np.tril(h[-_ROWS:], len(h) - _ROWS)).all()):
        return Estimate(0.0, 1.0, available[-1])
    size = len(part)
    window = max(1, size // 8)
    pivot = last_pivot(2 * np.log(diagonal), n)
    tail = np.abs(np.tril(h[-min(window, _ROWS) :], size - min(window, _ROWS))) ** 2
    overlap = np.sqrt((tail @ tail.T)[np.tril_indices(len(tail), -1)])  # row i with row j: sqrt(sum_k l_ik^2 l_jk^2)
    spread = max(1.0, sqrt(n) * float(overlap.mean())) if overlap.size else 1.0
    guess = Estimate(pivot, spread, available[-1])
    return replace(guess, rung=next(filter(guess.allows, available), available[-1]))


def last_pivot(logs: np.ndarray, n: int) -> float:
    """The last pivot of n to expect from the logarithms of those of a principal submatrix."""
    size = len(logs)
    window = max(1, size // 8)
    middle, end = logs[size // 2 - window // 2 :][:window].mean(), logs[-window:].mean()
    share = size / n * (1 - window / (2 * size))
    fall = float(end - middle)
    return float(np.exp(min(end, logs.min()) if share >= 0.4 else end)) * _further(fall, share)


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


Seconds = Callable[[str, int, int, Rates], float]


def cheapest(
    guess: Estimate,
    n: int,
    workers: int,
    rates: Rates,
    available: tuple[str, ...] = ON_CPU,
    costs: tuple[Seconds, Seconds] | None = None,
) -> Estimate:
    """Start on the rung with the least predicted time; of two that take as long, on the more exact one.

    ``costs`` are the seconds of a factor and of a step, by default `factor_seconds` and `step_seconds`.
    """
    factor, step = costs or (factor_seconds, step_seconds)
    prices = tuple(
        Price(
            rung,
            factor(rung, n, workers, rates),
            step(rung, n, workers, rates),
            guess.steps(rung, n) if guess.allows(rung) else 0,
            rates.reasons.get(rung, ""),
        )
        for rung in available
    )
    best = min(reversed(prices), key=lambda price: price.seconds)
    return replace(guess, rung=best.rung, prices=prices)


_COPIED = {"fp64": 12}  # bytes for each element of A, to fill the tiles of a factor
_SCALED = 15  # the same with scaling and conversion to FP32; Xeon, n = 8192: 57 ms on two cores
_NARROWED = 3  # more, where operands are narrow
_BLOCK = 256  # columns of a diagonal block, in which factors with narrow operands work in FP32 ...
_TRSM = 0.65  # ... by trsm, at that share of the rate of products
_READ = {"fp64": 16, "fp32": 8, "tf32": 8, "bf16x3": 8, "bf16": 6, "fp16": 8}  # bytes of A and twice L for each a_ij


def factor_seconds(rung: str, n: int, workers: int, rates: Rates) -> float:
    """Predicted time of a factor: its products, what is done to each element once, and what tasks add.

    n^3/3 / (rate of products) + n^2 256 / (rate of FP32 trsm) + n^2 bytes / bandwidth + tasks, where the second term is
    for narrow operands only. Fits what a Xeon with AMX took at n = 1536 to 6144 within 30 %.
    """
    exact = rung == "fp64"
    # Ranks have agreed on the rates; their caches may differ, and hardly change the number of tasks
    nb = cholesky_tile_size(n, workers, rates=rates, cache=FALLBACK) if exact else mixed_tile_size(n, workers)
    nt = -(-n // max(nb, 1))
    seconds = n**3 / 3 / rates.computing(rung, workers) + (nt**3 / 6 + 1.5 * nt**2) * rates.task
    if rung in ("bf16", "fp16"):
        seconds += n**2 * _BLOCK / (_TRSM * rates.computing("fp32", workers))
    moved = _COPIED.get(rung, _SCALED) + (_NARROWED if rung in ("bf16", "fp16", "bf16x3") else 0)
    return seconds + n**2 * moved / rates.moving(workers)


def step_seconds(rung: str, n: int, workers: int, rates: Rates) -> float:
    """Predicted time of a step of refinement: the bytes of A and of the factor, twice, and what tasks add."""
    nt = -(-n // max(mixed_tile_size(n, workers), 1))
    return n**2 * _READ[rung] / rates.moving(workers) + (1.5 * nt**2 + 8 * nt) * rates.task


def price(rung: str, below: str, n: int, workers: int, rates: Rates) -> float:
    """What a solution from this rung costs, in steps with the factor of the rung ``below`` that is there."""
    return factor_seconds(rung, n, workers, rates) / step_seconds(below, n, workers, rates) + AFTERWARDS


def rungs_from(precision: str, fallback: bool, available: tuple[str, ...] = RUNGS) -> tuple[str, ...]:
    """The rungs to try in turn: ``precision`` and, with ``fallback``, the more exact ones."""
    if not fallback:
        return (precision,)
    above = tuple(name for name in available if ROUNDOFF[name] < ROUNDOFF[precision])
    return (precision, *above)
