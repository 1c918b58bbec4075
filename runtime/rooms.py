"""Rooms: handles that say how large they are, so that the engine finds the memory.

A pivot vector, the T factors of a QR, a copy of a tile in another format: nobody has data for them before the run. A
graph that declares the *room* of such a family (`TaskGraph.handles` with ``shape`` and ``dtype``) leaves the memory to
the engine: zeros, made where a task first writes them, on the rank where that task runs, and given back after the last
task that uses them there. A room with ``keep`` is a result instead, as data of the caller that is written would be.

Before it has memory, an *outline* stands in its place, which has shape and dtype but not the bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tilewright.scalars import flag, whole

if TYPE_CHECKING:
    from tilewright.graph import Handle

    ShapeOf = Callable[[Handle], tuple[int, ...]]

__all__ = ["Outline", "Room", "outline_for", "zeros_for"]

_ALIGNMENT = 64  # bytes; one cache line, one AVX-512 register


class Outline(np.ndarray):
    """An array in no memory to speak of: all its elements are one. Its views are outlines too.

    Examples
    --------
    >>> from tilewright.rooms import Outline
    >>> tile = Outline.of((1000, 1000), "float64")[:10].T
    >>> tile.shape, str(tile.dtype), type(tile).__name__
    ((1000, 10), 'float64', 'Outline')
    """

    @classmethod
    def of(cls, shape: tuple[int, ...], dtype: Any) -> Outline:
        dtype = np.dtype(dtype)
        return cls(shape, dtype, np.zeros(1, dtype), 0, (0,) * len(shape))


class Room(NamedTuple):
    """What a graph says of a family of handles for which the engine is to find memory."""

    name: str
    shape: Any
    """Extents, a tuple or one number; or a function of the index that gives them."""
    dtype: Any
    """What `numpy.dtype` takes, or a dtype of torch, which makes tensors; or a function of the index."""
    keep: bool = False
    """Whether the run brings the values back: ``run["T"]``."""
    device: Any = None
    """Where tensors are made."""
    indexed: bool = True
    """Whether it is a family, not one handle."""
    like: str = ""
    """Another family: a handle has ``shape``, and behind it that of the handle of ``like`` with the same index."""

    @classmethod
    def checked(
        cls, name: str, shape: Any, dtype: Any, keep: Any, device: Any, indexed: bool, like: str = ""
    ) -> Room | None:
        """The room of these arguments of `TaskGraph.handles`; None where there are none. TypeError or ValueError."""
        flag(keep, f"keep of {name}")
        if like and shape is None:
            shape = ()
        if shape is None and dtype is None:
            if keep or device is not None:
                raise TypeError(f"{name} has no room that could be kept or have a device; say its shape= and dtype=")
            return None
        if shape is None or dtype is None:
            missing = "shape" if shape is None else "dtype"
            raise TypeError(f"the room of {name} has no {missing}; say {missing}= as well")
        room = cls(name, shape, dtype, keep, device, indexed, like)
        if not _varies(shape):
            room = room._replace(shape=_extents(shape, name))
        if not _varies(dtype):
            room = room._replace(dtype=_dtype(dtype, name))
        if device is not None and not _varies(dtype) and isinstance(room.dtype, np.dtype):
            raise TypeError(
                f"the room of {name} is on device {device!r}, so its dtype must be one of torch, such as "
                f"torch.{room.dtype}"
            )
        return room

    @property
    def one_dtype(self) -> bool:
        """Whether all its handles have the same."""
        return not _varies(self.dtype)

    def of(self, handle: Handle, shape_of: ShapeOf) -> tuple[tuple[int, ...], Any]:
        """Shape and dtype of one handle; ``shape_of`` is asked for the shape of the handle that it is ``like``.

        TypeError or ValueError if the functions give none.
        """
        shape, dtype = self.shape, self.dtype
        if _varies(shape):
            shape = _extents(shape(*handle.index), handle)
        if _varies(dtype):
            dtype = _dtype(dtype(*handle.index), handle)
        if self.like:
            shape = *shape, *shape_of(handle._replace(name=self.like))
        return shape, dtype

    def nbytes(self, handle: Handle, shape_of: ShapeOf) -> int:
        """Bytes of one handle."""
        shape, dtype = self.of(handle, shape_of)
        return prod(shape) * int(dtype.itemsize)

    def itemsize(self, handle: Handle) -> int:
        """Bytes of an element of one handle."""
        return int(self._replace(shape=(), like="").of(handle, _nothing)[1].itemsize)

    def outline(self, handle: Handle, shape_of: ShapeOf) -> Any:
        """What stands in the place of one handle while it has no memory."""
        return outline_for(*self.of(handle, shape_of), self.device)

    def likeness(self, handle: Handle, shape: tuple[int, ...]) -> tuple[Handle, tuple[int, ...]]:
        """The handle that one of this room is ``like``, and its shape, where the room has ``shape``."""
        own, _ = self._replace(like="").of(handle, _nothing)
        return handle._replace(name=self.like), shape[len(own) :]

    def check(self, handle: Handle, value: Any, shape_of: ShapeOf) -> None:
        """ValueError for data of another shape or dtype than the room has."""
        shape, dtype = self.of(handle, shape_of)
        found = getattr(value, "shape", None), getattr(value, "dtype", None)
        if found[0] is None or tuple(found[0]) != shape or (found[1] != dtype and _format(found[1]) != _format(dtype)):
            has = type(value).__name__ if found[0] is None else f"shape {tuple(found[0])} and dtype {found[1]}"
            raise ValueError(
                f"the data for {handle} has {has}, but the graph declares a room of shape {shape} and "
                f"dtype {dtype}; leave the data out, or make them equal"
            )

    def settled(self, handles: Iterable[Handle]) -> Room:
        """The same room with tables instead of functions, which travel to other processes; of these handles only."""
        if not _varies(self.shape) and not _varies(self.dtype):
            return self
        table = {handle.index: self._replace(like="").of(handle, _nothing) for handle in handles}
        return self._replace(shape=_Table(table, 0), dtype=_Table(table, 1))


def outline_for(shape: tuple[int, ...], dtype: Any, device: Any = None) -> Any:
    """What stands for an array of this shape while it has no memory; for a tensor where the dtype is one of torch."""
    if isinstance(dtype, np.dtype):
        return Outline.of(shape, dtype)
    import torch

    return torch.zeros((), dtype=dtype, device=device).expand(shape)


def zeros_for(outline: Any) -> Any:
    """Memory for an outline: zeros, from an address that is a multiple of 64 where they are an array."""
    if isinstance(outline, np.ndarray):
        raw = np.zeros(outline.nbytes + _ALIGNMENT, np.uint8)
        start = -raw.ctypes.data % _ALIGNMENT
        return raw[start : start + outline.nbytes].view(outline.dtype).reshape(outline.shape)
    import torch

    return torch.zeros(outline.shape, dtype=outline.dtype, device=outline.device)


def _nothing(handle: Handle) -> tuple[int, ...]:
    return ()


class _Table:
    """A function of the index that looks up one of two things."""

    def __init__(self, table: dict[tuple[int, ...], tuple[Any, Any]], which: int) -> None:
        self.table, self.which = table, which

    def __call__(self, *index: int) -> Any:
        return self.table[index][self.which]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Table) and (other.table, other.which) == (self.table, self.which)

    __hash__ = None  # type: ignore[assignment]


def _format(dtype: Any) -> str:
    """The name of a dtype of NumPy or torch; an array of uint16 may hold BF16."""
    return "bfloat16" if dtype == np.uint16 else str(dtype).removeprefix("torch.")


def _varies(what: Any) -> bool:
    """Whether it is a function of the index. A dtype's class, such as ``float``, is callable and is none."""
    return callable(what) and not isinstance(what, type)


def _extents(shape: Any, name: Any) -> tuple[int, ...]:
    extents = shape if isinstance(shape, tuple | list) else (shape,)
    return tuple(whole(extent, f"shape of the room of {name}, {shape!r}: an extent", 0) for extent in extents)


def _dtype(dtype: Any, name: Any) -> Any:
    if type(dtype).__module__ == "torch" and type(dtype).__name__ == "dtype":
        return dtype
    try:
        found = np.dtype(dtype)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"dtype of the room of {name} is one of NumPy's or torch's, such as 'float64', not {dtype!r}"
        ) from error
    if found.hasobject:
        raise TypeError(f"dtype of the room of {name} must be one of numbers, not {found}")
    return found
