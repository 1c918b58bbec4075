"""Where idle time went, why a task began no sooner, and the chain of such reasons that set the makespan.

At each instant the time of a worker without a task has one cause, the first of these that holds:

- *start-up*: a task was ready on its rank, and the engine had not given the worker its first one yet;
- *engine or policy*: a task was ready on its rank, its data there, and nobody had begun it;
- *communication*: a task of its rank had all its predecessors behind it, and waited for a message;
- *waiting for data*: no task of its rank was ready, while ready tasks queued on other ranks;
- *tail*: all tasks of the run had begun, and the worker had run its last;
- *no task ready*: every ready task was running. The graph is too narrow there, or the order made it so.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np

from tilewright.graph import Handle, Task
from tilewright.passes.versions import Dataflow
from tilewright.runs.trace import MessageRecord, TaskRecord, Trace

__all__ = ["CAUSES", "Chain", "Idle", "IdleSpan", "Wait", "chain", "pieces", "queued", "split", "waits"]


@dataclass(frozen=True, slots=True)
class Idle:
    """Seconds that workers were idle, all of them together, by cause."""

    startup: float = 0.0
    """The engine had not given the worker its first task, though one was ready."""
    no_task: float = 0.0
    """No task was ready: the graph is too narrow, or the policy's order made it so."""
    data: float = 0.0
    """No task was ready on this rank, while tasks queued on others: the distribution."""
    communication: float = 0.0
    """Tasks waited for messages."""
    overhead: float = 0.0
    """A task was ready, and the engine or the policy gave it to nobody."""
    tail: float = 0.0
    """All tasks had begun, and the last ones ran elsewhere."""

    @property
    def total(self) -> float:
        return self.startup + self.no_task + self.data + self.communication + self.overhead + self.tail


CAUSES = tuple(field.name for field in fields(Idle))
_STARTUP, _NO_TASK, _DATA, _COMMUNICATION, _OVERHEAD, _TAIL = range(len(CAUSES))


class IdleSpan(NamedTuple):
    """A time in which one worker was idle for one cause."""

    rank: int
    worker: int
    start: float
    end: float
    cause: str
    """One of `CAUSES`."""


class Wait(NamedTuple):
    """Why a task did not begin sooner: the last of the things it waited for."""

    reason: str
    """``dependency``, ``message``, ``worker`` (busy with other tasks), or ``start`` of the run."""
    on: int
    """Index of the predecessor, or of the task before it on its worker; -1 for the start; for a message, its place
    in ``trace.messages``."""
    until: float
    """When that was over, in seconds since the run began."""


@dataclass(frozen=True)
class Chain:
    """The tasks that set the makespan, in order of time: each began when what it waited for was over."""

    tasks: tuple[Task, ...]
    waits: tuple[Wait, ...]
    """By task, what it waited for; the first for the start of the run, or a message with data of the run."""
    work: float
    """Seconds in its tasks. With the next two the end of the last task."""
    messages: float
    """Seconds from the end of a writer to the end of the message that brought what it wrote."""
    between: float
    """Seconds that passed after all that a task waited for was over: the engine's, or the policy's."""

    def __len__(self) -> int:
        return len(self.tasks)

    def count(self, reason: str) -> int:
        """How many of its tasks waited for that, as in `Wait.reason`."""
        return sum(wait.reason == reason for wait in self.waits)

    def __str__(self) -> str:
        return " -> ".join(task.label for task in self.tasks)


def split(trace: Trace) -> Idle:
    """The idle time of all workers, by cause. O((tasks + edges + messages) log)."""
    totals = np.zeros(len(CAUSES))
    for _, gaps, moments in _by_rank(trace):
        edges, codes = moments
        for cause in range(len(CAUSES)):
            grown = np.concatenate([[0.0], np.cumsum(np.diff(edges) * (codes == cause))])
            for first, last, low, high in gaps.groups():
                totals[_renamed(trace, cause, first, last)] += float(
                    (np.interp(high, edges, grown) - np.interp(low, edges, grown)).sum()
                )
    return Idle(**dict(zip(CAUSES, map(float, totals), strict=True)))


def pieces(trace: Trace, shortest: float = 0.0, most: int | None = None) -> Iterator[IdleSpan]:
    """The idle times of all workers, or the first ``most``; those of less than ``shortest`` go with the one before."""
    for rank, gaps, (edges, codes) in _by_rank(trace):
        if most is not None and rank * trace.workers >= most:
            return
        for worker, first, last, low, high in zip(
            gaps.worker.tolist(),
            gaps.first.tolist(),
            gaps.last.tolist(),
            gaps.low.tolist(),
            gaps.high.tolist(),
            strict=True,
        ):
            if high - low <= shortest or (most is not None and rank * trace.workers + worker >= most):
                continue
            begin = max(int(np.searchsorted(edges, low, side="right")) - 1, 0)
            until = int(np.searchsorted(edges, high, side="left"))
            open_piece: IdleSpan | None = None
            for place in range(begin, min(until, len(codes))):
                start, end = max(low, float(edges[place])), min(high, float(edges[place + 1]))
                cause = CAUSES[_renamed(trace, int(codes[place]), first, last)]
                if end <= start:
                    continue
                if open_piece is not None and (cause == open_piece.cause or end - start < shortest):
                    open_piece = open_piece._replace(end=end)
                    continue
                if open_piece is not None:
                    yield open_piece
                open_piece = IdleSpan(rank, worker, start, end, cause)
            if open_piece is not None:
                yield open_piece


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


def chain(trace: Trace) -> Chain:
    """What set the makespan: from the task that ended last back along the reasons for which tasks waited.

    It is the graph's critical path only where nothing but predecessors was waited for.
    """
    reasons = waits(trace)
    records = {record.task: record for record in trace.records}
    tasks: list[Task] = []
    found: list[Wait] = []
    work = messages = between = 0.0
    task = max(records, key=lambda t: (records[t].end, t), default=-1)
    while task in reasons:
        record, wait = records[task], reasons.pop(task)  # clocks of several hosts may disagree: no circles
        tasks.append(trace.graph.tasks[task])
        found.append(wait)
        work += record.duration
        between += max(record.start - wait.until, 0.0)
        task = wait.on
        if wait.reason == "message":
            message = trace.messages[wait.on]
            task = message.writer if message.writer in records else -1
            messages += wait.until - (records[task].end if task >= 0 else 0.0)
    return Chain(tuple(tasks[::-1]), tuple(found[::-1]), work, messages, between)


def trace_ends(trace: Trace) -> list[float]:
    """Seconds by task index; 0 for tasks that did not run."""
    end = [0.0] * len(trace.graph)
    for record in trace.records:
        end[record.task] = record.end
    return end


def queued(trace: Trace) -> Iterator[tuple[float, float]]:
    """For each task that ran, from when to when it was ready, its data there, and waited for a worker."""
    _, arrived = _ready(trace)
    for record, since in zip(trace.records, arrived.tolist(), strict=True):
        yield since, record.start


# ------------------------------------------------------------------ gaps, and what the ranks waited for in them

Moments = tuple[np.ndarray, np.ndarray]
"""Times t_0 < t_1 < ..., and the cause between each two of them for whoever is idle then."""


class _Gaps(NamedTuple):
    """Times in which the workers of one rank had no task; the first and the last of each may be empty."""

    worker: np.ndarray
    first: np.ndarray
    """Before the first task of its worker, which has some."""
    last: np.ndarray
    """After the last one."""
    low: np.ndarray
    high: np.ndarray

    def groups(self) -> Iterator[tuple[bool, bool, np.ndarray, np.ndarray]]:
        """Those before the first task, after the last, and all others."""
        inner = ~(self.first | self.last)
        for first, last, chosen in ((True, False, self.first), (False, True, self.last), (False, False, inner)):
            if chosen.any():
                yield first, last, self.low[chosen], self.high[chosen]


def _renamed(trace: Trace, cause: int, first: bool, last: bool) -> int:
    """An engine starts up; a simulated one does not, and who keeps a task back there is the policy."""
    if cause == _OVERHEAD and first and not trace.virtual:
        return _STARTUP
    return _NO_TASK if cause == _TAIL and not last else cause


def _by_rank(trace: Trace) -> Iterator[tuple[int, _Gaps, Moments]]:
    makespan, ranks = float(trace.makespan), trace.ranks
    if not makespan:
        return
    table = np.array([(r.rank, r.worker, r.start, r.end) for r in trace.records], dtype=float).reshape(-1, 4)
    ready, arrived = _ready(trace)
    start, rank = table[:, 2], table[:, 0].astype(int)
    last_start = float(start.max(initial=0.0))
    queued = _positive(arrived, start) if ranks > 1 else None
    order = np.argsort(rank, kind="stable")  # of one rank together, by start as before
    cuts = np.searchsorted(rank[order], np.arange(ranks + 1))
    for r in range(ranks):
        mine = order[cuts[r] : cuts[r + 1]]
        gaps = _gaps(table[mine, 1].astype(int), table[mine, 2], table[mine, 3], trace.workers, makespan)
        yield r, gaps, _moments(ready[mine], arrived[mine], start[mine], queued, last_start, makespan)


def _ready(trace: Trace) -> tuple[np.ndarray, np.ndarray]:
    """By record, when the last predecessor of its task ended, and when its last message was in, too."""
    end, arrivals, tasks = trace_ends(trace), _arrivals(trace), trace.graph.tasks
    ready, arrived = np.zeros(len(trace.records)), np.zeros(len(trace.records))
    for place, record in enumerate(trace.records):
        since = min(max((end[p] for p in tasks[record.task].predecessors), default=0.0), record.start)
        message = arrivals.get(record.task)
        ready[place] = since
        arrived[place] = since if message is None else min(max(since, message[0]), record.start)
    return ready, arrived


def _gaps(worker: np.ndarray, start: np.ndarray, end: np.ndarray, workers: int, makespan: float) -> _Gaps:
    order = np.lexsort((end, start, worker))
    worker, start, end = worker[order], start[order], end[order]
    new = np.ones(len(worker), bool)
    new[1:] = worker[1:] != worker[:-1]
    low = np.where(new, 0.0, np.concatenate([[0.0], end[:-1]])) if len(worker) else start
    final = np.ones(len(worker), bool)
    final[:-1] = new[1:]
    absent = np.setdiff1d(np.arange(workers), worker)  # they never had a task: one gap, neither first nor last
    counts = len(worker), int(final.sum()), len(absent)
    flags = np.repeat([0, 1, 2], counts)
    lows = np.concatenate([low, end[final], np.zeros(counts[2])])
    highs = np.concatenate([start, np.full(counts[1] + counts[2], makespan)])
    first = np.concatenate([new, np.zeros(counts[1] + counts[2], bool)])
    return _Gaps(np.concatenate([worker, worker[final], absent]), first, flags == 1, lows, np.maximum(highs, lows))


def _moments(
    ready: np.ndarray,
    arrived: np.ndarray,
    start: np.ndarray,
    queued: Moments | None,
    last_start: float,
    makespan: float,
) -> Moments:
    """What an idle worker of a rank waits for, from the times of its tasks and from when tasks queued anywhere."""
    waiting, travelling = _positive(arrived, start), _positive(ready, arrived)
    known = [waiting, travelling] + ([queued] if queued is not None else [])
    edges = np.unique(np.concatenate([[0.0, makespan, min(last_start, makespan)], *(edge for edge, _ in known)]))
    edges = edges[edges <= makespan]
    here, on_its_way, *elsewhere = (_at(edges[:-1], found) for found in known)
    codes = np.where(edges[:-1] >= last_start, _TAIL, _NO_TASK)
    if elsewhere:
        codes[elsewhere[0]] = _DATA
    codes[on_its_way] = _COMMUNICATION
    codes[here] = _OVERHEAD
    keep = np.ones(len(edges), bool)
    keep[1:-1] = codes[1:] != codes[:-1]
    return edges[keep], codes[keep[:-1]]


def _positive(begin: np.ndarray, end: np.ndarray) -> Moments:
    """When some interval [begin, end) is open: times, and whether one is from each of them on."""
    chosen = end > begin
    times, place = np.unique(np.concatenate([begin[chosen], end[chosen]]), return_inverse=True)
    changes = np.zeros(len(times), int)
    np.add.at(changes, place, np.repeat([1, -1], int(chosen.sum())))
    some = np.cumsum(changes) > 0
    keep = np.ones(len(times), bool)
    keep[1:] = some[1:] != some[:-1]
    return times[keep], some[keep]


def _at(times: np.ndarray, moments: Moments) -> np.ndarray:
    """Whether some interval is open at each of these times."""
    edges, some = moments
    if not len(edges):
        return np.zeros(len(times), bool)
    place = np.searchsorted(edges, times, side="right") - 1
    found: Any = (place >= 0) & some[np.maximum(place, 0)]
    return np.asarray(found)


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
