"""Scheduling policies, one page each. `SCHEDULERS` maps the names users write to the classes."""

from __future__ import annotations

import ast
import re
from typing import Any

from tilewright.graph import TaskGraph
from tilewright.scalars import nearby
from tilewright.schedulers.base import BasePolicy, Policy, adapted, claimed
from tilewright.schedulers.critical_path import CriticalPath
from tilewright.schedulers.dm import DequeModel, DequeModelData, DequeModelDataSorted
from tilewright.schedulers.eager import Eager
from tilewright.schedulers.heft import Heft
from tilewright.schedulers.heteroprio import HeteroPrio
from tilewright.schedulers.lifo import Lifo
from tilewright.schedulers.locality import Locality
from tilewright.schedulers.lookahead import Lookahead
from tilewright.schedulers.lws import LocalityWorkStealing
from tilewright.schedulers.peft import Peft
from tilewright.schedulers.polynomial import Chameleon, Parsec
from tilewright.schedulers.prio import Prio
from tilewright.schedulers.random import Random
from tilewright.schedulers.ws import WorkStealing

__all__ = [
    "SCHEDULERS",
    "BasePolicy",
    "Chameleon",
    "CriticalPath",
    "DequeModel",
    "DequeModelData",
    "DequeModelDataSorted",
    "Eager",
    "Heft",
    "HeteroPrio",
    "Lifo",
    "Locality",
    "LocalityWorkStealing",
    "Lookahead",
    "Parsec",
    "Peft",
    "Policy",
    "Prio",
    "Random",
    "WorkStealing",
    "claimed",
    "fitting",
    "policy",
]

SCHEDULERS: dict[str, type[BasePolicy]] = {
    "eager": Eager,
    "lifo": Lifo,
    "random": Random,
    "critical-path": CriticalPath,
    "lws": LocalityWorkStealing,
    "prio": Prio,
    "lookahead": Lookahead,
    "parsec": Parsec,
    "chameleon": Chameleon,
    "ws": WorkStealing,
    "locality": Locality,
    "dm": DequeModel,
    "dmda": DequeModelData,
    "dmdas": DequeModelDataSorted,
    "heteroprio": HeteroPrio,
    "heft": Heft,
    "peft": Peft,
}


def policy(scheduler: str | Policy) -> BasePolicy:
    """The policy of that name, with parameters if the name has some, or the object if it is one.

    What is no `BasePolicy` is wrapped in one.

    >>> policy("lookahead(2)").depth
    2

    Raises
    ------
    ValueError
        The name is not in `SCHEDULERS`, the message lists those that are; or it does not take these parameters.
    TypeError
        The object lacks one of ``prepare``, ``push``, ``pop``.
    """
    if isinstance(scheduler, str):
        name, arguments = _parse(scheduler)
        if name not in SCHEDULERS:
            hint = nearby([name], SCHEDULERS)
            known = ", ".join(SCHEDULERS)
            raise ValueError(f"unknown scheduler {scheduler!r}; known: {known}{f'; {hint}' if hint else ''}")
        if not arguments:
            return SCHEDULERS[name]()
        try:
            return SCHEDULERS[name](*arguments)
        except TypeError as error:
            raise ValueError(f"scheduler {name!r} does not take the parameters of {scheduler!r}") from error
    if isinstance(scheduler, type) or not isinstance(scheduler, Policy):
        raise TypeError(f"a scheduler is a name or an object with prepare, push and pop, not {scheduler!r}")
    return adapted(scheduler)


def fitting(graph: TaskGraph) -> list[str]:
    """Names of the policies that know this graph: all but those that are for other graphs."""
    return [name for name, cls in SCHEDULERS.items() if cls.fits(graph)]


def _parse(scheduler: str) -> tuple[str, tuple[Any, ...]]:
    """``"lookahead(2)"`` -> ``("lookahead", (2,))``."""
    match = re.fullmatch(r"([^()]*)\((.*)\)", scheduler)
    if match is None:
        return scheduler, ()
    try:
        arguments = ast.literal_eval(f"({match[2]},)") if match[2].strip() else ()
    except (SyntaxError, ValueError):
        raise ValueError(f"cannot read the parameters of scheduler {scheduler!r}") from None
    return match[1].strip(), arguments
