"""What others do with the same graph on the same kernels: engines that ask no policy, for `compare_engines` alone.

A baseline gives each task to a pool or to a scheduler of somebody else, and notes when each began and ended. Kernels,
memory and checks are those of the threads engine, so that what differs is who says which task runs next.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from time import perf_counter
from typing import Any, ClassVar

from tilewright.backends.dask.client import require_dask
from tilewright.backends.dask.engine import Dask
from tilewright.backends.execution.engine import Progress, blame
from tilewright.backends.execution.in_process import InProcess
from tilewright.backends.execution.program import Program
from tilewright.graph import Task
from tilewright.kernels.threads import limits, one_thread
from tilewright.passes.frontier import Frontier
from tilewright.runs.progress import Ran, follower
from tilewright.runs.trace import TaskRecord, Trace
from tilewright.schedulers import BasePolicy

__all__ = ["AbsentError", "Baseline", "DaskDistributed", "DaskThreaded", "Futures"]


class AbsentError(RuntimeError):
    """A baseline cannot be had here, or not for this graph; the message says why."""


class Baseline(InProcess):
    """Somebody else's scheduler in this process."""

    plans: ClassVar[bool] = False
    wide_tasks: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__({})

    def plan_with(self, machine: Any) -> None:
        super().plan_with(None)

    def run(self, program: Program, policy: BasePolicy, workers: int, progress: Progress | None) -> Trace:
        program.begin()
        with limits(program.uses_functions):
            trace = self.carry_out(program, workers)
        if (page := follower(progress)) is not None:  # which so learns of a run when it is over
            page.ran([Ran(0, record.worker, record.task, record.start, record.end) for record in trace])
        return trace

    def carry_out(self, program: Program, workers: int) -> Trace:
        """Run all tasks on so many threads, and leave none."""
        raise NotImplementedError


class _Notes:
    """When each task ran, on which thread of a pool."""

    def __init__(self, program: Program, name: str) -> None:
        self.program, self.name = program, name
        self.threads: dict[int, int] = {}
        self.records: list[tuple[int, int, float, float]] = []
        self.began = perf_counter()

    def run(self, task: Task) -> None:
        """Run a task in the calling thread."""
        worker = self.threads.setdefault(threading.get_ident(), len(self.threads))
        start = perf_counter()
        try:
            self.program.call(task)
        except BaseException as error:
            blame(error, task, task.index, f"{self.name}, worker={worker}")
            raise
        self.records.append((task.index, worker, start - self.began, perf_counter() - self.began))

    def trace(self, workers: int) -> Trace:
        return Trace(self.program.graph, workers, [TaskRecord(*record) for record in self.records])


@contextmanager
def _pool(workers: int) -> Iterator[ThreadPoolExecutor]:
    """Threads whose calls into a library use one thread each."""
    with ThreadPoolExecutor(workers, "tilewright-baseline", lambda: one_thread().__enter__()) as pool:
        yield pool


class Futures(Baseline):
    """``concurrent.futures``: a `ThreadPoolExecutor`, to which whoever ends a task submits those that waited for it."""

    name: ClassVar[str] = "futures"

    def carry_out(self, program: Program, workers: int) -> Trace:
        notes, frontier = _Notes(program, self.name), Frontier(program.graph)
        lock, over = threading.Lock(), threading.Event()
        failures: list[tuple[int, BaseException]] = []
        if not len(program.graph):
            over.set()

        def job(task: Task) -> None:
            try:
                notes.run(task)
                with lock:
                    for ready in [] if failures else frontier.done(task):
                        pool.submit(job, ready)
                    if frontier.finished:
                        over.set()
            except BaseException as error:
                with lock:  # nobody submits after this
                    failures.append((task.index, error))
                over.set()

        with _pool(workers) as pool:
            for task in frontier.start():
                pool.submit(job, task)
            try:
                over.wait()
            finally:
                pool.shutdown(wait=True, cancel_futures=True)
        if failures:
            raise min(failures, key=lambda failure: failure[0])[1]
        return notes.trace(workers)


class DaskThreaded(Baseline):
    """``dask.threaded``: Dask's scheduler for the threads of one process."""

    name: ClassVar[str] = "dask.threaded"

    def __init__(self) -> None:
        require_dask()
        super().__init__()

    def carry_out(self, program: Program, workers: int) -> Trace:
        from dask._task_spec import Task as Node
        from dask._task_spec import TaskRef
        from dask.threaded import get

        graph, notes = program.graph, _Notes(program, self.name)
        tasks = graph.tasks

        def run(index: int, *before: object) -> None:
            notes.run(tasks[index])

        nodes = {
            ("task", task.index): Node(
                ("task", task.index), run, task.index, *(TaskRef(("task", p)) for p in task.predecessors)
            )
            for task in graph
        }
        if nodes:
            with _pool(workers) as pool:
                notes.began = perf_counter()
                get(nodes, list(nodes), pool=pool)
        return notes.trace(workers)


class DaskDistributed(Dask):
    """``dask.distributed``: each task is one of Dask's, which runs where and when its scheduler likes."""

    placed: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__({"mode": "tasks"})
