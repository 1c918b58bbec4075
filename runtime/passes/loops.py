"""Loops in closed form: what a builder would insert, recorded by one turn of each of its loops.

A loop over tiles names the same few tasks again and again, with other indices. `record` runs a builder once with
indices that stand for all of their values, and has *statements*: an op, its accesses, and the loops around it. Where
bounds and indices are sums of loop indices and numbers, all else can be counted without unrolling the loop: how many
tasks there are, the number of a task in program order, and which tasks access a given tile.

A builder is recorded if its loops are over ``g.range(...)``, its accesses are to families without rooms, and it asks
nothing of an index. `NotALoop` says what is in the way; such a graph is unrolled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, NoReturn

import numpy as np

from tilewright.graph import Access, Handle, Op, Task, TaskGraph, Use

__all__ = ["Loop", "Nest", "NotALoop", "Statement", "nest_of", "record"]

MOST_STATEMENTS = 64  # more are no loop but its tasks
MOST_ROWS = 10**7  # turns of the loops around innermost ones, whose first tasks are kept

Array = np.ndarray


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
        return Index(-self.constant, {loop: -c for loop, c in self.coefficients.items()})

    def __sub__(self, other: Any) -> Index:
        return self + -Index.of(other)

    def __rsub__(self, other: Any) -> Index:
        return -self + other

    __radd__ = __add__

    def _asked(self, *_: Any) -> NoReturn:
        raise NotALoop("the builder asks for the value of an index")

    __bool__ = __index__ = __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = _asked

    def at(self, values: dict[int, Array], rows: int) -> Array:
        """The value at these of the loop indices."""
        total = np.full(rows, self.constant, np.int64)
        for loop, c in self.coefficients.items():
            total += c * values[loop]
        return total


class Statement(NamedTuple):
    """One `insert` of a builder."""

    op: Op
    uses: tuple[tuple[str, tuple[Index, ...], Access], ...]
    params: tuple[Any, ...]
    priority: float
    loops: tuple[Loop, ...]
    """Around it, the outermost first."""
    position: int
    """Among the tasks and loops of the innermost one."""

    @property
    def placed_by(self) -> int:
        """Number of the use by which it is placed: the first that it writes, or the first."""
        return next((n for n, (_, _, access) in enumerate(self.uses) if access is not Access.READ), 0)


class Loop:
    """One loop. Its numbers are made by `Nest`."""

    def __init__(self, number: int, start: Index, stop: Index) -> None:
        self.number, self.start, self.stop = number, start, stop
        self.body: list[Statement | Loop] = []
        self.low: Array
        """By turn of the loops around it: its first index."""
        self.first: Array
        """The same: the number of its first turn."""
        self.offset: Array
        """By turn: how many tasks it inserted before."""
        self.before: list[Array] = []
        """For each of ``body``, by turn: how many tasks the turn inserted before."""

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
        self.outer = Loop(-1, Index(0), Index(1))
        self.stack = [self.outer]
        self.loops: list[Loop] = []
        self.statements: list[Statement] = []

    def handles(self, name: str, **room: Any) -> _Family:
        if room:
            raise NotALoop(f"{name} is a room")
        return _Family(name)

    def handle(self, name: str, **room: Any) -> Handle:
        if room:
            raise NotALoop(f"{name} is a room")
        return Handle(name)

    def range(self, *bounds: Any) -> Iterator[Index]:
        if not 1 <= len(bounds) <= 2:
            raise NotALoop("a loop has steps")
        start, stop = map(Index.of, bounds if len(bounds) == 2 else (0, *bounds))
        loop = Loop(len(self.loops), start, stop)
        self.loops.append(loop)
        self.stack[-1].body.append(loop)
        self.stack.append(loop)
        ended = False
        try:
            yield Index(0, {loop.number: 1})
            ended = True
        finally:
            if self.stack.pop() is not loop or not ended:
                self.statements.clear()
                self.stack.append(loop)  # so that nothing is recorded any more that could be taken for the loop

    def insert(self, op: Any, *args: Any, on: Any = None, priority: float = 0, label: Any = None) -> None:
        count = next((n for n, arg in enumerate(args) if type(arg) is not Use), len(args))
        uses, params = args[:count], args[count:]
        if type(op) is not Op or op.function is not None or op.external or op.again:
            raise NotALoop(f"{op} is no op of the kernel table")
        if on is not None or label is not None or not uses:
            raise NotALoop(f"a task of {op.name} is placed or labelled by the builder, or has no access")
        if not all(isinstance(param, str | int | float | complex | bool | None) for param in params):
            raise NotALoop(f"{op.name} has a parameter that may differ from task to task")
        if len(self.statements) == MOST_STATEMENTS:
            raise NotALoop(f"there are more than {MOST_STATEMENTS} statements")
        accesses = tuple((use.handle.name, use.handle.index, use.access) for use in uses)
        inner = self.stack[-1]
        statement = Statement(op, accesses, params, priority, tuple(self.stack[1:]), len(inner.body))
        inner.body.append(statement)
        self.statements.append(statement)

    def __getattr__(self, name: str) -> NoReturn:
        raise NotALoop(f"the builder uses {name} of the graph")


class Nest:
    """A recorded builder."""

    def __init__(
        self, name: str, outer: Loop, statements: list[Statement], levels: Callable[[Task], float] | None
    ) -> None:
        self.name = name
        self.statements = statements
        self.levels = levels
        """Bottom levels by formula."""
        self.temporary: set[str] = set()
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

    def _count(self, loop: Loop, values: dict[int, Array], rows: int) -> Array:
        """How many tasks each turn of a loop inserts; notes how many it inserted before each member of its body."""
        total = np.zeros(rows, np.int64)
        for node in loop.body:
            loop.before.append(total.copy())
            if isinstance(node, Statement):
                total += 1
                continue
            node.low = node.start.at(values, rows)
            turns = np.maximum(node.stop.at(values, rows) - node.low, 0)
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

        def span(index: Index) -> tuple[int, int]:
            corners = [(c * ends[loop][0], c * ends[loop][1]) for loop, c in index.coefficients.items()]
            return index.constant + sum(map(min, corners)), index.constant + sum(map(max, corners))

        def look(loop: Loop) -> None:
            for node in loop.body:
                if isinstance(node, Loop):
                    ends[node.number] = span(node.start)[0], max(span(node.stop)[1] - 1, span(node.start)[0])
                    look(node)

        look(self.outer)
        widest: dict[str, list[int]] = {}
        for statement in self.statements:
            for name, index, _ in statement.uses:
                mine = widest.setdefault(name, [0] * len(index))
                if len(mine) != len(index):
                    raise NotALoop(f"handles of {name} have {len(mine)} and {len(index)} indices")
                for n, place in enumerate(index):
                    mine[n] = max(mine[n], span(place)[1] + 1)
        return widest

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

    def accessing(self, statement: Statement, use: int, tiles: Sequence[Array]) -> tuple[Array, dict[int, Array]]:
        """The tasks of a statement whose access number ``use`` is to one of these tiles.

        ``tiles`` has an array for each index of a handle. Returns for each task found the number of its tile among
        them, and its loop indices by number of the loop.
        """
        which = np.arange(len(tiles[0]) if tiles else 1)
        values: dict[int, Array] = {}
        fits = np.ones(len(which), bool)
        for index, tile in zip(statement.uses[use][1], tiles, strict=True):
            if not index.coefficients:
                fits &= tile == index.constant
                continue
            if len(index.coefficients) > 1:
                raise NotALoop("a handle's index is a sum of loop indices")
            [(number, c)] = index.coefficients.items()
            if c not in (1, -1):
                raise NotALoop("a handle's index is a multiple of a loop index")
            value = (tile - index.constant) * c
            if number in values:
                fits &= values[number] == value
            else:
                values[number] = value
        limits = [limit for loop in statement.loops for limit in _limits(loop)]  # all are to be >= 0
        free = [loop.number for loop in statement.loops if loop.number not in values]
        for limit in limits:
            if not any(number in limit.coefficients for number in free):
                fits &= limit.at(values, len(which)) >= 0
        which, values = _kept(which, values, fits)
        while free:
            number = free.pop(0)
            bounded = [
                limit
                for limit in limits
                if number in limit.coefficients and not any(other in limit.coefficients for other in free)
            ]
            low: Any = None
            high: Any = None
            for limit in bounded:
                c = limit.coefficients[number]
                rest = (limit - Index(0, {number: c})).at(values, len(which))
                if c > 0:  # c v + rest >= 0
                    bound = -(rest // c)
                    low = bound if low is None else np.maximum(low, bound)
                else:
                    bound = rest // -c
                    high = bound if high is None else np.minimum(high, bound)
            turns = np.maximum(high - low + 1, 0)
            again = np.repeat(np.arange(len(which)), turns)
            values = {other: value[again] for other, value in values.items()}
            values[number] = np.arange(len(again)) - (np.cumsum(turns) - turns)[again] + low[again]
            which = which[again]
        return which, values


def _limits(loop: Loop) -> tuple[Index, Index]:
    index = Index(0, {loop.number: 1})
    return index - loop.start, loop.stop - index - 1


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
    nest = Nest(builder.title(*arguments), recorder.outer, recorder.statements, builder.formula(arguments))
    nest.recipe = builder, arguments
    return nest


def _again(builder: Any, arguments: tuple[Any, ...], temporary: set[str]) -> Nest:
    nest = record(builder, arguments)
    nest.temporary = temporary
    return nest


def nest_of(graph: TaskGraph) -> Nest | None:
    """The loops of a graph's builder; None where it has none that can be recorded."""
    if graph.recipe is None or graph.rooms:
        return None
    try:
        nest = record(*graph.recipe)
    except NotALoop:
        return None
    nest.temporary = set(graph.temporary)
    return nest
