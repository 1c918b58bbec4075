"""Is a trace a schedule that the graph allows? A check that knows nothing of the engine that ran.

It looks at the tasks, at the versions that they read and make (`tilewright.passes.versions`), and at the messages.
Times of ranks on several hosts are those of several clocks, so the check is for runs on one host, and for simulated
ones.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING

from tilewright.graph import Handle
from tilewright.passes.versions import Dataflow

if TYPE_CHECKING:
    from tilewright.runs.trace import TaskRecord, Trace

__all__ = ["check"]

Arrivals = dict[tuple[int, Handle], list[tuple[float, int]]]
"""By rank and handle, in order of time: when a version was there, and which task wrote it."""


def check(trace: Trace) -> None:
    """AssertionError that names the first thing which no valid schedule does; see `tilewright.runs.trace.Trace.check`.

    O((tasks + accesses + messages) log) operations.
    """
    tasks = trace.graph.tasks
    seen = [record.task for record in trace.records]
    if sorted(seen) != list(range(len(tasks))):
        raise AssertionError("some task did not run exactly once")
    records = [trace.records[place] for place in sorted(range(len(seen)), key=seen.__getitem__)]
    for record in trace.records:
        if record.start > record.end:
            raise AssertionError(f"{tasks[record.task]} ends before it starts")
    flow = Dataflow(trace.graph)
    for record in trace.records:
        task = tasks[record.task]
        for p in task.predecessors:
            if records[p].rank == record.rank and not trace.pure and records[p].end > record.start:
                raise AssertionError(f"{task} starts before {tasks[p]} ends")
        for version in flow.reads[record.task]:
            writer = flow.writer[version]
            if writer >= 0 and records[writer].end > record.start and not _made_again(trace, records, writer, record):
                raise AssertionError(f"{task} starts before {tasks[writer]} ends")
    _check_workers(trace)
    if trace.ranks > 1 and not trace.pure:
        _check_messages(trace, records, flow)


def _made_again(trace: Trace, records: list[TaskRecord], writer: int, reader: TaskRecord) -> bool:
    """Whether the reader's rank may have made itself what a task elsewhere made."""
    return bool(trace.graph.tasks[writer].op.again) and (records[writer].rank != reader.rank or trace.pure)


def _check_workers(trace: Trace) -> None:
    free: dict[tuple[int, int], float] = {}
    for record in trace.records:
        task, place = trace.graph.tasks[record.task], (record.rank, record.worker)
        if free.get(place, 0.0) > record.start:
            raise AssertionError(f"{task} overlaps another task on worker {place}")
        free[place] = record.end


def _check_messages(trace: Trace, records: list[TaskRecord], flow: Dataflow) -> None:
    """A message leaves after its version is there, and a version is where it is read: it, and no other one."""
    tasks = trace.graph.tasks
    there: Arrivals = defaultdict(list)
    for record in trace.records:
        for version in flow.writes[record.task]:
            there[record.rank, flow.handle[version]].append((record.end, record.task))
    between = [message for message in trace.messages if message.source != message.destination]
    for message in between:
        there[message.destination, message.handle].append((message.end, message.writer))
    for entries in there.values():
        entries.sort()
    for message in between:
        what = f"{message.handle} from {message.source} to {message.destination}"
        if message.end < message.start:
            raise AssertionError(f"{what} arrives before it is sent")
        since = _since(there[message.source, message.handle], message.writer)
        if message.writer >= 0 and since > message.start:
            raise AssertionError(f"{what} is sent before {tasks[message.writer]} made it, or it came there")
    for record in trace.records:
        for version in flow.reads[record.task]:
            handle, writer = flow.handle[version], flow.writer[version]
            if writer < 0 or _made_again(trace, records, writer, record):
                continue
            entries = there[record.rank, handle]
            if _since(entries, writer) > record.start:
                raise AssertionError(f"{tasks[record.task]} starts before {handle} of {tasks[writer]} is there")
            last = entries[bisect_right(entries, (record.start, len(tasks))) - 1]
            if last[1] != writer and last[0] < record.start:
                raise AssertionError(f"{tasks[record.task]} reads {handle} of {tasks[writer]}, which has been replaced")


def _since(entries: Iterable[tuple[float, int]], writer: int) -> float:
    """When the version of a writer was there first."""
    return min((time for time, wrote in entries if wrote == writer), default=float("inf"))
