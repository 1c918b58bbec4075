"""Data under two handles that is one piece of memory: refused, as no engine could order what tasks do to it.

A graph orders tasks by the handles that they name. If ``x`` and ``y`` are views of one array, a task that writes ``x``
and one that reads ``y`` have no edge: threads run them in any order, and ranks get copies of each.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from typing import Any, NamedTuple

import numpy as np
from numpy.exceptions import TooHardError

from tilewright.backends.execution.buffers import span, view
from tilewright.backends.execution.returned import may_change
from tilewright.graph import Handle, TaskGraph
from tilewright.tiles import Store, TiledMatrix

__all__ = ["check_apart"]

_PAIRS = 5_000
"""Pairs of views of one array whose bounds overlap that are looked at element by element; about 30 ms."""


_WORK = 10_000
"""Steps in which it has to be clear whether two views have an element in common."""

_Member = tuple[Handle | str, Any, bool]
"""A handle or the name of a tiled matrix, what it has, and whether that is written."""


class _Piece(NamedTuple):
    start: int
    end: int
    name: Handle | str
    array: np.ndarray
    written: bool


def check_apart(graph: TaskGraph, store: Store) -> None:
    """ValueError if two handles, one of which is written, share memory. The tiles of one `TiledMatrix` never do.

    Only views of one array can, or one object given twice: without such, O(handles).
    """
    there = store.names()
    written = set(graph.written) if there else set()
    if not written:
        return
    groups: dict[int, list[_Member]] = defaultdict(list)
    matrices: dict[str, bool] = {}
    for handle in graph.handles_used:
        if handle.name not in there:
            continue
        family = store.families.get(handle.name)
        if isinstance(family, TiledMatrix):
            matrices[handle.name] = matrices.get(handle.name, False) or handle in written
            continue
        value = store[handle]
        if isinstance(value, np.ndarray):
            groups[id(value) if value.base is None else id(value.base)].append((handle, value, handle in written))
        elif (array := _tensor(value)) is not None:
            groups[value.untyped_storage().data_ptr()].append((handle, array, handle in written))
        elif may_change(value):
            groups[id(value)].append((handle, value, handle in written))
    for name, changed in matrices.items():
        base: Any = store.families[name].base
        if isinstance(base, np.ndarray):
            groups[id(base) if base.base is None else id(base.base)].append((name, base, changed))
    for members in groups.values():
        if len(members) > 1 and any(changed for _, _, changed in members):
            _check_group(graph, store, members)


def _tensor(value: Any) -> np.ndarray | None:
    """The memory of a tensor as an array; None of all else."""
    torch: Any = sys.modules.get("torch")
    if torch is None or type(value) is not torch.Tensor:
        return None
    return view(value)


def _check_group(graph: TaskGraph, store: Store, members: list[_Member]) -> None:
    pieces: list[_Piece] = []
    objects: dict[int, tuple[Handle | str, bool]] = {}
    for name, value, changed in members:
        if isinstance(value, np.ndarray):
            if value.size:
                pieces.append(_Piece(*span(value), name, value, changed))
            continue
        first, written = objects.setdefault(id(value), (name, changed))
        if first != name and (changed or written):
            raise _shared(first, name)
    pieces.sort(key=lambda piece: piece[:2])
    open_: list[_Piece] = []
    looked = 0
    for piece in pieces:
        open_ = [other for other in open_ if other.end > piece.start]
        for other in open_:
            if (piece.written or other.written) and looked < _PAIRS:
                looked += 1
                _check_pair(graph, store, other, piece)
        open_.append(piece)


def _check_pair(graph: TaskGraph, store: Store, one: _Piece, other: _Piece) -> None:
    if not _share(one.array, other.array):
        return
    tiles = [_tiles(graph, store, piece) for piece in (one, other)]
    if not isinstance(one.name, str) and not isinstance(other.name, str):
        raise _shared(one.name, other.name)
    written = set(graph.written)
    looked = 0
    for a, first in tiles[0]:
        for b, second in tiles[1]:
            if (a in written or b in written) and looked < _PAIRS:
                looked += 1
                if _share(first, second):
                    raise _shared(a, b)


def _tiles(graph: TaskGraph, store: Store, piece: _Piece) -> list[tuple[Handle, np.ndarray]]:
    """(handle, memory) of all that the graph uses of a matrix; of another piece that one."""
    if not isinstance(piece.name, str):
        return [(piece.name, piece.array)]
    return [(handle, store[handle]) for handle in graph.handles_used if handle.name == piece.name]


def _share(one: np.ndarray, other: np.ndarray) -> bool:
    try:
        return np.shares_memory(one, other, max_work=_WORK)  # type: ignore[arg-type]
    except TooHardError:
        return False


def _shared(one: Handle | str, other: Handle | str) -> ValueError:
    return ValueError(
        f"{one} and {other} are the same memory, and the graph writes there: tasks are ordered by handle, so the "
        f"result would depend on the engine; use one handle for both, or pass a copy"
    )
