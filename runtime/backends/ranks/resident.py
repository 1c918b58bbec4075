"""Data that stays where the tasks run, and graphs that run on it again and again.

An operator of a million numbers is applied thousands of times to a thousand: its data must not travel with each call,
and its graph must not be planned anew. So there are two steps before the first call::

    resident = Resident({block: A}, owner=..., ranks=4, backend="mpi")     # each rank gets its own part, once
    step = resident.prepare(graph, inputs=[x], outputs=[y])                # each rank lays out its part, once
    step.inputs[x][...] = vector
    step()                                                                 # only x and y travel
    answer = step.outputs[y]

On MPI a prepared graph is a `tilewright.backends.mpi.script.Script` on each rank, with persistent requests; input and
output lie in memory that the ranks map. Other engines run in this process, where data stays by itself.
"""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np

from tilewright.backends import COMPUTING
from tilewright.errors import MissingDataError
from tilewright.graph import Handle, Layout, TaskGraph
from tilewright.runs.trace import Trace
from tilewright.scalars import choice, flag, function, instance, shown
from tilewright.scalars import ranks as rank_count

if TYPE_CHECKING:
    from tilewright.backends.mpi.pool import Pool

__all__ = ["Prepared", "Resident", "check_given", "check_home"]


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
        One of `COMPUTING`. With ``"mpi"`` in an ordinary process the ranks are those of ``pool``, the ``with`` block,
        or a pool that is kept between calls; on the ranks of ``mpiexec`` it is a collective call, and each rank keeps
        what it owns.
    synchronous
        Let each send wait for its receive; finds deadlocks. MPI only.
    copy
        False: engines of this process, and ranks under ``mpiexec``, work on the buffers themselves.

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
    >>> from tilewright.distribution import Layout
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

    def __init__(self, data: Mapping[Handle, Any], *, ranks: int, owner: Callable[[Handle], int],
                 backend: str = "threads", pool: Pool | None = None, comm: Any = None,
                 synchronous: bool = False, copy: bool = True) -> None:  # fmt: skip
        check_home(backend, pool, comm)
        ranks, synchronous, copy = rank_count(ranks), flag(synchronous, "synchronous"), flag(copy, "copy")
        function(owner, "owner")
        for handle in instance(data, "data", Mapping, "a dict of buffers by handle"):
            instance(handle, "each key of data", Handle, "a Handle, such as graph.handle('x')")
            rank: Any = owner(handle)
            if isinstance(rank, bool) or not isinstance(rank, Integral) or int(rank) not in range(ranks):
                raise ValueError(f"owner puts {handle} on rank {rank}, but there are ranks 0..{ranks - 1}")
        self.ranks, self.owner, self.backend = ranks, owner, backend
        self._closed = False
        self.handles = frozenset(data)
        self._home = _home(data, ranks, owner, backend, pool, comm, synchronous, copy)

    def prepare(self, graph: TaskGraph, *, inputs: Iterable[Handle], outputs: Iterable[Handle],
                dtype: Any = np.float64) -> Prepared:  # fmt: skip
        """Lay out a graph that reads this data.

        ``graph.layout`` says where its handles live and how large they are; ``dtype`` is that of ``inputs``,
        ``outputs`` and of all that the tasks make on the way. Functions change what they write in place, or return new
        values of the same shape.

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
        graph.frozen = True
        prepared: Prepared = self._home.prepare(graph, layout, list(inputs), list(outputs), np.dtype(dtype))
        return prepared

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("data that stays on ranks can be neither pickled nor copied; make another Resident of the data")

    def close(self) -> None:
        """Free the data on the ranks now."""
        self._closed = True
        self._home.close()


class Prepared:
    """A graph that is ready to run on resident data. Made by `Resident.prepare`.

    Fill ``inputs``, call it, read ``outputs``; their arrays stay the same from call to call. So it is for one thread at
    a time, and a call during another one is refused: prepare the graph once for each thread. It can be neither pickled
    nor copied.
    """

    inputs: dict[Handle, np.ndarray]
    outputs: dict[Handle, np.ndarray]

    def __init__(self) -> None:
        self._busy = threading.Lock()

    def __call__(self) -> None:
        """Run once. Raises what a task raises, `RankDied` where a rank ends, RuntimeError during another call."""
        with self._alone():
            self._run()

    def traced(self) -> Trace:
        """Run once and return what happened when."""
        with self._alone():
            return self._run_traced()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        if not self._busy.acquire(blocking=False):
            raise RuntimeError(
                "this Prepared is running in another thread, on the one set of inputs and outputs that it has; prepare "
                "the graph once for each thread"
            )
        try:
            yield
        finally:
            self._busy.release()

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("a prepared graph can be neither pickled nor copied; prepare it again where it is needed")

    @abstractmethod
    def _run(self) -> None:
        """Run once."""

    @abstractmethod
    def _run_traced(self) -> Trace:
        """Run once and tell."""


# ------------------------------------------------------------------ engines of this process


class _Local:
    """Data of this process."""

    def __init__(self, data: Mapping[Handle, Any], backend: str, copy: bool) -> None:
        self.data = copied(data) if copy else dict(data)
        self.backend = backend

    def prepare(self, graph: TaskGraph, layout: Layout, inputs: list[Handle], outputs: list[Handle],
                dtype: np.dtype) -> Prepared:  # fmt: skip
        return _LocalPrepared(self, graph, layout, inputs, outputs, dtype)

    def close(self) -> None:
        self.data.clear()


class _LocalPrepared(Prepared):
    def __init__(self, home: _Local, graph: TaskGraph, layout: Layout, inputs: list[Handle], outputs: list[Handle],
                 dtype: np.dtype) -> None:  # fmt: skip
        super().__init__()
        self.graph, self.backend = graph, home.backend
        self._store = {
            handle: home.data[handle] if handle in home.data else np.zeros(layout.shape(handle), dtype)
            for handle in dict.fromkeys([*graph.handles_used, *inputs, *outputs])
        }
        check_given(graph, home.data.keys() | set(inputs))
        self.inputs = {handle: self._store[handle] for handle in inputs}
        self.outputs = {handle: self._store[handle] for handle in outputs}

    def _run(self) -> None:
        self._run_traced()

    def _run_traced(self) -> Trace:
        from tilewright.engine import run

        done = run(self.graph, self._store, backend=self.backend)
        moved = [(p, done.store[h]) for h, p in self.outputs.items() if done.store[h] is not p]
        apart = len(moved) < 2  # else a value may lie where another one goes, as after an exchange
        for place, value in [(p, v if apart else np.array(v)) for p, v in moved]:
            np.copyto(place, value)
        return done.trace


def copied(data: Mapping[Handle, Any]) -> dict[Handle, Any]:
    """The same with copies of all arrays and tensors, also of those in containers."""
    from tilewright.backends.ranks.segments import like

    return {handle: like(value, lambda array: np.array(array, order="K")) for handle, value in data.items()}


def check_home(backend: Any, pool: Any, comm: Any) -> None:
    """Refuse an engine that there is not, and a pool or communicator that is none or that the engine has no use for.

    Raises
    ------
    ValueError
        Unknown backend; ``pool`` or ``comm`` without MPI.
    TypeError
        ``pool`` is no `tilewright.backends.mpi.Pool`, ``comm`` no communicator of mpi4py.
    """
    choice(backend, "backend", COMPUTING)
    if backend != "mpi" and not (pool is None and comm is None):
        raise ValueError(f"pool and comm are for backend 'mpi', not {backend!r}")
    if pool is not None:
        from tilewright.backends.mpi.pool import Pool

        instance(pool, "pool", Pool, "a tilewright.backends.mpi.Pool, such as Pool(4)")
    if comm is not None and not (hasattr(comm, "Get_rank") and hasattr(comm, "Get_size")):
        raise TypeError(f"comm must be a communicator, such as mpi4py.MPI.COMM_WORLD, not {shown(comm)}")


def check_given(graph: TaskGraph, known: Collection[Handle]) -> None:
    """MissingDataError for a handle that the graph reads first and nobody gives."""
    missing = [handle for handle in graph.inputs if handle not in known]
    if missing:
        raise MissingDataError(f"the graph reads {missing[0]}, which is neither kept on the ranks nor an input")


def _home(data: Mapping[Handle, Any], ranks: int, owner: Callable[[Handle], int], backend: str, pool: Any, comm: Any,
          synchronous: bool, copy: bool) -> Any:  # fmt: skip
    if backend != "mpi":
        return _Local(data, backend, copy)
    from tilewright.backends.mpi.launcher import require_mpi4py
    from tilewright.backends.mpi.options import is_rank

    require_mpi4py()
    if comm is not None or is_rank():
        from tilewright.backends.mpi.rank_home import RankHome

        return RankHome(copied(data) if copy else data, ranks, owner, comm, synchronous)
    from tilewright.backends.mpi.pool_home import PoolHome

    return PoolHome(data, ranks, owner, pool, synchronous)
