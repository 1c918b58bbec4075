"""heft: heterogeneous earliest finish time [1]_.

Tasks in the order of their upward rank, the mean cost and mean transfers on the longest way to the end, each go to
the worker on which they finish first; a task may fill a gap that earlier choices left::

    rank(t) = mean cost(t) + max over successors s of (mean transfer(t, s) + rank(s))

.. [1] H. Topcuoglu, S. Hariri and M.-Y. Wu, Performance-effective and low-complexity task scheduling for
   heterogeneous computing, IEEE Transactions on Parallel and Distributed Systems 13 (2002).
"""

from __future__ import annotations

from tilewright.graph import TaskGraph
from tilewright.machine import Machine
from tilewright.passes.versions import Dataflow
from tilewright.schedulers.placed import Placed, Timeline

__all__ = ["Heft", "upward_ranks"]


class Heft(Placed):
    """Upward ranks, insertion, earliest finish. Plans in O(tasks x memories + edges), more where gaps are many."""

    def plan(self, graph: TaskGraph, machine: Machine) -> Timeline:
        flow = Dataflow(graph)
        ranks = upward_ranks(graph, machine, flow)
        timeline = Timeline(graph, machine, flow)
        costs = {gpu: machine.costs(graph, gpu) for gpu in machine.kinds}
        groups = timeline.groups
        longest = max(ranks, default=0.0) or 1.0
        # Rounded, so that ranks that are equal on paper are equal. A successor never outranks its predecessor, and
        # has the larger index: this order is topological.
        for index in sorted(range(len(graph)), key=lambda t: (-round(ranks[t] / longest, 12), t)):
            task = graph.tasks[index]
            best = float("inf"), 0.0, -1, 0.0
            for group in groups:
                length = costs[group[1]][index]
                start, worker = timeline.best(task, group, length)
                best = min(best, (start + length, start, worker, length))
            _, start, worker, length = best
            timeline.add(task, worker, start, length)
        return timeline


def upward_ranks(graph: TaskGraph, machine: Machine, flow: Dataflow) -> list[float]:
    """rank(t) of the docstring above. O(tasks + accesses + edges)."""
    costs = machine.mean_costs(graph)
    ranks = [0.0] * len(graph)
    for task in reversed(graph.tasks):
        index = task.index
        rank = ranks[index] = ranks[index] + costs[index]
        for p in task.predecessors:
            if ranks[p] < rank:
                ranks[p] = rank
        for p, words in inflow(flow, machine, index).items():
            ranks[p] = max(ranks[p], rank + machine.mean_transfer(words))
    return ranks


def inflow(flow: Dataflow, machine: Machine, index: int) -> dict[int, float]:
    """By predecessor: the words that a task reads of what the predecessor wrote."""
    words: dict[int, float] = {}
    for version in flow.reads[index]:
        writer = flow.writer[version]
        if writer >= 0:
            words[writer] = words.get(writer, 0.0) + machine.words(flow.handle[version])
    return words
