"""One call of an op on handles, at one place of a program."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from tilewright.graph.access import Access, Use
from tilewright.graph.handle import Handle
from tilewright.graph.op import Op

__all__ = ["Cost", "Task"]

_READ, _WRITE = Access.READ, Access.WRITE


@dataclass(slots=True, eq=False)
class Task:
    """One call of an op, at one place of the program. Made by `TaskGraph.insert`, not changed after.

    Examples
    --------
    >>> import tilewright as tw
    >>> task = tw.cholesky_graph(nt=3).tasks[3]
    >>> task, task.reads, task.writes, task.predecessors
    (syrk(1,0), (A[1,0], A[1,1]), (A[1,1],), (1,))
    """

    index: int
    """Its place in the program, from 0."""
    op: Op
    """What is called."""
    uses: tuple[Use, ...]
    """(handle, access) of its arguments, groups flattened."""
    params: tuple[Any, ...]
    """What comes behind these in the call."""
    predecessors: tuple[int, ...]
    """Indices of the tasks this one waits for, ascending, all smaller than ``index``."""
    on: Hashable
    """Where to run, if the program said so: a rank, or a handle whose owner runs the task."""
    priority: float
    """What the program said; larger is sooner. Most policies look at it first, some compute their own."""
    groups: tuple[int, ...] = ()
    """For each argument before the parameters how many of ``uses`` it is, -1 where it is one access and no group; empty
    if none is a group."""
    place: tuple[object, ...] | None = None
    """What the program wants between the parentheses of the label."""

    @property
    def label(self) -> str:
        """``gemm(3,1,0)``: the op and its indices."""
        place = self.op.indices(self.uses) if self.place is None else self.place
        return f"{self.op.name}({','.join(map(str, place))})"

    def arguments(self, values: Sequence[Any]) -> Sequence[Any]:
        """What belongs to each of ``uses`` (its buffer, shape, ...) as arguments of the op; a list for a group."""
        if not self.groups:
            return values
        found: list[Any] = []
        start = 0
        for size in self.groups:
            if size < 0:
                found.append(values[start])
                start += 1
            else:
                found.append(list(values[start : start + size]))
                start += size
        return found

    @property
    def reads(self) -> tuple[Handle, ...]:
        """Handles whose values it needs."""
        return tuple([handle for handle, access in self.uses if access is not _WRITE])

    @property
    def writes(self) -> tuple[Handle, ...]:
        """Handles that have new values afterwards."""
        return tuple([handle for handle, access in self.uses if access is not _READ])

    def __repr__(self) -> str:
        return self.label


Cost = Callable[[Task], float]
"""What a task takes, in whatever unit."""
