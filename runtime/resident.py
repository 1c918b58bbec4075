"""Graphs bound to their data once and run often, and data that stays where the tasks run.

A call of `tilewright.run` looks at graph, data and options anew, and on ranks all data travels. An iteration runs one
graph on the same buffers thousands of times, so what can be settled once is settled once::

    step = tw.prepare(graph, {"a": A, "x": x}, inputs=["x"], outputs=["y"], backend="mpi", workers=4)
    step.inputs[x][...] = vector
    step()                                     # only x and y travel
    answer = step.outputs[y]
    step.repeat(100, until=done)               # on the ranks, no word to this process in between

Where several graphs share data, that stays in a `Resident`, on which each of them is prepared::

    resident = tw.Resident({block: A}, owner=..., ranks=4, backend="mpi")     # each rank gets its own part, once
    step = resident.prepare(graph, inputs=[x], outputs=[y])                   # each rank lays out its part, once

On MPI a prepared graph is a `tilewright.backends.mpi.script.Script` on each rank, with persistent requests; input and
output lie in memory that the ranks map. Other engines run in this process, where data stays by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np

from tilewright.backends import check_call, engine_class, find_engine, named
from tilewright.backends.execution.engine import Engine, check_data
from tilewright.backends.execution.prepared import Here, Prepared, check_given, lasting
from tilewright.backends.ranks.home import Home, PlacedGraph, copied
from tilewright.graph import Handle, Layout, TaskGraph
from tilewright.keywords import strict
from tilewright.rooms import zeros_for
from tilewright.scalars import flag, function, instance, positive, shown, worker_count
from tilewright.scalars import ranks as rank_count
from tilewright.schedulers import Policy
from tilewright.schedulers import policy as find_policy
from tilewright.tiles import Store

if TYPE_CHECKING:
    from tilewright.backends.mpi.pool import Pool

__all__ = ["Prepared", "Resident", "check_home", "prepare"]

Which = Iterable[Handle | str]
Carry = Mapping[Handle, Handle]


def prepare(
    graph: TaskGraph,
    data: Mapping[str, Any] | Mapping[Handle, Any] | None = None,
    *,
    inputs: Which = (),
    outputs: Which | None = None,
    carry: Carry | None = None,
    backend: str | None = None,
    scheduler: str | Policy = "critical-path",
    workers: int | None = None,
    threads_per_task: int = 1,
    dtype: Any = np.float64,
    **options: Any,
) -> Prepared:
    """Bind a graph to its buffers, place it on ranks, plan its messages; then it runs any number of times.

    Parameters
    ----------
    graph
        The tasks. It is frozen.
    data
        As for `tilewright.run`. In this process tasks work on these buffers; ranks get copies of what the graph reads
        first, and keep them.
    inputs, outputs
        Handles, or names of families, of which ``prepared.inputs`` and ``prepared.outputs`` have arrays: to be filled
        before a run, to be read after it. By default none, and all results that have arrays.
    carry
        {y: x}: what y is after a repetition, x is before the next one. Two arrays of one shape and dtype.
    backend, scheduler, workers, threads_per_task, options
        As for `tilewright.run`. On MPI ranks of one worker run their tasks in program order, whatever the scheduler;
        ``root`` and ``gather`` are for `tilewright.run`.
    dtype
        That of handles for which `TaskGraph.layout` has the shape and ``data`` no array.

    Returns
    -------
    Prepared
        Call it to run once, or let it `repeat`.

    Raises
    ------
    ValueError, TypeError, MissingDataError
        As for `tilewright.run`. On ranks also where no array, no room and no layout says how large a handle is. A
        handle of ``outputs`` or ``carry`` is a room that is not kept.

    Notes
    -----
    A call costs a few microseconds beyond the tasks in one process with one worker, about 100 on a pool of ranks, and
    a repetition on a rank less than one for each task and some for each message. Dask and ranks of several workers keep
    graph and plan, but get the data anew in each repetition.

    Examples
    --------
    >>> import numpy as np, tilewright as tw
    >>> def improve(a, x, y, done):
    ...     y[:] = (x + a / x) / 2
    ...     done[:] = abs(y - x) <= 1e-15 * y
    >>> g = tw.TaskGraph("Heron")
    >>> a, x, y, done = map(g.handle, ("a", "x", "y", "done"))
    >>> _ = g.insert(improve, tw.R(a), tw.R(x), tw.W(y), tw.W(done))
    >>> data = {"a": np.array([2.0]), "x": np.ones(1), "y": np.zeros(1), "done": np.zeros(1)}
    >>> root = tw.prepare(g, data, inputs=[a, x], carry={y: x}, backend="serial")
    >>> root.repeat(20, until=done)
    6
    >>> root.outputs[y]
    array([1.41421356])
    >>> root.inputs[a][:], root.inputs[x][:] = 9, 1
    >>> root.repeat(20, until=done), root.outputs[y]
    (7, array([3.]))
    """
    instance(graph, "graph", TaskGraph, "a TaskGraph")
    found = engine_class(backend, computes=True)
    check_call(prepare, options, backend)
    worker_count(workers)
    threads_per_task = positive(threads_per_task, "threads_per_task")
    if threads_per_task > 1 and not found.wide_tasks:
        raise ValueError(f"threads_per_task must be 1 for backend {found.name!r}, not {threads_per_task}")
    for name in ("root", "gather"):
        if options.get(name) is not None:
            raise ValueError(f"{name} is for tilewright.run; a prepared graph has inputs and outputs")
    engine = find_engine(backend, options)
    engine.plan_with(None)
    find_policy(scheduler)
    dtype = _numbers(dtype)
    store = Store({} if data is None else data)
    check_data(graph, {} if data is None else data)
    carry = _carried(carry, graph, store)
    ranks = engine.script_ranks(graph, workers)
    if not ranks:
        where = _Here(engine, scheduler, workers, threads_per_task, {})
        return where.prepare(graph, store, *_named(graph, store, inputs, outputs), carry, dtype)
    owner = engine.owner_of(graph, ranks)
    home = engine.home({}, ranks, owner, copy=False)
    assert home is not None
    graph.frozen = True
    return _bound(home, graph, owner, store, *_named(graph, store, inputs, outputs), carry, dtype)


def _named(graph: TaskGraph, store: Store, inputs: Which, outputs: Which | None) -> tuple[list[Handle], list[Handle]]:
    """Handles for what may be names of families."""
    shapes = graph.layout is not None
    if outputs is None:
        rooms = graph.rooms  # those that are kept: the others are no results
        outputs = [h for h in graph.results if shapes or h.name in rooms or isinstance(store[h], np.ndarray)]
    found = _handles(graph, inputs, "inputs"), _handles(graph, outputs, "outputs")
    for handle in found[1]:
        _lasts(graph, store, handle, "outputs has")
    return found


def _lasts(graph: TaskGraph, store: Store, handle: Handle, what: str) -> None:
    """ValueError for a room that has no value between two runs."""
    if not lasting(graph, handle) and store[handle] is None and handle not in graph.inputs:
        raise ValueError(
            f"{what} {handle}, a room that is given back after its last reader; declare it with keep=True to have "
            f"its value after a run"
        )


def _carried(carry: Carry | None, graph: TaskGraph, store: Store) -> Carry:
    if carry is None:
        return {}
    for handle in instance(carry, "carry", Mapping, "a dict of handles, {what it is now: what next}"):
        if isinstance(handle, Handle):
            _lasts(graph, store, handle, "carry has")
    return carry


def _numbers(dtype: Any) -> np.dtype:
    try:
        found = np.dtype(dtype)
    except (TypeError, ValueError):
        found = np.dtype(object)
    if found.kind not in "biufc":
        raise TypeError(f"dtype must be one of numbers, such as numpy.float64, not {shown(dtype)}")
    return found


def _handles(graph: TaskGraph, which: Which, what: str) -> list[Handle]:
    if isinstance(which, str | bytes | Handle) or not isinstance(which, Iterable) or getattr(which, "ndim", 1) != 1:
        raise TypeError(f"{what} must be a list of handles or names, not {shown(which)}")
    found: dict[Handle, None] = {}
    for each in which:
        if isinstance(each, Handle):
            found[each] = None
            continue
        if not isinstance(each, str):
            raise TypeError(f"{what} must be a list of handles or names, and {shown(each)} is neither")
        family = [handle for handle in graph.handles_used if handle.name == each]
        if not family:
            names = ", ".join(sorted({handle.name for handle in graph.handles_used}))
            raise ValueError(f"{what} has {each}, which graph {graph.name!r} does not use; it uses {names}")
        found.update(dict.fromkeys(family))
    return list(found)


# ------------------------------------------------------------------ data that several graphs share


@strict
class Resident:
    """Data kept by handle on ``ranks`` ranks, until this object and all that was prepared on it are gone, or `close`.

    Parameters
    ----------
    data
        Buffers by handle; they are read once, and copied. Changed afterwards they change nothing.
    ranks
        How many ranks there are.
    owner
        The rank of each handle.
    backend
        One of `BACKENDS`. With ``"mpi"`` in an ordinary process the ranks are those of ``pool``, of the ``with`` block,
        or a pool that is kept between calls; on the ranks of ``mpiexec`` it is a collective call, and each rank keeps
        what it owns.
    pool, comm
        MPI only: a `tilewright.backends.mpi.Pool` in an ordinary process; a communicator of mpi4py on the ranks of
        ``mpiexec``, MPI.COMM_WORLD by default.
    synchronous
        Let each send wait for its receive; finds deadlocks. MPI only.
    copy
        False: engines of this process, and ranks under ``mpiexec``, work on the buffers themselves.
    scheduler, workers
        Those of engines in this process, as for `tilewright.run`.

    Threads may prepare and close at the same time. It can be neither pickled nor copied.

    Raises
    ------
    ValueError
        Unknown backend, fewer than one rank, a pool or communicator of another size or without MPI, an owner outside
        the ranks.
    TypeError
        An argument of another kind.

    Examples
    --------
    >>> import numpy as np, tilewright as tw
    >>> from tilewright.graph import Layout
    >>> def scale(a, x, y):
    ...     np.multiply(a, x, out=y)
    >>> g = tw.TaskGraph()
    >>> a, x, y = map(g.handle, "axy")
    >>> g.insert(scale, tw.R(a), tw.R(x), tw.W(y))
    scale(y)
    >>> g.layout = Layout(1, lambda handle: 0, lambda handle: (2,))
    >>> resident = tw.Resident({a: np.array([2.0, 3.0])}, ranks=1, owner=g.layout.owner, backend="serial")
    >>> step = resident.prepare(g, inputs=[x], outputs=[y])
    >>> step.inputs[x][...] = 10
    >>> step()
    >>> step.outputs[y]
    array([20., 30.])
    """

    def __init__(
        self,
        data: Mapping[Handle, Any],
        *,
        ranks: int,
        owner: Callable[[Handle], int],
        backend: str | None = None,
        pool: Pool | None = None,
        comm: Any = None,
        synchronous: bool = False,
        copy: bool = True,
        scheduler: str | Policy = "critical-path",
        workers: int | None = None,
    ) -> None:
        check_home(backend, pool, comm)
        ranks, synchronous, copy = rank_count(ranks), flag(synchronous, "synchronous"), flag(copy, "copy")
        function(owner, "owner")
        for handle in instance(data, "data", Mapping, "a dict of buffers by handle"):
            instance(handle, "each key of data", Handle, "a Handle, such as graph.handle('x')")
            rank: Any = owner(handle)
            if isinstance(rank, bool) or not isinstance(rank, Integral) or int(rank) not in range(ranks):
                raise ValueError(f"owner puts {handle} on rank {rank}, but there are ranks 0..{ranks - 1}")
        worker_count(workers)
        find_policy(scheduler)
        self.ranks, self.owner, self.backend = ranks, owner, named(backend)
        self._closed = False
        self.handles = frozenset(data)
        given = {"pool": pool, "comm": comm, "synchronous": synchronous or None}
        known = engine_class(backend).options
        engine = find_engine(backend, {n: value for n, value in given.items() if n in known and value is not None})
        engine.plan_with(None)
        home = engine.home(data, ranks, owner, copy)
        if home is None:
            home = _Here(engine, scheduler, workers, 1, copied(data) if copy else dict(data))
        self._home: Home | _Here = home

    def prepare(
        self,
        graph: TaskGraph,
        data: Mapping[Any, Any] | None = None,
        *,
        inputs: Which = (),
        outputs: Which | None = None,
        carry: Carry | None = None,
        dtype: Any = np.float64,
    ) -> Prepared:
        """Lay out a graph that reads this data.

        ``graph.layout`` says where its handles live and how large they are; ``dtype`` is that of ``inputs``,
        ``outputs`` and of all that the tasks make on the way. Functions change what they write in place, or return new
        values of the same shape. ``data`` are buffers of this graph alone, which stay as long as what is prepared;
        arrays for inputs and outputs say their dtypes, as rooms do; arrays of shared memory are used where they are.
        ``inputs``, ``outputs`` and ``carry`` are those of `tilewright.prepare`.

        Raises
        ------
        ValueError
            The graph has no layout, or one for another number of ranks.
        RuntimeError
            The data was freed by `close`.
        MissingDataError
            The graph reads a handle that is neither kept nor an input.
        """
        if self._closed:
            raise RuntimeError("what was kept on the ranks is gone since close(); make this object again")
        layout = graph.layout
        if layout is None:
            raise ValueError(f"graph {graph.name!r} has no layout, so nobody knows where its handles live")
        if layout.ranks != self.ranks:
            raise ValueError(f"graph {graph.name!r} is for {layout.ranks} ranks, but the data lies on {self.ranks}")
        dtype = _numbers(dtype)
        store = Store({} if data is None else data)
        carry = _carried(carry, graph, store)
        graph.frozen = True
        which = _named(graph, store, inputs, outputs)
        if isinstance(self._home, _Here):
            check_given(graph, [*self.handles, *which[0], *(h for h in graph.inputs if store[h] is not None)])
            return self._home.prepare(graph, store, *which, carry, dtype)
        return _bound(self._home, graph, layout.owner, store, *which, carry, dtype)

    def call(self, function: str, prepared: Sequence[Prepared], *arguments: Any) -> list[Any]:
        """What ``function(comm, scripts, *arguments)`` returns on each rank: an iteration of its own, on the ranks.

        The function goes by name, as in `tilewright.backends.mpi.Pool.call`. It gets the rank's scripts of graphs that
        were prepared on this data, and calls `Script.run` on all ranks alike. Under ``mpiexec`` the list has what it
        returns here. MPI only.
        """
        assert isinstance(self._home, Home)
        return self._home.call(function, prepared, *arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("data that stays on ranks can be neither pickled nor copied; make another Resident of the data")

    def close(self) -> None:
        """Free the data on the ranks now."""
        self._closed = True
        self._home.close()


def _bound(
    home: Home,
    graph: TaskGraph,
    owner: Callable[[Handle], int],
    store: Store,
    inputs: list[Handle],
    outputs: list[Handle],
    carry: Carry,
    dtype: np.dtype,
) -> Prepared:
    return home.prepare(
        PlacedGraph(
            graph, home.outlines, owner, store.__getitem__, _outline(graph.layout, dtype), inputs, outputs, carry
        )
    )


def _outline(layout: Layout | None, dtype: np.dtype) -> Callable[[Handle], tuple[tuple[int, ...], np.dtype] | None]:
    return lambda handle: None if layout is None else (layout.shape(handle), dtype)


class _Here:
    """Data of this process."""

    def __init__(
        self,
        engine: Engine,
        scheduler: str | Policy,
        workers: int | None,
        threads_per_task: int,
        data: dict[Handle, Any],
    ) -> None:
        self.engine, self.data = engine, data
        self.how: dict[str, Any] = {"scheduler": scheduler, "workers": workers, "threads_per_task": threads_per_task}

    def prepare(
        self, graph: TaskGraph, store: Store, inputs: list[Handle], outputs: list[Handle], carry: Carry, dtype: np.dtype
    ) -> Prepared:
        outline, wanted = _outline(graph.layout, dtype), set(inputs)

        def shape_of(handle: Handle) -> tuple[int, ...]:
            return tuple(getattr(store[handle], "shape", ()))

        for handle in dict.fromkeys([*graph.handles_used, *inputs, *outputs]):
            value = self.data.get(handle)
            if value is None and store[handle] is None:
                if handle.name in graph.rooms:
                    if handle in wanted:  # the caller fills it, so it is no room that begins anew
                        value = zeros_for(graph.rooms[handle.name].outline(handle, shape_of))
                elif (known := outline(handle)) is not None:
                    value = np.zeros(*known)
            if value is not None:
                store[handle] = store.given[handle] = value
        return Here(self.engine, graph, store, inputs=inputs, outputs=outputs, carry=carry, **self.how)

    def close(self) -> None:
        self.data.clear()


def check_home(backend: Any, pool: Any, comm: Any) -> None:
    """Refuse an engine that there is not, and a pool or communicator that is none or that the engine has no use for.

    Raises
    ------
    ValueError
        Unknown backend; ``pool`` or ``comm`` without MPI.
    TypeError
        ``pool`` is no `tilewright.backends.mpi.Pool`, ``comm`` no communicator of mpi4py.
    """
    engine_class(backend, computes=True).check_place(pool, comm)
