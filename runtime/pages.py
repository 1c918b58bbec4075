"""Zeros that take no memory until they are touched."""

from __future__ import annotations

import mmap
from math import prod
from typing import Any, Literal

import numpy as np

__all__ = ["zeros"]

_LARGE = 1 << 22  # bytes; from here on NumPy asks for huge pages


def zeros(shape: tuple[int, ...], dtype: Any, order: Literal["C", "F"] = "C") -> np.ndarray:
    """Like `numpy.zeros`, on small pages: a triangle that nobody writes never becomes memory.

    NumPy backs large arrays with huge pages, of which a triangular factor touches all. Faulting them in took up to
    a fifth of a factorisation where a hypervisor takes back free huge pages; on small pages half as much is faulted
    in, and the kernels run at the same rate.
    """
    dtype = np.dtype(dtype)
    size = prod(shape) * dtype.itemsize
    if size < _LARGE or not hasattr(mmap, "MADV_NOHUGEPAGE"):
        return np.zeros(shape, dtype, order)
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(memory, dtype).reshape(shape, order=order)
