"""ws: work stealing from a random victim [1]_, [StarPU `ws`].

A worker takes its newest task; when it has none it steals the oldest task of a victim drawn at random, which is
the one that leads to the most work in a tree-like program.

.. [1] R. D. Blumofe and C. E. Leiserson, Scheduling multithreaded computations by work stealing,
   Journal of the ACM 46 (1999).
"""

from __future__ import annotations

import random

from tilewright.graph import TaskGraph
from tilewright.machine import Machine
from tilewright.schedulers.stealing import Stealing

__all__ = ["WorkStealing"]


class WorkStealing(Stealing):
    """Random victims by a seeded generator."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def prepare(self, graph: TaskGraph, machine: Machine) -> None:
        super().prepare(graph, machine)
        self.generator = random.Random(self.seed)

    def victim(self, worker: int) -> int:
        """From a random worker on, around the ring."""
        count = len(self.deques)
        first = self.generator.randrange(count)
        return (first + self.after(first)) % count
