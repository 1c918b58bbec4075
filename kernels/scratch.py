"""Memory for use inside one kernel: the calling thread's own, kept between calls.

Fresh memory costs more than most of what kernels do with it, one page fault for 4096 bytes.
"""

from __future__ import annotations

import mmap
import threading
from math import prod

import numpy as np

__all__ = ["LINE", "lines", "room"]

LINE = 64  # bytes of a cache line

_LARGE = 1 << 22
"""Bytes from which memory has pages of its own, which the system has back at once where a larger room is asked for.

On the heap the hole would stay: with tiles and messages in it the next such room needs a new one.
"""

_own = threading.local()


def room(slot: object, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An array from a cache line on, not cleared: the same memory whenever this thread asks for the slot.

    So it holds until that slot is asked for again. Who needs two at a time asks for two slots.
    """
    pieces: dict[object, np.ndarray] = _own.__dict__.setdefault("pieces", {})
    size = prod(shape) * dtype.itemsize
    if slot not in pieces or pieces[slot].size < size:
        pieces.pop(slot, None)
        pieces[slot] = _pages(size) if size >= _LARGE else _line(size)
    return pieces[slot][:size].view(dtype).reshape(shape)


def lines(slot: object, height: int, width: int, dtype: np.dtype) -> np.ndarray:
    """A `room` by rows that begin an odd number of cache lines apart: those of a column are in all sets of a cache."""
    pitch = (-(-width * dtype.itemsize // LINE) | 1) * LINE // dtype.itemsize
    return room(slot, (height, pitch), dtype)[:, :width]


def _line(size: int) -> np.ndarray:
    whole = np.empty(size + LINE, np.uint8)
    start = -whole.ctypes.data % LINE
    return whole[start : start + size]


def _pages(size: int) -> np.ndarray:
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        return _line(size)
    try:
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise MemoryError(f"no memory for {size} bytes inside a kernel: {error.strerror}") from error
    memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, np.uint8)
