"""How BLAS sees a tile: its address and leading dimension.

BLAS knows column-major matrices. A row-major tile X with row stride ``ld`` is, bit for bit, the column-major
matrix X^T with leading dimension ``ld``. That is what all kernels ask for. For a column-major tile other flags would
do as well, but then a library adds up in another order: other bits for the same numbers. So such tiles are copied,
and bits do not depend on the layout of memory.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

__all__ = ["address", "by_reference", "by_rows", "kernel_ld", "row_ld", "rows_of", "scalar"]


def row_ld(tile: np.ndarray) -> int:
    """Leading dimension of ``tile`` read row by row, or 0 if its rows are not contiguous."""
    rows, columns = tile.shape
    item = tile.itemsize
    down, along = tile.strides
    if columns != 1 and along != item:
        return 0
    if rows == 1:
        return max(columns, 1)
    ld, rest = divmod(down, item)
    return ld if ld >= columns and not rest else 0


def kernel_ld(tile: np.ndarray) -> int:
    """`row_ld`, but 0 for a single column whose numbers are apart.

    Such a tile has any leading dimension, and libraries take one of 1 for a vector: other code, other bits.
    """
    ld = row_ld(tile)
    return ld if ld == 1 or tile.shape[1] != 1 or tile.shape[0] == 1 else 0


def rows_of(tile: np.ndarray) -> np.ndarray:
    """The tile as kernels take it, see `kernel_ld`, or a copy that is so."""
    return tile if kernel_ld(tile) else tile.copy(order="C")


def by_rows(kernel: Callable[..., Any], *tiles: np.ndarray) -> Any:
    """What ``kernel`` returns for row-major copies of those tiles that are not; the last tile is written."""
    rows = [rows_of(tile) for tile in tiles]
    result = kernel(*rows)
    if rows[-1] is not tiles[-1]:
        np.copyto(tiles[-1], rows[-1])
    return result


def address(tile: np.ndarray) -> ctypes.c_void_p:
    """The address of the tile's first element."""
    return ctypes.c_void_p(tile.__array_interface__["data"][0])


@cache
def by_reference(value: int) -> Any:
    """A Fortran INTEGER argument. Dimensions repeat, so each is made once."""
    return ctypes.byref(ctypes.c_int(value))


def scalar(letter: str, value: float) -> Any:
    """A real-valued scalar argument of BLAS type ``letter``."""
    kind = ctypes.c_float if letter in "sc" else ctypes.c_double
    parts = (kind * (2 if letter in "cz" else 1))(value)  # complex: (real, imaginary), the rest is zero
    return ctypes.byref(parts)
