"""Memory that the processes of one machine read in place, so that tiles need not be sent.

A process can open another's segments (`tilewright.backends.ranks.segments`) if both are on one machine and of one user,
and if no container is between them. It finds out by a *probe*: a segment with random bytes, and what they are.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cache
from typing import Any, TypeVar

import numpy as np

from tilewright.backends.execution.buffers import layout
from tilewright.backends.ranks import segments
from tilewright.backends.ranks.segments import Reference, Segment
from tilewright.host.memory import copy_all

__all__ = ["SMALL", "Probe", "lend", "lend_all", "probe", "sees", "small", "zeros"]

Key = TypeVar("Key")

SMALL = 1 << 14  # bytes; what is smaller is sent


Probe = tuple[str, bytes]
"""Path of a segment, and what is in it. A plain tuple, for machines without tilewright."""


@cache
def _own() -> tuple[Probe, np.ndarray] | None:
    if not hasattr(os, "memfd_create"):  # the file that stands in for it elsewhere may lie on a disk
        return None
    token = os.urandom(16)
    segment = Segment.create(len(token))
    place = segment.array(0, (len(token),), np.dtype(np.uint8), "C")
    place[:] = np.frombuffer(token, np.uint8)
    return (segment.path, token), place


def probe() -> Probe | None:
    """That of this process; None where memory has no path."""
    own = _own()
    return own and own[0]


def sees(there: Probe | None) -> bool:
    """Whether this process can read the memory of the one with this probe."""
    if there is None or not hasattr(os, "memfd_create"):
        return False
    path, token = there
    try:
        with open(path, "rb") as file:
            return file.read(len(token)) == token
    except OSError:
        return False


def zeros(nbytes: int) -> np.ndarray:
    """Bytes that others can read if there are many of them."""
    if nbytes < SMALL or probe() is None:
        return np.zeros(nbytes, np.uint8)
    return Segment.create(nbytes).array(0, (nbytes,), np.dtype(np.uint8), "C")


def small(value: Any) -> bool:
    """Whether a value is an array so small that it is quicker pickled than looked at."""
    return type(value) is np.ndarray and not value.dtype.hasobject and value.nbytes < SMALL


def lend(value: Any, *, copy: bool) -> tuple[Reference, np.ndarray] | None:
    """Where another process finds an array, and what has to live until it has opened it; None for what is to be sent.

    With ``copy`` the other gets memory of its own; without, this one does not change what it lends.
    """
    if not isinstance(value, np.ndarray) or value.dtype.hasobject or value.nbytes < SMALL or probe() is None:
        return None
    found = None if copy else segments.reference(value)
    if found is None:
        value, source = Segment.create(value.nbytes).array(0, value.shape, value.dtype, layout(value)), value
        np.copyto(value, source)
        found = segments.reference(value)
        assert found is not None
    return found, value


def lend_all(values: Mapping[Key, Any]) -> dict[Key, tuple[Reference, np.ndarray]]:
    """The same for many values, in one segment; nothing if they are small together. They may be changed in place."""
    if probe() is None or sum(value.nbytes for value in values.values() if _worth(value)) < SMALL:
        return {}
    places = {handle: segments.reference(value) for handle, value in values.items() if _worth(value)}
    fresh = {handle: values[handle] for handle, place in places.items() if place is None}
    segment = Segment.create(segments.room(list(fresh.values())))
    place = segments.placer(segment)
    copies = {handle: place(value) for handle, value in fresh.items()}
    copy_all([(copies[handle], value) for handle, value in fresh.items()])
    lent = {}
    for handle, found in places.items():
        array = copies.get(handle, values[handle])
        where = found or segments.reference(array)
        assert where is not None
        lent[handle] = where, array
    return lent


def _worth(value: Any) -> bool:
    return isinstance(value, np.ndarray) and not value.dtype.hasobject and value.nbytes > 0
