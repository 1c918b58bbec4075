"""Steps to the polar factor: X := a X + ... by dynamically weighted Halley iterations [1]_.

Buffers have tiles by columns, as in `tilewright.kernels.band`. Factors of Z = I + c X^T conj(X) have them by rows: what
is stored of X is X^T by rows.

.. [1] Y. Nakatsukasa, Z. Bai and F. Gygi, Optimizing Halley's iteration for computing the matrix polar decomposition,
   SIMAX 31 (2010).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tilewright.kernels.band import shifted, times
from tilewright.kernels.lapack import by_columns, lapack, letter, real_dtype
from tilewright.kernels.scratch import room

__all__ = ["bounds", "combine", "gram", "hermitian", "scaled", "start", "turn", "unit", "weighted"]


def bounds(tiles: Sequence[np.ndarray], found: np.ndarray, places: tuple[tuple[int, int], ...], n: int) -> None:
    """A bound of the largest singular value of R in tiles, and a cautious one of its smallest over that."""
    dtype = tiles[0].dtype
    r = by_columns("bounds", n, n, dtype)
    r[...] = 0
    for tile, (row, column) in zip(tiles, places, strict=True):
        part = tile.T[: n - row]
        r[row : row + len(part), column : column + part.shape[1]] = part
    r[...] = np.triu(r)
    size = np.abs(r).astype(np.float64)
    one, top = float(size.sum(axis=0).max()), float(size.sum(axis=1).max())
    largest = min(float(np.linalg.norm(size)), float(np.sqrt(one) * np.sqrt(top)))
    kind, real = letter(dtype), real_dtype(dtype)
    rcond = np.zeros(1, real)
    space: np.ndarray = np.empty(n, real) if dtype.kind == "c" else np.empty(n, np.int32)
    if largest > 0:
        lapack(f"{kind}trcon", b"1", b"U", b"N", n, r, n, rcond, np.empty(3 * n, dtype), space)
    found[:] = largest, float(rcond[0]) * one / largest / n**0.5 / 10 if largest > 0 else 0.0


def start(
    source: np.ndarray,
    exponent: np.ndarray,
    found: np.ndarray,
    tile: np.ndarray,
    adjoint: bool,
    noise: float,
    seed: tuple[int, int],
) -> None:
    """A tile of A / alpha, or of its conjugate transpose, plus some noise below the roundoff."""
    read = shifted(source.conj().T if adjoint else source, int(exponent[0]))
    tile.T[...] = read * read.real.dtype.type(1 / found[0] if found[0] else 1)
    if noise:
        tile += (noise * np.random.default_rng(seed).standard_normal(tile.shape)).astype(tile.real.dtype)


def scaled(source: np.ndarray, target: np.ndarray, factor: float) -> None:
    """factor X."""
    np.multiply(source, source.real.dtype.type(factor), out=target)


def unit(tile: np.ndarray) -> None:
    """I; 0 where the tile is none of the diagonal."""
    tile[...] = 0
    np.fill_diagonal(tile, 1)


def turn(parts: Sequence[np.ndarray], t: np.ndarray, tiles: Sequence[np.ndarray], row: int) -> None:
    """C := (I - V T V^H) C for a block column from ``row`` of its first tile on."""
    targets = [tile.T[row if not i else 0 :] for i, tile in enumerate(tiles)]
    minus, shape = times(t.dtype), (targets[0].shape[1], len(t))
    first, second = (room(("turn", slot), shape, t.dtype) for slot in range(2))
    first[...], second[...] = 0, 0
    for part, target in zip(parts, targets, strict=True):
        minus(part.T, target, first.T, "C")
    minus(t.T, first.T, second.T)
    for part, target in zip(parts, targets, strict=True):
        minus(part.T, second.T, target)


def combine(
    above: Sequence[np.ndarray], below: Sequence[np.ndarray], tile: np.ndarray, keep: float, add: float
) -> None:
    """X := keep X + add Q1 Q2^H."""
    minus, kind = times(tile.dtype), tile.real.dtype.type
    tile *= kind(keep / -add)
    for left, right in zip(above, below, strict=True):
        adjoint = by_columns("combine", len(right), right.shape[1], tile.dtype)
        np.conjugate(right, out=adjoint)
        minus(left.T, adjoint, tile.T)
    tile *= kind(-add)


def gram(left: Sequence[np.ndarray], right: Sequence[np.ndarray], tile: np.ndarray, c: float, diagonal: bool) -> None:
    """Z_ij := c X_i^T conj(X_j), plus I on the diagonal, by rows, from block columns i and j of X."""
    minus = times(tile.dtype)
    tile[...] = 0
    for one, other in zip(left, right, strict=True):
        minus(other.T, one.T, tile.T, "C")
    tile *= tile.real.dtype.type(-c)
    if diagonal:
        np.einsum("ii->i", tile)[...] += 1


def weighted(solved: np.ndarray, tile: np.ndarray, keep: float, add: float) -> None:
    """X := keep X + add Y."""
    kind = tile.real.dtype.type
    tile *= kind(keep)
    tile += kind(add) * solved


def hermitian(
    left: Sequence[np.ndarray],
    mine: Sequence[np.ndarray],
    right: Sequence[np.ndarray],
    other: Sequence[np.ndarray],
    exponent: np.ndarray,
    tile: np.ndarray,
    outer: bool,
) -> None:
    """H_ij := (P_ij + P_ji^H) / 2 with P_ij = U_i^H A_j from block columns, or with ``outer`` U_i A_j^H from rows.

    ``left`` and ``mine`` are U_i and A_i, ``right`` and ``other`` U_j and A_j.
    """
    minus = times(tile.dtype)
    first = room("hermitian", tile.shape, tile.dtype)
    second = room("hermitian'", tile.shape[::-1], tile.dtype)
    first[...], second[...] = 0, 0
    for target, us, those in ((first, left, other), (second, right, mine)):
        for u, a in zip(us, those, strict=True):
            if outer:
                adjoint = by_columns("outer", len(a), a.shape[1], tile.dtype)
                np.conjugate(a, out=adjoint)
                minus(u.T, adjoint, target.T)
            else:
                minus(u.T, a.T, target.T, "C")
    half = -0.5 * (first.T + second.T.conj().T)
    tile[...] = shifted(half, -int(exponent[0])).T
