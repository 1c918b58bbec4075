"""serial: run the tasks in insertion order. The specification of every other engine."""

from __future__ import annotations

from time import perf_counter

from tilewright.backends.execution.engine import Progress, blame
from tilewright.backends.execution.program import Program
from tilewright.kernels.threads import limits, task_threads
from tilewright.runs.trace import TaskRecord, Trace
from tilewright.schedulers import Policy

__all__ = ["execute"]


def execute(program: Program, policy: Policy, workers: int, progress: Progress | None) -> Trace:
    """Run in the calling thread, in program order. The policy and the number of workers change nothing."""
    records = []
    program.begin()
    with limits(program.uses_functions), task_threads(program.threads_per_task):
        began = perf_counter()
        for task in program.graph:
            start = perf_counter()
            try:
                program.call(task)
            except BaseException as error:
                blame(error, task, task.index, "backend=serial, worker=0")
                raise
            records.append(TaskRecord(task.index, 0, start - began, perf_counter() - began))
            if progress:
                progress(len(records))
    return Trace(program.graph, 1, records)
