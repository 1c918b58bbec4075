"""`solve` for general matrices: by LU with partial pivoting, and what is said about its accuracy."""

from __future__ import annotations

import warnings
from time import perf_counter
from typing import Any

import numpy as np

from tilewright.errors import AccuracyWarning
from tilewright.linalg.call import Call
from tilewright.linalg.lu import LUFactor, factor_with, lu_solve
from tilewright.linalg.residual import unit_roundoff
from tilewright.linalg.solve_info import Attempt, SolveInfo

__all__ = ["PRECISIONS", "looks_positive_definite", "mirrored", "solve_general"]

PRECISIONS = ("auto", "fp64", "fp32")

_BLOCK = 512  # rows that are compared at a time


def looks_positive_definite(a: np.ndarray) -> bool:
    """Whether A is exactly Hermitian with a positive diagonal, so that a Cholesky factorisation is worth a try."""
    diagonal = a.diagonal()
    if a.shape[0] != a.shape[1] or not (diagonal.real > 0).all() or (diagonal.imag != 0).any():
        return False
    blocks = range(0, len(a), _BLOCK)
    return all(np.array_equal(a[i : i + _BLOCK, i:], a[i:, i : i + _BLOCK].conj().T) for i in blocks)


def mirrored(a: np.ndarray, lower: bool, conjugate: bool) -> np.ndarray:
    """The symmetric, or Hermitian, matrix that has this triangle."""
    if a.ndim != 2 or a.shape[0] != a.shape[1]:
        raise ValueError(f"the matrix a must be square, not of shape {a.shape}")
    half = np.tril(a, -1) if lower else np.triu(a, 1)
    diagonal = a.diagonal().real if conjugate else a.diagonal()
    return np.asarray(half + (half.conj().T if conjugate else half.T) + np.diag(diagonal))


def solve_general(
    routine: Any, a: Any, b: Any, precision: str, check_finite: bool, tile_size: int | None, how: dict[str, Any],
    judge: bool,
) -> tuple[Any, SolveInfo]:  # fmt: skip
    """x with A x = b, and how it was found. ``how`` has backend, scheduler, workers and options of the engine.

    ``judge`` asks for backward errors, which are also computed where growth is larger than n.

    Warns
    -----
    AccuracyWarning
        The reciprocal condition is below the unit roundoff, or growth has made the backward error large.

    Raises
    ------
    SingularMatrixError, ValueError, TypeError
        As `lu_factor` and `lu_solve`.
    """
    began = perf_counter()
    if precision not in PRECISIONS:
        raise ValueError(f"precision of a general matrix is one of {', '.join(PRECISIONS)}, not {precision!r}")
    a, b = _in_precision(a, precision), _in_precision(b, precision)
    plan = {name: how[name] for name in ("backend", "scheduler", "workers")}
    call = Call(routine, a, how["options"], **plan)
    factor = factor_with(call, False, check_finite, None, tile_size, None, square=True)
    factored = perf_counter()
    factor.check_regular()
    x = lu_solve(factor, b, 0, check_finite, **plan, **how["options"])
    info = _story(call, factor, x, b)
    info.times = {"factor": factored - began, "total": perf_counter() - began}
    if judge or not factor_growth(info) <= max(info.n, 100):
        info.backward_errors = backward_errors(np.asarray(call.a), x, b, factor.norms[2])
        info.hpl_mxp_residual = info.backward_error / (info.n * unit_roundoff(np.asarray(x).dtype)) if info.n else 0.0
    _warn(info)
    return x, info


def _in_precision(value: Any, precision: str) -> Any:
    if precision == "auto":
        return value
    kinds = {"fp64": ("float64", "complex128"), "fp32": ("float32", "complex64")}[precision]
    array = np.asarray(value)
    return array.astype(kinds[array.dtype.kind == "c"], copy=False)


def _story(call: Call, factor: LUFactor, x: Any, b: Any) -> SolveInfo:
    dtype = str(np.asarray(x).dtype)
    columns = 1 if np.ndim(b) == 1 else np.shape(b)[1]
    rung = "fp32" if dtype in ("float32", "complex64") else "fp64"
    info = SolveInfo(factor.shape[0], columns, dtype, (Attempt(rung, "converged", 0, "lu"),))
    info.structure = "gen"
    info.factor_run = factor.run
    info.growth = factor.growth
    info.rcond = factor.rcond()
    return info


def factor_growth(info: SolveInfo) -> float:
    """Growth of the factor, 1 where it is not known."""
    return 1.0 if info.growth is None else info.growth


def backward_errors(a: np.ndarray, x: np.ndarray, b: np.ndarray, norm: float) -> np.ndarray:
    """||b_j - A x_j||_inf / (||A||_inf ||x_j||_inf + ||b_j||_inf) of each column, ``norm`` the first of these."""
    n = len(a)
    x, b = np.asarray(x).reshape(n, -1), np.asarray(b).reshape(n, -1)
    with np.errstate(all="ignore"):
        residual = np.abs(b - a @ x).max(axis=0, initial=0)
        scale = norm * np.abs(x).max(axis=0, initial=0) + np.abs(b).max(axis=0, initial=0)
        return np.asarray(np.where(residual == 0, 0.0, residual / np.where(scale, scale, 1)), np.float64)


def _warn(info: SolveInfo) -> None:
    found = f"growth {info.growth:.1e}, rcond {info.rcond:.1e}"
    u = 2.0**-24 if info.dtype in ("float32", "complex64") else 2.0**-53
    if info.n and not (info.rcond or 0.0) >= 2 * u:
        warnings.warn(f"the matrix is singular to working precision: {found}; the solution may have no correct digit",
                      AccuracyWarning, stacklevel=4)  # fmt: skip
    elif not info.hpl_mxp_residual <= 16:
        warnings.warn(f"LU with partial pivoting is not stable for this matrix: {found}, backward error "
                      f"{info.backward_error:.1e}", AccuracyWarning, stacklevel=4)  # fmt: skip
