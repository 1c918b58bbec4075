"""Data and prepared graphs on the ranks of ``mpiexec``, as each of them holds its part."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import perf_counter
from typing import Any

import numpy as np
from mpi4py import MPI

from tilewright.backends.execution.nested import refuse
from tilewright.backends.mpi.part import agreement, wires
from tilewright.backends.mpi.pool_home import checked, trace_of
from tilewright.backends.mpi.script import Script
from tilewright.backends.ranks.outcome import Order, freeze, planned
from tilewright.backends.ranks.resident import Prepared, check_given
from tilewright.graph import Handle, Layout, TaskGraph
from tilewright.kernels.threads import limits, one_thread
from tilewright.runs.trace import Trace

__all__ = ["RankHome"]


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
