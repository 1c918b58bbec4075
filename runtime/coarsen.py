"""Coarsening: fewer, larger tasks for an engine whose own work per task is not small.

A pass over any graph with owners; it needs no engine and no data. Two rules merge tasks of one owner:

*chain*
    A task joins the one that alone waits for it. All updates of a tile and the task that finishes it become one group
    with one result; of right-looking Cholesky they make the left-looking one. Nobody else waited for what is inside,
    so no cycle can arise.
*level*
    Groups at equal distance from the start are independent, so they may run as one: the tiles of a panel. Every edge
    still leads from a lower level to a higher one.

Both stop where a group reaches the *grain*, in seconds of work. A larger grain means less overhead and fewer hops, but
a group begins only when all its inputs are there, and so the critical path grows. The cost model tries grains from
none to all. Among those that keep within the bounds it takes the one with the least makespan that list scheduling
promises, Graham's bound [1]_::

    work / workers + (1 - 1 / workers) path + groups * overhead of one

.. [1] R. L. Graham, Bounds on multiprocessing timing anomalies, SIAM J. Applied Mathematics 17 (1969).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tilewright.graph import TaskGraph

__all__ = ["Coarse", "Group", "Overheads", "coarsen"]

SHARE = 0.1
STRETCH = 1.25


class Overheads(NamedTuple):
    """What an engine's own work costs, in seconds. The defaults were measured with Dask 2026.8."""

    task: float = 1.7e-3
    """Per task, on the one scheduler."""
    hop: float = 5.8e-3
    """From the end of a task to the start of one that waited for it."""


class Group(NamedTuple):
    """Tasks that run one after the other, as one."""

    place: int
    tasks: tuple[int, ...]
    """Indices, ascending."""
    predecessors: tuple[int, ...]
    """Groups that this one waits for."""


@dataclass(frozen=True)
class Coarse:
    """A partition of a graph's tasks into groups, in an order in which they can run; and what it is good for."""

    groups: tuple[Group, ...]
    grain: float
    """Seconds of work up to which tasks were merged."""
    before: int
    """Tasks of the graph."""
    work: float
    """Seconds of all tasks together."""
    overhead: float
    """The engine's time for all groups, as a share of the work."""
    path: float
    """Seconds of the longest chain of groups, hops included."""
    path_before: float
    """The same of the graph's own tasks."""
    makespan: float
    """Seconds that a run should take at most."""

    def __len__(self) -> int:
        return len(self.groups)

    def __str__(self) -> str:
        return (
            f"{self.before} tasks in {len(self)} groups: overhead {self.overhead:.1%} of the work, critical path "
            f"{self.path:.3g} s (was {self.path_before:.3g} s), at most {self.makespan:.3g} s"
        )


def coarsen(
    graph: TaskGraph,
    places: Sequence[int],
    cost: Sequence[float],
    overheads: Overheads | None = None,
    *,
    workers: int = 1,
    share: float = SHARE,
    stretch: float = STRETCH,
) -> Coarse:
    """Merge tasks of one place.

    Parameters
    ----------
    graph, places, cost
        The tasks; the owner of each by index; the seconds of each, such as `Machine.costs`.
    overheads
        What the engine adds to each task and between tasks.
    workers
        Workers of all places together.
    share
        The engine's time should not be more than this part of the work.
    stretch
        The critical path, hops included, is not to be more than this many times that of the graph itself, unless it
        stays below work / workers all the same.

    Returns
    -------
    Coarse
        Where no grain keeps to ``share``, the one with the least overhead among those that keep to ``stretch``. Not to
        merge at all always does.

    Notes
    -----
    O(tasks + edges) for each of about ten grains.

    Examples
    --------
    >>> import tilewright as tw
    >>> from tilewright.coarsen import coarsen
    >>> g = tw.cholesky_graph(nt=8)
    >>> print(coarsen(g, [0] * len(g), [0.01] * len(g), workers=2))
    120 tasks in 63 groups: overhead 8.9% of the work, critical path 0.403 s (was 0.342 s), at most 0.909 s
    """
    overheads = overheads or Overheads()
    if len(places) != len(graph) or len(cost) != len(graph):
        raise ValueError(f"{len(graph)} tasks, but {len(places)} places and {len(cost)} costs")
    found: list[Coarse] = []
    for grain in _grains(cost, overheads):
        groups = _levels(graph, _chains(graph, places, cost, grain), places, cost, grain)
        found.append(_judge(graph, groups, places, cost, grain, overheads, workers, found))
        if len(found) > 1 and len(found[-1]) == 1:
            break
    limit = max(stretch * found[0].path, found[0].work / workers)
    feasible = [coarse for coarse in found if coarse.path <= limit]
    within = [coarse for coarse in feasible if coarse.overhead <= share]
    if within:
        return min(within, key=lambda coarse: coarse.makespan)
    return min(feasible, key=lambda coarse: coarse.overhead)


def _grains(cost: Sequence[float], overheads: Overheads) -> Iterator[float]:
    """None, then from the cost of a task's overhead to all the work, each four times the one before."""
    yield 0.0
    total = sum(cost)
    grain = max(overheads.task, total / 4**9)
    while 0 < grain < total:
        yield grain
        grain *= 4
    if total:
        yield total


def _chains(graph: TaskGraph, places: Sequence[int], cost: Sequence[float], grain: float) -> list[int]:
    """The group of each task, named by its last task, after the first rule."""
    successors = graph.successor_indices()
    last = list(range(len(graph)))
    work = list(cost)  # of the group that ends here
    for task in graph.tasks:
        t = task.index
        own = set(task.writes)
        # The chain of the tile that is written comes first: its inputs have no other use.
        for p in sorted(task.predecessors, key=lambda p: (own.isdisjoint(graph.tasks[p].writes), p)):
            if len(successors[p]) == 1 and places[p] == places[t] and work[p] + work[t] <= grain:
                last[p] = t
                work[t] += work[p]
    for t in reversed(range(len(last))):
        last[t] = last[last[t]]
    return last


def _levels(
    graph: TaskGraph, group: list[int], places: Sequence[int], cost: Sequence[float], grain: float
) -> list[tuple[int, ...]]:
    """The tasks of each group, after the second rule, in an order in which groups can run."""
    members: dict[int, list[int]] = {}
    for t, g in enumerate(group):
        members.setdefault(g, []).append(t)
    # In order of last tasks every group comes after those that it waits for.
    level: dict[int, int] = {}
    for g in sorted(members):
        before = {group[p] for t in members[g] for p in graph.tasks[t].predecessors} - {g}
        level[g] = 1 + max((level[b] for b in before), default=-1)
    merged: list[list[int]] = []
    open_groups: dict[tuple[int, int], tuple[int, float]] = {}  # by level and place: which, and its work
    for g in sorted(members, key=lambda g: (level[g], g)):
        key = level[g], places[g]
        seconds = sum(cost[t] for t in members[g])
        at, work = open_groups.get(key, (-1, 0.0))
        if at >= 0 and work + seconds <= grain:
            merged[at] += members[g]
            open_groups[key] = at, work + seconds
        else:
            open_groups[key] = len(merged), seconds
            merged.append(members[g])
    return [tuple(sorted(tasks)) for tasks in merged]


def _judge(
    graph: TaskGraph, groups: list[tuple[int, ...]], places: Sequence[int], cost: Sequence[float], grain: float,
    overheads: Overheads, workers: int, found: list[Coarse],
) -> Coarse:  # fmt: skip
    """What the cost model says of a partition."""
    group_of = {t: g for g, tasks in enumerate(groups) for t in tasks}
    finish: list[float] = []
    whole = []
    for g, tasks in enumerate(groups):
        before = {group_of[p] for t in tasks for p in graph.tasks[t].predecessors} - {g}
        whole.append(Group(places[tasks[0]], tasks, tuple(sorted(before))))
        start = max((finish[b] + overheads.hop for b in before), default=0.0)
        finish.append(start + sum(cost[t] for t in tasks))
    work = float(sum(cost))
    path = max(finish, default=0.0)
    engine = overheads.task * len(groups)
    return Coarse(
        groups=tuple(whole),
        grain=grain,
        before=len(graph),
        work=work,
        overhead=engine / work if work else 0.0,
        path=path,
        path_before=found[0].path if found else path,
        makespan=work / workers + (1 - 1 / workers) * path + engine,
    )
