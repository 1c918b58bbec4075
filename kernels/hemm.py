"""hemm, hemmd: V := V + A X with one tile of a Hermitian matrix, of which only the lower triangle is stored.

A tile A_ij below the diagonal stands for A_ji = A_ij^H as well. So `hemm` reads it once for two products,
V_i + A_ij X_j and V_j + A_ij^H X_i: strip by strip, so that the second product finds the strip in cache. `hemmd` is
the same for a tile on the diagonal, split in two until ``SMALL`` rows are left; with ``whole`` it is one product with a
tile that has both triangles, as the function `whole` makes them: that is worth it for many products.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tilewright.kernels import multiply
from tilewright.kernels.blas import Library
from tilewright.kernels.gemml import check
from tilewright.kernels.layout import row_ld, scalar

__all__ = ["build", "build_diagonal", "flops", "flops_diagonal", "hermitian", "whole"]

Shape = tuple[int, int]

STRIP = 256
SMALL = 64


def flops(a: Shape, xi: Shape, xj: Shape, vi: Shape, vj: Shape) -> float:
    """4 p q m for A (p, q) and m right-hand sides."""
    return 4.0 * a[0] * a[1] * xi[1]


def flops_diagonal(a: Shape, x: Shape, v: Shape) -> float:
    """2 n^2 m for A (n, n) and m right-hand sides."""
    return 2.0 * a[0] ** 2 * x[1]


def hermitian(a: np.ndarray) -> np.ndarray:
    """The whole of a matrix whose lower triangle is given; the diagonal counts as real."""
    result = np.empty(a.shape, a.dtype)
    whole(a, result)
    return result


def whole(a: np.ndarray, target: np.ndarray) -> None:
    """target := the Hermitian matrix whose lower triangle is that of A."""
    np.copyto(target, np.tril(a, -1))
    target += target.conj().T
    target[np.diag_indices(len(a))] = a.diagonal().real


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
        if row_ld(a):
            for s in range(0, p, STRIP):
                strip, rows = a[s : s + STRIP], slice(s, s + STRIP)
                product(one, one, strip, xj, vi[rows], False)
                product(one, one, strip, xi[rows], vj, True)
        else:
            for s in range(0, q, STRIP):
                strip, rows = a[:, s : s + STRIP], slice(s, s + STRIP)
                product(one, one, strip, xj[rows], vi, False)
                product(one, one, strip, xi, vj[rows], True)

    return hemm


def build_diagonal(library: Library, letter: str) -> Callable[..., None] | None:
    """`hemmd` for BLAS type ``letter`` in "sdcz", or None if the library lacks ?gemm."""
    both, product = build(library, letter), multiply.build(library, letter)
    if both is None or product is None:
        return None
    one = scalar(letter, 1)

    def split(a: np.ndarray, x: np.ndarray, v: np.ndarray) -> None:
        n = len(a)
        if n <= SMALL:
            product(one, one, hermitian(a), x, v, False)
            return
        h = -(-n // (2 * SMALL)) * SMALL
        split(a[:h, :h], x[:h], v[:h])  # V1 := V1 + A11 X1
        both(a[h:, :h], x[h:], x[:h], v[h:], v[:h])  # V2 := V2 + A21 X1, V1 := V1 + A21^H X2
        split(a[h:, h:], x[h:], v[h:])  # V2 := V2 + A22 X2

    def hemmd(a: np.ndarray, x: np.ndarray, v: np.ndarray, whole: bool = False) -> None:
        check("hemmd", a, x, v, False)
        if x.size and whole:
            product(one, one, a, x, v, False)
        elif x.size:
            split(a, x, v)

    return hemmd
