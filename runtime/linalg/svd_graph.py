"""The graphs of singular values and of singular vectors."""

from __future__ import annotations

from functools import cache

import numpy as np

from tilewright.builder import graph_builder
from tilewright.graph import RW, Handle, Handles, Op, R, Task, TaskGraph, W
from tilewright.kernels import bidiagonal
from tilewright.linalg.eigen_graph import FillBand, insert_gathered, largest, scale
from tilewright.linalg.qr_panels import PartPanels, cuts, eliminate, panel_flops, qr_panels
from tilewright.ops import in_place
from tilewright.tiles import Store

__all__ = ["TALL", "WorkingTiles", "insert_qr", "no_svd", "store", "svd_graph", "take", "values_graph"]

Shape = tuple[int, ...]

TALL = 5 / 3
"""How many times as many rows as columns make Q R first worth it [LAPACK ?gesdd, SLATE svd]."""


def no_svd(task: Task, store: Store, info: int) -> Exception:
    return np.linalg.LinAlgError(
        f"{task}: LAPACK did not find all singular values, info {info}; a matrix with NaN or infinities has none"
    )


def _right_flops(parts: list[Shape], t: Shape, tiles: list[Shape]) -> float:
    return 4.0 * t[0] * sum(part[1] for part in parts) * tiles[0][1]


def _values_flops(parts: list[Shape], exponent: Shape, s: Shape) -> float:
    """8 n^2 b, the rotations."""
    return 8.0 * (parts[0][1] - 1) * s[0] ** 2


take = in_place("take", bidiagonal.take, weight=0)
gather = in_place("gather", bidiagonal.gather, weight=0)
store = in_place("store", bidiagonal.store, weight=0)


@cache
def _weighted(name: str, weight: float) -> Op:
    function, flops = {
        "rows": (bidiagonal.row_panel, panel_flops),
        "right": (bidiagonal.from_right, _right_flops),
        "gesdd": (bidiagonal.dense, None),
        "values": (bidiagonal.values, _values_flops),
    }[name]
    return in_place(name, function, weight=weight, flops=flops, explain=no_svd if name in ("gesdd", "values") else None)


class WorkingTiles:
    """m x n tiles by columns, m >= n, in which loops insert their tasks."""

    def __init__(self, g: TaskGraph, shape: tuple[int, int], nb: int, dtype: str, flip: bool, check: bool) -> None:
        self.g, self.shape, self.nb, self.dtype = g, shape, nb, dtype
        m, n = shape
        self.mt, self.nt = -(-m // nb), -(-n // nb)
        self.A = g.handles("A", shape=lambda i, j: (min(nb, n - j * nb), min(nb, m - i * nb)), dtype=dtype)
        S, M = g.handles("S"), g.handles("M", shape=1, dtype="float64")
        self.exponent = g.handle("exponent", shape=1, dtype="float64")
        places = [(i, j) for j in range(self.nt) for i in range(self.mt)]
        for i, j in places:
            g.insert(largest, R(S[j, i] if flip else S[i, j]), W(M[i, j]), False, check)
        g.insert(scale, [R(M[place]) for place in places], W(self.exponent), dtype)
        for i, j in places:
            g.insert(take, R(S[j, i] if flip else S[i, j]), R(self.exponent), W(self.A[i, j]), flip)

    def panels(self, name: str, b: int, m: int) -> PartPanels:
        """Panels of at most b columns that reach down to row m."""
        nb, n = self.nb, self.shape[1]
        heights = [min(nb, m - start) for start in range(0, m, nb)]
        return PartPanels(self.g, self.A, cuts(n, nb, b), nb, n, heights, self.dtype, f"V{name}", f"T{name}")


class RowPanels(PartPanels):
    """Rows behind the band: L Q of panels whose ``column`` is their first row, and ``row`` their first column."""

    def factor(self, k: int) -> None:
        _, top, width, left = self.cut[k]
        beside, i = self.below(k), top // self.nb
        self.g.insert(
            _weighted("rows", 6 * len(beside) * self.share(k) ** 2),
            [RW(self.A[i, j]) for j in beside],
            [W(self.V[j, k]) for j in beside],
            W(self.T[k]),
            top % self.nb,
            left % self.nb,
            width,
            on=self.A[i, beside[0]],
        )

    def update(self, k: int, i: int) -> None:
        """Insert A_i := A_i Q_k, for the rows of block row i below the panel."""
        _, top, width, left = self.cut[k]
        beside = self.below(k)
        self.g.insert(
            _weighted("right", 12 * len(beside) * self.share(k)),
            self.vectors(k),
            R(self.T[k]),
            [RW(self.A[i, j]) for j in beside],
            max(top + width - i * self.nb, 0),
            left % self.nb,
            label=(k, i),
        )


def insert_qr(matrix: WorkingTiles, b: int) -> PartPanels:
    """Insert A := R below which are zeros; returns its panels."""
    panels = matrix.panels("Q", b, matrix.shape[0])
    qr_panels(panels)
    return panels


@graph_builder("svdvals {shape} tile_size={nb} band={b}", cache=16)
def values_graph(g: TaskGraph, shape: tuple[int, int], nb: int, b: int, dtype: str, flip: bool, check: bool) -> None:
    """Singular values ``s`` of ``S[i,j]``, m >= n > 0, of which that is the conjugate transpose where ``flip``.

    Q R first where m is large; then a band from the left and the right, whose singular values one task finds.
    """
    matrix = WorkingTiles(g, shape, nb, dtype, flip, check)
    m, n = shape
    if m > TALL * n:
        insert_qr(matrix, min(nb, 2 * b))
        m = min(matrix.nt * nb, m)  # whole tiles; what is below R is zero
    left = matrix.panels("L", b, m)
    behind = [panel._replace(row=panel.column + panel.width) for panel in left.cut]
    widths = [min(nb, n - start) for start in range(0, n, nb)]
    right = RowPanels(g, matrix.A, behind, nb, m, widths, dtype, "VR", "TR")
    for k, column, _, end in behind:
        if m - column > 1:
            eliminate(left, k)
        if end < n:
            eliminate(right, k)
    columns = insert_gathered(g, n, nb, b + 1, dtype, _upper_band(g, matrix, b))
    real = {"complex64": "float32", "complex128": "float64"}.get(dtype, dtype)
    s = g.handle("s", shape=n, dtype=real, keep=True)
    rotations = _weighted("values", 288 * n**2 * b / nb**3)  # 8 n^2 b flops, at a twelfth of the rate of products
    g.insert(rotations, [R(column) for column in columns], R(matrix.exponent), W(s), on=columns[0], label=())


def _upper_band(g: TaskGraph, matrix: WorkingTiles, b: int) -> FillBand:
    """A function that inserts what fills columns of the band."""
    A, nb = matrix.A, matrix.nb

    def insert(target: Handle, start: int, stop: int, on: Handle) -> None:
        columns = range(start // nb, (stop - 1) // nb + 1)
        tiles = [(i, j) for j in columns for i in range(max(max(start, j * nb) - b, 0) // nb, j + 1)]
        corners = tuple((i * nb, j * nb) for i, j in tiles)
        g.insert(gather, [R(A[place]) for place in tiles], W(target), corners, start, b, on=on)

    return insert


@graph_builder("svd {shape} tile_size={nb}", cache=16)
def svd_graph(
    g: TaskGraph, shape: tuple[int, int], nb: int, b: int, dtype: str, flip: bool, full: bool, check: bool
) -> None:
    """Singular values ``s`` and vectors ``U[i,j]``, ``V[i,j]`` of ``S[i,j]``, as in `values_graph`.

    One task has LAPACK's SVD of R, or of a matrix that is not tall.
    """
    matrix = WorkingTiles(g, shape, nb, dtype, flip, check)
    A, (m, n), mt, nt = matrix.A, shape, matrix.mt, matrix.nt
    tall = m > TALL * n
    wide = m if full else n
    X = g.handles("X", shape=lambda c: (min(nb, wide - c * nb), m), dtype=dtype)
    D = g.handles("D", shape=lambda c: (min(nb, n - c * nb), n), dtype=dtype)
    real = {"complex64": "float32", "complex128": "float64"}.get(dtype, dtype)
    s = g.handle("s", shape=n, dtype=real, keep=True)
    if tall:
        panels = insert_qr(matrix, b)
    tiles = [(i, j) for i in range(nt if tall else mt) for j in range(i if tall else 0, nt)]
    blocks = [X[c] for c in range(-(-wide // nb))]
    g.insert(
        _weighted("gesdd", 66 * nt**3),
        [R(A[place]) for place in tiles],
        R(matrix.exponent),
        W(s),
        [W(x) for x in blocks],
        [W(D[c]) for c in range(nt)],
        tuple((i * nb, j * nb) for i, j in tiles),
        (n if tall else m, n),
        on=A[0, 0],
        label=(),
    )
    if tall:
        for x in blocks:
            panels.back(x)
    U, Vh = g.handles("U"), g.handles("V")
    for c, x in enumerate(blocks):
        g.insert(store, R(x), [W(Vh[c, i] if flip else U[i, c]) for i in range(mt)], flip)
    for c in range(nt):
        _store_right(g, D[c], U, Vh, c, nt, flip)


def _store_right(g: TaskGraph, block: Handle, U: Handles, Vh: Handles, c: int, nt: int, flip: bool) -> None:
    """Columns of V^H, which for the conjugate transpose are rows of U."""
    g.insert(store, R(block), [W(U[c, i] if flip else Vh[i, c]) for i in range(nt)], flip)
