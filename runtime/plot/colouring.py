"""By what the tasks of a graph have their colours: op, owner, precision, step, or what a function says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from tilewright.graph import Layout, Task, TaskGraph
from tilewright.plot.palette import colours
from tilewright.scalars import choice

__all__ = ["BY", "By", "Colouring", "colouring", "rank_of"]

BY = ("op", "owner", "precision", "step")
By = str | Callable[[Task], object]


class Colouring(NamedTuple):
    """A group for each task, and a colour for each group."""

    groups: list[str]
    """By task index."""
    fill: dict[str, str]

    @property
    def counts(self) -> Counter[str]:
        """How many tasks each group has, in the order of the legend."""
        counts = Counter(self.groups)
        return Counter({group: counts[group] for group in self.fill})


def colouring(graph: TaskGraph, by: By = "op") -> Colouring:
    """The groups of a graph's tasks.

    Parameters
    ----------
    by
        ``"op"``; ``"owner"``, the rank where a task runs by the graph's layout; ``"precision"``, the format of a
        product's operands; ``"step"``, the smallest index of its label, which is the panel in a factorisation; or a
        function of the task, such as ``lambda task: owner(*task.writes[0].index)``.

    Raises
    ------
    ValueError
        Another word, or ``"owner"`` for a graph that has no layout.
    """
    if callable(by):
        groups = [str(by(task)) for task in graph]
    else:
        rule = {"op": _op, "owner": _owner(graph), "precision": _precision, "step": _step}[choice(by, "by", BY)]
        groups = [rule(task) for task in graph]
    known = dict.fromkeys(groups)
    if by != "op":
        known = dict.fromkeys(sorted(known, key=lambda group: (_numbers(group), group)))
    if by == "op":
        return Colouring(groups, colours(known))
    return Colouring(groups, dict(zip(known, colours(map(_unnamed, known)).values(), strict=True)))


def _op(task: Task) -> str:
    return task.op.name


def _owner(graph: TaskGraph) -> Callable[[Task], str]:
    layout = graph.layout

    def rank(task: Task) -> str:
        if layout is None:
            raise ValueError(
                f"graph {graph.name!r} has no layout that says who owns what; by= also takes a function "
                "of the task, such as lambda task: owner(*task.writes[0].index)"
            )
        return f"rank {rank_of(task, layout)}"

    return rank


def rank_of(task: Task, layout: Layout) -> int:
    """Where a task runs: where it says, or where it writes."""
    return task.on if isinstance(task.on, int) else layout.owner((*task.writes, *task.reads)[0])


def _precision(task: Task) -> str:
    return task.op.source.partition("/")[0] or "as stored"


def _step(task: Task) -> str:
    place = task.op.indices(task.uses) if task.place is None else task.place
    numbers = [index for index in place if isinstance(index, int)]
    return f"step {min(numbers)}" if numbers else "no step"


def _unnamed(group: str) -> str:
    """A name that is no op's, which may have a colour of its own."""
    return f"group {group}"


def _numbers(group: str) -> int:
    """The number at the end of a group's name, by which groups are in order."""
    last = group.rpartition(" ")[2]
    return int(last) if last.isdecimal() else -1
