"""aside: tasks that wait for a disk have workers of their own, so that they keep nobody from computing.

The last workers run these tasks, in program order, and no others; what they wait for costs no core. All other tasks go
by another policy, for the workers before them.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection

from tilewright.graph import Task, TaskGraph
from tilewright.machine import Machine
from tilewright.schedulers.base import BasePolicy

__all__ = ["Aside"]


class Aside(BasePolicy):
    """``policy`` for all tasks but those of the ops that ``ops`` names, which the last ``workers`` run."""

    def __init__(self, policy: BasePolicy, ops: Collection[str], workers: int, name: str = "") -> None:
        self.policy, self.ops, self.aside, self.name = policy, ops, workers, name

    @property
    def called(self) -> str:
        return self.name or self.policy.called

    def prepare(self, graph: TaskGraph, machine: Machine) -> None:
        self.computing = max(1, machine.workers - self.aside)
        self.alone_ = machine.workers <= self.aside
        self.tasks = graph.tasks
        self.waiting: list[int] = []
        self.policy.prepare(graph, machine.replace(workers=self.computing))

    def push(self, task: Task, worker: int | None = None) -> None:
        if task.op.name in self.ops:
            heapq.heappush(self.waiting, task.index)
        else:
            self.policy.push(task, worker if worker is None or worker < self.computing else None)

    def pop(self, worker: int) -> Task | None:
        if worker >= self.computing or self.alone_:
            if self.waiting:
                return self.tasks[heapq.heappop(self.waiting)]
            if not self.alone_:
                return None
        return self.policy.pop(min(worker, self.computing - 1))
