"""What stays on a rank between runs: data, and scripts over it. They go when the object of the user goes.

`Guests` are those of a pool's rank; `RankHome` is where a rank under ``mpiexec`` keeps its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import perf_counter
from typing import Any

import numpy as np
from mpi4py import MPI

from tilewright.distribution import Layout
from tilewright.graph import Handle, TaskGraph
from tilewright.kernels import choice
from tilewright.kernels.threads import limits, one_thread
from tilewright.mpi.outcome import Order, freeze, planned
from tilewright.mpi.part import agreement, wires
from tilewright.mpi.residence import checked, trace_of
from tilewright.mpi.script import Script
from tilewright.mpi.shared import Mappings, like, loads
from tilewright.mpi.wire import Forget, Go, Keep, Prepare, follow
from tilewright.nested import refuse
from tilewright.resident import Prepared, check_given
from tilewright.trace import Trace

__all__ = ["Guests", "RankHome"]


class Guests:
    """The data and scripts of one rank, by key."""

    def __init__(self, comm: MPI.Intracomm) -> None:
        self.comm = comm
        self.data: dict[int, dict[Handle, Any]] = {}
        self.scripts: dict[int, Script] = {}

    def serve(self, job: Keep | Prepare | Go) -> Any:
        """The answer: None, what a script told, or a frozen exception."""
        try:
            if isinstance(job, Go):
                with job.ambient.entered():
                    told = self.scripts[job.key].run(job.traced)
                if told.failure is None:
                    return told
                return told._replace(failure=(told.failure[0], freeze(told.failure[1])))
            if isinstance(job, Keep):
                # Out of the shared segment, into memory of this rank: the segment can go.
                self.data[job.key] = like(loads(job.contents, Mappings()), np.array)
                return None
            self._prepare(job)
        except Exception as error:
            return freeze(error)
        return None

    def _prepare(self, job: Prepare) -> None:
        follow(job.path)
        line = wires(self.comm).data
        with agreement(line):
            choice.adopt(job.blas)
            # The mappings of the letter box live in its arrays.
            graph, order, box, data, outlines, synchronous = loads(job.contents, Mappings())
            self.scripts[job.key] = Script(
                line, planned(graph, self.comm.size, order), self.data[data], box,
                outline=outlines.__getitem__, synchronous=synchronous, shared=True,
            )  # fmt: skip

    def forget(self, job: Forget) -> None:
        for key in job.keys:
            self.data.pop(key, None)
            script = self.scripts.pop(key, None)
            if script is not None:
                script.free()


# ------------------------------------------------------------------ under mpiexec


class RankHome:
    """What this rank owns of data that all ranks name; collective."""

    def __init__(self, data: Mapping[Handle, Any], ranks: int, owner: Callable[[Handle], int], comm: Any,
                 synchronous: bool) -> None:  # fmt: skip
        self.comm: MPI.Intracomm = comm or MPI.COMM_WORLD
        if comm is None or self.comm.size > 1:
            refuse("mpi")
        self.line = wires(self.comm).data
        self.synchronous = synchronous
        with agreement(self.line) as facts:
            if self.comm.size != ranks:
                raise ValueError(f"the data is for {ranks} ranks, but the communicator has {self.comm.size}")
            facts["data"] = ", ".join(sorted(map(str, data)))
        self.handles = frozenset(data)
        self.outlines = {
            handle: (value.shape, value.dtype) for handle, value in data.items() if hasattr(value, "dtype")
        }
        self.data = {handle: value for handle, value in data.items() if owner(handle) == self.comm.rank}

    def prepare(self, graph: TaskGraph, layout: Layout, inputs: list[Handle], outputs: list[Handle],
                dtype: np.dtype) -> Prepared:  # fmt: skip
        return _RankPrepared(self, graph, layout, inputs, outputs, dtype)

    def close(self) -> None:
        self.data.clear()


class _RankPrepared(Prepared):
    """Inputs are those of the rank that owns them; every rank gets all outputs."""

    def __init__(self, home: RankHome, graph: TaskGraph, layout: Layout, inputs: list[Handle], outputs: list[Handle],
                 dtype: np.dtype) -> None:  # fmt: skip
        super().__init__()
        self.line = home.line
        with agreement(self.line) as facts:
            check_given(graph, home.handles | set(inputs))
            facts["graph"] = f"{graph.name!r} ({len(graph)} tasks)"
            box = {handle: np.zeros(layout.shape(handle), dtype) for handle in [*inputs, *outputs]}
            self.inputs = {handle: box[handle] for handle in inputs}
            self.outputs = {handle: box[handle] for handle in outputs}
            ranks = self.line.size
            order: Order = tuple(map(layout.owner, graph.handles_used)), None, tuple(range(ranks))
            self.graph = graph
            self.plan = planned(graph, ranks, order, frozenset(outputs))
            self.script = Script(
                self.line, self.plan, home.data, box, synchronous=home.synchronous, shared=False,
                outline=lambda handle: home.outlines.get(handle) or (layout.shape(handle), dtype),
            )  # fmt: skip

    def _run(self) -> None:
        self._once(False)

    def _run_traced(self) -> Trace:
        began = self.line.allreduce(perf_counter(), MPI.MAX)
        return trace_of(self.graph, self.plan, began, self._once(True))

    def _once(self, traced: bool) -> list[Any]:
        with limits(self.script.uses_functions), one_thread():
            told = self.script.run(traced)
        if told.failure is not None:
            told = told._replace(failure=(told.failure[0], freeze(told.failure[1])))
        return checked(self.line.allgather(told))
