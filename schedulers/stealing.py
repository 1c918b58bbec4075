"""What work-stealing policies share: a deque per worker, its own newest task first, else the oldest of a victim."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque

from tilewright.graph import Task, TaskGraph
from tilewright.machine import Machine
from tilewright.schedulers.base import BasePolicy

__all__ = ["Stealing", "near"]


class Stealing(BasePolicy, ABC):
    """One deque per worker; a subclass says whom to rob.

    Which deques have tasks is kept as the bits of one integer, so that a victim among thousands is found by a few
    operations on long words instead of a look at each.
    """

    shared = True

    def prepare(self, graph: TaskGraph, machine: Machine) -> None:
        self.deques: list[deque[Task]] = [deque() for _ in range(machine.size)]
        self.full = 0
        """Bit w is set where worker w has tasks."""
        self.next = 0

    def push(self, task: Task, worker: int | None = None) -> None:
        if worker is None:  # the start of a run: deal tasks out in turn
            worker = self.next
            self.next = (worker + 1) % len(self.deques)
        self.deques[worker].append(task)
        self.full |= 1 << worker

    def pop(self, worker: int) -> Task | None:
        if not self.full:
            return None
        own = self.deques[worker]
        if own:
            robbed, task = worker, own.pop()
        else:
            robbed = self.victim(worker)
            task = self.deques[robbed].popleft()
        if not self.deques[robbed]:
            self.full ^= 1 << robbed
        return task

    def after(self, worker: int, full: int = 0) -> int:
        """Steps up the ring from ``worker`` to the first deque with tasks, 0 for its own. There must be one.

        ``full``: bits of the deques to look at; 0 for all that have tasks.
        """
        full = full or self.full
        ahead = full >> worker
        if ahead:
            return (ahead & -ahead).bit_length() - 1
        return len(self.deques) - worker + (full & -full).bit_length() - 1

    def before(self, worker: int, full: int = 0) -> int:
        """Steps down the ring likewise."""
        full = full or self.full
        behind = full & ((2 << worker) - 1)
        if behind:
            return worker + 1 - behind.bit_length()
        return worker + 1 + len(self.deques) - full.bit_length()

    @abstractmethod
    def victim(self, worker: int) -> int:
        """Whom ``worker`` robs now that its own deque is empty and some other is not."""


def near(machine: Machine) -> list[int]:
    """By worker, the bits of the workers on its socket; nothing where all share one."""
    if machine.sockets == 1:
        return []
    of_node: dict[int, int] = {}
    nodes = [machine.node(worker) for worker in range(machine.size)]
    for worker, node in enumerate(nodes):
        of_node[node] = of_node.get(node, 0) | 1 << worker
    return [of_node[node] for node in nodes]
