"""Random butterflies on rows: B = [[R, S], [R, -S]] / sqrt(2) with diagonal R and S [1]_.

They are applied to pairs of tiles, or to the halves of one, and compute the same for any cut of the columns, so bits do
not depend on who does it. A row without a partner is multiplied by its number in R.

.. [1] D. S. Parker, Random butterfly transformations with applications in computational linear algebra, UCLA
   CSD-950023 (1995); M. Baboulin et al., Accelerating linear system solutions using randomization techniques, ACM TOMS
   39 (2013).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["butterfly", "halves"]

_HALF = 0.5**0.5


def butterfly(
    weights: Sequence[np.ndarray],
    tiles: Sequence[np.ndarray],
    forward: bool = False,
    turned: bool = False,
    cuts: int = 1,
) -> None:
    """X := B^T X for the rows of these tiles, or X := B X with ``forward``.

    Two tiles are the two halves, the second with as many rows at most; one tile is cut into ``cuts`` parts, each of
    which has halves. ``weights`` has the vectors of R and S that belong to their rows. ``turned``: rows are columns.
    """
    if turned:
        tiles = [tile.T for tile in tiles]
    if len(tiles) == 2:
        _mix(weights[0], weights[1], tiles[0], tiles[1], forward)
        return
    for begin, middle, end in halves(len(tiles[0]), cuts):
        r, s = weights[0][begin:middle], weights[0][middle:end]
        _mix(r, s, tiles[0][begin:middle], tiles[0][middle:end], forward)


def halves(n: int, cuts: int) -> list[tuple[int, int, int]]:
    """(begin, middle, end) of so many parts of n rows, a power of two; the first half is the larger one."""
    parts = [(0, n)]
    while len(parts) < cuts:
        parts = [part for a, c in parts for part in ((a, a + (c - a + 1) // 2), (a + (c - a + 1) // 2, c))]
    return [(a, a + (c - a + 1) // 2, c) for a, c in parts]


def _mix(r: np.ndarray, s: np.ndarray, top: np.ndarray, bottom: np.ndarray, forward: bool) -> None:
    k, half = len(bottom), r.dtype.type(_HALF)
    pairs, alone = top[:k], top[k:]
    R, S = r[:k, None] if forward else half, s[:, None] if forward else half
    with np.errstate(all="ignore"):
        pairs *= R
        bottom *= S
        difference = pairs - bottom
        pairs += bottom
        pairs *= half if forward else r[:k, None]
        np.multiply(difference, half if forward else s[:, None], out=bottom)
        alone *= r[k:, None]
