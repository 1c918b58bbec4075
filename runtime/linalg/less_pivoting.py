"""`solve` with another pivoting than partial: refined until it is as good, or else by partial pivoting after all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from time import perf_counter
from typing import Any

import numpy as np

from tilewright.arguments import dense, like
from tilewright.builder import graph_builder
from tilewright.graph import RW, R, TaskGraph, W
from tilewright.linalg.call import Call
from tilewright.linalg.lu import LUFactor, factor_with, lu_solve
from tilewright.linalg.residual import unit_roundoff
from tilewright.linalg.solve_info import Attempt, SolveInfo
from tilewright.ops import copy, gemmn
from tilewright.tiles import TiledMatrix

__all__ = ["distrusted", "refined", "residual_graph", "solve_with"]

STEPS = 30
"""Refinement takes no more, as in LAPACK's dsgesv."""

Solution = tuple[Any, SolveInfo]


@graph_builder("residual nt={nt} nc={nc}", cache=32)
def residual_graph(g: TaskGraph, nt: int, nc: int) -> None:
    """R := B - A X, nt x nt tiles and nc columns of tiles: handles ``A[i,j]``, ``X[j,c]``, ``B[i,c]``, ``R[i,c]``."""
    A, X, B, rest = (g.handles(name) for name in "AXBR")
    for c in range(nc):
        for i in range(nt):
            g.insert(copy, R(B[i, c]), W(rest[i, c]))
            for j in range(nt):
                g.insert(gemmn, R(A[i, j]), R(X[j, c]), RW(rest[i, c]))


def solve_with(
    pivoting: str,
    routine: Any,
    a: Any,
    b: Any,
    check_finite: bool,
    tile_size: int | None,
    how: dict[str, Any],
    fall_back: Callable[[], Solution],
) -> Solution:
    """x with A x = b by LU with this pivoting, refined; ``fall_back()`` where that is not good enough.

    That is where a pivot is zero, growth is above 1 / (n u), refinement is slow, or A may be singular: rcond is below
    2 u growth.

    Refinement goes on until ||r||_inf <= sqrt(n) u ||A||_inf ||x||_inf for every right-hand side or a step gains less
    than a half; a backward error of n u is then good enough. ``how`` has backend, scheduler, workers and options.
    """
    began = perf_counter()
    plan = {name: how[name] for name in ("backend", "scheduler", "workers")}
    call = Call(routine, a, how["options"], **plan)
    factor = factor_with(call, False, check_finite, pivoting, tile_size, None, square=True)
    factored = perf_counter()
    attempt, x, errors = refined(call, factor, pivoting, a, b, check_finite, {**plan, **how["options"]})
    rcond = factor.rcond() if attempt.status == "converged" else 0.0
    if attempt.status == "converged" and (reason := _singular(rcond, factor.growth, unit_roundoff(x.dtype))):
        attempt = replace(attempt, status="stalled", reason=reason)
    if attempt.status != "converged":
        x, info = fall_back()
        info.path = (attempt, *info.path)
        info.times["total"] = perf_counter() - began
        return x, info
    info = SolveInfo(factor.shape[0], len(errors), str(x.dtype), (attempt,), errors)
    info.structure, info.factor_run, info.growth, info.rcond = "gen", factor.run, factor.growth, rcond
    info.hpl_mxp_residual = info.backward_error / (info.n * unit_roundoff(x.dtype)) if info.n else 0.0
    info.times = {"factor": factored - began, "total": perf_counter() - began}
    return like(x, b, a), info


def distrusted(call: Call, factor: LUFactor, a: np.ndarray) -> str:
    """Why this factor of A is not good enough to be used as it is; nothing if it is.

    That is where a pivot is zero, growth is 1 / (n u) or more, the solution with a right-hand side of ones and minus
    ones has a backward error above n u, or A may be singular: rcond is below 2 u growth. O(n^2).
    """
    n, u = factor.shape[0], unit_roundoff(factor.lu.dtype)
    if factor.info:
        return f"pivot {factor.info} is zero"
    if not factor.growth < 1 / (max(n, 1) * u):
        return f"growth {factor.growth:.1e}"
    b = np.random.default_rng(0).choice([-1.0, 1.0], (n, 1)).astype(factor.lu.dtype)
    x = np.asfortranarray(factor.solve(b))
    error = float(_errors(_residual(call, a, x, b, factor.tile_size), x, b, factor.norms[2]).max(initial=0))
    if not error <= max(n, 16) * u:
        return f"backward error {error:.1e}"
    return _singular(factor.rcond(), factor.growth, u)


def _singular(rcond: float, growth: float, u: float) -> str:
    """What says that A may be singular, or nothing: such a factor is that of A + E with ||E|| about growth u ||A||."""
    return "" if rcond >= 2 * u * max(growth, 1) else f"rcond {rcond:.1e}"


def refined(
    call: Call, factor: LUFactor, pivoting: str, a: Any, b: Any, check_finite: bool, how: dict[str, Any]
) -> tuple[Attempt, Any, np.ndarray]:
    """How it went, x in the shape of b, and the backward error of each column.

    Steps until ||r||_inf <= sqrt(n) u (||A||_inf ||x||_inf + ||b||_inf) for all; n u is enough where a step gains less
    than a half. No step where growth is 1 / (n u) or more.
    """
    matrix, given = dense(a, "the matrix a"), dense(b, "b")
    n = len(matrix)
    x = np.asarray(lu_solve(factor, b, 0, check_finite, **how)) if not factor.info else None
    u = unit_roundoff(factor.lu.dtype if x is None else x.dtype)
    rung = partial(Attempt, "fp64" if u < 2.0**-30 else "fp32", method=f"{pivoting} lu".lstrip())
    nothing = np.zeros(0)
    if x is None:
        return rung("breakdown", order=factor.info), None, nothing
    if not factor.growth < 1 / (max(n, 1) * u):
        return rung("diverged", reason=f"growth {factor.growth:.1e}"), None, nothing
    columns = (given[:, None] if given.ndim == 1 else given).astype(x.dtype)
    x = np.asfortranarray(x[:, None] if x.ndim == 1 else x)
    enough, good = np.sqrt(max(n, 1)) * u, max(n, 16) * u
    before, errors = np.inf, nothing
    for step in range(STEPS + 1):
        r = _residual(call, matrix, x, columns, factor.tile_size)
        errors = _errors(r, x, columns, factor.norms[2])
        worst = float(errors.max(initial=0))
        if worst <= enough or (worst <= good and not worst < before / 2):
            return rung("converged", step), x.reshape(given.shape), errors
        if not worst < before / 2 or step == STEPS:
            return rung("stalled", step, reason=f"backward error {worst:.1e}"), None, nothing
        before = worst
        x += np.asarray(lu_solve(factor, r, 0, False, **how))
    raise AssertionError("the last step returns")


def _residual(call: Call, a: np.ndarray, x: np.ndarray, b: np.ndarray, nb: int) -> np.ndarray:
    """B - A X by tile tasks where the call runs."""
    r = np.empty(x.shape, x.dtype, "F")
    A, X, B, rest = (TiledMatrix.view(array, nb) for array in (a.astype(x.dtype, copy=False), x, b, r))
    call.run(residual_graph(A.nt, X.nt), {"A": A, "X": X, "B": B, "R": rest})
    return r


def _errors(r: np.ndarray, x: np.ndarray, b: np.ndarray, norm: float) -> np.ndarray:
    """||r_j||_inf / (||A||_inf ||x_j||_inf + ||b_j||_inf) of each column, NaN where it is none."""
    sizes = [np.abs(array).max(axis=0, initial=0).astype(np.float64) for array in (r, x, b)]
    with np.errstate(all="ignore"):
        scale = norm * sizes[1] + sizes[2]
        return np.where(sizes[0] == 0, 0.0, sizes[0] / np.where(scale > 0, scale, 1))
