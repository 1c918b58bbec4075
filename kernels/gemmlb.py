"""gemmlb: X := X - op(A) Y with A in BF16 and the right-hand sides in FP32.

Substitution reads a factor once for 2 flops a number, so a tile of half the bytes takes half the time. MKL wants both
operands in BF16: Y is taken as the sum of two parts, 16 of its 24 bits, in two products. One with two columns took
longer.
"""

from __future__ import annotations

import ctypes
import sys

import numpy as np

from tilewright.kernels import products
from tilewright.kernels.gemml import check
from tilewright.kernels.layout import address, row_ld
from tilewright.kernels.narrow import widened

__all__ = ["gemmlb"]

_MINUS_ONE, _ONE = ctypes.c_float(-1), ctypes.c_float(1)
_ROW_MAJOR, _NO_TRANS, _TRANS = 101, 111, 112
_HIGH = np.uint32(0xFFFF0000)
_UPPER = 1 if sys.byteorder == "little" else 0


def gemmlb(a: np.ndarray, y: np.ndarray, x: np.ndarray, adjoint: bool = False) -> None:
    """X := X - A Y, or X - A^T Y with ``adjoint``, for A (p, k) uint16. Without MKL A is widened first."""
    check("gemmlb", a, y, x, adjoint)
    if not x.size or not y.size:
        return
    call = products.cblas("bfloat16")
    if call is None or not row_ld(a):
        wide = widened(a)
        x -= (wide.T if adjoint else wide) @ y
        return
    k, m = y.shape
    rest = np.ascontiguousarray(y.T)
    for _ in range(2):
        part = rest.view(np.uint16)[:, _UPPER::2].copy()  # cut off, not rounded: the other part has what is left
        call(
            _ROW_MAJOR,
            _TRANS if adjoint else _NO_TRANS,
            _TRANS,
            len(x),
            m,
            k,
            _MINUS_ONE,
            address(a),
            row_ld(a),
            address(part),
            k,
            _ONE,
            address(x),
            row_ld(x),
        )
        rest = rest - (rest.view(np.uint32) & _HIGH).view(np.float32)
