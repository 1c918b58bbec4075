"""The graphs of the Hermitian eigenproblem: to a band by tiles, to a tridiagonal matrix by bulges, and back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

import numpy as np

from tilewright.builder import graph_builder
from tilewright.graph import RW, Handle, Handles, Op, R, Task, TaskGraph, Use, W
from tilewright.kernels import band, bulge, one_stage, tridiagonal
from tilewright.linalg.qr_panels import Panel, PartPanels
from tilewright.ops import in_place
from tilewright.scalars import positive, whole
from tilewright.tiles import Store

__all__ = ["band_graph", "eigen_graph", "insert_band", "insert_chase", "insert_scaled", "panels", "piece", "sweeps"]

Shape = tuple[int, ...]

ONE_STAGE = 0
"""The band of a reduction in one task: none."""


def panels(n: int, nb: int, b: int) -> Iterator[Panel]:
    """The panels below the band of an n x n matrix in tiles of nb rows, of half-width b, which divides nb.

    Each begins behind the rows that the one before left in the band.
    """
    k = 0
    for start in range(0, n, nb):
        for column in range(start, min(start + nb, n), b):
            row = min(column + b, start + nb)
            if n - row < 2:  # nothing below the band, or a single row, which is one already
                return
            yield Panel(k, column, row - column, row)
            k += 1


def piece(n: int, b: int) -> int:
    """How many columns of the band one handle has."""
    return min(b * max(1, chased_together(n, b) // 2), n)


def chased_together(n: int, b: int) -> int:
    """How many sweeps, and blocks of each, one task chases: what it goes through again and again stays in a cache."""
    return min(16, max(8, n // (16 * b)))


def sweeps(n: int, b: int) -> int:
    """How many sweeps of bulges there are."""
    return max(n - 2, 0) if b > 1 else 0


# ------------------------------------------------------------------ ops


def _product_flops(tiles: list[Shape], parts: list[Shape], y: Shape) -> float:
    return 2.0 * y[0] * y[1] * sum(part[1] for part in parts)


def _update_flops(down: Shape, along: Shape, tile: Shape) -> float:
    return 2.0 * down[0] * down[1] * along[0]


def _chase_flops(parts: list[Shape], v: Shape, turn: Shape) -> float:
    """6 b words of work for each of the b entries of a column."""
    b = (parts[0][1] - 1) // 2
    return 6.0 * b * v[0] * sum(part[0] for part in parts)


def _values_flops(parts: list[Shape], exponent: Shape, w: Shape) -> float:
    """6 n^2 b, the chase."""
    return 6.0 * (parts[0][1] - 1) * sum(part[0] for part in parts) ** 2


def _apply_flops(forms: Shape, turned: Shape, x: Shape) -> float:
    return 4.0 * forms[0] * forms[1] * forms[2] * x[0]


def _not_finite(task: Task, store: Store, info: int) -> Exception:
    return ValueError(f"{task}: {task.uses[0].handle} has a NaN or an infinity; check_finite=False skips this check")


def _not_found(task: Task, store: Store, info: int) -> Exception:
    return np.linalg.LinAlgError(
        f"{task}: LAPACK did not find all eigenvalues of the tridiagonal matrix, info "
        f"{info}; one with NaN or infinities has none"
    )


largest = in_place("largest", band.largest, weight=0, explain=_not_finite)
scale = in_place("scale", band.scale, weight=0)
fill = in_place("fill", band.fill, weight=0)
join = in_place("join", band.join, weight=0.5)
middle = in_place("middle", band.middle, weight=0.5)
gather = in_place("gather", bulge.gather, weight=0)
compact = in_place("compact", bulge.compact, weight=1)
one_values = in_place("values", one_stage.values, weight=4, explain=_not_found)
one_solve = in_place("vectors", one_stage.solve, weight=16, explain=_not_found)


@cache
def _weighted(name: str, weight: float) -> Op:
    function, flops = {
        "product": (band.product, _product_flops), "update": (band.update, _update_flops),
        "chase": (bulge.chase, _chase_flops), "apply": (bulge.apply, _apply_flops),
        "tridiag": (tridiagonal.solve, None), "values": (tridiagonal.values, _values_flops),
    }[name]  # fmt: skip
    explain = _not_found if name in ("tridiag", "values") else None
    return in_place(name, function, weight=weight, flops=flops, explain=explain)


def _chase_weight(blocks: int, b: int, nb: int) -> float:
    """8 b^2 flops a block, at a twelfth of the rate of products."""
    return 288 * blocks * b**2 / nb**3


# ------------------------------------------------------------------ loops


def insert_scaled(g: TaskGraph, A: Handles, nt: int, dtype: str, conjugate: bool, check: bool) -> Any:
    """Insert A := 2^e S of the lower triangle ``S[i,j]``; returns the handle of e."""
    S, M = g.handles("S"), g.handles("M", shape=1, dtype="float64")
    exponent = g.handle("exponent", shape=1, dtype="float64")
    places = [(i, j) for j in range(nt) for i in range(j, nt)]
    for i, j in places:
        g.insert(largest, R(S[i, j]), W(M[i, j]), i == j, check)
    g.insert(scale, [R(M[place]) for place in places], W(exponent), dtype)
    for i, j in places:
        g.insert(fill, R(S[i, j]), R(exponent), W(A[i, j]), i == j, conjugate)
    return exponent


def insert_band(g: TaskGraph, A: Handles, n: int, nb: int, b: int, dtype: str) -> PartPanels:
    """Insert A := Q^H A Q, a band of half-width b; returns the panels."""
    nt = -(-n // nb)
    cut = list(panels(n, nb, b))
    below_band = PartPanels(g, A, cut, nb, n, [min(nb, n - i * nb) for i in range(nt)], dtype)
    V, T, rank = below_band.V, below_band.T, below_band.rank

    def both(i: int, k: int) -> tuple[int, int]:
        return 2 * rank(k), below_band.shape(i, k)[1]

    Y, P = g.handles("Y", shape=below_band.shape, dtype=dtype), g.handles("VW", shape=both, dtype=dtype)
    H = g.handles("WV", shape=lambda i, k: both(i, k)[::-1], dtype=dtype)  # so that updates of a row need not turn it
    middles = g.handles("middle", shape=lambda k: (rank(k), rank(k)), dtype=dtype)
    for k, _, _, row in cut:
        below, part, vs = below_band.below(k), below_band.share(k), below_band.vectors(k)
        first, offset = divmod(row, nb)
        below_band.factor(k)  # A_k = Q_k R_k
        for i in below:
            tiles = [R(A[i, j] if j <= i else A[j, i]) for j in below]
            g.insert(_weighted("product", 6 * len(below) * part), tiles, vs, W(Y[i, k]), i - first, offset)
        g.insert(middle, vs, [R(Y[i, k]) for i in below], R(T[k]), W(middles[k]))
        for i in below:
            g.insert(join, R(V[i, k]), R(Y[i, k]), R(T[k]), R(middles[k]), W(P[i, k]), W(H[i, k]))
        for j in below:
            for i in range(j, nt):
                top, left = (offset if place == first else 0 for place in (i, j))
                g.insert(_weighted("update", 12 * part), R(P[i, k]), R(H[j, k]), RW(A[i, j]), top, left)
    return below_band


@graph_builder("band {nt} x {nt} tile_size={nb} band={b}", extents=lambda nt, nb, b: {"A": (nt, nt)})
def band_graph(g: TaskGraph, nt: int, nb: int, b: int) -> None:
    """The first stage alone: tiles ``A[i,j]`` of the lower triangle become a band of half-width b, a divisor of nb.

    For pictures and simulation; the tiles are nb x nb and FP64. With r = nb / b panels a tile column it takes work
    4 nt^3 in units of nb^3/3 flops, but for lower terms.

    Raises
    ------
    ValueError
        A number is too small, or b does not divide nb.

    Examples
    --------
    >>> from tilewright.linalg.eigen_graph import band_graph
    >>> g = band_graph(2, nb=8, b=4)
    >>> len(g), g.tasks[0], g.tasks[1]
    (19, panel(0), product(0,0))
    """
    nt, nb, b = whole(nt, "nt", 0), positive(nb, "nb"), positive(b, "b")
    if nb % b:
        raise ValueError(f"b={b} does not divide nb={nb}")
    insert_band(g, g.handles("A"), nt * nb, nb, b, "float64")


FillBand = Callable[[Handle, int, int, Handle], None]
"""``fill_band(target, start, stop, on)`` inserts what makes these columns of the band, on the rank of ``on``."""


def insert_gathered(g: TaskGraph, n: int, size: int, width: int, dtype: str, fill_band: FillBand) -> list[Handle]:
    """Insert what brings the columns of a band to one rank, ``width`` entries each, in pieces of ``size`` of them."""
    B = g.handles("band", shape=lambda p: (min(size, n - p * size), width), dtype=dtype)
    for p, start in enumerate(range(0, n, size)):
        fill_band(B[p], start, min(start + size, n), B[0])
    return [B[p] for p in range(-(-n // size))]


def insert_chase(
    g: TaskGraph, n: int, nb: int, b: int, dtype: str, fill_band: FillBand
) -> tuple[list[Handle], Handles]:
    """Insert the way from a band to a tridiagonal matrix; returns handles of its columns, and the reflectors.

    All on one rank: a sweep touches little for long. One task after the other: their kernels take microseconds, and two
    threads that hand the interpreter's lock to and fro for each wait longer than they compute. Tasks that need no more
    than the first columns of the band come first, so they run beside what makes the last ones.
    """
    group = chased_together(n, b)
    size = piece(n, b)
    columns = insert_gathered(g, n, size, 2 * b + 1, dtype, fill_band)
    B = columns
    count = sweeps(n, b)
    H = g.handles("reflectors", shape=lambda q: (min(group, count - q * group), n), dtype=dtype)
    turn = g.handle("turn", shape=1, dtype="float64")
    begun: set[int | None] = set()
    for q, c in _waves(n, b, count, group):
        first, start = q * group, c * group
        sweep = min(group, count - first)
        found = bulge.span(n, b, first, sweep, start, start + group)
        if found is None:
            continue
        pieces = range(found[0] // size, (found[1] - 1) // size + 1)
        g.insert(
            _weighted("chase", _chase_weight(sweep * group, b, nb)),
            [RW(B[p]) for p in pieces],
            (RW if q in begun else W)(H[q]),
            (RW if begun else W)(turn),
            n,
            b,
            first,
            start,
            start + group,
            pieces[0] * size,
            on=B[0],
            label=(q, c),
        )
        begun.add(q)
    return columns, H


def _waves(n: int, b: int, count: int, group: int) -> list[tuple[int, int]]:
    """(group of sweeps, group of blocks) of the tasks of a chase: (q, c) after (q, c - 1) and (q - 1, c + 1)."""
    places = [
        (q, c)
        for q, first in enumerate(range(0, count, group))
        for c in range(-(-(bulge.blocks(n, b, first) + min(group, count - first)) // group))
    ]
    return sorted(places, key=lambda place: (place[1] + 2 * place[0], place))


@graph_builder("eigh {n} x {n} tile_size={nb} band={b}", cache=16)
def eigen_graph(
    g: TaskGraph, n: int, nb: int, b: int, dtype: str, low: int, high: int, vectors: bool, conjugate: bool, check: bool
) -> None:
    """Eigenvalues ``low`` to ``high`` - 1 of the triangle ``S[i,j]``, n > 0: ``w``, and with vectors ``Z[i,c]``.

    With b = `ONE_STAGE`, for one tile, without a band.
    """
    nt = -(-n // nb)

    def extent(i: int) -> int:
        return min(nb, n - i * nb)

    A = g.handles("A", shape=lambda i, j: (extent(j), extent(i)), dtype=dtype)
    exponent = insert_scaled(g, A, nt, dtype, conjugate, check)
    real = {"complex64": "float32", "complex128": "float64"}.get(dtype, dtype)
    w = g.handle("w", shape=high - low, dtype=real, keep=True)
    wide = -(-(high - low) // nb)
    X = g.handles("X", shape=lambda c: (min(nb, high - low - c * nb), n), dtype=dtype)
    blocks, Z = [X[c] for c in range(wide)], g.handles("Z")
    if b == ONE_STAGE and not vectors:
        g.insert(one_values, R(A[0, 0]), R(exponent), W(w), low)
        return
    if b == ONE_STAGE:
        g.insert(one_solve, R(A[0, 0]), R(exponent), W(w), [W(x) for x in blocks], low)
        g.insert(scatter, R(X[0]), [W(Z[0, 0])])
        return
    below_band = insert_band(g, A, n, nb, b, dtype)

    def fill_band(target: Handle, start: int, stop: int, on: Handle) -> None:
        tiles = [
            (i, j)
            for j in range(start // nb, (stop - 1) // nb + 1)
            for i in range(j, nt)
            if i * nb <= min((j + 1) * nb, stop) - 1 + b
        ]
        g.insert(
            gather,
            [R(A[place]) for place in tiles],
            W(target),
            tuple((i * nb, j * nb) for i, j in tiles),
            start,
            b,
            on=on,
        )

    if not vectors:
        columns = insert_gathered(g, n, nb, b + 1, dtype, fill_band)
        weight = _chase_weight(n**2 // (2 * b), b, nb)
        g.insert(_weighted("values", weight), _all(columns), R(exponent), W(w), low, on=columns[0], label=())
        return
    columns, H = insert_chase(g, n, nb, b, dtype, fill_band)
    parts = _all(columns)
    g.insert(
        _weighted("tridiag", 4 * nt**3), parts, R(exponent), W(w), [W(x) for x in blocks], low, on=columns[0], label=()
    )
    insert_back(g, below_band, H, blocks, n, nb, b, dtype)
    for c, x in enumerate(blocks):
        g.insert(scatter, R(x), [W(Z[i, c]) for i in range(nt)])


def _all(handles: Sequence[Handle]) -> list[Use]:
    return [R(handle) for handle in handles]


def insert_back(
    g: TaskGraph, below_band: PartPanels, H: Handles, X: Sequence[Handle], n: int, nb: int, b: int, dtype: str
) -> None:
    """Insert X := Q1 Q2 X for blocks of columns: the bulges of the band, then its panels, the last ones first.

    Reflectors of b/2 sweeps are applied together: b/2 of them have 3/2 b rows, so a third of the flops is spent on
    zeros; with more it would be more, with fewer products are slower.
    """
    count, chased = sweeps(n, b), chased_together(n, b)
    group = chased * max(1, b // 2 // chased)

    def shape(q: int) -> tuple[int, int, int]:
        sweep = min(group, count - q * group)
        return bulge.blocks(n, b, q * group), sweep, b + sweep - 1

    F, U = g.handles("forms", shape=shape, dtype=dtype), g.handles("turned", shape=shape, dtype=dtype)
    groups = list(enumerate(range(0, count, group)))
    for q, first in groups:
        members = [R(H[p]) for p in range(first // chased, -(-min(first + group, count) // chased))]
        g.insert(compact, members, W(F[q]), W(U[q]), n, b, first, on=H[q])
    for x in X:
        for q, first in reversed(groups):
            g.insert(
                _weighted("apply", 12 * (b + group) * group / nb**2 * bulge.blocks(n, b, first)),
                R(F[q]),
                R(U[q]),
                RW(x),
                n,
                b,
                first,
                label=(q, *x.index),
            )
        below_band.back(x)


def _scatter(x: Any, tiles: Sequence[Any]) -> None:
    """A block of columns into tiles."""
    top = 0
    for tile in tiles:
        tile[...] = x.T[top : top + len(tile)]
        top += len(tile)


scatter = in_place("scatter", _scatter, weight=0)
