"""One rank's part of a graph that travels as arrays, made without building the tasks of the others.

A graph of 10^5 tasks is as many objects; the same calls are five arrays of numbers (`tilewright.graph.packed`). Where
tasks run, who reads what and which messages that makes are found in those arrays, and only the rank's own tasks become
objects.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Collection, Sequence
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np

from tilewright.graph import Access, Handle, Op, TaskGraph, Use
from tilewright.graph.packed import ACCESSES, USUAL, Packed
from tilewright.host.garbage import uncollected
from tilewright.passes.one_rank import Array, OneRank
from tilewright.rooms import Room

__all__ = ["Listed", "ListedPlan", "listed_graph"]

_READ, _WRITE = ACCESSES.index(Access.READ), ACCESSES.index(Access.WRITE)
_USES = 1 << 20  # accesses that are looked at together


class Listed:
    """The calls of a graph as arrays, and what else a rank has to know of it."""

    def __init__(
        self, name: str, calls: Packed, levels: list[float], temporary: set[str], rooms: dict[str, Room]
    ) -> None:
        self.name, self.calls, self.temporary, self.rooms = name, calls, temporary, rooms
        self.levels = np.array(levels, float)
        """Bottom levels."""

    # ------------------------------------------------------------ accesses in program order

    @cached_property
    def counts(self) -> Array:
        """By task, how many uses it has."""
        return np.array(self.calls.tasks[1], np.int64)

    @cached_property
    def starts(self) -> Array:
        """By task, its first use."""
        return np.cumsum(self.counts) - self.counts

    @cached_property
    def handle(self) -> Array:
        """By use, the number of the handle."""
        return np.array(self.calls.tasks[2], np.int64) // 3

    @cached_property
    def access(self) -> Array:
        """By use, the access: its place in `ACCESSES`."""
        return (np.array(self.calls.tasks[2], np.int64) % 3).astype(np.int8)

    @cached_property
    def task(self) -> Array:
        """By use, the task."""
        return np.repeat(np.arange(len(self.counts)), self.counts)

    @cached_property
    def by_handle(self) -> tuple[Array, Array]:
        """The uses by handle, in program order; and where those of each handle begin."""
        ends = np.cumsum(np.bincount(self.handle, minlength=len(self.calls.handles[0])))
        return np.argsort(self.handle, kind="stable"), np.concatenate([[0], ends])

    @cached_property
    def of_nothing(self) -> Array:
        """By task, whether it is a kernel that only writes one handle."""
        kernel = np.array([op.function is None for op in self.calls.ops], bool)
        found: Array = kernel[np.array(self.calls.tasks[0], np.int64)] & (self.counts == 1)
        some = np.flatnonzero(found)
        found[some] = self.access[self.starts[some]] == _WRITE
        return found

    def places(self, owner: Array) -> Array:
        """The rank of each task: `tilewright.passes.messages.place`."""
        found = np.zeros(len(self.counts), np.int64)
        some = np.flatnonzero(self.counts)
        found[some] = owner[self.handle[self.starts[some]]]
        written = np.flatnonzero(self.access != _READ)[::-1]
        found[self.task[written]] = owner[self.handle[written]]  # the first of each task is put there last
        number: dict[Handle, int] = {}
        for task, (_, on, *_) in self.calls.others.items():
            if isinstance(on, Handle):
                number = number or {handle: n for n, handle in self.handles(np.arange(len(owner))).items()}
                found[task] = owner[number[on]]
            elif on is not None:
                found[task] = on
        return found

    @cached_property
    def _begins(self) -> Array:
        lengths = np.array(self.calls.handles[1], np.int64)
        return np.cumsum(lengths) - lengths

    def handles(self, numbers: Array) -> dict[int, Handle]:
        """Handles by number."""
        names = self.calls.names
        families, lengths, indices = self.calls.handles
        begins = self._begins[numbers].tolist()
        return {
            number: Handle(names[families[number]], tuple(indices[begin : begin + lengths[number]]))
            for number, begin in zip(numbers.tolist(), begins, strict=True)
        }

    def __reduce__(self) -> tuple[Any, ...]:
        return Listed, (self.name, self.calls, self.levels, self.temporary, self.rooms)


_known: weakref.WeakKeyDictionary[TaskGraph, tuple[int, Listed]] = weakref.WeakKeyDictionary()


def listed_graph(graph: TaskGraph) -> Listed | None:
    """The calls of a graph as arrays, kept as long as the graph is; None where a plan needs more than them.

    That is where a copy may be made again instead of sent (`Op.again`), or a task runs where a handle lives that no
    task uses. O(tasks) the first time.
    """
    known = _known.get(graph)
    if known is None or known[0] != len(graph):
        name, calls, levels, temporary, rooms = graph.contents()
        if any(op.again for op in calls.ops):
            return None
        used = set(graph.handles_used)
        if any(isinstance(on, Handle) and on not in used for _, on, *_ in calls.others.values()):
            return None
        found = Listed(name, calls, graph.bottom_levels() if levels is None else levels, temporary, rooms)
        known = _known[graph] = len(graph), found
    return known[1]


class ListedPlan(OneRank):
    """`OneRank` of a `Listed` graph.

    Parameters
    ----------
    graph
        The calls.
    ranks, rank
        How many there are, and which this is.
    owner
        Of each handle in order of first access.
    start, collect
        As in `tilewright.passes.messages.MessagePlan`.

    Notes
    -----
    O(accesses) time, in NumPy; and O(tasks of the rank).
    """

    def __init__(
        self,
        graph: Listed,
        ranks: int,
        rank: int,
        owner: Sequence[int],
        start: int | None = None,
        collect: Collection[int] = (),
    ) -> None:
        super().__init__(graph.name, len(graph.counts), graph.rooms, graph.temporary, ranks, rank, start, collect)
        self.graph = graph
        self._owner = np.array(owner, np.int64)
        self._place = graph.places(self._owner)
        wrong = np.flatnonzero((self._place < 0) | (self._place >= ranks))
        if len(wrong):
            raise ValueError(f"task {wrong[0]} is to run on {self._place[wrong[0]]}, not on one of {ranks} ranks")
        self._mine = np.flatnonzero(self._place == rank)
        self._own_uses = np.flatnonzero(np.repeat(self._place == rank, graph.counts))
        wanted = self._owner == rank
        wanted[graph.handle[self._own_uses]] = True
        if rank == start:
            wanted[:] = True
        elif rank in self.collect:
            wanted |= self._results(np.arange(len(wanted)))
        tiles = np.flatnonzero(wanted)
        lengths = np.diff(graph.by_handle[1])[tiles]
        pieces = (np.cumsum(lengths) - lengths) // _USES
        with uncollected():
            self._survey(np.split(tiles, np.flatnonzero(np.diff(pieces)) + 1) if len(tiles) else ())
        if len(self._again):
            self._mine = np.union1d(self._mine, self._again)
            self._own_uses = np.flatnonzero(np.repeat(np.isin(np.arange(len(self._place)), self._mine), graph.counts))

    def _of_nothing(self, tasks: Array) -> Array:
        return self.graph.of_nothing[tasks]

    def pickled(self, is_memory: Callable[[Handle], bool]) -> dict[Handle, int]:
        """For handles in messages from which writer on their values travel pickled: a function's, or -1 if they are no
        memory; ``is_memory(handle)`` says what the data of the run has."""
        calls, access = self.graph.calls, self.graph.access
        function = np.array([op.function is not None for op in calls.ops], bool)
        in_place = np.array([op.in_place for op in calls.ops], bool)
        kinds = np.array(calls.tasks[0], np.int64)
        order, ends = self.graph.by_handle
        found: dict[Handle, int] = {}
        for number, handle in self.graph.handles(np.unique(self._rows[:, 2])).items():
            uses = order[ends[number] : ends[number + 1]]
            memory = is_memory(handle)
            if not memory and access[uses[0]] != _WRITE:
                found[handle] = -1
                continue
            writers = self.graph.task[uses[access[uses] != _READ]]
            op = kinds[writers]
            by_function = writers[function[op] & (~in_place[op] | (not memory))]
            if len(by_function):
                found[handle] = int(by_function[0])
        return found

    def _home(self, tiles: Array) -> Array:
        return np.asarray(self._owner[tiles])

    def _families(self, tiles: Array) -> list[str]:
        names, families = self.graph.calls.names, self.graph.calls.handles[0]
        return [names[families[tile]] for tile in tiles.tolist()]

    def _handles(self, tiles: Array) -> dict[int, Handle]:
        return self.graph.handles(tiles)

    def _accesses(self, tiles: Array) -> tuple[Array, ...]:
        order, ends = self.graph.by_handle
        lengths = (ends[1:] - ends[:-1])[tiles]
        which = np.repeat(np.arange(len(tiles)), lengths)
        inside = np.arange(len(which)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        uses = order[ends[tiles][which] + inside]
        task, access = self.graph.task[uses], self.graph.access[uses]
        place = uses - self.graph.starts[task]
        reads, writes = access != _WRITE, access != _READ
        return self._once(which, task, place, reads, writes, self._place[task])

    def _used(self) -> list[Array]:
        return [self.graph.handle[self._own_uses]]

    def _calls(self) -> tuple[Array, list[tuple[Any, ...]]]:
        graph, known = self.graph, self._known
        codes = 3 * graph.handle[self._own_uses] + graph.access[self._own_uses]
        use_of = {code: Use(known[code // 3], ACCESSES[code % 3]) for code in np.unique(codes).tolist()}
        uses = map(use_of.__getitem__, codes.tolist())
        kinds, ops, others = np.array(graph.calls.tasks[0], np.int64)[self._mine], graph.calls.ops, graph.calls.others
        calls: list[tuple[Op, tuple[Use, ...], Any, Any, Any, Any, Any]] = []
        for index, kind, count in zip(
            self._mine.tolist(), kinds.tolist(), graph.counts[self._mine].tolist(), strict=True
        ):
            calls.append((ops[kind], tuple(islice(uses, count)), *others.get(index, USUAL)))
        return self._mine, calls

    def _levels(self, graph: TaskGraph, origin: list[int]) -> list[float]:
        numbers = np.array(origin, np.int64)
        return list(np.where(numbers >= 0, self.graph.levels[numbers], 0.0).tolist()) if len(numbers) else []
