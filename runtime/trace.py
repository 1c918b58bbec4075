"""The trace of a run: one record per task, planned or measured, on every engine."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tilewright.graph import Handle, TaskGraph

__all__ = ["MessageRecord", "TaskRecord", "Trace"]


class TaskRecord(NamedTuple):
    """When and where one task ran. Times are seconds since the run began."""

    task: int
    """`Task.index`"""
    worker: int
    start: float
    end: float
    rank: int = 0

    @property
    def duration(self) -> float:
        return self.end - self.start


class MessageRecord(NamedTuple):
    """When one version of a handle travelled. Times are seconds since the run began."""

    source: int
    """Rank that sent it."""
    destination: int
    handle: Handle
    bytes: int
    start: float
    end: float


_start_and_task = itemgetter(2, 0)


class Trace:
    """The records of one run, sorted by start.

    Parameters
    ----------
    graph
        The graph that ran.
    workers
        Workers per rank.
    records
        One per task that ran; a run that failed has fewer than the graph has tasks.
    messages
        What travelled between ranks, or between memories of one rank (``source == destination`` then).
    ranks
        Ranks of ``workers`` workers each.
    """

    def __init__(
        self,
        graph: TaskGraph,
        workers: int,
        records: Iterable[TaskRecord] = (),
        messages: Iterable[MessageRecord] = (),
        ranks: int = 1,
    ) -> None:
        self.graph = graph
        self.workers = workers
        self.ranks = ranks
        self.messages: Sequence[MessageRecord] = sorted(messages, key=lambda m: (m.start, m.source, m.destination))
        self.records = sorted(records, key=_start_and_task)

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[TaskRecord]:
        return iter(self.records)

    def __repr__(self) -> str:
        return f"Trace({len(self)} records, makespan {self.makespan:.6g} s)"

    @property
    def makespan(self) -> float:
        """Seconds from the start of the run to the end of its last task."""
        return max((record.end for record in self.records), default=0.0)

    @property
    def durations(self) -> list[float]:
        """Seconds by task index; 0 for tasks that did not run."""
        durations = [0.0] * len(self.graph)
        for record in self.records:
            durations[record.task] = record.end - record.start
        return durations

    @property
    def busy(self) -> np.ndarray:
        """Seconds each worker spent in tasks, shape (ranks x workers,), the workers of rank 0 first."""
        busy = np.zeros(self.ranks * self.workers)
        for record in self.records:
            busy[record.rank * self.workers + record.worker] += record.end - record.start
        return busy

    def by_op(self) -> dict[str, tuple[int, float]]:
        """For each op: how many tasks, how many seconds in all; the longest first."""
        totals: dict[str, tuple[int, float]] = {}
        for record in self.records:
            name = self.graph.tasks[record.task].op.name
            count, seconds = totals.get(name, (0, 0.0))
            totals[name] = count + 1, seconds + record.end - record.start
        return dict(sorted(totals.items(), key=lambda item: -item[1][1]))

    def check(self) -> None:
        """Raise AssertionError unless this is a valid schedule of the whole graph.

        Each task once; a task starts after its predecessors end; a worker runs one task at a time.
        """
        seen = [record.task for record in self.records]
        assert sorted(seen) == list(range(len(self.graph))), "some task did not run exactly once"
        end = {record.task: record.end for record in self.records}
        free: dict[tuple[int, int], float] = {}
        for record in self.records:
            task = self.graph.tasks[record.task]
            assert record.start <= record.end, f"{task} ends before it starts"
            for p in task.predecessors:
                assert end[p] <= record.start, f"{task} starts before {self.graph.tasks[p]} ends"
            place = record.rank, record.worker
            assert free.get(place, 0.0) <= record.start, f"{task} overlaps another task on worker {place}"
            free[place] = record.end

    def to_perfetto(self, path: str | Path | None = None) -> dict[str, Any]:
        """The trace in Chrome's trace-event format, also written to ``path`` if given.

        Open it at https://ui.perfetto.dev or chrome://tracing. One process per rank, one thread per worker; arrows
        lead to each task from the predecessor that ended last, which is the one it waited for.
        """
        tasks = self.graph.tasks
        records = {record.task: record for record in self.records}
        events: list[dict[str, Any]] = []
        for rank in sorted({record.rank for record in self.records}):
            events.append({"ph": "M", "name": "process_name", "pid": rank, "args": {"name": f"rank {rank}"}})
            events += [
                {"ph": "M", "name": "thread_name", "pid": rank, "tid": w, "args": {"name": f"worker {w}"}}
                for w in range(self.workers)
            ]
        for record in self.records:
            task = tasks[record.task]
            place = {"pid": record.rank, "tid": record.worker}
            events.append({
                "ph": "X", "name": task.label, "cat": task.op.name, **place,
                "ts": record.start * 1e6, "dur": record.duration * 1e6,
                "args": {
                    "task": task.index,
                    "reads": " ".join(map(str, task.reads)),
                    "writes": " ".join(map(str, task.writes)),
                },
            })  # fmt: skip
            awaited = [records[p] for p in task.predecessors if p in records]
            if awaited:
                last = max(awaited, key=lambda r: (r.end, r.task))
                arrow = {"cat": "waits for", "name": "waits for", "id": task.index}
                # The arrow leaves from inside the earlier slice, or the viewer ties it to the next one.
                leave = max(last.start, last.end - 1e-9)
                events.append({"ph": "s", **arrow, "pid": last.rank, "tid": last.worker, "ts": leave * 1e6})
                events.append({"ph": "f", "bp": "e", **arrow, **place, "ts": record.start * 1e6})
        document = {"traceEvents": events, "displayTimeUnit": "ms"}
        if path is not None:
            Path(path).write_text(json.dumps(document))
        return document
