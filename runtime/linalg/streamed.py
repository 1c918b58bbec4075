"""Graphs that only read a matrix on a disk: its tiles come by in a few buffers.

The order of the program is known, so what is given up for a tile that is not there is the one that is needed again last
[1]_; of those that nobody needs again the one whose last use is longest ago, so that the disk can work ahead.

.. [1] L. A. Belady, A study of replacement algorithms for a virtual-storage computer, IBM Systems Journal 5 (1966).
"""

from __future__ import annotations

from collections import defaultdict, deque
from math import inf
from typing import Literal

import numpy as np

from tilewright.graph import Access, Handle, R, TaskGraph, Use, W
from tilewright.storage.matrix import StoredTiles
from tilewright.storage.ops import load

__all__ = ["streamed"]


def streamed(
    graph: TaskGraph, name: str, tiles: StoredTiles, most: int, order: Literal["C", "F"] = "C"
) -> tuple[TaskGraph, list[np.ndarray]]:
    """The graph with tasks that load the tiles ``name[i,j]`` before they are read, and the buffers ``name:buffer[k]``.

    Parameters
    ----------
    most
        Buffers of each shape, at least as many as a task reads tiles.
    order
        How the buffers lie in memory.

    Returns
    -------
    graph, buffers
        What to run, with ``data={name: tiles, f"{name}:buffer": buffers, ...}``. O(uses x ``most``).
    """
    g = graph.empty_like()
    family = g.handles(f"{name}:buffer")
    future: dict[Handle, deque[float]] = defaultdict(deque)
    for task in graph:
        for handle in dict.fromkeys(task.reads):
            if handle.name == name:
                future[handle].append(task.index)
    shapes: list[tuple[int, int]] = []
    by_shape: dict[tuple[int, int], list[int]] = defaultdict(list)
    holds: dict[int, Handle] = {}
    where: dict[Handle, int] = {}
    used: dict[int, int] = {}

    def buffer_for(shape: tuple[int, int], busy: set[int]) -> int:
        mine = by_shape[shape]
        if len(mine) < most:
            shapes.append(shape)
            mine.append(len(shapes) - 1)
            return mine[-1]
        free = [number for number in mine if number not in busy]
        found = max(free, key=lambda number: (next(iter(future[holds[number]]), inf), -used[number]))
        del where[holds[found]]
        return found

    for task in graph:
        mine = [handle for handle in dict.fromkeys(task.reads) if handle.name == name]
        busy = {where[handle] for handle in mine if handle in where}
        for handle in mine:
            future[handle].popleft()
        for handle in mine:
            if handle not in where:
                i, j = handle.index
                number = buffer_for(tiles[i, j].shape, busy)
                busy.add(number)
                holds[number], where[handle] = handle, number
                g.insert(load, [R(handle)], [W(family[number])], False, label=(i, j))
            used[where[handle]] = task.index
        uses = [Use(family[where[h]], Access.READ) if h.name == name else Use(h, access) for h, access in task.uses]
        copy = g.insert_again(task, uses=uses)
        copy.place = task.place if task.place is not None else task.op.indices(task.uses)
    return g, [np.empty(shape, tiles.matrix.dtype, order) for shape in shapes]
