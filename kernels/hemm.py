"""hemm, hemmd: V := V + A X with one tile of a Hermitian matrix, of which only the lower triangle is stored.

A tile A_ij below the diagonal stands for A_ji = A_ij^H as well. So `hemm` reads it once for two products,
V_i + A_ij X_j and V_j + A_ij^H X_i: strip by strip, so that the second product finds the strip in cache. `hemmd` is
the same for a tile on the diagonal. Of its strips only the square ``BLOCK`` on the diagonal lacks a triangle; `blocks`
makes these whole, once for many products.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from tilewright.kernels import multiply, reference
from tilewright.kernels.blas import Library
from tilewright.kernels.gemml import check
from tilewright.kernels.layout import rows_of, scalar
from tilewright.kernels.tile_op import TileOp

__all__ = ["DIAGONAL", "TILE_OP", "BLOCK", "blocks", "build", "build_diagonal", "flops", "flops_diagonal"]

Shape = tuple[int, int]

STRIP = 1 << 20  # bytes, half of the cache of a core
BLOCK = 256


def flops(a: Shape, xi: Shape, xj: Shape, vi: Shape, vj: Shape) -> float:
    """4 p q m for A (p, q) and m right-hand sides."""
    return 4.0 * a[0] * a[1] * xi[1]


def flops_diagonal(a: Shape, f: Shape, x: Shape, v: Shape) -> float:
    """2 n^2 m for A (n, n) and m right-hand sides."""
    return 2.0 * a[0] ** 2 * x[1]


def blocks(a: np.ndarray, f: np.ndarray) -> None:
    """F := the squares on the diagonal of A, one above the other, (n, BLOCK): each with both triangles.

    Only the lower triangle of A is read, and its diagonal counts as real.
    """
    for s in range(0, len(a), BLOCK):
        rows = slice(s, s + BLOCK)
        square = np.tril(a[rows, rows], -1)
        whole = f[rows, : len(square)]
        np.add(square, square.conj().T, out=whole)
        whole[np.diag_indices(len(square))] = a[rows, rows].diagonal().real


Both = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray], None]


def build(library: Library, letter: str) -> Both | None:
    """`hemm` for BLAS type ``letter`` in "sdcz", or None if the library lacks ?gemm."""
    product = multiply.build(library, letter)
    if product is None:
        return None
    one = scalar(letter, 1)

    def hemm(a: np.ndarray, xi: np.ndarray, xj: np.ndarray, vi: np.ndarray, vj: np.ndarray) -> None:
        check("hemm", a, xj, vi, False)
        check("hemm", a, xi, vj, True)
        if not a.size or not xi.size:
            return
        p, q = a.shape
        step = _strip(q, a.itemsize)
        for s in range(0, p, step):
            strip, rows = rows_of(a[s : s + step]), slice(s, s + step)
            product(one, one, strip, xj, vi[rows], False)
            product(one, one, strip, xi[rows], vj, True)

    return hemm


def _strip(width: int, itemsize: int) -> int:
    """How many rows or columns of so many numbers are a strip."""
    return max(STRIP // (width * itemsize) // 32, 1) * 32


def build_diagonal(library: Library, letter: str) -> Callable[..., None] | None:
    """`hemmd` for BLAS type ``letter`` in "sdcz", or None if the library lacks ?gemm."""
    product = multiply.build(library, letter)
    if product is None:
        return None
    one = scalar(letter, 1)

    def hemmd(a: np.ndarray, f: np.ndarray, x: np.ndarray, v: np.ndarray) -> None:
        check("hemmd", a, x, v, False)
        if f.shape != (len(a), BLOCK):
            raise ValueError(f"hemmd: F must be ({len(a)}, {BLOCK}) for A {a.shape}, not {f.shape}")
        if not x.size:
            return
        for s in range(0, len(a), BLOCK):
            rows = slice(s, min(s + BLOCK, len(a)))
            product(one, one, f[rows, : rows.stop - s], x[rows], v[rows], False)  # V2 := V2 + A22 X2
            if s:
                product(one, one, a[rows, :s], x[:s], v[rows], False)  # V2 := V2 + A21 X1
                product(one, one, a[rows, :s], x[rows], v[:s], True)  # V1 := V1 + A21^H X2

    return hemmd


def _operands(m: int, n: int, k: int) -> Iterator[tuple[bool, tuple[int, ...], str]]:
    yield from ((False, (m, k), ""), (False, (m, n), ""), (False, (k, n), ""), (True, (m, n), ""), (True, (k, n), ""))


TILE_OP = TileOp("hemm", build, reference.hemm, flops, operands=_operands, written=2, columns=8)
DIAGONAL = TileOp("hemmd", build_diagonal, reference.hemmd, flops_diagonal)
"""It is made of the same products as ``hemm``, so no probe is needed."""
