"""trsm: A := A L^-H, the solve that turns a tile below the diagonal into a tile of the factor [BLAS ?trsm]."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from tilewright.kernels import reference
from tilewright.kernels.blas import Library
from tilewright.kernels.layout import address, by_reference, by_rows, kernel_ld, scalar
from tilewright.kernels.tile_op import TileOp

__all__ = ["TILE_OP", "build", "flops"]

Shape = tuple[int, int]


def flops(l: Shape, a: Shape) -> float:  # noqa: E741 - l is the triangular factor
    """m n^2 for L (n, n), A (m, n)."""
    return float(a[0] * a[1] ** 2)


def build(library: Library, letter: str) -> Callable[[np.ndarray, np.ndarray], None] | None:
    """The kernel for BLAS type ``letter`` in "sdcz", or None if the library lacks ?trsm.

    Only the lower triangle of L is referenced.
    """
    call = library.symbol(f"{letter}trsm")
    if call is None:
        return None
    one = scalar(letter, 1)

    def trsm(l: np.ndarray, a: np.ndarray) -> None:  # noqa: E741
        m, n = a.shape
        if l.shape != (n, n):
            raise ValueError(f"trsm: L {l.shape} and A {a.shape} do not fit A L^-H")
        ldl, lda = kernel_ld(l), kernel_ld(a)
        if not (ldl and lda):
            by_rows(trsm, l, a)
            return
        call(  # conj(L) A^T = A^T, with L^T upper on what BLAS sees
            b"L",
            b"U",
            b"C",
            b"N",
            by_reference(n),
            by_reference(m),
            one,
            address(l),
            by_reference(ldl),
            address(a),
            by_reference(lda),
        )

    return trsm


def _operands(m: int, n: int, k: int) -> Iterator[tuple[bool, tuple[int, ...], str]]:
    yield from ((False, (n, n), "triangle"), (True, (m, n), ""))


TILE_OP = TileOp("trsm", build, reference.trsm, flops, ("trsm", "trsm"), operands=_operands)
