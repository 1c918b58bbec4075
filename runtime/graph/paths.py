"""Longest paths through a graph: what no run can be shorter than, and what is urgent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tilewright.graph.task import Cost, Task

__all__ = ["CriticalPath", "bottom_levels", "costs_of", "critical_path"]


@dataclass(frozen=True, slots=True)
class CriticalPath:
    """A longest chain of tasks that wait for each other. No run can be shorter, whatever its workers.

    Examples
    --------
    >>> import tilewright as tw
    >>> print(tw.cholesky_graph(nt=2).critical_path())
    potrf(0) -> trsm(1,0) -> syrk(1,0) -> potrf(1)  (length 8)
    """

    tasks: tuple[Task, ...]
    """From the first to the last."""
    length: float
    """The sum of what they take, in units of the weights: nb^3/3 flops, or seconds of a machine."""

    def __len__(self) -> int:
        return len(self.tasks)

    def __str__(self) -> str:
        return f"{' -> '.join(t.label for t in self.tasks)}  (length {self.length:g})"


def costs_of(tasks: Sequence[Task], cost: Cost | Sequence[float] | None, graph: object) -> Sequence[float]:
    """What each task takes: by the function, as the sequence says, or `Op.weight`. ValueError names ``graph``."""
    if cost is None:
        return [task.op.weight for task in tasks]
    if callable(cost):
        return [cost(task) for task in tasks]
    if len(cost) != len(tasks):
        raise ValueError(f"{len(cost)} costs for the {len(tasks)} tasks of {graph!r}")
    return cost


def bottom_levels(tasks: Sequence[Task], costs: Sequence[float]) -> list[float]:
    """Length of the longest path from each task to the end: one sweep backwards, as program order is topological."""
    levels = [0.0] * len(costs)
    for task in reversed(tasks):
        level = levels[task.index] = levels[task.index] + costs[task.index]
        for p in task.predecessors:
            if levels[p] < level:
                levels[p] = level
    return levels


def critical_path(tasks: Sequence[Task], levels: Sequence[float], successors: Sequence[Sequence[int]]) -> CriticalPath:
    """A longest path, from the bottom level of each task; of a graph that has tasks; ties go to the smaller index."""

    def first(candidates: Sequence[int]) -> int:
        return max(candidates, key=lambda t: (levels[t], -t))

    path = [first(range(len(tasks)))]
    while successors[path[-1]]:
        path.append(first(successors[path[-1]]))
    return CriticalPath(tuple(tasks[t] for t in path), float(levels[path[0]]))
