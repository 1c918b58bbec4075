"""Any graph within so much memory: its tiles lie on a disk, and come and go through pages.

A *page* is memory for a tile, or for all tiles of a block column, which to LAPACK are one matrix. Pages are handles, so
a load waits for whoever uses what was there, and memory is bounded by the graph itself. The order of the tasks is
known, so what is given up is what is needed again last [1]_; what was loaded last stays, though, so that the next can
come while it is in use. What was changed, and is needed again or has to stay, is stored before.

.. [1] L. A. Belady, A study of replacement algorithms for a virtual-storage computer, IBM Systems Journal 5 (1966).
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from math import inf, prod
from typing import NamedTuple

import numpy as np

from tilewright.graph import Access, Handle, R, Task, TaskGraph, Use, W
from tilewright.storage.matrix import StoredTiles
from tilewright.storage.ops import load, store

__all__ = ["OnDisk", "Paged", "paged"]

PAGE = "page"
SOURCE = ":source"


@dataclass(frozen=True)
class OnDisk:
    """Tiles of one name that lie on a disk.

    Attributes
    ----------
    tiles
        Where they are stored, and read again.
    source
        Where those are read that were not stored yet; without it each is written by a task first.
    kept
        Whether the last version of each is on the disk at the end.
    by_columns
        Whether all tiles of a block column share a page.
    """

    tiles: StoredTiles
    source: StoredTiles | None = None
    kept: bool = False
    by_columns: bool = False

    def unit(self, handle: Handle) -> Hashable:
        """What shares a page."""
        return (handle.name, handle.index[1]) if self.by_columns else handle

    def place(self, handle: Handle) -> int:
        """Number of a tile in its page."""
        return handle.index[0] if self.by_columns else 0

    def shapes(self, handle: Handle) -> tuple[tuple[int, int], ...]:
        """Of all tiles of its page."""
        i, j = handle.index
        rows = range(self.tiles.mt) if self.by_columns else (i,)
        return tuple(self.tiles[row, j].shape for row in rows)


class Paged(NamedTuple):
    """A graph whose tiles come and go.

    Attributes
    ----------
    graph
        Handles ``name[i,j]`` and ``name:source[i,j]`` are stored tiles, ``page[k,t]`` tile t of page k.
    pages
        The shapes of the tiles of each.
    memory
        Bytes of all pages.
    """

    graph: TaskGraph
    pages: list[tuple[tuple[int, int], ...]]
    memory: int

    def data(self, families: dict[str, OnDisk]) -> dict[str | Handle, object]:
        """What to run it with: stored tiles, and memory for the pages."""
        found: dict[str | Handle, object] = {}
        for name, family in families.items():
            found[name] = family.tiles
            if family.source is not None:
                found[name + SOURCE] = family.source
        dtype = next(iter(families.values())).tiles.matrix.dtype
        for number, shapes in enumerate(self.pages):
            whole = np.empty((sum(rows for rows, _ in shapes), shapes[0][1]), dtype, "F")
            top = 0
            for place, (rows, _) in enumerate(shapes):
                found[Handle(PAGE, (number, place))] = whole[top : top + rows]
                top += rows
        return found


def paged(
    graph: TaskGraph,
    tasks: Sequence[Task],
    families: dict[str, OnDisk],
    memory: int,
    loaded: Callable[[TaskGraph, Handle, Handle], object] = lambda graph, page, tile: None,
) -> Paged:
    """The graph with tasks that load and store.

    Parameters
    ----------
    tasks
        Those of the graph in an order in which they can run.
    families
        By name of the handles.
    memory
        Bytes of pages; more, if what one task touches takes more.
    loaded
        Called for each tile that was read from a source for the first time: ``loaded(graph, page, tile)`` may insert
        tasks. O(uses x pages).
    """
    pager = _Pager(graph.empty_like(), families, memory, tasks, loaded)
    for at, task in enumerate(tasks):
        pager.task(at, task)
    pager.finish()
    return Paged(pager.g, pager.pages, pager.memory)


class _Pager:
    def __init__(
        self,
        g: TaskGraph,
        families: dict[str, OnDisk],
        most: int,
        tasks: Sequence[Task],
        loaded: Callable[[TaskGraph, Handle, Handle], object],
    ) -> None:
        self.g, self.families, self.most, self.loaded = g, families, most, loaded
        self.item = next(iter(families.values())).tiles.matrix.dtype.itemsize
        self.pages: list[tuple[tuple[int, int], ...]] = []
        self.memory = 0
        self.by_shape: dict[tuple[tuple[int, int], ...], list[int]] = defaultdict(list)
        self.latest: dict[tuple[tuple[int, int], ...], int] = {}
        self.holds: dict[int, Hashable] = {}
        self.where: dict[Hashable, int] = {}
        self.used: dict[int, int] = {}
        self.there: dict[Hashable, dict[Handle, bool]] = defaultdict(dict)
        """By page, the tiles that are in it, and whether each was changed since it was on the disk."""
        self.stored: set[Handle] = set()
        self.seen: set[Handle] = set()
        self.uses: dict[Hashable, deque[int]] = defaultdict(deque)
        self.ends: dict[Handle, int] = {}
        for at, task in enumerate(tasks):
            for unit, handles in self._units(task).items():
                self.uses[unit].append(at)
                self.ends.update(dict.fromkeys(handles, at))

    def _units(self, task: Task) -> dict[Hashable, list[Handle]]:
        found: dict[Hashable, list[Handle]] = {}
        for handle in dict.fromkeys(use.handle for use in task.uses):
            family = self.families.get(handle.name)
            if family is not None:
                found.setdefault(family.unit(handle), []).append(handle)
        return found

    def task(self, at: int, task: Task) -> None:
        """The task, with what it needs before it and what is final behind it."""
        units = self._units(task)
        reads = {use.handle for use in task.uses if use.access is not Access.WRITE}
        for unit in units:
            self.uses[unit].popleft()
        for unit, handles in units.items():
            if unit not in self.where:
                self._enter(unit, handles[0], units, at)
            self._load(unit, [handle for handle in handles if handle in reads and handle not in self.there[unit]])
            self.used[self.where[unit]] = at
        uses = [
            Use(self._page(use.handle), use.access) if use.handle.name in self.families else use for use in task.uses
        ]
        copy = self.g.insert_again(task, uses=uses)
        copy.place = task.place if task.place is not None else task.op.indices(task.uses)
        for use in task.uses:
            family = self.families.get(use.handle.name)
            if family is not None and use.access is not Access.READ:
                self.there[family.unit(use.handle)][use.handle] = True
        for unit, handles in units.items():
            ended = [h for h in handles if self.ends[h] == at and self.families[h.name].kept]
            self._store(unit, ended)

    def finish(self) -> None:
        """What has to stay is on the disk."""
        for unit, tiles in self.there.items():
            self._store(unit, [handle for handle in tiles if self.families[handle.name].kept])

    def _page(self, handle: Handle) -> Handle:
        family = self.families[handle.name]
        return Handle(PAGE, (self.where[family.unit(handle)], family.place(handle)))

    def _enter(self, unit: Hashable, handle: Handle, busy: dict[Hashable, list[Handle]], at: int) -> None:
        """Find a page."""
        shapes = self.families[handle.name].shapes(handle)
        mine = self.by_shape[shapes]
        size = self.item * sum(map(prod, shapes))
        free = [number for number in mine if self.holds[number] not in busy]
        if self.memory + size <= self.most or not free:
            number = len(self.pages)
            self.pages.append(shapes)
            mine.append(number)
            self.memory += size
        else:
            others = [number for number in free if number != self.latest.get(shapes)] or free
            number = max(others, key=lambda one: (next(iter(self.uses[self.holds[one]]), inf), -self.used[one]))
            self._leave(number, at)
        self.holds[number], self.where[unit] = unit, number
        self.latest[shapes] = number

    def _leave(self, number: int, at: int) -> None:
        unit = self.holds[number]
        self._store(unit, [h for h in self.there[unit] if self.families[h.name].kept or self.ends[h] > at])
        del self.there[unit], self.where[unit]

    def _load(self, unit: Hashable, handles: Sequence[Handle]) -> None:
        for again in (False, True):
            some = [handle for handle in handles if (handle in self.stored) == again]
            if not some:
                continue
            origin = [R(handle if again else Handle(handle.name + SOURCE, handle.index)) for handle in some]
            self.g.insert(load, origin, [W(self._page(handle)) for handle in some], False, label=some[0].index)
            for handle in some:
                self.there[unit][handle] = False
                if not again and handle not in self.seen:
                    self.seen.add(handle)
                    self.loaded(self.g, self._page(handle), handle)

    def _store(self, unit: Hashable, handles: Sequence[Handle]) -> None:
        changed = [handle for handle in handles if self.there[unit].get(handle)]
        if changed:
            pages = [R(self._page(handle)) for handle in changed]
            self.g.insert(store, pages, [W(handle) for handle in changed], False, label=changed[0].index)
            self.stored.update(changed)
            self.there[unit].update(dict.fromkeys(changed, False))
