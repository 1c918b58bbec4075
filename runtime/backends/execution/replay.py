"""A graph bound to its data once and run many times: iterations, without the checks of `tilewright.run` each time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tilewright.backends import find_site
from tilewright.backends.execution.engine import Site
from tilewright.backends.execution.program import Program
from tilewright.graph import TaskGraph
from tilewright.runs.trace import Trace
from tilewright.scalars import worker_count
from tilewright.schedulers import Policy
from tilewright.schedulers import policy as find_policy
from tilewright.tiles import Store

__all__ = ["Replay", "Stage"]


@dataclass
class Stage:
    """Where replays run, and what they moved. The arguments are those of `tilewright.run`."""

    backend: str = "threads"
    scheduler: str | Policy = "critical-path"
    workers: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    messages: int = 0
    """Between ranks, so far."""
    bytes: int = 0
    """In those messages."""

    def __post_init__(self) -> None:
        worker_count(self.workers)
        find_policy(self.scheduler)
        self.site: Site = find_site(self.backend, self.options)
        self.site.plan_with(None)

    def count(self, trace: Trace) -> None:
        """Add the messages of a run."""
        self.messages += len(trace.messages)
        self.bytes += sum(message.nbytes for message in trace.messages)


class Replay:
    """Call it to run the graph once more on the same buffers, which the tasks change in place. Returns the trace.

    Examples
    --------
    >>> import numpy as np, tilewright as tw
    >>> from tilewright.backends.execution.replay import Replay, Stage
    >>> def double(x):
    ...     x *= 2
    >>> g = tw.TaskGraph()
    >>> _ = g.insert(double, tw.RW(g.handle("x")))
    >>> x = np.ones(1)
    >>> again = Replay(g, {"x": x}, Stage(workers=1))
    >>> for _ in range(3):
    ...     trace = again()
    >>> x
    array([8.])
    """

    def __init__(self, graph: TaskGraph, data: Mapping[str, Any], stage: Stage) -> None:
        self.stage = stage
        with stage.site.agreement():
            self.program = Program(graph, Store(data))
            graph.frozen = True

    def __call__(self) -> Trace:
        stage, streams = self.stage, self.program.streams
        if streams is not None:
            streams.begin()
        trace = stage.site.execute(self.program, stage.scheduler, stage.workers, None)
        if streams is not None:
            trace = streams.measured(trace)
        stage.count(trace)
        return trace
