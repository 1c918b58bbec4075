"""Where a call runs, and what its engine wants of the arguments.

On one node that is nothing: this class. An engine with options of its own or with more than one process has a function
``site(options)`` that returns a subclass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol, TypeVar

import numpy as np

from tilewright.backends.execution.program import Program
from tilewright.graph import Task
from tilewright.machine import Machine
from tilewright.runs.trace import Trace
from tilewright.scalars import nearby, worker_count
from tilewright.schedulers import Policy, claimed
from tilewright.schedulers import policy as find_policy

__all__ = ["Backend", "check_options", "Progress", "Site"]
T = TypeVar("T")


class Site:
    """One process. Its methods are called in this order: argument, plan_with, agreement, execute, result."""

    plans = True
    """Whether the policy is prepared in this process."""
    has_data = True
    """Whether the arguments hold values here, not only shapes."""
    here = True
    """Whether tasks write into the arrays of this process, temporary ones too."""
    gpus = 0
    """How many workers are accelerators."""
    switches: Mapping[str, Any] = {}
    """Process-wide settings that held while the program ran."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend

    def argument(self, value: Any) -> Any:
        """What to work with instead of ``value``."""
        return value

    def agreement(self) -> AbstractContextManager[dict[str, Any]]:
        """A block that all processes of the call pass together, or none. Facts noted in the dict have to be equal."""
        return nullcontext({})

    def plan_with(self, machine: Machine | None) -> None:
        """Set what the policy may know of the machine. ValueError if the policies run elsewhere."""
        if machine is not None and not self.plans:
            raise ValueError("machine= is for engines of one process; ranks prepare their policies themselves")
        self.machine = machine or Machine()

    def workers(self, workers: int | None, most: int | None = None) -> int:
        """How many workers there are in all; ``most`` are of use."""
        count = worker_count(workers)
        return count if most is None else min(count, most)

    def rank_count(self, workers: int | None) -> int:
        """Over how many ranks a run with so many workers deals out the tiles; 1 in one process."""
        return 1

    def execute(
        self,
        program: Program,
        scheduler: str | Policy,
        workers: int | None,
        progress: Progress | None,
    ) -> Trace:
        """Run the program."""
        workers = self.workers(workers, max(len(program.graph), 1))  # none that could never have a task
        policy = find_policy(scheduler)
        with claimed(policy):
            policy.prepare(program.graph, self.machine.replace(workers=workers, ranks=1, gpus=0))
            trace: Trace = self.backend.execute(program, policy, workers, progress)
        return trace

    def keep(self, array: np.ndarray) -> np.ndarray:
        """The array, or a copy of it in memory from which many runs can take it without copying it each time."""
        return array

    def everywhere(self, value: Any) -> Any:
        """``value`` on every process of the call, where only one may have it; after `argument`."""
        return value

    def agreed(self, value: T) -> T:
        """``value`` of the root, or the first of the processes of the call, on all of them. Small and plain."""
        return value

    def result(self, value: Any) -> Any:
        """What to return instead of ``value``."""
        return value


def check_options(
    backend: str, options: Mapping[str, Any], known: Sequence[str], own: Sequence[str] = (), call: str = ""
) -> None:
    """TypeError that names unknown options, and what may be meant: one that is ``known``, or the call's ``own``."""
    unknown = [name for name in options if name not in known]
    if unknown:
        hint = nearby(unknown, [*known, *own]) or f"backend {backend!r} has {', '.join(known) or 'none'}"
        raise TypeError(f"{call}{': ' if call else ''}unknown option {', '.join(unknown)}; {hint}")


class Progress(Protocol):
    """What an engine tells while it runs: how many tasks are done."""

    def __call__(self, done: int, /) -> object: ...


class Backend(Protocol):
    """An engine."""

    def execute(self, program: Program, policy: Policy, workers: int, progress: Progress | None) -> Trace: ...


def blame(error: BaseException, task: Task, number: int, where: str) -> None:
    """Note on an exception which task raised it, and where."""
    writing = f", writing {', '.join(map(str, task.writes))}" if task.writes else ""
    error.add_note(f"in task {task} (number {number}){writing}; {where}")
