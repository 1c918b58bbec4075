"""The Hermitian eigenproblem in one task: to a tridiagonal matrix by single reflections, and back [LAPACK ?sytrd].

Half of the flops of the reduction are products of the matrix with a vector, which read all of it each time: the way for
matrices that a cache holds. Buffers have matrices by columns, as in `tilewright.kernels.band`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tilewright.kernels import symv
from tilewright.kernels.band import shifted
from tilewright.kernels.lapack import lapack, letter, real_dtype
from tilewright.kernels.scratch import room
from tilewright.kernels.tridiagonal import numbers, pairs

__all__ = ["solve", "values"]

_BLOCK = 64  # words of LAPACK's workspace for a column


def _triangle(kind: str) -> bytes:
    """The one that ?sytrd reads and writes: the lower, but where ?symv is sound for the upper alone."""
    return b"L" if symv.sound(kind) or not symv.sound(kind, b"U") else b"U"


def _reduced(tile: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """What ?sytrd leaves of a copy, d, e and tau."""
    n, dtype = len(tile), tile.dtype
    kind, real = letter(dtype), real_dtype(dtype)
    a, triangle = room("one stage", tile.shape, dtype), _triangle(kind)
    if triangle == b"L":
        np.copyto(a, tile)
    else:
        np.conjugate(tile.T, out=a)
    d, e, tau = np.zeros(n, real), np.zeros(n, real), np.zeros(n, dtype)
    work = np.empty(n * _BLOCK, dtype)
    name = "hetrd" if dtype.kind == "c" else "sytrd"
    lapack(f"{kind}{name}", triangle, n, a, n, d, e, tau, work, len(work))
    return a, d, e, tau


def values(tile: np.ndarray, exponent: np.ndarray, w: np.ndarray, low: int) -> int:
    """Eigenvalues ``low`` and so on, ascending; info > 0 if some were not found."""
    _, d, e, _ = _reduced(tile)
    found, info = numbers(d, e, low, len(w))
    w[...] = shifted(found, -int(exponent[0]))
    return info


def solve(tile: np.ndarray, exponent: np.ndarray, w: np.ndarray, columns: Sequence[np.ndarray], low: int) -> int:
    """The same with eigenvectors, in blocks of columns."""
    a, d, e, tau = _reduced(tile)
    n, k, dtype = len(tile), len(w), tile.dtype
    kind = letter(dtype)
    found, z, info = pairs(d, e, low, k)
    w[...] = shifted(found, -int(exponent[0]))
    x = room("one stage vectors", (k, n), dtype)
    np.copyto(x, z)
    if info == 0 and n > 1:
        name, work = "unmtr" if dtype.kind == "c" else "ormtr", np.empty(max(k, 1) * _BLOCK, dtype)
        lapack(f"{kind}{name}", b"L", _triangle(kind), b"N", n, k, a, n, tau, x, n, work, len(work))
    top = 0
    for block in columns:
        block[...] = x[top : top + len(block)]
        top += len(block)
    return info
