"""X := X + alpha op(A) Y for right-hand sides: what `gemml` and `hemm` are made of [BLAS ?gemm, ?gemv].

X and Y are rows of an (n, m) array of right-hand sides, C-ordered. BLAS sees their transposes; so the product it is
asked for is X^T + alpha Y^T op(A)^T, and A may be row-major or column-major.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tilewright.kernels.blas import Library
from tilewright.kernels.layout import address, by_reference, row_ld

__all__ = ["Product", "build", "by_columns"]

Product = Callable[[Any, Any, np.ndarray, np.ndarray, np.ndarray, bool], None]
"""product(alpha, one, A, Y, X, adjoint), the scalars by reference."""


def by_columns(a: np.ndarray, adjoint: bool, letter: str) -> tuple[np.ndarray, bool, int]:
    """(A, column-major?, leading dimension) for a BLAS call; a copy of A if no flag says what is wanted.

    conj(A) of a column-major complex A is neither A, A^T nor A^H; and a tile may be strided both ways.
    """
    ld = row_ld(a)
    if ld:
        return a, False, ld
    ld = row_ld(a.T)
    if ld and not (adjoint and letter in "cz"):
        return a, True, ld
    a = np.ascontiguousarray(a)
    return a, False, row_ld(a)


def build(library: Library, letter: str) -> Product | None:
    """The product for BLAS type ``letter`` in "sdcz", or None if the library lacks ?gemm."""
    gemm = library.symbol(f"{letter}gemm")
    if gemm is None:
        return None
    gemv = library.symbol(f"{letter}gemv") if letter in "sd" else None  # BLAS has no conj(A) y without a transpose

    def product(alpha: Any, one: Any, a: np.ndarray, y: np.ndarray, x: np.ndarray, adjoint: bool) -> None:
        a, columns, lda = by_columns(a, adjoint, letter)
        p, m = x.shape
        k = len(y)
        if m == 1 and gemv is not None:
            rows, width = a.shape if columns else a.shape[::-1]  # of what BLAS sees
            gemv(
                b"N" if columns != adjoint else b"T", by_reference(rows), by_reference(width),
                alpha, address(a), by_reference(lda), address(y), by_reference(row_ld(y)),
                one, address(x), by_reference(row_ld(x)),
            )  # fmt: skip
            return
        #    op(A)^T is A^T or conj(A); BLAS sees A^T of row-major tiles
        flag = (b"N" if adjoint else b"T") if columns else (b"C" if adjoint else b"N")
        gemm(
            b"N", flag, by_reference(m), by_reference(p), by_reference(k),
            alpha, address(y), by_reference(row_ld(y)), address(a), by_reference(lda),
            one, address(x), by_reference(row_ld(x)),
        )  # fmt: skip

    return product
