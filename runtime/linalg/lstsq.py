"""Least squares by QR: rank and singular values from the small R, the residual from what Q^H b has below it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Unpack, overload

import numpy as np

from tilewright.arguments import entered, is_chunked, like
from tilewright.builder import graph_builder
from tilewright.graph import R, TaskGraph, W
from tilewright.linalg.block_columns import BlockColumns
from tilewright.linalg.call import Call
from tilewright.linalg.qr import adjoint_of, factor_with, planned
from tilewright.linalg.qr_graph import QRPlan, Reflections, apply, fill, insert_qr, layout_of, upper
from tilewright.linalg.qr_plan import AUTO
from tilewright.linalg.right_hand_side import RightHandSide
from tilewright.linalg.tall import cut
from tilewright.ops import copy, residues, triu
from tilewright.runs.progress import ProgressOption
from tilewright.scalars import choice, flag, real
from tilewright.schedulers import Policy

if TYPE_CHECKING:
    from tilewright.kinds import LstsqOptions, Matrix, T
    from tilewright.runs.run import Run

__all__ = ["DRIVERS", "lstsq"]

DRIVERS = ("gelsd", "gelsy", "gelss")


@graph_builder("lstsq {plan.m} x {plan.n} nc={columns}", cache=32, layout=layout_of)
def _graph(g: TaskGraph, plan: QRPlan, columns: int, check: bool) -> None:
    """R of A, the first rows of Q^H B, and the squares of the others by tile row, for so many columns of tiles."""
    A, B, X, Y, U = (g.handles(name) for name in ("A", "B", "X", "Y", "R"))
    H = Reflections.rooms(g, plan, A, alone=True)
    fill(g, A, plan, check)
    for c in range(columns):
        for i in range(plan.mt):
            g.insert(copy, R(B[i, c]), W(X[i, c]), *["all"] * check)
    insert_qr(g, H, plan)
    apply(g, H, X, plan, columns, "C")
    upper(g, H, U, plan)
    N = g.handles("N")
    for c in range(columns):
        for k in range(plan.panels):
            g.insert(triu, R(X[k, c]), W(Y[k, c]), False)
        for i in range(plan.mt):
            first = min(max(plan.n - i * plan.height, 0), plan.rows(i))
            if first < plan.rows(i):
                g.insert(residues, R(X[i, c]), W(N[i, c]), first)
    g.temporary |= {"A", "X"}  # of no use to the caller: ranks keep them


@overload
def lstsq(
    a: T, b: Matrix, cond: float | None = None, *, return_run: Literal[False] = False, **options: Unpack[LstsqOptions]
) -> tuple[T, T, int, T | None]: ...
@overload
def lstsq(
    a: T, b: Matrix, cond: float | None = None, *, return_run: Literal[True], **options: Unpack[LstsqOptions]
) -> tuple[T, T, int, T | None, Run]: ...
@overload
def lstsq(
    a: Matrix, b: T, cond: float | None = None, *, return_run: Literal[False] = False, **options: Unpack[LstsqOptions]
) -> tuple[T, T, int, T | None]: ...
@overload
def lstsq(
    a: Matrix, b: T, cond: float | None = None, *, return_run: Literal[True], **options: Unpack[LstsqOptions]
) -> tuple[T, T, int, T | None, Run]: ...
@overload
def lstsq(
    a: Matrix,
    b: Matrix,
    cond: float | None = None,
    *,
    return_run: Literal[False] = False,
    **options: Unpack[LstsqOptions],
) -> tuple[np.ndarray, np.ndarray, int, np.ndarray | None]: ...
@overload
def lstsq(
    a: Matrix, b: Matrix, cond: float | None = None, *, return_run: Literal[True], **options: Unpack[LstsqOptions]
) -> tuple[np.ndarray, np.ndarray, int, np.ndarray | None, Run]: ...
def lstsq(
    a: Any,
    b: Any,
    cond: float | None = None,
    *,
    lapack_driver: str = "gelsd",
    tree: Any = AUTO,
    check_finite: bool = True,
    tile_size: int | None = None,
    backend: str | None = None,
    scheduler: str | Policy = "critical-path",
    workers: int | None = None,
    return_run: bool = False,
    progress: ProgressOption = False,
    **options: Any,
) -> Any:
    """The x of least norm among those that make ||A x - b|| smallest, as `scipy.linalg.lstsq` returns it.

    Parameters
    ----------
    a : (m, n) array_like, torch tensor, TiledMatrix or dask.array
        Any shape: wide matrices and those of lower rank have many such x.
    b : (m,) or (m, k)
        In any of these kinds.
    cond
        Singular values up to ``cond`` times the largest count as zero; by default the roundoff of the dtype, eps.
    lapack_driver
        What is done to R, which is small: ``"gelsd"`` and ``"gelss"`` find its singular values, ``"gelsy"`` its rank by
        exchanges of columns, and no singular values.
    tree, check_finite, tile_size, backend, scheduler, workers, return_run, progress, options
        See `qr`.

    Returns
    -------
    x : (n,) or (n, k)
    residues : (), (k,) or (0,)
        ||A x - b||^2 of each column; (0,) if the rank is below n, if m <= n, and with gelsy.
    rank : int
    s : (min(m, n),) or None
        Singular values of A, in descending order; None with gelsy.
    run : Run
        Only with ``return_run``: that of the factorisation.

    Raises
    ------
    ValueError
        Shapes that do not fit, a NaN or an infinity, a name that is wrong.
    TypeError
        A dtype that is none of LAPACK's four and no integer.
    numpy.linalg.LinAlgError
        The singular values of R were not found.

    Notes
    -----
    2 m n^2 - 2/3 n^3 + 4 m n k flops on tiles for m >= n, then O(n^3) in one process on R: sigma(A) = sigma(R), so rank
    and singular values are those of A. Of a wide matrix A^H is factored: with A^H = Q R the solution is Q z, and z that
    of R^H z = b of least norm. Never A^H A, which would square the condition.

    Examples
    --------
    >>> import numpy as np, tilewright as tw
    >>> x, residues, rank, s = tw.lstsq([[1.0, 0], [1, 1], [1, 2]], [0.0, 1, 3])
    >>> x.round(6), float(residues.round(6)), rank
    (array([-0.166667,  1.5     ]), 0.166667, 2)
    """
    choice(lapack_driver, "lapack_driver", DRIVERS)
    cond, check = None if cond is None else real(cond, "cond", 0), flag(check_finite, "check_finite")
    how: dict[str, Any] = {"backend": backend, "scheduler": scheduler, "workers": workers, "progress": progress}
    a = entered(a, "the matrix a")
    wide = a is not None and len(a.shape) == 2 and a.shape[0] < a.shape[1]
    call = Call(lstsq, adjoint_of(a) if wide else a, options, return_run=return_run, chunks=True, **how)
    if options.get("root") is not None and call.engine.agreed(wide):  # others have zeros of the shape of A^H
        raise ValueError("the least squares solution of a wide matrix wants it on every rank: call it without root=")
    solve = _wide if wide else _tall
    x, squares, rank, s = solve(call, call.argument(b), cond, lapack_driver, tree, check, tile_size)
    return call.result(x, like(squares, a, b), rank, None if s is None else like(s, a, b))


_Found = tuple[Any, np.ndarray, int, np.ndarray | None]


def _tall(call: Call, b: Any, cond: Any, driver: str, tree: Any, check: bool, tile_size: int | None) -> _Found:
    with call.agreement() as facts:
        matrix, plan = planned(call, False, check, tree, tile_size)
        columns = BlockColumns(call, b, plan.m, call.a)
        dtype = columns.dtype_with(matrix.dtype)
        plan = plan._replace(dtype=str(dtype))
        facts.update(plan._asdict(), b=columns.shape)
    B = columns.tiles(plan.height, plan.width)
    m, n, k, width = plan.m, plan.n, columns.count, plan.width
    U, Y, N = (
        cut(np.zeros(shape, kind, "F"), height, width)
        for shape, height, kind in (((n, n), width, dtype), ((n, k), width, dtype), ((plan.mt, k), 1, "float64"))
    )
    data = {
        "source": matrix.tiles,
        "A": matrix.new((m, n), plan.height, width, dtype),
        "R": U,
        "B": B,
        "X": columns.new(m, plan.height, width, dtype),
        "Y": Y,
        "N": N,
    }

    def first() -> None:
        matrix.check_finite()
        columns.check_finite()

    call.run(_graph(plan, B.nt, check), data, first=first if check else None)
    x, rank, s = _small(U.to_numpy(), Y.to_numpy(), cond, driver)
    squares = N.to_numpy().sum(axis=0).astype(x.real.dtype)
    if rank < n or m <= n or driver == "gelsy":
        squares = squares[:0]
    elif len(columns.shape) == 1:
        squares = squares.reshape(())
    return like(x.reshape(n, *columns.shape[1:]), call.a, b), squares, rank, s


def _wide(call: Call, b: Any, cond: Any, driver: str, tree: Any, check: bool, tile_size: int | None) -> _Found:
    """With A^H = Q R: x = Q z, R^H z = b."""
    factor, _ = factor_with(call, False, check, tree, tile_size, False)
    n, m = factor.shape
    columns = RightHandSide(b.compute() if is_chunked(b) else b, m)
    if check:
        columns.check_finite()
    dtype = columns.dtype_with(factor.dtype)
    U = np.asarray(factor.R).astype(dtype, copy=False)
    z, rank, s = _small(U.conj().T, columns.columns.astype(dtype), cond, driver)
    padded = np.zeros((n, z.shape[1]), z.dtype, "F")
    padded[:m] = z
    x = np.asarray(factor.apply(padded, check_finite=False))
    return like(x.reshape(n, *columns.shape[1:]), call.a, b), np.zeros(0, x.real.dtype), rank, s


def _small(a: np.ndarray, b: np.ndarray, cond: Any, driver: str) -> tuple[np.ndarray, int, np.ndarray | None]:
    """The same for a square matrix, by LAPACK."""
    from scipy.linalg import lstsq as in_scipy

    small: Any = in_scipy
    if not a.size or not b.shape[1]:
        s = np.linalg.svd(a, compute_uv=False) if a.size else np.zeros(0, a.real.dtype)
        least = np.finfo(a.dtype).eps if cond is None else cond
        rank = int((s > least * s.max(initial=0)).sum())
        return np.zeros(b.shape, b.dtype), rank, None if driver == "gelsy" else s
    x, _, rank, s = small(a, b, cond, check_finite=False, lapack_driver=driver)
    return x, int(rank), s
