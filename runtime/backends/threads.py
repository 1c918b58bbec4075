"""threads: workers of one process that call kernels which release the GIL.

Each worker repeats: take a task from the policy, run it, tell the frontier, push what became ready. One lock guards
policy and frontier; a worker takes it once per task. A worker that finds nothing parks on a lock of its own, and
the worker that makes tasks ready wakes as many as there are tasks to run.
"""

from __future__ import annotations

import threading
from time import perf_counter
from typing import Any

from tilewright.backends import Progress, blame
from tilewright.errors import SchedulerError
from tilewright.frontier import Frontier
from tilewright.graph import Task
from tilewright.kernels import blas
from tilewright.program import Program
from tilewright.schedulers import Policy
from tilewright.trace import TaskRecord, Trace

__all__ = ["Workers", "execute"]

_REFRESH = 0.1  # seconds between two reports of progress


def execute(program: Program, policy: Policy, workers: int, progress: Progress | None) -> Trace:
    """Run on ``workers`` threads; with one worker and no progress to show, in the calling thread.

    Ctrl-C lets the running tasks finish, starts no other, and raises KeyboardInterrupt.
    """
    run = Workers(program, policy, workers)
    with blas.limits(program.uses_functions):
        if workers == 1 and progress is None:
            run.work(0)
        else:
            run.on_threads(progress)
    if run.failures:
        raise min(run.failures, key=lambda failure: failure[0])[1]
    return run.trace()


class Workers:
    """The workers of one run and what they share.

    Tasks whose op is external are not theirs: `outside` gets them when they are ready, and whoever carries them out
    calls `arrived` from any other thread.
    """

    def __init__(self, program: Program, policy: Policy, workers: int) -> None:
        self.program = program
        self.policy = policy
        self.workers = workers
        self.frontier = Frontier(program.graph)
        self.lock = threading.Lock()
        self.parked: list[int] = []
        self.gates = [threading.Lock() for _ in range(workers)]
        self.shared = bool(getattr(policy, "shared", False))
        self.offered = True  # every parked worker was woken since the last push; for policies that are not shared
        self.queued = 0  # pushed to the policy and not popped yet
        self.abroad = sum(task.op.external for task in program.graph)  # external tasks that are not done
        self.stopped = False
        self.failures: list[tuple[int, BaseException]] = []
        self.records: list[list[tuple[int, float, float]]] = [[] for _ in range(workers)]
        for gate in self.gates:
            gate.acquire()
        self.ready(self.frontier.start(), None)
        self.began = perf_counter()

    # ------------------------------------------------------------ threads

    def on_threads(self, progress: Progress | None) -> None:
        threads = [
            threading.Thread(target=self.work, args=(w,), name=f"tilewright-worker-{w}") for w in range(self.workers)
        ]
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                if progress is None:
                    thread.join()
                while thread.is_alive():
                    thread.join(_REFRESH)
                    if progress:
                        progress(sum(map(len, self.records)))
        except BaseException:  # Ctrl-C, or no more threads to be had
            self.stop()
            for thread in threads:
                if thread.ident is not None:
                    thread.join()
            raise

    def stop(self) -> None:
        with self.lock:
            self.stopped = True
            self.wake(len(self.parked))

    # ------------------------------------------------------------ one worker

    def work(self, worker: int) -> None:
        call, records, lock, done, ready = (
            self.program.call, self.records[worker], self.lock, self.frontier.done, self.ready
        )  # fmt: skip
        with blas.one_thread():
            lock.acquire()
            task = self.take(worker)
            while task is not None:
                start = perf_counter()
                try:
                    call(task)
                except BaseException as error:  # KeyboardInterrupt too, where the caller is the worker
                    self.fail(task, worker, error)
                    return
                records.append((task.index, start, perf_counter()))
                lock.acquire()
                ready(done(task), worker)
                task = self.take(worker)

    def ready(self, tasks: list[Task], worker: int | None) -> None:
        """Give tasks that became ready to the policy. Called with the lock."""
        try:
            for task in tasks:
                if task.op.external:
                    self.outside(task)
                else:
                    self.policy.push(task, worker)
                    self.queued += 1
                    self.offered = False
        except BaseException as error:
            self.give_up(error)

    def outside(self, task: Task) -> None:
        """Take an external task that is ready. Called with the lock."""
        raise TypeError(f"{task} is for an engine with ranks")

    def arrived(self, task: Task) -> None:
        """Note that an external task is done, and wake workers for what that makes ready."""
        with self.lock:
            self.abroad -= 1
            self.ready(self.frontier.done(task), None)
            if self.stopped or self.frontier.finished:
                self.stopped = True
                self.wake(len(self.parked))
            elif self.queued and self.parked:
                self.offer()

    def take(self, worker: int) -> Task | None:
        """The next task for ``worker``, or None when the run is over. Called with the lock, returns without."""
        lock, frontier = self.lock, self.frontier
        while not self.stopped:
            try:
                task = self.policy.pop(worker)
            except BaseException as error:
                self.give_up(error)
                break
            if task is not None:
                self.queued -= 1
                if self.queued and self.parked:
                    self.offer()
                lock.release()
                return task
            if frontier.finished:
                self.stopped = True
                break
            if self.parked:
                self.offer()
            # If nobody else runs anything, only what comes from outside can change this.
            if len(self.parked) == self.workers - 1 and (self.queued or not self.abroad):
                name = type(self.policy).__name__
                self.give_up(SchedulerError(
                    f"{name} gives no task to any worker, though {self.queued} of the {frontier.remaining} "
                    f"tasks left are ready"
                ))  # fmt: skip
                break
            self.parked.append(worker)
            lock.release()
            self.gates[worker].acquire()
            lock.acquire()
        self.wake(len(self.parked))
        lock.release()
        return None

    def offer(self) -> None:
        """Wake parked workers for the tasks that are queued.

        A shared policy has one for each of as many workers. Another policy may hold a task for a certain worker,
        so all look, once after each push.
        """
        if self.shared:
            self.wake(self.queued)
        elif not self.offered:
            self.offered = True
            self.wake(len(self.parked))

    def wake(self, count: int) -> None:
        """Wake up to ``count`` parked workers, those that parked last first: their caches are warmest."""
        for _ in range(min(count, len(self.parked))):
            self.gates[self.parked.pop()].release()

    def fail(self, task: Task, worker: int, error: BaseException) -> None:
        blame(error, task, task.index, f"backend=threads, worker={worker}")
        with self.lock:
            self.failures.append((task.index, error))
            self.stopped = True
            self.wake(len(self.parked))

    def give_up(self, error: BaseException) -> None:
        self.failures.append((len(self.program.graph), error))
        self.stopped = True

    def trace(self) -> Trace:
        began = self.began
        records: Any = (
            TaskRecord(index, worker, start - began, end - began)
            for worker, rows in enumerate(self.records)
            for index, start, end in rows
        )
        return Trace(self.program.graph, self.workers, records)
