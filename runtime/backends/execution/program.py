"""A program: a graph bound to its data and kernels, checked before the first task runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from operator import index
from typing import TYPE_CHECKING, Any

import numpy as np

from tilewright.backends.execution import returned
from tilewright.backends.execution.overlap import check_apart
from tilewright.backends.execution.rooms import Rooms
from tilewright.errors import MissingDataError
from tilewright.graph import Access, Handle, Task, TaskGraph
from tilewright.kernels import table
from tilewright.kernels.catalogue import TILE_OPS
from tilewright.kernels.tensors import device_of
from tilewright.tiles import Store, TiledMatrix

if TYPE_CHECKING:
    from tilewright.backends.execution.streams import Streams
    from tilewright.backends.gpu.memories import Memories

__all__ = ["Program"]


class Program:
    """What an engine runs: `call(task)` executes one task of `graph` on `store`.

    Raises
    ------
    MissingDataError
        The graph reads a handle before writing it, and the data has nothing for it.
    ValueError
        The graph writes data that is read-only, or that another handle has as well.
    KeyError
        The kernel table has no row for an op and the dtypes of its tiles.
    TypeError
        A tile kernel's argument is not an array; or an array stands for a family of tiles, but is not cut into tiles.
    """

    def __init__(self, graph: TaskGraph, store: Store) -> None:
        self.graph = graph
        self.store = store
        self.threads_per_task = 1
        """How many threads a task's calls into BLAS and OpenMP use."""
        self.prepared = False
        """Whether it runs many times, so that ranks keep their plan of it."""
        self.rooms = (Rooms(graph, store) or None) if graph.rooms else None
        """Memory for handles that say how large they are."""
        _check_inputs(graph, store)
        _check_tiles(graph, store)
        _check_writeable(graph, store)
        check_apart(graph, store)
        self.uses_functions = False
        """Whether some op is a Python function, which may call any library."""
        self.replaced: set[Handle] = set()
        """Handles whose buffer a function gave up for a new value."""
        self.kernels: dict[str, str] = {}
        """Where the kernels of each op come from: a library, a route, or ``reference``."""
        self._functions = self._bind()
        if self.rooms is not None:
            self.call = self._call_in_rooms  # type: ignore[method-assign]
        self.streams: Streams | None = None
        """Those on which tasks are launched, if some tile is on a CUDA device."""
        self.memories: Memories | None = None
        """Where data is, if some workers are accelerators."""

    def begin(self) -> None:
        """Before each run of the program."""
        if self.rooms is not None:
            self.rooms.begin()

    def caller(self, worker: int) -> Callable[[Task], None]:
        """What worker number ``worker`` calls to run a task."""
        return self.call if self.memories is None else partial(self.memories.call, worker)

    def _bind(self) -> list[Callable[..., Any]]:
        """One function per task, looked up once per (op, matrices): tiles of one `TiledMatrix` have one dtype."""
        known: dict[Any, Callable[..., Any]] = {}
        grouped: dict[tuple[int, tuple[int, ...]], Callable[..., Any]] = {}
        families = self.store.families
        uniform = {name for name, family in families.items() if isinstance(family, TiledMatrix)}
        uniform |= {name for name, room in self.graph.rooms.items() if room.one_dtype}
        functions = []
        for task in self.graph.tasks:
            function = task.op.function
            if task.op.external:
                function = _no_worker
            elif function is None:
                names = tuple([use.handle.name for use in task.uses])
                key: Any = task.op, names, tuple(map(bool, task.groups))
                if not uniform.issuperset(names):
                    key = *key, tuple([getattr(self.store[use.handle], "dtype", None) for use in task.uses])
                function = known.get(key)
                if function is None:
                    function = known[key] = self._kernel(task)
            else:
                self.uses_functions = True
            if task.groups:
                wrapped = id(function), task.groups  # the function lives as long as the op or the table
                if wrapped not in grouped:
                    grouped[wrapped] = _in_groups(function, task.groups)
                function = grouped[wrapped]
            functions.append(function)
        return functions

    def _kernel(self, task: Task) -> Callable[..., Any]:
        op, tiles = task.op, [self.store[use.handle] for use in task.uses]
        least = 2 if table.takes_tiles(op.name) else 0
        for use, tile in zip(task.uses, tiles, strict=True):
            if not hasattr(tile, "dtype") or not least <= getattr(tile, "ndim", -1) <= (3 if least else 64):
                what, kind = "a 2-D array for a tile kernel" if least else "an array for a kernel", type(tile).__name__
                raise TypeError(f"{task}: {use.handle} must be {what}, not {kind}")
        device = max({device_of(tile) for tile in tiles}, key=("cpu", "torch", "cuda").index)  # a move to or from it
        row = table.find(op.name, device, names_of(task, tiles), op.source)
        if row.source != "reference" or op.name in TILE_OPS:
            sources = dict.fromkeys([*self.kernels.get(op.name, row.source).split(", "), row.source])
            self.kernels[op.name] = ", ".join(sources)
        return row.function

    def function(self, task: Task) -> Callable[..., Any]:
        """What one task calls, on one buffer for each of its uses, and its parameters."""
        return self._functions[task.index]

    def call(self, task: Task) -> None:
        """Run one task in the calling thread. Whatever its function raises comes out as it is."""
        store = self.store
        result = self._functions[task.index](*[store[handle] for handle, _ in task.uses], *task.params)
        if result is not None:
            self._finish(task, result, returned.held(result))

    def _call_in_rooms(self, task: Task) -> None:
        rooms = self.rooms
        assert rooms is not None
        rooms.enter(task)
        Program.call(self, task)
        rooms.leave(task)

    def _finish(self, task: Task, result: Any, held: bool) -> None:
        """Take in what a task returned; ``held``: somebody else has it as well."""
        op = task.op
        if op.function is None or op.explain is not None:
            check_info(task, self.store, result)
            return
        writes = task.writes
        if op.in_place and any(self.store[handle] is not None for handle in writes):
            raise TypeError(f"{task} works in place, so where there is an array it has to return None")
        if len(writes) > 1:
            if not isinstance(result, tuple) or len(result) != len(writes):
                raise TypeError(f"{task} must return None or {len(writes)} values, for {', '.join(map(str, writes))}")
            kept = [returned.held(value, 2) for value in result]  # it and the loop have it
            for handle, value in zip(writes, self._apart(task, writes, result, kept), strict=True):
                self.store[handle] = value
                self.replaced.add(handle)
        elif writes:
            self.store[writes[0]] = self._apart(task, writes, (result,), (held,))[0]
            self.replaced.add(writes[0])

    def _apart(
        self, task: Task, writes: Sequence[Handle], values: Sequence[Any], held: Sequence[bool]
    ) -> Sequence[Any]:
        """The values, copied where somebody else has them, or where they share memory with what the task reads or with
        an earlier one: what a task does to one handle must not change another. A fresh op's are kept as they are."""
        if task.op.fresh:
            return values
        pieces = returned.Pieces(self.store[handle] for handle, access in task.uses if access is Access.READ)
        found = []
        for handle, value, elsewhere in zip(writes, values, held, strict=True):
            own = elsewhere and value is not self.store[handle]
            shared = pieces.share(value)
            found.append(returned.copied(value) if own or shared else value)
        return found


def _in_groups(function: Callable[..., Any], groups: tuple[int, ...]) -> Callable[..., Any]:
    """A function of the buffers one by one, which calls ``function`` with a list for each of these `Task.groups`."""
    places, count = list[int | slice](), 0
    for size in groups:
        places.append(count if size < 0 else slice(count, count + size))
        count += 1 if size < 0 else size
    return lambda *args: function(
        *[args[place] if type(place) is int else list(args[place]) for place in places], *args[count:]
    )


def names_of(task: Task, tiles: Sequence[Any]) -> list[str]:
    """The name of each argument of a task in the kernel table, from the buffers of its uses."""
    names = []
    for tile in task.arguments(tiles):
        members = {table.dtype_name(member) for member in tile} if isinstance(tile, list) else {table.dtype_name(tile)}
        names.append("" if not members else table.MIXED if len(members) > 1 else members.pop())
    return names


def check_info(task: Task, store: Store, info: Any) -> None:
    """Raise what a kernel's or function's info other than 0 means. TypeError if it is no integer."""
    try:
        info = index(info)
    except TypeError:
        raise TypeError(
            f"{task} has an explain, so it returns None or an integer info, not {type(info).__name__}; "
            f"what it writes it changes in place"
        ) from None
    if info:
        raise task.op.explain(task, store, info) if task.op.explain else RuntimeError(f"{task}: info {info}")


def _no_worker(*args: Any) -> None:
    raise TypeError("a worker was given a task that its engine has to carry out itself")


def _check_inputs(graph: TaskGraph, store: Store) -> None:
    missing = [handle for handle in graph.inputs if store[handle] is None]
    if missing:
        for handle in missing:
            if handle.name in graph.rooms:
                raise MissingDataError(
                    f"the graph reads {handle} before a task writes it, and it is a room, which has "
                    f"no value until then; let a task write it first (W), or give data for "
                    f"it"
                )
            family = store.families.get(handle.name)
            if isinstance(family, TiledMatrix):
                raise MissingDataError(f"the graph reads {handle}, but {family} has {family.mt} x {family.nt} tiles")
            if handle in store.given or (family is None and handle.name in store.families):
                raise MissingDataError(f"the graph reads {handle}, but what the data has for it is None")
        names = ", ".join(map(str, missing[:5])) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        known = dict.fromkeys([*store.families, *(str(handle) for handle in store if store[handle] is not None)])
        given = ", ".join(known) or "nothing"
        raise MissingDataError(f"the graph reads {names}, but the data has only: {given}")


def _check_tiles(graph: TaskGraph, store: Store) -> None:
    """An array for ``A[i,j]`` that is not cut into tiles would give its numbers, one each."""
    flat = {name for name, family in store.families.items() if isinstance(family, np.ndarray) and family.ndim == 2}
    for handle in graph.handles_used if flat else ():
        if handle.name in flat and len(handle.index) == 2:
            shape = " x ".join(map(str, store.families[handle.name].shape))
            raise TypeError(
                f"the graph uses {handle}, but {handle.name} is an array of {shape} numbers, not cut into tiles; "
                f"pass tw.TiledMatrix.view(array, tile_size)"
            )


def _check_writeable(graph: TaskGraph, store: Store) -> None:
    families, checked = store.families, set()
    there = store.names()
    for handle in graph.written if there else ():
        name = handle.name
        family = families.get(name)
        if isinstance(family, TiledMatrix):
            if name not in checked and not family.writeable:
                raise ValueError(f"the graph writes {handle}, but {family} is read-only")
            checked.add(name)  # one check for all its tiles
        elif family is not None or handle in store:
            buffer = store[handle]
            if isinstance(buffer, np.ndarray) and not buffer.flags.writeable:
                raise ValueError(f"the graph writes {handle}, but its array is read-only; pass a copy")
