"""A graph whose tasks are made when somebody asks for them.

Loops say how many tasks there are and what they access (`tilewright.passes.loops`). A rank that plans its own part from
them needs no other task, so the graph of 10^7 is no objects at all until a picture or a report asks.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from tilewright.graph.task import Task
from tilewright.graph.task_graph import TaskGraph
from tilewright.host.garbage import uncollected

__all__ = ["DeferredGraph"]

_MADE = frozenset({"tasks", "inputs", "_state", "_ops"})


class DeferredGraph(TaskGraph):
    """A `TaskGraph` that is made by its builder when somebody asks for a task, an edge or a handle.

    Parameters
    ----------
    name
        As in `TaskGraph`.
    loops
        What the builder would insert: a `tilewright.passes.loops.Nest`. ``tasks``, ``rooms``, ``temporary`` and
        ``families`` are asked of it.
    insert
        Inserts the tasks into an empty graph.
    """

    def __init__(self, name: str, loops: Any, insert: Callable[[TaskGraph], object]) -> None:
        super().__init__(name)
        for attribute in _MADE:
            del self.__dict__[attribute]  # so that `__getattr__` is asked
        self._count: int = loops.tasks
        self._insert = insert
        self._lock = threading.Lock()
        self.rooms, self.temporary = dict(loops.rooms), set(loops.temporary)
        self.loops = loops

    def __getattr__(self, name: str) -> Any:
        if name not in _MADE:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        self._unroll()
        return self.__dict__[name]

    def _unroll(self) -> None:
        """Make the tasks, once, whoever asks; in a graph of their own, as this one may be frozen."""
        with self._lock:
            if self.unrolled:
                return
            made = TaskGraph(self.name)
            with uncollected():
                self._insert(made)
            assert len(made) == self._count, f"{self.name}: {len(made)} tasks, but its loops have {self._count}"
            for attribute in sorted(_MADE):  # tasks last, by which others see that all is there
                self.__dict__[attribute] = made.__dict__[attribute]

    def __len__(self) -> int:
        return len(self.tasks) if self.unrolled else self._count

    @property
    def unrolled(self) -> bool:
        return "tasks" in self.__dict__

    def numbered(self, number: int) -> Task:
        found: Task = self.tasks[number] if self.unrolled else self.loops.task(number)
        return found

    @property
    def families(self) -> list[str]:
        return super().families if self.unrolled or self.loops is None else list(self.loops.families)
