"""gemv: y := A x or y := y + A x, by rows or by columns [BLAS ?gemv].

NumPy's product copies a matrix whose rows are not next to each other, four times the cost of the product itself; BLAS
takes any leading dimension. Like all kernels here it releases the GIL.
"""

from __future__ import annotations

import numpy as np

from tilewright.kernels import choice
from tilewright.kernels.layout import address, by_reference, scalar

__all__ = ["gemv"]

_LETTERS = {"float32": "s", "float64": "d", "complex64": "c", "complex128": "z"}
_STRIP = 1 << 18  # bytes of a strip of A in another dtype: they stay in cache
_ONE = {letter: scalar(letter, 1) for letter in "sdcz"}
_ZERO = {letter: scalar(letter, 0) for letter in "sdcz"}


def gemv(a: np.ndarray, x: np.ndarray, y: np.ndarray, *, accumulate: bool = False) -> None:
    """y := A x, or y := y + A x.

    Parameters
    ----------
    a : (m, n) array
        Rows or columns contiguous, any distance between them; other strides are copied.
    x : (n,) array, y : (m,) array
        Contiguous, of one dtype: that of ``a``, or a wider one, to which ``a`` is converted strip by strip.
        2 m n flops.

    Raises
    ------
    ValueError
        The shapes or dtypes do not fit, or y is not contiguous.
    """
    m, n = a.shape
    if a.dtype != x.dtype and x.dtype == y.dtype and np.can_cast(a.dtype, x.dtype):
        rows = max(_STRIP // (max(n, 1) * x.itemsize), 1)
        for first in range(0, m, rows):
            strip = a[first : first + rows].astype(x.dtype, order="K")
            gemv(strip, x, y[first : first + rows], accumulate=accumulate)
        return
    if x.shape != (n,) or y.shape != (m,) or not a.dtype == x.dtype == y.dtype or not y.flags.c_contiguous:
        raise ValueError(
            f"gemv: A {a.shape} {a.dtype}, x {x.shape} {x.dtype} and y {y.shape} {y.dtype} do not fit y = A x"
        )
    size = a.itemsize
    if not m or not n:
        if not accumulate:
            y[...] = 0
        return
    row, column = a.strides
    if not (column == size and row >= n * size and row % size == 0) and not (
        row == size and column >= m * size and column % size == 0
    ):
        a = np.ascontiguousarray(a)
        row, column = a.strides
    letter = _LETTERS[str(a.dtype)]
    x = np.ascontiguousarray(x)
    beta = (_ONE if accumulate else _ZERO)[letter]
    call = choice.library("gemv", letter).symbol(f"{letter}gemv")
    if call is None:  # the MKL inside torch has no cgemv
        np.copyto(y, y + a @ x if accumulate else a @ x)
        return
    step = by_reference(1)
    if column == size:  # by rows: what BLAS sees is A^T, stored by columns
        call(
            b"T",
            by_reference(n),
            by_reference(m),
            _ONE[letter],
            address(a),
            by_reference(max(row // size, n)),
            address(x),
            step,
            beta,
            address(y),
            step,
        )
    else:
        call(
            b"N",
            by_reference(m),
            by_reference(n),
            _ONE[letter],
            address(a),
            by_reference(max(column // size, m)),
            address(x),
            step,
            beta,
            address(y),
            step,
        )
