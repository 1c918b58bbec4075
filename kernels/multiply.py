"""X := X + alpha op(A) Y for right-hand sides: what `gemml` and `hemm` are made of [BLAS ?gemm, ?gemv].

X and Y are rows of an (n, m) array of right-hand sides, C-ordered. BLAS sees their transposes; so the product it is
asked for is X^T + alpha Y^T op(A)^T.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tilewright.kernels.blas import Library
from tilewright.kernels.layout import address, by_reference, by_rows, kernel_ld, row_ld, rows_of

__all__ = ["Product", "build"]

NARROW = 16
"""Rows or columns of a matrix up to which OpenBLAS's ?gemv has code of its own, with bits that depend on the leading
dimension; 8 were seen. Such a matrix is packed for it."""

Product = Callable[[Any, Any, np.ndarray, np.ndarray, np.ndarray, bool], None]
"""product(alpha, one, A, Y, X, adjoint), the scalars by reference."""


def build(library: Library, letter: str) -> Product | None:
    """The product for BLAS type ``letter`` in "sdcz", or None if the library lacks ?gemm."""
    gemm = library.symbol(f"{letter}gemm")
    if gemm is None:
        return None
    gemv = library.symbol(f"{letter}gemv") if letter in "sd" else None  # BLAS has no conj(A) y without a transpose

    def product(alpha: Any, one: Any, a: np.ndarray, y: np.ndarray, x: np.ndarray, adjoint: bool) -> None:
        if not kernel_ld(x):
            by_rows(lambda a, y, x: product(alpha, one, a, y, x, adjoint), a, y, x)
            return
        a, y = rows_of(a), rows_of(y)
        p, m = x.shape
        if m == 1 and min(a.shape) <= NARROW:
            a = np.ascontiguousarray(a)
        lda = row_ld(a)
        k = len(y)
        if m == 1 and gemv is not None:
            rows, width = a.shape[::-1]  # as BLAS sees it
            gemv(
                b"N" if adjoint else b"T",
                by_reference(rows),
                by_reference(width),
                alpha,
                address(a),
                by_reference(lda),
                address(y),
                by_reference(1),
                one,
                address(x),
                by_reference(1),
            )
            return
        #    op(A)^T is A^T or conj(A); BLAS sees A^T
        flag = b"C" if adjoint else b"N"
        gemm(
            b"N",
            flag,
            by_reference(m),
            by_reference(p),
            by_reference(k),
            alpha,
            address(y),
            by_reference(row_ld(y)),
            address(a),
            by_reference(lda),
            one,
            address(x),
            by_reference(row_ld(x)),
        )

    return product
