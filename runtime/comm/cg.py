"""Conjugate gradients in steps of s: one exchange and one reduction for s iterations.

Classical CG needs, in each iteration, one exchange for its product and two sums over all ranks. Here an outer step
first makes bases of two Krylov spaces, Y = [P_0 .. P_s, R_0 .. R_{s-1}] with P_0 = p, R_0 = r, by one exchange
(see `closure`), then their Gram matrix G = Y^H Y by one sum. In the coordinates of Y, where A Y c = Y B c, s iterations
of CG need vectors of 2 s + 1 numbers only [1]_.

In exact arithmetic that is CG. In floating point it is as good as the basis: the *monomial* one, P_k = A^k p, turns
towards one eigenvector and loses its rank; polynomials chosen for the spectrum lose it much later:

===========  ==============================================================================
basis        P_k, with Ritz values of A from 2 s iterations of classical CG
===========  ==============================================================================
monomial     A P_{k-1}
newton       (A - theta_k) P_{k-1} / gamma, theta the Ritz values in Leja's order
chebyshev    T_k((A - c) / d) p on the interval c +- d that the Ritz values span
===========  ==============================================================================

The condition of P_0 .. P_s, columns scaled to length 1, is computed from G and reported. Where it passes 1/sqrt(eps),
G has lost it, and s is halved, down to classical CG. When the residual that the recurrence carries has converged the
true one is computed, and if it has not the iteration starts again from it, with half the s. Only the true one counts:
of a float32 system it is computed in float64, as in float32 its rounding errors alone may be larger than a tolerance.

The iteration runs on the residual times a power of two that makes its largest entry about 1, and so nothing in it
overflows or underflows because of the scale of b or x_0 [2]_; the scale of the solution is in the updates of x alone.
Where A is very large or very small its products are scaled as well before they are summed.

.. [1] M. Hoemmen, Communication-avoiding Krylov subspace methods (2010), section 5; E. Carson, Communication-avoiding
   Krylov subspace methods in theory and practice (2015), algorithm 22.
.. [2] As LAPACK's ?latrs and LINPACK's norms: powers of two change no bit of what does not underflow.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from math import frexp, inf, isfinite, ldexp, sqrt
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from tilewright.kernels.scale import scaled

if TYPE_CHECKING:
    pass

__all__ = ["BASES", "coefficients", "Kernel", "leja", "Report", "ritz", "solve"]

BASES = ("monomial", "newton", "chebyshev")


@dataclass
class Report:
    """How a solution was found."""

    converged: bool = False
    """Whether the true residual, computed at the end, is within the tolerance."""
    iterations: int = 0
    residual: float = np.inf
    """||b - A x|| / ||b||, computed at the end."""
    residuals: list[float] = field(default_factory=list)
    """||r|| of the recurrence before each iteration and after the last."""
    s: int = 1
    """Iterations per exchange at the end: less than asked for if the basis was too ill-conditioned."""
    basis: str = "monomial"
    conditions: list[float] = field(default_factory=list)
    """Condition of P_0 .. P_s in each outer step."""
    exchanges: int = 0
    """How often ranks sent each other parts of vectors."""
    reductions: int = 0
    """How many sums over all ranks there were."""
    restarts: int = 0
    """How often the true residual had not converged with that of the recurrence."""

    @property
    def condition(self) -> float:
        """The worst condition of a basis; 1 if there was none."""
        return max(self.conditions, default=1.0)

    def __str__(self) -> str:
        state = "converged" if self.converged else "NOT converged"
        return (
            f"{state}: {self.iterations} iterations, residual {self.residual:.2e}, {self.exchanges} exchanges, "
            f"{self.reductions} reductions; s = {self.s}, {self.basis} basis of condition {self.condition:.1e}, "
            f"{self.restarts} restarts"
        )


class Kernel(Protocol):
    """What the iteration needs of an engine. Vectors are the parts that this process has."""

    def product(self, v: np.ndarray) -> np.ndarray:
        """A v, in a new array."""

    def basis(self, v: np.ndarray, s: int, coefficients: np.ndarray) -> np.ndarray:
        """(s + 1, m, k) levels of the recurrence from v, (m, k)."""

    def gram(self, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        """u^H v, summed over the ranks in their order."""

    def lengths(self, v: np.ndarray) -> list[tuple[float, int]]:
        """`length` of each rank's part of v, in their order."""


# ------------------------------------------------------------------ lengths


def length(v: np.ndarray) -> tuple[float, int]:
    """(square, e) with ||v||^2 = square 4^e and e such that the largest entry of v is near 2^e.

    Sums are in float64. A NaN or an infinity makes the square one.
    """
    top = float(np.abs(v).max(initial=0))
    if not top or not isfinite(top):
        return top * top, 0
    exponent = frexp(top)[1]
    small = scaled(v, -exponent).astype(np.result_type(v.dtype, np.float64), copy=False)
    return float(np.vdot(small, small).real), exponent


def total(parts: list[tuple[float, int]]) -> tuple[float, int]:
    """(length, e): ||v|| is length 2^e, for the `length` of each part of v. Infinite if some part is not finite."""
    if not all(isfinite(square) for square, _ in parts):
        return inf, 0
    exponent = max((e for square, e in parts if square), default=0)
    return sqrt(sum(ldexp(square, 2 * (e - exponent)) for square, e in parts if square)), exponent


# ------------------------------------------------------------------ bases


def ritz(alphas: list[float], betas: list[float]) -> np.ndarray:
    """Ritz values, ascending, from the coefficients of CG: eigenvalues of Lanczos' tridiagonal matrix."""
    alpha, beta = np.array(alphas), np.array(betas[: len(alphas) - 1])
    diagonal = 1 / alpha
    diagonal[1:] += beta / alpha[:-1]
    off = np.sqrt(beta) / alpha[:-1]
    values: np.ndarray = np.linalg.eigvalsh(np.diag(diagonal) + np.diag(off, 1) + np.diag(off, -1))
    return values


def leja(points: np.ndarray, count: int) -> np.ndarray:
    """``count`` of the points, each the one whose product of distances to those before it is largest.

    Examples
    --------
    >>> from tilewright.comm.cg import leja
    >>> leja(np.array([1.0, 2.0, 3.0, 9.0]), 3)
    array([9., 1., 3.])
    """
    chosen = [float(points[np.argmax(np.abs(points))])]
    while len(chosen) < count:
        distances = np.abs(points[:, None] - np.array(chosen))
        with np.errstate(divide="ignore"):
            logs = np.log(distances).sum(axis=1)
        if not np.isfinite(logs.max()):  # fewer points than wanted: use them again
            return np.resize(np.array(chosen), count)
        chosen.append(float(points[np.argmax(logs)]))
    return np.array(chosen[:count])


def coefficients(basis: str, s: int, values: np.ndarray | None, scale: int = 0) -> np.ndarray:
    """(s, 3) rows (theta, sigma, gamma): P_k = (A P_{k-1} - theta P_{k-1} - sigma P_{k-2}) / gamma.

    ``values`` are Ritz values, ascending; the monomial basis needs none, but A 2^-``scale`` of middling size.
    """
    rows = np.zeros((s, 3))
    rows[:, 2] = _ldexp(1.0, scale)
    if basis == "monomial" or values is None:
        return rows
    low, high = float(values[0]), float(values[-1])
    if basis == "newton":
        rows[:, 0] = leja(values, s)
        rows[:, 2] = max((high - low) / 4, 1e-3 * high)  # the capacity of the interval keeps the lengths
        return rows
    low, high = max(0.0, low - 0.05 * (high - low)), high + 0.05 * (high - low)
    centre, half = (high + low) / 2, max((high - low) / 2, 1e-3 * high)
    rows[:] = centre, half / 2, half / 2  # T_k = 2 z T_{k-1} - T_{k-2}, z = (A - c) / d
    rows[0] = centre, 0, half  # T_1 = z
    return rows


def _change_of_basis(rows: np.ndarray) -> np.ndarray:
    """B with A Y c = Y B c, for the two bases side by side: s + 1 and s columns."""
    s = len(rows)
    matrix = np.zeros((2 * s + 1, 2 * s + 1))
    for first, steps in ((0, s), (s + 1, s - 1)):
        for k in range(1, steps + 1):
            theta, sigma, gamma = rows[k - 1]
            column = first + k - 1
            matrix[column + 1, column] = gamma
            matrix[column, column] = theta
            if k > 1:
                matrix[column - 1, column] = sigma
    return matrix


def _condition(gram: np.ndarray) -> float:
    """Condition of a basis with this Gram matrix, columns scaled to length 1."""
    lengths = np.sqrt(np.maximum(np.diag(gram).real, 0))
    if not np.isfinite(gram).all() or not lengths.all():
        return float("inf")
    values = np.linalg.eigvalsh(gram / np.outer(lengths, lengths))
    return float(np.sqrt(values[-1] / values[0])) if values[0] > 0 else float("inf")


# ------------------------------------------------------------------ the iteration


class _Lost(Exception):  # noqa: N818 - not an error of the user's
    """The coordinates are no use any more."""


class _Iteration:
    """x, r and p, and what is told about them. r and p are those of the equations times 2^-``exponent``."""

    def __init__(self, kernel: Kernel, b: np.ndarray, x: np.ndarray, options: Mapping[str, Any]) -> None:
        self.kernel, self.b, self.x = kernel, b, x
        self.most: int = options["maxiter"]
        self.report = Report(s=options["s"], basis=options["basis"])
        self.alphas: list[float] = []
        self.betas: list[float] = []
        self.scale: int = options["scale"]
        self.wide = np.result_type(b.dtype, np.float64)
        self.right = self._length(b)
        self.rtol, self.atol = options["rtol"], options["atol"]

    def restart(self) -> None:
        """r := b - A x, p := r."""
        self.take(*self.residual())

    def residual(self) -> tuple[np.ndarray, tuple[float, int], int]:
        """2^shift (b - A x), in float64, the length of b - A x, and the shift.

        The shift is 0 but where b is so small or large that its digits, or terms of A x, may have no numbers.
        """
        x, shift = self.x.astype(self.wide, copy=False), 0
        if abs(self.right[1]) > _FAR:
            size, exponent = self._length(x)
            shift = -self.right[1]
            if size and isfinite(size):
                shift = min(shift, _FAR - exponent)
        r = scaled(self.b.astype(self.wide, copy=False), shift) - self.product(scaled(x, shift))
        length, exponent = self._length(r)
        return r, (length, exponent - shift), shift

    def take(self, r: np.ndarray, size: tuple[float, int], shift: int) -> None:
        """Go on from this residual, 2^shift times what it is, of this length."""
        self.length, self.exponent = size
        self.tolerance = self.goal(self.exponent)
        self.floor = self.length * float(np.finfo(self.b.dtype).eps)
        self.r = scaled(r, -self.exponent - shift).astype(self.b.dtype)
        self.p = self.r.copy()
        if not self.report.residuals:
            self._write_down()
        self.alphas.clear()
        self.betas.clear()

    def goal(self, exponent: int) -> float:
        """max(rtol ||b||, atol) 2^-exponent."""
        length, e = self.right
        return max(self.rtol * _ldexp(length, e - exponent), _ldexp(self.atol, -exponent))

    def relative(self, size: tuple[float, int]) -> float:
        """A length over that of b; as it is, if b is zero."""
        length, e = self.right
        return _ldexp(size[0] / length, size[1] - e) if length else _ldexp(*size)

    def converged(self, size: tuple[float, int]) -> bool:
        """Whether a residual of this length is within the tolerance. No NaN is."""
        return isfinite(size[0]) and size[0] <= self.goal(size[1])

    def product(self, v: np.ndarray) -> np.ndarray:
        self.report.exchanges += 1
        return self.kernel.product(v)

    def gram(self, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        self.report.reductions += 1
        return self.kernel.gram(u, v)

    def _length(self, v: np.ndarray) -> tuple[float, int]:
        self.report.reductions += 1
        return total(self.kernel.lengths(v))

    def _write_down(self) -> None:
        self.report.residuals.append(_ldexp(self.length, self.exponent))

    @property
    def done(self) -> bool:
        """Whether to look at the true residual: that of the recurrence is within the tolerance, or says nothing more.

        What is left of x_0 in the residual is rounding errors once it is eps times as large.
        """
        return self.length <= max(self.tolerance * _AIM, self.floor) or self.report.iterations >= self.most

    def _note(self, square: float) -> None:
        self.report.iterations += 1
        self.length = float(np.sqrt(max(square, 0.0)))
        self._write_down()

    def _advance(self, alpha: float) -> None:
        """x := x + alpha 2^exponent p; in one pass where that factor is a normal number."""
        kind = self.x.real.dtype.type
        info = np.finfo(kind)
        factor = kind(_ldexp(alpha, self.exponent))
        if info.tiny / info.eps <= factor <= info.max * info.eps:
            self.x += factor * self.p
        else:
            self.x += scaled(kind(alpha) * self.p, self.exponent)

    def classical(self, steps: int) -> None:
        """Up to ``steps`` iterations, as Hestenes and Stiefel wrote them."""
        square = self.length**2
        for _ in range(steps):
            if self.done:
                return
            q = self.product(self.p)
            curvature = _ldexp(float(self.gram(self.p, scaled(q, -self.scale)).real), self.scale)
            if not isfinite(curvature):
                raise _Overflow
            if not curvature > 0:
                curvature = _ldexp(curvature, 2 * self.exponent)
                raise ValueError(
                    f"A is not positive definite: p^H A p = {curvature:.3g} in iteration "
                    f"{self.report.iterations + 1} of conjugate gradients"
                )
            alpha = square / curvature
            self._advance(alpha)
            self.r -= alpha * q
            before, square = square, float(self.gram(self.r, self.r).real)
            beta = square / before
            self.p *= beta
            self.p += self.r
            self.alphas.append(alpha)
            self.betas.append(beta)
            self._note(square)
            square *= self._settle()

    def outer(self, rows: np.ndarray) -> None:
        """len(rows) iterations in the coordinates of two bases. `_Lost` if these are of no use."""
        s = len(rows)
        self.report.exchanges += 1
        levels = self.kernel.basis(np.stack([self.p, self.r], axis=1), s, rows)
        Y = np.concatenate([levels[:, :, 0], levels[:s, :, 1]]).T
        G = self.gram(Y, Y)
        condition = _condition(G[: s + 1, : s + 1])
        self.report.conditions.append(condition)
        if not condition < 1 / np.sqrt(np.finfo(Y.dtype).eps):
            raise _Lost
        B = _change_of_basis(rows)
        p, r, x = (np.zeros(2 * s + 1, G.dtype) for _ in range(3))
        p[0] = r[s + 1] = 1
        square = float((r.conj() @ G @ r).real)
        for step in range(s):
            q = B @ p
            curvature = float((p.conj() @ G @ q).real)
            if not curvature > 0 or not square > 0:
                if step == 0:
                    raise _Lost
                break
            alpha = square / curvature
            x += alpha * p
            r -= alpha * q
            before, square = square, float((r.conj() @ G @ r).real)
            p = r + square / before * p
            self._note(square)
            if self.done:
                break
        dtype = Y.dtype
        self.x += scaled(Y @ x.astype(dtype), self.exponent)
        self.r = Y @ r.astype(dtype)
        self.p = Y @ p.astype(dtype)
        self._settle()

    def _settle(self) -> float:
        """Multiply r and p by a power of two if they have become small; returns its square."""
        if not 0 < self.length < _SMALL:
            return 1.0
        shift = frexp(self.length)[1]
        self.r, self.p = scaled(self.r, -shift), scaled(self.p, -shift)
        self.exponent += shift
        self.length, self.tolerance = ldexp(self.length, -shift), self.goal(self.exponent)
        self.floor = ldexp(self.floor, -shift)
        return ldexp(1.0, -2 * shift)


_SMALL = 2.0**-24
"""Length of a residual whose square a float32 system still knows well."""

_FAR = 900
"""Binary exponent from which on sums of products in float64 may overflow, or lose digits to underflow."""

_AIM = 1 - 1e-6
"""By how much the residual of the recurrence goes below the tolerance: it is not quite the true one."""


class _Overflow(Exception):  # noqa: N818 - not an error of the user's
    """Numbers beyond the range of the dtype, because of the scale of A."""


def _ldexp(value: float, exponent: int) -> float:
    """value 2^exponent; infinite where `math.ldexp` raises."""
    with np.errstate(all="ignore"):
        return float(np.ldexp(value, exponent))


def solve(kernel: Kernel, b: np.ndarray, x: np.ndarray, options: Mapping[str, Any]) -> Report:
    """Solve A x = b from x on, in place. ``options`` are those of `cg`, all of them."""
    with np.errstate(all="ignore"):  # what overflows is found out at the end, from the true residual
        return _solve(kernel, b, x, options)


def _solve(kernel: Kernel, b: np.ndarray, x: np.ndarray, options: Mapping[str, Any]) -> Report:
    run = _Iteration(kernel, b, x, options)
    report = run.report
    if not run.right[0]:  # x = 0 solves it, whatever the start
        x[...] = 0
        report.converged, report.residual, report.residuals = True, 0.0, [0.0]
        return report
    run.restart()
    values: np.ndarray | None = None
    best = inf
    while True:
        with suppress(_Overflow):  # the true residual says what came of it
            values = _iterate(run, values)
        r, size, shift = run.residual()
        report.converged, report.residual = run.converged(size), run.relative(size)
        if report.converged or report.iterations >= run.most or not report.residual < best / 2:
            return report
        best = report.residual
        report.restarts += 1
        if run.length <= run.tolerance:  # the recurrence was wrong about it
            report.s = max(report.s // 2, 1)
        run.take(r, size, shift)


def _iterate(run: _Iteration, values: np.ndarray | None) -> np.ndarray | None:
    """Iterate until the residual of the recurrence is within the tolerance; returns Ritz values, once known."""
    report = run.report
    if report.s > 1 and report.basis != "monomial" and values is None and not run.done:
        run.classical(2 * report.s)
        values = ritz(run.alphas, run.betas)
    while not run.done:
        if report.s == 1:
            run.classical(run.most)
            continue
        try:
            run.outer(coefficients(report.basis, report.s, values, run.scale))
        except _Lost:
            report.s //= 2
    return values
