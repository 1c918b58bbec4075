"""What `tilewright.ops.gauge` found in each tile of a matrix, added up for the whole of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from tilewright.graph import Handle
from tilewright.tiles import TiledMatrix

__all__ = ["Gauged"]


class Gauged(NamedTuple):
    """Sizes of an m x n matrix; all are NaN where an entry is."""

    largest: float
    """Of |a_ij|."""
    columns: np.ndarray
    """(n,) sums of |a_ij| along each column."""
    rows: np.ndarray
    """(m,) along each row."""

    @classmethod
    def of(cls, found: Mapping[Handle, np.ndarray | None], tiles: TiledMatrix) -> Gauged:
        """From a (1, 1 + columns + rows) array for each tile; None for one that another rank has."""
        columns, rows, largest = np.zeros(tiles.shape[1]), np.zeros(tiles.shape[0]), 0.0
        for (_, (i, j)), sizes in found.items():
            if sizes is None:
                continue
            down, along = tiles.rows(i), tiles.columns(j)
            width = along.stop - along.start
            largest = max(largest, float(sizes[0, 0]))
            columns[along] += sizes[0, 1 : 1 + width]
            rows[down] += sizes[0, 1 + width :]
        return cls(largest, columns, rows)
