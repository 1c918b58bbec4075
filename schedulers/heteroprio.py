"""heteroprio: GPUs take what they accelerate most, CPUs what they lose least on [1]_.

Ready tasks lie in one bucket per acceleration factor (`Machine.acceleration`). A GPU looks into the buckets from
the largest factor down, a CPU core from the smallest up; inside a bucket the longest way to go is first. On a
machine with one kind of worker all tasks share a bucket. The paper's spoliation, which moves a running task from a
slow worker to a fast one, needs tasks that can be stopped and is left out.

.. [1] E. Agullo, B. Bramas, O. Coulaud, E. Darve, M. Messner and T. Takahashi, Task-based FMM for heterogeneous
   architectures, Concurrency and Computation: Practice and Experience 28 (2016).
"""

from __future__ import annotations

import copy
import heapq
from typing import Self

from tilewright.graph import Task, TaskGraph
from tilewright.machine import Machine
from tilewright.schedulers.base import BasePolicy
from tilewright.schedulers.ranked import row

__all__ = ["HeteroPrio"]


class HeteroPrio(BasePolicy):
    """Buckets by acceleration. O(log ready + buckets) per task."""

    shared = True

    def prepare(self, graph: TaskGraph, machine: Machine) -> None:
        levels = graph.bottom_levels(machine.mean_costs(graph))
        order = sorted(range(len(graph)), key=lambda t: (-levels[t], row(graph.tasks[t]), t))
        self.tasks = [graph.tasks[index] for index in order]
        self.place = [0] * len(order)
        for place, index in enumerate(order):
            self.place[index] = place
        mixed = len(machine.kinds) > 1
        factors = {task.op.name: machine.acceleration.get(task.op.name, 1.0) if mixed else 1.0 for task in graph}
        buckets = sorted(set(factors.values()))
        self.bucket = {name: buckets.index(factor) for name, factor in factors.items()}
        self.machine = machine
        self.heaps: list[list[int]] = [[] for _ in buckets]

    def fork(self) -> Self:
        """A policy prepared alike with empty buckets: one more rank of the same run."""
        other = copy.copy(self)
        other.heaps = [[] for _ in self.heaps]
        return other

    def push(self, task: Task, worker: int | None = None) -> None:
        heapq.heappush(self.heaps[self.bucket[task.op.name]], self.place[task.index])

    def pop(self, worker: int) -> Task | None:
        for heap in reversed(self.heaps) if self.machine.is_gpu(worker) else self.heaps:
            if heap:
                return self.tasks[heapq.heappop(heap)]
        return None
