"""Where the graphs of a solution run: once, or again and again on the same buffers."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from tilewright.backends import find_engine
from tilewright.backends.execution.engine import Engine
from tilewright.backends.execution.prepared import Here, Prepared
from tilewright.backends.ranks.home import Home, PlacedGraph
from tilewright.graph import Handle, TaskGraph
from tilewright.runs.progress import ProgressOption
from tilewright.scalars import worker_count
from tilewright.schedulers import Policy
from tilewright.schedulers import policy as find_policy
from tilewright.tiles import Store

__all__ = ["Bindings", "Runner"]


@dataclass
class Runner:
    """Where graphs run, and what they moved. The arguments are those of `tilewright.run`."""

    backend: str | None = None
    scheduler: str | Policy = "critical-path"
    workers: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    progress: ProgressOption = False
    """How factorisations tell how far they are."""
    messages: int = 0
    """Between ranks, so far."""
    bytes: int = 0
    """In those messages."""

    def __post_init__(self) -> None:
        worker_count(self.workers)
        find_policy(self.scheduler)
        self.engine: Engine = find_engine(self.backend, self.options)
        self.backend = self.engine.name
        self.engine.plan_with(None)

    def run(self, graph: TaskGraph, data: Mapping[str, Any]) -> None:
        """Run a graph once on buffers that the tasks change in place."""
        with self.engine.agreement(run_follows=True):
            program = self.engine.bind(graph, data)
        trace = self.engine.execute(program, self.scheduler, self.workers, None)
        self.messages += len(trace.messages)
        self.bytes += sum(message.nbytes for message in trace.messages)


class Bindings:
    """Graphs prepared on the same buffers, each when it first runs.

    Parameters
    ----------
    runner
        Where they run.
    data
        Buffers by name, as for `tilewright.run`; more may come, under names that no graph has used.
    constant
        Names of those that nobody changes: on ranks that have memory of their own they stay.
    scratch
        Names of those that each graph writes before it reads them, and nobody else looks at.
    local
        Names of those that graphs hand on to each other, and nobody else looks at: they stay there, too.

    The others are what the caller reads and changes between two runs.
    """

    def __init__(
        self,
        runner: Runner,
        data: dict[str, Any],
        constant: Collection[str],
        scratch: Collection[str],
        local: Collection[str] = (),
    ) -> None:
        self.runner, self.data = runner, data
        self._stays, self._unseen = {*constant, *local}, {*scratch, *local}
        self._prepared: dict[TaskGraph, Prepared] = {}
        self._home: Home | None = None

    def run(self, graph: TaskGraph) -> None:
        """Run a graph once."""
        if graph not in self._prepared:
            self._prepared[graph] = self._prepare(graph)
        prepared, runner = self._prepared[graph], self.runner
        messages, nbytes = prepared.messages, prepared.bytes
        prepared()
        runner.messages += prepared.messages - messages
        runner.bytes += prepared.bytes - nbytes

    def _prepare(self, graph: TaskGraph) -> Prepared:
        runner, store = self.runner, Store(self.data)
        engine = runner.engine
        inputs = [handle for handle in graph.inputs if handle.name not in self._stays]
        outputs = [handle for handle in graph.written if handle.name not in self._unseen]
        ranks = engine.script_ranks(graph, runner.workers)
        if not ranks:
            return Here(
                engine,
                graph,
                store,
                scheduler=runner.scheduler,
                workers=runner.workers,
                inputs=inputs,
                outputs=outputs,
                carry={},
            )
        owner = engine.owner_of(graph, ranks)
        if self._home is None:
            self._home = engine.home({}, ranks, owner, copy=False)
        home = self._home
        assert home is not None
        graph.frozen = True
        self._home.keep(
            {
                handle: store[handle]
                for handle in graph.inputs
                if handle.name in self._stays and handle not in home.outlines
            }
        )
        return home.prepare(PlacedGraph(graph, home.outlines, owner, store.__getitem__, _unknown, inputs, outputs, {}))


def _unknown(handle: Handle) -> None:
    """Every handle has a buffer."""
