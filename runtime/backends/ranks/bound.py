"""The loops of a graph bound to its data: what a rank needs that plans its own part, without the tasks of others."""

from __future__ import annotations

import zlib
from typing import Any

from tilewright.backends.execution.buffers import layout
from tilewright.backends.execution.engine import check_data
from tilewright.graph import TaskGraph
from tilewright.passes.loops import Nest
from tilewright.tiles import Store, TiledMatrix

__all__ = ["BoundLoops", "bound_loops"]


class BoundLoops:
    """A graph that nobody unrolled, and tiled matrices that have all tiles which its loops name.

    What is checked handle by handle, such as the kernel of each task, each rank checks of its own part.
    """

    def __init__(self, graph: TaskGraph, store: Store) -> None:
        self.graph, self.store = graph, store
        self.kernels: dict[str, str] = {}
        """Where the kernels of each op come from; known when all ranks have told."""

    def layouts(self) -> str:
        """What the ranks have to have in common: shape, dtype and order of each matrix, and how it is cut."""
        kinds = []
        total = 0
        for name in self.graph.families:
            matrix = self.store.families.get(name)
            if isinstance(matrix, TiledMatrix) and len(matrix):
                tile = matrix[0, 0]
                kinds.append(f"{name}: {tile.shape} {tile.dtype} {layout(tile)}")
                total = zlib.crc32(f"{kinds[-1]} {matrix.shape} {matrix.packed}".encode(), total)
        return f"{'; '.join(kinds[:3])} (checksum {total})"


def bound_loops(graph: TaskGraph, nest: Nest, data: Any) -> BoundLoops | None:
    """A graph bound to its data; None where single handles have to be looked at, also for what is wrong with them.

    That is data in anything but tiled matrices of memory of their own, large enough, and writeable where tasks write.
    O(names).
    """
    store = data if isinstance(data, Store) else Store(data)
    memory: dict[int, bool] = {}
    for name, written in nest.families.items():
        matrix, room = store.families.get(name), nest.rooms.get(name)
        if matrix is None and room is not None:
            continue
        if room is not None or not isinstance(matrix, TiledMatrix) or (written and not matrix.writeable):
            return None
        if not nest.within(name, (matrix.mt, matrix.nt)):
            return None
        base = matrix.base
        place = id(base if base.base is None else base.base)
        if place in memory and (written or memory[place]):
            return None
        memory[place] = written or memory.get(place, False)
    if any(not isinstance(key, str) for key in store.given):
        return None
    if not isinstance(data, Store):
        check_data(graph, data)
    graph.frozen = True
    return BoundLoops(graph, store)
