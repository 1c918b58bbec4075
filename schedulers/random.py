"""random: any ready task, by a seeded generator. The baseline that a policy has to beat."""

from __future__ import annotations

import random

from tilewright.graph import Task, TaskGraph
from tilewright.machine import Machine
from tilewright.schedulers.base import BasePolicy

__all__ = ["Random"]


class Random(BasePolicy):
    """Uniform choice among the ready tasks. The same seed and the same order of calls give the same plan."""

    shared = True

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def prepare(self, graph: TaskGraph, machine: Machine) -> None:
        self.generator = random.Random(self.seed)
        self.ready: list[Task] = []

    def push(self, task: Task, worker: int | None = None) -> None:
        self.ready.append(task)

    def pop(self, worker: int) -> Task | None:
        if not self.ready:
            return None
        chosen = self.generator.randrange(len(self.ready))
        self.ready[chosen], self.ready[-1] = self.ready[-1], self.ready[chosen]
        return self.ready.pop()
