"""One rank's part of a graph whose loops are known, made without unrolling them for the others.

The flat plan (`tilewright.passes.messages.MessagePlan`) looks at all tasks, which 10^7 of them take minutes and
gigabytes for, on every rank. A rank's part depends on few of them: on its own tasks, and for each version that comes to
it or leaves it on who else reads that, as those share a tree. `tilewright.passes.loops.Nest` finds the tasks that
access a tile in closed form, so this takes

1. the tasks that write where the rank owns;
2. the tiles that these access, and what else the rank owns;
3. all accesses to those tiles, in program order, which give versions, readers and messages as in the flat plan.

Tags count the messages of a pair of ranks, all of which both know. So parts made on their own fit together, and each
has the tasks, messages and order that the flat plan has: `tests/runtime/passes/test_local.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np

from tilewright.distribution import Distribution
from tilewright.graph import RW, Access, Handle, R, TaskGraph, Use, W
from tilewright.host.garbage import uncollected
from tilewright.passes.loops import Array, Nest, NotALoop, Statement
from tilewright.passes.messages import DROP, RECEIVE, SEND, TREE, Message, Part

__all__ = ["LocalPlan"]

_CHUNK = 256  # tiles whose accesses are looked at together


class _Tiles(NamedTuple):
    """Tiles by family and index; the families are one after another."""

    family: Array
    row: Array
    column: Array


class LocalPlan:
    """The part of one rank, and what else an engine asks a `MessagePlan` about it.

    Parameters
    ----------
    nest
        The loops.
    ranks, rank
        How many there are, and which this is.
    owner
        Who owns which tile.

    Raises
    ------
    NotALoop
        Some handle has more than two indices, or negative ones.
    ValueError
        ``owner`` names a rank that is not there.

    Notes
    -----
    O(accesses to the tiles that the rank owns, reads or gets) time; memory for those of `_CHUNK` tiles at a time, and
    for the part.
    """

    def __init__(self, nest: Nest, ranks: int, rank: int, owner: Distribution) -> None:
        self.nest, self.ranks, self.rank = nest, ranks, rank
        self.temporary = nest.temporary
        self.names = list(nest.widest)
        shapes = [tuple(extents) for extents in nest.widest.values()]
        if any(len(shape) > 2 for shape in shapes):
            raise NotALoop("handles have more than two indices")
        self._shapes = [_two(*shape) for shape in shapes]
        self._indices = [len(shape) for shape in shapes]
        self._ends = np.cumsum([0, *(rows * columns for rows, columns in self._shapes)])
        self._owner = np.concatenate([_owners(owner, shape, ranks) for shape in self._shapes])
        with uncollected():
            self._plan()

    @property
    def tasks(self) -> int:
        """How many tasks the whole graph has."""
        return self.nest.tasks

    # ------------------------------------------------------------ tiles by number

    def _tile(self, name: str, index: tuple[Any, ...], values: dict[int, Array], rows: int) -> Array:
        """The numbers of the tiles that an access names."""
        family = self.names.index(name)
        row, column = ([place.at(values, rows) for place in index] + [np.zeros(rows, np.int64)] * 2)[:2]
        return np.asarray(self._ends[family] + row * self._shapes[family][1] + column)

    def _index(self, tiles: Array) -> _Tiles:
        family = np.searchsorted(self._ends, tiles, side="right") - 1
        row, column = np.divmod(tiles - self._ends[family], np.array([shape[1] for shape in self._shapes])[family])
        return _Tiles(family, row, column)

    def _handles(self, tiles: Array) -> dict[int, Handle]:
        families, rows, columns = (part.tolist() for part in self._index(tiles))
        names, indices = self.names, self._indices
        return {
            tile: Handle(names[f], (i, j)[: indices[f]])
            for tile, f, i, j in zip(tiles.tolist(), families, rows, columns, strict=True)
        }

    def _among(self, statement: Statement, use: int, tiles: Array) -> tuple[Array, dict[int, Array]]:
        """`Nest.accessing`, with tiles by number: which of ``tiles``, and the loop indices."""
        name = statement.uses[use][0]
        family, row, column = self._index(tiles)
        number = self.names.index(name)
        mine = np.flatnonzero(family == number)
        which, values = self.nest.accessing(statement, use, [row[mine], column[mine]][: self._indices[number]])
        if not len(mine):  # a handle without index is found even where nobody asks for it
            return which[:0], {loop: value[:0] for loop, value in values.items()}
        return mine[which], values

    # ------------------------------------------------------------ the plan

    def _plan(self) -> None:
        owned = np.flatnonzero(self._owner == self.rank)
        self._own: list[tuple[Statement, Array, Array]] = []  # statement, task numbers, tiles by use and task
        seen = [owned]
        for statement in self.nest.statements:
            which, values = self._among(statement, statement.placed_by, owned)
            count = len(which)
            numbers = self.nest.numbers(statement, values, count)
            tiles = np.array([self._tile(name, index, values, count) for name, index, _ in statement.uses])
            self._own.append((statement, numbers, tiles))
            seen.append(np.unique(tiles))
        tiles = np.unique(np.concatenate(seen))
        found = [self._look(tiles[start : start + _CHUNK]) for start in range(0, len(tiles), _CHUNK)]
        rows = np.concatenate([table for table, _ in found]) if found else np.zeros((0, 10), np.int64)
        self._ends_at = np.concatenate([ends for _, ends in found]) if found else np.zeros((0, 3), np.int64)
        #   by writer, then the order in which versions are made, then along the tree
        self._rows = rows[np.lexsort((rows[:, 8], rows[:, 7], rows[:, 6], rows[:, 4]))]

    def _accesses(self, tiles: Array) -> Array:
        """All accesses to these tiles, by tile and then in program order.

        Columns: which tile, task, place of its first access among its uses, of its first write, 1 if it reads, 1 if it
        writes, rank.
        """
        tables = []
        for statement in self.nest.statements:
            name, index, _ = statement.uses[statement.placed_by]
            for use, (_, _, access) in enumerate(statement.uses):
                which, values = self._among(statement, use, tiles)
                if not len(which):
                    continue
                count = len(which)
                by = self._tile(name, index, values, count)
                place = self._owner[by]
                if place.min() < 0:
                    handle = next(iter(self._handles(by[place < 0][:1]).values()))
                    raise ValueError(f"owner of {handle} is not one of the ranks 0 to {self.ranks - 1}")
                numbers = self.nest.numbers(statement, values, count)
                table = np.empty((count, 7), np.int64)
                table[:, 0], table[:, 1], table[:, 2], table[:, 3] = which, numbers, use, use
                table[:, 4], table[:, 5], table[:, 6] = access is not Access.WRITE, access is not Access.READ, place
                tables.append(table)
        if not tables:
            return np.zeros((0, 7), np.int64)
        table = np.concatenate(tables)
        table = table[np.lexsort((table[:, 2], table[:, 1], table[:, 0]))]
        again = np.flatnonzero((table[1:, :2] == table[:-1, :2]).all(axis=1)) + 1
        if not len(again):
            return table
        #   a task that names a tile twice reads it if one access does, and writes it if one does
        first = np.ones(len(table), bool)
        first[again] = False
        starts = np.flatnonzero(first)
        merged = table[starts]
        merged[:, 3] = np.minimum.reduceat(np.where(table[:, 5] > 0, table[:, 3], 1 << 40), starts)
        merged[:, 4] = np.maximum.reduceat(table[:, 4], starts)
        merged[:, 5] = np.maximum.reduceat(table[:, 5], starts)
        return merged

    def _look(self, tiles: Array) -> tuple[Array, Array]:
        """Messages of the versions of these tiles that this rank sends or receives, and where the tiles end.

        Columns of a message: source, destination, tile, version, writer, reader, the two numbers by which versions of
        one writer are ordered, position in the tree, and 1 + the last reader here if a copy is to be dropped after it.
        Columns of a tile: its number, the rank that makes its final value, or -1, the rank that keeps its place.
        """
        table = self._accesses(tiles)
        which, task, use, written, reads, writes, place = table.T
        if not len(table):
            return np.zeros((0, 10), np.int64), np.zeros((0, 3), np.int64)
        starts = np.flatnonzero(np.concatenate([[True], which[1:] != which[:-1]]))
        lengths = np.diff(np.concatenate([starts, [len(table)]]))
        through = np.cumsum(writes) - writes  # writes before
        version = through - np.repeat(through[starts], lengths)
        #   of each row: the row that wrote the version which it reads, -1 for the data of the run
        rows = np.arange(len(table))
        last = np.maximum.accumulate(np.where(writes > 0, rows, -1))
        before = np.concatenate([[-1], last[:-1]])
        begin = np.repeat(starts, lengths)
        writer = np.where(before >= begin, before, -1)
        source = np.where(writer >= 0, place[writer], self._owner[tiles[which]])
        #   where tiles end
        finals = np.where(version[starts + lengths - 1] + writes[starts + lengths - 1] > 0, 0, -1)
        end_writer = last[starts + lengths - 1]
        final_place = np.where(finals >= 0, place[np.maximum(end_writer, 0)], -1)
        keeper = np.where(reads[starts] > 0, self._owner[tiles[which[starts]]], final_place)
        ends = np.column_stack([tiles[which[starts]], final_place, keeper])
        #   readers elsewhere, one row for each (version, rank)
        remote = np.flatnonzero((reads > 0) & (place != source))
        if not len(remote):
            return np.zeros((0, 10), np.int64), ends
        key = begin[remote] + version[remote]  # one for each version: a tile has no more of them than rows
        concerned = np.zeros(len(table) + 1, bool)
        concerned[key[(place[remote] == self.rank) | (source[remote] == self.rank)]] = True
        remote = remote[concerned[key]]
        key = begin[remote] + version[remote]
        if not len(remote):
            return np.zeros((0, 10), np.int64), ends
        pair = key * self.ranks + place[remote]
        order = np.argsort(pair, kind="stable")  # rows of one version and rank stay in program order
        remote, pair = remote[order], pair[order]
        firsts = np.flatnonzero(np.concatenate([[True], pair[1:] != pair[:-1]]))
        lasts = np.concatenate([firsts[1:], [len(pair)]]) - 1
        first, final = remote[firsts], task[remote[lasts]]
        key = begin[first] + version[first]
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
        #   the task that makes the next version: the first write at or after the first read of this one
        coming = np.where(writes > 0, rows, len(table))
        coming = np.minimum.accumulate(coming[::-1])[::-1]
        following = coming[first]
        inside = following < opened + np.repeat(lengths, lengths)[opened]
        closed = np.where(inside, task[np.minimum(following, len(table) - 1)], -1)
        result = np.empty((len(mine), 10), np.int64)
        result[:, 0], result[:, 1] = sender[mine], place[first]
        result[:, 2], result[:, 3] = tiles[which[first]], version[first]
        result[:, 4] = np.where(initial, -1, task[made])
        result[:, 5] = task[first]
        result[:, 6] = np.where(initial, task[opened], written[made])
        result[:, 7] = np.where(initial, use[opened], 0)
        result[:, 8] = position
        result[:, 9] = np.where((place[first] == self.rank) & (final != closed), final + 1, 0)
        return result, ends

    # ------------------------------------------------------------ what engines ask

    @cached_property
    def _known(self) -> dict[int, Handle]:
        """Handles of the part by number of the tile."""
        tiles = [tiles.ravel() for _, _, tiles in self._own] + [self._rows[:, 2]]
        return self._handles(np.unique(np.concatenate(tiles)))

    @cached_property
    def messages(self) -> list[Message]:
        """Those of this rank, in the order of the whole plan."""
        tags: dict[tuple[int, int], int] = {}
        messages = []
        for source, destination, tile, version, writer, reader in self._rows[:, :6].tolist():
            tag = tags.get((source, destination), 0)
            tags[source, destination] = tag + 1
            handle = self._known[tile]
            messages.append(Message(source, destination, handle, version, tag, writer, reader, False))
        return messages

    def part(self, rank: int) -> Part:
        """The part of ``rank``, which is this one."""
        assert rank == self.rank
        return self._part

    @cached_property
    def _part(self) -> Part:
        RUNS, RECEIVES, SENDS, DROPS = range(4)
        known = self._known
        items: list[tuple[int, int, int, Any]] = []
        with uncollected():
            for statement, numbers, tiles in self._own:
                accesses = [access for _, _, access in statement.uses]
                uses = [
                    [Use(known[tile], access) for tile in row]
                    for row, access in zip(tiles.tolist(), accesses, strict=True)
                ]
                items += [
                    (number, RUNS, 0, (statement, of))
                    for number, of in zip(numbers.tolist(), zip(*uses, strict=True), strict=True)
                ]
            for number, (message, drop) in enumerate(zip(self.messages, self._rows[:, 9].tolist(), strict=True)):
                if message.source == self.rank:
                    items.append((message.writer, SENDS, number, message))
                else:
                    items.append((message.writer, RECEIVES, number, message))
                    if drop:
                        items.append((drop - 1, DROPS, number, message))
            items.sort(key=lambda item: item[:3])
            graph = TaskGraph(f"{self.nest.name}, rank {self.rank} of {self.ranks}")
            graph.temporary = set(self.nest.temporary)
            origin = []
            for index, kind, _, item in items:
                if kind == RUNS:
                    statement, of = item
                    graph.insert(statement.op, *of, *statement.params, priority=statement.priority)
                    origin.append(index)
                else:
                    op, use = {RECEIVES: (RECEIVE, W), SENDS: (SEND, R), DROPS: (DROP, RW)}[kind]
                    graph.insert(op, use(item.handle), item)
                    origin.append(-1)
            if (by_formula := self.nest.levels) is not None:
                levels = [
                    by_formula(task) if number >= 0 else 0.0 for task, number in zip(graph.tasks, origin, strict=True)
                ]
                graph.closed_form = lambda task: levels[task.index]
        return Part(graph, origin)

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

    def made_by(self, rank: int) -> list[Handle]:
        """See `MessagePlan.made_by`."""
        here = self._ends_at[self._ends_at[:, 1] == rank, 0]
        return [handle for handle in self._handles(here).values() if handle.name not in self.temporary]


def _two(rows: int = 1, columns: int = 1) -> tuple[int, int]:
    return rows, columns


def _owners(owner: Callable[[int, int], int], shape: tuple[int, int], ranks: int) -> Array:
    """The owner of each tile of a family, row by row; -1 where there is no such rank."""
    rows, columns = shape
    table = np.fromiter((owner(i, j) for i in range(rows) for j in range(columns)), np.int64, rows * columns)
    table[(table < 0) | (table >= ranks)] = -1  # of no matter where the loops have no such tile
    return table
