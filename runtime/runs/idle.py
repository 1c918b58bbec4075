"""Where idle time went, and why a task began no sooner.

A worker's time outside tasks falls into five parts:

- *start-up*: before its first task, or the whole run if it never had one;
- *tail*: after its last task, until the run ends;
- between two tasks, for the later one: *dependencies* until its last predecessor ended, then *communication* until
  its last message was in, then *overhead*, which is the engine's work or the policy's choice.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import NamedTuple

from tilewright.graph import Handle
from tilewright.passes.versions import Dataflow
from tilewright.runs.trace import MessageRecord, TaskRecord, Trace

__all__ = ["Idle", "Wait", "split", "waits"]


@dataclass(frozen=True, slots=True)
class Idle:
    """Seconds that workers were idle, all of them together."""

    startup: float
    dependencies: float
    communication: float
    overhead: float
    tail: float

    @property
    def total(self) -> float:
        return self.startup + self.dependencies + self.communication + self.overhead + self.tail


class Wait(NamedTuple):
    """Why a task did not begin sooner: the last of the things it waited for."""

    reason: str
    """``dependency``, ``message``, ``worker`` (busy with other tasks), or ``start`` of the run."""
    on: int
    """Index of the predecessor, or of the task before it on its worker; -1 for the start; for a message, its place
    in ``trace.messages``."""
    until: float
    """When that was over, in seconds since the run began."""


def split(trace: Trace) -> Idle:
    """The idle time of all workers, by cause. O(tasks + edges + messages)."""
    arrivals = _arrivals(trace)
    end = trace_ends(trace)
    makespan = trace.makespan
    last: dict[tuple[int, int], float] = {}
    startup = dependencies = communication = overhead = 0.0
    for record in trace.records:
        place = record.rank, record.worker
        before = last.get(place)
        last[place] = record.end
        if before is None:
            startup += record.start
            continue
        predecessors = trace.graph.tasks[record.task].predecessors
        ready = min(max([before, *(end[p] for p in predecessors)]), record.start)
        message = arrivals.get(record.task)
        arrived = ready if message is None else min(max(ready, message[0]), record.start)
        dependencies += ready - before
        communication += arrived - ready
        overhead += record.start - arrived
    tail = sum(makespan - end_of_last for end_of_last in last.values())
    startup += makespan * (trace.ranks * trace.workers - len(last))
    return Idle(startup, dependencies, communication, overhead, tail)


def waits(trace: Trace) -> dict[int, Wait]:
    """For each task that ran, why it began no sooner: the latest of its worker, predecessors and messages."""
    arrivals = _arrivals(trace)
    end = trace_ends(trace)
    before: dict[tuple[int, int], TaskRecord] = {}
    reasons = {}
    for record in trace.records:
        place = record.rank, record.worker
        predecessors = trace.graph.tasks[record.task].predecessors
        why = Wait("start", -1, 0.0)
        if place in before:
            why = Wait("worker", before[place].task, before[place].end)
        if predecessors:
            latest = max(predecessors, key=lambda p: (end[p], p))
            if end[latest] >= why.until:
                why = Wait("dependency", latest, end[latest])
        message = arrivals.get(record.task)
        if message is not None and message[0] > why.until:
            why = Wait("message", message[1], message[0])
        reasons[record.task] = why
        before[place] = record
    return reasons


def trace_ends(trace: Trace) -> list[float]:
    """Seconds by task index; 0 for tasks that did not run."""
    end = [0.0] * len(trace.graph)
    for record in trace.records:
        end[record.task] = record.end
    return end


def _arrivals(trace: Trace) -> dict[int, tuple[float, int]]:
    """By task: when the last message that it needed was in, and which message that was.

    A task needs, of each handle it reads, the last message to its rank that was sent after the version was written.
    """
    if not trace.messages:
        return {}
    flow = Dataflow(trace.graph)
    end = trace_ends(trace)
    inbox: dict[tuple[int, Handle], list[tuple[MessageRecord, int]]] = defaultdict(list)
    for place, message in enumerate(trace.messages):
        inbox[message.destination, message.handle].append((message, place))
    arrivals: dict[int, tuple[float, int]] = {}
    for record in trace.records:
        latest = -1.0, -1
        for version in flow.reads[record.task]:
            writer = flow.writer[version]
            written = end[writer] if writer >= 0 else 0.0
            for message, place in inbox.get((record.rank, flow.handle[version]), ()):
                if written <= message.start and message.end <= record.start:
                    latest = max(latest, (message.end, place))
        if latest[1] >= 0:
            arrivals[record.task] = latest
    return arrivals
