"""critical-path: the task with the longest way to go runs first [1]_.

The way to go is the bottom level, b(t) = cost(t) + max b(successors): exact, by one sweep backwards over any
graph or by the closed form of a graph that has one. A task with a larger ``priority=`` of the program comes before
all that: bottom levels know no workers, and where these are few, what feeds the next panel is worth more. Ties go to
the smaller row of the tile that is written, as the next diagonal tile waits for the rows just below it, then to the
smaller task index.

.. [1] Y.-K. Kwok and I. Ahmad, Static scheduling algorithms for allocating directed task graphs to
   multiprocessors, ACM Computing Surveys 31 (1999), section 3.
"""

from __future__ import annotations

from tilewright.graph import TaskGraph
from tilewright.machine import Machine
from tilewright.schedulers.ranked import Ranked, row

__all__ = ["CriticalPath"]


class CriticalPath(Ranked):
    """Largest priority of the program first, and of those the largest bottom level."""

    of_graph = True

    def keys(self, graph: TaskGraph, machine: Machine) -> list[tuple[float, float, int]]:
        levels = graph.bottom_levels()
        return [(-task.priority, -levels[task.index], row(task)) for task in graph.tasks]
