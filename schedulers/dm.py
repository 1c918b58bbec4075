"""dm, dmda, dmdas: deque model, a ready task goes to the worker that is expected to suit it best [1]_.

StarPU's family. For each worker w, with all that waits or runs there::

    end(w)     = load(w) + cost(t, w)
    fitness(w) = alpha (end(w) - min end) + beta transfer(t, w)       smallest wins, alpha = beta = 1

``dm`` leaves transfers out (beta = 0). ``dmda`` is data-aware. ``dmdas`` also sorts each worker's queue: user
priority, then bottom level, then least data to move. Idle times before a worker's queue fills are not counted:
a policy has no clock.

.. [1] C. Augonnet, S. Thibault and R. Namyst, StarPU: a runtime system for scheduling tasks over
   accelerator-based multicore machines, INRIA RR-7240 (2010).
"""

from __future__ import annotations

import copy
import heapq
from typing import Self

import numpy as np

from tilewright.graph import Handle, Task, TaskGraph
from tilewright.machine import Machine
from tilewright.schedulers.base import BasePolicy

__all__ = ["DequeModel", "DequeModelData", "DequeModelDataSorted"]

Key = tuple[float, float, float, int]


class DequeModel(BasePolicy):
    """dm: smallest expected completion time. O(workers) per task."""

    placement: list[int]

    alpha = 1.0
    beta = 0.0
    sorted = False

    def prepare(self, graph: TaskGraph, machine: Machine) -> None:
        self.tasks = graph.tasks
        self.machine = machine
        self.costs = {gpu: machine.costs(graph, gpu) for gpu in machine.kinds}
        self.levels = graph.bottom_levels(machine.mean_costs(graph)) if self.sorted else []
        self.gpu = np.array([machine.is_gpu(worker) for worker in range(machine.size)])
        self.node = np.array([machine.node(worker) for worker in range(machine.size)])
        self.placement = [-1] * len(graph)
        self._clear()

    def _clear(self) -> None:
        size = self.machine.size
        self.load = np.zeros(size)
        self.queues: list[list[Key]] = [[] for _ in range(size)]
        self.running: list[Task | None] = [None] * size
        self.copies: dict[Handle, set[int]] = {}  # memories with the current version
        self.pushed = 0

    def fork(self) -> Self:
        """A policy prepared alike with empty queues: one more rank of the same run."""
        other = copy.copy(self)
        other._clear()
        return other

    def push(self, task: Task, worker: int | None = None) -> None:
        end = self.load + self._cost(task)
        transfer = self._transfers(task)
        fitness = self.alpha * (end - end.min()) + self.beta * transfer
        chosen = int(fitness.argmin())  # the first of the smallest
        self.placement[task.index] = chosen
        self.load[chosen] += self.costs[bool(self.gpu[chosen])][task.index]
        self._move(task, int(self.node[chosen]))
        self.pushed += 1
        key = (float(self.pushed), 0.0, 0.0, task.index)
        if self.sorted:
            key = (-task.priority, -self.levels[task.index], float(transfer[chosen]), task.index)
        heapq.heappush(self.queues[chosen], key)

    def pop(self, worker: int) -> Task | None:
        done = self.running[worker]
        if done is not None:
            self.load[worker] -= self.costs[bool(self.gpu[worker])][done.index]
            self.running[worker] = None
        queue = self.queues[worker]
        if not queue:
            self.load[worker] = 0.0  # what rounding left
            return None
        task = self.running[worker] = self.tasks[heapq.heappop(queue)[-1]]
        return task

    def _cost(self, task: Task) -> np.ndarray | float:
        """Seconds by worker."""
        if len(self.costs) == 1:
            (costs,) = self.costs.values()
            return costs[task.index]
        return np.where(self.gpu, self.costs[True][task.index], self.costs[False][task.index])

    def _transfers(self, task: Task) -> np.ndarray:
        """Seconds by worker to bring what the task reads to its memory."""
        machine = self.machine
        if machine.nodes == 1 or not self.beta:
            return np.zeros(machine.size)
        seconds = np.zeros(machine.nodes)
        for handle in dict.fromkeys(task.reads):
            words = machine.words(handle)
            copies = self.copies.get(handle)
            for node in range(machine.nodes):
                host = node - node % machine.memories
                sources = copies if copies is not None else (host,)
                if node not in sources:
                    seconds[node] += min(machine.transfer(words, source, node) for source in sources)
        by_worker: np.ndarray = seconds[self.node]
        return by_worker

    def _move(self, task: Task, node: int) -> None:
        """Note where the task's data will be; tasks that are ready together never write what others use."""
        if self.machine.nodes == 1 or not self.beta:
            return
        for handle in task.reads:
            self.copies.setdefault(handle, {r * self.machine.memories for r in range(self.machine.ranks)}).add(node)
        for handle in task.writes:
            self.copies[handle] = {node}


class DequeModelData(DequeModel):
    """dmda: completion time plus transfer time."""

    beta = 1.0


class DequeModelDataSorted(DequeModelData):
    """dmdas: dmda with sorted queues; what StarPU recommends."""

    sorted = True
