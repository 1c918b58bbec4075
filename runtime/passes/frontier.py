"""The frontier: what is ready, done and cancelled in one run of a graph. No threads, no clock, no I/O.

An engine asks `Frontier.start` once, then reports each finished task with `done` and is told which tasks became
ready. The graph stays untouched, so any number of runs of one graph can go on at the same time.
"""

from __future__ import annotations

from tilewright.graph import Task, TaskGraph

__all__ = ["Frontier"]


class Frontier:
    """State of one run: a count of unfinished predecessors for each task.

    Not thread-safe; an engine with threads calls it under its lock.
    """

    __slots__ = ("_state", "_successors", "_tasks", "_waiting", "remaining")

    # What stands in place of the count of a task that waits for nothing any more.
    _READY, _RUNNING, _DONE, _CANCELLED = 0, -1, -2, -3

    def __init__(self, graph: TaskGraph) -> None:
        self._tasks = graph.tasks
        self._successors = graph.successor_indices()
        self._waiting = [len(task.predecessors) for task in graph.tasks]
        self.remaining = len(graph.tasks)
        """Tasks that are neither done nor cancelled."""

    def start(self) -> list[Task]:
        """The tasks that wait for nothing, in program order."""
        return [task for task in self._tasks if not task.predecessors]

    def ready(self) -> list[Task]:
        """The tasks that wait for nothing and are not done, handed out or not, in program order. O(tasks)."""
        ready = range(self._RUNNING, self._READY + 1)
        return [task for task, count in zip(self._tasks, self._waiting, strict=True) if count in ready]

    def hand_out(self, task: Task) -> bool:
        """Note that ``task`` begins; False if it is not ready, was handed out before, or is no task of this graph."""
        if not self.knows(task) or self._waiting[task.index]:
            return False
        self._waiting[task.index] = self._RUNNING
        return True

    def knows(self, task: Task) -> bool:
        """Whether this is a task of the graph."""
        try:
            return self._tasks[task.index] is task
        except (AttributeError, IndexError, TypeError):  # what a policy may make up
            return False

    def done(self, task: Task) -> list[Task]:
        """Note that ``task`` finished; return the tasks that this made ready, in program order.

        Raises
        ------
        ValueError
            The task still waits for others, was cancelled, or is already done.
        """
        waiting = self._waiting
        index = task.index
        if not self._RUNNING <= waiting[index] <= self._READY:
            raise ValueError(f"{task} cannot be done: it {self.state(task)}")
        waiting[index] = self._DONE
        self.remaining -= 1
        ready = []
        for s in self._successors[index]:
            waiting[s] -= 1
            if not waiting[s]:
                ready.append(self._tasks[s])
        return ready

    def failed(self, task: Task) -> list[Task]:
        """Note that ``task`` failed; return every task that can now never run, in program order."""
        if not self._RUNNING <= self._waiting[task.index] <= self._READY:
            raise ValueError(f"{task} cannot fail: it {self.state(task)}")
        self._waiting[task.index] = self._DONE
        self.remaining -= 1
        cancelled: set[int] = set()
        stack = [task.index]
        while stack:
            for s in self._successors[stack.pop()]:
                if s not in cancelled and self._waiting[s] != self._CANCELLED:
                    cancelled.add(s)
                    stack.append(s)
        for s in cancelled:
            self._waiting[s] = self._CANCELLED
        self.remaining -= len(cancelled)
        return [self._tasks[s] for s in sorted(cancelled)]

    def state(self, task: Task) -> str:
        """``waits for N tasks``, ``is ready``, ``is running``, ``is done``, ``is cancelled``, or ``is no task of this
        graph``."""
        if not self.knows(task):
            return "is no task of this graph"
        count = self._waiting[task.index]
        if count in (self._RUNNING, self._DONE):
            return "is running" if count == self._RUNNING else "is done"
        if count <= self._CANCELLED:
            return "is cancelled"
        return f"waits for {count} tasks" if count else "is ready"

    @property
    def finished(self) -> bool:
        return self.remaining == 0
