"""lws: locality work stealing [StarPU `lws`, PaRSEC `lfq`].

Tasks stay with the worker that made them ready, whose cache holds what they need. A worker takes its newest task;
when it has none it steals the oldest of its nearest neighbour, which is the one least likely to be in that
neighbour's cache; from another socket only if its own has no tasks left.
"""

from __future__ import annotations

from tilewright.graph import TaskGraph
from tilewright.machine import Machine
from tilewright.schedulers.stealing import Stealing, near

__all__ = ["LocalityWorkStealing"]


class LocalityWorkStealing(Stealing):
    """Victims by distance."""

    def prepare(self, graph: TaskGraph, machine: Machine) -> None:
        super().prepare(graph, machine)
        self.near = near(machine)

    def victim(self, worker: int) -> int:
        """The nearest around the ring: w+1, w-1, w+2, ...; of its own socket if there is one."""
        full = self.near[worker] & self.full if self.near else 0
        up, down = self.after(worker, full), self.before(worker, full)
        return (worker + up if up <= down else worker - down) % len(self.deques)
