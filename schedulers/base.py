"""What a scheduling policy is.

A policy decides one thing: which ready task a free worker runs next. It knows no threads and no clock; an engine
calls it under its own lock, and the simulator calls the same object.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

from tilewright.errors import SchedulerError
from tilewright.graph import Task, TaskGraph
from tilewright.machine import Machine

__all__ = ["BasePolicy", "Policy", "adapted", "claimed"]


@runtime_checkable
class Policy(Protocol):
    """Three methods. Ties end in ``task.index``, so that a plan is the same under any hash seed.

    An object that has them is a policy; what else a policy may say is in `BasePolicy`, with what holds if it does not.

    Examples
    --------
    >>> import tilewright as tw
    >>> class Last:
    ...     def prepare(self, graph, machine):
    ...         self.ready = []
    ...
    ...     def push(self, task, worker=None):
    ...         self.ready.append(task)
    ...
    ...     def pop(self, worker):
    ...         return self.ready.pop() if self.ready else None
    >>> isinstance(Last(), tw.Policy), tw.simulate(tw.cholesky_graph(nt=2), tw.Machine(), scheduler=Last()).makespan
    (True, 8.0)
    """

    def prepare(self, graph: TaskGraph, machine: Machine) -> None:
        """Called once before each run; forget the run before."""

    def push(self, task: Task, worker: int | None = None) -> None:
        """Take a task that is ready; ``worker`` made it ready, None at the start of the run."""

    def pop(self, worker: int) -> Task | None:
        """Give up the task that ``worker`` should run now, or None if there is none for it."""


class BasePolicy:
    """What a policy says beside its three methods, and the defaults. Engines know no other."""

    shared = False
    """Promise that any worker gets any task that was pushed: the engine then wakes one sleeping worker per task instead
    of all of them."""
    waits = False
    """Promise that it keeps a ready task back only for one that messages will make ready."""
    placement: Sequence[int] | None = None
    """The worker of each task by index, known after `push` at the latest; a simulated machine with several memories
    then moves the data early."""

    @property
    def called(self) -> str:
        """The name in messages and runs."""
        return type(self).__name__

    @property
    def identity(self) -> int:
        """What no two runs may have at the same time."""
        return id(self)

    @staticmethod
    def fits(graph: TaskGraph) -> bool:
        """Whether it knows this graph."""
        return True

    def prepare(self, graph: TaskGraph, machine: Machine) -> None:
        """See `Policy`."""
        raise NotImplementedError(f"{self.called} has no method prepare")

    def push(self, task: Task, worker: int | None = None) -> None:
        """See `Policy`."""
        raise NotImplementedError(f"{self.called} has no method push")

    def pop(self, worker: int) -> Task | None:
        """See `Policy`."""
        raise NotImplementedError(f"{self.called} has no method pop")

    def fork(self) -> Any:
        """A policy prepared alike with nothing pushed, so that many ranks share the work of one `prepare`; or None."""
        return None

    def alone(self) -> list[Task] | None:
        """The tasks in the order in which one worker would get them, which then asks no more; or None."""
        return None


class _Adapted(BasePolicy):
    """A user's object with the three methods, and what it has of the rest."""

    def __init__(self, policy: Any) -> None:
        self.policy = policy
        self.prepare, self.push, self.pop = policy.prepare, policy.push, policy.pop  # type: ignore[method-assign]
        for name in ("shared", "waits", "alone"):
            if hasattr(policy, name):
                setattr(self, name, getattr(policy, name))

    @property
    def placement(self) -> Sequence[int] | None:  # type: ignore[override]
        return getattr(self.policy, "placement", None)

    @property
    def called(self) -> str:
        return type(self.policy).__name__

    @property
    def identity(self) -> int:
        return id(self.policy)

    def fork(self) -> Any:
        fork = getattr(self.policy, "fork", None)
        return None if fork is None else adapted(fork())

    def __copy__(self) -> _Adapted:
        return _Adapted(copy.copy(self.policy))

    def __reduce__(self) -> tuple[Any, ...]:
        return _Adapted, (self.policy,)


def adapted(policy: Policy) -> BasePolicy:
    """The policy itself if it is a `BasePolicy`, else one that does what it does."""
    return policy if isinstance(policy, BasePolicy) else _Adapted(policy)


_claimed: set[int] = set()
_claiming = threading.Lock()


@contextmanager
def claimed(policy: BasePolicy) -> Iterator[None]:
    """Nobody else's while a run lasts: `Policy.prepare` forgets the run before.

    Raises
    ------
    SchedulerError
        Another run has it.
    """
    me = policy.identity
    with _claiming:
        if me in _claimed:
            raise SchedulerError(
                f"this {policy.called} object schedules another run that has not ended; "
                f"several runs at once need an object each, or a scheduler's name"
            )
        _claimed.add(me)
    try:
        yield
    finally:
        with _claiming:
            _claimed.discard(me)
