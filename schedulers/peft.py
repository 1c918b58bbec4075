"""peft: predict earliest finish time, HEFT that looks at what comes after [1]_.

The optimistic cost table says how long the rest would take at least if task t ran on worker p and every later task
had its best worker::

    OCT(t, p) = max over successors s of min over workers w of (OCT(s, w) + cost(s, w) + [w elsewhere] transfer(t, s))

The ready task with the largest mean OCT goes to the worker with the smallest finish time + OCT. Workers that share
a memory and a kind have the same row, so the table has one column for each such group.

.. [1] H. Arabnejad and J. G. Barbosa, List scheduling algorithm for heterogeneous systems by an optimistic cost
   table, IEEE Transactions on Parallel and Distributed Systems 25 (2014).
"""

from __future__ import annotations

import heapq

import numpy as np

from tilewright.graph import TaskGraph
from tilewright.machine import Machine
from tilewright.passes.frontier import Frontier
from tilewright.passes.versions import Dataflow
from tilewright.schedulers.heft import inflow
from tilewright.schedulers.placed import Placed, Timeline

__all__ = ["Peft", "optimistic_costs"]


class Peft(Placed):
    """Optimistic cost table, insertion. Plans in O((tasks + edges) x memories)."""

    def plan(self, graph: TaskGraph, machine: Machine) -> Timeline:
        flow = Dataflow(graph)
        timeline = Timeline(graph, machine, flow)
        groups = timeline.groups
        table = optimistic_costs(graph, machine, flow, groups)
        members = np.array([timeline.count(group) for group in groups], float)
        ranks = table @ members / members.sum()
        costs = {gpu: machine.costs(graph, gpu) for gpu in machine.kinds}
        frontier = Frontier(graph)
        ready = [(-ranks[task.index], task.index) for task in frontier.start()]
        heapq.heapify(ready)
        while ready:
            task = graph.tasks[heapq.heappop(ready)[1]]
            best = float("inf"), 0.0, -1, 0.0
            for place, group in enumerate(groups):
                length = costs[group[1]][task.index]
                start, worker = timeline.best(task, group, length)
                best = min(best, (start + length + table[task.index, place], start, worker, length))
            _, start, worker, length = best
            timeline.add(task, worker, start, length)
            for successor in frontier.done(task):
                heapq.heappush(ready, (-ranks[successor.index], successor.index))
        return timeline


def optimistic_costs(graph: TaskGraph, machine: Machine, flow: Dataflow, groups: list[tuple[int, bool]]) -> np.ndarray:
    """OCT, shape (tasks, groups), seconds."""
    by_kind = {gpu: machine.costs(graph, gpu) for gpu in machine.kinds}
    nodes = np.array([node for node, _ in groups])
    table = np.zeros((len(graph), len(groups)))
    for task in reversed(graph.tasks):
        s = task.index
        finish = table[s] + np.array([by_kind[gpu][s] for _, gpu in groups])
        data = inflow(flow, machine, s)
        for p in task.predecessors:
            words = data.get(p)
            if words is None:  # an order without data
                rest = np.full(len(groups), finish.min())
            else:
                same = finish
                if len(nodes) > len(set(nodes.tolist())):  # several groups in one memory
                    same = np.array([finish[nodes == node].min() for node in nodes])
                rest = np.minimum(same, finish.min() + machine.mean_transfer(words))
            np.maximum(table[p], rest, out=table[p])
    return table
