"""Policies that are an order of tasks: one heap for all workers, the first ready task of the order runs next."""

from __future__ import annotations

import copy
import heapq
from collections.abc import Sequence
from typing import Any, Self

from tilewright.graph import Access, Task, TaskGraph
from tilewright.machine import Machine
from tilewright.schedulers.base import BasePolicy

__all__ = ["Ranked", "row"]


class Ranked(BasePolicy):
    """Base class: a subclass says in `keys` how to sort the tasks. O(log ready) per task."""

    shared = True
    of_graph = False
    """Whether `keys` look at the graph alone: its order is then found once, however often it runs. Each class says so
    for itself; subclasses do not inherit it."""

    def keys(self, graph: TaskGraph, machine: Machine) -> Sequence[Any]:
        """A sort key for each task, smaller is sooner. Equal keys run in program order."""
        raise TypeError(f"{type(self).__name__} must define keys(graph, machine)")

    def prepare(self, graph: TaskGraph, machine: Machine) -> None:
        kind = type(self)
        if not kind.__dict__.get("of_graph", False):
            self.tasks, self.place = self._ordered(graph, machine)
        else:
            key = kind, graph.closed_form
            known = graph.orders.get(key)
            if known is None:
                known = self._ordered(graph, machine)
                graph.orders = {**graph.orders, key: known}
            self.tasks, self.place = known
        self.heap: list[int] = []

    def _ordered(self, graph: TaskGraph, machine: Machine) -> tuple[list[Task], list[int]]:
        """All tasks as they are sorted, and the place of each."""
        keys = self.keys(graph, machine)
        order = sorted(range(len(keys)), key=keys.__getitem__)  # stable: ties by task.index
        places = [0] * len(order)
        for place, index in enumerate(order):
            places[index] = place
        return [graph.tasks[index] for index in order], places

    def fork(self) -> Self:
        """A policy prepared alike, with a heap of its own: one more rank of the same run. O(1)."""
        other = copy.copy(self)
        other.heap = []
        return other

    def alone(self) -> list[Task] | None:
        """All tasks as one worker would get them, where that is plain: no task stands before one that it waits for.

        Then the first that is left is always ready. None for subclasses that push and pop otherwise. O(edges).
        """
        kind, place = type(self), self.place
        if kind.push is not Ranked.push or kind.pop is not Ranked.pop:
            return None
        plain = all(place[before] < here for here, task in enumerate(self.tasks) for before in task.predecessors)
        return self.tasks if plain else None

    def push(self, task: Task, worker: int | None = None) -> None:
        heapq.heappush(self.heap, self.place[task.index])

    def pop(self, worker: int) -> Task | None:
        return self.tasks[heapq.heappop(self.heap)] if self.heap else None


def row(task: Task) -> int:
    """Row of the tile that the task writes; 0 for handles without an index."""
    for handle, access in task.uses:
        if access is not Access.READ and handle.index:
            return handle.index[0]
    return 0
