"""What a Cholesky factor is good for: solutions, the logarithm of the determinant, the inverse. All are tile graphs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tilewright.arguments import like
from tilewright.backends import check_call, find_site
from tilewright.builder import graph_builder
from tilewright.engine import run
from tilewright.graph import RW, Handle, Handles, Op, R, TaskGraph, W
from tilewright.host.memory import zeros
from tilewright.linalg import on_device
from tilewright.linalg.matrix import Matrix, is_device_tensor
from tilewright.linalg.right_hand_side import RightHandSide
from tilewright.linalg.tuning import cholesky_tile_size
from tilewright.linalg.vectors import OPS
from tilewright.ops import copy, gemml, identity, mirror, trsml
from tilewright.scalars import flag
from tilewright.schedulers import Policy
from tilewright.tiles import TiledMatrix

__all__ = ["cho_inverse", "cho_solve", "logdet", "substitute_back", "substitute_forward"]


def substitute_forward(
    g: TaskGraph, T: Handles, X: Handles, nt: int, column: int | None = None, *, first: int = 0, lower: bool = True,
    beside: bool = True, below: tuple[Op, Handles] | None = None,
) -> None:  # fmt: skip
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
    g: TaskGraph, T: Handles, X: Handles, nt: int, column: int | None = None, *, first: int = 0, lower: bool = True,
    beside: bool = True, below: tuple[Op, Handles] | None = None,
) -> None:  # fmt: skip
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
    g.insert(OPS["total"], *[R(S[i]) for i in range(nt)], W(g.handle("sum")))


def cho_solve(
    L: Any,
    b: Any,
    *,
    lower: bool = True,
    tile_size: int | None = None,
    backend: str = "threads",
    scheduler: str | Policy = "critical-path",
    workers: int | None = None,
    check_finite: bool = True,
    return_run: bool = False,
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

    Returns
    -------
    x
        Of the shape of b, in the wider of the two dtypes; a tensor if L or b is one. CUDA tensors stay on their device.
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
    check_call(cho_solve, options, backend)
    lower, check_finite = flag(lower, "lower"), flag(check_finite, "check_finite")
    return_run = flag(return_run, "return_run")
    if is_device_tensor(L):
        _no_run(return_run)
        return on_device.cho_solve(L, b, lower)
    site = find_site(backend, options)
    L, b = site.argument(L), site.argument(b)
    with site.agreement() as facts:
        matrix = Matrix(L, lower=True, overwrite=False, what="L")
        columns = RightHandSide(b, matrix.n)
        dtype = np.result_type(matrix.dtype, columns.columns.dtype)
        dtype = dtype if str(dtype) in ("float32", "complex64", "complex128") else np.dtype(np.float64)
        factor = _tiles(matrix, tile_size, site.workers(workers), dtype, bool(lower))
        nb, m = factor.tile_size, columns.columns.shape[1]
        facts.update(shape=factor.shape, b=columns.shape, dtype=str(dtype), lower=bool(lower), tile_size=nb)
        if site.has_data:
            if check_finite:
                _check_finite(factor, lower)
            _check_diagonal(factor)
    x = np.zeros((matrix.n, m), dtype)
    X = TiledMatrix.view(x, nb)
    graph = solve_graph(factor.nt, X.nt, lower, check_finite)
    data = {"L": factor, "B": TiledMatrix.view(columns.columns, nb), "X": X}
    try:
        record = run(graph, data, backend=backend, scheduler=scheduler, workers=workers, **options)
    except ValueError:
        if check_finite and site.has_data and not np.isfinite(columns.columns).all():
            raise ValueError(_first_not_finite(columns.columns)) from None
        raise
    solution = site.result(columns.result(x, L))
    return (solution, record) if return_run else solution


def logdet(
    L: Any,
    *,
    tile_size: int | None = None,
    backend: str = "threads",
    scheduler: str | Policy = "critical-path",
    workers: int | None = None,
    return_run: bool = False,
    **options: Any,
) -> Any:
    """log det A from a Cholesky factor of A: 2 sum_i log |l_ii|. -inf if one is zero. Never overflows.

    See `cho_solve` for the arguments; L may be the lower or the upper factor. Returns a float, and with ``return_run``
    the `Run`. O(n).

    Examples
    --------
    >>> import numpy as np, tilewright as tw
    >>> round(float(np.exp(tw.logdet(tw.tiled_cholesky(np.array([[4.0, 2.0], [2.0, 5.0]]))))), 12)
    16.0
    """
    check_call(logdet, options, backend)
    return_run = flag(return_run, "return_run")
    if is_device_tensor(L):
        _no_run(return_run)
        return on_device.logdet(L)
    site = find_site(backend, options)
    L = site.argument(L)
    with site.agreement() as facts:
        matrix = Matrix(L, lower=True, overwrite=False, what="L")
        factor = _tiles(matrix, tile_size, site.workers(workers), matrix.dtype, None)
        facts.update(shape=factor.shape, tile_size=factor.tile_size)
    if not matrix.n:
        nothing = run(TaskGraph("logdet nt=0"), {}, backend=backend, workers=workers, **options)
        return (0.0, nothing) if return_run else 0.0
    total = np.zeros((1, 1))
    data = {"L": factor, "S": [np.zeros((1, 1)) for _ in range(factor.nt)], "sum": total}
    record = run(
        logdet_graph(factor.nt), data, backend=backend, scheduler=scheduler, workers=workers, **options
    )  # fmt: skip
    value = float(total[0, 0])
    return (value, record) if return_run else value


def cho_inverse(
    L: Any,
    *,
    lower: bool = True,
    tile_size: int | None = None,
    backend: str = "threads",
    scheduler: str | Policy = "critical-path",
    workers: int | None = None,
    return_run: bool = False,
    **options: Any,
) -> Any:
    """The inverse of A from the Cholesky factor of A; exactly Hermitian. To solve a system, `cho_solve` is better.

    See `cho_solve` for arguments and errors. Returns an (n, n) array or tensor with the dtype of L, both triangles, and
    with ``return_run`` the `Run`. 2/3 n^3 flops, n^2 words beside L.

    Examples
    --------
    >>> import numpy as np, tilewright as tw
    >>> 16 * tw.cho_inverse(tw.tiled_cholesky(np.array([[4.0, 2.0], [2.0, 5.0]])))
    array([[ 5., -2.],
           [-2.,  4.]])
    """
    check_call(cho_inverse, options, backend)
    lower, return_run = flag(lower, "lower"), flag(return_run, "return_run")
    if is_device_tensor(L):
        _no_run(return_run)
        return on_device.cho_inverse(L, lower)
    site = find_site(backend, options)
    L = site.argument(L)
    with site.agreement() as facts:
        matrix = Matrix(L, lower=True, overwrite=False, what="L")
        factor = _tiles(matrix, tile_size, site.workers(workers), matrix.dtype, bool(lower))
        facts.update(shape=factor.shape, dtype=str(matrix.dtype), lower=bool(lower), tile_size=factor.tile_size)
        if site.has_data:
            _check_diagonal(factor)
    x = np.zeros((matrix.n, matrix.n), matrix.dtype)
    record = run(
        inverse_graph(factor.nt, lower), {"L": factor, "X": TiledMatrix.view(x, factor.tile_size)}, backend=backend,
        scheduler=scheduler, workers=workers, **options,
    )  # fmt: skip
    inverse = site.result(like(x, L))
    return (inverse, record) if return_run else inverse


def _no_run(return_run: bool) -> None:
    if return_run:
        raise ValueError("on a CUDA device torch solves, not a tile graph: there is no run to return")


def _tiles(matrix: Matrix, tile_size: int | None, workers: int, dtype: np.dtype, lower: bool | None) -> TiledMatrix:
    """The tiles of a factor; converted if that is needed, the triangle that is read or with None the diagonal alone.

    Nobody has written the other tiles, maybe: what is in them need not be numbers.
    """
    if tile_size is None:
        tile_size = matrix.tile_size or cholesky_tile_size(matrix.n, workers)
    tiles = matrix.source(tile_size)
    if tiles.dtype == dtype:
        return tiles
    converted = TiledMatrix.view(zeros(tiles.shape, dtype), tiles.tile_size)
    for i in range(tiles.nt):
        for j in range(tiles.nt) if lower is not None else (i,):
            if i == j:
                n = len(tiles[i, i])
                read = np.eye(n, dtype=bool) if lower is None else np.tri(n, dtype=bool)
                np.copyto(converted[i, i], tiles[i, i], where=read.T if lower is False else read)
            elif (i > j) == lower:
                converted[i, j][...] = tiles[i, j]
    return converted


def _check_diagonal(factor: TiledMatrix) -> None:
    for k in range(factor.nt):
        zeros = np.flatnonzero(factor[k, k].diagonal() == 0)
        if len(zeros):
            place = factor.rows(k).start + int(zeros[0])
            raise np.linalg.LinAlgError(f"the factor is singular: its diagonal is zero at ({place}, {place})")


def _check_finite(factor: TiledMatrix, lower: bool) -> None:
    """ValueError for a NaN or an infinity in the triangle that is read."""
    for i, j in factor:
        if i != j and (i > j) != lower:
            continue
        tile = factor[i, j]
        with np.errstate(all="ignore"):
            if np.isfinite(tile.sum()):  # it is not where one of them is not
                continue
        bad = ~np.isfinite(tile)
        if i == j:
            bad = np.tril(bad) if lower else np.triu(bad)
        if bad.any():
            row, column = np.argwhere(bad)[0] + (factor.rows(i).start, factor.columns(j).start)
            raise ValueError(f"L has a NaN or infinity at ({row}, {column}); check_finite=False skips this check")


def _first_not_finite(b: np.ndarray) -> str:
    place = ", ".join(str(index) for index in np.argwhere(~np.isfinite(b))[0])
    return f"b has a NaN or infinity at ({place}); check_finite=False skips this check"
