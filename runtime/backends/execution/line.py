"""A line: tasks of a program one after the other in the calling thread, and when each ran."""

from __future__ import annotations

from collections.abc import Iterable
from time import perf_counter

from tilewright.backends.execution.engine import Progress, blame
from tilewright.backends.execution.program import Program
from tilewright.graph import Task
from tilewright.runs.failure import leave
from tilewright.runs.progress import Ran, tell
from tilewright.runs.trace import TaskRecord, Trace

__all__ = ["run_line"]


def run_line(program: Program, tasks: Iterable[Task], backend: str, progress: Progress | None) -> list[TaskRecord]:
    """Run the tasks in this order. What a task raises has a note that names it."""
    records: list[TaskRecord] = []
    program.begin()
    began = perf_counter()
    for task in tasks:
        start = perf_counter()
        try:
            program.call(task)
        except BaseException as error:
            blame(error, task, task.index, f"backend={backend}, worker=0")
            trace = Trace(program.graph, 1, records)
            trace.failure = TaskRecord(task.index, 0, start - began, perf_counter() - began)
            leave(error, trace, task.index)
            raise
        record = TaskRecord(task.index, 0, start - began, perf_counter() - began)
        records.append(record)
        if progress:
            tell(progress, len(records), _row, record)
    return records


def _row(record: TaskRecord) -> list[Ran]:
    return [Ran(0, 0, record.task, record.start, record.end)]
