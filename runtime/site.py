"""Where a call runs, and what its engine wants of the arguments.

On one node that is nothing: this class. An engine with options of its own or with more than one process has a function
``site(options)`` that returns a subclass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from inspect import signature
from typing import Any, TypeVar

import numpy as np

from tilewright.backends import BACKENDS, Backend, Progress
from tilewright.backends import backend as find_backend
from tilewright.machine import Machine, worker_count
from tilewright.program import Program
from tilewright.scalars import nearby
from tilewright.schedulers import Policy, claimed
from tilewright.schedulers import policy as find_policy
from tilewright.trace import Trace

__all__ = ["Site", "check_call", "check_options", "find_site", "options_of"]
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


def check_call(call: Callable[..., Any], options: Mapping[str, Any], backend: Any, also: Iterable[str] = ()) -> None:
    """Refuse, in the name of a public call and before it works, ``**options`` that neither it nor its backend has.

    Parameters
    ----------
    call
        The function that was called, by its public name.
    options
        What it was given beyond its parameters.
    backend
        Its engine, or ``"simulate"``. One that is unknown is for others to refuse.
    also
        Options that the call hands on to others than the backend.

    Raises
    ------
    TypeError
        It names the options, and what may be meant by them: parameters of the call or options of the backend.
    """
    if (
        not options
        or not isinstance(backend, str)
        or backend not in (*BACKENDS, "simulate")
        or _collective(backend, options)
    ):
        return
    own = [p.name for p in signature(call).parameters.values() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    check_options(backend, options, (*also, *options_of(backend)), own, call.__name__)


def _collective(backend: str, options: Mapping[str, Any]) -> bool:
    """Whether ranks make this call together: they have to refuse it together, and their site does."""
    if backend != "mpi":
        return False
    from tilewright.backends.mpi import is_rank

    return options.get("comm") is not None or is_rank()


def options_of(backend: str) -> tuple[str, ...]:
    """The options of an engine, or of the simulator."""
    if backend == "simulate":
        from tilewright.backends.simulate import OPTIONS

        return OPTIONS
    known: tuple[str, ...] = getattr(find_backend(backend), "OPTIONS", ())
    return known


def check_options(
    backend: str, options: Mapping[str, Any], known: Sequence[str], own: Sequence[str] = (), call: str = ""
) -> None:
    """TypeError that names unknown options, and what may be meant: one that is ``known``, or the call's ``own``."""
    unknown = [name for name in options if name not in known]
    if unknown:
        hint = nearby(unknown, [*known, *own]) or f"backend {backend!r} has {', '.join(known) or 'none'}"
        raise TypeError(f"{call}{': ' if call else ''}unknown option {', '.join(unknown)}; {hint}")
