"""The calls of a graph in few objects, as they travel to another process."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from tilewright.graph.access import Access, Use
from tilewright.graph.handle import Handle
from tilewright.graph.op import Op
from tilewright.graph.task import Task

__all__ = ["ACCESSES", "USUAL", "Packed", "calls", "packed"]


class Packed(NamedTuple):
    """The calls of a graph in few objects: 10^5 tasks of a graph travel as five strings of numbers."""

    names: list[str]
    """The names of families of handles."""
    handles: tuple[Any, Any, Any]
    """By handle: its name's number, how many indices it has; and all indices."""
    ops: list[Op]
    tasks: tuple[Any, Any, Any]
    """By task: its op's number, how many uses it has; and all uses, 3 times the handle's number plus the access's in
    `ACCESSES`."""
    others: dict[int, tuple[Any, ...]]
    """By task, for those that have them: params, on, priority, groups and label."""


ACCESSES = (_READ, _WRITE, _RW) = Access.READ, Access.WRITE, Access.RW
"""By the numbers that stand for them in `Packed`."""

USUAL: tuple[Any, ...] = ((), None, 0, (), None)
"""Params, on, priority, groups and label of tasks that are not in `Packed.others`."""


def packed(tasks: Sequence[Task], used: Iterable[Handle]) -> Packed:
    """The calls of these tasks, and the handles that they use."""
    used = list(used)
    names: dict[str, int] = {}
    families = [names.setdefault(handle.name, len(names)) for handle in used]
    lengths = [len(handle.index) for handle in used]
    indices = [place for handle in used for place in handle.index]
    number = dict(zip(used, range(0, 3 * len(families), 3), strict=True))
    uses = [
        number[handle] + (0 if access is _READ else 2 if access is _RW else 1)
        for task in tasks
        for handle, access in task.uses
    ]
    ops: dict[int, int] = {}
    known: list[Op] = []
    kinds = []
    others = {}
    for task in tasks:
        kind = ops.get(id(task.op))
        if kind is None:
            kind = ops[id(task.op)] = len(known)
            known.append(task.op)
        kinds.append(kind)
        if task.params or task.groups or task.on is not None or task.priority or task.place is not None:
            others[task.index] = task.params, task.on, task.priority, task.groups, task.place
    counts = [len(task.uses) for task in tasks]
    return Packed(
        list(names),
        (_dense(families), _dense(lengths), _dense(indices)),
        known,
        (_dense(kinds), _dense(counts), _dense(uses)),
        others,
    )


def _dense(numbers: list[int]) -> Any:
    """The numbers as an array of the smallest type, or as they are where there is one that no type has."""
    if not numbers:
        return []
    least, most = min(numbers), max(numbers)
    kind = next(
        (k for k in "bhiq" if -(2 ** (8 * array(k).itemsize - 1)) <= least <= most < 2 ** (8 * array(k).itemsize - 1)),
        None,
    )
    return numbers if kind is None else array(kind, numbers)


Call = tuple[Op, tuple[Use, ...], tuple[Any, ...], Any, float, tuple[int, ...], Any]
"""Op, uses, params, on, priority, groups and label of a task."""


def calls(contents: Packed) -> Iterator[Call]:
    """The calls again, in program order."""
    names, (families, lengths, indices), ops, (kinds, counts, codes), others = contents
    places = iter(indices)
    handles = [
        Handle(names[family], tuple(islice(places, length))) for family, length in zip(families, lengths, strict=True)
    ]
    known: dict[int, Use] = {}
    rest = iter(codes)
    for index, (kind, count) in enumerate(zip(kinds, counts, strict=True)):
        uses = []
        for code in islice(rest, count):
            use = known.get(code)
            if use is None:
                use = known[code] = Use(handles[code // 3], ACCESSES[code % 3])
            uses.append(use)
        params, on, priority, groups, label = others.get(index, USUAL)
        if params:  # a graph has arrays of its own
            params = tuple([param.copy() if isinstance(param, np.ndarray) else param for param in params])
        yield ops[kind], tuple(uses), params, on, priority, groups, label
