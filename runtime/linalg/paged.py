"""Any graph within so much memory: its tiles lie on a disk, and come and go through pages.

A *page* is memory for a tile, or for all tiles of a block column, which to LAPACK are one matrix. Pages are handles, so
a load waits for whoever uses what was there, and memory is bounded by the graph itself. The order of the tasks is
known, so what is given up is what is needed again last [1]_; what was loaded last stays, though, so that the next can
come while it is in use. What was changed, and is needed again or has to stay, is stored before.

On ranks each has pages of its own, and all have one store. What a rank changed and another one needs is stored there
and loaded here: only the word that it is there travels, and memory for messages is none. A tile is written anew when
all who load it have told so.

.. [1] L. A. Belady, A study of replacement algorithms for a virtual-storage computer, IBM Systems Journal 5 (1966).
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf, prod
from typing import NamedTuple

import numpy as np

from tilewright.graph import RW, Access, Handle, Layout, Op, R, Task, TaskGraph, Use, W
from tilewright.storage.matrix import StoredTiles
from tilewright.storage.ops import load, load_told, store, store_after

__all__ = ["OnDisk", "Paged", "Pages", "paged"]

PAGE = "page"
SOURCE = ":source"
_TOLD = "told"


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
        """The shapes of all tiles of its page."""
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
        Bytes of all pages, of the rank that has most.
    read, written
        Bytes from and to the disk, of all ranks.
    """

    graph: TaskGraph
    pages: list[tuple[tuple[int, int], ...]]
    memory: int
    read: int
    written: int

    def data(self, families: dict[str, OnDisk]) -> dict[str | Handle, object]:
        """What to run it with: stored tiles, and memory for the pages."""
        found: dict[str | Handle, object] = {}
        for name, family in families.items():
            found[name] = family.tiles
            if family.source is not None:
                found[name + SOURCE] = family.source
        found[PAGE] = Pages(self.pages, str(next(iter(families.values())).tiles.matrix.dtype))
        return found


class Pages:
    """Memory for pages, by columns, made where a process first asks for a tile of one; to another it goes as shapes."""

    def __init__(self, shapes: list[tuple[tuple[int, int], ...]], dtype: str) -> None:
        self.shapes, self.dtype = shapes, dtype
        self._there: dict[int, list[np.ndarray]] = {}

    def __reduce__(self) -> tuple[object, ...]:
        return Pages, (self.shapes, self.dtype)

    def __getitem__(self, index: tuple[int, int]) -> np.ndarray:
        number, place = index
        found = self._there.get(number)
        if found is None:
            shapes = self.shapes[number]
            whole = np.empty((sum(rows for rows, _ in shapes), shapes[0][1]), self.dtype, "F")
            tops = np.cumsum([0, *(rows for rows, _ in shapes)])
            found = self._there[number] = [whole[a:b] for a, b in pairwise(tops)]
        return found[place]


def paged(
    graph: TaskGraph,
    tasks: Sequence[Task],
    families: dict[str, OnDisk],
    memory: int,
    loaded: Callable[[TaskGraph, Handle, Handle, int], object] = lambda graph, page, tile, rank: None,
    *,
    ranks: int = 1,
    place: Callable[[Task], int] = lambda task: 0,
    ops: Mapping[Op, Op] = {},
) -> Paged:
    """The graph with tasks that load and store.

    Parameters
    ----------
    tasks
        Those of the graph in an order in which they can run.
    families
        By name of the handles.
    memory
        Bytes of pages, of each rank; more, if what one task touches takes more.
    loaded
        Called for each tile that was read from a source for the first time: ``loaded(graph, page, tile, rank)`` may
        insert tasks, on that rank. O(uses x pages).
    ranks, place
        How many there are, and where a task runs.
    ops
        Others that take the place of ops, such as ones that know in which tile of the whole matrix they are.
    """
    pager = _Pager(graph.empty_like(), families, memory, tasks, loaded, ranks, place, ops)
    for at, task in enumerate(tasks):
        pager.task(at, task)
    pager.finish()
    if ranks > 1:
        layout = graph.layout
        home = (lambda handle: 0) if layout is None else layout.owner
        homes = pager.homes

        def owner(handle: Handle) -> int:
            return homes[handle.index[0]] if handle.name == PAGE else home(handle)

        pager.g.layout = Layout(ranks, owner, lambda handle: ())
        pager.g.temporary |= {PAGE, *families, *(name + SOURCE for name in families)}  # none is brought to the caller
    return Paged(pager.g, pager.pages, max(pager.memory), pager.read, pager.written)


_Unit = tuple[int, Hashable]
"""A rank, and what shares a page there."""


class _Pager:
    def __init__(
        self,
        g: TaskGraph,
        families: dict[str, OnDisk],
        most: int,
        tasks: Sequence[Task],
        loaded: Callable[[TaskGraph, Handle, Handle, int], object],
        ranks: int,
        place: Callable[[Task], int],
        ops: Mapping[Op, Op],
    ) -> None:
        self.g, self.families, self.most, self.loaded = g, families, most, loaded
        self.ranks, self.place, self.ops = ranks, place, ops
        self.item = next(iter(families.values())).tiles.matrix.dtype.itemsize
        self.pages: list[tuple[tuple[int, int], ...]] = []
        self.homes: list[int] = []
        """By page, the rank."""
        self.memory = [0] * ranks
        self.read = self.written = 0
        self.by_shape: dict[tuple[int, tuple[tuple[int, int], ...]], list[int]] = defaultdict(list)
        self.latest: dict[tuple[int, tuple[tuple[int, int], ...]], int] = {}
        self.holds: dict[int, _Unit] = {}
        self.where: dict[_Unit, int] = {}
        self.used: dict[int, int] = {}
        self.there: dict[_Unit, dict[Handle, bool]] = defaultdict(dict)
        """By page, the tiles that are in it, and whether each was changed since it was on the disk."""
        self.changed: dict[Handle, int] = {}
        """The rank that has a tile as it is on no disk yet."""
        self.stored: dict[Handle, int] = {}
        """Tiles that are on the disk, and who put them there last."""
        self.told: dict[Handle, list[tuple[int, Handle]]] = defaultdict(list)
        """By tile, loads since then: the rank, and by what it tells that it was done."""
        self.tellers = g.handles(_TOLD, shape=(1,), dtype="int8") if ranks > 1 else None
        self.tells = 0
        self.seen: set[Handle] = set()
        self.uses: dict[_Unit, deque[int]] = defaultdict(deque)
        self.ends: dict[Handle, int] = {}
        self.last_write: dict[Handle, int] = {}
        for at, task in enumerate(tasks):
            rank = place(task)
            for unit, handles in self._units(task, rank).items():
                self.uses[unit].append(at)
                self.ends.update(dict.fromkeys(handles, at))
            for use in task.uses:
                if use.access is not Access.READ and use.handle.name in families:
                    self.last_write[use.handle] = at

    def _units(self, task: Task, rank: int) -> dict[_Unit, list[Handle]]:
        found: dict[_Unit, list[Handle]] = {}
        for handle in dict.fromkeys(use.handle for use in task.uses):
            family = self.families.get(handle.name)
            if family is not None:
                found.setdefault((rank, family.unit(handle)), []).append(handle)
        return found

    def task(self, at: int, task: Task) -> None:
        """The task, with what it needs before it and what is final behind it."""
        rank = self.place(task)
        units = self._units(task, rank)
        reads = {use.handle for use in task.uses if use.access is not Access.WRITE}
        for unit in units:
            self.uses[unit].popleft()
        for unit, handles in units.items():
            if unit not in self.where:
                self._enter(unit, handles[0], units, at)
            wanted = [handle for handle in handles if handle in reads and handle not in self.there[unit]]
            for other in sorted({self.changed[handle] for handle in wanted if handle in self.changed}):
                there = (other, unit[1])
                self._store(there, [handle for handle in wanted if self.changed.get(handle) == other], at)
            self._load(unit, wanted, at)
            self.used[self.where[unit]] = at
        uses = [
            Use(self._page(use.handle, rank), use.access) if use.handle.name in self.families else use
            for use in task.uses
        ]
        on = rank if self.ranks > 1 else None
        copy = self.g.insert_again(task, self.ops.get(task.op, task.op), uses, on)
        copy.place = task.place if task.place is not None else task.op.indices(task.uses)
        for use in task.uses:
            family = self.families.get(use.handle.name)
            if family is not None and use.access is not Access.READ:
                unit = rank, family.unit(use.handle)
                for other in range(self.ranks) if self.ranks > 1 else ():
                    if other != rank and (other, unit[1]) in self.there:
                        self.there[other, unit[1]].pop(use.handle, None)
                self.there[unit][use.handle] = True
                self.changed[use.handle] = rank
        for unit, handles in units.items():
            ended = [h for h in handles if self.ends[h] == at and self.families[h.name].kept]
            self._store(unit, ended, at)

    def finish(self) -> None:
        """What has to stay is on the disk."""
        for unit, tiles in list(self.there.items()):
            self._store(unit, [handle for handle in tiles if self.families[handle.name].kept], len(self.ends))

    def _page(self, handle: Handle, rank: int) -> Handle:
        family = self.families[handle.name]
        return Handle(PAGE, (self.where[rank, family.unit(handle)], family.place(handle)))

    def _enter(self, unit: _Unit, handle: Handle, busy: dict[_Unit, list[Handle]], at: int) -> None:
        """Find a page."""
        rank = unit[0]
        shapes = self.families[handle.name].shapes(handle)
        mine = self.by_shape[rank, shapes]
        size = self.item * sum(map(prod, shapes))
        free = [number for number in mine if self.holds[number] not in busy]
        if self.memory[rank] + size <= self.most or not free:
            number = len(self.pages)
            self.pages.append(shapes)
            self.homes.append(rank)
            mine.append(number)
            self.memory[rank] += size
        else:
            others = [number for number in free if number != self.latest.get((rank, shapes))] or free
            number = max(others, key=lambda one: (next(iter(self.uses[self.holds[one]]), inf), -self.used[one]))
            self._leave(number, at)
        self.holds[number], self.where[unit] = unit, number
        self.latest[rank, shapes] = number

    def _leave(self, number: int, at: int) -> None:
        unit = self.holds[number]
        there = self.there[unit]
        self._store(unit, [h for h in there if self.families[h.name].kept or self.ends[h] > at], at)
        for handle in there:
            if self.changed.get(handle) == unit[0]:
                del self.changed[handle]  # nobody needs it
        del self.there[unit], self.where[unit]

    def _load(self, unit: _Unit, handles: Sequence[Handle], at: int) -> None:
        rank = unit[0]
        for again in (False, True):
            some = [handle for handle in handles if (handle in self.stored) == again]
            if not some:
                continue
            self.read += sum(self._nbytes(handle) for handle in some)
            origin = [R(handle if again else Handle(handle.name + SOURCE, handle.index)) for handle in some]
            pages = [W(self._page(handle, rank)) for handle in some]
            if self.ranks == 1:
                self.g.insert(load, origin, pages, False, label=some[0].index)
            else:
                told = self._tell(rank, [h for h in some if again and self.last_write[h] > at])
                self.g.insert(load_told, origin, pages, told, False, label=some[0].index, on=rank)
            for handle in some:
                self.there[unit][handle] = False
                if not again and handle not in self.seen:
                    self.seen.add(handle)
                    self.loaded(self.g, self._page(handle, rank), handle, rank)

    def _tell(self, rank: int, handles: Sequence[Handle]) -> list[Use]:
        """That these tiles, which somebody may write again, were read."""
        if not handles:
            return []
        assert self.tellers is not None
        one = self.tellers[self.tells]
        self.tells += 1
        for handle in handles:
            self.told[handle].append((rank, one))
        return [W(one)]

    def _store(self, unit: _Unit, handles: Sequence[Handle], at: int) -> None:
        rank = unit[0]
        changed = [handle for handle in handles if self.there[unit].get(handle)]
        if not changed:
            return
        self.written += sum(self._nbytes(handle) for handle in changed)
        pages = [R(self._page(handle, rank)) for handle in changed]
        if self.ranks == 1:
            self.g.insert(store, pages, [W(handle) for handle in changed], False, label=changed[0].index)
        else:
            tiles = [(RW if self.stored.get(handle, rank) != rank else W)(handle) for handle in changed]
            heard = [R(one) for handle in changed for other, one in self.told.pop(handle, ()) if other != rank]
            self.g.insert(store_after, pages, tiles, list(dict.fromkeys(heard)), False, label=changed[0].index, on=rank)
        self.there[unit].update(dict.fromkeys(changed, False))
        for handle in changed:
            self.stored[handle] = rank
            del self.changed[handle]

    def _nbytes(self, handle: Handle) -> int:
        family = self.families[handle.name]
        return self.item * prod(family.shapes(handle)[family.place(handle)])
