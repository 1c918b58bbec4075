"""Random butterflies around a factorisation without pivoting: U^T A V = L R, x = V (L R)^-1 U^T b [1]_, [2]_.

U and V are products of two levels of butterflies: of halves of the matrix, and of halves of those. Leading blocks of
U^T A V are then hardly ever singular or nearly so, however much of A is zero, and growth is moderate. Rows of tile i
meet those of the tile half a matrix below, so no tile is padded; where one tile is left, its own halves meet.

.. [1] D. S. Parker, Random butterfly transformations with applications in computational linear algebra, UCLA
   CSD-950023 (1995).
.. [2] M. Baboulin et al., Accelerating linear system solutions using randomization techniques, ACM TOMS 39 (2013).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from tilewright.graph import RW, Handles, R, TaskGraph
from tilewright.ops import butterfly

__all__ = ["DEPTH", "SEED", "Butterflies", "insert_butterflies", "meetings", "random_butterflies"]

DEPTH = 2
SEED = 42


class Butterflies(NamedTuple):
    """The diagonals of U and V."""

    left: np.ndarray
    """(depth, n): of U, real. Numbers within exp(+-1/20); level 0 is that of the whole matrix."""
    right: np.ndarray
    """The same of V."""
    tile_size: int

    def parts(self) -> dict[tuple[int, int, int], np.ndarray]:
        """``W[side, level, i]`` for side 0 (U) and 1 (V): what belongs to the rows of tile i."""
        nb, n = self.tile_size, self.left.shape[1]
        return {
            (side, level, i): np.ascontiguousarray(row[i * nb : (i + 1) * nb])
            for side, diagonals in enumerate((self.left, self.right))
            for level, row in enumerate(diagonals)
            for i in range(-(-n // nb))
        }

    def factors(self) -> np.ndarray:
        """Numbers whose product is det U det V: each pair has -r s, and U has as many as V."""
        return np.concatenate([self.left.ravel(), self.right.ravel()]).astype(np.float64)


def random_butterflies(n: int, tile_size: int, dtype: Any, seed: int = SEED) -> Butterflies:
    """Diagonals exp(t/10) with t uniform in [-1/2, 1/2), the same for the same n, dtype and seed."""
    numbers = np.exp(np.random.default_rng(seed).uniform(-0.05, 0.05, (2, DEPTH, n)))
    left, right = numbers.astype(np.empty(0, dtype).real.dtype)
    return Butterflies(left, right, tile_size)


def levels(nt: int) -> list[list[tuple[tuple[int, ...], int]]]:
    """For each level the pairs of tiles, or single tiles with the number of parts whose halves meet."""
    found = []
    blocks = [(0, nt, 1)]
    for _ in range(DEPTH):
        here: list[tuple[tuple[int, ...], int]] = []
        below = []
        for first, count, cuts in blocks:
            half = -(-count // 2)
            if count == 1:
                here.append(((first,), cuts))
                below.append((first, 1, 2 * cuts))
                continue
            for i in range(first, first + half):
                here.append(((i, i + half) if i + half < first + count else (i,), 1))
            below += [(first, half, 1), (first + half, count - half, 1)]
        found.append(here)
        blocks = [block for block in below if block[1]]
    return found


def meetings(nt: int) -> int:
    """How many pairs and single tiles `levels` has: about nt."""
    blocks, total = [nt], 0
    for _ in range(DEPTH):
        total += sum((block + 1) // 2 for block in blocks)
        blocks = [half for block in blocks for half in ((block + 1) // 2, block // 2)]
    return total


def insert_butterflies(
    g: TaskGraph,
    W: Handles,
    A: Handles,
    side: int,
    nt: int,
    others: int,
    *,
    forward: bool = False,
    turned: bool = False,
) -> None:
    """Insert A := U^T A (``side`` 0) or V^T A (1) for nt rows and ``others`` columns of tiles.

    ``forward``: A := U A or V A. ``turned``: the transpose of A is transformed, so A := A U or A V, or with ``forward``
    A U^T or A V^T.
    """
    meetings = list(enumerate(levels(nt)))
    for level, here in meetings if forward else reversed(meetings):
        for j in range(others):
            for rows, cuts in here:
                tiles = [RW(A[j, i] if turned else A[i, j]) for i in rows]
                g.insert(butterfly, [R(W[side, level, i]) for i in rows], tiles, forward, turned, cuts)
