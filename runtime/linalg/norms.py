"""Frobenius norms of tiles, by which `PrecisionMap.adaptive` chooses formats."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["tile_norms"]


def tile_norms(a: Any, tile_size: int, workers: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Frobenius norm over largest magnitude, and largest magnitude, of each tile; diagonal tiles as symmetric ones.

    (nt, nt) arrays, float64, of a lower triangle: the norm of a tile may be larger than any number. One tile task each.
    """
    from tilewright.arguments import numeric
    from tilewright.engine import run
    from tilewright.graph import R, TaskGraph, W
    from tilewright.tiles import TiledMatrix

    matrix = numeric(a, "the matrix")
    if matrix.dtype.kind == "c":
        raise TypeError(f"mixed precision is for real matrices, not {matrix.dtype}")
    tiles = TiledMatrix.view(matrix, tile_size)
    if tiles.mt != tiles.nt:
        raise ValueError(f"the matrix must be square, not {tiles.shape[0]} x {tiles.shape[1]}")
    g = TaskGraph("tile norms")
    A, F = g.handles("A"), g.handles("F")
    for i in range(tiles.nt):
        for j in range(i + 1):
            g.insert(_norm, R(A[i, j]), W(F[i, j]), i == j)
    result = run(g, {"A": tiles}, scheduler="eager", workers=workers)
    norms, largest = np.zeros((tiles.nt, tiles.nt)), np.zeros((tiles.nt, tiles.nt))
    for i in range(tiles.nt):
        for j in range(i + 1):
            norms[i, j], largest[i, j] = result.store[F[i, j]]
    return norms, largest


def _norm(tile: np.ndarray, _: Any, symmetric: bool) -> tuple[float, float]:
    x = np.asarray(tile, np.float64)
    if symmetric:
        lower = np.tril(x, -1)
        x = lower + lower.T + np.diag(np.diagonal(x))
    top = float(np.abs(x).max(initial=0))
    with np.errstate(all="ignore"):
        return (float(np.linalg.norm(x / top)) if top else 0.0), top
