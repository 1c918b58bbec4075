"""Memory that the processes of one host share, without a name that could be left behind.

A segment is an anonymous file in memory (``memfd_create``). Another process opens it as ``/proc/PID/fd/N`` while its
maker holds it; it is gone when the last process that maps it ends, however that ends. Where there is no such thing a
temporary file takes its place, removed with the segment.

Arrays and tensors in segments pickle as references: see `dumps` and `loads`.
"""

from __future__ import annotations

import contextlib
import itertools
import mmap
import os
import tempfile
import weakref
from collections.abc import Callable
from math import prod
from typing import Any, Literal, NamedTuple

import numpy as np

from tilewright.backends.execution.buffers import kind, layout, view, wrap
from tilewright.host.memory import memory_for
from tilewright.tiles import TiledMatrix

__all__ = ["arrays_in", "like", "Mappings", "placer", "Reference", "reference", "room", "Segment"]

_ALIGNMENT = 64
_serial = itertools.count()
_segments: weakref.WeakSet[Segment] = weakref.WeakSet()


class Segment(mmap.mmap):
    """Zeros, ``size`` bytes of them, that other processes can map by `path`. Freed with the last array in it."""

    serial: int
    path: str
    start: int
    """Its address in this process."""
    _descriptor: int = -1

    @classmethod
    def create(cls, size: int) -> Segment:
        size = max(-(-size // mmap.PAGESIZE), 1) * mmap.PAGESIZE
        serial = next(_serial)
        if hasattr(os, "memfd_create"):
            descriptor = os.memfd_create(f"tilewright-{os.getpid()}-{serial}", os.MFD_CLOEXEC)
            path = f"/proc/{os.getpid()}/fd/{descriptor}"
        else:
            descriptor, path = tempfile.mkstemp(prefix="tilewright-")
        try:
            with memory_for(size):
                os.truncate(descriptor, size)
                segment = cls(descriptor, size)
        except BaseException:
            os.close(descriptor)
            if not path.startswith("/proc/"):
                os.unlink(path)
            raise
        segment.serial, segment.path, segment._descriptor = serial, path, descriptor
        segment.start = _address(np.ndarray((), np.uint8, segment))
        _segments.add(segment)
        return segment

    def __del__(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            if not self.path.startswith("/proc/"):
                os.unlink(self.path)

    def array(self, offset: int, shape: tuple[int, ...], dtype: np.dtype, order: Literal["C", "F"]) -> np.ndarray:
        return np.ndarray(shape, dtype, self, offset, order=order)


def segment_of(array: np.ndarray) -> Segment | None:
    """The segment of this process that an array lies in, or None."""
    address = _address(array)
    return next((s for s in list(_segments) if s.start <= address < s.start + len(s)), None)


def _address(array: np.ndarray) -> int:
    address: int = array.__array_interface__["data"][0]
    return address


# ------------------------------------------------------------------ data of a run


def like(value: Any, place: Callable[[np.ndarray], np.ndarray]) -> Any:
    """``value`` with every array and tensor in it replaced by ``place(array)``, also in tiled matrices and containers.

    A tensor's memory is placed as an array and seen as a tensor again.
    """
    if (array := view(value)) is not None:
        return wrap(place(array), kind(value))
    if isinstance(value, TiledMatrix):
        return value.over(place)
    if type(value) is dict:
        return {key: like(item, place) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(like(item, place) for item in value)
    return value


def arrays_in(value: Any) -> list[np.ndarray]:
    """The arrays that `like` would replace and that lie in no segment."""
    found: list[np.ndarray] = []

    def note(array: np.ndarray) -> np.ndarray:
        if segment_of(array) is None:
            found.append(array)
        return array

    like(value, note)
    return found


def room(arrays: list[np.ndarray]) -> int:
    """Bytes that a segment needs for copies of them all."""
    return sum(-(-array.nbytes // _ALIGNMENT) * _ALIGNMENT for array in arrays)


def placer(segment: Segment) -> Callable[[np.ndarray], np.ndarray]:
    """A `place` for `like`: an array in any segment stays, others get room here. Nothing is copied."""
    offset = 0

    def place(array: np.ndarray) -> np.ndarray:
        nonlocal offset
        if segment_of(array) is not None:
            return array
        start, offset = offset, offset + room([array])
        return segment.array(start, array.shape, array.dtype, layout(array))

    return place


# ------------------------------------------------------------------ references


class Reference(NamedTuple):
    """Where an array is in a segment."""

    serial: int
    path: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: np.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of the elements."""
        return prod(self.shape) * self.dtype.itemsize


def reference(array: np.ndarray) -> Reference | None:
    """Where an array is, if it lies in a segment of this process."""
    segment = segment_of(array)
    if segment is None:
        return None
    offset = _address(array) - segment.start
    return Reference(segment.serial, segment.path, offset, array.shape, array.strides, array.dtype)


class Mappings:
    """The segments of another process that this one maps."""

    def __init__(self) -> None:
        self._mapped: dict[int, mmap.mmap] = {}

    def array(self, reference: Any) -> np.ndarray:
        serial, path, offset, shape, strides, dtype = reference
        mapped = self._mapped.get(serial)
        if mapped is None:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            with contextlib.closing(os.fdopen(descriptor, "r+b", buffering=0)):
                _check_name(descriptor, path, serial)
                with memory_for(os.fstat(descriptor).st_size):
                    mapped = self._mapped[serial] = mmap.mmap(descriptor, 0)
        return np.ndarray(shape, dtype, mapped, offset, strides)

    def keep(self, serials: set[int]) -> None:
        """Forget all mappings but these; their memory goes when no array is left in it."""
        self._mapped = {serial: mapped for serial, mapped in self._mapped.items() if serial in serials}


def _check_name(descriptor: int, path: str, serial: int) -> None:
    """FileNotFoundError if another file has taken the descriptor of a segment that its maker gave back."""
    if path.startswith("/proc/"):
        name = os.readlink(f"/proc/self/fd/{descriptor}")
        if name.split()[0] != f"/memfd:tilewright-{path.split('/')[2]}-{serial}":
            raise FileNotFoundError(f"{path} is not segment {serial} any more, but {name}")
