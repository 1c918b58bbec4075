"""Tasks in program order, with the edges that order implies."""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Iterator, Sequence
from pathlib import Path
from types import MethodType
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from tilewright.door import upstairs
from tilewright.graph import paths
from tilewright.graph.access import Access, Use
from tilewright.graph.fact import Fact
from tilewright.graph.groups import MISPLACED, check_parameter, grouped
from tilewright.graph.handle import Handle, Handles
from tilewright.graph.layout import Layout
from tilewright.graph.op import Op
from tilewright.graph.packed import Packed, calls, packed
from tilewright.graph.paths import CriticalPath
from tilewright.graph.snapshot import PLAIN, snapshot
from tilewright.graph.task import Cost, Task
from tilewright.host.files import write_text
from tilewright.rooms import Room
from tilewright.scalars import plain, text

if TYPE_CHECKING:
    import networkx

__all__ = ["TaskGraph"]

T = TypeVar("T")

_READ, _WRITE, _RW = Access.READ, Access.WRITE, Access.RW


class TaskGraph:
    """Tasks in program order, with inferred edges. Runs any number of times; frozen by its first run.

    Parameters
    ----------
    name
        In pictures, pages and messages.

    Examples
    --------
    >>> from tilewright import TaskGraph, R, RW
    >>> def axpy(x, y, alpha):
    ...     y += alpha * x
    >>> g = TaskGraph()
    >>> x, y = g.handle("x"), g.handle("y")
    >>> g.insert(axpy, R(x), RW(y), 3.0)
    axpy(y)
    >>> g.insert(axpy, R(y), RW(x), 1.0)
    axpy(x)
    >>> g.predecessors(g.tasks[1])
    [axpy(y)]
    """

    closed_form: Fact[Cost | None] = Fact(None)
    """Bottom levels by formula, in units of `Op.weight`, where the algorithm's author knows one."""
    recipe: Fact[tuple[Callable[..., TaskGraph], tuple[Any, ...]] | None] = Fact(None)
    """(function, arguments) of a call that builds this graph, by which it travels to other processes."""
    _evaluated: Fact[tuple[Cost, list[float]] | None] = Fact(None)  # a closed form, and what it says of each task
    orders: Fact[dict[Hashable, Any]] = Fact({})
    """What policies found that is true of the tasks alone, by policy."""
    extents: Fact[dict[str, tuple[int, int]]] = Fact({})
    """Tile rows and columns of the matrices that the algorithm works on, where its author knows."""
    loops: Fact[Any] = Fact(None)
    """The loops that insert the tasks, a `tilewright.passes.loops.Nest`, where the builder recorded them."""

    def __init__(self, name: str = "graph") -> None:
        self.name = text(name, "name of a graph")
        self.tasks: list[Task] = []
        self.inputs: dict[Handle, None] = {}
        """Handles whose first access reads them: a run needs data for each (an ordered set)."""
        self.frozen = False
        self.temporary: set[str] = set()
        """Names of handles whose values nobody wants after the run; engines do not bring them back. Those of `rooms`
        are among them unless they are kept."""
        self.rooms: dict[str, Room] = {}
        """By name of a family of handles: the memory that engines find for it."""
        self.layout: Layout | None = None
        """Ranks, owners and shapes that go with the algorithm; engines use them where a call names no owner."""
        self._state: dict[Handle, list[Any]] = {}  # handle -> [last writer or -1, readers since]
        self._ops: dict[Hashable, Op] = {}  # by identity: callables may be equal and not the same, or not hashable
        self._successors: list[list[int]] = []

    # ---------------------------------------------------------------- building

    def handle(
        self, name: str, *, shape: Any = None, dtype: Any = None, keep: bool = False, device: Any = None
    ) -> Handle:
        """A handle for one piece of data, with ``shape`` and ``dtype`` one that needs none: see `handles`."""
        self._declare(Room.checked(_named(name), shape, dtype, keep, device, indexed=False))
        return Handle(name)

    def handles(
        self, name: str, *, shape: Any = None, dtype: Any = None, keep: bool = False, device: Any = None, like: str = ""
    ) -> Handles:
        """An indexed family of handles, such as the tiles of a matrix.

        Parameters
        ----------
        name
            Data of a run goes by it.
        shape, dtype
            Those of each handle's room, or functions of the index that give them. A run then needs no data: it makes
            zeros where a task first writes the handle (`W`), and gives them back after the last task that uses it. A
            dtype of torch makes tensors.
        keep
            The room is a result, which ``run[name]`` has: an array, or where handles have indices a dict by handle.
        device
            Where tensors are.
        like
            Name of another family: the room of a handle is as large as the data of the handle there with the same
            index, with the extents of ``shape`` before, if any.

        Raises
        ------
        TypeError
            The name is no string; one of shape and dtype is missing, or is none.
        ValueError
            The graph has another room of this name.
        """
        self._declare(Room.checked(_named(name), shape, dtype, keep, device, True, text(like, f"like of {name}")))
        return Handles(name)

    def _declare(self, room: Room | None) -> None:
        if room is None:
            return
        if self.rooms.setdefault(room.name, room) != room:
            raise ValueError(
                f"graph {self.name!r} has another room {room.name}, of shape "
                f"{self.rooms[room.name].shape} and dtype {self.rooms[room.name].dtype}"
            )
        if not room.keep:
            self.temporary.add(room.name)

    def empty_like(self, name: str | None = None) -> TaskGraph:
        """A graph without tasks, of the same name, rooms and temporary handles: what a pass fills."""
        graph = TaskGraph(self.name if name is None else name)
        graph.temporary, graph.rooms = set(self.temporary), dict(self.rooms)
        return graph

    def range(self, *bounds: int) -> range:
        """Python's ``range``. A builder whose loops are over it can be counted and planned in part, without unrolling
        them: see `tilewright.passes.loops`."""
        return range(*bounds)

    def least(self, *of: int) -> int:
        """Python's ``min``, for where a `range` stops."""
        return min(of)

    def value(self, function: Callable[..., T], *arguments: Any) -> T:
        """``function(*arguments)``, for ops and parameters that depend on indices of `range`."""
        return function(*arguments)

    def insert(
        self,
        op: Op | Callable[..., Any],
        *args: Any,
        on: Hashable = None,
        priority: float = 0,
        label: tuple[object, ...] | None = None,
    ) -> Task:
        """Append a task that calls ``op`` on ``args``: first the accesses `R`, `W`, `RW`, then plain parameters.

        A list of accesses is a *group*, one argument: the function gets a list of buffers. Groups may have no members.
        Parameters that are arrays, tensors, sparse or tiled matrices, lists, dicts, sets, or such in one another, are
        copied, so that who changes his own later changes no graph. Other objects are kept as they are, and so is an
        empty list or dict, which a function of this process may fill.

        ``on`` says where it runs, ``priority`` which of two tasks that are ready is sooner, and ``label`` what stands
        between the parentheses of its label instead of `Op.indices`.

        Costs O(accesses + edges). Tasks take about 4 us and 600 bytes each.

        Raises
        ------
        TypeError
            ``op`` is neither an `Op` nor callable, or is a coroutine or generator function; an access follows a
            parameter, or a bare handle is passed; a list has accesses and other things.
        RuntimeError
            The graph has already run.
        """
        if self.frozen:
            raise RuntimeError(f"graph {self.name!r} has run and is frozen; build another for more tasks")
        if type(op) is not Op:
            op = self._function_op(op)
        if on is not None and type(on) is not int and type(on) is not Handle:
            on = plain(on)
        count = len(args)
        for position, arg in enumerate(args):
            if type(arg) is not Use:
                count = position
                break
        uses, params = args[:count], args[count:]
        groups: tuple[int, ...] = ()
        if params and type(params[0]) is list:
            uses, params, groups = grouped(op, args)
        for place, param in enumerate(params):
            if type(param) in PLAIN:
                continue
            if type(param) in MISPLACED:
                check_parameter(op, param)
            own = snapshot(param)
            if own is not param:
                params = (*params[:place], own, *params[place + 1 :])
        return self.append_call(op, uses, params, on, priority, groups, label)

    def append_call(
        self,
        op: Op,
        uses: tuple[Use, ...],
        params: tuple[Any, ...],
        on: Hashable,
        priority: float,
        groups: tuple[int, ...],
        label: tuple[object, ...] | None,
    ) -> Task:
        """`insert` of what is sorted and checked: for passes, which have the fields of a `Task`."""
        index = len(self.tasks)
        table = self._state
        edges: set[int] = set()
        fresh: list[Handle] = []
        for handle, access in uses:
            state = table.get(handle)
            if state is None:
                if access is _WRITE:
                    fresh.append(handle)
                else:
                    self.inputs[handle] = None
                table[handle] = [-1, [index]] if access is _READ else [index, []]
                continue
            writer, readers = state
            if access is _READ:
                if writer >= 0:
                    edges.add(writer)  # rule 1
                readers.append(index)
            else:
                if readers:
                    edges.update(readers)  # rule 2
                elif writer >= 0:
                    edges.add(writer)  # rules 1 and 3
                state[0] = index
                state[1] = []
        if index in edges:  # a handle given twice to one task
            edges.discard(index)
            uses = self._together(uses, fresh)
        task = Task(index, op, uses, params, tuple(sorted(edges)), on, priority, groups, label)
        self.tasks.append(task)
        return task

    def _together(self, uses: tuple[Use, ...], fresh: list[Handle]) -> tuple[Use, ...]:
        """The uses of a task that has a handle more than once: who also reads what it writes needs the value before.

        ``fresh`` are the handles that nobody used before this task writes them.
        """
        read = {handle for handle, access in uses if access is not _WRITE}
        self.inputs.update(dict.fromkeys(handle for handle in fresh if handle in read))
        return tuple([Use(h, _RW if access is _WRITE and h in read else access) for h, access in uses])

    def insert_again(
        self, task: Task, op: Op | None = None, uses: Sequence[Use] | None = None, on: Hashable = None
    ) -> Task:
        """Append a task of another graph, or one like it with another op, place or uses, one for each it had."""
        uses = task.uses if uses is None else tuple(uses)
        on = task.on if on is None else on
        if self.frozen or len(uses) != len(task.uses):
            args = task.arguments(uses)
            return self.insert(op or task.op, *args, *task.params, on=on, priority=task.priority, label=task.place)
        return self.append_call(op or task.op, uses, task.params, on, task.priority, task.groups, task.place)

    def __reduce__(self) -> tuple[Any, ...]:
        """To another process a graph goes as its recipe, where it has one, or with all its tasks."""
        if self.recipe is not None:
            return self.recipe
        return _rebuilt, self.contents()

    def contents(self) -> tuple[str, Packed, list[float] | None, set[str], dict[str, Room]]:
        """The graph in few objects: name, calls, levels if there is a closed form, temporary handles, rooms."""
        levels = self.bottom_levels() if self.closed_form is not None else None
        named: dict[str, list[Handle]] = {name: [] for name in self.rooms}
        for handle in self._state if named else ():
            if handle.name in named:
                named[handle.name].append(handle)
        rooms = {name: room.settled(named[name]) for name, room in self.rooms.items()}
        return self.name, packed(self.tasks, self._state), levels, set(self.temporary), rooms

    def __copy__(self) -> TaskGraph:
        """A graph of the same tasks, with the same layout, that can grow by itself."""
        build, arguments = self.__reduce__()
        return self._with_own(build(*arguments))

    def __deepcopy__(self, memo: dict[int, Any]) -> TaskGraph:
        build, arguments = self.__reduce__()
        return self._with_own(build(*copy.deepcopy(arguments, memo)))

    def _with_own(self, graph: TaskGraph) -> TaskGraph:
        graph.layout, graph.rooms = self.layout, dict(self.rooms)
        return graph

    def _function_op(self, function: Any) -> Op:
        """The op of a function, one for each: a bound method is another object each time that it is looked up."""
        if not callable(function):
            raise TypeError(f"insert needs an Op or a function first, not {function!r}")
        key: Hashable = id(function)
        if isinstance(function, MethodType):
            key = id(function.__self__), id(function.__func__)
        op = self._ops.get(key)
        if op is None:
            op = Op(str(getattr(function, "__name__", type(function).__name__)), function)
            self._ops[key] = op  # which holds the function, so that its number stays its own
        return op

    # ---------------------------------------------------------------- looking

    def __len__(self) -> int:
        return len(self.tasks)

    def __iter__(self) -> Iterator[Task]:
        return iter(self.tasks)

    def __repr__(self) -> str:
        return f"TaskGraph({self.name!r}, {len(self)} tasks)"

    @property
    def unrolled(self) -> bool:
        """Whether all tasks are there as objects; those of many from loops are made when somebody asks for them."""
        return True

    @property
    def written(self) -> Iterator[Handle]:
        """Handles that some task writes, in order of first access."""
        return (handle for handle, (writer, _) in self._state.items() if writer >= 0)

    @property
    def results(self) -> Iterator[Handle]:
        """Every handle that some task writes, but for `temporary` ones."""
        return (handle for handle in self.written if handle.name not in self.temporary)

    @property
    def handles_used(self) -> Iterator[Handle]:
        """Every handle that some task accesses, in order of first access."""
        return iter(self._state)

    @property
    def families(self) -> list[str]:
        """The names of all handles that some task accesses."""
        return list(dict.fromkeys(handle.name for handle in self._state))

    def numbered(self, number: int) -> Task:
        """The task of that number, ``tasks[number]``; of a graph that is not `unrolled` it is made alone."""
        return self.tasks[number]

    def task(self, label: str) -> Task:
        """The first task with this label, such as ``"gemm(3,1,0)"``. KeyError if there is none. O(tasks)."""
        wanted = label.replace(" ", "")
        for task in self.tasks:
            if task.label == wanted:
                return task
        raise KeyError(f"no task {label!r} in {self!r}")

    def predecessors(self, task: Task) -> list[Task]:
        """The tasks that this one waits for, in program order."""
        return [self.tasks[p] for p in task.predecessors]

    def successors(self, task: Task) -> list[Task]:
        """The tasks that wait for this one, in program order. The first call costs O(tasks + edges)."""
        return [self.tasks[s] for s in self.successor_indices()[task.index]]

    def successor_indices(self) -> list[list[int]]:
        """For each task the indices of the tasks that wait for it, ascending. Kept until the graph grows."""
        if len(self._successors) != len(self.tasks):
            successors: list[list[int]] = [[] for _ in self.tasks]
            for task in self.tasks:
                for p in task.predecessors:
                    successors[p].append(task.index)
            self._successors = successors
        return self._successors

    @property
    def edges(self) -> int:
        """How many edges there are."""
        return sum(len(task.predecessors) for task in self.tasks)

    # ---------------------------------------------------------------- measuring

    def bottom_levels(self, cost: Cost | Sequence[float] | None = None) -> list[float]:
        """Length of the longest path from each task to the end, its own cost included.

        ``cost`` gives a task's cost (a function, or a sequence by task index); without it, tasks cost
        `Op.weight` and a closed form is used where the graph has one. O(tasks + edges) otherwise: one sweep
        backwards, as insertion order is a topological order.
        """
        form = self.closed_form
        if cost is None and form is not None:
            if self._evaluated is None or self._evaluated[0] is not form:
                self._evaluated = form, [form(task) for task in self.tasks]
            return list(self._evaluated[1])
        return paths.bottom_levels(self.tasks, self._costs(cost))

    def critical_path(self, cost: Cost | Sequence[float] | None = None) -> CriticalPath:
        """A longest path through the graph; ties go to the smaller task index. O(tasks + edges).

        Examples
        --------
        >>> from tilewright import cholesky_graph
        >>> g = cholesky_graph(nt=4)
        >>> g.critical_path().length                       # 9 nt - 10, in units of nb^3/3 flops
        26.0
        >>> len(g.critical_path(cost=lambda task: 1))      # 3 nt - 2 tasks
        10
        """
        if not self.tasks:
            return CriticalPath((), 0.0)
        levels = self.bottom_levels(self._costs(cost))
        return paths.critical_path(self.tasks, levels, self.successor_indices())

    def work(self, cost: Cost | Sequence[float] | None = None) -> float:
        """The cost of all tasks together."""
        return float(sum(self._costs(cost)))

    def _costs(self, cost: Cost | Sequence[float] | None) -> Sequence[float]:
        return paths.costs_of(self.tasks, cost, self)

    # ---------------------------------------------------------------- showing

    def to_networkx(self) -> networkx.DiGraph[int]:
        """The graph with task indices as nodes; node attributes ``label``, ``op`` and ``weight``."""
        import networkx

        graph: networkx.DiGraph[int] = networkx.DiGraph(name=self.name)
        graph.add_nodes_from((t.index, {"label": t.label, "op": t.op.name, "weight": t.op.weight}) for t in self.tasks)
        graph.add_edges_from((p, t.index) for t in self.tasks for p in t.predecessors)
        return graph

    def to_dot(self, *, by: str | Callable[[Task], object] = "op") -> str:
        """The graph in Graphviz's DOT language, coloured by op or as ``by`` says, the critical path drawn bold.

        All tasks are in it, however many: other tools read it. A picture of a large graph is `to_svg`.
        """
        return str(upstairs("plot.dag:to_dot")(self, by=by))

    def to_html(self, path: str | Path | None = None, *, limit: int | None = None) -> str:
        """The graph as an interactive page that opens offline, also written to ``path``: `tilewright.plot.html`.

        More tasks than ``limit``, by default 20,000, are drawn in groups.
        """
        page: str = upstairs("plot.html:graph_page")(self, limit)
        if path is not None:
            write_text(path, page)
        return page

    def _repr_html_(self) -> str:
        """What a notebook shows: the page in a frame of its own."""
        return str(upstairs("plot.html:graph_frame")(self))

    def to_svg(
        self,
        path: str | Path | None = None,
        *,
        layout: Literal["dot", "layered"] | None = None,
        by: str | Callable[[Task], object] = "op",
        limit: int | None = None,
    ) -> str:
        """The graph as SVG text, also written to ``path`` if given. See `tilewright.plot.dag.to_svg`.

        ``by`` is what colours mean: ``"op"``, ``"owner"``, ``"precision"``, ``"step"``, or a function of a task. More
        tasks than ``limit``, by default 400, are drawn in groups.
        """
        return str(upstairs("plot.dag:to_svg")(self, path, layout=layout, by=by, limit=limit))

    def to_png(
        self,
        path: str | Path,
        *,
        layout: Literal["dot", "layered"] | None = None,
        by: str | Callable[[Task], object] = "op",
        limit: int | None = None,
    ) -> None:
        """Write the graph as a PNG, with the words of `to_svg`. See `tilewright.plot.dag.to_png`."""
        upstairs("plot.dag:to_png")(self, path, layout=layout, by=by, limit=limit)

    def _repr_svg_(self) -> str | None:
        """The picture that a notebook shows; None, and so the text, if there are too many tasks to draw."""
        return self.to_svg() if len(self) <= upstairs("plot.dag:LIMIT") else None


def _named(name: object) -> str:
    if not isinstance(name, str):
        raise TypeError(f"a handle's name is a string, not {name!r}")
    return name


def _rebuilt(
    name: str, contents: Packed, levels: list[float] | None, temporary: set[str], rooms: dict[str, Room]
) -> TaskGraph:
    """The graph of these calls."""
    graph = TaskGraph(name)
    graph.temporary, graph.rooms = temporary, rooms
    for call in calls(contents):
        graph.append_call(*call)
    if levels is not None:
        graph.closed_form = lambda task: levels[task.index]
    return graph
