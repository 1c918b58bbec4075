"""A panel by recursion on halves of its columns, as tasks: LAPACK's ?getrf2 cut where tasks can run side by side [1]_.

The columns are cut into ``of`` *leaves* of equal width, the last of which takes what is left. `getrf2` factors a leaf
in all tiles of the panel and exchanges the rows of the other columns alike. When the leaves ``first`` to ``middle`` are
done, `trsm2` finds the rows of U above the leaves ``middle`` to ``last`` in the tile on top and subtracts their
products there, and `gemm2` does the latter in one other tile: those of different tiles wait for nothing but the top.

.. [1] S. Toledo, Locality of reference in LU decomposition with partial pivoting, SIMAX 18 (1997); LAPACK ?getrf2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from tilewright.kernels import getrf, reference, tensor_algebra
from tilewright.kernels.blas import Library
from tilewright.kernels.columns import calls, columns_of, no_exchange, on_strip, tops
from tilewright.kernels.swaps import swap_rows
from tilewright.kernels.tile_op import TileOp

__all__ = ["GEMM2", "GETRF2", "TRSM2", "cut", "flops_gemm2", "flops_getrf2", "flops_trsm2"]

Shape = tuple[int, ...]


def cut(leaf: int, of: int, pivots: int, columns: int) -> int:
    """The first column of a leaf, of a panel with so many pivots and columns; the columns beyond are the last's."""
    return columns if leaf == of else pivots * leaf // of


def flops_getrf2(leaf: int, of: int, tiles: Sequence[Shape], piv: Shape = ()) -> float:
    """Flops of a leaf of w columns whose first row is r, in a panel of m rows: those of getrf of (m - r) x w."""
    m, n = sum(tile[0] for tile in tiles), tiles[0][1]
    begin, end = (cut(at, of, min(m, n), n) for at in (leaf, leaf + 1))
    return getrf.flops([(m - begin, end - begin)]) if begin < m else 0.0


def flops_trsm2(first: int, middle: int, last: int, of: int, tile: Shape) -> float:
    m, n = tile
    a, b, c = (cut(at, of, min(m, n), n) for at in (first, middle, last))
    return float((b - a) * (c - b) * ((b - a) + 2 * (m - b)))


def flops_gemm2(first: int, middle: int, last: int, of: int, top: Shape, tile: Shape) -> float:
    n = tile[1]
    a, b, c = (cut(at, of, min(top), n) for at in (first, middle, last))
    return 2.0 * tile[0] * (b - a) * (c - b)


def _leaf(
    factor: Callable[..., None],
    strip: Any,
    piv: np.ndarray,
    near: int,
    leaf: int,
    of: int,
    threshold: float,
    exchange: Callable[..., None] = swap_rows,
) -> None:
    """The leaf of the strip factored by ``factor(tiles, piv, threshold)``, the rows of its other columns exchanged."""
    n, k = strip.shape[1], len(piv)
    begin, end = cut(leaf, of, k, n), cut(leaf + 1, of, k, n)
    if begin == end:
        return
    part, own = strip[begin:, begin:end], piv[begin : min(end, k)]
    at = max(near - begin, 0)
    factor([part[:at], part[at:]] if 0 < at < len(part) else [part], own, threshold)
    for others in (strip[begin:, :begin], strip[begin:, end:]):
        if others.shape[1]:
            exchange(own, [others])
    own += begin


def build_getrf2(library: Library, letter: str) -> Callable[..., None] | None:
    """One leaf of a panel; ``piv`` is that of the whole panel, counted from its first row, as `getrf` leaves it."""
    factor = getrf.build(library, letter)
    if factor is None:
        return None
    run = factor

    def getrf2(
        tiles: Sequence[np.ndarray], piv: np.ndarray, leaf: int = 0, of: int = 1, threshold: float = 1.0
    ) -> None:
        on_strip(lambda strip: _leaf(run, strip, piv, len(tiles[0]), leaf, of, threshold), tiles)

    return getrf2


def build_trsm2(library: Library, letter: str) -> Callable[..., None] | None:
    """In the tile on top: A_ab := L_aa^-1 A_ab and A_bb := A_bb - L_ba A_ab."""
    blas = calls(library, letter)
    if blas is None:
        return None
    left, multiply = blas.left, blas.gemm

    def trsm2(tile: np.ndarray, first: int = 0, middle: int = 1, last: int = 2, of: int = 2) -> None:
        t = columns_of(tile)
        m, n = t.shape
        a, b, c = (cut(at, of, min(m, n), n) for at in (first, middle, last))
        left(t[a:b, a:b], t[a:b, b:c], b"L", b"N", b"U")
        multiply(t[b:, a:b], t[a:b, b:c], t[b:, b:c])
        if t is not tile:
            np.copyto(tile, t)

    return trsm2


def build_gemm2(library: Library, letter: str) -> Callable[..., None] | None:
    """In another tile: A_b := A_b - A_a U_ab, with U_ab of the tile on top."""
    blas = calls(library, letter)
    if blas is None:
        return None
    multiply = blas.gemm

    def gemm2(top: np.ndarray, tile: np.ndarray, first: int = 0, middle: int = 1, last: int = 2, of: int = 2) -> None:
        u, t = columns_of(top), columns_of(tile)
        a, b, c = (cut(at, of, min(u.shape), u.shape[1]) for at in (first, middle, last))
        multiply(t[:, a:b], u[a:b, b:c], t[:, b:c])
        if t is not tile:
            np.copyto(tile, t)

    return gemm2


def _reference_getrf2(
    tiles: Sequence[np.ndarray], piv: np.ndarray, leaf: int = 0, of: int = 1, threshold: float = 1.0
) -> None:
    a = np.concatenate(tiles)
    _leaf(reference.getrf, a, piv, len(tiles[0]), leaf, of, threshold)
    row = 0
    for tile in tiles:
        tile[...] = a[row : row + len(tile)]
        row += len(tile)


def _reference_trsm2(tile: np.ndarray, first: int = 0, middle: int = 1, last: int = 2, of: int = 2) -> None:
    m, n = tile.shape
    a, b, c = (cut(at, of, min(m, n), n) for at in (first, middle, last))
    if a < b < c:
        reference.trsmn(tile[a:b, a:b], tile[a:b, b:c])
        tile[b:, b:c] -= tile[b:, a:b] @ tile[a:b, b:c]


def _reference_gemm2(
    top: np.ndarray, tile: np.ndarray, first: int = 0, middle: int = 1, last: int = 2, of: int = 2
) -> None:
    a, b, c = (cut(at, of, min(top.shape), top.shape[1]) for at in (first, middle, last))
    tile[:, b:c] -= tile[:, a:b] @ top[a:b, b:c]


def tensor_getrf2(tiles: Sequence[Any], piv: Any, leaf: int = 0, of: int = 1, threshold: float = 1.0) -> None:
    """The same on torch's tensors."""
    import torch

    strip = torch.cat(list(tiles))
    found = piv if isinstance(piv, np.ndarray) else piv.cpu().numpy()
    _leaf(tensor_algebra.getrf, strip, found, len(tiles[0]), leaf, of, threshold, tensor_algebra.swap_rows)
    if found is not piv:
        piv.copy_(torch.from_numpy(found))
    for top, tile in zip(tops(tiles), tiles, strict=True):
        tile.copy_(strip[top : top + len(tile)])


def tensor_trsm2(tile: Any, first: int = 0, middle: int = 1, last: int = 2, of: int = 2) -> None:
    m, n = tile.shape
    a, b, c = (cut(at, of, min(m, n), n) for at in (first, middle, last))
    if a < b < c:
        tensor_algebra.trsmn(tile[a:b, a:b], tile[a:b, b:c])
        tensor_algebra.gemmn(tile[b:, a:b], tile[a:b, b:c], tile[b:, b:c])


def tensor_gemm2(top: Any, tile: Any, first: int = 0, middle: int = 1, last: int = 2, of: int = 2) -> None:
    a, b, c = (cut(at, of, min(top.shape), top.shape[1]) for at in (first, middle, last))
    tensor_algebra.gemmn(tile[:, a:b], top[a:b, b:c], tile[:, b:c])


_Spec = Iterator[tuple[bool, tuple[int, ...], str]]


def _panel(m: int, n: int, k: int) -> _Spec:
    yield True, (m + k, n), ""


def _top(m: int, n: int, k: int) -> _Spec:
    yield True, (m, m), "triangle"


def _top_and_tile(m: int, n: int, k: int) -> _Spec:
    yield from ((False, (m, m), "triangle"), (True, (n, m), ""))


GETRF2 = TileOp(
    "getrf2",
    build_getrf2,
    _reference_getrf2,
    getrf.flops,
    ("getrf", "getrf"),
    named=(True, False),
    operands=_panel,
    adjoint=((_panel, (1, 2)), (_panel, (1, 4, 0.5))),
    by_columns=True,
    arguments=lambda a: ([a], no_exchange(a)),
    tensor=tensor_getrf2,
)
TRSM2 = TileOp(
    "trsm2",
    build_trsm2,
    _reference_trsm2,
    lambda tile: flops_trsm2(0, 1, 2, 2, tile),
    ("trsm", "trsm"),
    operands=_top,
    adjoint=((_top, (1, 2, 4, 4)),),
    by_columns=True,
    tensor=tensor_trsm2,
)
GEMM2 = TileOp(
    "gemm2",
    build_gemm2,
    _reference_gemm2,
    lambda top, tile: flops_gemm2(0, 1, 2, 2, top, tile),
    operands=_top_and_tile,
    adjoint=((_top_and_tile, (1, 2, 4, 4)),),
    by_columns=True,
    tensor=tensor_gemm2,
)
