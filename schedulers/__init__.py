"""Scheduling policies, one page each. `SCHEDULERS` maps the names users write to the classes."""

from __future__ import annotations

from tilewright.schedulers.critical_path import CriticalPath
from tilewright.schedulers.eager import Eager
from tilewright.schedulers.lifo import Lifo
from tilewright.schedulers.lws import LocalityWorkStealing
from tilewright.schedulers.policy import Policy
from tilewright.schedulers.random import Random

__all__ = ["SCHEDULERS", "CriticalPath", "Eager", "Lifo", "LocalityWorkStealing", "Policy", "Random", "policy"]

SCHEDULERS: dict[str, type[Policy]] = {
    "eager": Eager,
    "lifo": Lifo,
    "random": Random,
    "critical-path": CriticalPath,
    "lws": LocalityWorkStealing,
}


def policy(scheduler: str | Policy) -> Policy:
    """The policy of that name, or the object itself if it is one.

    Raises
    ------
    ValueError
        The name is not in `SCHEDULERS`; the message lists those that are.
    TypeError
        The object lacks one of ``prepare``, ``push``, ``pop``.
    """
    if isinstance(scheduler, str):
        if scheduler not in SCHEDULERS:
            raise ValueError(f"unknown scheduler {scheduler!r}; known: {', '.join(SCHEDULERS)}")
        return SCHEDULERS[scheduler]()
    if isinstance(scheduler, type) or not isinstance(scheduler, Policy):
        raise TypeError(f"a scheduler is a name or an object with prepare, push and pop, not {scheduler!r}")
    return scheduler
