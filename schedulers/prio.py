"""prio: the task with the largest priority that the program gave runs first [StarPU `prio`]."""

from __future__ import annotations

from tilewright.graph import TaskGraph
from tilewright.machine import Machine
from tilewright.schedulers.ranked import Ranked

__all__ = ["Prio"]


class Prio(Ranked):
    """Largest ``graph.insert(..., priority=)`` first; program order where priorities are equal."""

    of_graph = True

    def keys(self, graph: TaskGraph, machine: Machine) -> list[float]:
        return [-task.priority for task in graph.tasks]
