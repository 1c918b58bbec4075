"""The calls of a rank under ``mpiexec``: collective, with the arguments of all ranks compared before anything runs."""

from __future__ import annotations

import os
import sys
import weakref
import zlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Literal

import numpy as np
from mpi4py import MPI

from tilewright.backends.execution.buffers import layout, view, wrap
from tilewright.backends.execution.engine import Bound, Progress
from tilewright.backends.execution.nested import refuse
from tilewright.backends.execution.program import Program
from tilewright.backends.execution.rooms import provide
from tilewright.backends.mpi.agreement import Agreement
from tilewright.backends.mpi.launcher import brings_mpi, remove, shm_files
from tilewright.backends.mpi.options import Mpi, how, per_rank
from tilewright.backends.mpi.part import own_cores, run_part, wires
from tilewright.backends.mpi.rank_home import RankHome
from tilewright.backends.ranks.bound import BoundLoops, bound_loops
from tilewright.backends.ranks.home import copied
from tilewright.backends.ranks.outcome import (
    Order,
    kernels_of,
    listed_of,
    loops_of,
    merge,
    nbytes_of,
    plan_of,
    planned,
    planned_needs,
)
from tilewright.backends.ranks.segments import like
from tilewright.distribution import by_handle, chosen_owner, owner_for, owners
from tilewright.graph import Handle, TaskGraph
from tilewright.host.affinity import as_pin
from tilewright.host.garbage import uncollected
from tilewright.passes.one_rank import OneRank
from tilewright.runs.progress import Ran, tell
from tilewright.runs.trace import Trace
from tilewright.scalars import plain
from tilewright.schedulers import Policy
from tilewright.tiles import Store, TiledMatrix

__all__ = ["MpiRank"]

GATHER = ("all", "root", "none")


class MpiRank(Mpi):
    """One rank of a collective call."""

    fixed = True

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.comm: MPI.Intracomm = options.get("comm") or MPI.COMM_WORLD
        if options.get("comm") is None or self.comm.size > 1:
            refuse("mpi")
        _check_size(self.comm)
        _abort_when_alone()
        self._agreement = Agreement(wires(self.comm).data)
        self.own = own_cores(self.comm)
        """Workers of each rank where the call does not say how many."""
        with self.agreement(run_follows=True) as facts:
            super().__init__(options)
            if options.get("pool") is not None:
                raise ValueError("this process is a rank under mpiexec; pass comm, not pool")
            if as_pin(options.get("pin")):
                raise ValueError("pin='cores' is for a pool on one host; under mpiexec the launcher binds ranks")
            self.owner = chosen_owner(options)
            self.root = self._rank_or_none(options.get("root"))
            self.gather = options.get("gather") or "all"
            if self.gather not in GATHER:
                raise ValueError(f"gather must be one of {', '.join(GATHER)}, not {self.gather!r}")
            self.window, self.synchronous = how(options)
            facts.update(root=self.root, gather=self.gather)
        self.has_data = self.root in (None, self.comm.rank)
        self.leads = self.comm.rank == (self.root or 0)
        self.tells = self.comm.rank == 0

    def _rank_or_none(self, root: Any) -> int | None:
        root = plain(root)
        if root is None or (isinstance(root, int) and 0 <= root < self.comm.size):
            return root
        raise ValueError(f"root must be one of the ranks 0 to {self.comm.size - 1}, not {root!r}")

    def argument(self, value: Any) -> Any:
        """On a rank that passes None: the root's argument, with zeros in its arrays (pages that nobody touches)."""
        if self.root is None:
            return value
        self._agreement.settle()  # who the root is
        here = self.comm.rank == self.root
        hollow = self.comm.bcast(like(value, Hollow.of) if here else None, self.root)
        return hollow if value is None and not here else value

    def agreement(self, *, run_follows: bool = False) -> AbstractContextManager[dict[str, Any]]:
        return self._agreement.block(exchange=not run_follows)

    def workers(self, workers: int | None, most: int | None = None) -> int:
        return self.comm.size * per_rank(workers, self.comm.size, self.own)

    def script_ranks(self, graph: TaskGraph, workers: int | None) -> int:
        return self.comm.size if per_rank(workers, self.comm.size, self.own) == 1 else 0

    def owner_of(self, graph: TaskGraph, ranks: int) -> Callable[[Handle], int]:
        return owners(owner_for(graph, self.owner), ranks)

    def home(self, data: Mapping[Handle, Any], ranks: int, owner: Callable[[Handle], int], copy: bool) -> RankHome:
        self._agreement.settle()
        return RankHome(copied(data) if copy else data, ranks, owner, self.comm, self.synchronous)

    def needs(self, graph: TaskGraph, store: Store, workers: int | None) -> list[int]:
        loops = None if graph.unrolled else loops_of(graph, self.owner, self.comm.size)
        if loops is None:
            provide(graph, store)
            return planned_needs(planned(graph, self.comm.size, self._order(graph)), store, self.window)
        with self.agreement() as facts, uncollected():
            facts["graph"] = _told(graph)
            plan = plan_of(loops[0], self.comm.size, self.comm.rank, (loops[1], self.root, self._collect))
            assert isinstance(plan, OneRank)
            provide(plan.part(self.comm.rank).graph, store)
            own = plan.peak_memory(partial(nbytes_of, store), self.window)
        return [int(need) for need in self._agreement.comm.allgather(own)]

    def _order(self, graph: TaskGraph) -> Order:
        """What the plan of a run is made with."""
        owner = by_handle(graph, owners(owner_for(graph, self.owner), self.comm.size))
        return owner, self.root, self._collect

    @property
    def _collect(self) -> tuple[int, ...]:
        """The ranks that get all results."""
        return {"all": tuple(range(self.comm.size)), "root": (self.root or 0,), "none": ()}[self.gather]

    def rank_count(self, workers: int | None) -> int:
        return int(self.comm.size)

    def bind(self, graph: TaskGraph, data: Any) -> Bound:
        if not graph.unrolled and (loops := loops_of(graph, self.owner, self.comm.size)) is not None:
            bound = bound_loops(graph, loops[0], {} if data is None else data)
            if bound is not None:
                return bound
        return super().bind(graph, data)

    def execute(
        self, program: Program | BoundLoops, scheduler: str | Policy, workers: int | None, progress: Progress | None
    ) -> Trace:
        graph, store = program.graph, program.store
        with self.agreement(run_follows=True) as facts:
            with uncollected():
                loops = loops_of(graph, self.owner, self.comm.size)
                order: Order = self._order(graph) if loops is None else (loops[1], self.root, self._collect)
                planned_as = listed_of(graph) if loops is None else loops[0]
            each = per_rank(workers, self.comm.size, self.own)
            facts["graph"] = _told(graph)
            facts["owner"] = f"{_rule(self.owner)} (checksum {zlib.crc32(repr(order[0]).encode())})"
            facts["data"] = program.layouts() if isinstance(program, BoundLoops) else _layouts(program)
        outcomes = run_part(
            self.comm,
            planned_as,
            store,
            scheduler,
            each,
            order,
            window=self.window,
            synchronous=self.synchronous,
            deliver=False,
            progress=progress if self.comm.rank == 0 else None,
            agreed=self._agreement,
        )
        if isinstance(program, BoundLoops):
            program.kernels = kernels_of(outcomes)
        with uncollected():
            trace = merge(graph, each, outcomes)
        if progress is not None and self.comm.rank == 0:  # until now only its own part was told
            tell(
                progress,
                len(graph),
                lambda: [Ran(r.rank, r.worker, r.task, r.start, r.end) for r in trace.records if r.rank],
            )
        return trace

    def everywhere(self, value: Any) -> Any:
        if self.root is None:
            return value
        self._agreement.settle()
        array = np.array(value.to_numpy() if isinstance(value, TiledMatrix) else value, order="C")
        self.comm.Bcast(array, self.root)
        return array

    def agreed(self, value: Any) -> Any:
        self._agreement.settle()
        return self.comm.bcast(value, self.root or 0)

    def result(self, value: Any) -> Any:
        return None if self.gather == "root" and self.comm.rank != (self.root or 0) else value


class Hollow:
    """An array or tensor without its values; it arrives elsewhere as zeros of that shape, dtype and order."""

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype, order: Literal["C", "F"], kind: str = "") -> None:
        self.shape, self.dtype, self.order, self.kind = shape, dtype, order, kind

    @classmethod
    def of(cls, array: np.ndarray) -> Any:
        return cls(array.shape, array.dtype, layout(array))

    @property
    def T(self) -> Hollow:  # noqa: N802 - as in NumPy
        return Hollow(self.shape[::-1], self.dtype, "F" if self.order == "C" else "C")

    def wrapped(self, kind: str) -> Hollow:
        return Hollow(self.shape, self.dtype, self.order, kind)

    def __reduce__(self) -> tuple[Any, ...]:
        return _filled, (self.shape, self.dtype, self.order, self.kind)


def _filled(shape: tuple[int, ...], dtype: np.dtype, order: Literal["C", "F"], kind: str) -> Any:
    return wrap(np.zeros(shape, dtype, order), kind)


def _check_size(comm: MPI.Intracomm) -> None:
    for variable in ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE"):
        wanted = os.environ.get(variable, "")
        if wanted.isdigit() and int(wanted) > 1 and MPI.COMM_WORLD.size == 1:
            raise RuntimeError(
                f"the launcher started {wanted} ranks, but each sees itself alone: mpiexec and the MPI that mpi4py "
                f"loads ({MPI.Get_library_version().split(',')[0].splitlines()[0]}) do not belong "
                f"together; {brings_mpi()}"
            )


_hooked = False


def _abort_when_alone() -> None:
    """Let an exception that ends one rank end all: MPI would wait in its finalisation for the others, forever.

    An abort skips what MPI does at its orderly end, so the names of its shared memory go here.
    """
    global _hooked
    if _hooked:
        return
    _hooked = True
    show = sys.excepthook

    def hook(kind: Any, error: Any, traceback: Any) -> None:
        show(kind, error, traceback)
        from mpi4py.run import set_abort_status

        set_abort_status(error)
        remove(shm_files([os.getpid()]))

    sys.excepthook = hook


def _told(graph: TaskGraph) -> str:
    """What ranks compare of a graph."""
    return f"{graph.name!r} ({len(graph)} tasks, checksum {_checksum(graph)})"


def _rule(owner: Any) -> str:
    """An owner rule by name: the address of a function differs between ranks."""
    if isinstance(owner, Mapping):
        return str({str(key): _rule(rule) for key, rule in owner.items()})
    return str(getattr(owner, "__qualname__", owner))


_checksums: weakref.WeakKeyDictionary[TaskGraph, int] = weakref.WeakKeyDictionary()


def _checksum(graph: TaskGraph) -> int:
    """A checksum of the program: ops, accesses and parameters, task by task, or of the loops that make the tasks. Made
    once, as the graph is frozen."""
    if graph.loops is not None:
        return int(graph.loops.checksum)
    total = _checksums.get(graph)
    if total is None:
        total = 0
        for task in graph.tasks:
            total = zlib.crc32(f"{task.op.name}{task.uses}{task.groups}{task.params}{task.on}".encode(), total)
        _checksums[graph] = total
    return total


def _layouts(program: Program) -> str:
    """What the ranks have to have in common: shape, dtype and order of each array."""
    kinds: dict[str, None] = {}
    total = 0
    for handle in program.graph.handles_used:
        value = program.store[handle]
        array = view(value)
        kind = type(value).__name__ if array is None else f"{array.shape} {value.dtype} {layout(array)}"
        kinds[f"{handle.name}: {kind}"] = None
        total = zlib.crc32(f"{handle}{kind}".encode(), total)
    return f"{'; '.join(list(kinds)[:3])} (checksum {total})"
