"""A pass over a graph of tile kernels: tasks that differ in the row of their tile become one task on a block column.

A GPU finishes the product of two tiles before Python has launched the next one. So tiles of one column, which lie below
each other in memory, become one handle, and what is done to all of them one launch: nt^2/2 tasks are left of nt^3/6.
Tasks move forward to the first of their batch; that this is another order of the same program is checked.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple

from tilewright.graph import RW, Access, Handle, Op, R, Task, TaskGraph, Use, W

__all__ = ["Batch", "batched"]


class Batch(NamedTuple):
    """How the tasks of one op are batched."""

    op: Op
    """What does the work of all of them."""
    key: Callable[[Task], Hashable]
    """Tasks with the same op here and the same key are one batch."""
    grouped: bool = False
    """Whether all that a batch only reads is one argument, a list."""


def batched(graph: TaskGraph, rules: dict[str, Batch], whole: Callable[[Handle], Handle]) -> TaskGraph:
    """The graph with batches in the place of tasks.

    Parameters
    ----------
    graph
        A graph of tile kernels.
    rules
        By op name; an op without one stays as it is, but for its handles.
    whole
        The handle that has a given one as its part. A batch reads a handle if one of its tasks reads a part, and writes
        it if one writes a part. Parts that are written leave other parts alone, so that counts as both, unless the
        handle has no value yet.

    Raises
    ------
    ValueError
        A task would come before one that it waits for.
    """
    members: dict[Hashable, list[Task]] = {}
    batch_of: list[Hashable] = []
    for task in graph:
        rule = rules.get(task.op.name)
        key: Hashable = (rule.op, rule.key(task)) if rule else task.index
        members.setdefault(key, []).append(task)
        batch_of.append(key)
    place = {key: number for number, key in enumerate(members)}
    g = graph.empty_like()
    g.temporary.clear()  # they are those of the wholes
    for handle in graph.handles_used:
        if whole(handle) != handle:
            g.rooms.pop(handle.name, None)
    seen = {whole(handle) for handle in graph.inputs}
    for key, tasks in members.items():
        late = [t for t in tasks for p in t.predecessors if place[batch_of[p]] > place[key]]
        if late:
            raise ValueError(f"{late[0]} cannot run with {tasks[0]}: it waits for a task that comes after that one")
        rule = rules.get(tasks[0].op.name)
        if rule is None and all(whole(handle) == handle for handle, _ in tasks[0].uses):
            uses: Sequence[Use] = tasks[0].uses
            g.insert_again(tasks[0])
        else:
            uses = _uses(tasks, whole, seen)
            op = _from(rule.op, tasks[0].op.source) if rule else tasks[0].op
            args: Sequence[Any] = uses
            if rule and rule.grouped:
                reads = [use for use in uses if use.access is Access.READ]
                args = [reads, *uses[len(reads) :]]
            g.insert(op, *args, *tasks[0].params, priority=tasks[0].priority)
        seen.update(use.handle for use in uses)
    g.temporary = {whole(handle).name for handle in graph.handles_used if handle.name in graph.temporary}
    return g


@cache
def _from(op: Op, source: str) -> Op:
    return replace(op, source=source) if source else op


def _uses(tasks: list[Task], whole: Callable[[Handle], Handle], seen: set[Handle]) -> list[Use]:
    """What a batch uses: what it only reads first, each handle once."""
    found: dict[Handle, set[Access]] = {}
    for task in tasks:
        for handle, access in task.uses:
            found.setdefault(whole(handle), set()).add(access)
    reads = [R(handle) for handle, accesses in found.items() if accesses == {Access.READ}]
    writes = [
        W(handle) if accesses == {Access.WRITE} and handle not in seen else RW(handle)
        for handle, accesses in found.items()
        if accesses != {Access.READ}
    ]
    return reads + writes
