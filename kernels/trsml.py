"""trsml: X := op(T)^-1 X, substitution with a diagonal tile of a factor [BLAS ?trsm]."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from tilewright.kernels import reference
from tilewright.kernels.blas import Library
from tilewright.kernels.layout import address, by_reference, by_rows, kernel_ld, row_ld, rows_of, scalar
from tilewright.kernels.tile_op import TileOp

__all__ = ["TILE_OP", "build", "flops"]

Shape = tuple[int, int]


def flops(t: Shape, x: Shape) -> float:
    """m n^2 for T (n, n), X (n, m)."""
    return float(t[0] ** 2 * x[1])


def build(library: Library, letter: str) -> Callable[..., None] | None:
    """The kernel for BLAS type ``letter`` in "sdcz", or None if the library lacks ?trsm.

    X := alpha op(T)^-1 X. Only the named triangle of T is referenced, and with ``unit`` not its diagonal, which counts
    as ones. X is C-ordered.
    """
    call = library.symbol(f"{letter}trsm")
    if call is None:
        return None
    factors = {1.0: scalar(letter, 1), -1.0: scalar(letter, -1)}

    def trsml(
        t: np.ndarray, x: np.ndarray, adjoint: bool = False, lower: bool = True, unit: bool = False, alpha: float = 1.0
    ) -> None:
        n, m = x.shape
        ldx = row_ld(x)
        if t.shape != (n, n) or (x.size and not ldx):
            kind = "" if ldx or not x.size else f" with strides {x.strides}"
            raise ValueError(f"trsml: T {t.shape} and X {x.shape}{kind} do not fit T^-1 X with X C-ordered")
        if not x.size:
            return
        t = rows_of(t)
        ldt = row_ld(t)
        triangle = b"U" if lower else b"L"  # the triangle of what BLAS sees, T^T
        ones, factor = b"U" if unit else b"N", factors.get(alpha) or scalar(letter, alpha)
        if not kernel_ld(x):
            by_rows(lambda t, x: trsml(t, x, adjoint, lower, unit, alpha), t, x)
        elif m == 1 and letter in "sd":
            call(
                b"L",
                triangle,
                b"N" if adjoint else b"T",
                ones,
                by_reference(n),
                by_reference(1),
                factor,
                address(t),
                by_reference(ldt),
                address(x),
                by_reference(n),
            )
        else:  # X^T := X^T op(T)^-T
            call(
                b"R",
                triangle,
                b"C" if adjoint else b"N",
                ones,
                by_reference(m),
                by_reference(n),
                factor,
                address(t),
                by_reference(ldt),
                address(x),
                by_reference(ldx),
            )

    return trsml


def _operands(m: int, n: int, k: int) -> Iterator[tuple[bool, tuple[int, ...], str]]:
    yield from ((False, (m, m), "triangle"), (True, (m, n), ""))


TILE_OP = TileOp(
    "trsml",
    build,
    reference.trsml,
    flops,
    ("trsm", "trsm"),
    operands=_operands,
    adjoint=((_operands, (True,)),),
    columns=8,
)
