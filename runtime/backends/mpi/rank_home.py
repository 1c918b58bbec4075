"""Data and prepared graphs on the ranks of ``mpiexec``, as each of them holds its part."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter
from typing import Any

from mpi4py import MPI

from tilewright.backends.execution.nested import refuse
from tilewright.backends.execution.prepared import Prepared
from tilewright.backends.mpi.kept import named
from tilewright.backends.mpi.part import agreement, wires
from tilewright.backends.mpi.pool_home import checked, trace_of
from tilewright.backends.mpi.script import Script, Told
from tilewright.backends.ranks.home import Home, PlacedGraph
from tilewright.backends.ranks.outcome import Order, freeze, planned
from tilewright.graph import Handle
from tilewright.kernels.threads import limits, one_thread
from tilewright.runs.trace import Trace

__all__ = ["RankHome"]


class RankHome(Home):
    """What this rank owns of data that all ranks name; collective."""

    def __init__(
        self, data: Mapping[Handle, Any], ranks: int, owner: Callable[[Handle], int], comm: Any, synchronous: bool
    ) -> None:
        self.comm: MPI.Intracomm = comm or MPI.COMM_WORLD
        if comm is None or self.comm.size > 1:
            refuse("mpi")
        self.line = wires(self.comm).data
        self.synchronous = synchronous
        with agreement(self.line) as facts:
            if self.comm.size != ranks:
                raise ValueError(f"the data is for {ranks} ranks, but the communicator has {self.comm.size}")
            facts["data"] = ", ".join(sorted(map(str, data)))
        self.data: dict[Handle, Any] = {}
        super().__init__(data, ranks, owner)

    def keep(self, data: Mapping[Handle, Any]) -> None:
        super().keep(data)
        self.data |= self.mine(data, self.owner)

    def mine(self, data: Mapping[Handle, Any], owner: Callable[[Handle], int]) -> dict[Handle, Any]:
        return {handle: value for handle, value in data.items() if owner(handle) == self.comm.rank}

    def prepare(self, bound: PlacedGraph) -> Prepared:
        return _RankPrepared(self, bound)

    def call(self, function: str, prepared: Sequence[Any], *arguments: Any) -> list[Any]:
        with limits(False), one_thread():
            return [named(function)(self.line, [step.script for step in prepared], *arguments)]

    def close(self) -> None:
        self.data.clear()


class _RankPrepared(Prepared):
    """Inputs are those of the rank that owns them; every rank gets all outputs."""

    def __init__(self, home: RankHome, bound: PlacedGraph) -> None:
        graph = bound.graph
        super().__init__(graph, "mpi")
        self.line, self.ranks = home.line, home.ranks
        with agreement(self.line) as facts:
            facts["graph"] = f"{graph.name!r} ({len(graph)} tasks)"
            box = {handle: bound.buffer(handle) for handle in dict.fromkeys([*bound.inputs, *bound.outputs])}
            self.inputs = {handle: box[handle] for handle in bound.inputs}
            self.outputs = {handle: box[handle] for handle in bound.outputs}
            written = set(graph.written)
            back = frozenset(h for h in box if h in written and h in graph.inputs)  # what the next repetition reads
            order: Order = tuple(map(bound.owner, graph.handles_used)), None, tuple(range(self.ranks))
            self.plan = planned(graph, self.ranks, order, back)
            self._traffic = bound.traffic(self.plan)
            used = set(graph.handles_used)
            stays = {h: v for h, v in home.data.items() if h in used} | home.mine(bound.data, bound.owner)
            self.script = Script(
                self.line,
                self.plan,
                stays,
                box,
                outline=bound.outline,
                synchronous=home.synchronous,
                shared=False,
                inputs=bound.inputs,
                carry=bound.carry,
            )
        self._end = weakref.finalize(self, _free, self.script)

    def _together(self, run: Callable[[], Told]) -> list[Any]:
        """What all ranks told."""
        with limits(self.script.uses_functions), one_thread():
            told = run()
        if told.failure is not None:
            told = told._replace(failure=told.failure._replace(error=freeze(told.failure.error)))
        tolds = checked(self.line.allgather(told))
        self.script.gather()
        return tolds

    def _repeat(self, times: int, until: Handle | None) -> int:
        done: int = self._together(lambda: self.script.repeat(times, until))[0].done
        self.messages += done * self._traffic[0]
        self.bytes += done * self._traffic[1]
        return done

    def _traced(self) -> Trace:
        began = self.line.allreduce(perf_counter(), MPI.MAX)
        return trace_of(self.graph, self.plan, began, self._together(self.script.traced))

    def _timed(self, rounds: int, times: int) -> list[list[float]]:
        return [told.seconds for told in self._together(lambda: self.script.timed(rounds, times))]

    def _free(self) -> None:
        self._end()


def _free(script: Script) -> None:
    if not MPI.Is_finalized():
        script.free()
