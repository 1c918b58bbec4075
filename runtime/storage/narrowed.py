"""A stored matrix in single precision: numbers are scaled and rounded as they are read."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tilewright.kernels.scratch import room
from tilewright.storage.matrix import Place, Stored

__all__ = ["Narrowed"]

_SCRATCH = 1 << 18  # bytes in double precision at a time


class Narrowed(Stored):
    """D A D in float32 or complex64, of a matrix A in float64 or complex128; D is diagonal.

    Parameters
    ----------
    matrix
        A; it is closed by who opened it.
    scale
        The diagonal of D, or None for the identity.

    Raises
    ------
    FloatingPointError
        When it is read: a number is too large for single precision.
    """

    def __init__(self, matrix: Stored, scale: np.ndarray | None = None) -> None:
        super().__init__(matrix.shape, "complex64" if matrix.dtype.kind == "c" else "float32", matrix.name)
        self.matrix, self.scale = matrix, scale
        self.order, self.tile_size = matrix.order, matrix.tile_size

    def read(self, places: Sequence[Place], targets: Sequence[np.ndarray]) -> None:
        for (row, column), target in zip(places, targets, strict=True):
            rows, columns = target.shape
            line = max(columns * self.matrix.dtype.itemsize, 1)
            height = rows if self.tile_size else max(1, min(rows, _SCRATCH // line))
            for top in range(0, rows, height):
                some = target[top : top + height]
                wide = room("narrowed", some.shape, self.matrix.dtype)
                self.matrix.read([(row + top, column)], [wide])
                with np.errstate(over="raise", invalid="ignore", under="ignore"):
                    if self.scale is not None:
                        wide *= self.scale[row + top : row + top + len(some), None]
                        wide *= self.scale[column : column + columns]
                    np.copyto(some, wide, casting="same_kind")

    def count(self, read: int = 0, written: int = 0) -> None:
        super().count(2 * read, written)
        self.matrix.count(2 * read, written)
