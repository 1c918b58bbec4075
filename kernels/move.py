"""copy, zero, identity, tril, mirror, transpose, finite, measure: tiles moved, cleared, measured. Any dtype; no GIL."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from tilewright.kernels.scratch import lines

__all__ = [
    "copy",
    "diag",
    "finite",
    "identity",
    "gauge",
    "mirror",
    "residues",
    "signs",
    "onto",
    "squares",
    "times_columns",
    "times_rows",
    "transpose",
    "tril",
    "triu",
    "zero",
]

_STRIP = 1 << 19  # bytes of a tile that is measured at a time
_COLUMNS = 32  # at a time, of a triangle
_FEW_SETS = 2048  # bytes
_SCRATCH = 1 << 18  # bytes of lines that are turned at a time


def copy(source: np.ndarray, target: np.ndarray, check: str | None = None) -> int:
    """target := source. With ``check``, look at the values while they are in cache, as `finite` does."""
    _copy(source, target)
    return finite(target, check) if check else 0


def _copy(source: np.ndarray, target: np.ndarray) -> None:
    """target := source; from rows to columns, or back, by way of lines that are not in the same sets of a cache.

    Lines a multiple of 2 kB apart are in few sets, and a column of them pushes its neighbours out before they are read.
    """
    if source.ndim == 2 and source.strides[1] != source.itemsize == source.strides[0]:
        source, target = source.T, target.T
    size = source.itemsize
    turned = source.ndim == 2 and source.strides[1] == size == target.strides[0] != target.strides[1]
    if not turned or not source.size or source.strides[0] % _FEW_SETS or source.strides[0] == 0:
        np.copyto(target, source)
        return
    count, width = source.shape
    height = min(count, max(16, _SCRATCH // (width * size)))
    scratch = lines("turned", height, width, source.dtype)
    for start in range(0, count, height):
        some = scratch[: min(height, count - start)]
        np.copyto(some, source[start : start + height])
        np.copyto(target[start : start + height], some)


def transpose(source: np.ndarray, target: np.ndarray | None = None) -> None:
    """target := source^T, not conjugated; without a target in place, of a square tile."""
    if target is None or target is source:
        source, target = source.copy(), source
    _copy(source.T, target)


def finite(tile: np.ndarray, part: str) -> int:
    """0 if the tile (``part="all"``) or its "lower" or "upper" triangle has no NaN and no infinity, else 1."""
    with np.errstate(all="ignore"):
        total = tile.sum()  # one pass without a temporary; a sum of finite numbers may still overflow
    if np.isfinite(total):
        return 0
    bad = ~np.isfinite(tile)
    return int((np.tril(bad) if part == "lower" else np.triu(bad) if part == "upper" else bad).any())


def gauge(source: np.ndarray, sizes: np.ndarray, targets: Sequence[np.ndarray], check: bool) -> int:
    """What norms are made of: ``sizes``, (1, 1 + n + m), gets max |a_ij|, then sum_i |a_ij| and sum_j |a_ij|.

    The tile is copied to ``targets``, of which there may be none. With ``check`` as `finite`. Sums are in FP64.
    """
    for target in targets:
        _copy(source, target)
    n = source.shape[1]
    top, columns, rows = sizes[0, :1], sizes[0, 1 : 1 + n], sizes[0, 1 + n :]
    sizes[0] = 0
    a, along, across = source, columns, rows
    if a.strides[0] > a.strides[1]:
        a, along, across = a.T, rows, columns
    width = max(1, _STRIP // max(len(a) * a.itemsize, 1))
    with np.errstate(all="ignore"):
        for start in range(0, a.shape[1], width):  # |A| is in memory a strip at a time
            size = np.abs(a[:, start : start + width])
            size.sum(axis=0, dtype=np.float64, out=along[start : start + width])
            across += size.sum(axis=1, dtype=np.float64)
            np.maximum(top, size.max(initial=0), out=top)
        if not check or np.isfinite(columns.sum()):
            return 0
    return int(not np.isfinite(source).all())


def diag(source: np.ndarray, target: np.ndarray) -> None:
    """target := the diagonal of the tile, a vector, or the first part of it."""
    np.copyto(target, source.diagonal()[: len(target)])


def squares(source: np.ndarray, found: np.ndarray) -> None:
    """``found``, (1, 2), gets max |a_ij| and sum |a_ij|^2 / max^2."""
    with np.errstate(all="ignore"):
        size = np.abs(source).astype(np.float64, copy=False)
        top = size.max(initial=0)
        size = size / top if top else size
        found[0] = top, np.dot(size.ravel(), size.ravel())


def zero(target: np.ndarray) -> None:
    """target := 0."""
    target.fill(0)


def identity(target: np.ndarray) -> None:
    """target := I, where the tile is on the diagonal."""
    target.fill(0)
    target[np.diag_indices(min(target.shape))] = 1


def mirror(source: np.ndarray, target: np.ndarray) -> None:
    """target := source^H; a tile of the diagonal, which is both, becomes Hermitian by its lower triangle."""
    if source is target:
        np.copyto(target, source.conj().T, where=_above(target.shape))
        if target.dtype.kind == "c":
            target[np.diag_indices(len(target))] = target.diagonal().real
    else:
        np.copyto(target, source.conj().T)


def tril(target: np.ndarray, check: bool = False) -> int:
    """Set what is above the diagonal to exact zeros, block by block so that most of it is a plain fill.

    With ``check``, returns 1 if an element of the diagonal is no finite number. In a Cholesky factor that tells of the
    whole row: l_ii^2 = a_ii - sum_j |l_ij|^2, and l_ij comes from a_ij.
    """
    n = min(target.shape)
    if n <= 64:
        np.copyto(target, 0, where=_above(target.shape))
    else:
        h = n // 2
        tril(target[:h, :h])
        target[:h, h:] = 0
        tril(target[h:, h:])
    return int(check and not np.isfinite(target.diagonal()).all())


def triu(source: np.ndarray, target: np.ndarray, diagonal: bool = True) -> None:
    """target := the first rows of a tile, with zeros below the diagonal if the tile is on it."""
    n = target.shape[1]
    rows = source[: len(target)]
    if not diagonal:
        _copy(rows, target)
        return
    for start in range(0, n, _COLUMNS):
        stop = min(start + _COLUMNS, n)
        last = min(stop, len(target))
        target[:last, start:stop] = rows[:last, start:stop]
        target[last:, start:stop] = 0
        for j in range(start, min(stop, last)):
            target[j + 1 : last, j] = 0


def onto(source: np.ndarray, target: np.ndarray) -> None:
    """target := the triangle of source, on and above the diagonal."""
    rows, columns = source.shape
    for j in range(columns):
        stop = min(j + 1, rows)
        target[:stop, j] = source[:stop, j]


def signs(source: np.ndarray, target: np.ndarray) -> None:
    """target, (k, 1), := -1 where the diagonal of a tile is negative, else 1; that of R is real."""
    np.copyto(target[:, 0], np.where(source.diagonal()[: len(target)].real < 0, -1.0, 1.0))


def times_rows(d: np.ndarray, target: np.ndarray) -> None:
    """target := diag(d) target, of its first rows; d (k, 1)."""
    if (d != 1).any():
        target[: len(d)] *= d


def times_columns(d: np.ndarray, target: np.ndarray) -> None:
    """target := target diag(d), of its first columns; d (k, 1)."""
    if (d != 1).any():
        target[:, : len(d)] *= d[:, 0]


def residues(source: np.ndarray, target: np.ndarray, first: int) -> None:
    """target, (1, n), := the sums of |a_ij|^2 of the rows from ``first`` on. In FP64."""
    with np.errstate(all="ignore"):
        size = np.abs(source[first:]).astype(np.float64, copy=False)
        np.einsum("ij,ij->j", size, size, out=target[0])


@lru_cache(maxsize=256)
def _above(shape: tuple[int, int]) -> np.ndarray:
    return ~np.tri(*shape, dtype=bool)
