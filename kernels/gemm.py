"""gemm: C := C - A B^H, the update of an off-diagonal tile [BLAS ?gemm]."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from tilewright.kernels import reference
from tilewright.kernels.blas import Library
from tilewright.kernels.layout import address, by_reference, by_rows, kernel_ld, scalar
from tilewright.kernels.tile_op import TileOp

__all__ = ["TILE_OP", "build", "flops"]

Shape = tuple[int, ...]


def flops(a: Shape, b: Shape, c: Shape) -> float:
    """2 m n k for A (m, k), B (n, k), C (m, n)."""
    return 2.0 * c[0] * c[1] * a[-1]


def build(library: Library, letter: str) -> Callable[[np.ndarray, np.ndarray, np.ndarray], None] | None:
    """The kernel for BLAS type ``letter`` in "sdcz", or None if the library lacks ?gemm."""
    call = library.symbol(f"{letter}gemm")
    if call is None:
        return None
    minus_one, one = scalar(letter, -1), scalar(letter, 1)

    def gemm(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> None:
        m, n = c.shape
        k = a.shape[1]
        if a.shape[0] != m or b.shape != (n, k):
            raise ValueError(f"gemm: A {a.shape}, B {b.shape} and C {c.shape} do not fit C - A B^H")
        lda, ldb, ldc = kernel_ld(a), kernel_ld(b), kernel_ld(c)
        if not (lda and ldb and ldc):
            by_rows(gemm, a, b, c)
            return
        call(  # C^T := C^T - conj(B) A^T on what BLAS sees
            b"C",
            b"N",
            by_reference(n),
            by_reference(m),
            by_reference(k),
            minus_one,
            address(b),
            by_reference(ldb),
            address(a),
            by_reference(lda),
            one,
            address(c),
            by_reference(ldc),
        )

    return gemm


def _operands(m: int, n: int, k: int) -> Iterator[tuple[bool, tuple[int, ...], str]]:
    yield from ((False, (m, k), ""), (False, (n, k), ""), (True, (m, n), ""))


TILE_OP = TileOp("gemm", build, reference.gemm, flops, operands=_operands)
