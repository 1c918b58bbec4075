"""The story of a solution: the rungs that were tried, how it converged, how good it is and what it took."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tilewright.door import upstairs
from tilewright.linalg.ladder import Estimate
from tilewright.linalg.refinement import ITERATIONS
from tilewright.runs.run import Run

__all__ = ["Attempt", "SolveInfo"]


@dataclass(frozen=True)
class Attempt:
    """One rung of the ladder."""

    precision: str
    status: str
    """``converged``, or why not: ``overflow``, ``breakdown``, ``slow``, ``stalled``, ``diverged``, ``indefinite``,
    ``unavailable``."""
    iterations: int = 0
    method: str = ""
    """How it was refined; two names with a plus if a second method took over."""
    order: int = 0
    """The order of the leading minor, or the number of the pivot, at which the factorisation broke down."""
    shift: float = 0.0
    """What was added to the unit diagonal."""
    reason: str = ""

    @property
    def code(self) -> int:
        """LAPACK's ITER: the iterations, or -1 for a precision this machine has not, -2 for an overflow, -3 for a
        factorisation that broke down, -31 for refinement that did not converge."""
        known = {"converged": self.iterations, "unavailable": -1, "overflow": -2, "breakdown": -3}
        return known.get(self.status, -(ITERATIONS + 1))

    def __str__(self) -> str:
        if self.status == "breakdown" and self.method == "lu":
            what = f"has a zero for pivot {self.order}"
        elif self.status == "breakdown":
            what = f"breaks down at the leading minor of order {self.order}"
        elif self.status in ("overflow", "unavailable"):
            what = self.status
        else:
            what = f"{self.status} after {self.iterations} {self.method} iteration{'s' * (self.iterations != 1)}"
        return f"{self.precision} {what}" + (f" ({self.code})" if self.code < 0 else "")


@dataclass(repr=False)
class SolveInfo:
    """How a solution was found and how good it is. Print it.

    Examples
    --------
    >>> import numpy as np, tilewright as tw
    >>> x, info = tw.solve(2 * np.eye(3), np.ones(3), precision="fp32", return_info=True)
    >>> info.precision, info.backward_error < 3 * 2.0**-53
    ('fp32', True)
    """

    n: int
    """Order of the matrix."""
    right_hand_sides: int
    """How many, of all matrices of a stack together."""
    dtype: str
    """That of the solution."""
    path: tuple[Attempt, ...] = ()
    """What was tried, in order; the last one succeeded if any did."""
    backward_errors: np.ndarray = field(default_factory=lambda: np.zeros(0))
    """One for each right-hand side."""
    residuals: list[float] = field(default_factory=list)
    """After each iteration of all rungs: the largest ||r||_inf / (||A||_inf ||x||_inf)."""
    criterion: float = 0.0
    """max ||r||_inf / (sqrt(n) u ||A||_inf ||x||_inf): LAPACK's dsposv stops at 1; above, FP64 went no further."""
    hpl_mxp_residual: float = 0.0
    """Backward error over n u; HPL-MxP accepts up to 16, we up to 1."""
    times: dict[str, float] = field(default_factory=dict)
    """Seconds: ``check``, ``estimate``, ``factor``, ``refine``, ``total``."""
    estimate: Estimate | None = None
    """What ``precision="auto"`` went by."""
    precision_map: Any = None
    """The format of every tile of the last factor."""
    factor_run: Run | None = None
    """The `Run` of the last factorisation."""
    messages: int = 0
    """How many went between ranks."""
    bytes: int = 0
    """In those messages."""
    structure: str = "pos"
    """``"pos"``, or ``"gen"`` for a general matrix, solved by LU."""
    growth: float | None = None
    """Growth in the LU factor: max |u_ij| / max |a_ij|."""
    rcond: float | None = None
    """Estimate of 1 / (||A||_1 ||A^-1||_1), from the LU factor."""

    @property
    def precision(self) -> str:
        """The precision of the factor that led to the solution."""
        return self.path[-1].precision if self.path else ""

    @property
    def iterations(self) -> int:
        """Refinement steps of all rungs."""
        return sum(attempt.iterations for attempt in self.path)

    @property
    def backward_error(self) -> float:
        """max_j ||b_j - A x_j||_inf / (||A||_inf ||x_j||_inf + ||b_j||_inf)."""
        return float(self.backward_errors.max(initial=0))

    @property
    def code(self) -> int:
        """LAPACK's ITER, of the rung where it began: how many iterations, or why that rung was left."""
        return self.path[0].code if self.path else 0

    @property
    def flops(self) -> float:
        """n^3/3 + 2 n^2 m, those of a solution without refinement: what rates count. 2/3 n^3 + 2 n^2 m by LU."""
        return self._factor_flops + 2.0 * self.n**2 * self.right_hand_sides

    @property
    def _factor_flops(self) -> float:
        return self.n**3 / 3 * (2 if self.structure != "pos" else 1)

    @property
    def gflops(self) -> float:
        """10^9 `flops` per second, with everything."""
        return self.flops / self.times["total"] / 1e9 if self.times.get("total") else 0.0

    @property
    def factor_gflops(self) -> float:
        """10^9 flops of one factorisation per second of all factorisations, without refinement."""
        return self._factor_flops / self.times["factor"] / 1e9 if self.times.get("factor") else 0.0

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        attempts = [
            {name: getattr(attempt, name) for name in (*Attempt.__dataclass_fields__, "code")} for attempt in self.path
        ]
        names = (
            "n",
            "right_hand_sides",
            "dtype",
            "precision",
            "code",
            "iterations",
            "backward_error",
            "residuals",
            "criterion",
            "hpl_mxp_residual",
            "times",
            "gflops",
            "factor_gflops",
            "messages",
            "bytes",
        )
        return {**{name: getattr(self, name) for name in names}, "path": attempts}

    def __repr__(self) -> str:
        path = " -> ".join(map(str, self.path))
        return (
            f"SolveInfo(n={self.n}, right_hand_sides={self.right_hand_sides}, path={path!r}, "
            f"backward_error={self.backward_error:.2e})"
        )

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return str(upstairs("plot.cards:text")(str(self)))

    def __str__(self) -> str:
        path = "\n          ".join(map(str, self.path)) or "nothing to do"
        times = ", ".join(f"{name} {1e3 * seconds:.1f} ms" for name, seconds in self.times.items())
        limit = "(<= 1)" if self.criterion <= 1 else "(1 is below the rounding errors of an FP64 residual)"
        rows = [
            f"solve     n = {self.n}, {self.right_hand_sides} right-hand sides, {self.dtype}",
            f"path      {path}",
            f"accuracy  backward error {self.backward_error:.2e}; LAPACK's criterion {self.criterion:.2g} {limit}; "
            f"HPL-MxP residual {self.hpl_mxp_residual:.2g} (<= 16)",
            f"times     {times}",
            f"rates     {self.gflops:.4g} GFLOP/s, the factorisation alone {self.factor_gflops:.4g}",
        ]
        if self.estimate is not None:
            guess = self.estimate
            rows.insert(
                1, f"estimate  last pivot {guess.pivot:.1e}, errors add up to {guess.spread:.1f} u: {guess.rung}"
            )
            for price in reversed(guess.prices):
                why = f"; {price.reason}" if price.reason and price.steps else ""
                rows.insert(2, f"predicted {price}{why}")
        if self.growth is not None and self.rcond is not None:
            rows.append(f"LU        growth {self.growth:.3g}, rcond {self.rcond:.1e}")
        if self.messages:
            rows.append(f"moved     {self.messages} messages, {self.bytes} bytes")
        return "\n".join(rows)
