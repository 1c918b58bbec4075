"""Passes over a graph that need no engine: lower bounds on any run, and how many tasks could run at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tilewright.graph import Task, TaskGraph
from tilewright.keywords import strict
from tilewright.machine import Machine
from tilewright.scalars import instance, positive, real

__all__ = ["Bounds", "bounds", "mixed_bounds", "width"]


@dataclass(frozen=True, slots=True)
class Bounds:
    """No schedule of these tasks on these workers can be shorter than either bound.

    Units are those of the costs: seconds for a measured run.

    Examples
    --------
    >>> import tilewright as tw
    >>> found = tw.bounds(tw.cholesky_graph(nt=16), workers=64)
    >>> found.lower, round(found.speedup_limit, 2)
    (134.0, 30.57)
    """

    area: float
    """Work divided by workers, W/p; on several kinds of workers, what a linear programme makes of it."""
    critical_path: float
    """The longest chain of tasks that wait for each other, C."""
    work: float | None = field(default=None, repr=False, compare=False)
    """The cost of all tasks together, W, each on the kind of worker that is fastest on it; by default the area."""

    @property
    def lower(self) -> float:
        """max(W/p, C)."""
        return max(self.area, self.critical_path)

    @property
    def speedup_limit(self) -> float:
        """W/C: no number of workers gives more than this many times the speed of one."""
        work = self.area if self.work is None else self.work
        return work / self.critical_path if self.critical_path else 1.0


@strict
def bounds(graph: TaskGraph, workers: int, cost: Callable[[Task], float] | Sequence[float] | None = None) -> Bounds:
    """Area and critical-path bounds. O(tasks + edges).

    Parameters
    ----------
    graph : TaskGraph
    workers
        At least 1.
    cost
        What each task costs, a function or numbers; by default `Op.weight`.

    Returns
    -------
    bounds : Bounds

    Raises
    ------
    TypeError, ValueError
        Not a graph, fewer than one worker, or costs of another number of tasks.

    Examples
    --------
    >>> import tilewright as tw
    >>> tw.bounds(tw.cholesky_graph(nt=16), workers=8)     # t^3/p and 9t - 10, in units of nb^3/3
    Bounds(area=512.0, critical_path=134.0)
    """
    instance(graph, "graph", TaskGraph, "a TaskGraph")
    positive(workers, "workers")
    if not (
        cost is None
        or callable(cost)
        or (isinstance(cost, Sequence) and not isinstance(cost, str | bytes))
        or getattr(cost, "ndim", 0) == 1
    ):
        raise TypeError(f"cost must be a function of a task or a sequence by task index, not {cost!r}")
    if cost is not None and not callable(cost) and len(cost) != len(graph):
        raise ValueError(f"cost has {len(cost)} costs for the {len(graph)} tasks of {graph!r}")
    if cost is not None:
        cost = [cost(task) for task in graph.tasks] if callable(cost) else list(cost)
        for value in cost:
            real(value, "a cost", 0)
    work = graph.work(cost)
    return Bounds(area=work / workers, critical_path=graph.critical_path(cost).length, work=work)


def mixed_bounds(graph: TaskGraph, machine: Machine) -> Bounds:
    """Bounds for a machine whose workers differ [1]_.

    The area bound is the optimum of a linear programme: tasks of equal costs form a class, x[c, k] of the n[c] tasks
    of class c run on workers of kind k, and dependencies are forgotten::

        minimise T   subject to   sum_k x[c, k] = n[c],   sum_c cost[c, k] x[c, k] <= workers[k] T,   x >= 0

    The critical path takes each task on the kind of worker that is fastest on it.

    .. [1] E. Agullo et al., Are static schedules so bad? A case study on Cholesky factorization, IPDPS 2016.
    """
    from scipy.optimize import linprog

    kinds = machine.kinds
    costs = [machine.costs(graph, gpu) for gpu in kinds]
    fastest = [min(row) for row in zip(*costs, strict=True)]
    work = sum(fastest)
    path = graph.critical_path(fastest).length
    classes = Counter(zip(*costs, strict=True))
    if not classes or len(kinds) == 1:
        return Bounds(work / machine.size, path, work)
    unknowns = len(classes) * len(kinds)
    demand = [[0.0] * (unknowns + 1) for _ in classes]
    capacity = [[0.0] * (unknowns + 1) for _ in kinds]
    for c, cost in enumerate(classes):
        for k in range(len(kinds)):
            demand[c][c * len(kinds) + k] = 1.0
            capacity[k][c * len(kinds) + k] = cost[k]
    for k, count in enumerate(kinds.values()):
        capacity[k][unknowns] = -float(count)
    answer = linprog(
        [0.0] * unknowns + [1.0], A_ub=capacity, b_ub=[0.0] * len(kinds), A_eq=demand, b_eq=list(classes.values())
    )
    if answer.x is None:
        raise RuntimeError(f"the linear programme of the area bound failed: {answer.message}")
    return Bounds(float(answer.x[unknowns]), path, work)


def width(graph: TaskGraph) -> int:
    """Most tasks at one depth of the graph, where depth counts the longest way from the start. O(tasks + edges).

    Tasks of one depth are independent, so this many can run at once; it bounds the longest antichain from below,
    and a graph such as Cholesky's has antichains that are longer.

    Examples
    --------
    >>> import tilewright as tw
    >>> from tilewright.passes.bounds import width
    >>> width(tw.cholesky_graph(nt=8))
    28
    """
    depth = [0] * len(graph)
    for task in graph.tasks:
        depth[task.index] = 1 + max((depth[p] for p in task.predecessors), default=-1)
    return max(Counter(depth).values(), default=0)
