"""Whether a library gives the same bits for the same numbers, wherever they lie; and what is done if it does not.

"Same bits" is nothing that a BLAS promises. Code for unaligned ends, for short leading dimensions or for small matrices
may add up in another order. So before its first use in a process each kernel of a library is *probed*: on a few sizes,
odd ones among them, in packed and in strided tiles, at several alignments. One that fails the probe works from then on
with tiles that are `settled`: copied to one alignment and one leading dimension. That keeps the promise and costs the
copies. `verdicts` says which kernels were probed and what came out.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from tilewright.kernels.catalogue import TILE_OPS
from tilewright.kernels.scratch import LINE, room
from tilewright.kernels.threads import limits, one_thread
from tilewright.kernels.tile_op import ANY

__all__ = ["OPERANDS", "numbers", "probe", "settled", "steady", "verdicts"]

SIZES = (
    (1, 1, 1), (5, 8, 6), (9, 5, 33), (33, 31, 17), (77, 64, 80),
    (13, 1, 13), (1, 13, 13), (13, 13, 1), (13, 8, 1), (13, 1, 8), (37, 1, 41),
)  # fmt: skip
"""(m, n, k), with single rows and columns, for which libraries have code of their own. On a CPU of another maker MKL
2024.2 without its mode of reproducibility fails in sgemm from 4 to 9 rows only, in strsm from 9, in dpotrf from 24, in
cpotrf from 31 on."""

#         elements before the first, and beyond the end of each row
LAYOUTS = ((0, 0), (1, 0), (3, 5), (0, 8), (7, 64), (5, 1), (0.5, 0), (2.5, 3))
"""The first is the reference: rows next to each other, from a cache line on. Complex numbers may begin at half of one:
OpenBLAS for CPUs with SSE3 alone then has other bits in ztrtri and in zgetrf of a few rows."""

Kernel = Callable[..., Any]

_verdicts: dict[tuple[str, str, str], bool] = {}
_probing = threading.RLock()


def steady(function: Kernel, source: str, op: str, storage: str, accumulate: str) -> Kernel:
    """``function`` itself if it passes the probe, else the same with settled tiles. One probe a process and source."""
    named = [name for name in (*storage.split(","), accumulate) if name != ANY]
    if op not in OPERANDS or not named or not _MAKERS.keys() >= set(named):
        return function
    storage, accumulate = named[0], named[-1]
    key = source, op, storage
    with _probing:
        if key not in _verdicts:
            with limits(False), one_thread():
                _verdicts[key] = probe(function, op, storage, accumulate)
    return function if _verdicts[key] else settled(function, TILE_OPS[op].written, TILE_OPS[op].by_columns)


def verdicts() -> dict[tuple[str, str, str], bool]:
    """(source, op, storage dtype) -> whether the bits of that kernel do not depend on where the numbers lie."""
    return dict(_verdicts)


def probe(function: Kernel, op: str, storage: str, accumulate: str) -> bool:
    """Whether a kernel gives the same bits for the same numbers in all of `LAYOUTS`. A few milliseconds."""
    rng = np.random.default_rng(0)
    return all(
        _same(
            function,
            op,
            flags,
            [numbers(accumulate if last else storage, rng, shape, kind) for last, shape, kind in spec],
        )
        for sizes in SIZES
        for spec, flags in [
            (OPERANDS[op](*sizes), ()),
            *((make(*sizes), flags) for make, flags in TILE_OPS[op].adjoint),
        ]
    )


def _same(function: Kernel, op: str, flags: tuple[Any, ...], tiles: list[np.ndarray]) -> bool:
    tile_op = TILE_OPS[op]
    written = tile_op.written
    expected: list[bytes] | None = None
    for number in range(len(LAYOUTS)):
        layouts = [LAYOUTS[(number + place) % len(LAYOUTS) if number else 0] for place in range(len(tiles))]
        if tile_op.by_columns:
            placed = [_place(tile.T, *layout).T for tile, layout in zip(tiles, layouts, strict=True)]
        else:
            placed = [_place(tile, *layout) for tile, layout in zip(tiles, layouts, strict=True)]
        function(*tile_op.called(*placed), *flags)
        found = [_lower(op, tile).tobytes() for tile in placed[-written:]]
        if expected is None:
            expected = found
        elif found != expected:
            return False
    return True


def _lower(op: str, tile: np.ndarray) -> np.ndarray:
    """What counts of a result: potrf, syrk and trtri may leave anything above the diagonal."""
    return np.tril(tile) if op in ("potrf", "syrk", "trtri") else tile


def _place(tile: np.ndarray, before: float, beyond: int) -> np.ndarray:
    """A copy whose first element is ``before`` elements behind a cache line, with rows ``beyond`` elements longer.

    NaN around it: who reads there is found out, also where the numbers are multiplied by zero afterwards.
    """
    *parts, rows, columns = tile.shape
    size = tile.itemsize
    shape = (*parts, rows, columns + beyond)
    lead = int(2 * before) * size // 2 if tile.dtype.kind == "c" else int(before) * size
    memory = np.empty(math.prod(shape) * size + 2 * LINE + lead, np.uint8)
    memory.fill(0xFF)
    start = -memory.__array_interface__["data"][0] % LINE + lead
    target = np.ndarray(shape, tile.dtype, memory, start)[..., :columns]
    target[...] = tile
    return target


# ------------------------------------------------------------------ settling


def settled(function: Kernel, written: int = 1, columns: bool = False) -> Kernel:
    """``function`` on copies of its tiles in memory of the calling thread: from a cache line on, rows in whole lines.

    The last ``written`` tiles, or groups of tiles, are copied back. Vectors and parameters that are no arrays are
    passed on. ``columns``: the tiles lie by columns, and a group is one strip.
    """

    def room_for(tile: np.ndarray, slot: int, rows: int) -> np.ndarray:
        shape = *tile.shape[:-2], rows, tile.shape[-1]
        return _room(shape[::-1], slot, tile.dtype).T if columns else _room(shape, slot, tile.dtype)

    def on_copies(*arguments: Any) -> Any:
        places = [place for place, given in enumerate(arguments) if _has_tiles(given)]
        copies = list(arguments)
        for place in places:
            given = arguments[place]
            if isinstance(given, np.ndarray):
                copies[place] = room_for(given, place, given.shape[-2])
                np.copyto(copies[place], given)
            else:
                ends = np.cumsum([len(tile) for tile in given])
                strip = room_for(given[0], place, ends[-1])
                copies[place] = [strip[end - len(tile) : end] for end, tile in zip(ends, given, strict=True)]
                for target, source in zip(copies[place], given, strict=True):
                    np.copyto(target, source)
        result = function(*copies)
        for place in places[-written:]:
            given, copy = arguments[place], copies[place]
            for target, source in [(given, copy)] if isinstance(given, np.ndarray) else zip(given, copy, strict=True):
                np.copyto(target, source)
        return result

    return on_copies


def _has_tiles(argument: Any) -> bool:
    return isinstance(argument, list) or (isinstance(argument, np.ndarray) and argument.ndim > 1)


def _room(shape: tuple[int, ...], slot: int, dtype: np.dtype) -> np.ndarray:
    columns = shape[-1]
    length = -(-columns * dtype.itemsize // LINE) * LINE // dtype.itemsize
    whole = room(("settled", slot), (*shape[:-1], length), dtype)
    whole[..., columns:] = 0
    return whole[..., :columns]


# ------------------------------------------------------------------ what kernels are probed with

OPERANDS = {name: tile_op.operands for name, tile_op in TILE_OPS.items() if tile_op.operands is not None}
"""By op: `TileOp.operands`."""


def _floats(dtype: str) -> Callable[[np.random.Generator, tuple[int, ...], str], np.ndarray]:
    def make(rng: np.random.Generator, shape: tuple[int, ...], kind: str) -> np.ndarray:
        numbers = rng.standard_normal(shape)
        if dtype.startswith("complex"):
            numbers = numbers + 1j * rng.standard_normal(shape)
        if kind:
            numbers = numbers / 4 + 4 * len(numbers) ** 0.5 * np.eye(shape[0], shape[1])
        if kind == "definite":
            numbers = numbers @ numbers.conj().T
        return numbers.astype(dtype)

    return make


def _bf16(parts: tuple[int, ...]) -> Callable[[np.random.Generator, tuple[int, ...], str], np.ndarray]:
    """uint16 that are BF16 numbers of magnitude 1/2 to 2."""

    def make(rng: np.random.Generator, shape: tuple[int, ...], kind: str) -> np.ndarray:
        signs = rng.integers(0, 2, (*parts, *shape)).astype(np.uint16) << 15
        return (rng.integers(0x3F00, 0x4000, (*parts, *shape)).astype(np.uint16) | signs).astype(np.uint16)

    return make


_MAKERS: dict[str, Callable[[np.random.Generator, tuple[int, ...], str], np.ndarray]] = {
    **{name: _floats(name) for name in ("float32", "float64", "complex64", "complex128", "float16")},
    "bfloat16": _bf16(()),
    "bfloat16x2": _bf16((2,)),
}


def numbers(dtype: str, rng: np.random.Generator, shape: tuple[int, ...], kind: str) -> np.ndarray:
    """Numbers of about 1 in the table's ``dtype``; as ``kind`` "triangle" or "definite" well conditioned as one."""
    return _MAKERS[dtype](rng, shape, kind)
