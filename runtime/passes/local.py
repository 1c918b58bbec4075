"""One rank's part of a graph whose loops are known, made without unrolling them for the others.

The flat plan (`tilewright.passes.messages.MessagePlan`) looks at all tasks, which 10^7 of them take minutes and
gigabytes for, on every rank. A rank's part depends on few of them: on its own tasks, and for each version that comes to
it or leaves it on who else reads that, as those share a tree. `tilewright.passes.loops.Nest` finds the tasks that
access a tile in closed form, so this takes

1. the tasks that write where the rank owns;
2. the tiles that these access, and what else the rank owns;
3. all accesses to those tiles, in program order, of which `tilewright.passes.one_rank` makes the part.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

from tilewright.distribution import Distribution
from tilewright.graph import Access, Handle, TaskGraph, Use
from tilewright.host.garbage import uncollected
from tilewright.passes.loops import Member, Nest, Statement, listed
from tilewright.passes.one_rank import Array, OneRank

__all__ = ["LocalPlan"]

_CHUNK = 96  # tiles whose accesses are looked at together
_READS, _WRITES = 1, 2
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


class LocalPlan(OneRank):
    """The part of one rank, and what else an engine asks a `MessagePlan` about it.

    Parameters
    ----------
    nest
        The loops.
    ranks, rank
        How many there are, and which this is.
    owner
        Who owns which tile.
    start, collect
        As in `tilewright.passes.messages.MessagePlan`.

    Raises
    ------
    ValueError
        ``owner`` names a rank that is not there.

    Notes
    -----
    O(accesses to the tiles that the rank owns, reads or gets) time; memory for those of `_CHUNK` tiles at a time, and
    for the part.
    """

    def __init__(
        self,
        nest: Nest,
        ranks: int,
        rank: int,
        owner: Distribution,
        start: int | None = None,
        collect: Collection[int] = (),
    ) -> None:
        super().__init__(nest.name, nest.tasks, nest.rooms, nest.temporary, ranks, rank, start, collect)
        self.nest = nest
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

    def _families(self, tiles: Array) -> list[str]:
        return [self.names[family] for family in np.searchsorted(self._ends, tiles, side="right") - 1]

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
        collects = self.rank in self.collect
        self._own: list[_Own] = []
        nothing = []
        for statement in self.nest.statements:
            tiles, alone = owned, _of_nothing(statement)
            if alone and collects:  # what others make of nothing, too
                family = self.names.index(statement.placed.name)
                tiles = np.arange(self._ends[family], self._ends[family + 1])
            which, values = self._among(statement, statement.placed, tiles)
            own = self._of(statement, values, len(which))
            self._own.append(own)
            nothing += [own.numbers] * alone
            seen += map(np.unique, own.tiles)
        self._nothing = np.concatenate([np.zeros(0, np.int64), *nothing])
        if collects or self.rank == self.start:
            everything = self.rank == self.start
            families = [n for n, name in enumerate(self.names) if everything or name not in self.temporary]
            seen += [np.arange(self._ends[family], self._ends[family + 1]) for family in families]
        tiles = np.unique(np.concatenate(seen))
        self._survey(tiles[start : start + _CHUNK] for start in range(0, len(tiles), _CHUNK))
        if collects:
            self._own = [self._mine(own) if _of_nothing(own.statement) else own for own in self._own]

    def _mine(self, own: _Own) -> _Own:
        """Those of tasks of nothing that run here."""
        count = len(own.numbers)
        here = self._home(self._tile(own.statement.placed, own.values, count)) == self.rank
        here |= np.isin(own.numbers, self._again)
        values = {loop: value[here] for loop, value in own.values.items()}
        return _Own(own.statement, values, own.numbers[here], [own.tiles[0][here]], [own.lengths[0][here]])

    def _of_nothing(self, tasks: Array) -> Array:
        return np.isin(tasks, self._nothing)

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
        return self._once(which, task, use, kind & _READS > 0, kind & _WRITES > 0, place)

    # ------------------------------------------------------------ the part

    def _used(self) -> Iterable[Array]:
        return (tiles for own in self._own for tiles in own.tiles)

    def _calls(self) -> tuple[Array, list[tuple[Any, ...]]]:
        numbers = [own.numbers for own in self._own]
        return np.concatenate([np.zeros(0, np.int64), *numbers]), [
            call for own in self._own for call in self._of_own(own)
        ]

    def _levels(self, graph: TaskGraph, origin: list[int]) -> list[float] | None:
        by_formula = self.nest.levels
        if by_formula is None:
            return None
        return [by_formula(task) if number >= 0 else 0.0 for task, number in zip(graph.tasks, origin, strict=True)]

    def _of_own(self, own: _Own) -> Iterator[tuple[Any, ...]]:
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


def _of_nothing(statement: Statement) -> bool:
    """Whether its tasks only write one tile."""
    return [member.access for member in statement.members] == [Access.WRITE] and not statement.members[0].loops


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
