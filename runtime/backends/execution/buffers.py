"""Memory that travels as it is: NumPy arrays and torch's CPU tensors, and the buffers that receive them.

Everything here sees a value as an array. NumPy has no bfloat16: such a tensor is an array of uint16 with its bits, and
becomes a tensor again where it arrives.
"""

from __future__ import annotations

import sys
from typing import Any, Literal

import numpy as np

from tilewright.rooms import Outline

__all__ = ["Spare", "itemsize_of", "kind", "layout", "memory", "span", "view", "wrap"]

_ALIGNMENT = 64
_MEMORY = (np.ndarray, np.memmap, Outline)


def view(value: Any) -> np.ndarray | None:
    """The memory of a value as an array; None if the value is not plain memory.

    Plain are arrays without Python objects and strided CPU tensors that take no part in differentiation. Memory has no
    mask, and is no `numpy.matrix`: subclasses of arrays are values like any other object.
    """
    if isinstance(value, np.ndarray):
        return value if type(value) in _MEMORY and not value.dtype.hasobject else None
    torch: Any = sys.modules.get("torch")
    if torch is None or type(value) is not torch.Tensor or value.requires_grad:
        return None
    if value.device.type != "cpu" or value.layout is not torch.strided or value.is_conj() or value.is_neg():
        return None
    try:
        array: np.ndarray = value.numpy()
    except TypeError:  # a dtype that NumPy lacks
        integer = {1: torch.uint8, 2: torch.int16}.get(value.element_size())
        if integer is None:
            return None
        array = value.view(integer).numpy()
    return array


def span(value: Any) -> tuple[int, int]:
    """Addresses where the memory of an array or a tensor begins and ends; (0, 0) of what has none that is plain."""
    if isinstance(value, np.ndarray):
        start: int = value.__array_interface__["data"][0]
        strides = value.strides
        contiguous, size, itemsize = value.flags.c_contiguous, value.size, value.itemsize
    elif value.is_cpu and value.layout is sys.modules["torch"].strided:
        start, strides = value.data_ptr(), ()
        contiguous, size, itemsize = value.is_contiguous(), value.numel(), value.element_size()
        if not contiguous:
            strides = tuple(stride * itemsize for stride in value.stride())
    else:
        return 0, 0
    if not size:
        return 0, 0
    if contiguous:
        return start, start + size * itemsize
    end = start + itemsize
    for extent, stride in zip(value.shape, strides, strict=True):
        start += min((extent - 1) * stride, 0)
        end += max((extent - 1) * stride, 0)
    return start, end


def itemsize_of(value: Any) -> int:
    """Bytes of an element of an array or a tensor; 8 of what is none."""
    return int(getattr(getattr(value, "dtype", None), "itemsize", 8))


def memory(value: Any) -> np.ndarray:
    """Like `view`; TypeError for what is not plain memory."""
    array = view(value)
    if array is None:
        raise TypeError(f"a {type(value).__name__} cannot take the place of an array or a CPU tensor")
    return array


def kind(value: Any) -> str:
    """What `wrap` needs to know of a value that has a `view`: "" for an array, the dtype's name for a tensor."""
    return "" if isinstance(value, np.ndarray) else str(value.dtype).removeprefix("torch.")


def wrap(array: Any, kind: str) -> Any:
    """The inverse of `view`: the array itself, or a tensor of that dtype over its memory.

    What stands for an array has a method ``wrapped(kind)``.
    """
    if not kind:
        return array
    if not isinstance(array, np.ndarray):
        return array.wrapped(kind)
    import torch

    return torch.from_numpy(array).view(getattr(torch, kind))


def layout(array: np.ndarray) -> Literal["C", "F"]:
    """ "F" if columns are closer together in memory than rows, else "C"."""
    return "F" if array.ndim == 2 and abs(array.strides[0]) < abs(array.strides[1]) else "C"


class Spare:
    """Buffers that were received into and are free again.

    Fresh memory costs a page fault for every 4 KiB of a tile, which takes longer than the transfer of the tile.
    """

    def __init__(self) -> None:
        self._free: dict[int, list[np.ndarray]] = {}
        self._taken: dict[int, np.ndarray] = {}  # by address

    def take(self, like: np.ndarray) -> np.ndarray:
        """An array with the shape, dtype and layout of ``like`` and unknown contents."""
        size = max(like.nbytes, 1)  # an empty array has no address of its own
        free = self._free.get(size)
        memory = free.pop() if free else _aligned(size)
        self._taken[memory.ctypes.data] = memory
        return np.ndarray(like.shape, like.dtype, memory, order=layout(like))

    def give(self, array: np.ndarray) -> None:
        """Put an array of `take` back that nobody uses any more."""
        memory = self._taken.pop(array.ctypes.data)
        self._free.setdefault(memory.nbytes, []).append(memory)

    @property
    def free_bytes(self) -> int:
        return sum(size * len(free) for size, free in self._free.items())

    def keep(self, nbytes: int) -> None:
        """Let go of what was not given back, and of what is beyond ``nbytes``."""
        self._taken.clear()
        for size, free in self._free.items():
            del free[nbytes // size :]
            nbytes -= size * len(free)


def _aligned(nbytes: int) -> np.ndarray:
    memory = np.empty(nbytes + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    return memory[start : start + nbytes]
