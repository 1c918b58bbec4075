"""critical-path: the task with the longest way to go runs first [1]_.

The way to go is the bottom level, b(t) = cost(t) + max b(successors): exact, by one sweep backwards over any
graph or by the closed form of a graph that has one. Ties go to the smaller row of the tile that is written, as the
next diagonal tile waits for the rows just below it, then to the smaller task index.

.. [1] Y.-K. Kwok and I. Ahmad, Static scheduling algorithms for allocating directed task graphs to
   multiprocessors, ACM Computing Surveys 31 (1999), section 3.
"""

from __future__ import annotations

import heapq

from tilewright.graph import Access, Task, TaskGraph
from tilewright.machine import Machine

__all__ = ["CriticalPath"]


class CriticalPath:
    """Largest bottom level first; one heap for all workers. O(log ready) per task."""

    shared = True

    def prepare(self, graph: TaskGraph, machine: Machine) -> None:
        levels = graph.bottom_levels()
        order = sorted((-levels[task.index], row(task), task.index) for task in graph.tasks)
        self.tasks = [graph.tasks[index] for _, _, index in order]
        self.place = [0] * len(order)
        for place, (_, _, index) in enumerate(order):
            self.place[index] = place
        self.heap: list[int] = []

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
