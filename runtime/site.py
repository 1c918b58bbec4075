"""Where a call runs, and what its engine wants of the arguments.

On one node that is nothing: this class. An engine with options of its own or with more than one process has a function
``site(options)`` that returns a subclass.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from difflib import get_close_matches
from typing import Any

import numpy as np

from tilewright.backends import Backend, Progress
from tilewright.backends import backend as find_backend
from tilewright.machine import Machine, worker_count
from tilewright.program import Program
from tilewright.schedulers import Policy, claimed
from tilewright.schedulers import policy as find_policy
from tilewright.trace import Trace

_ARGUMENTS = (
    "backend", "check_finite", "lower", "machine", "overwrite_a", "precision", "progress", "return_info", "return_run",
    "scheduler", "threads_per_task", "tile_size", "workers",
)  # fmt: skip
"""Of the calls that pass their options on; for a name that is misspelt."""

__all__ = ["Site", "check_options", "find_site"]


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

    def result(self, value: Any) -> Any:
        """What to return instead of ``value``."""
        return value


def find_site(backend: str, options: Mapping[str, Any]) -> Site:
    """The site of a call with this backend and options of that backend.

    Raises
    ------
    ValueError
        Unknown backend, or a bad value of an option.
    TypeError
        The backend has no such option.
    """
    engine: Any = find_backend(backend)
    if hasattr(engine, "site"):
        found: Site = engine.site(dict(options))
        return found
    check_options(backend, options, ())
    return Site(engine)


def check_options(backend: str, options: Mapping[str, Any], known: tuple[str, ...]) -> None:
    """TypeError that names unknown options, and what may be meant by them."""
    unknown = [name for name in options if name not in known]
    others = [name for name in unknown if name in _ARGUMENTS]
    if others:
        raise TypeError(f"this call has no argument {', '.join(others)}, and backend {backend!r} no such option")
    if unknown:
        near = [match for name in unknown for match in get_close_matches(name, [*known, *_ARGUMENTS], 1)]
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        raise TypeError(
            f"unknown option {', '.join(unknown)}{hint or f'; backend {backend!r} has ' + (', '.join(known) or 'none')}"
        )
