"""A matrix, who owns it, and the plans for it: what the inspector knows, whatever runs the products."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tilewright.comm.closure import Closure, closure, depths
from tilewright.comm.inspector import Piece, inspect
from tilewright.comm.partition import Csr, Partition

__all__ = ["Plan", "SparseStructure", "plans_of"]

Plan = tuple[int, str, bool]
"""Steps, method, recurrence."""


def plans_of(options: Mapping[str, Any]) -> list[Plan]:
    """The plans that s-step conjugate gradients may use: s, and its halves to fall back on."""
    found = []
    s = options["s"]
    while s > 1:
        found.append((s, options["method"], True))
        s //= 2
    return found


class SparseStructure:
    """See the module."""

    def __init__(self, A: Csr, rows: Partition, columns: Partition) -> None:
        self.A, self.rows, self.columns = A, rows, columns
        self.ranks = rows.ranks
        self._depths = np.zeros(0, np.int64), 0

    def piece(self, rank: int) -> Piece:
        return inspect(self.A, self.rows, self.columns, rank)

    def closure(self, piece: Piece, plan: Plan) -> Closure:
        steps, method, recurrence = plan
        depth, known = self._depths
        if known < steps:
            self._depths = depth, _ = depths(self.A, self.rows, steps), steps
        return closure(self.A, self.rows, piece, steps, method, depth, recurrence=recurrence)
