"""`solve`: an FP64-accurate solution of A x = b from the cheapest factor that leads to one, and the story of how."""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal, Unpack, overload

import numpy as np

from tilewright.arguments import dense, entered, is_chunked, is_tensor, like, numbers
from tilewright.backends import check_call, named
from tilewright.errors import AccuracyError, NotPositiveDefiniteError
from tilewright.graph import R, TaskGraph, W
from tilewright.linalg import ladder, stacks
from tilewright.linalg.chunked_lu import solution_of_chunks
from tilewright.linalg.general import looks_positive_definite, mirrored, solve_general
from tilewright.linalg.less_pivoting import solve_with
from tilewright.linalg.lu_graph import PIVOTING
from tilewright.linalg.matrix import Triangle, is_device_tensor
from tilewright.linalg.problem import Problem
from tilewright.linalg.refinement import FOR_GENERAL, METHODS
from tilewright.linalg.residual import unit_roundoff
from tilewright.linalg.right_hand_side import RightHandSide
from tilewright.linalg.runner import Runner
from tilewright.linalg.solve_info import SolveInfo
from tilewright.linalg.solve_options import check_options
from tilewright.linalg.solve_outside import solve_outside
from tilewright.linalg.stacks import is_stack, matrix_transpose
from tilewright.ops import OPS
from tilewright.precision import PrecisionMap
from tilewright.runs.progress import ProgressOption, checked, one_page
from tilewright.scalars import choice, flag, positive, shown
from tilewright.schedulers import Policy
from tilewright.storage.opening import is_stored
from tilewright.tiles import TiledMatrix

if TYPE_CHECKING:
    from tilewright.kinds import ArrayLike, C, Matrix, SolveOptions, Stored, T

__all__ = ["SolveInfo", "solve"]


@overload
def solve(a: C, b: Matrix, *, return_info: Literal[False] = False, **options: Unpack[SolveOptions]) -> C: ...
@overload
def solve(a: T, b: Matrix, *, return_info: Literal[True], **options: Unpack[SolveOptions]) -> tuple[T, SolveInfo]: ...
@overload
def solve(a: Matrix, b: C, *, return_info: Literal[False] = False, **options: Unpack[SolveOptions]) -> C: ...
@overload
def solve(a: Matrix, b: T, *, return_info: Literal[True], **options: Unpack[SolveOptions]) -> tuple[T, SolveInfo]: ...
@overload
def solve(
    a: Matrix, b: Matrix, *, return_info: Literal[False] = False, **options: Unpack[SolveOptions]
) -> np.ndarray: ...
@overload
def solve(
    a: ArrayLike | TiledMatrix,
    b: ArrayLike | TiledMatrix,
    *,
    return_info: Literal[True],
    **options: Unpack[SolveOptions],
) -> tuple[np.ndarray, SolveInfo]: ...
@overload
def solve(a: Stored, b: Matrix | Stored, *, return_info: bool = False, **options: Unpack[SolveOptions]) -> Any: ...
@one_page
def solve(
    a: Any,
    b: Any,
    *,
    assume_a: str | None = "pos",
    pivoting: str | None = None,
    lower: bool = True,
    precision: Any = "auto",
    refine: str = "auto",
    fallback: bool = True,
    check_finite: bool = True,
    check_symmetric: bool = False,
    transposed: bool = False,
    tile_size: int | None = None,
    backend: str | None = None,
    scheduler: str | Policy = "critical-path",
    workers: int | None = None,
    return_info: bool = False,
    progress: ProgressOption = False,
    memory: int | str | None = None,
    **options: Any,
) -> Any:
    """Solve A x = b to FP64 accuracy: by Cholesky for a Hermitian positive definite A, by LU for any other.

    The factor is computed in low precision and the solution refined with FP64 residuals [1]_ to [3]_; where that does
    not converge, the next precision of the ladder bf16, bf16x3, fp32, fp64 takes over and goes on from what was found.

    Parameters
    ----------
    a : (n, n) array_like, torch tensor or dask.array; or a stack (..., n, n)
        Any of LAPACK's four dtypes, or integers. Only the triangle named by ``lower`` is read. Stacks and dask.arrays
        are factored once, stacks in FP64, and not refined: by LU unless ``assume_a`` is "pos".
    b : (n,) or (n, m) array_like, torch tensor or dask.array; or (..., n, m), broadcast with a stack
    assume_a
        ``"pos"``: positive definite. ``"gen"``: anything, by LU with partial pivoting. Its last rung is FP64, taken as
        it is; `AccuracyWarning` says where that may not be worth much. With ``precision="auto"`` and a and b in FP32 or
        complex64 it is one factor in that dtype, which x then has. ``"sym"``, ``"her"``: symmetric or Hermitian and
        indefinite, of which the triangle named by ``lower`` is read; by LU as well, as ``info.path`` says, since pivots
        of L D L^H are searched for in rows and columns of all tiles. SciPy's long names of these are taken as well:
        ``"positive definite"``, ``"general"``, ``"symmetric"``, ``"hermitian"``. None looks: a matrix that equals its
        conjugate transpose and has a positive diagonal is taken for positive definite until that fails.
    pivoting
        That of a general matrix: one of those of `lu_factor`, such as ``"butterfly"``. The solution is refined with
        residuals in the same precision; where a pivot is zero, growth is too large or refinement does not converge,
        partial pivoting takes over, and the info says why. With ``precision="auto"``.
    lower
        Whether the lower triangle of a is the one that is read, or the upper one. Of a general matrix both are.
    precision
        Where to begin: ``"auto"`` looks at a sample of the matrix (`tilewright.linalg.ladder`,
        `tilewright.linalg.lu_ladder`), and on a CPU leaves out bf16x3; ``"bf16"``, ``"fp16"``, ``"tf32"``,
        ``"bf16x3"``, ``"fp32"``, ``"fp64"``; or, for positive definite matrices, a `PrecisionMap`. Complex matrices
        take FP64.
    refine
        ``"cg"``, ``"gmres"`` (restarted after 30 steps), ``"classical"``, or ``"auto"``: conjugate gradients, then
        nested refinement if steps run out, then GMRES if that ends close to the goal, with the same factor;
        ``"nested"`` is conjugate gradients in FP32 between FP64 residuals. FP64 factors are refined classically.
        General matrices take ``"classical"``, ``"gmres"``, or ``"auto"``: the first, then the second where it is slow.
    fallback
        Go on to the next precision. Without it `AccuracyError` says what happened.
    check_finite
        Look for NaN and infinities in a and b.
    check_symmetric
        Compare the two triangles of a: they may differ by n u max |a_ij|, u the unit roundoff of the dtype of a.
    transposed
        Solve A^T x = b; of a complex A as well, which SciPy refuses.
    tile_size
        Rows of a tile; chosen by default.
    backend, scheduler, workers, options
        See `tilewright.run`. A dask.array is worked with by ``dask`` unless another backend is named, which gathers it.
    return_info
        Also return the `SolveInfo`.
    progress
        Draw a bar for each factorisation on standard error, or a function that is called with the number of its tasks
        that are done, as for `tilewright.run`; ``"page"`` follows all of them, one after the other, on one page. A
        factorisation on a GPU is one task, of which nothing is told.
    memory
        For a matrix on a disk, see `tiled_cholesky`: bytes by which the process may grow, or a text such as ``"2GB"``.
        The factor goes to a file beside it that is gone afterwards. ``precision`` is ``"fp32"``, where "auto" begins
        too, or ``"fp64"``; None as ``assume_a`` tries a Cholesky factor first.

    Returns
    -------
    x
        An array in the shape of b, float64 or complex128; a tensor if a or b is one. CUDA tensors stay on their device.
    info : SolveInfo
        Only with ``return_info``.

    Raises
    ------
    NotPositiveDefiniteError
        The FP64 factorisation found a leading minor that is not positive definite; ``.order`` is LAPACK's info. Low
        precisions never decide that.
    SingularMatrixError
        With "gen": U has an exact zero on its diagonal. A `numpy.linalg.LinAlgError`.
    AccuracyError
        Some right-hand side has a backward error above n u, u = 2^-53. A `numpy.linalg.LinAlgError` with ``.info`` and
        the best ``.x``.
    ValueError
        Shapes that do not fit, NaN or infinities, triangles that differ, an unknown name.
    TypeError
        A dtype that is none of LAPACK's four and no integer.

    Notes
    -----
    The promise: ||b - A x||_inf <= n u (||A||_inf ||x||_inf + ||b||_inf) for every right-hand side, or an exception.
    Refinement stops at LAPACK's criterion, ||r||_inf <= sqrt(n) u ||A||_inf ||x||_inf; at twice that where
    rounding errors of the residual are as large, with the promise kept. n^3/3 flops in low precision (2/3 n^3 for a
    general matrix), 2 n^2 in FP64 and as many in low precision per iteration and right-hand side. The bits of x
    depend on the matrix, the tile size and the kernels in use, not on engine, scheduler and workers.

    References
    ----------
    .. [1] LAPACK dsposv.
    .. [2] N. Higham, S. Pranesh, Exploiting lower precision arithmetic in solving symmetric positive definite linear
       systems and least squares problems, SISC 43 (2021).
    .. [3] LAPACK dsgesv; E. Carson, N. Higham, Accelerating the solution of linear systems by iterative refinement in
       three precisions, SISC 40 (2018).

    Examples
    --------
    >>> import numpy as np, tilewright as tw
    >>> x, info = tw.solve([[4.0, 2.0], [2.0, 5.0]], [2.0, 5.0], return_info=True)
    >>> x
    array([0., 1.])
    >>> info.precision, info.code >= 0
    ('fp64', True)
    """
    began = perf_counter()
    check_call(solve, options, backend)
    if not (is_chunked(a) or is_chunked(b)):  # else `Call` says where chunks are worked with
        backend = named(backend)
    assume_a = _structure(assume_a)
    _check_names(precision, refine)
    progress = checked(progress)
    if pivoting is not None:
        choice(pivoting, "pivoting", PIVOTING)
    how: dict[str, Any] = {"backend": backend, "scheduler": scheduler, "workers": workers, "progress": progress}
    lower, fallback, return_info = flag(lower, "lower"), flag(fallback, "fallback"), flag(return_info, "return_info")
    check_finite, check_symmetric = flag(check_finite, "check_finite"), flag(check_symmetric, "check_symmetric")
    tile_size = None if tile_size is None else positive(tile_size, "tile_size")
    transposed = flag(transposed, "transposed")
    check_options(
        _kind(a, b, assume_a, pivoting),
        {
            "assume_a": assume_a,
            "pivoting": pivoting,
            "precision": precision,
            "refine": refine,
            "fallback": fallback,
            "check_symmetric": check_symmetric,
            "transposed": transposed,
            "return_info": return_info,
            "memory": memory,
            **how,
            "options": options,
        },
    )
    if is_stored(a):
        x, info = solve_outside(
            a,
            b,
            assume_a=assume_a,
            lower=lower,
            precision=precision,
            fallback=fallback,
            check_finite=check_finite,
            tile_size=tile_size,
            memory=memory,
            how=how,
        )
        return (x, info) if return_info else x
    a, b = entered(a, "the matrix a"), entered(b, "b")
    if is_stack(a) or is_chunked(a) or is_chunked(b):
        plain = {**how, "options": options}
        return _factored_once(a, b, assume_a or "gen", lower, transposed, check_finite, tile_size, plain)
    if transposed:
        a, lower = a if a is None else matrix_transpose(a), not lower
    if is_device_tensor(a):
        from tilewright.linalg.gpu_solve import DeviceProblem

        runner = Runner(backend, scheduler, workers, options)
        device = DeviceProblem(
            a, b, precision, refine, fallback, check_finite, check_symmetric, lower, tile_size, runner
        )
        x, info = _finished(device, began)
        shape = np.shape(b)
        return (x.reshape(shape), info) if return_info else x.reshape(shape)
    inner = {name: value for name, value in options.items() if name not in ("root", "gather")}
    runner = Runner(backend, scheduler, workers, inner, progress)
    outer = Runner(backend, scheduler, workers, options).engine
    given = a
    a, b = outer.everywhere(outer.argument(a)), outer.everywhere(outer.argument(b))
    if assume_a in ("sym", "her"):
        a = mirrored(numbers(a, "the matrix a"), lower, assume_a == "her")
    if assume_a in _BY_LU or (assume_a is None and not looks_positive_definite(dense(a, "the matrix a"))):
        if assume_a is None:
            precision, refine = _for_general(precision, refine)

        def partial() -> tuple[Any, SolveInfo]:
            return solve_general(solve, a, b, precision, refine, fallback, check_finite, tile_size, runner, return_info)

        if pivoting in (None, "partial"):
            x, info = partial()
        else:
            plan = {**how, "options": runner.options}
            x, info = solve_with(str(pivoting), solve, a, b, check_finite, tile_size, plan, partial)
        info.structure = assume_a or "gen"
        x = outer.result(x if not is_tensor(given) or is_tensor(x) else like(x, given))
        return (x, info) if return_info else x
    if assume_a is None:
        try:
            return solve(
                given,
                b,
                lower=lower,
                precision=precision,
                refine=refine,
                fallback=fallback,
                check_finite=check_finite,
                tile_size=tile_size,
                return_info=return_info,
                **how,
                **options,
            )
        except NotPositiveDefiniteError:
            precision, refine = _for_general(precision, refine)
            return solve(
                given,
                b,
                assume_a="gen",
                precision=precision,
                refine=refine,
                fallback=fallback,
                check_finite=check_finite,
                tile_size=tile_size,
                return_info=return_info,
                **how,
                **options,
            )
    with outer.agreement() as facts:
        matrix = Triangle(a, lower=lower)
        columns = RightHandSide(b, matrix.n)
        facts.update(a=(matrix.n, str(matrix.dtype)), b=columns.shape, precision=str(precision), refine=refine)
    array = matrix.array.to_numpy() if matrix.tiled else matrix.array
    if matrix.tiled and not lower:
        array = array.T
    kind = np.dtype(np.complex128 if "c" in (matrix.dtype.kind, columns.columns.dtype.kind) else np.float64)
    real = np.dtype(np.float64) if matrix.dtype.kind != "c" else np.dtype(np.complex128)
    right = columns.columns.astype(kind)
    if not lower and matrix.dtype.kind == "c":
        right = right.conj()  # the lower triangle of A^T is that of conj(A)
    if real != kind:  # real and imaginary parts are right-hand sides of a real system
        right = np.concatenate([right.real, right.imag], axis=1)
    problem = Problem(
        array.astype(real, copy=False), right, precision, refine, fallback, check_finite, lower, tile_size, runner
    )
    if check_symmetric:
        with problem.timed("check"):
            _check_symmetric(problem.A, runner, unit_roundoff(matrix.dtype), lower)
    x, info = _finished(problem, began)
    if real != kind:
        x = x[:, : x.shape[1] // 2] + 1j * x[:, x.shape[1] // 2 :]
    if not lower and matrix.dtype.kind == "c":
        x = x.conj()
    info.right_hand_sides = columns.columns.shape[1]
    solution = outer.result(columns.result(x, given))
    return (solution, info) if return_info else solution


def _kind(a: Any, b: Any, assume_a: str | None, pivoting: str | None) -> str:
    """What `TAKES` has for this matrix."""
    if is_stored(a):
        return "a matrix on a disk"
    if is_stack(a):
        return "a stack of matrices"
    if is_chunked(a) or is_chunked(b):
        return "a dask.array"
    if is_device_tensor(a):
        return "a tensor on a GPU"
    if assume_a == "gen":
        return f"a general matrix{' with another pivoting than partial' * (pivoting not in (None, 'partial'))}"
    if assume_a in _BY_LU:
        return "a symmetric or Hermitian indefinite matrix"
    return "a positive definite matrix" if assume_a == "pos" else "a matrix of which nobody says what it is"


def _factored_once(
    a: Any,
    b: Any,
    assume: str,
    lower: bool,
    transposed: bool,
    check_finite: bool,
    tile_size: int | None,
    how: dict[str, Any],
) -> Any:
    """x for a stack of matrices, or for a dask.array."""
    if not is_stack(a):
        return solution_of_chunks(solve, a, b, assume, lower, transposed, check_finite, tile_size, how)
    A, B = numbers(a, "the matrix a"), numbers(b, "b")
    if check_finite:
        stacks.check_finite(A)
        stacks.check_finite(B, "b")
    A = A.swapaxes(-1, -2) if transposed else A
    if assume == "pos" and lower == transposed:
        A = A.swapaxes(-1, -2).conj()
    plan = {name: how[name] for name in ("backend", "scheduler", "workers")}
    x = stacks.solutions(solve, A, B, assume, True, tile_size=tile_size, **plan, **how["options"])
    return like(np.asarray(x), a, b) if is_tensor(a) or is_tensor(b) else x


def _finished(problem: Problem, began: float) -> tuple[Any, SolveInfo]:
    """The solution and how it was found; an exception that says why there is none has that as well."""
    try:
        x = problem.solve()
    except (AccuracyError, NotPositiveDefiniteError) as error:
        error.info = problem.finish(began)  # type: ignore[union-attr]
        raise
    return x, problem.finish(began)


_BY_LU = ("gen", "sym", "her")
_LONG = {"positive definite": "pos", "general": "gen", "symmetric": "sym", "hermitian": "her"}
_SCIPYS = {
    "upper triangular": "lazy(A).solve(b, assume_a='upper triangular') substitutes",
    "lower triangular": "lazy(A).solve(b, assume_a='lower triangular') substitutes",
    "banded": "scipy.linalg.solve_banded takes fewer flops than assume_a='gen'",
    "tridiagonal": "scipy.linalg.solve_banded takes fewer flops than assume_a='gen'",
    "diagonal": "b divided by the diagonal is x",
}
"""Structures that `scipy.linalg.solve` has, and what to do with them here."""


def _for_general(precision: Any, refine: str) -> tuple[str, str]:
    """What was asked for, as far as a general matrix takes it: nobody said that it is one."""
    return precision if isinstance(precision, str) else "auto", refine if refine in FOR_GENERAL else "auto"


def _structure(assume_a: Any) -> str | None:
    """The short name of a structure that has two. ValueError for one that is none, or is SciPy's alone."""
    if assume_a is None:
        return None
    known = isinstance(assume_a, str)
    short = _LONG.get(assume_a, assume_a) if known else assume_a
    if known and short in ("pos", *_BY_LU):
        return str(short)
    instead = f"; {_SCIPYS[assume_a]}" if known and assume_a in _SCIPYS else ""
    raise ValueError(
        f"assume_a must be 'pos', 'gen', 'sym', 'her', None or a long name of theirs such as 'general', not "
        f"{shown(assume_a)}{instead}"
    )


def _check_names(precision: Any, refine: Any) -> None:
    if not isinstance(precision, PrecisionMap):
        choice(precision, "precision", ("auto", *ladder.ROUNDOFF))
    choice(refine, "refine", ("auto", *METHODS))


def _check_symmetric(A: TiledMatrix, runner: Runner, u: float, lower: bool) -> None:
    """ValueError if the triangles differ by more than n u max|A|, or one of them is not finite. Tile tasks."""
    nt = A.nt
    g = TaskGraph(f"symmetric nt={nt}")
    handles, D = g.handles("A"), g.handles("D")
    for j in range(nt):
        for i in range(j, nt):
            g.insert(OPS["asymmetry"], R(handles[i, j]), R(handles[j, i]), W(D[i, j]))
    differences = {(i, j): np.zeros((2, 1)) for j in range(nt) for i in range(j, nt)}
    runner.run(g, {"A": A, "D": differences})
    if not all(np.isfinite(d).all() for d in differences.values()):
        for i, j in A:
            places = np.argwhere(~np.isfinite(A[i, j]))
            if len(places):
                row, column = (places[0] + (A.rows(i).start, A.columns(j).start))[:: 1 if lower else -1]
                raise ValueError(
                    f"the matrix a has a NaN or infinity at ({row}, {column}); check_symmetric looks at both triangles"
                )
    largest = max((float(d[1, 0]) for d in differences.values()), default=0.0)
    bound = A.shape[0] * u * largest
    for (i, j), difference in differences.items():
        if not difference[0, 0] <= bound:
            apart = np.abs(A[i, j] - A[j, i].conj().T)
            row, column = np.unravel_index(int(np.argmax(apart)), apart.shape)
            row, column = int(row) + A.rows(i).start, int(column) + A.columns(j).start
            raise ValueError(
                f"the matrix a is not symmetric: entries ({row}, {column}) and ({column}, {row}) differ "
                f"by {apart.max():.2g}, more than rounding ({bound:.2g})"
            )
