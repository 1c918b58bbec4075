"""lws: locality work stealing [StarPU `lws`, PaRSEC `lfq`].

Tasks stay with the worker that made them ready, whose cache holds what they need. A worker takes its newest task;
when it has none it steals the oldest of its nearest neighbour, which is the one least likely to be in that
neighbour's cache.
"""

from __future__ import annotations

from collections import deque

from tilewright.graph import Task, TaskGraph
from tilewright.machine import Machine

__all__ = ["LocalityWorkStealing"]


class LocalityWorkStealing:
    """One deque per worker. O(1) per task, O(workers) for a worker that finds nothing."""

    shared = True

    def prepare(self, graph: TaskGraph, machine: Machine) -> None:
        workers = machine.size
        self.deques: list[deque[Task]] = [deque() for _ in range(workers)]
        # Whom to rob, nearest first: w+1, w-1, w+2, ... around the ring of workers.
        ring = [step for distance in range(1, workers // 2 + 1) for step in (distance, -distance)]
        self.victims = [list(dict.fromkeys((w + step) % workers for step in ring)) for w in range(workers)]
        self.next = 0

    def push(self, task: Task, worker: int | None = None) -> None:
        if worker is None:  # the start of a run: deal tasks out in turn
            worker = self.next
            self.next = (worker + 1) % len(self.deques)
        self.deques[worker].append(task)

    def pop(self, worker: int) -> Task | None:
        if self.deques[worker]:
            return self.deques[worker].pop()
        for victim in self.victims[worker]:
            if self.deques[victim]:
                return self.deques[victim].popleft()
        return None
