"""potrf: A := L with A = L L^H, the factorisation of a diagonal tile [LAPACK ?potrf]."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator

import numpy as np

from tilewright.kernels import reference
from tilewright.kernels.blas import Library
from tilewright.kernels.layout import address, by_reference, by_rows, kernel_ld
from tilewright.kernels.tile_op import TileOp

__all__ = ["TILE_OP", "build", "flops"]

Shape = tuple[int, int]


def flops(a: Shape) -> float:
    """n^3/3, the leading term."""
    return a[0] ** 3 / 3


def build(library: Library, letter: str) -> Callable[[np.ndarray], int] | None:
    """The kernel for LAPACK type ``letter`` in "sdcz", or None if the library lacks ?potrf.

    Only the lower triangle is referenced. Returns LAPACK's info: 0, or i > 0 if the leading minor of order i
    is not positive definite.
    """
    call = library.symbol(f"{letter}potrf")
    if call is None:
        return None

    def potrf(a: np.ndarray) -> int:
        n = len(a)
        if a.shape != (n, n):
            raise ValueError(f"potrf: A {a.shape} is not square")
        lda = kernel_ld(a)
        if not lda:
            return int(by_rows(potrf, a))
        info = ctypes.c_int(0)
        # A^T = conj(L) L^T, with L^T upper on what BLAS sees of a row-major tile
        call(b"U", by_reference(n), address(a), by_reference(lda), ctypes.byref(info))
        return info.value

    return potrf


def _operands(m: int, n: int, k: int) -> Iterator[tuple[bool, tuple[int, ...], str]]:
    yield True, (m, m), "definite"


TILE_OP = TileOp("potrf", build, reference.potrf, flops, ("potrf", "potrf"), operands=_operands)
