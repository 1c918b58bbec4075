"""Memory for use inside one kernel: the calling thread's own, kept between calls.

Fresh memory costs more than most of what kernels do with it, one page fault for 4096 bytes.
"""

from __future__ import annotations

import threading
from math import prod

import numpy as np

__all__ = ["LINE", "room"]

LINE = 64  # bytes of a cache line

_own = threading.local()


def room(slot: object, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An array from a cache line on, not cleared: the same memory whenever this thread asks for the slot.

    So it holds until that slot is asked for again. Who needs two at a time asks for two slots.
    """
    pieces: dict[object, np.ndarray] = _own.__dict__.setdefault("pieces", {})
    size = prod(shape) * dtype.itemsize
    if slot not in pieces or pieces[slot].size < size:
        whole = np.empty(size + LINE, np.uint8)
        start = -whole.ctypes.data % LINE
        pieces[slot] = whole[start : start + size]
    return pieces[slot][:size].view(dtype).reshape(shape)
