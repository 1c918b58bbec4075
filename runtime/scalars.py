"""Checks of the numbers, names and objects that users pass; arrays are those of `tilewright.arguments`.

Each returns the value as what it stands for, or raises TypeError for another kind of thing and ValueError for a value
that is not allowed. Messages begin with the name of the argument and end with what was passed.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from math import inf, isfinite
from numbers import Integral, Real
from typing import Any, TypeVar

import numpy as np

from tilewright.host.cores import cores

__all__ = [
    "choice",
    "flag",
    "function",
    "instance",
    "nearby",
    "optional",
    "plain",
    "positive",
    "ranks",
    "real",
    "shown",
    "text",
    "whole",
    "worker_count",
]

T = TypeVar("T")

_LONGEST = 80  # letters of a value in a message
_MOST_RANKS = 2**31 - 1  # MPI's, whose ranks are C integers


def whole(value: Any, what: str, least: int | None = None, most: int | None = None) -> int:
    """An integer from ``least`` to ``most``. A boolean is none.

    >>> whole(3, "seed", 0)
    3
    >>> whole(2.5, "seed", 0)
    Traceback (most recent call last):
        ...
    TypeError: seed must be an integer, not 2.5
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{what} must be an integer, not {shown(value)}")
    number = int(value)
    if (least is not None and number < least) or (most is not None and number > most):
        raise ValueError(f"{what} must be {_range(least, most)}, not {shown(value)}")
    return number


def plain(value: Any) -> Any:
    """A number of NumPy as Python's, anything else as it is: 100 * 100 is 16 in int8, and no formula would show it.

    >>> import numpy as np
    >>> plain(np.int8(100)) ** 2
    10000
    """
    return value.item() if isinstance(value, np.number | np.bool_) else value


def positive(value: Any, what: str) -> int:
    """An integer of at least 1.

    >>> positive(3, "workers")
    3
    """
    return whole(value, what, 1)


def ranks(value: Any, what: str = "ranks") -> int:
    """A number of ranks: from 1 on, and no more than MPI can count.

    >>> ranks(2**40)
    Traceback (most recent call last):
        ...
    ValueError: ranks must be at most 2147483647, not 1099511627776
    """
    return whole(whole(value, what, 1), what, most=_MOST_RANKS)


def real(
    value: Any,
    what: str,
    least: float | None = None,
    most: float | None = None,
    *,
    above: bool = False,
    infinite: bool = False,
) -> float:
    """A finite real number from ``least`` to ``most``; ``above``: not ``least`` itself; ``infinite``: also infinity.

    Returned as it is: an exact fraction stays one.

    >>> real(0.5, "noise", 0)
    0.5
    >>> real(float("nan"), "noise", 0)
    Traceback (most recent call last):
        ...
    ValueError: noise must be finite, not nan
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{what} must be a number, not {shown(value)}")
    try:
        finite = isfinite(value)
    except OverflowError:  # an integer beyond 1.8e308
        finite = False
    if not (finite or (infinite and value in (inf, -inf))):
        raise ValueError(f"{what} must be {'a number' if infinite else 'finite'}, not {shown(value)}")
    number: Any = value
    low = least is not None and (number <= least if above else number < least)
    if low or (most is not None and number > most):
        raise ValueError(f"{what} must be {_range(least, most, above)}, not {shown(value)}")
    return number


def choice(value: Any, what: str, known: Iterable[str]) -> str:
    """One of the names in ``known``.

    >>> choice("slap", "cut", ["slab", "patch"])
    Traceback (most recent call last):
        ...
    ValueError: unknown cut 'slap'; known: slab, patch; did you mean slab?
    """
    names = list(known)
    if not isinstance(value, str):
        raise TypeError(f"{what} must be one of {', '.join(names)}, not {shown(value)}")
    if value not in names:
        hint = nearby([value], names)
        raise ValueError(f"unknown {what} {shown(value)}; known: {', '.join(names)}{f'; {hint}' if hint else ''}")
    return value


def flag(value: Any, what: str) -> bool:
    """True or False, also as 1 or 0. The string "no" is true in Python, and means something else.

    >>> flag("no", "lower")
    Traceback (most recent call last):
        ...
    TypeError: lower must be True or False, not 'no'
    """
    if type(value).__name__ in ("bool", "bool_") or (isinstance(value, Integral) and value in (0, 1)):
        return bool(value)
    raise TypeError(f"{what} must be True or False, not {shown(value)}")


def text(value: Any, what: str) -> str:
    """A string."""
    if not isinstance(value, str):
        raise TypeError(f"{what} must be a string, not {shown(value)}")
    return value


def function(value: Any, what: str) -> Any:
    """Something that can be called."""
    if not callable(value):
        raise TypeError(f"{what} must be a function, not {shown(value)}")
    return value


def instance(value: Any, what: str, kind: type[T] | tuple[type[T], ...], advice: str) -> T:
    """An object of a class. ``advice`` says what it is and how to make one: "a Machine, such as Machine(workers=4)"."""
    if not isinstance(value, kind):
        raise TypeError(f"{what} is {advice}, not {shown(value)}")
    return value


def optional(value: Any, what: str, kind: type, named: str) -> Any:
    """An object of a class, or None.

    >>> optional(3, "pool", dict, "a dict")
    Traceback (most recent call last):
        ...
    TypeError: pool must be a dict, not 3
    """
    if value is not None and not isinstance(value, kind):
        raise TypeError(f"{what} must be {named}, not {shown(value)}")
    return value


def nearby(names: Iterable[str], known: Iterable[str]) -> str:
    """``did you mean workers?``, or nothing where no known name is near."""
    known = list(known)
    near = dict.fromkeys(match for name in names for match in get_close_matches(name, known, 1))
    return f"did you mean {', '.join(near)}?" if near else ""


def _range(least: float | None, most: float | None, above: bool = False) -> str:
    low = "" if least is None else f"at least {least}"
    if above:
        low = f"above {least}" if least else "positive"
    high = "" if most is None else f"at most {most}"
    return " and ".join(part for part in (low, high) if part)


def shown(value: Any) -> str:
    """The value as Python writes it, cut where it is long; its type where it cannot be written."""
    try:
        text = repr(value)
    except Exception:  # somebody else's repr
        text = f"a {type(value).__name__}"
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def worker_count(workers: int | None) -> int:
    """The number of workers a user asked for, or one per core.

    Raises
    ------
    TypeError
        Not an integer.
    ValueError
        Below 1.
    """
    if workers is None:
        return cores()
    return positive(workers, "workers")
