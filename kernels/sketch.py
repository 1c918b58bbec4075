"""Products with a matrix from both sides in one visit of its tiles, and orthonormal bases of thin blocks.

Blocks of l vectors are stored as the transposes of what formulas call them, shape (l, rows): by columns. Tiles lie by
rows; others are copied.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tilewright.kernels.band import shifted, times
from tilewright.kernels.lapack import by_columns, lapack, letter, real_dtype
from tilewright.kernels.layout import rows_of
from tilewright.kernels.scratch import room

__all__ = ["add", "finish", "leaf", "right", "root", "small_svd", "there", "there_and_back", "top"]


_TOGETHER = 32  # reflections that LAPACK applies at a time


def there(tiles: Sequence[np.ndarray], exponent: np.ndarray, blocks: Sequence[np.ndarray], y: np.ndarray) -> None:
    """A block row of A X."""
    minus = times(y.dtype)
    y[...] = 0
    for tile, x in zip(tiles, blocks, strict=True):
        minus(rows_of(shifted(tile, int(exponent[0]))).T, x.T, y.T, "T")
    np.negative(y, out=y)


def there_and_back(
    tiles: Sequence[np.ndarray], exponent: np.ndarray, blocks: Sequence[np.ndarray], back: Sequence[np.ndarray]
) -> None:
    """What a block row adds to A^H A X."""
    dtype = back[0].dtype
    minus = times(dtype)
    y = room("there", (len(back[0]), len(tiles[0])), dtype)
    y[...] = 0
    rows = [rows_of(shifted(tile, int(exponent[0]))) for tile in tiles]
    for tile, x in zip(rows, blocks, strict=True):
        minus(tile.T, x.T, y.T, "T")
    np.conjugate(y, out=y)  # A^H Y is the conjugate of A^T conj(Y)
    for tile, target in zip(rows, back, strict=True):
        target[...] = 0
        minus(tile.T, y.T, target.T)
        np.conjugate(target, out=target)


def add(parts: Sequence[np.ndarray], total: np.ndarray) -> None:
    """Their sum, in this order."""
    np.copyto(total, parts[0])
    for part in parts[1:]:
        total += part


# ------------------------------------------------------------------ Q R of blocks of rows


def leaf(block: np.ndarray, r: np.ndarray) -> None:
    """Q R of a block of rows, Q in its place; of a block with more columns than rows the last ones are zero."""
    strip = by_columns("leaf", block.shape[1], len(block), block.dtype)
    np.copyto(strip, block.T)
    r[...] = _explicit(strip)
    block[...] = 0
    block[: len(r)] = strip.T[: len(r)]


def root(factors: Sequence[np.ndarray], parts: Sequence[np.ndarray]) -> None:
    """Q of R factors below each other, in parts."""
    strip = _stacked(factors)
    width = len(_explicit(strip))
    _cut(strip[:, :width], factors, parts)


def top(
    factors: Sequence[np.ndarray], exponent: np.ndarray, parts: Sequence[np.ndarray], s: np.ndarray, turn: np.ndarray
) -> int:
    """Q U of R factors below each other, that are Q U diag(s) ``turn``."""
    strip = _stacked(factors)
    r = _explicit(strip)
    left, values, rows, info = small_svd(r)
    count = len(s)
    s[...], turn[...] = shifted(values[:count], -int(exponent[0])), rows[:count]
    product = by_columns("root U", len(strip), count, strip.dtype)
    product[...] = 0
    times(strip.dtype)(strip[:, : len(r)], np.asfortranarray(-left[:, :count]), product)
    _cut(product, factors, parts)
    return info


def finish(block: np.ndarray, part: np.ndarray, out: np.ndarray) -> None:
    """A block of rows of Q: that of its leaf times that of the root."""
    width = part.shape[1]
    out[...] = 0
    times(out.dtype)(block[:width].T, -part.T, out.T)


def right(turn: np.ndarray, block: np.ndarray, out: np.ndarray) -> None:
    """Columns of turn Q^H, by columns."""
    out[...] = 0
    times(out.dtype)(np.asfortranarray(-turn), np.conjugate(block), out.T)


def _stacked(factors: Sequence[np.ndarray]) -> np.ndarray:
    strip = by_columns("root", sum(map(len, factors)), factors[0].shape[1], factors[0].dtype)
    return np.concatenate(factors, out=strip)


def _explicit(strip: np.ndarray) -> np.ndarray:
    """R of a matrix by columns in memory of its own, whose place Q takes."""
    m, n = strip.shape
    k, kind = min(m, n), letter(strip.dtype)
    together = min(k, _TOGETHER)
    t, q = by_columns("explicit T", together, k, strip.dtype), by_columns("explicit Q", m, k, strip.dtype)
    work = np.empty(together * n, strip.dtype)
    lapack(f"{kind}geqrt", m, n, together, strip, m, t, together, work)
    r: np.ndarray = np.triu(strip[:k])
    q[...] = 0
    np.einsum("ii->i", q[:k])[...] = 1
    lapack(f"{kind}gemqrt", b"L", b"N", m, k, k, together, strip, m, t, together, q, m, work)
    strip[:, :k] = q
    return r


def _cut(strip: np.ndarray, factors: Sequence[np.ndarray], parts: Sequence[np.ndarray]) -> None:
    row = 0
    for r, part in zip(factors, parts, strict=True):
        part[...] = strip[row : row + len(r)].T
        row += len(r)


def small_svd(a: np.ndarray, full: bool = False) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """U, s, V^H of a matrix, and info [LAPACK ?gesdd]."""
    m, n = a.shape
    k, kind, real = min(m, n), letter(a.dtype), real_dtype(a.dtype)
    strip = by_columns("svd", m, n, a.dtype)
    np.copyto(strip, a)
    wide = (m, n) if full else (k, k)
    u, s, vh = np.zeros((wide[0], m), a.dtype).T, np.zeros(k, real), np.zeros((n, wide[1]), a.dtype).T
    whole = np.empty(8 * max(k, 1), np.int32)
    long = max(m, n)
    arguments: list[object] = [b"A" if full else b"S", m, n, strip, max(m, 1), s, u, max(m, 1), vh, max(wide[1], 1)]
    if a.dtype.kind == "c":
        work = np.empty(k * (k + 6) + 2 * k + 64 * (m + n), a.dtype)
        space = np.empty(max(5 * k * k + 7 * k, 2 * long * k + 2 * k * k + k, 1), real)
        info = lapack(f"{kind}gesdd", *arguments, work, len(work), space, whole)
    else:
        work = np.empty(4 * k * k + 7 * k + long + 64 * (m + n), a.dtype)
        info = lapack(f"{kind}gesdd", *arguments, work, len(work), whole)
    return u, s, vh, info
