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

import math
from collections.abc import Callable, Iterator
from functools import cached_property
from itertools import chain
from typing import Any, Literal, NamedTuple

import numpy as np

from tilewright.distribution import Distribution
from tilewright.graph import RW, Access, Handle, R, TaskGraph, Use, W
from tilewright.host.garbage import uncollected
from tilewright.passes.loops import Array, Member, Nest, Statement, listed
from tilewright.passes.messages import DROP, RECEIVE, SEND, TREE, Message, Part

__all__ = ["LocalPlan"]

_CHUNK = 96  # tiles whose accesses are looked at together
_READS, _WRITES, _NEVER = 1, 2, 1 << 40
_KINDS = {Access.READ: _READS, Access.WRITE: _WRITES, Access.RW: _READS | _WRITES}


class _Own(NamedTuple):
    """Tasks of a statement that run on this rank."""

    statement: Statement
    values: dict[int, Array]
    """Loop indices, by number of the loop."""
    numbers: Array
    """By task, its number in the graph."""
    tiles: list[Array]
    """By member, the tiles of all tasks one after the other."""
    lengths: list[Array]
    """By member and task, how many."""


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
        self._shapes = [tuple(extents) for extents in nest.widest.values()]
        sizes = [math.prod(shape) for shape in self._shapes]
        self._ends = np.cumsum([0, *sizes])
        #   a rule looks at two indices
        tables = [_owners(owner, _two(*shape[:2]), ranks) for shape in self._shapes]
        self._owner = np.concatenate([*tables, np.zeros(0, np.int64)])
        self._starts = np.cumsum([0, *map(len, tables)])
        self._inner = np.array([math.prod(shape[2:]) for shape in self._shapes], np.int64)
        with uncollected():
            self._plan()

    @property
    def tasks(self) -> int:
        """Of the whole graph."""
        return self.nest.tasks

    # ------------------------------------------------------------ tiles by number

    def _tile(self, member: Member, values: dict[int, Array], rows: int) -> Array:
        """The numbers of the tiles that an access names."""
        family = self.names.index(member.name)
        number = np.zeros(rows, np.int64)
        for place, extent in zip(member.index, self._shapes[family], strict=True):
            number = number * extent + place.at(values, rows)
        return number + self._ends[family]

    def _home(self, tiles: Array) -> Array:
        """The owners of tiles; -1 where there is none."""
        family = np.searchsorted(self._ends, tiles, side="right") - 1
        return np.asarray(self._owner[self._starts[family] + (tiles - self._ends[family]) // self._inner[family]])

    def _owned(self) -> Array:
        """The tiles that this rank owns; of rooms of more than two indices none, as they begin where they are made."""
        found = []
        placing = {statement.placed.name for statement in self.nest.statements}
        for family, name in enumerate(self.names):
            inner = self._inner[family]
            if inner == 1 or name in placing or name not in self.nest.rooms:
                mine = np.flatnonzero(self._owner[self._starts[family] : self._starts[family + 1]] == self.rank)
                found.append(self._ends[family] + (mine[:, None] * inner + np.arange(inner)).ravel())
        return np.concatenate([*found, np.zeros(0, np.int64)])

    def _of_family(self, tiles: Array, family: int) -> tuple[Array, list[Array]]:
        """Which of these tiles are of a family, and their indices."""
        mine = np.flatnonzero((tiles >= self._ends[family]) & (tiles < self._ends[family + 1]))
        shape = self._shapes[family]
        return mine, list(np.unravel_index(tiles[mine] - self._ends[family], shape)) if shape else []

    def _handles(self, tiles: Array) -> dict[int, Handle]:
        found: dict[int, Handle] = {}
        for family, name in enumerate(self.names):
            mine, columns = self._of_family(tiles, family)
            indices = zip(*(column.tolist() for column in columns), strict=True) if columns else [()] * len(mine)
            found.update((tile, Handle(name, index)) for tile, index in zip(tiles[mine].tolist(), indices, strict=True))
        return found

    def _among(self, statement: Statement, member: Member, tiles: Array) -> tuple[Array, dict[int, Array]]:
        """`Nest.accessing`, with tiles by number: which of ``tiles``, and the loop indices."""
        mine, columns = self._of_family(tiles, self.names.index(member.name))
        which, values = self.nest.accessing(statement, member, columns)
        if not len(mine):  # a handle without index is found even where nobody asks for it
            return which[:0], {loop: value[:0] for loop, value in values.items()}
        return mine[which], values

    # ------------------------------------------------------------ the plan

    def _plan(self) -> None:
        owned = self._owned()
        seen = [owned]
        self._own: list[_Own] = []
        for statement in self.nest.statements:
            which, values = self._among(statement, statement.placed, owned)
            own = self._of(statement, values, len(which))
            self._own.append(own)
            seen += map(np.unique, own.tiles)
        tiles = np.unique(np.concatenate(seen))
        found = [self._look(tiles[start : start + _CHUNK]) for start in range(0, len(tiles), _CHUNK)]
        rows = np.concatenate([table for table, _ in found]) if found else np.zeros((0, 10), np.int64)
        self._ends_at = np.concatenate([ends for _, ends in found]) if found else np.zeros((0, 3), np.int64)
        #   by writer, then the order in which versions are made, then along the tree
        self._rows = rows[np.lexsort((rows[:, 8], rows[:, 7], rows[:, 6], rows[:, 4]))]

    def _of(self, statement: Statement, values: dict[int, Array], count: int) -> _Own:
        """The tasks of a statement at these of the loop indices, and the tiles that they use."""
        tiles, lengths = [], []
        for member in statement.members:
            length = np.ones(count, np.int64)
            inner = values
            for loop in member.loops:
                turns = np.repeat(loop.turns(values, count), length)  # by access so far
                start = np.repeat(loop.start.at(values, count), length)
                size = len(turns)
                again = np.repeat(np.arange(size), turns)
                held = inner if inner is not values else {n: np.repeat(v, length) for n, v in values.items()}
                inner = {number: value[again] for number, value in held.items()}
                inner[loop.number] = np.arange(len(again)) - (np.cumsum(turns) - turns)[again] + start[again]
                length = length * loop.turns(values, count)
            tiles.append(self._tile(member, inner, int(length.sum())))
            lengths.append(length)
        return _Own(statement, values, self.nest.numbers(statement, values, count), tiles, lengths)

    def _accesses(self, tiles: Array) -> tuple[Array, ...]:
        """All accesses to these tiles, by tile and then in program order.

        Columns: which tile, task, place of its first access among its uses, of its first write, whether it reads,
        whether it writes, rank.
        """
        found: list[tuple[Array, ...]] = []
        for statement in self.nest.statements:
            for member in statement.members:
                which, values = self._among(statement, member, tiles)
                if not len(which):
                    continue
                count = len(which)
                by = self._tile(statement.placed, values, count)
                place = self._home(by)
                if place.min() < 0:
                    handle = next(iter(self._handles(by[place < 0][:1]).values()))
                    raise ValueError(f"owner of {handle} is not one of the ranks 0 to {self.ranks - 1}")
                number = self.nest.numbers(statement, values, count)
                use = self.nest.places(statement, member, values, count)
                kind = np.full(count, _KINDS[member.access], np.int8)
                found.append((which, number, use, kind, place))
        if not found:
            return (np.zeros(0, np.int64),) * 7
        columns = [np.concatenate(parts) for parts in zip(*found, strict=True)]
        order = _in_order(*columns[:3])
        which, task, use, kind, place = (column[order] for column in columns)
        same = (which[1:] == which[:-1]) & (task[1:] == task[:-1])
        written = use
        if same.any():
            #   a task that names a tile twice reads it if one access does, and writes it if one does
            starts = np.flatnonzero(np.concatenate([[True], ~same]))
            written = np.minimum.reduceat(np.where(kind & _WRITES, use, _NEVER), starts)
            kind = np.bitwise_or.reduceat(kind, starts)
            which, task, use, place = which[starts], task[starts], use[starts], place[starts]
        return which, task, use, written, kind & _READS > 0, kind & _WRITES > 0, place

    def _look(self, tiles: Array) -> tuple[Array, Array]:
        """Messages of the versions of these tiles that this rank sends or receives, and where the tiles end.

        Columns of a message: source, destination, tile, version, writer, reader, the two numbers by which versions of
        one writer are ordered, position in the tree, and 1 + the last reader here if a copy is to be dropped after it.
        Of a tile: its number, the rank that makes its final value, or -1, the rank that keeps its place.
        """
        which, task, use, written, reads, writes, place = self._accesses(tiles)
        count = len(which)
        if not count:
            return np.zeros((0, 10), np.int64), np.zeros((0, 3), np.int64)
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
        source = np.where(writer >= 0, place[writer], self._home(tiles[which]))
        #   where tiles end
        finals = np.where((version + writes)[starts + lengths - 1] > 0, 0, -1)
        end_writer = last[starts + lengths - 1]
        final_place = np.where(finals >= 0, place[np.maximum(end_writer, 0)], -1)
        keeper = np.where(reads[starts], self._home(tiles[which[starts]]), final_place)
        ends = np.column_stack([tiles[which[starts]], final_place, keeper])
        #   readers elsewhere, one row for each (version, rank)
        remote = np.flatnonzero(reads & (place != source))
        if not len(remote):
            return np.zeros((0, 10), np.int64), ends
        key = begin[remote] + version[remote]  # one for each version: a tile has no more of them than rows
        concerned = np.zeros(count + 1, bool)
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
        coming = np.where(writes, rows, count)
        coming = np.minimum.accumulate(coming[::-1])[::-1]
        following = coming[first]
        inside = following < opened + np.repeat(lengths, lengths)[opened]
        closed = np.where(inside, task[np.minimum(following, count - 1)], -1)
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
        tiles = [tiles for own in self._own for tiles in own.tiles]
        return self._handles(np.unique(np.concatenate([*tiles, self._rows[:, 2]])))

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
        items: list[tuple[int, int, int, Any]] = []
        with uncollected():
            for own in self._own:
                items += [
                    (number, RUNS, 0, call) for number, call in zip(own.numbers.tolist(), self._calls(own), strict=True)
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
            graph.temporary, graph.rooms = set(self.nest.temporary), dict(self.nest.rooms)
            origin = []
            for index, kind, _, item in items:
                if kind == RUNS:
                    graph.append_call(*item)
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

    def _calls(self, own: _Own) -> Iterator[tuple[Any, ...]]:
        """What `TaskGraph.append_call` takes of each task."""
        statement, count = own.statement, len(own.numbers)
        known = self._known

        def listed_here(thing: Any) -> list[Any]:
            return listed(thing, own.values, count)

        members: list[list[tuple[Use, ...]]] = []
        for member, tiles, lengths in zip(statement.members, own.tiles, own.lengths, strict=True):
            uses = {tile: Use(known[tile], member.access) for tile in np.unique(tiles).tolist()}
            found = [uses[tile] for tile in tiles.tolist()]
            ends = np.cumsum(lengths).tolist()
            members.append([tuple(found[start:end]) for start, end in zip([0, *ends], ends, strict=False)])
        used = [tuple(chain.from_iterable(of)) for of in zip(*members, strict=True)]
        groups: list[tuple[int, ...]] = [()] * count
        if any(statement.arguments):
            sizes = np.full((len(statement.arguments), count), -1)
            for argument in np.flatnonzero(statement.arguments).tolist():
                sizes[argument] = 0
            for member, lengths in zip(statement.members, own.lengths, strict=True):
                if statement.arguments[member.argument]:
                    sizes[member.argument] += lengths
            groups = list(zip(*sizes.tolist(), strict=True))
        params = list(zip(*map(listed_here, statement.params), strict=True)) if statement.params else [()] * count
        label = statement.label
        labels = [None] * count if label is None else list(zip(*map(listed_here, label), strict=True))
        ops, priority = listed_here(statement.op), statement.priority
        return ((*call[:3], None, priority, *call[3:]) for call in zip(ops, used, params, groups, labels, strict=True))

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


def _in_order(which: Array, task: Array, use: Array) -> Array:
    """The order by tile, task and place."""
    tasks, uses = int(task.max()) + 1, int(use.max()) + 1
    if (int(which.max()) + 1) * tasks * uses < 1 << 62:  # one key is sorted much faster than three
        return np.argsort((which * tasks + task) * uses + use)
    return np.lexsort((use, task, which))


def _two(rows: int = 1, columns: int = 1) -> tuple[int, int]:
    return rows, columns


def _owners(owner: Callable[[int, int], int], shape: tuple[int, int], ranks: int) -> Array:
    """The owner of each tile of a family, row by row; -1 where there is no such rank."""
    rows, columns = shape
    table = np.fromiter((owner(i, j) for i in range(rows) for j in range(columns)), np.int64, rows * columns)
    table[(table < 0) | (table >= ranks)] = -1  # of no matter where the loops have no such tile
    return table
