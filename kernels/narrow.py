"""Tiles on their way between precisions: convert, split, tf32; and diagonal, scaled, unscaled around a factorisation.

NumPy has no BF16. A BF16 tile is an array of uint16, the upper halves of the FP32 numbers; so every engine carries it
as it carries any array. Two BF16 parts of FP32 numbers, high and low, are one uint16 array of shape (2, m, n).

All rounding is to nearest, ties to even. Kernels return 0, or what `tilewright.ops` explains.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np

from tilewright.kernels.gemv import gemv
from tilewright.kernels.scratch import lines, room

__all__ = [
    "NOT_FINITE",
    "OVERFLOW",
    "UNDERFLOW",
    "convert",
    "diagonal",
    "load",
    "narrowed",
    "round_tf32",
    "scaled",
    "scalen",
    "split",
    "split_parts",
    "to_bf16",
    "unscaled",
    "widen",
    "widened",
    "widened_here",
]


NOT_FINITE, OVERFLOW, UNDERFLOW = 1, 2, 3
"""Infos: a NaN or infinity was there before; a finite number is too large, or a pivot too small, for where it goes."""

_NEAR = 2.0**40  # D within 1/_NEAR and _NEAR: numbers of A that count are far from the ends of FP32
_ROWS = 128  # rows at a time, so that intermediate results stay in cache


# ------------------------------------------------------------------ formats


def load() -> None:
    """Import what conversions use: a second that no task should take."""
    _torch()


def to_bf16(source: np.ndarray, target: np.ndarray) -> None:
    """target := the FP32 ``source`` in BF16, as uint16. By torch where it is installed, five times faster."""
    torch = _torch()
    if torch is not None and _is_torchs(source) and _is_torchs(target):
        torch.from_numpy(target).view(torch.bfloat16).copy_(torch.from_numpy(source))
        return
    for rows in _blocks(source):
        bits = np.ascontiguousarray(source[rows]).view(np.uint32)
        rounded = bits + (((bits >> 16) & 1) + 0x7FFF)  # up from half an ulp on, if that makes or keeps it even
        target[rows] = np.where((bits & 0x7FFFFFFF) > 0x7F800000, (bits >> 16) | 0x40, rounded >> 16)  # NaN stays NaN


@cache
def _torch() -> Any:
    try:
        import torch
    except ImportError:
        return None
    return torch


def _is_torchs(array: np.ndarray) -> bool:
    """Whether torch takes this memory: writeable, native bytes, no step backwards and none of part of a number."""
    if not (array.flags.writeable and array.dtype.isnative and array.dtype.kind in "fu"):
        return False
    item = array.itemsize
    return all(stride >= 0 and not stride % item for stride in array.strides)


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
    """target := source, rounded to its format. FP16 by torch where it is installed, four times as fast."""
    torch = _torch() if np.float16 in (source.dtype, target.dtype) else None
    if torch is not None and _is_torchs(source) and _is_torchs(target):
        torch.from_numpy(target).copy_(torch.from_numpy(source))
        return
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        np.copyto(target, source, casting="same_kind")


def convert(source: np.ndarray, target: np.ndarray) -> int:
    """target := source in the target's format.

    `OVERFLOW` if a number that is finite in the source is not in the target. BF16 has the range of FP32.
    """
    if source.dtype == np.uint16:
        widen(source, target)
        return 0
    if target.dtype == np.uint16:
        to_bf16(source.astype(np.float32, copy=False), target)
        return 0
    _copy(source, target)
    if target.itemsize >= source.itemsize or _finite(target):
        return 0
    return OVERFLOW if _finite(source) else 0  # NaN and infinities are passed on, potrf finds them


def widen(source: np.ndarray, target: np.ndarray) -> None:
    """target := the numbers of a BF16 or FP16 tile as FP32; of two parts h and l, the three tiles h + l, h, l."""
    if source.ndim == 3:
        _, high, low = target
        widen(source[0], high)
        widen(source[1], low)
        np.add(high, low, out=target[0])
        return
    torch = _torch()
    if torch is not None and _is_torchs(source) and _is_torchs(target):
        narrow = torch.from_numpy(source)
        torch.from_numpy(target).copy_(narrow.view(torch.bfloat16) if source.dtype == np.uint16 else narrow)
    elif source.dtype == np.uint16:
        for rows in _blocks(source):
            target[rows] = (source[rows].astype(np.uint32) << 16).view(np.float32)
    else:
        np.copyto(target, source)


def widened_here(tile: np.ndarray, slot: int) -> np.ndarray:
    """What `widen` makes of a tile, for use inside one kernel: see `narrowed`. An FP32 tile is one already."""
    if tile.dtype == np.float32:
        return tile
    wide = room(slot, (3, *tile.shape[1:]) if tile.ndim == 3 else tile.shape, np.dtype(np.float32))
    widen(tile, wide)
    return wide


def split(source: np.ndarray, target: np.ndarray) -> None:
    """target := (h, l), both BF16, with h = bf16(source), l = bf16(source - h): 16 of the 24 bits of FP32."""
    torch = _torch()
    if torch is not None and _is_torchs(source) and _is_torchs(target):
        s, t = torch.from_numpy(source), torch.from_numpy(target).view(torch.bfloat16)
        rest = torch.from_numpy(room("rest", (min(_ROWS, len(source)), source.shape[1]), np.dtype(np.float32)))
        for rows in _blocks(source):
            t[0, rows].copy_(s[rows])
            t[1, rows].copy_(torch.sub(s[rows], t[0, rows], out=rest[: rows.stop - rows.start]))
        return
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


def narrowed(form: str, tile: np.ndarray, slot: int) -> np.ndarray:
    """A packed copy of an FP32 tile in ``form``, for use inside one kernel.

    It lies in memory of the calling thread, one piece per ``slot``, until that slot is asked for again.
    """
    shape = (2, *tile.shape) if form == "bfloat16x2" else tile.shape
    copy = room(slot, shape, np.dtype(np.uint16))
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

    Powers of two near 1 move no rounding, so there S is rounded before it is multiplied, in FP32: the same numbers but
    for those that FP32 has not, which are infinite, and then all is done in FP64, or vanish beside others of their row.
    """
    exact = target.dtype == np.float32 and _are_near_powers(di) and _are_near_powers(dj)
    for early in (True, False) if exact else (False,):
        multiply = _turner(source, di, dj, target, early) or _multiplier(source, di, dj, target, early=early)
        bad = False
        with np.errstate(all="ignore"):
            for rows in _blocks(source):
                multiply(rows)
                if shift is not None:
                    _on_diagonal(source, target, shift, rows)
                if not np.isfinite(target[rows].sum()):
                    bad = True
        if not bad:
            return 0
    return _why(source, target, shift)


def scalen(
    source: np.ndarray, di: np.ndarray, dj: np.ndarray, target: np.ndarray, sums: np.ndarray, shift: float | None = None
) -> int:
    """`scaled`, and while the numbers are in cache the sums of |S| along rows and columns, into sums, (2, n).

    On the diagonal both are those of the Hermitian matrix whose lower triangle S has. They are added up from |H| in the
    precision of the C-ordered target; where one is not finite, some number is not.

    Where D is near 1, S is rounded before it is multiplied: five roundings in FP32 instead of one, and two thirds of
    the time.
    """
    for early in (True, False) if _is_near(di) and _is_near(dj) and target.dtype == np.float32 else (False,):
        multiply = _multiplier(source, di, dj, target, early=early)
        _scale_and_add(multiply, source, di, dj, target, sums, shift)
        if np.isfinite(sums).all():
            return 0
    return _why(source, target, shift)


def _scale_and_add(
    multiply: Callable[[slice], object],
    source: np.ndarray,
    di: np.ndarray,
    dj: np.ndarray,
    target: np.ndarray,
    sums: np.ndarray,
    shift: float | None,
) -> None:
    p, q = target.shape
    (wi, top_i), (wj, top_j) = _weights(di, target.dtype), _weights(dj, target.dtype)  # |a_ij| = |h_ij| / (d_i d_j)
    along, down = np.zeros(p, target.dtype), np.zeros(q, target.dtype)
    size = room("size", (min(_ROWS, p), q), target.dtype)
    with np.errstate(all="ignore"):
        for rows in _blocks(source):
            multiply(rows)
            if shift is not None:
                _on_diagonal(source, target, shift, rows)
            block = np.abs(target[rows], out=size[: rows.stop - rows.start])
            gemv(block, wj, along[rows])
            gemv(block.T, wi[rows], down, accumulate=True)
        sums.fill(0)
        sums[0, :p] = along * (top_j / di[:, 0])
        sums[1, :q] = down * (top_i / dj[:, 0])
        if shift is not None:  # the diagonal was counted twice, with the shift
            sums[0] += sums[1] - np.abs(target.diagonal()) * ((1 + 2 * shift) / (1 + shift)) / di[:, 0] ** 2
            sums[1] = sums[0]


def _weights(d: np.ndarray, dtype: np.dtype) -> tuple[np.ndarray, float]:
    """(1/d over the largest of them, the largest)."""
    weights = 1 / d[:, 0]
    top = float(weights.max(initial=0)) or 1.0
    return (weights / top).astype(dtype), top


def _multiplier(
    source: np.ndarray, di: np.ndarray, dj: np.ndarray, target: np.ndarray, *, early: bool = False
) -> Callable[[slice], object]:
    """A function that sets some rows of the target to D_i S D_j. By torch where it is installed, twice as fast.

    The product is rounded to the target's precision; with ``early`` all of its factors are.
    """
    across = dj[:, 0]
    if early:
        di, across = di.astype(target.dtype), across.astype(target.dtype)
    torch = _torch() if "torch" in sys.modules else None
    buffer = room("product", (min(_ROWS, len(source)), source.shape[1]), np.dtype(np.float64))
    if torch is None or source.dtype.kind != "f" or not (_is_torchs(source) and _is_torchs(target)):

        def multiply(rows: slice) -> None:
            block = target[rows] if early else buffer[: rows.stop - rows.start]
            np.copyto(block, source[rows], casting="same_kind")
            block *= across
            block *= di[rows]
            if not early:
                np.copyto(target[rows], block, casting="same_kind")

        return multiply
    s, t, wide, left, right = map(torch.from_numpy, (source, target, buffer, di, across))

    def multiply_by_torch(rows: slice) -> None:
        if early:
            t[rows].copy_(s[rows]).mul_(right).mul_(left[rows])
        else:
            block = wide[: rows.stop - rows.start]
            product = (
                torch.mul(s[rows], right, out=block) if s.dtype == block.dtype else block.copy_(s[rows]).mul_(right)
            )
            t[rows].copy_(product.mul_(left[rows]))

    return multiply_by_torch


def _turner(
    source: np.ndarray, di: np.ndarray, dj: np.ndarray, target: np.ndarray, early: bool
) -> Callable[[slice], object] | None:
    """`_multiplier` from a tile by rows to one by columns: the product is rounded first, and turned while in cache."""
    if source.strides[1] != source.itemsize or target.strides[0] != target.itemsize or min(target.shape) < 2:
        return None
    shape = (min(_ROWS, len(source)), source.shape[1])
    made = lines("rounded", *shape, target.dtype)
    wide = made if early else room("product", shape, np.dtype(np.float64))
    if early:
        di, dj = di.astype(target.dtype), dj.astype(target.dtype)
    across = dj[:, 0]

    def multiply(rows: slice) -> None:
        block, rounded = wide[: rows.stop - rows.start], made[: rows.stop - rows.start]
        if early:
            np.copyto(block, source[rows], casting="same_kind")
            block *= across
        else:
            np.multiply(source[rows], across, out=block)
        block *= di[rows]
        if not early:
            np.copyto(rounded, block, casting="same_kind")
        np.copyto(target[rows], rounded)

    return multiply


def _on_diagonal(source: np.ndarray, target: np.ndarray, shift: float, rows: slice) -> None:
    """Rows of a tile on the diagonal: zeros above it, sign(a_ii) (1 + shift) on it, a NaN for an infinity."""
    target[rows, rows.stop :] = 0
    block = target[rows, rows]
    block[_upper(block.shape)] = 0
    diagonal = source[rows, rows].diagonal().astype(np.float64)
    signs = np.where(np.isinf(diagonal), np.nan, np.sign(diagonal))
    np.fill_diagonal(block, signs * (1 + shift))


def _why(source: np.ndarray, target: np.ndarray, shift: float | None) -> int:
    """The info for a target that seems not to be finite."""
    if _finite(target):
        return 0
    return OVERFLOW if _finite(source if shift is None else np.tril(source)) else NOT_FINITE


def unscaled(d: np.ndarray, tile: np.ndarray, part: str) -> int:
    """Row i of the tile over d_i: from the factor of D A D to that of A. ``part`` is "lower" for a diagonal tile."""
    finite = True
    with np.errstate(all="ignore"):
        inverse = 1 / d
        if _is_near(d):  # rounded to the tile's precision first: twice as fast, at most one roundoff more
            inverse = inverse.astype(tile.dtype)
        for rows in _blocks(tile):
            block = tile[rows]
            np.multiply(block, inverse[rows], out=block, casting="same_kind")
            finite = finite and bool(np.isfinite(block.sum()))
    if part == "lower" and (np.diagonal(tile) < np.finfo(tile.dtype).tiny).any():
        return UNDERFLOW
    return 0 if finite or _finite(tile) else OVERFLOW


def _is_near(d: np.ndarray) -> bool:
    """Whether D is far enough from the ends of FP32 to be rounded to it."""
    return bool(d.min(initial=1) >= 1 / _NEAR and d.max(initial=1) <= _NEAR)


def _are_near_powers(d: np.ndarray) -> bool:
    """Whether D consists of powers of two and `_is_near`."""
    return _is_near(d) and bool((np.frexp(d)[0] == 0.5).all())


def _finite(tile: np.ndarray) -> bool:
    if tile.dtype == np.float16:  # by its exponents: NumPy adds up such numbers ten times as slowly
        return all(int((tile[rows].view(np.uint16) & 0x7FFF).max(initial=0)) < 0x7C00 for rows in _blocks(tile))
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
