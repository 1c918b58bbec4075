"""gemml: X := X - op(A) Y, the update of a block of right-hand sides by another [BLAS ?gemm, ?gemv].

gemmp is its counterpart with a plus, V := V + A X: a product with a matrix, tile by tile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from tilewright.kernels import multiply, reference
from tilewright.kernels.blas import Library
from tilewright.kernels.layout import row_ld, scalar
from tilewright.kernels.tile_op import TileOp

__all__ = ["PLUS", "TILE_OP", "build", "build_plus", "check", "flops"]

Shape = tuple[int, int]


def flops(a: Shape, y: Shape, x: Shape) -> float:
    """2 p k m for op(A) (p, k), Y (k, m), X (p, m)."""
    return 2.0 * a[0] * a[1] * x[1]


def check(name: str, a: np.ndarray, y: np.ndarray, x: np.ndarray, adjoint: bool) -> None:
    """ValueError if the shapes do not fit, or the right-hand sides are not C-ordered."""
    p, k = a.shape[::-1] if adjoint else a.shape
    if len(x) != p or len(y) != k or x.shape[1] != y.shape[1]:
        raise ValueError(f"{name}: A {a.shape}, Y {y.shape} and X {x.shape} do not fit X - {'A^H' * adjoint or 'A'} Y")
    for block in (x, y):
        if block.size and not row_ld(block):
            raise ValueError(f"{name}: right-hand sides must be C-ordered, not with strides {block.strides}")


def build(library: Library, letter: str) -> Callable[..., None] | None:
    """The kernel for BLAS type ``letter`` in "sdcz", or None if the library lacks ?gemm."""
    product = multiply.build(library, letter)
    if product is None:
        return None
    minus_one, one = scalar(letter, -1), scalar(letter, 1)

    def gemml(a: np.ndarray, y: np.ndarray, x: np.ndarray, adjoint: bool = False) -> None:
        check("gemml", a, y, x, adjoint)
        if x.size and y.size:
            product(minus_one, one, a, y, x, adjoint)

    return gemml


def build_plus(library: Library, letter: str) -> Callable[..., None] | None:
    """V := V + A X for BLAS type ``letter`` in "sdcz", or None if the library lacks ?gemm."""
    product = multiply.build(library, letter)
    if product is None:
        return None
    one = scalar(letter, 1)

    def gemmp(a: np.ndarray, x: np.ndarray, v: np.ndarray) -> None:
        check("gemmp", a, x, v, False)
        if v.size and x.size:
            product(one, one, a, x, v, False)

    return gemmp


def _operands(m: int, n: int, k: int) -> Iterator[tuple[bool, tuple[int, ...], str]]:
    yield from ((False, (m, k), ""), (False, (k, n), ""), (True, (m, n), ""))


def _adjoint(m: int, n: int, k: int) -> Iterator[tuple[bool, tuple[int, ...], str]]:
    yield from ((False, (k, m), ""), (False, (k, n), ""), (True, (m, n), ""))


TILE_OP = TileOp("gemml", build, reference.gemml, flops, operands=_operands, adjoint=((_adjoint, (True,)),), columns=8)
PLUS = TileOp("gemmp", build_plus, reference.gemmp, flops, operands=_operands, columns=8)
