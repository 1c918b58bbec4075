"""Pipeline schedules as policies: GPipe, 1F1B and zero bubble are orders of the same tasks.

A segment has a place, and a place one worker. A schedule says in which order a place takes its micro-batches, as a
list of actions such as ``2F0``: segment 2, forward, micro-batch 0. F is forward, B the whole backward pass, I and W its
halves: the gradient of the input, which the segment before waits for, and that of the weights, which only the optimizer
waits for. The letters, and the orders, are those of ``torch.distributed.pipelining``.

==============  ======================================================================================
``gpipe``       all forward passes, then all backward passes [1]_
``1f1b``        S - 1 - s forward passes ahead, then one forward, one backward; least memory [2]_
``zero-bubble`` 1F1B with split backward passes; the weights' halves fill what would be idle (ZB-H1) [3]_
==============  ======================================================================================

.. [1] Y. Huang et al., GPipe, NeurIPS 2019.
.. [2] D. Narayanan et al., PipeDream, SOSP 2019; Megatron-LM, SC'21.
.. [3] P. Qi et al., Zero bubble pipeline parallelism, ICLR 2024.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from tilewright.graph import Task, TaskGraph
from tilewright.machine import Machine
from tilewright.training.step import Division

__all__ = ["PIPELINES", "Action", "Pipeline", "pipeline_policy", "planned", "to_csv"]


class Action(NamedTuple):
    """One task of a pipeline."""

    segment: int
    kind: str
    """F, B, I or W."""
    micro: int

    def __str__(self) -> str:
        return f"{self.segment}{self.kind}{self.micro}"


def gpipe(s: int, segments: int, micro: int) -> Iterator[tuple[str, int]]:
    """F0 ... F(M-1), B0 ... B(M-1)."""
    yield from (("F", m) for m in range(micro))
    yield from (("B", m) for m in range(micro))


def one_forward_one_backward(s: int, segments: int, micro: int) -> Iterator[tuple[str, int]]:
    """min(M, S - 1 - s) forward passes, then F and B in turn, then the backward passes that are left."""
    ahead = min(micro, segments - 1 - s)
    yield from (("F", m) for m in range(ahead))
    for m in range(ahead, micro):
        yield "F", m
        yield "B", m - ahead
    yield from (("B", m) for m in range(micro - ahead, micro))


def zero_bubble(s: int, segments: int, micro: int) -> Iterator[tuple[str, int]]:
    """As 1F1B, with I for B; W follows s backward passes behind, and the last s of them at the end."""
    done = 0
    for kind, m in one_forward_one_backward(s, segments, micro):
        yield ("F", m) if kind == "F" else ("I", m)
        if kind == "B" and m >= s:
            yield "W", done
            done += 1
    yield from (("W", m) for m in range(done, micro))


PIPELINES: dict[str, Callable[[int, int, int], Iterator[tuple[str, int]]]] = {
    "gpipe": gpipe,
    "1f1b": one_forward_one_backward,
    "zero-bubble": zero_bubble,
}
"""By name: the order of (kind, micro-batch) of segment s of S, with M micro-batches."""


def planned(name: str, segments: int, micro: int) -> list[list[Action]]:
    """The actions of each segment's worker, in order.

    Examples
    --------
    >>> from tilewright.training.pipeline import planned
    >>> print(*planned("1f1b", 2, 3)[0])
    0F0 0F1 0B0 0F2 0B1 0B2
    """
    return [[Action(s, kind, m) for kind, m in PIPELINES[name](s, segments, micro)] for s in range(segments)]


def to_csv(name: str, segments: int, micro: int) -> str:
    """The plan as torch writes it: a row a rank, an action a cell."""
    return "".join(",".join(map(str, row)) + "\n" for row in planned(name, segments, micro))


_KINDS = {"forward": "F", "forward_loss": "F", "backward": "B", "backward_input": "I", "backward_weight": "W"}


def action(task: Task) -> Action | None:
    """The action that a task of a training graph is; None for all others."""
    kind = _KINDS.get(task.op.name)
    if kind is None:
        return None
    _, _, m, s = task.uses[-1].handle.index
    return Action(s, kind, m)


class Pipeline:
    """Each place takes its actions in the order of the plan, step by step, and waits for one that is not ready.

    Tasks that are no actions run when the next action is not ready, by priority, then in program order.
    """

    waits = True

    def __init__(self, name: str, division: Division) -> None:
        if name not in PIPELINES:
            raise ValueError(f"unknown pipeline {name!r}; known: {', '.join(PIPELINES)}")
        self.name = name
        self.division = division

    def prepare(self, graph: TaskGraph, machine: Machine) -> None:
        segments, micro = self.division.segments, self.division.micro
        rank = {
            (a.segment, a.kind, a.micro): k for row in planned(self.name, segments, micro) for k, a in enumerate(row)
        }
        by_place: dict[Any, list[tuple[int, int, int]]] = {}
        steps: dict[tuple[Any, Action], int] = {}
        self.tasks = graph.tasks
        for task in graph.tasks:
            found = action(task)
            own = by_place.setdefault(task.on, []) if not task.op.external else []
            if found is not None:
                step = steps[task.on, found] = steps.get((task.on, found), -1) + 1
                own.append((step, rank[found.segment, found.kind, found.micro], task.index))
        self.order = {where: [index for *_, index in sorted(own)] for where, own in by_place.items()}
        self.next = dict.fromkeys(self.order, 0)
        self.ready: dict[Any, set[int]] = {where: set() for where in self.order}
        self.others: dict[Any, list[tuple[float, int]]] = {where: [] for where in self.order}
        places = sorted(self.order, key=lambda where: (where is None, where))
        self.mine: list[list[Any]] = [[] for _ in range(machine.size)]
        for k, where in enumerate(places):
            self.mine[k % machine.size].append(where)
        self.actions = {index for own in self.order.values() for index in own}

    def push(self, task: Task, worker: int | None = None) -> None:
        if task.index in self.actions:
            self.ready[task.on].add(task.index)
        else:
            heapq.heappush(self.others[task.on], (-task.priority, task.index))

    def pop(self, worker: int) -> Task | None:
        for where in self.mine[worker]:
            order, at = self.order[where], self.next[where]
            if at < len(order) and order[at] in self.ready[where]:
                self.next[where] += 1
                self.ready[where].remove(order[at])
                return self.tasks[order[at]]
        for where in self.mine[worker]:
            if self.others[where]:
                return self.tasks[heapq.heappop(self.others[where])[1]]
        return None


def pipeline_policy(name: str, division: Division) -> Pipeline:
    """The policy of that name. ValueError for another one, or where torch has no such schedule either."""
    return Pipeline(name, division)
