"""mpi: ranks that own parts of the data and exchange messages.

The same call works in two places. In an ordinary process (script, notebook, pytest) it sends the run to a pool of
ranks on this host, `tilewright.backends.mpi.Pool`; data goes through shared memory. On the ranks of ``mpiexec -n P
python script.py`` it is collective: all ranks call it with the same arguments.

Options, all optional:

=============  =========================================================================================
owner          who owns which handle: see `tilewright.distribution.owners`; by default the graph's layout says
               it, and for a graph without one it is block-cyclic
grid           ``(P, Q)``, short for ``owner=BlockCyclic(P, Q)``
pool           the `Pool` to use; else that of the ``with`` block, else one that is kept between calls
comm           the communicator of a collective call; COMM_WORLD by default
root           collective: the rank that has the data, the others pass None. By default all pass data of
               one shape, and a rank's data counts where it is the owner
gather         collective: who gets the result, ``"all"``, ``"root"`` (None elsewhere) or ``"none"``: every
               rank keeps what its tasks wrote
window         bytes of others' tiles that a rank holds before it is needed to go on; 256 MiB
synchronous    let each send wait for its receive; finds deadlocks
pin            ``"cores"``: each worker of each rank of a pool stays on a core of its own, see
               `tilewright.host.affinity`. Under mpiexec the launcher binds ranks
=============  =========================================================================================

Buffers may be NumPy arrays of any dtype or torch's CPU tensors; 16-bit tiles travel as they are, in half the bytes of
FP32. Results are where the data was, as with every engine: a function's too, unless it returned a new value.

``workers`` counts those of all ranks; it is a multiple of the number of ranks. Without pool and grid there is one rank
per worker.
"""

from __future__ import annotations

import pickle
import sys
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from tilewright.backends.execution.buffers import view
from tilewright.backends.execution.engine import Engine, Progress
from tilewright.backends.execution.program import Program
from tilewright.backends.execution.rooms import provide
from tilewright.backends.execution.torch_state import capture
from tilewright.backends.mpi import pool as pools
from tilewright.backends.mpi.connection import Job
from tilewright.backends.mpi.launcher import require_mpi4py
from tilewright.backends.mpi.options import Mpi, how, per_rank
from tilewright.backends.ranks import pickling, segments
from tilewright.backends.ranks.outcome import Order, listed_of, loops_of, merge, planned, planned_needs, thaw
from tilewright.distribution import Distribution, by_handle, chosen_owner, owner_for, owners
from tilewright.graph import Handle, TaskGraph
from tilewright.host.affinity import as_pin, places
from tilewright.host.cores import cores
from tilewright.host.garbage import uncollected
from tilewright.host.memory import copy_all
from tilewright.kernels import choice
from tilewright.runs.progress import takes_rows
from tilewright.runs.trace import Trace
from tilewright.scalars import optional
from tilewright.schedulers import Policy
from tilewright.tiles import Store

if TYPE_CHECKING:
    from tilewright.backends.mpi.pool import Pool
    from tilewright.backends.ranks.home import Home

__all__ = ["MpiPool"]


class MpiPool(Mpi):
    """An ordinary process, and a pool beside it."""

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Engine:
        """A pool's engine, or on a rank that one's. ImportError without mpi4py."""
        comm = options.get("comm")
        if comm is not None and not (hasattr(comm, "Get_size") and hasattr(comm, "Dup")):
            raise TypeError(f"comm must be a communicator of mpi4py, not {comm!r}")
        if cls.together(options):
            from tilewright.backends.mpi.session import MpiRank

            return MpiRank(options)
        return cls(options)

    def __init__(self, options: Mapping[str, Any]) -> None:
        super().__init__(options)
        require_mpi4py()
        for name in ("root", "gather"):
            if options.get(name) is not None:
                raise ValueError(f"{name} is for calls on the ranks of mpiexec; here the caller has data and result")
        self.owner = chosen_owner(options)
        self.pool: Pool | None = optional(options.get("pool"), "pool", pools.Pool, "a tw.mpi.Pool") or pools.active()
        self.fixed = self.pool is not None
        self.window, self.synchronous = how(options)
        self.pin = as_pin(options.get("pin"))

    def workers(self, workers: int | None, most: int | None = None) -> int:
        ranks = self._ranks(workers)
        return ranks * per_rank(workers, ranks)

    def rank_count(self, workers: int | None) -> int:
        return self._ranks(workers)

    def _ranks(self, workers: int | None, graph: TaskGraph | None = None) -> int:
        if self.pool is not None:
            return self.pool.ranks
        if isinstance(self.owner, Distribution):
            return self.owner.ranks
        if workers is None and self.owner is None and graph is not None and graph.layout is not None:
            return graph.layout.ranks
        return workers or cores()

    def hold(self, workers: int | None) -> int:
        if self.pool is None:
            self.pool = pools.default(self._ranks(workers))
        return self.pool.ranks

    def script_ranks(self, graph: TaskGraph, workers: int | None) -> int:
        ranks = self._ranks(workers, graph)
        return ranks if per_rank(workers, ranks) == 1 and not self.pin else 0  # scripts bind nobody

    def dealt(self, graph: TaskGraph, workers: int | None) -> tuple[int, Callable[[Handle], int]]:
        ranks = self._ranks(workers, graph)
        return ranks, self.owner_of(graph, ranks)

    def needs(self, graph: TaskGraph, store: Store, workers: int | None) -> list[int]:
        provide(graph, store)
        ranks = self._ranks(workers, graph)
        order: Order = by_handle(graph, owners(owner_for(graph, self.owner), ranks)), None, ()
        return planned_needs(planned(graph, ranks, order), store, self.window)

    def renew(self) -> None:
        """A pool of the caller that is over gives way to one that is kept."""
        if self.pool is not None and self.pool.closed:
            self.pool = pools.default(self.pool.ranks)

    def owner_of(self, graph: TaskGraph, ranks: int) -> Callable[[Handle], int]:
        return owners(owner_for(graph, self.owner), ranks)

    def home(self, data: Mapping[Handle, Any], ranks: int, owner: Callable[[Handle], int], copy: bool) -> Home:
        from tilewright.backends.mpi.pool_home import PoolHome

        return PoolHome(data, ranks, owner, self.pool, self.synchronous)

    def keep(self, array: np.ndarray) -> np.ndarray:
        segment = segments.Segment.create(segments.room([array]))
        kept = segments.placer(segment)(array)
        kept[...] = array
        return kept

    def execute(
        self, program: Program, scheduler: str | Policy, workers: int | None, progress: Progress | None
    ) -> Trace:
        graph = program.graph
        ranks = self._ranks(workers, graph)
        each = per_rank(workers, ranks)
        rank_of = owners(owner_for(graph, self.owner), ranks)
        loops = loops_of(graph, self.owner, ranks)
        with uncollected():
            order: Order = by_handle(graph, rank_of) if loops is None else loops[1], None, ()
        pool = self.pool or pools.default(ranks)
        with pool.lock:
            given = program.store.given
            data = segments.like(given, segments.placer(_scratch(pool, given)))
            here, there = program.store, Store(data)
            shared = {key if isinstance(key, str) else key.name for key in given}
            _copy((here[handle], there[handle]) for handle in graph.inputs if handle.name in shared)
            key, is_there = _key(pool, program, order)
            with uncollected():
                contents = b"" if is_there else pickling.dumps((listed_of(graph) if loops is None else loops[0], order))
            job = Job(
                key,
                contents,
                pickling.dumps((data, scheduler)),
                each,
                self.window,
                self.synchronous,
                progress is not None,
                takes_rows(progress),
                choice.choice(),
                sys.path,
                pool.scratch.serial if pool.scratch else -1,
                capture(),
                places(ranks * each) if self.pin else None,
            )
            outcomes = pool.run(job, progress)
            if isinstance(outcomes, bytes):
                raise thaw(outcomes)
            if key >= 0:
                _kept[program] = weakref.ref(pool), key, order
            with uncollected():
                trace = merge(graph, each, outcomes)
            values: dict[Handle, Any] = {}
            replaced: set[Handle] = set()
            for outcome in outcomes:
                if outcome.values:
                    theirs, gave_up = pickle.loads(outcome.values)
                    values |= theirs
                    replaced |= gave_up
            results = (handle for handle in graph.results if handle.name in shared and handle not in values)
            _copy((there[handle], here[handle]) for handle in results)
        for handle, value in values.items():
            place = here[handle]
            if handle not in replaced and isinstance(place, np.ndarray):
                place[...] = value
            else:
                here[handle] = value
        return trace


_kept: weakref.WeakKeyDictionary[Program, tuple[Any, int, Order]] = weakref.WeakKeyDictionary()
"""Prepared programs: the pool that has graph and plan, under which key, and what the plan was made with."""


def _key(pool: Pool, program: Program, order: Order) -> tuple[int, bool]:
    """The key of a program on the ranks of a pool, and whether it is there already; it goes with the program."""
    if not program.prepared:
        return -1, False
    holder, key, planned_with = _kept.get(program, (lambda: None, -1, None))
    if holder() is pool and planned_with == order:
        return key, True
    key = next(pools.keys)
    weakref.finalize(program, pool.forget, key)
    return key, False


def _scratch(pool: Pool, data: Any) -> segments.Segment:
    """The pool's segment, with room for copies of the arrays in ``data``."""
    size = segments.room(segments.arrays_in(data))
    if pool.scratch is None or len(pool.scratch) < size:
        pool.scratch = segments.Segment.create(size)
    return pool.scratch


def _copy(pairs: Iterable[tuple[Any, Any]]) -> None:
    """target := source for all (source, target) that are memory in different places; on several cores if it pays."""
    arrays = ((view(source), view(target)) for source, target in pairs)
    pairs = ((t, s) for s, t in arrays if s is not None and t is not None)
    copy_all((t, s) for t, s in pairs if not np.may_share_memory(s, t))
