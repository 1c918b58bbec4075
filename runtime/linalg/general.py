"""`solve` for general matrices: the ladder of precisions with LU factors, and what is said about the accuracy."""

from __future__ import annotations

import warnings
from dataclasses import replace
from time import perf_counter
from typing import Any

import numpy as np

from tilewright.arguments import dense, like
from tilewright.errors import AccuracyError, AccuracyWarning
from tilewright.kernels.scale import scaled
from tilewright.linalg import ladder, lu_ladder
from tilewright.linalg.by_columns import ByColumns
from tilewright.linalg.call import Call
from tilewright.linalg.equilibrate import equilibrate
from tilewright.linalg.general_system import GeneralSystem
from tilewright.linalg.ladder import Estimate
from tilewright.linalg.less_pivoting import refined
from tilewright.linalg.lu import LUFactor, factor_with, lu_solve
from tilewright.linalg.matrix import check_finite as check_matrix
from tilewright.linalg.mixed_lu import MixedLU, mixed_lu
from tilewright.linalg.problem import HUGE, Problem, unscaled
from tilewright.linalg.qr_rung import by_qr
from tilewright.linalg.residual import unit_roundoff
from tilewright.linalg.right_hand_side import RightHandSide
from tilewright.linalg.runner import Runner
from tilewright.linalg.solve_info import Attempt, SolveInfo
from tilewright.linalg.system import System
from tilewright.linalg.tuning import mixed_lu_tile_size
from tilewright.tiles import TiledMatrix

__all__ = ["GeneralProblem", "looks_positive_definite", "mirrored", "solve_general"]

_BLOCK = 512  # rows that are compared at a time

_REFINED = (
    36  # rows a right-hand side: three steps of 4 n^2 flops a column then cost the half of 2/3 n^3 that FP32 saves
)


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
    routine: Any,
    a: Any,
    b: Any,
    precision: Any,
    refine: str,
    fallback: bool,
    check_finite: bool,
    tile_size: int | None,
    runner: Runner,
    judge: bool,
) -> tuple[Any, SolveInfo]:
    """x with A x = b, and how it was found.

    Real matrices in FP64 go the ladder; others have one factor, in the wider dtype of a and b or in FP64. ``judge``
    asks for backward errors, which are also computed where growth is larger than n; where that has made them larger
    than n u, the solution is refined, and found by QR where that does not help.

    Warns
    -----
    AccuracyWarning
        The reciprocal condition is below the unit roundoff, or the backward error of the last rung is large.

    Raises
    ------
    SingularMatrixError, ValueError, TypeError
        As `lu_factor` and `lu_solve`.
    AccuracyError
        Without ``fallback``: refinement did not converge.
    """
    began = perf_counter()
    with runner.engine.agreement() as facts:
        matrix = ByColumns(a, square=True)
        columns = RightHandSide(b, matrix.shape[0])
        facts.update(a=(matrix.shape, str(matrix.dtype)), b=columns.shape, precision=precision, refine=refine)
    wide = columns.dtype_with(matrix.dtype)
    low = precision not in ("auto", "fp64")
    large = precision == "auto" and matrix.shape[0] >= ladder.SMALL and str(wide) in ("float64", "complex128")
    large = large and columns.columns.shape[1] * _REFINED <= matrix.shape[0]
    if not (low or large) or matrix.dtype.kind == "c" or not columns.columns.size:
        x, info = _by_lu(routine, a, b, precision, check_finite, tile_size, runner, judge, fallback)
        info.times["total"] = perf_counter() - began
        _warn(info)
        return x, info
    problem = GeneralProblem(routine, matrix, columns, precision, refine, fallback, check_finite, tile_size, runner)
    try:
        x = problem.solve()
    except AccuracyError as error:
        error.info = problem.finish(began)
        raise
    info = problem.finish(began)
    if problem.answer is None:
        x = columns.result(_joined(x, columns.columns.dtype), a)
    _warn(info)
    return x, info


# ------------------------------------------------------------------ one factor


def _by_lu(
    routine: Any,
    a: Any,
    b: Any,
    precision: str,
    check_finite: bool,
    tile_size: int | None,
    runner: Runner,
    judge: bool,
    fallback: bool,
    *,
    given: bool = True,
) -> tuple[Any, SolveInfo]:
    """By one LU factor with partial pivoting, in the wider dtype of a and b or, unless "auto", in FP64.

    With ``fallback`` refined, and by QR, where growth has made the backward error larger than n u. A system that is
    ``given``, not one of middling size already, is brought to that where A, b or x is very large or very small.
    """
    began = perf_counter()
    if precision != "auto":
        a, b = _in_fp64(a), _in_fp64(b)
    plan: dict[str, Any] = {"backend": runner.backend, "scheduler": runner.scheduler, "workers": runner.workers}
    call = Call(routine, a, runner.options, progress=runner.progress, **plan)
    factor = factor_with(call, False, check_finite, None, tile_size, None, square=True)
    factored = perf_counter()
    alike = precision, check_finite, tile_size, runner, judge, fallback
    if given and _extreme(np.array([factor.norms[0]]), factor.dtype):
        return _brought_to_one(routine, a, b, factor.norms, *alike)
    factor.check_regular()
    x = lu_solve(factor, b, 0, check_finite, **plan, **runner.options)
    if given and any(_extreme(_tops(np.asarray(array)), np.asarray(x).dtype) for array in (b, x)):
        return _brought_to_one(routine, a, b, factor.norms, *alike)
    info = _story(factor, x, b)
    info.times = {"factor": factored - began, "refine": perf_counter() - factored}
    grown = not factor_growth(info) <= max(info.n, 100)
    if judge or grown:
        _judge(info, np.asarray(call.a), x, b, factor.norms[2])
    if fallback and grown and not info.backward_error <= max(info.n, 16) * unit_roundoff(np.asarray(x).dtype):
        x = _after_growth(call, factor, a, b, tile_size, {**plan, **runner.options}, info)
    return x, info


def _tops(columns: np.ndarray) -> np.ndarray:
    """The largest entry of each column."""
    return np.asarray(np.abs(columns).max(axis=0, initial=0)).reshape(-1)


def _extreme(sizes: np.ndarray, dtype: np.dtype) -> bool:
    """Whether some of these is so large or small that numbers of the dtype may overflow or underflow on the way."""
    limit = 2.0 ** (HUGE * np.finfo(dtype).maxexp // 1024)
    sizes = sizes[sizes != 0]
    return not bool(((sizes > 1 / limit) & (sizes < limit)).all())


def _brought_to_one(
    routine: Any, a: Any, b: Any, norms: tuple[float, float, float], *alike: Any
) -> tuple[Any, SolveInfo]:
    """As `_by_lu`, by way of 2^-k A y = 2^-m b with entries of about 1. NaN and infinities in A or b lead to such."""
    matrix, columns = dense(a, "the matrix a"), dense(b, "b")
    kind = np.result_type(matrix, columns)
    kind = kind if kind.kind in "fc" else np.dtype(np.float64)
    columns = columns.reshape(len(columns), -1)
    tops = _tops(columns)
    if not (np.isfinite(norms[0]) and np.isfinite(tops).all()):
        return _by_lu(routine, a, b, *alike, given=False)
    up, shifts = int(np.frexp(norms[0])[1]), np.frexp(tops)[1]
    small, right = scaled(matrix, -up), scaled(columns.astype(kind, copy=False), -shifts)
    y, info = _by_lu(routine, small, right, *alike, given=False)
    with np.errstate(over="ignore"):
        x = unscaled(np.asarray(y), shifts - up, (float(np.abs(small).sum(axis=1).max()), up), columns, info)
    return like(x.reshape(np.shape(b)), b, a), info


def _after_growth(
    call: Call, factor: LUFactor, a: Any, b: Any, tile_size: int | None, how: dict[str, Any], info: SolveInfo
) -> Any:
    """x from the factor by refinement, or by QR; ``info`` has LU's and is told the rest."""
    began = perf_counter()
    attempt, x, errors = refined(call, factor, "", a, b, False, how)
    if attempt.status == "converged":
        info.path = (attempt,)
        info.backward_errors = errors
    else:
        if attempt.status == "stalled":
            attempt = replace(attempt, reason=f"growth {factor_growth(info):.1e}; {attempt.reason}")
        matrix, columns = dense(a, "the matrix a"), dense(b, "b")
        x, info.factor_run, info.rcond = by_qr(matrix, columns, factor.norms[1], tile_size, how)
        info.path = (attempt, Attempt(attempt.precision, "converged", 0, "qr"))
        _judge(info, np.asarray(call.a), x, b, factor.norms[2])
    info.hpl_mxp_residual = info.backward_error / (info.n * unit_roundoff(np.asarray(x).dtype))
    info.times["refine"] += perf_counter() - began
    return like(x, b, a)


def _judge(info: SolveInfo, a: np.ndarray, x: Any, b: Any, norm: float) -> None:
    """Note the backward errors of x; ``norm`` is ||A||_inf."""
    info.backward_errors = backward_errors(a, x, b, norm)
    info.hpl_mxp_residual = info.backward_error / (info.n * unit_roundoff(np.asarray(x).dtype)) if info.n else 0.0


def _in_fp64(value: Any) -> Any:
    array = np.asarray(value)
    kinds = "float64", "complex128"
    if str(array.dtype) in kinds:
        return value
    return array.astype(kinds[array.dtype.kind == "c"], copy=False)


def _story(factor: LUFactor, x: Any, b: Any) -> SolveInfo:
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
    found = f"rcond {info.rcond:.1e}" if info.rcond is not None else "rcond unknown"
    found = found if info.growth is None else f"growth {info.growth:.1e}, {found}"
    u = 2.0**-24 if info.dtype in ("float32", "complex64") else 2.0**-53
    if info.n and info.rcond is not None and not info.rcond >= 2 * u:
        warnings.warn(
            f"the matrix is singular to working precision: {found}; the solution may have no correct digit",
            AccuracyWarning,
            stacklevel=4,
        )
    elif not info.hpl_mxp_residual <= 16:
        what = "QR" if info.path and info.path[-1].method == "qr" else "LU with partial pivoting"
        warnings.warn(
            f"{what} is not stable for this matrix: {found}, backward error {info.backward_error:.1e}",
            AccuracyWarning,
            stacklevel=4,
        )


# ------------------------------------------------------------------ the ladder


class GeneralProblem(Problem):
    """A general system on its way up the ladder, real, to be solved in FP64.

    Parameters
    ----------
    routine
        The public function.
    matrix, columns
        A and b, as they were given.
    pivoting
        That of factors in low precision: see `mixed_lu`.

    The others are those of `solve`. The last rungs are FP64 factors: with partial pivoting, and QR where growth spoilt
    that one. Their answer is taken as it is, and warned of where it is worth little.
    """

    doubtful = "breakdown"

    def __init__(
        self,
        routine: Any,
        matrix: ByColumns,
        columns: RightHandSide,
        precision: str,
        refine: str,
        fallback: bool,
        check_finite: bool,
        tile_size: int | None,
        runner: Runner,
        pivoting: str = "partial",
    ) -> None:
        array = matrix.array.to_numpy() if matrix.tiled else matrix.array
        self.routine, self.given, self.pivoting = routine, (matrix.given, columns.given), pivoting
        right = columns.columns
        if right.dtype.kind == "c":  # real and imaginary parts are right-hand sides of a real system
            right = np.concatenate([right.real, right.imag], axis=1)
        super().__init__(
            np.ascontiguousarray(array, np.float64),
            right.astype(np.float64),
            precision,
            refine,
            fallback,
            check_finite,
            True,
            tile_size,
            runner,
        )
        self.tile_size = tile_size or mixed_lu_tile_size(self.n, self.workers)
        self.A = TiledMatrix.view(self.a, self.tile_size)
        self.info.structure = "gen"
        self.info.right_hand_sides = columns.columns.shape[1]

    def _new_system(self, right: np.ndarray) -> System:
        return GeneralSystem(self.A, right, self.runner)

    def _exponent(self) -> int:
        self._look_at_b()
        self.scaling = equilibrate(self.A, self.runner)
        if not np.isfinite(self.scaling.sums).all() and self.check_finite:
            check_matrix(self.A, self.workers, "all", "the matrix a")
        exponent = self.scaling.exponent
        if abs(exponent) < HUGE or not np.isfinite(self.a).all():
            return 0
        self.a = scaled(self.a, -exponent)
        self.A = TiledMatrix.view(self.a, self.tile_size)
        self.scaling = equilibrate(self.A, self.runner)
        return exponent

    def _look(self, system: System) -> None:
        """Nothing: the row sums have shown it."""

    def _rungs(self) -> tuple[Any, ...]:
        if not np.isfinite(self.scaling.sums).all():
            return ("fp64",)
        if self.precision != "auto":
            return ladder.rungs_from(self.precision, self.fallback, ladder.ON_CPU)
        with self.timed("estimate"):
            self.info.estimate = self._start(self._estimate())
        return ladder.rungs_from(self.info.estimate.rung, self.fallback, ladder.ON_CPU)

    def _estimate(self) -> Estimate:
        return lu_ladder.estimate(self.a, self.scaling)

    def _start(self, guess: Estimate) -> Estimate:
        costs = lu_ladder.factor_seconds, lu_ladder.step_seconds
        return ladder.cheapest(guess, self.n, self.workers, self.rates, costs=costs)

    def _price(self, rung: str | None, below: Any) -> float:
        if rung is None:
            return np.inf
        return lu_ladder.price(rung, below, self.n, self.workers, self.rates)

    def _factor(self, rung: str) -> MixedLU:
        runner = self.runner
        return mixed_lu(
            self.a,
            rung,
            self.scaling,
            pivoting=self.pivoting,
            tile_size=self.given_tile_size,
            workers=runner.workers,
            scheduler=runner.scheduler,
            backend=runner.backend,
            progress=runner.progress,
            **runner.options,
        )

    def _take(self, system: Any, factor: MixedLU) -> None:
        system.take(factor)

    def _exact(self, system: System) -> None:
        """Factor and solve in FP64, with the matrix as it was given; by QR where LU is not stable."""
        a, b = self.given
        self.answer, last = _by_lu(
            self.routine, a, b, "fp64", self.check_finite, self.given_tile_size, self.runner, True, self.fallback
        )
        info, self.system = self.info, None
        info.path += last.path
        info.factor_run, info.growth, info.rcond = last.factor_run, last.growth, last.rcond
        info.backward_errors, info.hpl_mxp_residual = last.backward_errors, last.hpl_mxp_residual
        info.residuals = system.residuals
        for name, seconds in last.times.items():
            info.times[name] = info.times.get(name, 0.0) + seconds


def _joined(x: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """The solution for right-hand sides of this dtype: complex ones were solved for as two real ones."""
    m = x.shape[1] // 2
    return x[:, :m] + 1j * x[:, m:] if dtype.kind == "c" else x
