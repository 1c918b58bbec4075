"""Worker threads: they take tasks from a policy, run them, and tell the frontier."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from operator import itemgetter
from time import perf_counter
from typing import Any

import numpy as np

from tilewright.backends.execution.engine import Progress, blame
from tilewright.backends.execution.program import Program
from tilewright.backends.execution.torch_state import capture
from tilewright.errors import SchedulerError
from tilewright.graph import Task
from tilewright.host.affinity import pinned
from tilewright.kernels.threads import task_threads
from tilewright.passes.frontier import Frontier
from tilewright.runs.progress import tell
from tilewright.runs.trace import TaskRecord, Trace
from tilewright.schedulers import BasePolicy

__all__ = ["Workers"]


_REFRESH = 0.1  # seconds between two reports of progress


_SHORT = 20e-6  # seconds; not longer than handing a task to another worker takes


_BATCH = 16  # short tasks worth waking a worker for, and the most that one takes at once


class Workers:
    """The workers of one run and what they share.

    Tasks whose op is external are not theirs: `outside` gets them when they are ready, and whoever carries them out
    calls `arrived` from any other thread.
    """

    def __init__(self, program: Program, policy: BasePolicy, workers: int, pins: Sequence[int] | None = None) -> None:
        self.program = program
        self.pins = pins
        """The CPU of each worker, if they are bound to one."""
        program.begin()
        self.policy = policy
        self.workers = workers
        self.frontier = Frontier(program.graph)
        self.lock = threading.Lock()
        self.parked: list[int] = []
        self.gates = [threading.Lock() for _ in range(workers)]
        self.torch_state = capture()
        self.name = policy.called
        self.shared = bool(policy.shared)
        # For policies that are not shared:
        self.offered = True  # every parked worker was woken since the last push
        self.popped = False  # some worker got a task since every parked worker was woken
        self.queued = 0  # pushed to the policy and not popped yet
        self.long = {task.op for task in program.graph}  # ops not known to be short; external ones stay
        self.abroad = sum(task.op.external for task in program.graph)  # external tasks that are not done
        self.stopped = False
        self.failures: list[tuple[int, BaseException]] = []
        self.failed_at: dict[int, tuple[int, float, float]] = {}  # by number in `failures`: worker, start, end
        self.records: list[list[float]] = [[] for _ in range(workers)]
        """By worker (index, start, end) of its tasks, in a row: 10^5 tuples would keep the garbage collector busy."""
        self.told = [0] * workers  # tasks that were told as progress
        self.ended = [threading.Event() for _ in range(workers)]
        for gate in self.gates:
            gate.acquire()
        self.ready(self.frontier.start(), None)
        self.began = perf_counter()

    # ------------------------------------------------------------ threads

    def on_threads(self, progress: Progress | None) -> None:
        threads = [
            threading.Thread(target=self.thread, args=(w,), name=f"tilewright-worker-{w}") for w in range(self.workers)
        ]
        started = 0
        try:
            for thread in threads:
                thread.start()
                started += 1
            # Not Thread.join: before Python 3.13 a Ctrl-C in it marks a thread that still runs as ended.
            for ended in self.ended:
                while not ended.wait(_REFRESH if progress else None):
                    self.report(progress)
            self.report(progress)
        except BaseException:  # Ctrl-C, or no more threads to be had
            self.stop()
            for ended in self.ended[:started]:
                ended.wait()
            raise
        finally:
            for thread in threads[:started]:
                thread.join()

    def thread(self, worker: int) -> None:
        try:
            with pinned(self.pins, worker):
                self.work(worker)
        finally:
            self.ended[worker].set()

    def report(self, progress: Progress | None) -> None:
        if progress:
            tell(progress, sum(map(len, self.records)) // 3, self.news)

    def news(self) -> np.ndarray:
        """The tasks that ended since this was called last: a row has the fields of `Ran`."""
        found = []
        for worker, records in enumerate(self.records):
            rows = np.array(records[3 * self.told[worker] :]).reshape(-1, 3)
            self.told[worker] += len(rows)
            lane = np.broadcast_to([0.0, worker], (len(rows), 2))
            found.append(np.hstack([lane, rows - [0, self.began, self.began]]))
        return np.vstack(found)

    def stop(self) -> None:
        with self.lock:
            self.stopped = True
            self.wake(len(self.parked))

    # ------------------------------------------------------------ one worker

    def alone(self) -> None:
        """All tasks in the calling thread: one after the other, where the policy knows the order beforehand."""
        with pinned(self.pins, 0):
            self._alone()

    def _alone(self) -> None:
        order = self.policy.alone()
        if order is None or self.abroad:
            self.work(0)
            return
        call, note = self.program.caller(0), self.records[0].extend
        with task_threads(self.program.threads_per_task), self.torch_state.entered():
            for task in order:
                start = perf_counter()
                try:
                    call(task)
                except BaseException as error:
                    self.fail(task, 0, error, start)
                    return
                note((task.index, start, perf_counter()))

    def work(self, worker: int) -> None:
        call, note, long = self.program.caller(worker), self.records[worker].extend, self.long
        with task_threads(self.program.threads_per_task), self.torch_state.entered():
            batch = self.take(worker, [])
            while batch:
                for task in batch:
                    start = perf_counter()
                    try:
                        call(task)
                    except BaseException as error:  # KeyboardInterrupt too, where the caller is the worker
                        self.fail(task, worker, error, start)
                        return
                    end = perf_counter()
                    note((task.index, start, end))
                    if end - start < _SHORT:
                        long.discard(task.op)
                    else:
                        long.add(task.op)
                batch = self.take(worker, batch)

    def take(self, worker: int, batch: list[Task]) -> list[Task]:
        """Hand in the tasks that ``worker`` has finished; return the next ones, none when the run is over."""
        lock, frontier = self.lock, self.frontier
        lock.acquire()
        while not self.stopped:
            try:
                for task in batch:
                    self.ready(frontier.done(task), worker)
                spare = self.spare()
                batch = [] if spare else self.pop(worker)
            except BaseException as error:
                self.policy_failed(error)
                break
            if batch:
                self.popped = True
                if self.queued and self.parked:
                    self.offer()
                lock.release()
                return batch
            if frontier.finished:
                self.stopped = True
                break
            if self.parked:
                self.offer()
            if not spare and self.stuck():
                self.give_up(
                    SchedulerError(
                        f"{self.name} gives no task to any worker, though {self.queued} of the {frontier.remaining} "
                        f"tasks left are ready"
                    )
                )
                break
            self.parked.append(worker)
            lock.release()
            self.gates[worker].acquire()
            lock.acquire()
        self.wake(len(self.parked))
        lock.release()
        return []

    def ready(self, tasks: list[Task], worker: int | None) -> None:
        """Give tasks that became ready to the policy, external ones to `outside`."""
        push = self.policy.push
        for task in tasks:
            if task.op.external:
                self.outside(task)
            else:
                push(task, worker)
                self.queued += 1
                self.offered = False

    def outside(self, task: Task) -> None:
        """Take an external task that is ready. Called with the lock."""
        raise TypeError(f"{task} is for an engine with ranks")

    def arrived(self, task: Task) -> None:
        """Note that an external task is done, and wake workers for what that makes ready."""
        with self.lock:
            self.abroad -= 1
            try:
                self.ready(self.frontier.done(task), None)
            except BaseException as error:
                self.policy_failed(error)
            if self.stopped or self.frontier.finished:
                self.stopped = True
                self.wake(len(self.parked))
            elif self.queued and self.parked:
                self.offer()

    def spare(self) -> bool:
        """Whether another worker that is awake can as well do all there is: a few short tasks."""
        few = self.shared and not self.long and self.queued < _BATCH
        return few and len(self.parked) < self.workers - 1

    def pop(self, worker: int) -> list[Task]:
        """One task from the policy; several short ones if plenty are ready."""
        wanted = 1 if self.long or not self.shared else max(1, min(_BATCH, self.queued // (2 * self.workers)))
        batch: list[Task] = []
        while len(batch) < wanted and (task := self.policy.pop(worker)) is not None:
            if not self.frontier.hand_out(task):
                raise SchedulerError(f"{self.name} gives out {task!r}, which {self.frontier.state(task)}")
            self.queued -= 1
            batch.append(task)
        return batch

    def stuck(self) -> bool:
        """Whether the policy keeps tasks back that no event will change its mind about."""
        if self.shared and self.queued:
            return True
        if self.abroad and (not self.queued or self.policy.waits):
            return False  # what comes from outside may make tasks ready
        return len(self.parked) == self.workers - 1 and not self.look_again()

    def offer(self) -> None:
        """Wake parked workers for the tasks that are queued.

        A shared policy has one for each of as many workers. Another policy may hold a task for a certain worker,
        so all look, once after each push.
        """
        if self.shared:
            self.wake(self.queued if self.long else self.queued // _BATCH)
        elif not self.offered:
            self.offered = True
            self.wake(len(self.parked))

    def look_again(self) -> bool:
        """Wake everyone before giving up, if what a worker was given may have changed the policy's mind.

        Nothing runs when this is called, so it happens at most once per task.
        """
        again = bool(self.parked) and self.popped and not self.shared
        self.popped = False
        if again:
            self.wake(len(self.parked))
        return again

    def wake(self, count: int) -> None:
        """Wake up to ``count`` parked workers, those that parked last first: their caches are warmest."""
        for _ in range(min(count, len(self.parked))):
            self.gates[self.parked.pop()].release()

    def fail(self, task: Task, worker: int, error: BaseException, start: float | None = None) -> None:
        self.failed(task, task.index, worker, error, start)
        blame(error, task, task.index, f"backend=threads, worker={worker}")

    def failed(self, task: Task, number: int, worker: int, error: BaseException, start: float | None) -> None:
        """Note what a task raised, and when it had begun if a worker ran it; stop."""
        with self.lock:
            self.failures.append((number, error))
            if start is not None:
                self.failed_at[number] = worker, start, perf_counter()
            self.stopped = True
            self.wake(len(self.parked))

    def policy_failed(self, error: BaseException) -> None:
        error.add_note(f"in scheduler {self.name}")
        self.give_up(error)

    def give_up(self, error: BaseException) -> None:
        self.failures.append((len(self.program.graph), error))
        self.stopped = True

    def trace(self) -> Trace:
        began = self.began
        records: Any = (
            TaskRecord(int(index), worker, start - began, end - began)
            for worker, rows in enumerate(self.records)
            for index, start, end in zip(*[iter(rows)] * 3, strict=True)
        )
        trace = Trace(self.program.graph, self.workers, records)
        trace.began = began
        if self.failures and (index := min(self.failures, key=itemgetter(0))[0]) in self.failed_at:
            worker, start, end = self.failed_at[index]
            trace.failure = TaskRecord(index, worker, start - began, end - began)
        return trace
