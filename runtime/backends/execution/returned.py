"""Values that tasks return: whether somebody else has them too, in part or as a whole, and copies of those.

A handle has its value for itself: a task that changes ``y`` in place must not change ``x``. A function may return what
it read, a view of it, one array twice, or an array that it keeps for the next call. In one memory these would be one
value under two names, where ranks, which send copies, have two.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from tilewright.arguments import is_tensor
from tilewright.backends.execution.buffers import view

__all__ = ["copied", "held", "may_change", "shared"]

_CONTAINERS = frozenset((list, dict, set, bytearray))

_PLAIN = frozenset((int, float, complex, bool, str, bytes, type(None), np.float64, np.float32, np.int64, np.bool_))

_PARTS = ("data", "indices", "indptr", "row", "col", "offsets")
"""Arrays that a sparse matrix of SciPy may consist of."""


def held(value: Any, names: int = 1) -> bool:
    """Whether an array, a tensor or a container is referred to by more than the ``names`` that the caller has for it.

    So is one that a function keeps in a cache or a global variable, and one that a handle has. Of a view it is the
    array it views that counts as well.
    """
    if not isinstance(value, np.ndarray):
        return (type(value) in _CONTAINERS or is_tensor(value)) and sys.getrefcount(value) > _ALONE + names
    if sys.getrefcount(value) > _ALONE + names:
        return True
    return isinstance(value.base, np.ndarray) and sys.getrefcount(value.base) > _BASE


def shared(value: Any, others: Sequence[Any]) -> bool:
    """Whether a value and one of others are one object that may change, or have memory in common."""
    if not others:
        return False
    pieces = list(_pieces(value))
    if not pieces:
        return False
    arrays = [piece for piece in pieces if isinstance(piece, np.ndarray)]
    objects = {id(piece) for piece in pieces}
    for other in others:
        for piece in _pieces(other):
            if id(piece) in objects:
                return True
            if isinstance(piece, np.ndarray) and any(np.may_share_memory(piece, array) for array in arrays):
                return True
    return False


def copied(value: Any) -> Any:
    """A copy that has nothing in common with it; of what cannot be copied itself."""
    if isinstance(value, np.ndarray):
        return value.copy()
    try:
        return copy.deepcopy(value)
    except Exception:  # locks, files and the like raise anything; so does a tensor that was computed from a parameter
        return value.clone() if is_tensor(value) else value


def _pieces(value: Any) -> Iterator[Any]:
    """What of a value may change: its arrays, tensors as arrays, containers and objects."""
    if isinstance(value, np.ndarray):
        yield value
        return
    if type(value) in _PLAIN:
        return
    if isinstance(value, list | tuple | dict | set | frozenset):
        if not isinstance(value, tuple | frozenset):
            yield value
        for item in value.values() if isinstance(value, dict) else value:
            yield from _pieces(item)
        return
    array = view(value)
    if array is not None:
        yield array
    elif may_change(value):
        yield value
        if hasattr(value, "nnz"):
            parts = (getattr(value, name, None) for name in _PARTS)
            yield from (part for part in parts if isinstance(part, np.ndarray))


def may_change(value: Any) -> bool:
    """Whether it is an object without a value to be hashed by: who changes it changes it for all who have it."""
    if type(value) in _PLAIN or isinstance(value, type) or callable(value):
        return False
    own_hash: Any = type(value).__hash__
    if own_hash is None or own_hash is object.__hash__ or is_tensor(value):
        return True
    try:
        hash(value)
    except TypeError:
        return True
    return False


def _count(value: Any) -> int:
    return sys.getrefcount(value)


def _alone() -> int:
    """How many references `held` sees to a value that nobody has, without those of its caller's names."""
    value = np.empty(1)
    return _count(value) - 1


def _of_base() -> int:
    value = np.empty(2)[1:]
    return sys.getrefcount(value.base)


_ALONE, _BASE = _alone(), _of_base()
