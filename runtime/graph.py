"""Task graphs over data handles.

A *handle* names data and holds none; a *task* is one call of an *op* on handles; a *graph* is the list of
tasks in program order with the edges that order implies. Three sentences give every edge:

1. A task that reads a handle waits for the last task before it that wrote the handle.
2. A task that writes a handle waits for every task that read it since the last write.
3. A task that writes a handle nobody read since the last write waits for that write.

Two reads never order each other. Edges point from a task to tasks inserted earlier, so a graph is acyclic by
construction, and running it in insertion order *is* the sequential program.

The table behind the rules keeps, for each handle, its last writer and the readers since: inserting costs
O(accesses + edges), never a scan over tasks.
"""

from __future__ import annotations

import copy
import enum
import sys
from array import array
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from inspect import isasyncgenfunction, iscoroutinefunction, isgeneratorfunction
from itertools import islice
from operator import index as _as_integer
from pathlib import Path
from types import FunctionType, MethodType
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, NoReturn, TypeVar

import numpy as np

from tilewright.door import upstairs
from tilewright.host.files import write_text
from tilewright.rooms import Room
from tilewright.scalars import flag, function, plain, real, text

if TYPE_CHECKING:
    import networkx


__all__ = ["R", "RW", "W", "Access", "CriticalPath", "Handle", "Handles", "Layout", "Op", "Task", "TaskGraph", "Use"]


class Access(enum.Enum):
    """How a task uses a handle.

    Examples
    --------
    >>> import tilewright as tw
    >>> tw.R(tw.Handle("x")).access is tw.Access.READ
    True
    """

    READ = "R"
    """The task sees the current value and leaves it alone."""
    WRITE = "W"
    """The task replaces the value and never looks at the old one."""
    RW = "RW"
    """The task sees the current value and changes it."""


_READ, _WRITE, _RW = Access.READ, Access.WRITE, Access.RW


class Handle(NamedTuple):
    """A name for data: ``x``, tile ``A[3,1]``, the copy of x on rank 3 ``x[3]``. Equal by value, holds no data.

    Parameters
    ----------
    name
        Data of a run goes by it.
    index
        Integers; empty for a handle that stands alone.

    Examples
    --------
    >>> import tilewright as tw
    >>> A = tw.TaskGraph().handles("A")
    >>> A[3, 1], A[3, 1] == tw.Handle("A", (3, 1))
    (A[3,1], True)
    """

    name: str
    index: tuple[int, ...] = ()  # type: ignore[assignment] # hides tuple.index, which nobody needs here

    def __repr__(self) -> str:
        return f"{self.name}[{','.join(map(str, self.index))}]" if self.index else self.name


class Handles:
    """A family of handles, indexed: ``A = g.handles("A"); A[3, 1]`` is the handle of tile (3, 1)."""

    __slots__ = ("_known", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self._known: dict[int | tuple[int, ...], Handle] = {}  # one object a handle: a graph names each many times

    def __getitem__(self, index: int | tuple[int, ...]) -> Handle:
        places = index if isinstance(index, tuple) else (index,)
        try:
            handle = self._known.get(index)
        except TypeError:  # a slice
            handle = None
        if handle is None:
            if not all(hasattr(place, "__index__") and not isinstance(place, bool) for place in places):
                raise TypeError(f"{self.name}[...] names one handle at a time by integers, not {index!r}")
            handle = Handle(self.name, tuple(map(_as_integer, places)))
            self._known[index] = handle
        return handle

    def __repr__(self) -> str:
        return f"{self.name}[...]"


class Use(NamedTuple):
    """One argument of a task: a handle and how the task uses it."""

    handle: Handle
    access: Access

    def __str__(self) -> str:
        return f"{self.access.value}({self.handle})"


def R(handle: Handle) -> Use:  # noqa: N802 - the letters of the literature; so below
    """Read ``handle``. TypeError if it is not a `Handle`; so for `W` and `RW`.

    Parameters
    ----------
    handle : Handle

    Returns
    -------
    use : Use

    Raises
    ------
    TypeError
        It is no handle, or a whole family of them.

    Examples
    --------
    >>> import tilewright as tw
    >>> x = tw.TaskGraph().handle("x")
    >>> str(tw.R(x))
    'R(x)'
    """
    return Use(handle, _READ) if type(handle) is Handle else _not_a_handle(handle)


def W(handle: Handle) -> Use:  # noqa: N802
    """Write ``handle`` without reading it.

    Parameters
    ----------
    handle : Handle

    Returns
    -------
    use : Use

    Raises
    ------
    TypeError
        It is no handle, or a whole family of them.

    Examples
    --------
    >>> import tilewright as tw
    >>> x = tw.TaskGraph().handle("x")
    >>> str(tw.W(x))
    'W(x)'
    """
    return Use(handle, _WRITE) if type(handle) is Handle else _not_a_handle(handle)


def RW(handle: Handle) -> Use:  # noqa: N802
    """Read and change ``handle``.

    Parameters
    ----------
    handle : Handle

    Returns
    -------
    use : Use

    Raises
    ------
    TypeError
        It is no handle, or a whole family of them.

    Examples
    --------
    >>> import tilewright as tw
    >>> x = tw.TaskGraph().handle("x")
    >>> str(tw.RW(x))
    'RW(x)'
    """
    return Use(handle, _RW) if type(handle) is Handle else _not_a_handle(handle)


def _not_a_handle(thing: object) -> NoReturn:
    if isinstance(thing, Handles):
        raise TypeError(f"R, W and RW take one handle of {thing}; give its index, such as {thing.name}[0, 0]")
    raise TypeError(f"R, W and RW take a handle, not {thing!r}; make one with graph.handle(name)")


def _check_function(function: object, name: str) -> None:
    """TypeError for what is not called for its result: a task would have a coroutine or a generator as its value."""
    while isinstance(function, partial):
        function = function.func
    called = function if isinstance(function, FunctionType | MethodType) else vars(type(function)).get("__call__")
    if iscoroutinefunction(called) or isasyncgenfunction(called):
        raise TypeError(f"{name} is a coroutine function, which a task cannot await; insert a plain function")
    if isgeneratorfunction(called):
        raise TypeError(f"{name} is a generator function, whose values nobody would fetch; insert a plain function")


_PLAIN = frozenset((int, float, str, bool, complex, bytes, type(None)))
_CONTAINERS = frozenset((list, dict, set, bytearray))


def _snapshot(param: Any) -> Any:
    """A parameter as it is now: a copy of what its owner may change in place, itself where there is nothing of that."""
    kind = type(param)
    if kind in _PLAIN:
        return param
    if isinstance(param, np.ndarray):
        return param.copy(order="K")
    if kind in _CONTAINERS and not param:
        return param
    if kind is list:
        return [_snapshot(item) for item in param]
    if kind is tuple:
        items = [_snapshot(item) for item in param]
        return param if all(own is item for own, item in zip(items, param, strict=True)) else tuple(items)
    if kind is dict:
        return {key: _snapshot(item) for key, item in param.items()}
    if kind is set or kind is bytearray:
        return param.copy()
    torch: Any = sys.modules.get("torch")
    if torch is not None and kind is torch.Tensor and not param.requires_grad:
        return param.clone()
    if hasattr(kind, "from_numpy") or (hasattr(kind, "nnz") and hasattr(kind, "tocsr")):  # tiled, sparse
        return copy.deepcopy(param)
    return param


_MISPLACED = frozenset((Use, Handle, list, tuple))
"""Types of parameters that may be accesses in the wrong place, or have some in them."""


def _check_parameter(op: Op, param: Any) -> None:
    """TypeError for an access or a bare handle among the parameters, also in a list."""
    if type(param) is Use or type(param) is Handle:
        raise TypeError(
            f"{op.name}: {param} is misplaced; wrap handles in R, W or RW and put them before the parameters"
        )
    if any(type(member) is Use or (type(member) is Handle and type(param) is list) for member in param):
        members = ", ".join(map(str, param))
        raise TypeError(
            f"{op.name}: a group is a list of accesses and stands before the parameters, such as "
            f"[R(a), RW(b)], not {type(param).__name__} of {members}"
        )


def _grouped(op: Op, args: tuple[Any, ...]) -> tuple[tuple[Use, ...], tuple[Any, ...], tuple[int, ...]]:
    """Uses, parameters and sizes of groups. An empty list is a group where an access follows.

    Else a function gets it as the object that it is, and others as a group: the flops of an op may want to see it.
    """
    count = 0
    kernel = op.function is None or op.flops is not None
    for position, arg in enumerate(args):
        if type(arg) is Use or (type(arg) is list and ((arg and type(arg[0]) is Use) or (kernel and not arg))):
            count = position + 1
        elif not (type(arg) is list and not arg):
            break
    uses: list[Use] = []
    sizes = []
    for arg in args[:count]:
        if type(arg) is list:
            if not all(type(member) is Use for member in arg):
                _check_parameter(op, arg)
            uses += arg
            sizes.append(len(arg))
        else:
            uses.append(arg)
            sizes.append(-1)
    return tuple(uses), args[count:], tuple(sizes) if max(sizes, default=-1) >= 0 else ()


def _name(name: object) -> str:
    if not isinstance(name, str):
        raise TypeError(f"a handle's name is a string, not {name!r}")
    return name


def _written_indices(uses: tuple[Use, ...]) -> tuple[object, ...]:
    """Default label: the index of the first written handle, or the names of all that are written."""
    written = [use.handle for use in uses if use.access is not _READ]
    if written and written[0].index:
        return written[0].index
    return tuple(dict.fromkeys(str(handle) for handle in written))


@dataclass(frozen=True, slots=True, eq=False)
class Op:
    """A named operation on data.

    With a ``function`` the op is that Python function; without, the kernel table has its implementations.
    Either is called with one buffer per access, a list of buffers for a group, in their order, then the parameters. A
    function changes what it writes in place and returns None, or returns the new value (a tuple for several handles)
    of what it writes. A kernel changes in place and returns None or an info code; 0 is success. So does a function
    with ``explain``, which hence returns no values.

    Raises
    ------
    TypeError, ValueError
        A field is of another kind, or the function is a coroutine or generator function.

    Examples
    --------
    >>> import numpy as np, tilewright as tw
    >>> def axpy(x, y, alpha):
    ...     y += alpha * x
    >>> op = tw.Op("axpy", axpy, flops=lambda x, y: 2 * x[0], in_place=True)
    >>> g = tw.TaskGraph()
    >>> g.insert(op, tw.R(g.handle("x")), tw.RW(g.handle("y")), 3.0)
    axpy(y)
    >>> tw.run(g, {"x": np.ones(5), "y": np.zeros(5)}, backend="serial").flops
    10
    """

    name: str
    """What labels, traces and the kernel table call it."""
    function: Callable[..., Any] | None = None
    """What is called; None is the kernel of that name."""
    weight: float = 1.0
    """Cost where no data is known. Tile kernels count units of nb^3/3 flops, so potrf is 1 and gemm is 6."""
    flops: Callable[..., float] | None = None
    """Real-arithmetic flops from the shapes of the accessed buffers, lists of them for groups."""
    indices: Callable[[tuple[Use, ...]], tuple[object, ...]] = _written_indices
    """What stands between the parentheses of a task's label."""
    explain: Callable[[Task, Any, int], Exception] | None = None
    """Turns (task, store, info) of a kernel or function that returned info != 0 into the exception to raise."""
    external: bool = False
    """An engine carries it out itself, no worker does: a message."""
    in_place: bool = False
    """The function changes the arrays that it writes, returns None, and keeps none of its arguments: a rank then knows
    what it will get. Where there is no array yet it may return one, as any function."""
    source: str = ""
    """Which row of the kernel table, where not the usual one: `tilewright.kernels.table`."""
    again: str = ""
    """Where a reader on another rank has it from, if the op makes a `TaskGraph.temporary` copy of one handle.
    ``""``: it is sent. ``"shared"``: it is made again there if what it is made of goes there anyway, or if two such
    copies would. ``"always"``: it is the larger of the two, so what it is made of is sent."""
    operands: Literal["", "storage", "accumulate"] = ""
    """The form in which it wants the tiles that it only reads; `tilewright.passes.conversions.with_conversions` sees to
    it. ``"storage"``: that of the products' operands in the format of the tile it writes, such as BF16, for a product.
    ``"accumulate"``: the dtype of that tile, for a substitution. ``""``: as they are."""

    def __post_init__(self) -> None:
        text(self.name, "name of an Op")
        for what in ("function", "flops", "explain"):
            if getattr(self, what) is not None:
                function(getattr(self, what), f"{what} of Op {self.name}")
        if self.function is not None:
            _check_function(self.function, self.name)
        function(self.indices, f"indices of Op {self.name}")
        real(self.weight, f"weight of Op {self.name}", 0)
        flag(self.external, f"external of Op {self.name}")
        flag(self.in_place, f"in_place of Op {self.name}")
        text(self.source, f"source of Op {self.name}")
        for what, known in (("again", ("", "shared", "always")), ("operands", ("", "storage", "accumulate"))):
            value = getattr(self, what)
            if not isinstance(value, str) or value not in known:
                raise ValueError(f"{what} of {self.name} are {', '.join(map(repr, known[1:]))} or '', not {value!r}")

    def __repr__(self) -> str:
        return f"Op({self.name})"


@dataclass(slots=True, eq=False)
class Task:
    """One call of an op, at one place of the program. Made by `TaskGraph.insert`, not changed after.

    Examples
    --------
    >>> import tilewright as tw
    >>> task = tw.cholesky_graph(nt=3).tasks[3]
    >>> task, task.reads, task.writes, task.predecessors
    (syrk(1,0), (A[1,0], A[1,1]), (A[1,1],), (1,))
    """

    index: int
    """Its place in the program, from 0."""
    op: Op
    """What is called."""
    uses: tuple[Use, ...]
    """(handle, access) of its arguments, groups flattened."""
    params: tuple[Any, ...]
    """What comes behind these in the call."""
    predecessors: tuple[int, ...]
    """Indices of the tasks this one waits for, ascending, all smaller than ``index``."""
    on: Hashable
    """Where to run, if the program said so: a rank, or a handle whose owner runs the task."""
    priority: float
    """What the program said; larger is sooner. Policies such as critical-path compute their own."""
    groups: tuple[int, ...] = ()
    """For each argument before the parameters how many of ``uses`` it is, -1 where it is one access and no group; empty
    if none is a group."""
    place: tuple[object, ...] | None = None
    """What the program wants between the parentheses of the label."""

    @property
    def label(self) -> str:
        """``gemm(3,1,0)``: the op and its indices."""
        place = self.op.indices(self.uses) if self.place is None else self.place
        return f"{self.op.name}({','.join(map(str, place))})"

    def arguments(self, values: Sequence[Any]) -> Sequence[Any]:
        """What belongs to each of ``uses`` (its buffer, shape, ...) as arguments of the op; a list for a group."""
        if not self.groups:
            return values
        found: list[Any] = []
        start = 0
        for size in self.groups:
            if size < 0:
                found.append(values[start])
                start += 1
            else:
                found.append(list(values[start : start + size]))
                start += size
        return found

    @property
    def reads(self) -> tuple[Handle, ...]:
        """Handles whose values it needs."""
        return tuple([handle for handle, access in self.uses if access is not _WRITE])

    @property
    def writes(self) -> tuple[Handle, ...]:
        """Handles that have new values afterwards."""
        return tuple([handle for handle, access in self.uses if access is not _READ])

    def __repr__(self) -> str:
        return self.label


@dataclass(frozen=True, slots=True)
class CriticalPath:
    """A longest chain of tasks that wait for each other. No run can be shorter, whatever its workers.

    Examples
    --------
    >>> import tilewright as tw
    >>> print(tw.cholesky_graph(nt=2).critical_path())
    potrf(0) -> trsm(1,0) -> syrk(1,0) -> potrf(1)  (length 8)
    """

    tasks: tuple[Task, ...]
    """From the first to the last."""
    length: float
    """The sum of what they take, in units of the weights: nb^3/3 flops, or seconds of a machine."""

    def __len__(self) -> int:
        return len(self.tasks)

    def __str__(self) -> str:
        return f"{' -> '.join(t.label for t in self.tasks)}  (length {self.length:g})"


Cost = Callable[[Task], float]


def _weight(task: Task) -> float:
    return task.op.weight


T = TypeVar("T")


class _Fact(Generic[T]):
    """An attribute of a graph that holds for the tasks that it has when it is set: one more, and it is the default."""

    def __init__(self, default: T) -> None:
        self.default = default

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = f"_{name}"

    def __get__(self, graph: TaskGraph | None, owner: type) -> T:
        if graph is None:
            return self.default
        count, value = graph.__dict__.get(self.name, (0, self.default))
        return value if count == len(graph.tasks) else self.default

    def __set__(self, graph: TaskGraph, value: T) -> None:
        graph.__dict__[self.name] = len(graph.tasks), value


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

    closed_form: _Fact[Cost | None] = _Fact(None)
    """Bottom levels by formula, in units of `Op.weight`, where the algorithm's author knows one."""
    recipe: _Fact[tuple[Callable[..., TaskGraph], tuple[Any, ...]] | None] = _Fact(None)
    """(function, arguments) of a call that builds this graph, by which it travels to other processes."""
    _evaluated: _Fact[tuple[Cost, list[float]] | None] = _Fact(None)  # a closed form, and what it says of each task
    orders: _Fact[dict[Hashable, Any]] = _Fact({})
    """What policies found that is true of the tasks alone, by policy."""
    extents: _Fact[dict[str, tuple[int, int]]] = _Fact({})
    """Tile rows and columns of the matrices that the algorithm works on, where its author knows."""

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
        self._declare(Room.checked(_name(name), shape, dtype, keep, device, indexed=False))
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
            Of tensors.
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
        self._declare(Room.checked(_name(name), shape, dtype, keep, device, True, text(like, f"like of {name}")))
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
            uses, params, groups = _grouped(op, args)
        for place, param in enumerate(params):
            if type(param) in _PLAIN:
                continue
            if type(param) in _MISPLACED:
                _check_parameter(op, param)
            own = _snapshot(param)
            if own is not param:
                params = (*params[:place], own, *params[place + 1 :])
        return self._append(op, uses, params, on, priority, groups, label)

    def _append(
        self,
        op: Op,
        uses: tuple[Use, ...],
        params: tuple[Any, ...],
        on: Hashable,
        priority: float,
        groups: tuple[int, ...],
        label: tuple[object, ...] | None,
    ) -> Task:
        """Append a task whose arguments are sorted and checked."""
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
        return tuple([Use(use.handle, _RW) if use.access is _WRITE and use.handle in read else use for use in uses])

    def insert_again(
        self, task: Task, op: Op | None = None, uses: Sequence[Use] | None = None, on: Hashable = None
    ) -> Task:
        """Append a task of another graph, or one like it with another op, place or uses, one for each it had."""
        uses = task.uses if uses is None else tuple(uses)
        on = task.on if on is None else on
        if self.frozen or len(uses) != len(task.uses):
            args = task.arguments(uses)
            return self.insert(op or task.op, *args, *task.params, on=on, priority=task.priority, label=task.place)
        return self._append(op or task.op, uses, task.params, on, task.priority, task.groups, task.place)

    def __reduce__(self) -> tuple[Any, ...]:
        """To another process a graph goes as its recipe, where it has one, or with all its tasks."""
        if self.recipe is not None:
            return self.recipe
        levels = self.bottom_levels() if self.closed_form is not None else None
        named: dict[str, list[Handle]] = {name: [] for name in self.rooms}
        for handle in self._state if named else ():
            if handle.name in named:
                named[handle.name].append(handle)
        rooms = {name: room.settled(named[name]) for name, room in self.rooms.items()}
        return _rebuilt, (self.name, _packed(self), levels, set(self.temporary), rooms)

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
        return f"TaskGraph({self.name!r}, {len(self.tasks)} tasks)"

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
        costs = self._costs(cost)
        levels = [0.0] * len(costs)
        for task in reversed(self.tasks):
            level = levels[task.index] = levels[task.index] + costs[task.index]
            for p in task.predecessors:
                if levels[p] < level:
                    levels[p] = level
        return levels

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
        costs = self._costs(cost)
        levels = self.bottom_levels(costs)
        successors = self.successor_indices()
        first = max(range(len(levels)), key=lambda t: (levels[t], -t))
        path = [first]
        while successors[path[-1]]:
            path.append(max(successors[path[-1]], key=lambda t: (levels[t], -t)))
        return CriticalPath(tuple(self.tasks[t] for t in path), float(levels[first]))

    def work(self, cost: Cost | Sequence[float] | None = None) -> float:
        """The cost of all tasks together."""
        return float(sum(self._costs(cost)))

    def _costs(self, cost: Cost | Sequence[float] | None) -> Sequence[float]:
        if cost is None:
            cost = _weight
        if callable(cost):
            return [cost(task) for task in self.tasks]
        if len(cost) != len(self.tasks):
            raise ValueError(f"{len(cost)} costs for the {len(self.tasks)} tasks of {self!r}")
        return cost

    # ---------------------------------------------------------------- showing

    def to_networkx(self) -> networkx.DiGraph[int]:
        """The graph with task indices as nodes; node attributes ``label``, ``op`` and ``weight``."""
        import networkx

        graph: networkx.DiGraph[int] = networkx.DiGraph(name=self.name)
        graph.add_nodes_from((t.index, {"label": t.label, "op": t.op.name, "weight": t.op.weight}) for t in self.tasks)
        graph.add_edges_from((p, t.index) for t in self.tasks for p in t.predecessors)
        return graph

    def to_dot(self, *, by: str | Callable[[Task], object] = "op") -> str:
        """The graph in Graphviz's DOT language, coloured by op or as ``by`` says, the critical path drawn bold."""
        return str(upstairs("plot.dag:to_dot")(self, by=by))

    def to_html(self, path: str | Path | None = None) -> str:
        """The graph as an interactive page that opens offline, also written to ``path``: `tilewright.plot.html`."""
        page: str = upstairs("plot.html:graph_page")(self)
        if path is not None:
            write_text(path, page)
        return page

    def _repr_html_(self) -> str:
        """What a notebook shows: the page in a frame of its own."""
        return str(upstairs("plot.html:frame")(self.to_html()))

    def to_svg(
        self,
        path: str | Path | None = None,
        *,
        layout: Literal["dot", "layered"] | None = None,
        by: str | Callable[[Task], object] = "op",
    ) -> str:
        """The graph as SVG text, also written to ``path`` if given. See `tilewright.plot.dag.to_svg`.

        ``by`` is what colours mean: ``"op"``, ``"owner"``, ``"precision"``, ``"step"``, or a function of a task.
        """
        return str(upstairs("plot.dag:to_svg")(self, path, layout=layout, by=by))

    def to_png(
        self,
        path: str | Path,
        *,
        layout: Literal["dot", "layered"] | None = None,
        by: str | Callable[[Task], object] = "op",
    ) -> None:
        """Write the graph as a PNG. See `tilewright.plot.dag.to_png`."""
        upstairs("plot.dag:to_png")(self, path, layout=layout, by=by)

    def _repr_svg_(self) -> str | None:
        """The picture that a notebook shows; None, and so the text, if there are too many tasks to draw."""
        return self.to_svg() if len(self) <= upstairs("plot.dag:LIMIT") else None


class _Packed(NamedTuple):
    """The calls of a graph in few objects: 10^5 tasks of a graph travel as five strings of numbers."""

    names: list[str]
    """Of families of handles."""
    handles: tuple[Any, Any, Any]
    """By handle: its name's number, how many indices it has; and all indices."""
    ops: list[Op]
    tasks: tuple[Any, Any, Any]
    """By task: its op's number, how many uses it has; and all uses, 3 times the handle's number plus the access's."""
    others: dict[int, tuple[Any, ...]]
    """Of tasks that have them: params, on, priority, groups and label."""


_ACCESSES = (_READ, _WRITE, _RW)

_USUAL = ((), None, 0, (), None)


def _packed(graph: TaskGraph) -> _Packed:
    names: dict[str, int] = {}
    families = [names.setdefault(handle.name, len(names)) for handle in graph._state]
    lengths = [len(handle.index) for handle in graph._state]
    indices = [place for handle in graph._state for place in handle.index]
    number = dict(zip(graph._state, range(0, 3 * len(families), 3), strict=True))
    uses = [
        number[handle] + (0 if access is _READ else 2 if access is _RW else 1)
        for task in graph.tasks
        for handle, access in task.uses
    ]
    ops: dict[int, int] = {}
    known: list[Op] = []
    kinds = []
    others = {}
    for task in graph.tasks:
        kind = ops.get(id(task.op))
        if kind is None:
            kind = ops[id(task.op)] = len(known)
            known.append(task.op)
        kinds.append(kind)
        if task.params or task.groups or task.on is not None or task.priority or task.place is not None:
            others[task.index] = task.params, task.on, task.priority, task.groups, task.place
    counts = [len(task.uses) for task in graph.tasks]
    return _Packed(
        list(names),
        (_dense(families), _dense(lengths), _dense(indices)),
        known,
        (_dense(kinds), _dense(counts), _dense(uses)),
        others,
    )


def _dense(numbers: list[int]) -> Any:
    """The numbers as an array of the smallest type, or as they are where there is one that no type has."""
    if not numbers:
        return []
    least, most = min(numbers), max(numbers)
    kind = next(
        (k for k in "bhiq" if -(2 ** (8 * array(k).itemsize - 1)) <= least <= most < 2 ** (8 * array(k).itemsize - 1)),
        None,
    )
    return numbers if kind is None else array(kind, numbers)


def _rebuilt(
    name: str, packed: _Packed, levels: list[float] | None, temporary: set[str], rooms: dict[str, Room]
) -> TaskGraph:
    """The graph of these calls."""
    graph = TaskGraph(name)
    graph.temporary, graph.rooms = temporary, rooms
    names, (families, lengths, indices), ops, (kinds, counts, codes), others = packed
    places = iter(indices)
    handles = [
        Handle(names[family], tuple(islice(places, length))) for family, length in zip(families, lengths, strict=True)
    ]
    known: dict[int, Use] = {}
    rest = iter(codes)
    for index, (kind, count) in enumerate(zip(kinds, counts, strict=True)):
        uses = []
        for code in islice(rest, count):
            use = known.get(code)
            if use is None:
                use = known[code] = Use(handles[code // 3], _ACCESSES[code % 3])
            uses.append(use)
        params, on, priority, groups, label = others.get(index, _USUAL)
        if params:  # a graph has arrays of its own
            params = tuple([param.copy() if isinstance(param, np.ndarray) else param for param in params])
        graph._append(ops[kind], tuple(uses), params, on, priority, groups, label)
    if levels is not None:
        graph.closed_form = lambda task: levels[task.index]
    return graph


class Layout(NamedTuple):
    """Where the handles of one graph live and how large they are, if its author knows: see `TaskGraph.layout`."""

    ranks: int
    owner: Callable[[Handle], int]
    shape: Callable[[Handle], tuple[int, ...]]
