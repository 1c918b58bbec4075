"""Tiles on their way between precisions: convert, split, tf32; and diagonal, scaled, unscaled around a factorisation.

NumPy has no BF16. A BF16 tile is an array of uint16, the upper halves of the FP32 numbers; so every engine carries it
as it carries any array. Two BF16 parts of FP32 numbers, high and low, are one uint16 array of shape (2, m, n).

All rounding is to nearest, ties to even. Kernels return 0, or what `tilewright.linalg.ops` explains.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import cache
from math import prod
from typing import Any

import numpy as np

__all__ = ["NOT_FINITE", "OVERFLOW", "UNDERFLOW", "convert", "diagonal", "narrowed", "round_tf32", "scaled", "split",
           "split_parts", "to_bf16", "unscaled", "widened"]  # fmt: skip


NOT_FINITE, OVERFLOW, UNDERFLOW = 1, 2, 3
"""Infos: a NaN or infinity was there before; a finite number is too large, or a pivot too small, for where it goes."""

_ROWS = 128  # rows at a time, so that intermediate results stay in cache


# ------------------------------------------------------------------ formats


def to_bf16(source: np.ndarray, target: np.ndarray) -> None:
    """target := the FP32 ``source`` in BF16, as uint16. By torch where it is installed, five times faster."""
    torch = _torch()
    if torch is not None and source.flags.writeable:
        torch.from_numpy(target).view(torch.bfloat16).copy_(torch.from_numpy(source))
        return
    for rows in _blocks(source):
        bits = source[rows].view(np.uint32)
        rounded = bits + (((bits >> 16) & 1) + 0x7FFF)  # up from half an ulp on, if that makes or keeps it even
        target[rows] = np.where((bits & 0x7FFFFFFF) > 0x7F800000, (bits >> 16) | 0x40, rounded >> 16)  # NaN stays NaN


@cache
def _torch() -> Any:
    try:
        import torch
    except ImportError:
        return None
    return torch


def widened(tile: np.ndarray) -> np.ndarray:
    """A BF16, FP16 or FP32 tile as FP32; two parts are added up. Exact but for that sum."""
    if tile.ndim == 3:
        high, low = (tile.astype(np.uint32) << 16).view(np.float32)
        total: np.ndarray = high + low
        return total
    if tile.dtype == np.uint16:
        wide: np.ndarray = (tile.astype(np.uint32) << 16).view(np.float32)
        return wide
    return tile.astype(np.float32, copy=False)


def _copy(source: np.ndarray, target: np.ndarray) -> None:
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        np.copyto(target, source, casting="same_kind")


def convert(source: np.ndarray, target: np.ndarray) -> int:
    """target := source in the target's format.

    `OVERFLOW` if a number that is finite in the source is not in the target. BF16 has the range of FP32.
    """
    if target.dtype == np.uint16:
        to_bf16(source.astype(np.float32, copy=False), target)
        return 0
    _copy(source, target)
    if target.itemsize >= source.itemsize or _finite(target):
        return 0
    return OVERFLOW if _finite(source) else 0  # NaN and infinities are passed on, potrf finds them


def split(source: np.ndarray, target: np.ndarray) -> None:
    """target := (h, l), both BF16, with h = bf16(source), l = bf16(source - h): 16 of the 24 bits of FP32."""
    for rows in _blocks(source):
        part, high = source[rows], target[0, rows]
        to_bf16(part, high)
        to_bf16(part - widened(high), target[1, rows])


def round_tf32(source: np.ndarray, target: np.ndarray) -> None:
    """target := source with 11 significant bits, as tensor cores round the operands of a TF32 product."""
    for rows in _blocks(source):
        bits = source[rows].view(np.uint32)
        rounded = (bits + (((bits >> 13) & 1) + 0xFFF)) & 0xFFFFE000
        special = (bits & 0x7F800000) == 0x7F800000
        target[rows] = np.where(special, bits, rounded).view(np.float32)


_scratch = threading.local()


def narrowed(form: str, tile: np.ndarray, slot: int) -> np.ndarray:
    """A packed copy of an FP32 tile in ``form``, for use inside one kernel.

    It lies in memory of the calling thread, one piece per ``slot``, until that slot is asked for again: fresh memory
    costs more than the rounding, one page fault for 2048 numbers.
    """
    shape = (2, *tile.shape) if form == "bfloat16x2" else tile.shape
    pieces: dict[int, np.ndarray] = _scratch.__dict__.setdefault("pieces", {})
    if slot not in pieces or pieces[slot].size < prod(shape):
        pieces[slot] = np.empty(prod(shape), np.uint16)
    copy = pieces[slot][: prod(shape)].reshape(shape)
    if form == "bfloat16":
        to_bf16(tile, copy)
    elif form == "bfloat16x2":
        split(tile, copy)
    else:
        copy = copy.view(np.float16)
        _copy(tile, copy)
    return copy


def split_parts(tile: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The high and the low part."""
    return tile[0], tile[1]


# ------------------------------------------------------------------ scaling


def diagonal(source: np.ndarray, d: np.ndarray) -> None:
    """d := |a_ii|^(-1/2) of a diagonal tile, shape (n, 1); 1 where that is no number."""
    a = np.abs(np.diagonal(source)).astype(np.float64)
    usable = np.isfinite(a) & (a > 0)
    d[:, 0] = 1 / np.sqrt(np.where(usable, a, 1))


def scaled(source: np.ndarray, di: np.ndarray, dj: np.ndarray, target: np.ndarray, shift: float | None = None) -> int:
    """target := D_i S D_j, computed in FP64 and rounded once.

    With a ``shift`` the tile is on the diagonal: only its lower triangle is read, the other becomes zero, and the
    diagonal is exactly sign(a_ii) (1 + shift). A diagonal element that is 0 stays 0: the shift is one of A by
    shift diag(A), so it does not hide that A is not positive definite.
    """
    rows_of_d, columns_of_d = di, dj[:, 0]
    buffer = np.empty((min(_ROWS, len(source)), source.shape[1]))
    bad = False
    with np.errstate(all="ignore"):
        for rows in _blocks(source):
            block = buffer[: rows.stop - rows.start]
            np.multiply(source[rows], columns_of_d, out=block)
            np.multiply(block, rows_of_d[rows], out=block)
            np.copyto(target[rows], block, casting="same_kind")
            if shift is None and not np.isfinite(target[rows].sum()):
                bad = True
        if shift is not None:
            target[_upper(target.shape)] = 0
            signs = np.sign(np.diagonal(source))
            np.fill_diagonal(target, np.where(np.isfinite(signs), signs * (1 + shift), np.nan))
            infinite = np.isinf(np.diagonal(source))
            target[np.diag_indices(len(target))] = np.where(infinite, np.nan, np.diagonal(target))
            bad = not np.isfinite(target.sum())
    if not bad or _finite(target):
        return 0
    read = np.tril(source) if shift is not None else source
    return OVERFLOW if _finite(read) else NOT_FINITE


def unscaled(d: np.ndarray, tile: np.ndarray, part: str) -> int:
    """Row i of the tile over d_i: from the factor of D A D to that of A. ``part`` is "lower" for a diagonal tile."""
    with np.errstate(all="ignore"):
        inverse = 1 / d
        for rows in _blocks(tile):
            np.copyto(tile[rows], tile[rows] * inverse[rows], casting="same_kind")
    if part == "lower" and (np.diagonal(tile) < np.finfo(tile.dtype).tiny).any():
        return UNDERFLOW
    return 0 if _finite(tile) else OVERFLOW


def _finite(tile: np.ndarray) -> bool:
    with np.errstate(all="ignore"):
        if np.isfinite(tile.sum(dtype=np.float64 if tile.dtype.kind == "f" else None)):
            return True
    return bool(np.isfinite(tile).all())


def _upper(shape: tuple[int, ...]) -> Any:
    rows, columns = shape
    return np.arange(rows)[:, None] < np.arange(columns)


def _blocks(tile: np.ndarray) -> Iterator[slice]:
    rows = len(tile)
    return (slice(i, min(i + _ROWS, rows)) for i in range(0, rows, _ROWS))
