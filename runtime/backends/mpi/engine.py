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
=============  =========================================================================================

Buffers may be NumPy arrays of any dtype or torch's CPU tensors; 16-bit tiles travel as they are, in half the bytes of
FP32. Results are where the data was, as with every engine: a function's too, unless it returned a new value.

``workers`` counts those of all ranks; it is a multiple of the number of ranks. Without pool and grid there is one rank
per worker.
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from tilewright.backends.execution.buffers import view
from tilewright.backends.execution.engine import Progress, Site, check_options
from tilewright.backends.execution.program import Program
from tilewright.backends.execution.torch_state import capture
from tilewright.backends.mpi import pool as pools
from tilewright.backends.mpi.connection import Job
from tilewright.backends.mpi.launcher import require_mpi4py
from tilewright.backends.mpi.options import OPTIONS, WINDOW, is_rank, owner_for, per_rank
from tilewright.backends.ranks import pickling, segments
from tilewright.backends.ranks.outcome import Order, merge, planned, thaw
from tilewright.distribution import Distribution, by_handle, chosen_owner, owners
from tilewright.graph import Handle, TaskGraph
from tilewright.host.cores import cores
from tilewright.kernels import choice
from tilewright.runs.trace import Trace
from tilewright.scalars import optional, positive
from tilewright.schedulers import Policy
from tilewright.tiles import Store

if TYPE_CHECKING:
    from tilewright.backends.mpi.pool import Pool

__all__ = ["execute", "site"]


def execute(program: Program, policy: Policy, workers: int, progress: Progress | None) -> Trace:
    """Run with default options."""
    return site({}).execute(program, policy, workers, progress)


def site(options: dict[str, Any]) -> Site:
    """A pool's site, or on a rank that one's. ImportError without mpi4py."""
    comm = options.get("comm")
    if comm is not None and not (hasattr(comm, "Get_size") and hasattr(comm, "Dup")):
        raise TypeError(f"comm must be a communicator of mpi4py, not {comm!r}")
    if comm is not None or is_rank():
        from tilewright.backends.mpi.session import RankSite

        return RankSite(options)
    return PoolSite(options)


def how(options: dict[str, Any]) -> tuple[int, bool]:
    """Window and synchronous of a call. ValueError or TypeError that names them."""
    window, synchronous = options.get("window"), options.get("synchronous")
    return (
        WINDOW if window is None else positive(window, "window"),
        bool(optional(synchronous, "synchronous", bool | np.bool_, "True or False")),  # type: ignore[arg-type]
    )


class PoolSite(Site):
    """An ordinary process, and a pool beside it."""

    here = False
    plans = False

    def __init__(self, options: dict[str, Any]) -> None:
        check_options("mpi", options, OPTIONS)
        require_mpi4py()
        for name in ("root", "gather"):
            if options.get(name) is not None:
                raise ValueError(f"{name} is for calls on the ranks of mpiexec; here the caller has data and result")
        self.owner = chosen_owner(options)
        self.pool: Pool | None = optional(options.get("pool"), "pool", pools.Pool, "a tw.mpi.Pool") or pools.active()
        self.window, self.synchronous = how(options)

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
        crew = per_rank(workers, ranks)
        rank_of = owners(owner_for(graph, self.owner), ranks)
        order: Order = by_handle(graph, rank_of), None, ()
        pool = self.pool or pools.default(ranks)
        with pool.lock:
            given = program.store.given
            data = segments.like(given, segments.placer(_scratch(pool, given)))
            here, there = program.store, Store(data)
            _copy((here[handle], there[handle]) for handle in graph.inputs)
            job = Job(
                pickling.dumps((graph, data, scheduler, order)), crew, self.window, self.synchronous,
                progress is not None, choice.choice(), sys.path, pool.scratch.serial if pool.scratch else -1,
                capture(),
            )  # fmt: skip
            outcomes = pool.run(job, progress)
            if isinstance(outcomes, bytes):
                raise thaw(outcomes)
            trace = merge(graph, planned(graph, ranks, order), crew, outcomes)
            values: dict[Handle, Any] = {}
            replaced: set[Handle] = set()
            for outcome in outcomes:
                if outcome.values:
                    theirs, gave_up = pickle.loads(outcome.values)
                    values |= theirs
                    replaced |= gave_up
            _copy((there[handle], here[handle]) for handle in graph.results if handle not in values)
        for handle, value in values.items():
            place = here[handle]
            if handle not in replaced and isinstance(place, np.ndarray):
                place[...] = value
            else:
                here[handle] = value
        return trace


def _scratch(pool: Pool, data: Any) -> segments.Segment:
    """The pool's segment, with room for copies of the arrays in ``data``."""
    size = segments.room(segments.arrays_in(data))
    if pool.scratch is None or len(pool.scratch) < size:
        pool.scratch = segments.Segment.create(size)
    return pool.scratch


def _copy(pairs: Iterable[tuple[Any, Any]]) -> None:
    """target := source for all (source, target) that are memory in different places; on several cores if it pays."""
    arrays = ((view(source), view(target)) for source, target in pairs)
    todo = [(s, t) for s, t in arrays if s is not None and t is not None and not np.may_share_memory(s, t)]
    if sum(target.nbytes for _, target in todo) < 1 << 22:
        for source, target in todo:
            np.copyto(target, source)
        return
    with ThreadPoolExecutor(cores()) as copiers:
        for _ in copiers.map(lambda pair: np.copyto(pair[1], pair[0]), todo):
            pass
