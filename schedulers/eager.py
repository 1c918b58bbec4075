"""eager: first ready, first run; one queue for all workers [StarPU `eager`]."""

from __future__ import annotations

from collections import deque

from tilewright.graph import Task, TaskGraph
from tilewright.machine import Machine
from tilewright.schedulers.base import BasePolicy

__all__ = ["Eager"]


class Eager(BasePolicy):
    """First in, first out. Tasks that become ready together run in program order."""

    shared = True

    def prepare(self, graph: TaskGraph, machine: Machine) -> None:
        self.queue: deque[Task] = deque()

    def push(self, task: Task, worker: int | None = None) -> None:
        self.queue.append(task)

    def pop(self, worker: int) -> Task | None:
        return self.queue.popleft() if self.queue else None
