"""What a plan of one rank is made of, wherever the accesses to its tiles come from.

Who can list the tasks of a rank, and all accesses to the tiles that these use, in program order, has versions, readers
and messages as in the flat plan (`tilewright.passes.messages.MessagePlan`). Tags count the messages of a pair of ranks,
all of which both know, so parts made by each rank on its own fit together: `tests/runtime/passes/test_local.py`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import cached_property
from typing import Any, Literal

import numpy as np

from tilewright.graph import RW, Access, Handle, R, TaskGraph, W
from tilewright.host.garbage import uncollected
from tilewright.passes.messages import DROP, RECEIVE, SEND, TREE, Message, MessagePlan, Part
from tilewright.rooms import Room

__all__ = ["Array", "OneRank"]

Array = np.ndarray

_NEVER = 1 << 40


class OneRank(ABC):
    """The part of one rank, and what else an engine asks a `MessagePlan` about it.

    Tiles go by numbers.

    Parameters
    ----------
    name, tasks, rooms, temporary
        Of the whole graph: how it is called, how many tasks it has, `TaskGraph.rooms` and `TaskGraph.temporary`.
    ranks, rank
        How many there are, and which this is.
    start, collect
        As in `MessagePlan`: the rank that has all data of the run; ranks that get what is written in the end.
    """

    def __init__(
        self,
        name: str,
        tasks: int,
        rooms: dict[str, Room],
        temporary: set[str],
        ranks: int,
        rank: int,
        start: int | None,
        collect: Collection[int],
    ) -> None:
        self.name, self.tasks, self.room_of = name, tasks, rooms
        self.temporary, self.ranks, self.rank = temporary, ranks, rank
        self.start, self.collect = start, np.array(sorted(collect), np.int64)
        self._rows = np.zeros((0, 12), np.int64)
        self._ends_at = np.zeros((0, 3), np.int64)
        self._again = np.zeros(0, np.int64)

    @property
    def anew(self) -> Array:
        """The tasks of other ranks that this one runs for itself, as they make a result of nothing."""
        return self._again

    @abstractmethod
    def _accesses(self, tiles: Array) -> tuple[Array, ...]:
        """All accesses to these tiles, which are ascending, by tile and then in program order.

        Columns: which tile, task, place of its first access among its uses, of its first write, whether it reads,
        whether it writes, rank. A task is there once for each tile.
        """

    @staticmethod
    def _once(which: Array, task: Array, use: Array, reads: Array, writes: Array, place: Array) -> tuple[Array, ...]:
        """What `_accesses` returns, of accesses in order: a task that names a tile twice reads it if one access does,
        and writes it if one does."""
        same = (which[1:] == which[:-1]) & (task[1:] == task[:-1])
        if not same.any():
            return which, task, use, use, reads, writes, place
        starts = np.flatnonzero(np.concatenate([[True], ~same]))
        written = np.minimum.reduceat(np.where(writes, use, _NEVER), starts)
        reads, writes = (np.logical_or.reduceat(kind, starts) for kind in (reads, writes))
        return which[starts], task[starts], use[starts], written, reads, writes, place[starts]

    @abstractmethod
    def _home(self, tiles: Array) -> Array:
        """The owners of tiles."""

    @abstractmethod
    def _handles(self, tiles: Array) -> dict[int, Handle]:
        """The handles of tiles."""

    def _results(self, tiles: Array) -> Array:
        """Whether tiles are of families whose values somebody may want after the run."""
        return np.array([name not in self.temporary for name in self._families(tiles)], bool)

    @abstractmethod
    def _families(self, tiles: Array) -> list[str]:
        """The names of the families of tiles."""

    @abstractmethod
    def _of_nothing(self, tasks: Array) -> Array:
        """Whether these tasks, of which this rank may run some, are kernels that only write one tile."""

    @abstractmethod
    def _used(self) -> Iterable[Array]:
        """The tiles that this rank's tasks use."""

    @abstractmethod
    def _calls(self) -> tuple[Array, Sequence[tuple[Any, ...]]]:
        """By task of this rank its number, and what `TaskGraph.append_call` takes of it."""

    @abstractmethod
    def _levels(self, graph: TaskGraph, origin: list[int]) -> list[float] | None:
        """Bottom levels of the tasks of the part, where they are known; 0 for those of the engine."""

    def _survey(self, chunks: Iterable[Array]) -> None:
        """Look at the tiles of this rank, so many at a time."""
        found = [self._look(tiles) for tiles in chunks]
        rows = np.concatenate([self._rows, *(table for table, _ in found)])
        self._ends_at = np.concatenate([self._ends_at, *(ends for _, ends in found)])
        #   by writer, then the order in which versions are made, then along the tree
        self._rows = rows[np.lexsort((rows[:, 8], rows[:, 7], rows[:, 6], rows[:, 4]))]

    def _look(self, tiles: Array) -> tuple[Array, Array]:
        """Messages of the versions of these tiles that this rank sends or receives, and where the tiles end.

        Columns of a message: source, destination, tile, version, writer, reader, the two numbers by which versions of
        one writer are ordered, position in the tree, 1 + the last reader here if a copy is to be dropped after it,
        1 if no task overwrites the version, 1 if the destination collects it. Of a tile: its number, the rank that
        makes its final value, or -1, the rank that keeps its place.
        """
        which, task, use, written, reads, writes, place = self._accesses(tiles)
        count = len(which)
        if not count:
            return np.zeros((0, 12), np.int64), np.zeros((0, 3), np.int64)
        starts = np.flatnonzero(np.concatenate([[True], which[1:] != which[:-1]]))
        lengths = np.diff(np.concatenate([starts, [count]]))
        through = np.cumsum(writes) - writes  # writes before
        version = through - np.repeat(through[starts], lengths)
        #   of each row: the row that wrote the version which it reads, -1 for the data of the run
        rows = np.arange(count)
        last = np.maximum.accumulate(np.where(writes, rows, -1))
        before = np.concatenate([[-1], last[:-1]])
        begin = np.repeat(starts, lengths)
        writer = np.where(before >= begin, before, -1)
        home = self._home if self.start is None else lambda some: np.full(len(some), self.start)
        source = np.where(writer >= 0, place[writer], home(tiles[which]))
        #   where tiles end
        last_version = (version + writes)[starts + lengths - 1]
        finals = np.where(last_version > 0, 0, -1)
        end_writer = last[starts + lengths - 1]
        final_place = np.where(finals >= 0, place[np.maximum(end_writer, 0)], -1)
        keeper = np.where(reads[starts], home(tiles[which[starts]]), final_place)
        ends = np.column_stack([tiles[which[starts]], final_place, keeper])
        #   the task that makes the next version: the first write at or after the first read of this one
        coming = np.where(writes, rows, count)
        coming = np.minimum.accumulate(coming[::-1])[::-1]
        #   who collects final values reads them behind the last task
        if len(self.collect):
            tile = np.repeat(np.arange(len(starts)), lengths)
            wanted = (finals >= 0) & self._results(tiles[which[starts]])
            anew = wanted & self._of_nothing(task[end_writer])
            anew[tile[reads & (place != source) & (writer == end_writer[tile])]] = False
            if self.rank in self.collect:
                self._again = np.union1d(self._again, task[end_writer[anew & (final_place != self.rank)]])
            wanted = np.flatnonzero(wanted & ~anew)
            for rank in self.collect:
                which = np.concatenate([which, which[starts[wanted]]])
                task = np.concatenate([task, np.full(len(wanted), self.tasks)])
                place = np.concatenate([place, np.full(len(wanted), rank)])
                reads = np.concatenate([reads, np.full(len(wanted), True)])
                begin = np.concatenate([begin, starts[wanted]])
                version = np.concatenate([version, last_version[wanted]])
                source = np.concatenate([source, final_place[wanted]])
                writer = np.concatenate([writer, end_writer[wanted]])
                coming = np.concatenate([coming, np.full(len(wanted), count)])
        #   readers elsewhere, one row for each (version, rank)
        remote = np.flatnonzero(reads & (place != source))
        if not len(remote):
            return np.zeros((0, 12), np.int64), ends
        key = (begin + which + version)[remote]  # one for each version: a tile has one more of them than rows at most
        concerned = np.zeros(count + len(tiles) + 1, bool)
        concerned[key[(place[remote] == self.rank) | (source[remote] == self.rank)]] = True
        remote = remote[concerned[key]]
        key = (begin + which + version)[remote]
        if not len(remote):
            return np.zeros((0, 12), np.int64), ends
        pair = key * self.ranks + place[remote]
        order = np.argsort(pair, kind="stable")  # rows of one version and rank stay in program order
        remote, pair = remote[order], pair[order]
        firsts = np.flatnonzero(np.concatenate([[True], pair[1:] != pair[:-1]]))
        lasts = np.concatenate([firsts[1:], [len(pair)]]) - 1
        first, final = remote[firsts], task[remote[lasts]]
        key = (begin + which + version)[first]
        #   along the tree: in order of first need
        order = np.lexsort((place[first], task[first], key))
        first, final, key = first[order], final[order], key[order]
        groups = np.flatnonzero(np.concatenate([[True], key[1:] != key[:-1]]))
        sizes = np.diff(np.concatenate([groups, [len(key)]]))
        position = np.arange(len(key)) - np.repeat(groups, sizes) + 1
        above = position - (1 << (np.frexp(position)[1] - 1))  # without its highest bit
        parent = np.where(np.repeat(sizes, sizes) < TREE, 0, above)
        member = np.repeat(groups, sizes) + parent - 1
        sender = np.where(parent > 0, place[first[np.maximum(member, 0)]], source[first])
        mine = np.flatnonzero((sender == self.rank) | (place[first] == self.rank))
        first, final, position = first[mine], final[mine], position[mine]
        made = writer[first]
        initial = made < 0
        opened = begin[first]
        following = coming[first]
        inside = following < opened + np.repeat(lengths, lengths)[opened]
        closed = np.where(inside, task[np.minimum(following, count - 1)], -1)
        result = np.empty((len(mine), 12), np.int64)
        result[:, 0], result[:, 1] = sender[mine], place[first]
        result[:, 2], result[:, 3] = tiles[which[first]], version[first]
        result[:, 4] = np.where(initial, -1, task[made])
        result[:, 5] = task[first]
        result[:, 6] = np.where(initial, task[opened], written[made])
        result[:, 7] = np.where(initial, use[opened], 0)
        result[:, 8] = position
        result[:, 11] = final == self.tasks
        result[:, 9] = np.where((place[first] == self.rank) & (final != closed) & (final < self.tasks), final + 1, 0)
        result[:, 10] = closed < 0
        return result, ends

    # ------------------------------------------------------------ what engines ask

    @cached_property
    def _known(self) -> dict[int, Handle]:
        """Handles of the part by number of the tile."""
        return self._handles(np.unique(np.concatenate([*self._used(), self._rows[:, 2]])))

    @cached_property
    def messages(self) -> list[Message]:
        """Those of this rank, in the order of the whole plan."""
        tags: dict[tuple[int, int], int] = {}
        messages = []
        for (source, destination, tile, version, writer, reader), final in zip(
            self._rows[:, :6].tolist(), self._rows[:, 11].tolist(), strict=True
        ):
            tag = tags.get((source, destination), 0)
            tags[source, destination] = tag + 1
            handle = self._known[tile]
            messages.append(Message(source, destination, handle, version, tag, writer, reader, bool(final)))
        return messages

    def part(self, rank: int) -> Part:
        """The part of ``rank``, which is this one."""
        assert rank == self.rank
        return self._part

    @cached_property
    def _part(self) -> Part:
        RECEIVES, SENDS, DROPS = 1, 2, 3
        with uncollected():
            numbers, calls = self._calls()
            beside: list[tuple[int, int, int, Message]] = []
            for number, (message, drop) in enumerate(zip(self.messages, self._rows[:, 9].tolist(), strict=True)):
                if message.source == self.rank:
                    beside.append((message.writer, SENDS, number, message))
                else:
                    beside.append((message.writer, RECEIVES, number, message))
                    if drop:
                        beside.append((drop - 1, DROPS, number, message))
            beside.sort(key=lambda item: item[:3], reverse=True)
            graph = TaskGraph(f"{self.name}, rank {self.rank} of {self.ranks}")
            graph.temporary, graph.rooms = set(self.temporary), dict(self.room_of)
            origin: list[int] = []

            def told(before: int) -> None:
                """The engine's own tasks that come before the task of this number."""
                while beside and beside[-1][0] < before:
                    _, kind, _, message = beside.pop()
                    op, use = {RECEIVES: (RECEIVE, W), SENDS: (SEND, R), DROPS: (DROP, RW)}[kind]
                    graph.insert(op, use(message.handle), message)
                    origin.append(-1)

            insert, note = graph.append_call, origin.append
            order = np.argsort(numbers)
            for number, place in zip(numbers[order].tolist(), order.tolist(), strict=True):
                if beside and beside[-1][0] < number:
                    told(number)
                insert(*calls[place])
                note(number)
            told(self.tasks)
            levels = self._levels(graph, origin)
            if levels is not None:
                graph.closed_form = lambda task: levels[task.index]
        return Part(graph, origin)

    @cached_property
    def lasting(self) -> frozenset[tuple[Handle, int]]:
        """(handle, version) of its messages that no task overwrites."""
        last = self._rows[self._rows[:, 10] > 0]
        return frozenset((self._known[tile], version) for tile, version in last[:, 2:4].tolist())

    def rooms(self, rank: int, places: Literal["own", "shared", "none"]) -> list[Handle]:
        """See `MessagePlan.rooms`."""
        if places == "own":
            return []
        keepers = dict(zip(self._ends_at[:, 0].tolist(), self._ends_at[:, 2].tolist(), strict=True))
        keeper_of = {handle: keepers[tile] for tile, handle in self._known.items()}
        rooms: dict[Handle, None] = {}
        for task in self._part.graph.tasks:
            if not task.op.external:
                for handle, access in task.uses:
                    if access is Access.WRITE and not (places == "shared" and keeper_of[handle] == rank):
                        rooms[handle] = None
        return list(rooms)

    def peak_memory(self, size: Callable[[Handle], int], window: int | None = None) -> int:
        """See `MessagePlan.peak_memory`; of this rank."""
        part = self._part.graph
        own = set(self._handles(self._ends_at[self._ends_at[:, 2] == self.rank, 0]).values())
        own.update(handle for task in part if not task.op.external for handle in task.writes)
        rooms = {name for name, room in self.room_of.items() if not room.keep}
        comes = {handle for handle in part.handles_used if handle.name in rooms} - part.inputs.keys()
        own = {handle for handle in own if handle not in comes}
        return sum(map(size, own)) + MessagePlan.most_beside(part, comes, size, window)

    def made_by(self, rank: int) -> list[Handle]:
        """See `MessagePlan.made_by`."""
        here = self._ends_at[self._ends_at[:, 1] == rank, 0].tolist()
        known = self._known
        if not known.keys() >= set(here):  # what others make here
            known = self._handles(np.array(here, np.int64))
        return [known[tile] for tile in here if known[tile].name not in self.temporary]
