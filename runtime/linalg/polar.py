"""The polar decomposition: the graph of the iteration, and the call."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, Unpack, overload

import numpy as np

from tilewright.builder import graph_builder
from tilewright.graph import RW, Handle, Handles, Op, R, TaskGraph, W
from tilewright.kernels import qdwh
from tilewright.linalg.call import Call
from tilewright.linalg.cho_solve import substitute_back, substitute_forward
from tilewright.linalg.cholesky import cholesky
from tilewright.linalg.eigen_graph import largest, scale
from tilewright.linalg.qr_panels import Panel, PartPanels, cuts, qr_panels
from tilewright.linalg.svd import columns_like, place_for
from tilewright.linalg.svd_graph import WorkingTiles, insert_qr, store, take
from tilewright.linalg.tuning import svd_plan
from tilewright.ops import copy, in_place, zero
from tilewright.runs.progress import ProgressOption
from tilewright.scalars import choice, flag
from tilewright.schedulers import Policy

if TYPE_CHECKING:
    from tilewright.kinds import ArrayLike, K, PolarOptions
    from tilewright.runs.run import Run

__all__ = ["polar", "polar_graph", "weights"]

Step = tuple[float, float, float]

_BY_QR = 100
"""Larger weights c make I + c X^H X too badly conditioned for Cholesky."""

bounds = in_place("bounds", qdwh.bounds, weight=1)
start = in_place("start", qdwh.start, weight=0)
scaled = in_place("scaled", qdwh.scaled, weight=0)
unit = in_place("unit", qdwh.unit, weight=0)
weighted = in_place("weighted", qdwh.weighted, weight=0)


@cache
def _weighted(name: str, weight: float) -> Op:
    function = {"turn": qdwh.turn, "combine": qdwh.combine, "gram": qdwh.gram, "hermitian": qdwh.hermitian}[name]
    return in_place(name, function, weight=weight)


def weights(low: float, roundoff: float) -> Iterator[Step]:
    """(a, b, c) of each step, from a lower bound of the singular values, the largest of which is at most 1."""
    while abs(1 - low) > 10 * roundoff:
        square = low * low
        d = (4 * (1 - square) / square**2) ** (1 / 3)
        root = (1 + d) ** 0.5
        a = root + 0.5 * (8 - 4 * d + 8 * (2 - square) / (square * root)) ** 0.5
        b = (a - 1) ** 2 / 4
        c = a + b - 1
        yield a, b, c
        low = min(low * (a + b * square) / (1 + c * square), 1.0)


@graph_builder("polar bounds {shape}", cache=4)
def bounds_graph(g: TaskGraph, shape: tuple[int, int], nb: int, b: int, dtype: str, flip: bool, check: bool) -> None:
    """``bounds``: of the largest singular value of ``S[i,j]``, scaled, and of the smallest over that."""
    tiles = WorkingTiles(g, shape, nb, dtype, flip, check)
    insert_qr(tiles, b)
    places = [(i, j) for i in range(tiles.nt) for j in range(i, tiles.nt)]
    found = g.handle("bounds", shape=2, dtype="float64", keep=True)
    g.insert(
        bounds,
        [R(tiles.A[place]) for place in places],
        W(found),
        tuple((i * nb, j * nb) for i, j in places),
        shape[1],
        on=tiles.A[0, 0],
    )


@graph_builder("polar {shape} tile_size={nb}", cache=2)
def polar_graph(
    g: TaskGraph,
    shape: tuple[int, int],
    nb: int,
    b: int,
    dtype: str,
    flip: bool,
    steps: tuple[Step, ...],
    noise: float,
    outer: bool,
) -> None:
    """``U[i,j]`` and ``H[i,j]`` with S = U H, m >= n, or S^H = U H where ``flip``; ``bounds`` as `bounds_graph`.

    With ``outer`` S = H U, or S^H = H U.
    """
    (m, n), mt, nt = shape, -(-shape[0] // nb), -(-shape[1] // nb)

    def height(i: int) -> int:
        return min(nb, m - i * nb)

    def width(j: int) -> int:
        return min(nb, n - j * nb)

    S, found, M = g.handles("S"), g.handle("bounds"), g.handles("M", shape=1, dtype="float64")
    exponent = g.handle("exponent", shape=1, dtype="float64")
    places = [(i, j) for j in range(nt) for i in range(mt)]
    for i, j in places:
        g.insert(largest, R(S[j, i] if flip else S[i, j]), W(M[i, j]), False, False)
    g.insert(scale, [R(M[place]) for place in places], W(exponent), dtype)
    X = g.handles("X", shape=lambda i, j: (width(j), height(i)), dtype=dtype)
    A = g.handles("A", shape=lambda i, j: (width(j), height(i)), dtype=dtype)
    for i, j in places:
        source = S[j, i] if flip else S[i, j]
        g.insert(start, R(source), R(exponent), R(found), W(X[i, j]), flip, noise, (i, j))
        g.insert(take, R(source), R(exponent), W(A[i, j]), flip)
    for step, weight in enumerate(steps):
        if weight[2] > _BY_QR:
            _insert_by_qr(g, X, shape, nb, b, dtype, step, weight)
        else:
            _insert_by_cholesky(g, X, shape, nb, dtype, step, weight)
    _insert_factor(g, X, A, exponent, (mt, nt), height, width, dtype, outer)
    U = g.handles("U")
    for j in range(nt):
        for i in range(mt):
            g.insert(store, R(X[i, j]), [W(U[j, i] if flip else U[i, j])], flip)


def _insert_factor(
    g: TaskGraph,
    X: Handles,
    A: Handles,
    exponent: Handle,
    counts: tuple[int, int],
    height: Any,
    width: Any,
    dtype: str,
    outer: bool,
) -> None:
    """Insert H := (X^H A + A^H X) / 2, or with ``outer`` (X A^H + A X^H) / 2, and what stores both of its triangles."""
    extent, last, along = (height, *counts) if outer else (width, *counts[::-1])
    P = g.handles("P", shape=lambda i, j: (extent(j), extent(i)), dtype=dtype)
    H = g.handles("H")

    def line(F: Handles, c: int) -> list[Any]:
        return [R(F[c, k] if outer else F[k, c]) for k in range(along)]

    for i in range(last):
        for j in range(i + 1):
            g.insert(
                _weighted("hermitian", 12 * along),
                line(X, i),
                line(A, i),
                line(X, j),
                line(A, j),
                R(exponent),
                W(P[i, j]),
                outer,
            )
            g.insert(store, R(P[i, j]), [W(H[i, j])], False)
            if i != j:
                g.insert(store, R(P[i, j]), [W(H[j, i])], True)


def _insert_by_qr(
    g: TaskGraph, X: Handles, shape: tuple[int, int], nb: int, b: int, dtype: str, step: int, weight: Step
) -> None:
    """Insert [sqrt(c) X; I] = [Q1; Q2] R and X := b/c X + (a - b/c) / sqrt(c) Q1 Q2^H.

    What is below X is upper triangular in tiles, and so is Q2.
    """
    (m, n), mt, nt = shape, -(-shape[0] // nb), -(-shape[1] // nb)
    a, beta, c = weight
    heights = [min(nb, m - start) for start in range(0, m, nb)] + [min(nb, n - start) for start in range(0, n, nb)]

    def extents(i: int, j: int) -> tuple[int, int]:
        return min(nb, n - j * nb), heights[i]

    def below(panel: Panel) -> list[int]:
        J = panel.column // nb
        return [*range(J, mt), *range(mt, mt + J + 1)]

    C = g.handles(f"C{step}", shape=extents, dtype=dtype)
    E = g.handles(f"E{step}", shape=extents, dtype=dtype)
    panels = PartPanels(g, C, cuts(n, nb, b), nb, n, heights, dtype, f"V{step}", f"T{step}", below)
    for j in range(nt):
        for i in range(mt):
            g.insert(scaled, R(X[i, j]), W(C[i, j]), c**0.5)
            g.insert(unit if i == j else zero, W(E[i, j]))
        for i in range(mt, mt + nt):
            if i - mt <= j:
                g.insert(unit if i - mt == j else zero, W(C[i, j]))
            g.insert(zero, W(E[i, j]))
    qr_panels(panels)
    for j in range(nt):
        for k, column, _, row in reversed(panels.cut):
            if j < column // nb:  # the unit vectors of this block column are zero in the rows of these panels
                continue
            g.insert(
                _weighted("turn", 12 * len(panels.below(k)) * panels.share(k)),
                panels.vectors(k),
                R(panels.T[k]),
                [RW(E[i, j]) for i in panels.below(k)],
                row % nb,
                label=(k, j),
            )
    for i in range(mt):
        for j in range(nt):
            inner = range(j, nt)
            g.insert(
                _weighted("combine", 6 * len(inner)),
                [R(E[i, k]) for k in inner],
                [R(E[mt + j, k]) for k in inner],
                RW(X[i, j]),
                beta / c,
                (a - beta / c) / c**0.5,
            )


def _insert_by_cholesky(
    g: TaskGraph, X: Handles, shape: tuple[int, int], nb: int, dtype: str, step: int, weight: Step
) -> None:
    """Insert Z = I + c X^H X = L L^H and X := b/c X + (a - b/c) X Z^-1."""
    (m, n), mt, nt = shape, -(-shape[0] // nb), -(-shape[1] // nb)
    a, beta, c = weight

    def width(j: int) -> int:
        return min(nb, n - j * nb)

    Z = g.handles(f"Z{step}", shape=lambda i, j: (width(i), width(j)), dtype=dtype)
    D = g.handles(f"D{step}", shape=lambda j, i: (width(j), min(nb, m - i * nb)), dtype=dtype)
    for i in range(nt):
        for j in range(i + 1):
            g.insert(
                _weighted("gram", 6 * mt),
                [R(X[k, i]) for k in range(mt)],
                [R(X[k, j]) for k in range(mt)],
                W(Z[i, j]),
                c,
                i == j,
            )
    cholesky(g, Z, nt)
    for i in range(mt):
        for j in range(nt):
            g.insert(copy, R(X[i, j]), W(D[j, i]))
        substitute_forward(g, Z, D, nt, i, beside=False)
        substitute_back(g, Z, D, nt, i, beside=False)
        for j in range(nt):
            g.insert(weighted, R(D[j, i]), RW(X[i, j]), beta / c, a - beta / c)


@overload
def polar(
    a: K, side: str = "right", *, return_run: Literal[False] = False, **options: Unpack[PolarOptions]
) -> tuple[K, K]: ...
@overload
def polar(
    a: K, side: str = "right", *, return_run: Literal[True], **options: Unpack[PolarOptions]
) -> tuple[K, K, Run]: ...
@overload
def polar(
    a: ArrayLike, side: str = "right", *, return_run: Literal[False] = False, **options: Unpack[PolarOptions]
) -> tuple[np.ndarray, np.ndarray]: ...
@overload
def polar(
    a: ArrayLike, side: str = "right", *, return_run: Literal[True], **options: Unpack[PolarOptions]
) -> tuple[np.ndarray, np.ndarray, Run]: ...
def polar(
    a: Any,
    side: str = "right",
    *,
    check_finite: bool = True,
    tile_size: int | None = None,
    backend: str | None = None,
    scheduler: str | Policy = "critical-path",
    workers: int | None = None,
    return_run: bool = False,
    progress: ProgressOption = False,
    **options: Any,
) -> Any:
    """Polar decomposition A = U P or A = P U, by dynamically weighted Halley iterations [1]_.

    Parameters
    ----------
    a : (m, n) array_like, torch tensor, TiledMatrix or dask.array
        float32, float64, complex64 or complex128; integers become float64. Any memory order and shape.
    side
        ``"right"``: A = U P, P is n x n. ``"left"``: A = P U, P is m x m.
    check_finite
        Look for NaN and infinities.
    tile_size
        Rows and columns of a tile; chosen by default.
    backend, scheduler, workers, options
        See `tilewright.run`. A dask.array is worked on by ``dask`` unless another backend is named, which gathers it.
    return_run
        Also return the `Run` of the iteration.
    progress
        Draw a progress bar on standard error; ``"page"`` or a function as in `tilewright.run`.

    Returns
    -------
    U : (m, n)
        With orthonormal columns, or rows if m < n. Where A has not full rank it is one of several.
    P
        Hermitian, positive semidefinite up to rounding.
    run : Run
        Only with ``return_run``.

    Raises
    ------
    ValueError
        ``a`` is not 2-D or has NaN or infinities; another ``side``.
    TypeError
        The dtype is not one of the four and not an integer.

    Notes
    -----
    Q R of A for bounds of its singular values, then at most seven steps in one graph: by Q R of [sqrt(c) X; I] while
    weights c are large, of about 20/3 n^3 flops for a square matrix, then by Cholesky factorisation, of 13/3 n^3. A
    random matrix of order 1000 needs two of the first and three or four of the second. A matrix that is singular to
    working precision is perturbed by noise below the roundoff, so U has full rank. The bits depend on the matrix, tile
    size and the BLAS in use.

    References
    ----------
    .. [1] Y. Nakatsukasa, Z. Bai and F. Gygi, Optimizing Halley's iteration for computing the matrix polar
       decomposition, SIMAX 31 (2010).

    Examples
    --------
    >>> import numpy as np, tilewright as tw
    >>> U, P = tw.polar(np.array([[0.0, 2.0], [-3.0, 0.0]]))
    >>> U.round(12) + 0, P.round(12) + 0
    (array([[ 0.,  1.],
           [-1.,  0.]]), array([[3., 0.],
           [0., 2.]]))
    """
    choice(side, "side", ("left", "right"))
    check_finite = flag(check_finite, "check_finite")
    call = Call(
        polar,
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
        nb = call.tile_size(tile_size, matrix, lambda k, workers: svd_plan(k, workers)[0])
        source = matrix.source(nb)
        facts.update(shape=source.shape, dtype=str(matrix.dtype), tile_size=nb, side=side)
    m, n = matrix.shape
    flip, k, extent = m < n, min(m, n), n if side == "right" else m
    U, H = place_for(call, matrix, (m, n), nb), place_for(call, matrix, (extent, extent), nb)
    if k:
        shape, width, dtype = (max(m, n), k), min(nb, 128), str(matrix.dtype)
        first = matrix.check_finite if check_finite else None
        record = call.run(bounds_graph(shape, nb, width, dtype, flip, check_finite), {"S": source}, first=first)
        found = record.store[Handle("bounds")]
        known = call.engine.agreed(None if found is None else (float(found[0]), float(found[1])))
        limits = np.array(known or (1.0, 1e-3))  # a run that computes nothing has none
        steps, noise = _plan(float(limits[1]), k, dtype)
        graph = polar_graph(shape, nb, width, dtype, flip, steps, noise, (side == "left") != flip)
        call.run(graph, {"S": source, "bounds": limits, "U": U, "H": H})
    elif extent and not call.chunked:
        H.to_numpy()[...] = 0
    return call.result(columns_like(call, matrix, U), columns_like(call, matrix, H))


def _plan(low: float, k: int, dtype: str) -> tuple[tuple[Step, ...], float]:
    """Steps, and noise for a matrix that is singular to working precision."""
    u = float(np.finfo(dtype).eps) / 2
    noise = 0.0 if low > u else 4 * u / k**0.5
    return tuple(weights(min(max(low, u / (16 * k)) if noise else low, 1.0), u)), noise
