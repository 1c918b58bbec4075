"""Passes over a graph that need no engine: lower bounds on any run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tilewright.graph import Task, TaskGraph

__all__ = ["Bounds", "bounds"]


@dataclass(frozen=True, slots=True)
class Bounds:
    """No schedule of these tasks on these workers can be shorter than either bound.

    Units are those of the costs: seconds for a measured run.
    """

    area: float
    """Work divided by workers, W/p."""
    critical_path: float
    """The longest chain of tasks that wait for each other, C."""

    @property
    def lower(self) -> float:
        """max(W/p, C)."""
        return max(self.area, self.critical_path)

    @property
    def speedup_limit(self) -> float:
        """W/C over p: how many times ``area`` the workers could still shrink. 1 means the path is the wall."""
        return self.area / self.critical_path if self.critical_path else 1.0


def bounds(graph: TaskGraph, workers: int, cost: Callable[[Task], float] | Sequence[float] | None = None) -> Bounds:
    """Area and critical-path bounds. O(tasks + edges).

    Examples
    --------
    >>> import tilewright as tw
    >>> tw.bounds(tw.cholesky_graph(nt=16), workers=8)     # t^3/p and 9t - 10, in units of nb^3/3
    Bounds(area=512.0, critical_path=134.0)
    """
    return Bounds(area=graph.work(cost) / workers, critical_path=graph.critical_path(cost).length)
