"""The graphs of singular values and of singular vectors."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from tilewright.builder import graph_builder
from tilewright.graph import RW, Handle, Handles, Op, R, Task, TaskGraph, W
from tilewright.kernels import band, bidiagonal
from tilewright.linalg.eigen_graph import in_place, insert_chase, largest, scale
from tilewright.tiles import Store

__all__ = ["TALL", "Tiles", "cuts", "insert_qr", "no_svd", "store", "svd_graph", "take", "values_graph"]

Shape = tuple[int, ...]

TALL = 5 / 3
"""How many times as many rows as columns make Q R first worth it [LAPACK ?gesdd, SLATE svd]."""


def no_svd(task: Task, store: Store, info: int) -> Exception:
    return np.linalg.LinAlgError(
        f"{task}: LAPACK did not find all singular values, info {info}; a matrix with NaN or infinities has none"
    )


def _panel_flops(tiles: list[Shape], parts: list[Shape], t: Shape) -> float:
    return 2.0 * sum(part[1] for part in parts) * t[0] ** 2


def _left_flops(parts: list[Shape], t: Shape, tiles: list[Shape]) -> float:
    return 4.0 * t[0] * sum(part[1] for part in parts) * tiles[0][0]


def _right_flops(parts: list[Shape], t: Shape, tiles: list[Shape]) -> float:
    return 4.0 * t[0] * sum(part[1] for part in parts) * tiles[0][1]


take = in_place("take", bidiagonal.take, weight=0)
interleave = in_place("interleave", bidiagonal.interleave, weight=0)
values = in_place("values", bidiagonal.values, weight=1, explain=no_svd)
store = in_place("store", bidiagonal.store, weight=0)


@cache
def _weighted(name: str, weight: float) -> Op:
    function, flops = {
        "panel": (band.panel, _panel_flops), "rows": (bidiagonal.row_panel, _panel_flops),
        "left": (bidiagonal.from_left, _left_flops), "right": (bidiagonal.from_right, _right_flops),
        "back": (band.back, None), "gesdd": (bidiagonal.dense, None),
    }[name]  # fmt: skip
    return in_place(name, function, weight=weight, flops=flops, explain=no_svd if name == "gesdd" else None)


class Tiles:
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

    def rooms(self, name: str, cuts: list[tuple[int, int]], extent: int) -> tuple[Handles, Handles]:
        """V and T of panels (first row or column, width) that reach to ``extent``."""
        nb, dtype = self.nb, self.dtype

        def rank(k: int) -> int:
            return min(cuts[k][1], extent - cuts[k][0])

        def rows(i: int, k: int) -> int:
            return min((i + 1) * nb, extent) - max(i * nb, cuts[k][0])

        V = self.g.handles(f"V{name}", shape=lambda i, k: (rank(k), rows(i, k)), dtype=dtype)
        return V, self.g.handles(f"T{name}", shape=lambda k: (rank(k), rank(k)), dtype=dtype)

    def from_left(self, V: Handles, T: Handles, k: int, column: int, width: int, m: int) -> None:
        """Q R of some columns from the diagonal down to row m, and what it does to those behind them."""
        g, A, nb = self.g, self.A, self.nb
        J, part = column // nb, width / nb
        below = range(J, -(-m // nb))
        offset, vs = column - J * nb, [R(V[i, k]) for i in below]
        g.insert(
            _weighted("panel", 6 * len(below) * part**2),
            [RW(A[i, J]) for i in below],
            [W(V[i, k]) for i in below],
            W(T[k]),
            offset,
            offset,
            width,
            on=A[J, J],
        )
        for j in range(J, self.nt):
            left = offset + width if j == J else 0
            if left < min(nb, self.shape[1] - j * nb):
                g.insert(
                    _weighted("left", 12 * len(below) * part),
                    vs,
                    R(T[k]),
                    [RW(A[i, j]) for i in below],
                    offset,
                    left,
                    label=(k, j),
                )

    def from_right(self, V: Handles, T: Handles, k: int, row: int, width: int) -> None:
        """L Q of some rows, behind the band, and what it does to those below them."""
        g, A, nb, n = self.g, self.A, self.nb, self.shape[1]
        first, J, part = row // nb, (row + width) // nb, width / nb
        beside = range(J, self.nt)
        offset, vs = row + width - J * nb, [R(V[j, k]) for j in beside]
        g.insert(
            _weighted("rows", 6 * len(beside) * part**2),
            [RW(A[first, j]) for j in beside],
            [W(V[j, k]) for j in beside],
            W(T[k]),
            row - first * nb,
            offset,
            width,
            on=A[first, J],
        )
        for i in range(first, self.nt if self.shape[0] > TALL * n else self.mt):
            top = row + width - first * nb if i == first else 0
            if top < min(nb, self.shape[0] - i * nb):
                g.insert(
                    _weighted("right", 12 * len(beside) * part),
                    vs,
                    R(T[k]),
                    [RW(A[i, j]) for j in beside],
                    top,
                    offset,
                    label=(k, i),
                )


def cuts(n: int, nb: int, b: int) -> list[tuple[int, int]]:
    """(first column, width) of panels within tile columns."""
    return [
        (column, min(b, start + nb - column, n - column))
        for start in range(0, n, nb)
        for column in range(start, min(start + nb, n), b)
    ]


def insert_qr(matrix: Tiles, b: int) -> tuple[Handles, Handles, list[tuple[int, int]]]:
    """Insert A := R below which are zeros; returns V and T of panels."""
    m, n = matrix.shape
    cut = cuts(n, matrix.nb, b)
    V, T = matrix.rooms("Q", cut, m)
    for k, (column, width) in enumerate(cut):
        matrix.from_left(V, T, k, column, width, m)
    return V, T, cut


@graph_builder("svdvals {shape} tile_size={nb} band={b}", cache=16)
def values_graph(g: TaskGraph, shape: tuple[int, int], nb: int, b: int, dtype: str, flip: bool, check: bool) -> None:
    """Singular values ``s`` of ``S[i,j]``, m >= n > 0, of which that is the conjugate transpose where ``flip``.

    Q R first where m is large; then a band from the left and the right, of which a Hermitian band of order 2 n is made,
    and of that a tridiagonal matrix.
    """
    matrix = Tiles(g, shape, nb, dtype, flip, check)
    m, n = shape
    if m > TALL * n:
        insert_qr(matrix, min(nb, 2 * b))
        m = min(matrix.nt * nb, m)  # whole tiles; what is below R is zero
    cut = cuts(n, nb, b)
    V, T = matrix.rooms("L", cut, m)
    behind = [(column + width, width) for column, width in cut]
    P, U = matrix.rooms("R", behind, n)
    for k, (column, width) in enumerate(cut):
        if m - column > 1:
            matrix.from_left(V, T, k, column, width, m)
        if n - column - width > 0:
            matrix.from_right(P, U, k, column, width)
    columns, _ = insert_chase(g, 2 * n, nb, max(2 * b - 1, 1), dtype, _interleaved(g, matrix, b))
    real = {"complex64": "float32", "complex128": "float64"}.get(dtype, dtype)
    s = g.handle("s", shape=n, dtype=real, keep=True)
    g.insert(values, [R(column) for column in columns], R(matrix.exponent), W(s), on=columns[0], label=())


def _interleaved(g: TaskGraph, matrix: Tiles, b: int) -> Any:
    """A function that inserts what fills columns of the Hermitian band."""
    A, nb, n = matrix.A, matrix.nb, matrix.shape[1]

    def insert(target: Handle, start: int, stop: int, on: Handle) -> None:
        rows = range(start // 2 // nb, (stop - 1) // 2 // nb + 1)
        tiles = [(i, j) for i in rows for j in range(i, min((min((i + 1) * nb, n) - 1 + b) // nb, matrix.nt - 1) + 1)]
        g.insert(
            interleave,
            [R(A[place]) for place in tiles],
            W(target),
            tuple((i * nb, j * nb) for i, j in tiles),
            start,
            b,
            on=on,
        )

    return insert


@graph_builder("svd {shape} tile_size={nb}", cache=16)
def svd_graph(
    g: TaskGraph, shape: tuple[int, int], nb: int, b: int, dtype: str, flip: bool, full: bool, check: bool
) -> None:
    """Singular values ``s`` and vectors ``U[i,j]``, ``V[i,j]`` of ``S[i,j]``, as in `values_graph`.

    One task has LAPACK's SVD of R, or of a matrix that is not tall.
    """
    matrix = Tiles(g, shape, nb, dtype, flip, check)
    A, (m, n), mt, nt = matrix.A, shape, matrix.mt, matrix.nt
    tall = m > TALL * n
    wide = m if full else n
    X = g.handles("X", shape=lambda c: (min(nb, wide - c * nb), m), dtype=dtype)
    D = g.handles("D", shape=lambda c: (min(nb, n - c * nb), n), dtype=dtype)
    real = {"complex64": "float32", "complex128": "float64"}.get(dtype, dtype)
    s = g.handle("s", shape=n, dtype=real, keep=True)
    if tall:
        V, T, cut = insert_qr(matrix, b)
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
            for k, (column, width) in reversed(list(enumerate(cut))):
                below = range(column // nb, mt)
                g.insert(
                    _weighted("back", 12 * len(below) * width / nb),
                    [R(V[i, k]) for i in below],
                    R(T[k]),
                    RW(x),
                    column,
                    label=(k, *x.index),
                )
    U, Vh = g.handles("U"), g.handles("V")
    for c, x in enumerate(blocks):
        g.insert(store, R(x), [W(Vh[c, i] if flip else U[i, c]) for i in range(mt)], flip)
    for c in range(nt):
        _store_right(g, D[c], U, Vh, c, nt, flip)


def _store_right(g: TaskGraph, block: Handle, U: Handles, Vh: Handles, c: int, nt: int, flip: bool) -> None:
    """Columns of V^H, which for the conjugate transpose are rows of U."""
    g.insert(store, R(block), [W(U[c, i] if flip else Vh[i, c]) for i in range(nt)], flip)
