"""Policies that fix the worker of every task before the run, and the timeline they plan on."""

from __future__ import annotations

import heapq
from bisect import bisect_right

from tilewright.graph import Task, TaskGraph
from tilewright.machine import Machine
from tilewright.passes.versions import Dataflow
from tilewright.schedulers.base import BasePolicy

__all__ = ["Placed", "Timeline"]


class Timeline:
    """A plan that grows by one task at a time: when data is where, and when each worker is free.

    Transfers cost what the machine says and never wait for each other, as in the papers. Initial versions are in
    the first CPU memory of every rank.
    """

    def __init__(self, graph: TaskGraph, machine: Machine, flow: Dataflow) -> None:
        self.graph = graph
        self.machine = machine
        self.flow = flow
        self.words = [machine.words(handle) for handle in flow.handle]
        self.placement = [-1] * len(graph)
        self.start = [0.0] * len(graph)
        self.end = [0.0] * len(graph)
        self._free_from = [0.0] * machine.size  # by worker: the end of its last task
        self._gaps: list[tuple[list[float], list[float]]] = [([], []) for _ in range(machine.size)]  # starts, ends
        self._groups: dict[tuple[int, bool], list[int]] = {}  # workers that differ in nothing but what they do
        for worker in range(machine.size):
            self._groups.setdefault((machine.node(worker), machine.is_gpu(worker)), []).append(worker)

    @property
    def groups(self) -> list[tuple[int, bool]]:
        """(memory, is it a GPU) of each group of equal workers."""
        return list(self._groups)

    def count(self, group: tuple[int, bool]) -> int:
        """How many workers a group has."""
        return len(self._groups[group])

    @property
    def makespan(self) -> float:
        return max(self.end, default=0.0)

    def ready(self, task: Task, node: int) -> float:
        """When ``task`` could start in memory ``node`` with a free worker."""
        machine, end, placement = self.machine, self.end, self.placement
        time = max((end[p] for p in task.predecessors), default=0.0)
        for version in self.flow.reads[task.index]:
            writer = self.flow.writer[version]
            if writer >= 0:
                source, since = machine.node(placement[writer]), end[writer]
            else:
                source, since = node - node % machine.memories, 0.0
            if source != node:
                time = max(time, since + machine.transfer(self.words[version], source, node))
        return time

    def slot(self, worker: int, ready: float, length: float) -> float:
        """The earliest start of a free interval of ``length`` seconds, from ``ready`` on: insertion."""
        if self._free_from[worker] <= ready:
            return ready
        starts, ends = self._gaps[worker]
        for place in range(bisect_right(ends, ready), len(starts)):
            begin = max(ready, starts[place])
            if begin + length <= ends[place]:
                return begin
        return self._free_from[worker]

    def best(self, task: Task, group: tuple[int, bool], length: float) -> tuple[float, int]:
        """(start, worker) of the earliest start in a group; the smallest worker of those."""
        ready = self.ready(task, group[0])
        best = float("inf"), -1
        for worker in self._groups[group]:
            start = self.slot(worker, ready, length)
            if start < best[0]:
                best = start, worker
                if start == ready:
                    break
        return best

    def add(self, task: Task, worker: int, start: float, length: float) -> None:
        index = task.index
        self.placement[index], self.start[index], self.end[index] = worker, start, start + length
        starts, ends = self._gaps[worker]
        end, free_from = start + length, self._free_from[worker]
        if start >= free_from:
            before = [(free_from, start)]
            place = after = len(starts)
            self._free_from[worker] = end
        else:
            place = bisect_right(starts, start) - 1
            after = place + 1
            before = [(starts[place], start), (end, ends[place])] if place >= 0 and ends[place] >= end else []
            if not before:  # a task of no length inside the time of another
                return
        # What rounding leaves between two tasks is no gap.
        kept = [(a, b) for a, b in before if b - a > 1e-12 * self._free_from[worker]]
        starts[place:after] = [a for a, _ in kept]
        ends[place:after] = [b for _, b in kept]


class Placed(BasePolicy):
    """Base class: a subclass makes the plan. At run time each worker takes, of its ready tasks, the one planned first.

    A worker does not wait for a planned task that is late while it has another one ready. ``placement`` gives the
    planned worker by task index and ``makespan`` the planned seconds.
    """

    placement: list[int]

    def plan(self, graph: TaskGraph, machine: Machine) -> Timeline:
        raise TypeError(f"{type(self).__name__} must define plan(graph, machine)")

    def prepare(self, graph: TaskGraph, machine: Machine) -> None:
        timeline = self.plan(graph, machine)
        self.placement = timeline.placement
        self.makespan = timeline.makespan
        self.start = timeline.start
        self.tasks = graph.tasks
        self.heaps: list[list[tuple[float, int]]] = [[] for _ in range(machine.size)]

    def push(self, task: Task, worker: int | None = None) -> None:
        index = task.index
        heapq.heappush(self.heaps[self.placement[index]], (self.start[index], index))

    def pop(self, worker: int) -> Task | None:
        heap = self.heaps[worker]
        return self.tasks[heapq.heappop(heap)[1]] if heap else None
