"""Sizes and times for people."""

from __future__ import annotations

__all__ = ["nbytes", "seconds"]


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
