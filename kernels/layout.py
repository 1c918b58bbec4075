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

__all__ = ["address", "aligned", "by_reference", "by_rows", "row_ld", "rows_of", "scalar"]


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


def rows_of(tile: np.ndarray) -> np.ndarray:
    """The tile if its rows are contiguous, else a copy whose rows are."""
    return tile if row_ld(tile) else tile.copy(order="C")


def by_rows(kernel: Callable[..., Any], *tiles: np.ndarray) -> Any:
    """What ``kernel`` returns for row-major copies of those tiles that are not; the last tile is written."""
    rows = [rows_of(tile) for tile in tiles]
    result = kernel(*rows)
    if rows[-1] is not tiles[-1]:
        np.copyto(tiles[-1], rows[-1])
    return result


def aligned(target: np.ndarray, *operands: np.ndarray) -> tuple[bool, tuple[np.ndarray, ...], tuple[int, ...], int]:
    """(row-major?, operands, their leading dimensions, the target's): one layout for all.

    The target sets the layout; an operand in the other one is copied. ValueError if neither the rows nor the
    columns of the target are contiguous, as then no BLAS can write it.
    """
    ld = row_ld(target)
    if ld:
        lds = tuple([row_ld(operand) for operand in operands])
        if all(lds):
            return True, operands, lds, ld
    column_ld = row_ld(target.T)
    if column_ld:
        lds = tuple([row_ld(operand.T) for operand in operands])
        if all(lds):
            return False, operands, lds, column_ld
    if not ld and not column_ld:
        raise ValueError(f"a tile of shape {target.shape} and strides {target.strides} has no contiguous direction")
    operands = tuple([operand.copy(order="C" if ld else "F") for operand in operands])
    lds = tuple([row_ld(operand if ld else operand.T) for operand in operands])
    return bool(ld), operands, lds, ld or column_ld


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
