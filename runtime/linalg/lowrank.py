"""The largest singular values of a matrix, by products with few random vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Unpack, overload

import numpy as np

from tilewright.builder import graph_builder
from tilewright.graph import RW, Handle, Handles, Layout, R, TaskGraph, W
from tilewright.kernels import sketch
from tilewright.linalg.call import Call
from tilewright.linalg.eigen_graph import largest, scale, scatter
from tilewright.linalg.svd import SVD, columns_like, place_for
from tilewright.linalg.svd_graph import no_svd
from tilewright.linalg.tuning import sketch_tile_size
from tilewright.ops import in_place
from tilewright.runs.progress import ProgressOption
from tilewright.scalars import flag, positive, whole
from tilewright.schedulers import Policy

if TYPE_CHECKING:
    from tilewright.kinds import ArrayLike, K, LowRankOptions
    from tilewright.runs.run import Run

__all__ = ["lowrank_graph", "svd_lowrank"]

Shape = tuple[int, ...]


def _both_flops(tiles: list[Shape], exponent: Shape, blocks: list[Shape], back: list[Shape]) -> float:
    return 4.0 * tiles[0][0] * back[0][0] * sum(tile[1] for tile in tiles)


def _there_flops(tiles: list[Shape], exponent: Shape, blocks: list[Shape], y: Shape) -> float:
    return 2.0 * y[0] * y[1] * sum(tile[1] for tile in tiles)


both = in_place("both", sketch.there_and_back, weight=12, flops=_both_flops)
there = in_place("there", sketch.there, weight=6, flops=_there_flops)
add = in_place("add", sketch.add, weight=1)
leaf = in_place("leaf", sketch.leaf, weight=2)
root = in_place("root", sketch.root, weight=4)
top = in_place("top", sketch.top, weight=6, explain=no_svd)
finish = in_place("finish", sketch.finish, weight=1)
right = in_place("right", sketch.right, weight=1)


def _spread(x: np.ndarray, tiles: list[np.ndarray]) -> None:
    """A block of rows, stored by columns, into the tiles beside each other."""
    left = 0
    for tile in tiles:
        tile[...] = x.T[:, left : left + tile.shape[1]]
        left += tile.shape[1]


spread = in_place("spread", _spread, weight=0)


def _layout(
    shape: tuple[int, int], nb: int, k: int, thin: int, power: int, dtype: str, check: bool, ranks: int = 1
) -> Layout:
    """Tile rows dealt out in turn, what is no matrix on the first rank."""
    return Layout(ranks, lambda handle: handle.index[0] % ranks if len(handle.index) > 1 else 0, lambda handle: ())


@graph_builder("svd_lowrank {shape} tile_size={nb} k={k}", cache=16, layout=_layout)
def lowrank_graph(
    g: TaskGraph,
    shape: tuple[int, int],
    nb: int,
    k: int,
    thin: int,
    power: int,
    dtype: str,
    check: bool,
    ranks: int = 1,
) -> None:
    """Singular values and vectors of ``S[i,j]``, from random blocks ``G[j]``: ``s``, ``U[i,c]``, ``V[c,j]``.

    A visit of the tiles for each X := A^H (A X), of which there are ``power`` + 1, and one for A X at last.
    """
    (m, n), mt, nt = shape, -(-shape[0] // nb), -(-shape[1] // nb)

    def height(i: int) -> int:
        return min(nb, m - i * nb)

    def width(j: int) -> int:
        return min(nb, n - j * nb)

    S, G, M = g.handles("S"), g.handles("G"), g.handles("M", shape=1, dtype="float64")
    exponent = g.handle("exponent", shape=1, dtype="float64")
    for i in range(mt):
        for j in range(nt):
            g.insert(largest, R(S[i, j]), W(M[i, j]), False, check)
    g.insert(scale, [R(M[i, j]) for i in range(mt) for j in range(nt)], W(exponent), dtype)
    P = g.handles("parts", shape=lambda i, j, p: (thin, width(j)), dtype=dtype)
    Z = g.handles("Z", shape=lambda j, p: (thin, width(j)), dtype=dtype)
    Q = g.handles("Q", shape=lambda j, p: (thin, width(j)), dtype=dtype)
    F = g.handles("R", shape=lambda j, p: (min(thin, width(j)), thin), dtype=dtype)
    C = g.handles("C", shape=lambda j, p: (thin, min(thin, width(j))), dtype=dtype)
    X = [G[j] for j in range(nt)]
    for p in range(power + 1):
        for i in range(mt):
            g.insert(
                both,
                [R(S[i, j]) for j in range(nt)],
                R(exponent),
                [R(x) for x in X],
                [W(P[i, j, p]) for j in range(nt)],
                label=(i, p),
                on=S[i, 0],
            )
        for j in range(nt):
            g.insert(add, [R(P[i, j, p]) for i in range(mt)], W(Z[j, p]))
            g.insert(leaf, RW(Z[j, p]), W(F[j, p]))
        g.insert(root, [R(F[j, p]) for j in range(nt)], [W(C[j, p]) for j in range(nt)], label=(p,), on=C[0, p])
        for j in range(nt):
            g.insert(finish, R(Z[j, p]), R(C[j, p]), W(Q[j, p]))
        X = [Q[j, p] for j in range(nt)]
    _last(g, S, exponent, X, shape, nb, k, thin, dtype)


def _last(
    g: TaskGraph,
    S: Handles,
    exponent: Handle,
    X: list[Handle],
    shape: tuple[int, int],
    nb: int,
    k: int,
    thin: int,
    dtype: str,
) -> None:
    """Insert A X = U diag(s) turn, and V^H = turn X^H."""
    (m, n), mt, nt = shape, -(-shape[0] // nb), -(-shape[1] // nb)

    def height(i: int) -> int:
        return min(nb, m - i * nb)

    Y = g.handles("Y", shape=lambda i, c: (thin, height(i)), dtype=dtype)
    F = g.handles("RY", shape=lambda i, c: (min(thin, height(i)), thin), dtype=dtype)
    C = g.handles("CY", shape=lambda i, c: (k, min(thin, height(i))), dtype=dtype)
    B = g.handles("UB", shape=lambda i, c: (k, height(i)), dtype=dtype)
    D = g.handles("VB", shape=lambda j, c: (min(nb, n - j * nb), k), dtype=dtype)
    real = {"complex64": "float32", "complex128": "float64"}.get(dtype, dtype)
    s, turn = g.handle("s", shape=k, dtype=real, keep=True), g.handle("turn", shape=(k, thin), dtype=dtype)
    for i in range(mt):
        g.insert(there, [R(S[i, j]) for j in range(nt)], R(exponent), [R(x) for x in X], W(Y[i, 0]), label=(i,))
        g.insert(leaf, RW(Y[i, 0]), W(F[i, 0]))
    g.insert(
        top,
        [R(F[i, 0]) for i in range(mt)],
        R(exponent),
        [W(C[i, 0]) for i in range(mt)],
        W(s),
        W(turn),
        on=s,
        label=(),
    )
    U, V = g.handles("U"), g.handles("V")
    across = range(-(-k // nb))
    for i in range(mt):
        g.insert(finish, R(Y[i, 0]), R(C[i, 0]), W(B[i, 0]))
        g.insert(spread, R(B[i, 0]), [W(U[i, c]) for c in across])
    for j in range(nt):
        g.insert(right, R(turn), R(X[j]), W(D[j, 0]))
        g.insert(scatter, R(D[j, 0]), [W(V[c, j]) for c in across], on=D[j, 0])


@overload
def svd_lowrank(a: K, k: int, *, return_run: Literal[False] = False, **options: Unpack[LowRankOptions]) -> SVD[K]: ...
@overload
def svd_lowrank(
    a: K, k: int, *, return_run: Literal[True], **options: Unpack[LowRankOptions]
) -> tuple[K, np.ndarray, K, Run]: ...
@overload
def svd_lowrank(
    a: ArrayLike, k: int, *, return_run: Literal[False] = False, **options: Unpack[LowRankOptions]
) -> SVD[np.ndarray]: ...
@overload
def svd_lowrank(
    a: ArrayLike, k: int, *, return_run: Literal[True], **options: Unpack[LowRankOptions]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, Run]: ...
def svd_lowrank(
    a: Any,
    k: int,
    *,
    power_iters: int = 2,
    oversample: int = 10,
    seed: int = 0,
    check_finite: bool = True,
    tile_size: int | None = None,
    backend: str | None = None,
    scheduler: str | Policy = "critical-path",
    workers: int | None = None,
    return_run: bool = False,
    progress: ProgressOption = False,
    **options: Any,
) -> Any:
    """The ``k`` largest singular values and their vectors, by random vectors and power iterations [1]_.

    Parameters
    ----------
    a : (m, n) array_like, torch tensor, TiledMatrix or dask.array
        float32, float64, complex64 or complex128; integers become float64. Any memory order and shape.
    k
        How many, from 1 to min(m, n).
    power_iters
        Products with A^H A beyond the first, up to 1000, each in one visit of all tiles, with an orthonormal basis
        after each.
    oversample
        Vectors beyond k.
    seed
        That of the random vectors, an integer from 0. They depend on seed, n, k and ``oversample`` alone, not on
        engine, workers, tiles and chunks.
    check_finite
        Look for NaN and infinities.
    tile_size
        Rows and columns of a tile; chosen by default.
    backend, scheduler, workers, options
        See `tilewright.run`. A dask.array is worked on by ``dask`` unless another backend is named, which gathers it.
    return_run
        Also return the `Run`.
    progress
        Draw a progress bar on standard error; ``"page"`` or a function as in `tilewright.run`.

    Returns
    -------
    U : (m, k), S : (k,), Vh : (k, n)
        Singular values descend. Vectors are of the kind of ``a``. Unpack them, or use the names of the fields.
    run : Run
        Only with ``return_run``.

    Raises
    ------
    ValueError
        ``a`` is not 2-D or has NaN or infinities; a number is wrong.
    TypeError
        The dtype is not one of the four and not an integer.

    Notes
    -----
    The expected error is that of the best approximation of rank k, times little where singular values fall behind the
    first k, the less the more power iterations: with l = k + ``oversample`` vectors, q + 1 products A^H A make the
    factor about (l min(m, n))^(1 / (4 q + 4)). Singular values below 1e-8 (FP32: 3e-4) of the largest need one power
    iteration for each factor of that. The values are never those of A^H A: the last visit is a product A X with an
    orthonormal basis X, and what comes out of it is factored.

    4 (q + 1) m n l + 2 m n l flops in q + 2 visits of the tiles, and beside ``a`` one block of n x l words for each
    row of tiles.

    References
    ----------
    .. [1] N. Halko, P.-G. Martinsson and J. A. Tropp, Finding structure with randomness, SIAM Review 53 (2011).

    Examples
    --------
    >>> import numpy as np, tilewright as tw
    >>> U, s, Vh = tw.svd_lowrank(np.outer([3.0, 4.0], [0.0, 1.0, 0.0]), 1)
    >>> s.round(12)
    array([5.])
    """
    power, more = whole(power_iters, "power_iters", 0, 1000), whole(oversample, "oversample", 0)
    seed, k, check_finite = whole(seed, "seed", 0), positive(k, "k"), flag(check_finite, "check_finite")
    call = Call(
        svd_lowrank,
        a,
        options,
        backend=backend,
        scheduler=scheduler,
        workers=workers,
        progress=progress,
        return_run=return_run,
        chunks=True,
    )
    with call.agreement() as facts:
        matrix = call.matrix()
        m, n = matrix.shape
        if k > min(m, n):
            raise ValueError(f"k={k}, but {m} x {n} matrices have {min(m, n)} singular values")
        source = matrix.source(call.tile_size(tile_size, matrix, sketch_tile_size))
        nb, thin = source.tile_size, min(k + more, m, n)
        facts.update(shape=source.shape, dtype=str(matrix.dtype), tile_size=nb, k=k, thin=thin, power=power, seed=seed)
        ranks = call.engine.rank_count(call.workers)
    left, upper = place_for(call, matrix, (m, k), nb), place_for(call, matrix, (k, n), nb)
    graph = lowrank_graph((m, n), nb, k, thin, power, str(matrix.dtype), check_finite, ranks)
    data = {"S": source, "G": _random(seed, n, thin, matrix.dtype, nb), "U": left, "V": upper}
    record = call.run(graph, data, first=matrix.check_finite if check_finite else None)
    found = call.result(columns_like(call, matrix, left), record.store[Handle("s")], columns_like(call, matrix, upper))
    return found if call.return_run else SVD(*found)


def _random(seed: int, n: int, thin: int, dtype: np.dtype, nb: int) -> list[np.ndarray]:
    """n x thin standard normal numbers, in blocks of nb rows, by columns."""
    generator = np.random.Generator(np.random.PCG64(seed))
    drawn = generator.standard_normal((n, thin))
    whole = drawn + 1j * generator.standard_normal((n, thin)) if dtype.kind == "c" else drawn
    return [np.ascontiguousarray(whole[top : top + nb].T, dtype) for top in range(0, n, nb)]
