"""lookahead(k): the next k columns of tiles run ahead of the rest of each update, as in SLATE [1]_.

A step reads its panel, column s, and updates the columns behind it. Tasks that write column s (the panel itself)
or one of the next k columns come first; all others follow in program order. With k = 0 only panels run ahead, with
k = nt nothing is held back.

.. [1] M. Gates et al., SLATE: design of a modern distributed and accelerated linear algebra library, SC 2019,
   section 5.
"""

from __future__ import annotations

from tilewright.graph import Task, TaskGraph
from tilewright.machine import Machine
from tilewright.schedulers.ranked import Ranked

__all__ = ["Lookahead"]


class Lookahead(Ranked):
    """Panel and next ``depth`` columns first, then program order.

    Raises
    ------
    ValueError
        ``depth`` is negative.
    """

    def __init__(self, depth: int = 1) -> None:
        if depth < 0:
            raise ValueError(f"lookahead depth must not be negative, got {depth}")
        self.depth = depth

    def keys(self, graph: TaskGraph, machine: Machine) -> list[bool]:
        return [distance(task) > self.depth for task in graph.tasks]


def distance(task: Task) -> int:
    """Columns between the tile that is written and the leftmost tile that is used; 0 without tile indices."""
    columns = [use.handle.index[1] for use in task.uses if len(use.handle.index) == 2]
    written = [handle.index[1] for handle in task.writes if len(handle.index) == 2]
    return min(written) - min(columns) if written else 0
