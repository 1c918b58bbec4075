"""What a scheduling policy is.

A policy decides one thing: which ready task a free worker runs next. It knows no threads and no clock; an engine
calls it under its own lock, and the simulator calls the same object.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

from tilewright.errors import SchedulerError
from tilewright.graph import Task, TaskGraph
from tilewright.machine import Machine

__all__ = ["Policy", "claimed"]


@runtime_checkable
class Policy(Protocol):
    """Three methods. Ties end in ``task.index``, so that a plan is the same under any hash seed.

    A class may set ``shared = True`` to promise that any worker gets any task that was pushed; the engine then
    wakes one sleeping worker per task instead of all of them. It may keep ``placement``, the worker of each task by
    index, known after `push` at the latest; a simulated machine with several memories then moves the data early.
    It may set ``waits = True`` to promise that it keeps a ready task back only for one that messages will make ready.
    And it may have ``fork()``, which returns a policy prepared alike with nothing pushed; many ranks then share the
    work of one `prepare`. And ``alone()``, which returns the tasks in the order in which one worker would get them, or
    None; one worker then asks no more.
    """

    def prepare(self, graph: TaskGraph, machine: Machine) -> None:
        """Called once before each run; forget the run before."""

    def push(self, task: Task, worker: int | None = None) -> None:
        """Take a task that is ready; ``worker`` made it ready, None at the start of the run."""

    def pop(self, worker: int) -> Task | None:
        """Give up the task that ``worker`` should run now, or None if there is none for it."""


_claimed: set[int] = set()
_claiming = threading.Lock()


@contextmanager
def claimed(policy: Policy) -> Iterator[None]:
    """Nobody else's while a run lasts: `Policy.prepare` forgets the run before.

    Raises
    ------
    SchedulerError
        Another run has it.
    """
    me = id(policy)
    with _claiming:
        if me in _claimed:
            raise SchedulerError(
                f"this {type(policy).__name__} object schedules another run that has not ended; "
                f"several runs at once need an object each, or a scheduler's name"
            )
        _claimed.add(me)
    try:
        yield
    finally:
        with _claiming:
            _claimed.discard(me)
