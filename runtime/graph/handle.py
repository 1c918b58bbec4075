"""Names for data: one handle, and indexed families of them."""

from __future__ import annotations

from operator import index as _as_integer
from typing import NamedTuple

__all__ = ["Handle", "Handles"]


class Handle(NamedTuple):
    """A name for data: ``x``, tile ``A[3,1]``, the copy of x on rank 3 ``x[3]``. Equal by value, holds no data.

    Parameters
    ----------
    name
        Data of a run goes by it.
    index
        Integers; empty for a handle that stands alone.

    Examples
    --------
    >>> import tilewright as tw
    >>> A = tw.TaskGraph().handles("A")
    >>> A[3, 1], A[3, 1] == tw.Handle("A", (3, 1))
    (A[3,1], True)
    """

    name: str
    index: tuple[int, ...] = ()  # type: ignore[assignment] # hides tuple.index, which nobody needs here

    def __repr__(self) -> str:
        return f"{self.name}[{','.join(map(str, self.index))}]" if self.index else self.name


class Handles:
    """A family of handles, indexed: ``A = g.handles("A"); A[3, 1]`` is the handle of tile (3, 1)."""

    __slots__ = ("_known", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self._known: dict[int | tuple[int, ...], Handle] = {}  # one object a handle: a graph names each many times

    def __getitem__(self, index: int | tuple[int, ...]) -> Handle:
        places = index if isinstance(index, tuple) else (index,)
        try:
            handle = self._known.get(index)
        except TypeError:  # a slice
            handle = None
        if handle is None:
            if not all(hasattr(place, "__index__") and not isinstance(place, bool) for place in places):
                raise TypeError(f"{self.name}[...] names one handle at a time by integers, not {index!r}")
            handle = Handle(self.name, tuple(map(_as_integer, places)))
            self._known[index] = handle
        return handle

    def __repr__(self) -> str:
        return f"{self.name}[...]"
