"""Loops in closed form: what a builder would insert, recorded by one turn of each of its loops.

A loop over tiles names the same few tasks again and again, with other indices. `record` runs a builder once with
indices that stand for all of their values, and has *statements*: an op, its accesses, and the loops around it. Where
bounds and indices are sums of loop indices and numbers, all else can be counted without unrolling the loop: how many
tasks there are, the number of a task in program order, and which tasks access a given tile.

A builder is recorded if its loops, and those in its groups, are over ``g.range(...)``, and it asks nothing of an index:
``g.least(a, b)`` stands for ``min``, ``g.value(f, k)`` for ``f(k)``. `NotALoop` says what is in the way; such a graph
is unrolled.
"""

from __future__ import annotations

import zlib
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from functools import cached_property
from itertools import product
from typing import Any, NamedTuple, NoReturn

import numpy as np

from tilewright.graph import Access, Handle, Op, Task, TaskGraph, Use
from tilewright.rooms import Room

__all__ = ["Index", "Loop", "Member", "Nest", "NotALoop", "Statement", "Value", "nest_of", "record", "recorded"]

MOST_STATEMENTS = 64  # more are no loop but its tasks
MOST_ROWS = 10**7  # turns of the loops around innermost ones, whose first tasks are kept

Array = np.ndarray

_TILES = 1024  # whose accesses are looked at together
_USES = 1 << 24  # more than a task has
_NEVER = 1 << 62


class NotALoop(Exception):  # noqa: N818 - no error of a caller
    """Why a builder is not recorded."""


class Index:
    """A number plus multiples of loop indices."""

    __slots__ = ("coefficients", "constant")
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, constant: int = 0, coefficients: dict[int, int] | None = None) -> None:
        self.constant = constant
        self.coefficients = {loop: c for loop, c in (coefficients or {}).items() if c}
        """By number of the loop."""

    @classmethod
    def of(cls, value: Any) -> Index:
        if isinstance(value, Index):
            return value
        if isinstance(value, bool) or not hasattr(value, "__index__"):
            raise NotALoop(f"{value!r} is no index")
        return cls(int(value))

    def __add__(self, other: Any) -> Index:
        other = Index.of(other)
        sums = {
            loop: self.coefficients.get(loop, 0) + other.coefficients.get(loop, 0)
            for loop in self.coefficients | other.coefficients
        }
        return Index(self.constant + other.constant, sums)

    def __neg__(self) -> Index:
        return self.times(-1)

    def times(self, factor: int) -> Index:
        return Index(factor * self.constant, {loop: factor * c for loop, c in self.coefficients.items()})

    def put(self, loop: int, instead: Index) -> Index:
        """With something else in the place of a loop's index."""
        c = self.coefficients.get(loop, 0)
        return self - Index(0, {loop: c}) + instead.times(c)

    def __sub__(self, other: Any) -> Index:
        return self + -Index.of(other)

    def __rsub__(self, other: Any) -> Index:
        return -self + other

    __radd__ = __add__

    def _asked(self, *_: Any) -> NoReturn:
        raise NotALoop("the builder asks for the value of an index")

    __floordiv__ = __rfloordiv__ = __mod__ = __rmod__ = _asked

    def __mul__(self, factor: Any) -> Index:
        return self.times(factor) if type(factor) is int else self._asked()

    __rmul__ = __mul__

    __bool__ = __index__ = __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = _asked

    def at(self, values: dict[int, Array], rows: int) -> Array:
        """The value at these of the loop indices."""
        total = np.full(rows, self.constant, np.int64)
        for loop, c in self.coefficients.items():
            total += c * values[loop]
        return total

    def value_at(self, at: dict[int, int]) -> int:
        """The same at one place."""
        return self.constant + sum(c * at[loop] for loop, c in self.coefficients.items())


class Value(NamedTuple):
    """What a function makes of indices, such as the op for a panel of so many tiles."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]

    def at(self, values: dict[int, Array], rows: int) -> list[Any]:
        """What it is at these of the loop indices; called once for equal arguments."""
        known: dict[tuple[Any, ...], Any] = {}
        found = []
        columns = [listed(argument, values, rows) for argument in self.arguments]
        for arguments in zip(*columns, strict=True) if columns else [()] * rows:
            if arguments not in known:
                known[arguments] = self.function(*arguments)
            found.append(known[arguments])
        return found


def listed(thing: Any, values: dict[int, Array], rows: int) -> list[Any]:
    """An `Index`, a `Value` or what is the same everywhere, at these of the loop indices."""
    if isinstance(thing, Index):
        return list(thing.at(values, rows).tolist())
    return thing.at(values, rows) if isinstance(thing, Value) else [thing] * rows


class Least(NamedTuple):
    """The least of some indices; a loop may stop there."""

    of: tuple[Index, ...]


class Member(NamedTuple):
    """An access of a statement; or those of a group, at all turns of loops of its own."""

    name: str
    index: tuple[Index, ...]  # type: ignore[assignment] # as in Handle
    access: Access
    loops: tuple[Loop, ...]
    """Loops of the group, the outermost first."""
    argument: int
    """Which one of the op it is, or belongs to."""

    def lengths(self, values: dict[int, Array], rows: int) -> Array:
        """How many accesses it stands for at these of the loop indices around the statement."""
        count = np.ones(rows, np.int64)
        for loop in self.loops:
            count *= loop.turns(values, rows)
        return count


class Statement(NamedTuple):
    """One `insert` of a builder."""

    op: Op | Value
    members: tuple[Member, ...]
    arguments: tuple[bool, ...]
    """By argument before the parameters, whether it is a group."""
    params: tuple[Any, ...]
    priority: float
    label: tuple[Any, ...] | None
    placed: Member
    """By whose owner it is placed: `on`, or what it writes first, or its first access."""
    loops: tuple[Loop, ...]
    """Around it, the outermost first."""
    position: int
    """Among the tasks and loops of the innermost one."""


class Loop:
    """One loop. Its numbers are made by `Nest`. With steps its index counts turns."""

    def __init__(self, number: int, start: Index, stops: tuple[Index, ...], step: int = 1) -> None:
        self.number, self.step = number, step
        self.start = start if step == 1 else Index(0)
        self.stops = stops if step == 1 else tuple(stop - start for stop in stops)
        self.index = Index(0, {number: 1})
        self.value = self.index if step == 1 else start + self.index.times(step)
        """What the builder sees."""
        self.body: list[Statement | Loop] = []
        self.low: Array
        """By turn of the loops around it: its first index."""
        self.first: Array
        """The same: the number of its first turn."""
        self.offset: Array
        """By turn: how many tasks it inserted before."""
        self.before: list[Array] = []
        """For each of ``body``, by turn: how many tasks the turn inserted before."""

    def turns(self, values: dict[int, Array], rows: int) -> Array:
        """How many there are at these of the indices around it."""
        stop = np.minimum.reduce([stop.at(values, rows) for stop in self.stops])
        return np.maximum(-(-(stop - self.start.at(values, rows)) // self.step), 0)

    def values_at(self, at: dict[int, int]) -> range:
        """Its indices at these of the loops around it."""
        start, stop = self.start.value_at(at), min(stop.value_at(at) for stop in self.stops)
        return range(start, start - (start - stop) // self.step)

    def limits(self) -> list[Index]:
        """What is not negative in each of its turns."""
        return [self.index - self.start, *(stop - 1 - self.index.times(self.step) for stop in self.stops)]

    @property
    def innermost(self) -> bool:
        return all(isinstance(node, Statement) for node in self.body)


class _Family:
    def __init__(self, name: str) -> None:
        self.name = name

    def __getitem__(self, index: Any) -> Handle:
        places = index if isinstance(index, tuple) else (index,)
        return Handle(self.name, tuple(map(Index.of, places)))  # type: ignore[arg-type]


class _Recorder:
    """What stands for the graph while a builder is recorded."""

    def __init__(self) -> None:
        self.outer = Loop(-1, Index(0), (Index(1),))
        self.stack = [self.outer]
        self.loops: list[Loop] = []
        self.statements: list[Statement] = []
        self.rooms: dict[str, Room] = {}
        self.temporary: set[str] = set()

    def handles(self, name: str, **room: Any) -> _Family:
        self._declare(name, room, indexed=True)
        return _Family(name)

    def handle(self, name: str, **room: Any) -> Handle:
        self._declare(name, room, indexed=False)
        return Handle(name)

    def _declare(self, name: str, room: dict[str, Any], *, indexed: bool) -> None:
        how = {"shape": None, "dtype": None, "keep": False, "device": None} | room
        found = Room.checked(name, **how, indexed=indexed)
        if found is not None:
            self.rooms[name] = found

    def range(self, *bounds: Any) -> Iterator[Index]:
        start, stop, step = (*bounds, 1) if len(bounds) == 2 else bounds if len(bounds) == 3 else (0, *bounds, 1)
        if type(step) is not int or step < 1:
            raise NotALoop(f"a loop has steps of {step!r}")
        stops = stop.of if isinstance(stop, Least) else (Index.of(stop),)
        loop = Loop(len(self.loops), Index.of(start), stops, step)
        self.loops.append(loop)
        around = self.stack[-1]
        around.body.append(loop)
        self.stack.append(loop)
        ended = False
        try:
            yield loop.value
            ended = True
        finally:
            if self.stack.pop() is not loop or not ended:
                self.statements.clear()
                self.stack.append(loop)  # so that nothing is recorded any more that could be taken for the loop
            elif not loop.body:  # of a group
                around.body.pop()

    def least(self, *of: Any) -> Any:
        return Least(tuple(map(Index.of, of)))

    def value(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return Value(function, arguments)

    def insert(self, op: Any, *args: Any, on: Any = None, priority: float = 0, label: Any = None) -> None:
        if not isinstance(op, Value) and (type(op) is not Op or op.function is not None or op.external or op.again):
            raise NotALoop(f"{op} is no op of the kernel table")
        count = next((n for n, arg in enumerate(args) if type(arg) is not Use and type(arg) is not list), len(args))
        arguments, params = args[:count], args[count:]
        if isinstance(priority, Index) or not all(
            isinstance(param, str | int | float | complex | bool | Index | Value | None) for param in params
        ):
            raise NotALoop(f"{op} has a parameter that may differ from task to task")
        if len(self.statements) == MOST_STATEMENTS:
            raise NotALoop(f"there are more than {MOST_STATEMENTS} statements")
        members = [
            self._member(use, number, group=type(argument) is list)
            for number, argument in enumerate(arguments)
            for use in (argument if type(argument) is list else [argument])
        ]
        if on is not None and not isinstance(on, Handle):
            raise NotALoop(f"a task of {op} is placed by the builder")
        if not members:
            raise NotALoop(f"a task of {op} has no access")
        placed = next((one for one in members if one.access is not Access.READ), members[0])
        if on is not None:
            placed = self._member(Use(on, Access.READ), -1)
        inner = self.stack[-1]
        statement = Statement(
            op,
            tuple(members),
            tuple(type(argument) is list for argument in arguments),
            params,
            priority,
            label,
            self._first(placed),
            tuple(self.stack[1:]),
            len(inner.body),
        )
        inner.body.append(statement)
        self.statements.append(statement)

    def _member(self, use: Any, argument: int, *, group: bool = False) -> Member:
        if type(use) is not Use:
            raise NotALoop(f"{use!r} in a group is no access")
        name, index = use.handle
        around = {loop.number for loop in self.stack[1:]}
        named = {number for place in index for number in getattr(place, "coefficients", ())}
        loops = tuple(self.loops[number] for number in sorted(named - around))
        mine = {loop.number for loop in loops}
        if loops and not (group and not any(loop.body for loop in loops)):
            raise NotALoop(f"{name} is named by the index of a loop that is over")
        if any(mine & bound.coefficients.keys() for loop in loops for bound in (loop.start, *loop.stops)):
            raise NotALoop("the loops of a group depend on each other")
        places = tuple(map(Index.of, index))
        _solution(places)
        return Member(name, places, use.access, loops, argument)

    def _first(self, member: Member) -> Member:
        """The first access of a group, which may not be empty."""
        if not member.loops:
            return member
        ends: dict[int, tuple[int, int]] = {}
        runs = True
        for loop in self.stack[1:]:
            ends[loop.number] = _ends(loop, ends)
            runs = runs and min(_span(stop, ends)[1] for stop in loop.stops) > ends[loop.number][0]
        index = member.index
        for loop in member.loops:
            if runs and min(_span(stop - 1 - loop.start, ends)[0] for stop in loop.stops) < 0:
                raise NotALoop(f"a group of {member.name} that says where a task runs may be empty")
            index = tuple(place.put(loop.number, loop.start) for place in index)
        _solution(index)
        return member._replace(index=index, loops=())

    def __getattr__(self, name: str) -> NoReturn:
        raise NotALoop(f"the builder uses {name} of the graph")


class Nest:
    """A recorded builder."""

    def __init__(
        self,
        name: str,
        outer: Loop,
        statements: list[Statement],
        levels: Callable[[Task], float] | None,
        rooms: dict[str, Room],
    ) -> None:
        self.name = name
        self.statements = statements
        self.rooms = rooms
        self.levels = levels
        """Bottom levels by formula."""
        self.temporary = {name for name, room in rooms.items() if not room.keep}
        self.recipe: tuple[Any, tuple[Any, ...]]
        """What was recorded: builder and arguments."""
        outer.low = outer.first = np.zeros(1, np.int64)
        outer.offset = np.zeros(1, np.int64)
        self.outer = outer
        self.tasks = int(self._count(outer, {}, 1)[0])
        """How many there are."""
        self.widest = self._widest()
        """By name of a family: one more than the largest of each index, or a larger number."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (*self.recipe, self.temporary)

    @cached_property
    def families(self) -> dict[str, bool]:
        """The names of all handles that tasks access, and whether some task writes one of them."""
        found: dict[str, bool] = {}
        for statement in self.statements:
            for member in statement.members:
                found[member.name] = found.get(member.name, False) or member.access is not Access.READ
        return found

    @cached_property
    def checksum(self) -> int:
        """A checksum of loops, ops, accesses and parameters: where it is equal, the tasks are."""
        said = [f"{self.tasks}"]
        for statement in self.statements:
            said += [_said((loop.number, loop.start, loop.stops, loop.step)) for loop in statement.loops]
            said += [_said((*member[:3], member.argument)) for member in (*statement.members, statement.placed)]
            for member in statement.members:
                said += [_said((loop.number, loop.start, loop.stops, loop.step)) for loop in member.loops]
            op = statement.op.name if isinstance(statement.op, Op) else statement.op
            said.append(_said((op, statement.arguments, statement.params, statement.priority, statement.position)))
        return zlib.crc32("\n".join(said).encode())

    def _count(self, loop: Loop, values: dict[int, Array], rows: int) -> Array:
        """How many tasks each turn of a loop inserts; notes how many it inserted before each member of its body."""
        total = np.zeros(rows, np.int64)
        for node in loop.body:
            loop.before.append(total.copy())
            if isinstance(node, Statement):
                total += 1
                continue
            node.low = node.start.at(values, rows)
            turns = node.turns(values, rows)
            if node.innermost:
                total += turns * len(node.body)
                continue
            node.first = np.cumsum(turns) - turns
            count = int(turns.sum())
            if count > MOST_ROWS:
                raise NotALoop(f"the loops have more than {MOST_ROWS} turns")
            around = np.repeat(np.arange(rows), turns)
            inner = {number: value[around] for number, value in values.items()}
            inner[node.number] = np.arange(count) - node.first[around] + node.low[around]
            each = self._count(node, inner, count)
            through = np.concatenate([[0], np.cumsum(each)])
            node.offset = through[:-1] - through[node.first][around]
            total += through[node.first + turns] - through[node.first]
        return total

    def _widest(self) -> dict[str, list[int]]:
        ends: dict[int, tuple[int, int]] = {}

        def look(loop: Loop) -> None:
            for node in loop.body:
                if isinstance(node, Loop):
                    ends[node.number] = _ends(node, ends)
                    look(node)

        look(self.outer)
        widest: dict[str, list[int]] = {}
        for statement in self.statements:
            for member in (*statement.members, statement.placed):
                for loop in member.loops:
                    ends[loop.number] = _ends(loop, ends)
                mine = widest.setdefault(member.name, [0] * len(member.index))
                if len(mine) != len(member.index):
                    raise NotALoop(f"handles of {member.name} have {len(mine)} and {len(member.index)} indices")
                stepping = [loop for loop in (*statement.loops, *member.loops) if loop.step > 1]
                for n, place in enumerate(member.index):
                    most = _span(place, ends)[1] + 1
                    for loop in stepping:  # its value stays below its stops, however large its start is
                        beside = place - loop.value
                        if loop.number in place.coefficients and loop.number not in beside.coefficients:
                            start = loop.value - loop.index.times(loop.step)
                            most = min(most, *(_span(stop + start + beside, ends)[1] for stop in loop.stops))
                    mine[n] = max(mine[n], most)
        return widest

    def within(self, name: str, extents: tuple[int, ...]) -> bool:
        """Whether all handles of a family have indices below these."""
        widest = tuple(self.widest[name])
        if len(widest) != len(extents):
            return False
        if all(most <= extent for most, extent in zip(widest, extents, strict=True)):
            return True
        tiles = np.indices(widest).reshape(len(widest), -1)  # the bounds of loops may be larger than what they reach
        outside = [*tiles[:, (tiles >= np.array(extents)[:, None]).any(axis=0)]]
        members = [(s, member) for s in self.statements for member in s.members if member.name == name]
        return not any(len(self.accessing(statement, member, outside)[0]) for statement, member in members)

    def handles(self, name: str) -> list[Handle]:
        """The handles of a family that tasks access, in order of first access. O(accesses to it)."""
        extents = self.widest[name]
        first = np.full(int(np.prod(extents)), _NEVER)
        for start in range(0, len(first), _TILES):
            some = np.arange(start, min(start + _TILES, len(first)))
            tiles = list(np.unravel_index(some, extents)) if extents else []
            for statement in self.statements:
                for member in statement.members:
                    if member.name == name:
                        which, values = self.accessing(statement, member, tiles)
                        number = self.numbers(statement, values, len(which))
                        place = self.places(statement, member, values, len(which))
                        np.minimum.at(first, some[which], number * _USES + place)
        order = np.argsort(first, kind="stable")[: np.count_nonzero(first < _NEVER)]
        places = (
            zip(*(column.tolist() for column in np.unravel_index(order, extents)), strict=True) if extents else [()]
        )
        return [Handle(name, place) for place, _ in zip(places, order, strict=True)]

    def numbers(self, statement: Statement, values: dict[int, Array], rows: int) -> Array:
        """The tasks of a statement by their number in program order."""
        number, row = np.zeros(rows, np.int64), np.zeros(rows, np.int64)
        around = self.outer
        for loop in statement.loops:
            place = next(n for n, node in enumerate(around.body) if node is loop)
            number += around.before[place][row]
            turn = values[loop.number] - loop.low[row]
            around = loop
            if loop.innermost:
                return number + turn * len(loop.body) + statement.position
            row = loop.first[row] + turn
            number += loop.offset[row]
        return number + around.before[statement.position][row]

    def task(self, number: int) -> Task:
        """The task of that number, as in the unrolled graph. O(accesses to what it uses)."""
        statement, at = self._found(number)
        uses: list[Use] = []
        sizes = [0 if group else -1 for group in statement.arguments]
        for member in statement.members:
            for turn in product(*(loop.values_at(at) for loop in member.loops)):
                inner = at | dict(zip((loop.number for loop in member.loops), turn, strict=True))
                uses.append(Use(_handle_at(member, inner), member.access))
                if statement.arguments[member.argument]:
                    sizes[member.argument] += 1
        values = {loop: np.array([value]) for loop, value in at.items()}
        params, label = (
            None if things is None else tuple(listed(thing, values, 1)[0] for thing in things)
            for things in (statement.params, statement.label)
        )
        return Task(
            number,
            listed(statement.op, values, 1)[0],
            tuple(uses),
            params or (),
            tuple(sorted(self._before(number, uses))),
            _handle_at(statement.placed, at) if statement.placed.argument < 0 else None,
            statement.priority,
            tuple(sizes) if any(statement.arguments) else (),
            label,
        )

    def _found(self, number: int) -> tuple[Statement, dict[int, int]]:
        """The statement of a task, and the indices of the loops around it: `numbers` the other way round."""
        around, row, left = self.outer, 0, number
        at: dict[int, int] = {}
        while True:
            before = [int(count[row]) for count in around.before]
            place = bisect_right(before, left) - 1  # of those that begin there the last one has tasks
            node = around.body[place]
            left -= before[place]
            if isinstance(node, Statement):
                return node, at
            if node.innermost:
                turn, position = divmod(left, len(node.body))
                at[node.number] = int(node.low[row]) + turn
                found = node.body[position]
                assert isinstance(found, Statement)
                return found, at
            first = int(node.first[row])
            turn = int(np.searchsorted(node.offset[first : first + len(node.values_at(at))], left, side="right")) - 1
            at[node.number] = int(node.low[row]) + turn
            around, row = node, first + turn
            left -= int(node.offset[row])

    def _before(self, number: int, uses: list[Use]) -> set[int]:
        """The tasks that one with these uses waits for: the rules of `tilewright.graph`."""
        edges: set[int] = set()
        for handle in dict.fromkeys(use.handle for use in uses):
            found: list[tuple[int, int, bool]] = []
            for statement in self.statements:
                for member in statement.members:
                    if member.name == handle.name:
                        tile = [np.array([place]) for place in handle.index]
                        which, values = self.accessing(statement, member, tile)
                        numbers = self.numbers(statement, values, len(which))
                        some = numbers <= number
                        places = self.places(statement, member, values, len(which))[some]
                        reads = member.access is Access.READ
                        found += [(*row, reads) for row in zip(numbers[some].tolist(), places.tolist(), strict=True)]
            writer, readers = -1, list[int]()
            for task, _, reads in sorted(found):
                if task == number:
                    edges.update([writer] if reads or not readers else readers)
                writer, readers = (writer, [*readers, task]) if reads else (task, [])
        return edges - {-1, number}

    def places(self, statement: Statement, member: Member, values: dict[int, Array], rows: int) -> Array:
        """Where accesses stand among all of their tasks."""
        place = np.zeros(rows, np.int64)
        for loop in member.loops:
            place = place * loop.turns(values, rows) + values[loop.number] - loop.start.at(values, rows)
        for other in statement.members:
            if other is member:
                break
            place += other.lengths(values, rows)
        return place

    def accessing(self, statement: Statement, member: Member, tiles: Sequence[Array]) -> tuple[Array, dict[int, Array]]:
        """The accesses of a statement's tasks to some of these tiles that are those of this member.

        ``tiles`` has an array for each index of a handle. Returns for each access found the number of its tile among
        them, and the loop indices, those of the group too, by number of the loop.
        """
        count = len(tiles[0]) if tiles else 1
        which = np.arange(count)
        values: dict[int, Array] = {}
        fits = np.ones(count, bool)
        others: dict[int, tuple[Index, Array]] = {}  # loops whose index is one of free ones, and a number for each tile
        for equation, number in _solution(member.index):
            index = member.index[equation]
            rest = tiles[equation] - index.constant
            unknown: dict[int, int] = {}
            for loop, c in index.coefficients.items():
                if loop in values:
                    rest = rest - c * values[loop]
                elif loop != number:
                    unknown[loop] = c
            if number is None:
                fits &= rest == 0
                continue
            c = index.coefficients[number]
            if unknown:
                others[number] = Index(0, unknown).times(-c), rest * c
            else:
                values[number] = rest // c
                fits &= values[number] * c == rest
        loops = (*statement.loops, *member.loops)
        limits: list[tuple[Index, Any]] = []  # all are to be >= 0
        for limit in (limit for loop in loops for limit in loop.limits()):
            beside: Any = 0
            for number, (index, known) in others.items():
                beside = beside + limit.coefficients.get(number, 0) * known
                limit = limit.put(number, index)
            limits.append((limit, beside))

        def at(limit: Index, beside: Any) -> Array:
            return limit.at(values, len(which)) + (beside[which] if isinstance(beside, np.ndarray) else beside)

        free = [loop.number for loop in loops if loop.number not in values and loop.number not in others]
        for limit, beside in limits:
            if not any(number in limit.coefficients for number in free):
                fits &= at(limit, beside) >= 0
        which, values = _kept(which, values, fits)
        while free:
            number, low, high = _bounded(free, limits, at)
            free.remove(number)
            turns = np.maximum(high - low + 1, 0)
            again = np.repeat(np.arange(len(which)), turns)
            values = {other: value[again] for other, value in values.items()}
            values[number] = np.arange(len(again)) - (np.cumsum(turns) - turns)[again] + low[again]
            which = which[again]
        for number, (index, known) in others.items():
            values[number] = index.at(values, len(which)) + known[which]
        return which, values


def _handle_at(member: Member, at: dict[int, int]) -> Handle:
    return Handle(member.name, tuple(place.value_at(at) for place in member.index))


def _said(thing: Any) -> str:
    """Loop, op or parameter as text that is the same in every process."""
    if isinstance(thing, Index):
        return " + ".join([str(thing.constant), *(f"{c} i{loop}" for loop, c in sorted(thing.coefficients.items()))])
    if isinstance(thing, Value):
        function = thing.function
        name = getattr(function, "__qualname__", type(function).__qualname__)
        return f"{function.__module__}.{name}{_said(thing.arguments)}"
    if isinstance(thing, tuple):
        return f"({', '.join(map(_said, thing))})"
    return thing.name if isinstance(thing, Op) else str(thing)


def _bounded(
    free: list[int], limits: Sequence[tuple[Index, Any]], at: Callable[[Index, Any], Array]
) -> tuple[int, Array, Array]:
    """The first of the loops that are left whose index is bounded from both sides without the others, and its bounds.

    Of domains in steps, rows inside are bounded by the size of a domain, and with them which domain it is.
    """
    for number in free:
        low: Any = None
        high: Any = None
        for limit, beside in limits:
            c = limit.coefficients.get(number, 0)
            if not c or any(other in limit.coefficients for other in free if other != number):
                continue
            rest = at(limit.put(number, Index(0)), beside)
            if c > 0:  # c v + rest >= 0
                bound = -(rest // c)
                low = bound if low is None else np.maximum(low, bound)
            else:
                bound = rest // -c
                high = bound if high is None else np.minimum(high, bound)
        if low is not None and high is not None:
            return number, low, high
    raise NotALoop("a loop is bounded by others only")


def _solution(index: tuple[Index, ...]) -> list[tuple[int, int | None]]:
    """By which of the equations ``index = tile`` each loop index is found, in order; None where one is a check.

    An equation with several unknown ones gives one of factor 1 or -1 as a sum of the others.
    """
    found: list[tuple[int, int | None]] = []
    known: set[int] = set()
    left = list(range(len(index)))
    while left:
        equation = min(left, key=lambda n: len(index[n].coefficients.keys() - known))
        left.remove(equation)
        unknown = {loop: c for loop, c in index[equation].coefficients.items() if loop not in known}
        number = next((loop for loop, c in unknown.items() if c in (1, -1) or len(unknown) == 1), None)
        if unknown and number is None:
            raise NotALoop("an index is a sum of multiples of loop indices")
        if len(unknown) > 1 and any(unknown.keys() & index[other].coefficients.keys() for other in left):
            raise NotALoop("two indices are sums of the same loop indices")
        found.append((equation, number))
        if number is not None:
            known.add(number)
    return found


def _span(index: Index, ends: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """The least and the most it may be, from those of loop indices."""
    corners = [(c * ends[loop][0], c * ends[loop][1]) for loop, c in index.coefficients.items()]
    return index.constant + sum(map(min, corners)), index.constant + sum(map(max, corners))


def _ends(loop: Loop, ends: dict[int, tuple[int, int]]) -> tuple[int, int]:
    low, _ = _span(loop.start, ends)
    high = min(_span(stop, ends)[1] for stop in loop.stops)
    return low, max((high - 1) // loop.step, low)


def _kept(which: Array, values: dict[int, Array], fits: Array) -> tuple[Array, dict[int, Array]]:
    if fits.all():
        return which, values
    return which[fits], {number: value[fits] for number, value in values.items()}


def record(builder: Any, arguments: tuple[Any, ...]) -> Nest:
    """The loops of a `graph_builder` at these arguments. `NotALoop` if they cannot be recorded."""
    function = getattr(builder, "loop", None)
    if function is None:
        raise NotALoop(f"{builder!r} is no graph_builder")
    recorder = _Recorder()
    if function(recorder, *arguments) is not None or len(recorder.stack) > 1:
        raise NotALoop("the builder returns another graph, or leaves a loop early")
    nest = Nest(
        builder.title(*arguments), recorder.outer, recorder.statements, builder.formula(arguments), recorder.rooms
    )
    for statement in nest.statements:
        for member in statement.members:
            nest.accessing(statement, member, [np.zeros(0, np.int64)] * len(member.index))  # NotALoop, not later
    nest.temporary |= recorder.temporary
    nest.recipe = builder, arguments
    return nest


def recorded(builder: Any, arguments: tuple[Any, ...]) -> Nest | None:
    """`record`; None if they cannot be."""
    try:
        return record(builder, arguments)
    except NotALoop:
        return None


def _again(builder: Any, arguments: tuple[Any, ...], temporary: set[str]) -> Nest:
    nest = record(builder, arguments)
    nest.temporary = temporary
    return nest


def nest_of(graph: TaskGraph) -> Nest | None:
    """The loops of a graph's builder; None where it has none that can be recorded."""
    if graph.recipe is None:
        return None
    nest: Nest | None = graph.loops or recorded(*graph.recipe)
    if nest is None or nest.rooms.keys() != graph.rooms.keys():
        return None
    if nest.temporary != graph.temporary:
        nest = copy(nest) if nest is graph.loops else nest
        nest.temporary = set(graph.temporary)
    return nest
