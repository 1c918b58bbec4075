"""Values that tasks return: whether somebody else has them too, in part or as a whole, and copies of those.

A handle has its value for itself: a task that changes ``y`` in place must not change ``x``. A function may return what
it read, a view of it, one array twice, or an array that it keeps for the next call. In one memory these would be one
value under two names, where ranks, which send copies, have two.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterable
from enum import Enum, auto
from functools import lru_cache
from typing import Any

import numpy as np

from tilewright.arguments import is_tensor
from tilewright.backends.execution.buffers import span

__all__ = ["Pieces", "copied", "held", "may_change"]

_CONTAINERS = frozenset((list, dict, set, bytearray))

_PLAIN = frozenset((int, float, complex, bool, str, bytes, type(None), np.float64, np.float32, np.int64, np.bool_))

_FIXED_CONTAINERS = (tuple, frozenset)

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


class Pieces:
    """What may change of the values that a task has to do with so far, to compare the next one with."""

    def __init__(self, values: Iterable[Any]) -> None:
        self._objects: set[int] = set()
        self._plain: list[Any] = []
        self._seen: list[tuple[int, int]] = []
        objects: list[Any] = []
        for value in values:
            _collect(value, objects, self._plain)
        self._objects.update(map(id, objects))

    def share(self, value: Any) -> bool:
        """Whether a value and one of these are one object that may change, or have memory in common; it joins them."""
        objects: list[Any] = []
        plain: list[Any] = []
        _collect(value, objects, plain)
        names = set(map(id, objects))
        common = not names.isdisjoint(self._objects) or self._overlap(plain)
        self._objects |= names
        self._plain += plain
        return common

    def _overlap(self, plain: list[Any]) -> bool:
        if not plain or not self._plain:
            return False
        self._seen += map(span, self._plain[len(self._seen) :])  # looked at where there is other to compare it with
        return any(low < end and start < high for start, end in map(span, plain) for low, high in self._seen)


def copied(value: Any) -> Any:
    """A copy that has nothing in common with it; of what cannot be copied itself."""
    if isinstance(value, np.ndarray):
        return value.copy()
    try:
        return copy.deepcopy(value)
    except Exception:  # locks, files and the like raise anything; so does a tensor that was computed from a parameter
        return value.clone() if is_tensor(value) else value


def _collect(value: Any, objects: list[Any], plain: list[Any]) -> None:
    """Append what of a value may change: its containers and objects, its arrays and its tensors of plain memory."""
    kind = _kind(type(value))  # type: ignore[arg-type]  # type[Any] has a hash
    if kind is _Kind.FIXED:
        return
    if kind is _Kind.ARRAY:
        plain.append(value)
    elif kind is _Kind.CONTAINER:
        if not isinstance(value, _FIXED_CONTAINERS):
            objects.append(value)
        for item in value.values() if isinstance(value, dict) else value:
            if type(item) not in _PLAIN:
                _collect(item, objects, plain)
    elif kind is _Kind.TENSOR:
        objects.append(value)
        if not value.requires_grad:
            plain.append(value)
    elif kind is not _Kind.HASHED or may_change(value):
        objects.append(value)
        if kind is _Kind.SPARSE:
            parts = (getattr(value, name, None) for name in _PARTS)
            plain.extend(part for part in parts if isinstance(part, np.ndarray))


class _Kind(Enum):
    FIXED = auto()
    ARRAY = auto()
    CONTAINER = auto()
    TENSOR = auto()
    SPARSE = auto()
    OBJECT = auto()
    HASHED = auto()


@lru_cache(maxsize=1024)
def _kind(of: type) -> _Kind:
    """What can be said of all values of a type. Those that have a hash of their own are asked one by one."""
    if issubclass(of, np.ndarray):
        return _Kind.ARRAY
    if of in _PLAIN or issubclass(of, type):
        return _Kind.FIXED
    if issubclass(of, list | tuple | dict | set | frozenset):
        return _Kind.CONTAINER
    torch: Any = sys.modules.get("torch")
    if torch is not None and issubclass(of, torch.Tensor):
        return _Kind.TENSOR
    if hasattr(of, "nnz"):
        return _Kind.SPARSE
    if any("__call__" in vars(base) for base in of.__mro__):
        return _Kind.FIXED
    return _Kind.OBJECT if of.__hash__ in (None, object.__hash__) else _Kind.HASHED


def may_change(value: Any) -> bool:
    """Whether it is an object without a value to be hashed by: who changes it changes it for all who have it."""
    kind = _kind(type(value))  # type: ignore[arg-type]  # type[Any] has a hash
    if kind is not _Kind.HASHED and kind is not _Kind.CONTAINER:
        return kind is not _Kind.FIXED
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
