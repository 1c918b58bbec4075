"""What a Cholesky factor is good for: solutions, the logarithm of the determinant, the inverse. All are tile graphs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, Unpack, overload

from tilewright.builder import graph_builder
from tilewright.graph import RW, Handle, Handles, Op, R, TaskGraph, W
from tilewright.linalg.call import Call
from tilewright.linalg.tuning import cholesky_tile_size
from tilewright.ops import OPS, copy, gemml, identity, mirror, trsml
from tilewright.runs.progress import ProgressOption
from tilewright.scalars import flag
from tilewright.schedulers import Policy

if TYPE_CHECKING:
    import numpy as np

    from tilewright.kinds import FactorOptions, Matrix, Options, T
    from tilewright.runs.run import Run

__all__ = ["cho_inverse", "cho_solve", "logdet", "substitute_back", "substitute_forward"]


def substitute_forward(
    g: TaskGraph,
    T: Handles,
    X: Handles,
    nt: int,
    column: int | None = None,
    *,
    first: int = 0,
    lower: bool = True,
    beside: bool = True,
    below: tuple[Op, Handles] | None = None,
) -> None:
    """Insert X := L^-1 X, with L = T or, for ``lower=False``, L = T^H. Rows above ``first`` of X are zero [1]_.

    ``beside`` runs a task where its tile of the factor lives, which pays if X is narrower than that. ``below`` has the
    tiles of T beside the diagonal in another form, and the product that reads them.

    .. [1] LAPACK ?potrs; PLASMA pztrsm.
    """
    x = _rows(X, column)
    multiply, off = below or (gemml, T)
    for k in range(first, nt):
        g.insert(trsml, R(T[k, k]), RW(x(k)), not lower, lower, on=T[k, k] if beside else None)  # X_k := L_kk^-1 X_k
        for i in range(k + 1, nt):
            tile = off[i, k] if lower else off[k, i]
            on = tile if beside else None
            g.insert(multiply, R(tile), R(x(k)), RW(x(i)), not lower, on=on)  # X_i := X_i - L_ik X_k


def substitute_back(
    g: TaskGraph,
    T: Handles,
    X: Handles,
    nt: int,
    column: int | None = None,
    *,
    first: int = 0,
    lower: bool = True,
    beside: bool = True,
    below: tuple[Op, Handles] | None = None,
) -> None:
    """Insert X := L^-H X for the rows from ``first`` on, which need none of those above. See `substitute_forward`."""
    x = _rows(X, column)
    multiply, off = below or (gemml, T)
    for k in reversed(range(first, nt)):
        g.insert(trsml, R(T[k, k]), RW(x(k)), lower, lower, on=T[k, k] if beside else None)  # X_k := L_kk^-H X_k
        for i in reversed(range(first, k)):
            tile = off[k, i] if lower else off[i, k]
            on = tile if beside else None
            g.insert(multiply, R(tile), R(x(k)), RW(x(i)), lower, on=on)  # X_i := X_i - L_ki^H X_k


def _rows(X: Handles, column: int | None) -> Callable[[int], Handle]:
    """The handle of block i: X[i, column], or X[i] where a block has all columns."""
    return X.__getitem__ if column is None else lambda i: X[i, column]


@graph_builder("cho_solve nt={nt} nc={nc}", cache=32)
def solve_graph(g: TaskGraph, nt: int, nc: int, lower: bool, check: bool) -> None:
    """X := L^-H L^-1 B, handles ``L[i,j]``, ``B[i,c]``, ``X[i,c]``, for nc columns of tiles."""
    L, B, X = g.handles("L"), g.handles("B"), g.handles("X")
    for c in range(nc):
        for i in range(nt):
            g.insert(copy, R(B[i, c]), W(X[i, c]), *["all"] * check)
        substitute_forward(g, L, X, nt, c, lower=lower, beside=nc == 1)
        substitute_back(g, L, X, nt, c, lower=lower, beside=nc == 1)


@graph_builder("cho_inverse nt={nt}", cache=32)
def inverse_graph(g: TaskGraph, nt: int, lower: bool) -> None:
    """X := L^-H L^-1, handles ``L[i,j]``, ``X[i,j]``.

    Column j of tiles of the identity starts at row j; as the inverse is Hermitian, only its lower triangle is
    solved for, and for that substitution back can stop at row j. 2/3 n^3 flops, as many as LAPACK ?potri.
    """
    L, X = g.handles("L"), g.handles("X")
    for j in range(nt):
        g.insert(identity, W(X[j, j]))
        substitute_forward(g, L, X, nt, j, first=j, lower=lower, beside=False)
        substitute_back(g, L, X, nt, j, first=j, lower=lower, beside=False)
        for i in range(j, nt):
            g.insert(mirror, R(X[i, j]), RW(X[j, i]))


@graph_builder("logdet nt={nt}", cache=32)
def logdet_graph(g: TaskGraph, nt: int) -> None:
    """sum := the sum over the diagonal tiles, handles ``L[i,i]``, ``S[i]``, ``sum``."""
    L, S = g.handles("L"), g.handles("S")
    for i in range(nt):
        g.insert(OPS["logdiag"], R(L[i, i]), W(S[i]))
    if nt:
        g.insert(OPS["total"], [R(S[i]) for i in range(nt)], W(g.handle("sum")))


@overload
def cho_solve(L: T, b: Matrix, *, return_run: Literal[False] = False, **options: Unpack[FactorOptions]) -> T: ...
@overload
def cho_solve(L: T, b: Matrix, *, return_run: Literal[True], **options: Unpack[FactorOptions]) -> tuple[T, Run]: ...
@overload
def cho_solve(L: Matrix, b: T, *, return_run: Literal[False] = False, **options: Unpack[FactorOptions]) -> T: ...
@overload
def cho_solve(L: Matrix, b: T, *, return_run: Literal[True], **options: Unpack[FactorOptions]) -> tuple[T, Run]: ...
@overload
def cho_solve(
    L: Matrix, b: Matrix, *, return_run: Literal[False] = False, **options: Unpack[FactorOptions]
) -> np.ndarray: ...
@overload
def cho_solve(
    L: Matrix, b: Matrix, *, return_run: Literal[True], **options: Unpack[FactorOptions]
) -> tuple[np.ndarray, Run]: ...
def cho_solve(
    L: Any,
    b: Any,
    *,
    lower: bool = True,
    tile_size: int | None = None,
    backend: str | None = None,
    scheduler: str | Policy = "critical-path",
    workers: int | None = None,
    check_finite: bool = True,
    return_run: bool = False,
    progress: ProgressOption = False,
    **options: Any,
) -> Any:
    """Solve A x = b from the Cholesky factor of A [1]_.

    Parameters
    ----------
    L : (n, n) array_like, torch tensor or TiledMatrix
        The factor of `tiled_cholesky`: L with A = L L^H, or with ``lower=False`` U with A = U^H U. Only that triangle
        is referenced.
    b : (n,) or (n, m) array_like or torch tensor
        One right-hand side, or one in each column.
    tile_size
        Rows of a tile; by default that of `tiled_cholesky`.
    backend, scheduler, workers, options
        See `tilewright.run`.
    check_finite
        Look for NaN and infinities in b.
    return_run
        Also return the `Run`.
    progress
        Draw a progress bar on standard error; ``"page"`` or a function as in `tilewright.run`.
    lower
        Whether L is the lower factor, or the upper one.

    Returns
    -------
    x
        In the shape of b and the wider of the two dtypes; a tensor if L or b is one. CUDA tensors stay on their device.
    run : Run
        Only with ``return_run``.

    Raises
    ------
    ValueError
        Shapes that do not fit; a NaN or an infinity in L or b.
    TypeError
        A dtype that is none of LAPACK's four and no integer.
    numpy.linalg.LinAlgError
        The factor has a zero on its diagonal.

    Notes
    -----
    2 n^2 m flops. The bits of x depend on L, b, the tile size and the BLAS in use, and on nothing else.

    References
    ----------
    .. [1] LAPACK ?potrs.

    Examples
    --------
    >>> import numpy as np, tilewright as tw
    >>> tw.cho_solve(tw.tiled_cholesky(np.array([[4.0, 2.0], [2.0, 5.0]])), [2.0, 5.0])
    array([0., 1.])
    """
    lower, check_finite = flag(lower, "lower"), flag(check_finite, "check_finite")
    call = Call(
        cho_solve,
        L,
        options,
        backend=backend,
        scheduler=scheduler,
        workers=workers,
        return_run=return_run,
        progress=progress,
    )
    b = call.argument(b)
    with call.agreement() as facts:
        matrix = call.triangle(what="L")
        columns = call.columns(b, matrix.n)
        dtype = columns.dtype_with(matrix.dtype)
        part = "lower" if lower else "upper"
        factor = matrix.factor(call.tile_size(tile_size, matrix, cholesky_tile_size), dtype, part)
        nb = factor.tile_size
        facts.update(shape=factor.shape, b=columns.shape, dtype=str(dtype), lower=lower, tile_size=nb)
        if call.has_data:
            if check_finite:
                matrix.check_finite(part)
                columns.check_before()
            matrix.check_diagonal()
    X = columns.room(nb, dtype)
    graph = solve_graph(factor.nt, X.nt, lower, check_finite)
    data = {"L": factor, "B": columns.tiles(nb, dtype), "X": X}
    call.run(graph, data, first=columns.check_finite if check_finite else None)
    return call.result(columns.result(X, call.a))


@overload
def logdet(L: Matrix, *, return_run: Literal[False] = False, **options: Unpack[Options]) -> float: ...
@overload
def logdet(L: Matrix, *, return_run: Literal[True], **options: Unpack[Options]) -> tuple[float, Run]: ...
def logdet(
    L: Any,
    *,
    tile_size: int | None = None,
    backend: str | None = None,
    scheduler: str | Policy = "critical-path",
    workers: int | None = None,
    return_run: bool = False,
    progress: ProgressOption = False,
    **options: Any,
) -> Any:
    """log det A from a Cholesky factor of A: 2 sum_i log |l_ii|. -inf if one is zero. Never overflows. O(n).

    Parameters
    ----------
    L : (n, n) array_like, torch tensor or TiledMatrix
        The lower or the upper factor; only its diagonal tiles are read.
    tile_size, backend, scheduler, workers, return_run, progress, options
        See `cho_solve`.

    Returns
    -------
    logdet : float
    run : Run
        Only with ``return_run``.

    Raises
    ------
    ValueError, TypeError
        L is not square, or not of LAPACK's four dtypes.

    Examples
    --------
    >>> import numpy as np, tilewright as tw
    >>> round(float(np.exp(tw.logdet(tw.tiled_cholesky(np.array([[4.0, 2.0], [2.0, 5.0]]))))), 12)
    16.0
    """
    call = Call(
        logdet,
        L,
        options,
        backend=backend,
        scheduler=scheduler,
        workers=workers,
        return_run=return_run,
        progress=progress,
    )
    with call.agreement() as facts:
        matrix = call.triangle(what="L")
        size = call.tile_size(tile_size, matrix, cholesky_tile_size)
        factor = matrix.factor(size, matrix.dtype, "diagonal")
        facts.update(shape=factor.shape, tile_size=size)
    total, *parts = matrix.scalars(1 + factor.nt)
    call.run(logdet_graph(factor.nt), {"L": factor, "S": parts, "sum": total})
    return call.result(float(total[0, 0]))


@overload
def cho_inverse(L: T, *, return_run: Literal[False] = False, **options: Unpack[FactorOptions]) -> T: ...
@overload
def cho_inverse(L: T, *, return_run: Literal[True], **options: Unpack[FactorOptions]) -> tuple[T, Run]: ...
@overload
def cho_inverse(L: Matrix, *, return_run: Literal[False] = False, **options: Unpack[FactorOptions]) -> np.ndarray: ...
@overload
def cho_inverse(
    L: Matrix, *, return_run: Literal[True], **options: Unpack[FactorOptions]
) -> tuple[np.ndarray, Run]: ...
def cho_inverse(
    L: Any,
    *,
    lower: bool = True,
    tile_size: int | None = None,
    backend: str | None = None,
    scheduler: str | Policy = "critical-path",
    workers: int | None = None,
    check_finite: bool = True,
    return_run: bool = False,
    progress: ProgressOption = False,
    **options: Any,
) -> Any:
    """The inverse of A from the Cholesky factor of A; exactly Hermitian. To solve a system, `cho_solve` is better.

    2/3 n^3 flops, n^2 words beside L.

    Parameters
    ----------
    L : (n, n) array_like, torch tensor or TiledMatrix
        The factor; only its triangle is read.
    lower
        Whether it is the lower one.
    check_finite
        Look for NaN and infinities in L.
    tile_size, backend, scheduler, workers, return_run, progress, options
        See `cho_solve`.

    Returns
    -------
    inverse
        (n, n), both triangles, with the dtype of L; a tensor if L is one.
    run : Run
        Only with ``return_run``.

    Raises
    ------
    ValueError, TypeError
        As of `cho_solve`.

    Examples
    --------
    >>> import numpy as np, tilewright as tw
    >>> 16 * tw.cho_inverse(tw.tiled_cholesky(np.array([[4.0, 2.0], [2.0, 5.0]])))
    array([[ 5., -2.],
           [-2.,  4.]])
    """
    lower, check_finite = flag(lower, "lower"), flag(check_finite, "check_finite")
    call = Call(
        cho_inverse,
        L,
        options,
        backend=backend,
        scheduler=scheduler,
        workers=workers,
        return_run=return_run,
        progress=progress,
    )
    with call.agreement() as facts:
        matrix = call.triangle(what="L")
        size = call.tile_size(tile_size, matrix, cholesky_tile_size)
        part = "lower" if lower else "upper"
        factor = matrix.factor(size, matrix.dtype, part)
        facts.update(shape=factor.shape, dtype=str(matrix.dtype), lower=lower, tile_size=size)
        if call.has_data:
            if check_finite:
                matrix.check_finite(part)
            matrix.check_diagonal()
    X = matrix.whole()
    call.run(inverse_graph(factor.nt, lower), {"L": factor, "X": X})
    return call.result(matrix.array_of(X))
