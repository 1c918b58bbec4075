"""What work-stealing policies share: a deque per worker, its own newest task first, else the oldest of a victim."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable

from tilewright.graph import Task, TaskGraph
from tilewright.machine import Machine

__all__ = ["Stealing"]


class Stealing(ABC):
    """One deque per worker; a subclass says whom to rob. O(1) per task, O(workers) to find nothing."""

    shared = True

    def prepare(self, graph: TaskGraph, machine: Machine) -> None:
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
        for victim in self.order(worker):
            if self.deques[victim]:
                return self.deques[victim].popleft()
        return None

    @abstractmethod
    def order(self, worker: int) -> Iterable[int]:
        """Whom ``worker`` tries to rob, in this order, now that its own deque is empty."""
