"""lws: locality work stealing [StarPU `lws`, PaRSEC `lfq`].

Tasks stay with the worker that made them ready, whose cache holds what they need. A worker takes its newest task;
when it has none it steals the oldest of its nearest neighbour, which is the one least likely to be in that
neighbour's cache.
"""

from __future__ import annotations

from collections.abc import Iterable

from tilewright.graph import TaskGraph
from tilewright.machine import Machine
from tilewright.schedulers.stealing import Stealing

__all__ = ["LocalityWorkStealing"]


class LocalityWorkStealing(Stealing):
    """Victims by distance."""

    def prepare(self, graph: TaskGraph, machine: Machine) -> None:
        super().prepare(graph, machine)
        workers = machine.size
        # Whom to rob, nearest first: w+1, w-1, w+2, ... around the ring of workers.
        ring = [step for distance in range(1, workers // 2 + 1) for step in (distance, -distance)]
        self.victims = [list(dict.fromkeys((w + step) % workers for step in ring)) for w in range(workers)]

    def order(self, worker: int) -> Iterable[int]:
        return self.victims[worker]
