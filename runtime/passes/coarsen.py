"""Coarsening: fewer, larger tasks for an engine whose own work per task is not small.

A pass over any graph with owners; it needs no engine and no data. Two rules merge tasks of one owner:

*chain*
    A task joins the one that alone waits for it. All updates of a tile and the task that finishes it become one group
    with one result; of right-looking Cholesky they make the left-looking one. Nobody else waited for what is inside,
    so no cycle can arise.
*level*
    Groups at equal distance from the start are independent, so they may run as one: the tiles of a panel. Every edge
    still leads from a lower level to a higher one.

Both stop where a group reaches a *grain*, in seconds of work; that of levels is as large as that of chains, or a
quarter of it. A larger grain means less overhead and fewer hops, but a group begins only when all its inputs are there,
and so the critical path grows. A model tries grains from none to all: it lets the groups run in virtual time, those of
one owner on its workers, the longest path first, with what the engine costs. Of the partitions that keep within the
bounds it takes the one that ends first.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import inf
from typing import NamedTuple

from tilewright.graph import Handle, TaskGraph
from tilewright.passes.versions import Dataflow

__all__ = ["Coarse", "Group", "Overheads", "coarsen"]

SHARE = 0.1
STRETCH = 1.25


class Overheads(NamedTuple):
    """What an engine's own work costs, in seconds. The defaults were measured with Dask 2026.8."""

    task: float = 1.7e-3
    """Per task, on the one scheduler."""
    hop: float = 5.8e-3
    """Seconds from the end of a task to the start of one that waited for it."""
    byte: float = 2e-9
    """Per byte that comes from another place, or that a task gets a copy of because it changes it."""


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
    """Seconds that a run should take."""

    def __len__(self) -> int:
        return len(self.groups)

    def __str__(self) -> str:
        return (
            f"{self.before} tasks in {len(self)} groups: overhead {self.overhead:.1%} of the work, critical path "
            f"{self.path:.3g} s (was {self.path_before:.3g} s), {self.makespan:.3g} s expected"
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
    nbytes: Callable[[Handle], int] | None = None,
    room: float = inf,
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
    nbytes
        Size of the value of a handle; without it data costs nothing.
    room
        Bytes that the handles of one group may have together; where one task's have more, it stays alone.

    Returns
    -------
    Coarse
        Where no grain keeps to ``share``, the one with the least overhead among those that keep to ``stretch``. Not to
        merge at all always does.

    Notes
    -----
    O((tasks + edges) log tasks) for each of about twenty partitions.

    Examples
    --------
    >>> import tilewright as tw
    >>> from tilewright.passes.coarsen import coarsen
    >>> g = tw.cholesky_graph(nt=8)
    >>> print(coarsen(g, [0] * len(g), [0.01] * len(g), workers=2))
    120 tasks in 69 groups: overhead 9.8% of the work, critical path 0.373 s (was 0.342 s), 0.705 s expected
    """
    overheads = overheads or Overheads()
    if len(places) != len(graph) or len(cost) != len(graph):
        raise ValueError(f"{len(graph)} tasks, but {len(places)} places and {len(cost)} costs")
    size = _Sizes(graph, nbytes, room)
    model = _Model(graph, places, cost, overheads, workers, nbytes)
    found: dict[tuple[tuple[int, ...], ...], Coarse] = {}

    def best() -> Coarse:
        limit = max(stretch * first.path, first.work / workers)
        feasible = [coarse for coarse in found.values() if coarse.path <= limit]
        within = [coarse for coarse in feasible if coarse.overhead <= share]
        if within:
            return min(within, key=lambda coarse: coarse.makespan)
        return min(feasible, key=lambda coarse: coarse.overhead)

    def look(grain: float) -> None:
        chains = _chains(graph, places, cost, grain, size)
        for part in (1, 4):
            groups = _levels(graph, chains, places, cost, grain / part, size)
            if (key := tuple(groups)) not in found:
                found[key] = model.judge(groups, grain)

    look(0.0)
    first = next(iter(found.values()))
    for grain in _grains(cost, overheads):
        look(grain)
    grain = best().grain
    for near in (grain / 2, grain * 2):
        look(near)
    return best()


def _grains(cost: Sequence[float], overheads: Overheads) -> Iterator[float]:
    """From the cost of a task's overhead to all the work, each four times the one before."""
    total = sum(cost)
    grain = max(overheads.task, total / 4**9)
    while 0 < grain < total:
        yield grain
        grain *= 4
    if total:
        yield total


class _Sizes:
    """How much data groups touch."""

    def __init__(self, graph: TaskGraph, nbytes: Callable[[Handle], int] | None, room: float) -> None:
        self.room = room
        self.bounded = nbytes is not None and room < inf
        self.touched: list[dict[Handle, int]] = [{}] * len(graph)
        """By task: bytes by handle."""
        if nbytes is not None and self.bounded:
            self.touched = [{handle: nbytes(handle) for handle, _ in task.uses} for task in graph.tasks]

    def fit(self, a: dict[Handle, int], b: dict[Handle, int]) -> bool:
        """Whether there is room for both together."""
        return not self.bounded or sum((a | b).values()) <= self.room


def _chains(graph: TaskGraph, places: Sequence[int], cost: Sequence[float], grain: float, size: _Sizes) -> list[int]:
    """The group of each task, named by its last task, after the first rule."""
    touched = list(size.touched)
    successors = graph.successor_indices()
    last = list(range(len(graph)))
    work = list(cost)  # work of the group that ends here
    for task in graph.tasks:
        t = task.index
        own = set(task.writes)
        # The chain of the tile that is written comes first: its inputs have no other use.
        for p in sorted(task.predecessors, key=lambda p: (own.isdisjoint(graph.tasks[p].writes), p)):
            alone = len(successors[p]) == 1 and places[p] == places[t]
            if alone and work[p] + work[t] <= grain and size.fit(touched[p], touched[t]):
                last[p] = t
                touched[t] = touched[t] | touched[p]
                work[t] += work[p]
    for t in reversed(range(len(last))):
        last[t] = last[last[t]]
    return last


def _levels(
    graph: TaskGraph, group: list[int], places: Sequence[int], cost: Sequence[float], grain: float, size: _Sizes
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
    open_groups: dict[tuple[int, int], tuple[int, float, dict[Handle, int]]] = {}  # by level and place
    for g in sorted(members, key=lambda g: (level[g], g)):
        key = level[g], places[g]
        seconds = sum(cost[t] for t in members[g])
        touches: dict[Handle, int] = {}
        if size.bounded:
            for t in members[g]:
                touches |= size.touched[t]
        at, work, touched = open_groups.get(key, (-1, 0.0, {}))
        if at >= 0 and work + seconds <= grain and size.fit(touched, touches):
            merged[at] += members[g]
            open_groups[key] = at, work + seconds, touched | touches
        else:
            open_groups[key] = len(merged), seconds, touches
            merged.append(members[g])
    return [tuple(sorted(tasks)) for tasks in merged]


class _Model:
    """What an engine would make of a partition."""

    def __init__(
        self,
        graph: TaskGraph,
        places: Sequence[int],
        cost: Sequence[float],
        overheads: Overheads,
        workers: int,
        nbytes: Callable[[Handle], int] | None,
    ) -> None:
        self.graph, self.places, self.cost, self.overheads, self.workers = graph, places, cost, overheads, workers
        self.each = max(1, workers // max(len(set(places)), 1))
        """Workers of a place."""
        self.path_before: float | None = None
        flow = Dataflow(graph)
        size = (lambda handle: 0) if nbytes is None else nbytes
        seconds = [overheads.byte * size(handle) for handle in flow.handle]
        self.reads = [[(version, flow.writer[version], seconds[version]) for version in reads] for reads in flow.reads]
        changed = [{flow.handle[version] for version in writes} for writes in flow.writes]
        self.copied = [
            {version for version in reads if flow.handle[version] in changed[t]} for t, reads in enumerate(flow.reads)
        ]

    def judge(self, groups: list[tuple[int, ...]], grain: float) -> Coarse:
        """The groups with their predecessors, and what they cost."""
        group_of = {t: g for g, tasks in enumerate(groups) for t in tasks}
        tasks = self.graph.tasks
        hop = self.overheads.hop
        whole: list[Group] = []
        work: list[float] = []
        copies: list[float] = []
        moves: list[dict[int, float]] = []  # by group: seconds of data by the group that it comes from
        finish: list[float] = []
        for g, members in enumerate(groups):
            place = self.places[members[0]]
            before = {group_of[p] for t in members for p in tasks[t].predecessors} - {g}
            outside = {read for t in members for read in self.reads[t] if read[1] < 0 or group_of[read[1]] != g}
            copied = set().union(*(self.copied[t] for t in members))
            move: dict[int, float] = {}
            for _, writer, seconds in outside:
                if writer >= 0 and self.places[writer] != place:
                    move[group_of[writer]] = move.get(group_of[writer], 0.0) + seconds
            whole.append(Group(place, members, tuple(sorted(before))))
            work.append(sum(self.cost[t] for t in members))
            copies.append(sum(seconds for version, _, seconds in outside if version in copied))
            moves.append(move)
            finish.append(max((finish[b] + hop for b in before), default=0.0) + work[g])
        total = float(sum(self.cost))
        path = max(finish, default=0.0)
        if self.path_before is None:
            self.path_before = path
        return Coarse(
            groups=tuple(whole),
            grain=grain,
            before=len(self.graph),
            work=total,
            overhead=self.overheads.task * len(groups) / total if total else 0.0,
            path=path,
            path_before=self.path_before,
            makespan=self._run(whole, [w + c for w, c in zip(work, copies, strict=True)], moves),
        )

    def _run(self, groups: list[Group], work: list[float], moves: list[dict[int, float]]) -> float:
        """Virtual time to the end: the scheduler hears of groups one by one, then successors get their data."""
        ENDS, READY = range(2)
        task, hop, _ = self.overheads
        successors: list[list[int]] = [[] for _ in groups]
        for g, group in enumerate(groups):
            for before in group.predecessors:
                successors[before].append(g)
        level = [0.0] * len(groups)
        for g in reversed(range(len(groups))):
            level[g] = work[g] + max((level[s] + hop + moves[s].get(g, 0.0) for s in successors[g]), default=0.0)
        waits = [len(group.predecessors) for group in groups]
        ready: dict[int, list[tuple[float, int]]] = {group.place: [] for group in groups}
        free = dict.fromkeys(ready, self.each)
        begins = [0.0] * len(groups)
        events: list[tuple[float, int, int]] = [(0.0, READY, g) for g, count in enumerate(waits) if not count]
        heard = now = 0.0
        while events:
            now, kind, g = heapq.heappop(events)
            place = groups[g].place
            if kind == READY:
                heapq.heappush(ready[place], (-level[g], g))
            else:
                free[place] += 1
                heard = max(heard, now) + task
                for s in successors[g]:
                    begins[s] = max(begins[s], heard + hop + moves[s].get(g, 0.0))
                    waits[s] -= 1
                    if not waits[s]:
                        heapq.heappush(events, (begins[s], READY, s))
            while free[place] and ready[place]:
                free[place] -= 1
                first = heapq.heappop(ready[place])[1]
                heapq.heappush(events, (now + work[first] + task, ENDS, first))
        return now
