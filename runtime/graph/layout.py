"""Where data lives that an algorithm brings with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from tilewright.graph.handle import Handle

__all__ = ["Layout"]


class Layout(NamedTuple):
    """Where the handles of one graph live and how large they are, if its author knows: see `TaskGraph.layout`."""

    ranks: int
    owner: Callable[[Handle], int]
    shape: Callable[[Handle], tuple[int, ...]]
    rule: Callable[[int, int], int] | None = None
    """``owner`` as a `tilewright.distribution.Distribution`, if it is one: of the first two indices of a handle."""
