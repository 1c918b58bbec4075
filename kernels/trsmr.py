"""trsmr: X := X T^-1, the solve with a triangular tile from the right [BLAS ?trsm]."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from tilewright.kernels import reference
from tilewright.kernels.blas import Library
from tilewright.kernels.layout import address, by_reference, by_rows, kernel_ld, scalar
from tilewright.kernels.tile_op import TileOp

__all__ = ["TILE_OP", "build", "flops"]

Shape = tuple[int, int]


def flops(t: Shape, x: Shape) -> float:
    """m n^2 for T (n, n), X (m, n)."""
    return float(x[0] * t[0] ** 2)


def build(library: Library, letter: str) -> Callable[..., None] | None:
    """The kernel for BLAS type ``letter`` in "sdcz", or None if the library lacks ?trsm.

    Only the named triangle of T is referenced, and with ``unit`` not its diagonal, which counts as ones.
    """
    call = library.symbol(f"{letter}trsm")
    if call is None:
        return None
    one = scalar(letter, 1)

    def trsmr(t: np.ndarray, x: np.ndarray, lower: bool = True, unit: bool = False) -> None:
        m, n = x.shape
        if t.shape != (n, n):
            raise ValueError(f"trsmr: T {t.shape} and X {x.shape} do not fit X T^-1")
        if not x.size:
            return
        ldt, ldx = kernel_ld(t), kernel_ld(x)
        if not (ldt and ldx):
            by_rows(lambda t, x: trsmr(t, x, lower, unit), t, x)
            return
        call(  # X^T := T^-T X^T, with the other triangle on what BLAS sees
            b"L",
            b"U" if lower else b"L",
            b"N",
            b"U" if unit else b"N",
            by_reference(n),
            by_reference(m),
            one,
            address(t),
            by_reference(ldt),
            address(x),
            by_reference(ldx),
        )

    return trsmr


def _operands(m: int, n: int, k: int) -> Iterator[tuple[bool, tuple[int, ...], str]]:
    yield from ((False, (n, n), "triangle"), (True, (m, n), ""))


TILE_OP = TileOp("trsmr", build, reference.trsmr, flops, ("trsm", "trsm"), operands=_operands)
