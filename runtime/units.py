"""Sizes and times for people."""

from __future__ import annotations

import re
from numbers import Integral, Real
from typing import Any

__all__ = ["nbytes", "seconds", "size"]

_SIZE = re.compile(r"\s*([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*([kmgt]?)(i?)(b|bytes?)?\s*", re.I)


def size(value: Any, what: str) -> int:
    """Bytes: a number of them, or a text such as ``"2GB"`` (10^9 each), ``"1.5 GiB"`` (2^30 each).

    >>> size("2GB", "memory"), size("1.5 KiB", "memory"), size(4096, "memory")
    (2000000000, 1536, 4096)

    Raises
    ------
    TypeError, ValueError
        It is neither; or not positive.
    """
    if isinstance(value, str):
        match = _SIZE.fullmatch(value)
        if match is None:
            raise ValueError(f"{what} must be a number of bytes or a text such as '2GB' or '1.5GiB', not {value!r}")
        step = 1024 if match[3] else 1000
        found = float(match[1]) * step ** " kmgt".index(match[2].lower() or " ")
    elif isinstance(value, bool) or not isinstance(value, Real) or value != value:
        raise TypeError(f"{what} must be a number of bytes or a text such as '2GB', not {value!r}")
    else:
        found = float(value) if not isinstance(value, Integral) else int(value)
    if not 1 <= found < 2**62:
        raise ValueError(f"{what} must be at least 1 byte and less than 2^62, not {value!r}")
    return int(found)


def nbytes(value: float) -> str:
    """A size for people: ``16 bytes``, ``1.5 KiB``, ``39 MiB``."""
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if value >= scale:
            return f"{value / scale:.4g} {unit}"
    return f"{value:.0f} bytes"


def seconds(value: float) -> str:
    """A time for people: ``1.23 s``, ``4.56 ms``, ``7.89 us``."""
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if value >= scale:
            return f"{value / scale:.3g} {unit}"
    return f"{value / 1e-9:.3g} ns"
