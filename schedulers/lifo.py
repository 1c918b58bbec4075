"""lifo: last ready, first run. Keeps to what is in cache and lets early work wait."""

from __future__ import annotations

from tilewright.graph import Task, TaskGraph
from tilewright.machine import Machine
from tilewright.schedulers.base import BasePolicy

__all__ = ["Lifo"]


class Lifo(BasePolicy):
    """Last in, first out, one stack for all workers."""

    shared = True

    def prepare(self, graph: TaskGraph, machine: Machine) -> None:
        self.stack: list[Task] = []

    def push(self, task: Task, worker: int | None = None) -> None:
        self.stack.append(task)

    def pop(self, worker: int) -> Task | None:
        return self.stack.pop() if self.stack else None
