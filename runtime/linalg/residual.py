"""How good is a factor? LAPACK's test ratio, and a cheap check for matrices too large for it."""

from __future__ import annotations

import numpy as np

__all__ = ["THRESHOLD", "cholesky_ratio", "cholesky_ratio_by_products", "unit_roundoff"]

THRESHOLD = 30.0
"""A ratio below it passes LAPACK's own tests."""

_BLOCK = 512


def unit_roundoff(dtype: np.dtype) -> float:
    """u, half the distance from 1 to the next number: 2^-53 for float64. LAPACK's `?lamch('E')`."""
    return float(np.finfo(dtype).eps) / 2


def cholesky_ratio(a: np.ndarray, factor: np.ndarray, *, lower: bool = True, u: float | None = None) -> float:
    """The ratio ||A - L L^H||_1 / (n ||A||_1 u) of LAPACK's test program [1]_; for ``lower=False`` with U^H U.

    ``u`` is the unit roundoff, by default that of the factor's dtype: half of `numpy.finfo.eps`. Below `THRESHOLD`
    passes; well below 1 is usual. Only the named triangle of ``a`` is read. 2/3 n^3 flops in the factor's precision,
    O(n) words beside the arrays.

    References
    ----------
    .. [1] LAPACK, TESTING/LIN/dpot01.f.

    Examples
    --------
    >>> import numpy as np
    >>> cholesky_ratio(np.array([[4.0, 2.0], [2.0, 5.0]]), np.array([[2.0, 0.0], [1.0, 2.0]]))
    0.0
    """
    n = len(a)
    if n == 0:
        return 0.0
    A, L = (a, factor) if lower else (a.T, factor.T)  # the lower factor of A^T is U^T
    norm, residual = np.zeros(n), np.zeros(n)  # column sums of |A| and |A - L L^H|
    for i in range(0, n, _BLOCK):
        end = min(i + _BLOCK, n)
        rows = L[i:end, :end]
        block = np.array(A[i:end, :end], dtype=L.dtype)
        _add_columns(norm, block, i)
        _add_columns(residual, block - rows @ L[:end, :end].conj().T, i)
    return _ratio(residual, n, norm, unit_roundoff(L.dtype) if u is None else u)


def cholesky_ratio_by_products(a: np.ndarray, factor: np.ndarray, *, lower: bool = True, vectors: int = 3) -> float:
    """max ||A x - L (L^H x)||_1 / (n ||A||_1 ||x||_1 u) over random vectors x. O(n^2).

    For any x this is at most `cholesky_ratio`, as ||R x||_1 <= ||R||_1 ||x||_1; a factor with one wrong tile gives
    a residual R that no random x hides.
    """
    n = len(a)
    if n == 0:
        return 0.0
    x = np.random.default_rng(0).standard_normal((n, vectors)).astype(factor.dtype)
    triangle = np.tril(a, -1) if lower else np.triu(a, 1)
    diagonal = np.diagonal(a).real
    product = triangle @ x + triangle.conj().T @ x + diagonal[:, None] * x
    back = factor @ (factor.conj().T @ x) if lower else factor.conj().T @ (factor @ x)
    size = np.abs(triangle)
    norm = size.sum(axis=0) + size.sum(axis=1) + np.abs(diagonal)
    errors = np.abs(product - back).sum(axis=0) / np.abs(x).sum(axis=0)
    return _ratio(errors, n, norm, unit_roundoff(factor.dtype))


def _ratio(error: np.ndarray, n: int, norm: np.ndarray, u: float) -> float:
    """max error / (n max norm u); the error itself for the matrix of zeros, which has no scale."""
    scale = n * float(norm.max()) * u
    return float(error.max()) / (scale or 1.0)


def _add_columns(sums: np.ndarray, block: np.ndarray, i: int) -> None:
    """Add |block|, rows i.. of the lower triangle of a Hermitian matrix, to the column sums of the whole."""
    size = np.abs(block).astype(np.float64)
    diagonal = np.tril(size[:, i:])
    sums[:i] += size[:, :i].sum(axis=0)
    sums[i : i + len(block)] += size[:, :i].sum(axis=1) + diagonal.sum(axis=0) + np.tril(diagonal, -1).sum(axis=1)
