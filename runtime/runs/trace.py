"""The trace of a run: one record per task and message, planned or measured, on every engine."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tilewright.door import upstairs
from tilewright.graph import Handle, TaskGraph
from tilewright.host.files import write_text
from tilewright.runs.frames import data_frame

if TYPE_CHECKING:
    import pandas

__all__ = ["MessageRecord", "TaskRecord", "Trace"]


class TaskRecord(NamedTuple):
    """When and where one task ran. Times are seconds since the run began.

    Examples
    --------
    >>> import tilewright as tw
    >>> tw.simulate(tw.cholesky_graph(nt=2), tw.Machine()).trace.records[1]
    TaskRecord(task=1, worker=0, start=1.0, end=4.0, rank=0)
    """

    task: int
    """`Task.index`"""
    worker: int
    """Its number on its rank, from 0."""
    start: float
    """When it began."""
    end: float
    """When it was done."""
    rank: int = 0
    """Where the worker is."""

    @property
    def duration(self) -> float:
        """Seconds that it took."""
        return self.end - self.start


_in_order = itemgetter(2, 3, 0)  # a task of no length comes before the one that its worker began at the same moment


_sent_in_order = itemgetter(4, 5, 0, 1, 2)


class MessageRecord(NamedTuple):
    """One version of a handle on its way. Times are seconds since the run began.

    Examples
    --------
    >>> import tilewright as tw
    >>> machine = tw.Machine(ranks=2, alpha=1.0)
    >>> run = tw.simulate(tw.cholesky_graph(nt=2), machine, owner=lambda handle: handle.index[0])
    >>> record = run.trace.messages[0]
    >>> record.source, record.destination, record.handle, record.duration
    (0, 1, A[0,0], 1.0)
    """

    source: int
    """The rank that sends."""
    destination: int
    """The rank that receives."""
    handle: Handle
    """Whose value travels."""
    nbytes: int
    """Bytes of the value."""
    start: float
    """When the source was ready to send."""
    end: float
    """When the destination had it."""
    writer: int = -1
    """`Task.index` of the task that wrote the value; -1 for the data of the run."""
    memories: tuple[int, int] = (0, 0)
    """Memories of source and destination in their ranks: one for each socket, 0 if there is one, then accelerators."""

    @property
    def duration(self) -> float:
        """Seconds from the one to the other."""
        return self.end - self.start


class Trace:
    """The records of one run, sorted by start.

    Parameters
    ----------
    graph
        The graph that ran.
    workers
        Workers per rank.
    records
        One per task that ran; a run that failed has fewer than the graph has tasks. Or a function that gives them,
        called when somebody asks for them; so for ``messages``.
    ranks
        How many ranks there are, of ``workers`` workers each.
    messages
        What travelled between ranks, or between memories of one rank (``source == destination`` then).

    Examples
    --------
    >>> import tilewright as tw
    >>> trace = tw.simulate(tw.cholesky_graph(nt=4), tw.Machine(workers=2)).trace
    >>> len(trace), trace.makespan, float(trace.busy.sum())
    (20, 35.0, 64.0)
    """

    def __init__(
        self,
        graph: TaskGraph,
        workers: int,
        records: Iterable[TaskRecord] | Callable[[], Iterable[TaskRecord]] = (),
        *,
        ranks: int = 1,
        messages: Iterable[MessageRecord] | Callable[[], Iterable[MessageRecord]] = (),
    ) -> None:
        self.graph = graph
        self.workers = workers
        self.ranks = ranks
        self.facts: dict[str, float] = {}
        """What else an engine counted, by name."""
        self.began = 0.0
        """The moment that is time 0, on the clock of `time.perf_counter`; where the engine ran in this process."""
        self.pure = False
        """Tasks made new values and left the old ones alone, so that no writer had to wait for readers."""
        self.failure: TaskRecord | None = None
        """The task that failed, if its engine knows where and when; it is not among the records."""
        self.grown: tuple[int, ...] = ()
        """By rank, bytes by which its process grew at its fullest moment, where ranks say so."""
        self.virtual = False
        """Nothing was computed, and the times are those of a machine model."""
        if callable(records):
            self._records = records
        else:
            self.records = sorted(records, key=_in_order)
        if callable(messages):
            self._messages = messages
        else:
            self.messages = sorted(messages, key=_sent_in_order)

    @cached_property
    def records(self) -> list[TaskRecord]:
        """One per task that ran, in order of start."""
        return sorted(self._records(), key=_in_order)

    @cached_property
    def messages(self) -> Sequence[MessageRecord]:
        """What travelled, in order of start."""
        return sorted(self._messages(), key=_sent_in_order)

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[TaskRecord]:
        return iter(self.records)

    def __repr__(self) -> str:
        return f"Trace({len(self)} records, makespan {self.makespan:.6g} s)"

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return str(upstairs("plot.cards:trace")(self))

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

    @property
    def overlap(self) -> float:
        """Share of the time of messages in which their destination had some worker in a task; 1 without messages."""
        total = hidden = 0.0
        for rank in {message.destination for message in self.messages}:
            starts, ends = _union((r.start, r.end) for r in self.records if r.rank == rank)
            covered = np.concatenate([[0.0], np.cumsum(ends - starts)])

            def busy_until(t: float, starts: Any = starts, ends: Any = ends, covered: Any = covered) -> float:
                k = int(np.searchsorted(starts, t, side="right"))  # intervals that began by then
                return float(covered[k] - (max(0.0, ends[k - 1] - t) if k else 0.0))

            for message in self.messages:
                if message.destination == rank:
                    total += message.duration
                    hidden += busy_until(message.end) - busy_until(message.start)
        return hidden / total if total else 1.0

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

        - Each task ran once, and no worker ran two at a time.
        - What a task reads was made before it starts. A copy that `Op.again` lets another rank make need not be.
        - On one rank a task starts after its predecessors end. Ranks keep versions apart, and so does a `pure` run: who
          overwrites a value there need not wait for readers that have a copy.
        - Between ranks a message leaves after its version was made, or came there, and arrives before its first reader
          starts; what a task reads has not been replaced on its rank by then.

        The times of ranks on one host, and simulated ones, can be compared; those of several hosts cannot.
        """
        upstairs("runs.validity:check")(self)

    def to_pandas(self) -> pandas.DataFrame:
        """One row per task that ran, in order of start. ImportError without pandas.

        Columns: ``task`` (index), ``label``, ``op``, ``rank``, ``worker``, ``start``, ``end`` and ``duration`` in
        seconds, ``ready`` (when the last predecessor ended), ``reads`` and ``writes`` (names of handles).
        """
        end = {record.task: record.end for record in self.records}
        rows = []
        for record in self.records:
            task = self.graph.tasks[record.task]
            ready = max((end.get(p, 0.0) for p in task.predecessors), default=0.0)
            rows.append(
                [
                    task.index,
                    task.label,
                    task.op.name,
                    record.rank,
                    record.worker,
                    record.start,
                    record.end,
                    record.duration,
                    ready,
                    " ".join(map(str, task.reads)),
                    " ".join(map(str, task.writes)),
                ]
            )
        return data_frame(
            rows, ["task", "label", "op", "rank", "worker", "start", "end", "duration", "ready", "reads", "writes"]
        )

    def messages_to_pandas(self) -> pandas.DataFrame:
        """One row per message, in order of start: the fields of `MessageRecord`, and ``duration``."""
        rows = [[*m[:2], str(m.handle), *m[3:], m.duration] for m in self.messages]
        return data_frame(rows, [*MessageRecord._fields, "duration"])

    def to_perfetto(self, path: str | Path | None = None) -> dict[str, Any]:
        """The trace in Chrome's trace-event format, also written to ``path`` if given.

        Open it at https://ui.perfetto.dev or chrome://tracing. One process per rank, one thread per worker; arrows
        lead to each task from the predecessor that ended last, which is the one it waited for, and from the task that
        made a message's value to the first that used it on the other rank.
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
            events.append(
                {
                    "ph": "X",
                    "name": task.label,
                    "cat": task.op.name,
                    **place,
                    "ts": record.start * 1e6,
                    "dur": record.duration * 1e6,
                    "args": {
                        "task": task.index,
                        "reads": " ".join(map(str, task.reads)),
                        "writes": " ".join(map(str, task.writes)),
                    },
                }
            )
            awaited = [records[p] for p in task.predecessors if p in records]
            if awaited:
                last = max(awaited, key=lambda r: (r.end, r.task))
                arrow = {"cat": "waits for", "name": "waits for", "id": task.index}
                # The arrow leaves from inside the earlier slice, or the viewer ties it to the next one.
                leave = max(last.start, last.end - 1e-9)
                events.append({"ph": "s", **arrow, "pid": last.rank, "tid": last.worker, "ts": leave * 1e6})
                events.append({"ph": "f", "bp": "e", **arrow, **place, "ts": record.start * 1e6})
        uses: dict[tuple[int, Handle], list[TaskRecord]] = {}  # by rank and handle, in order of time
        for record in self.records if self.messages else ():
            for handle in tasks[record.task].reads:
                uses.setdefault((record.rank, handle), []).append(record)
        for number, message in enumerate(self.messages):
            within = "memory {} -> {}".format(*message.memories) if message.source == message.destination else ""
            name = f"{message.handle}: {within or f'{message.source} -> {message.destination}'}"
            common = {"cat": "message", "name": name, "id": len(tasks) + number}
            span = {**common, "pid": message.destination, "tid": self.workers, "args": {"bytes": message.nbytes}}
            events.append({"ph": "b", **span, "ts": message.start * 1e6})  # these overlap, so slices cannot show them
            events.append({"ph": "e", **span, "ts": message.end * 1e6})
            made = records.get(message.writer)
            readers = uses.get((message.destination, message.handle), [])
            used = next((record for record in readers if record.start >= message.end), None)
            if made and used:
                leave = max(made.start, made.end - 1e-9)
                events.append({"ph": "s", **common, "pid": made.rank, "tid": made.worker, "ts": leave * 1e6})
                events.append(
                    {"ph": "f", "bp": "e", **common, "pid": used.rank, "tid": used.worker, "ts": used.start * 1e6}
                )
        document = {"traceEvents": events, "displayTimeUnit": "ms"}
        if path is not None:
            write_text(path, json.dumps(document))
        return document


def _union(spans: Iterable[tuple[float, float]]) -> tuple[np.ndarray, np.ndarray]:
    """Starts and ends of the disjoint intervals that cover the same time."""
    merged: list[list[float]] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1][1] = max(merged[-1][1], end)
        else:
            merged.append([start, end])
    table = np.array(merged).reshape(-1, 2)
    return table[:, 0], table[:, 1]
