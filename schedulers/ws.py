"""ws: work stealing from a random victim [1]_, [StarPU `ws`].

A worker takes its newest task; when it has none it steals the oldest task of a victim drawn at random, which is
the one that leads to the most work in a tree-like program.

.. [1] R. D. Blumofe and C. E. Leiserson, Scheduling multithreaded computations by work stealing,
   Journal of the ACM 46 (1999).
"""

from __future__ import annotations

import random
from collections import deque

from tilewright.graph import Task, TaskGraph
from tilewright.machine import Machine

__all__ = ["WorkStealing"]


class WorkStealing:
    """One deque per worker, random victims by a seeded generator. O(1) per task, O(workers) to find nothing."""

    shared = True

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def prepare(self, graph: TaskGraph, machine: Machine) -> None:
        self.generator = random.Random(self.seed)
        self.deques: list[deque[Task]] = [deque() for _ in range(machine.size)]
        self.next = 0

    def push(self, task: Task, worker: int | None = None) -> None:
        if worker is None:  # the start of a run: deal tasks out in turn
            worker = self.next
            self.next = (worker + 1) % len(self.deques)
        self.deques[worker].append(task)

    def pop(self, worker: int) -> Task | None:
        if self.deques[worker]:
            return self.deques[worker].pop()
        count = len(self.deques)
        first = self.generator.randrange(count)
        for step in range(count):  # from a random victim on, around the ring
            victim = self.deques[(first + step) % count]
            if victim:
                return victim.popleft()
        return None
