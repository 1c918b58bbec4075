"""Tiles that are not square: row blocks of a tall matrix, triangles of reflections."""

from __future__ import annotations

import numpy as np

from tilewright.tiles import TiledMatrix

__all__ = ["cut"]


def cut(array: np.ndarray, height: int, width: int) -> TiledMatrix:
    """Views of an array, in tiles of ``height`` rows and ``width`` columns."""
    return TiledMatrix(array.shape, width, array.dtype, array, packed=False, height=height)
