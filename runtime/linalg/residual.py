"""How good a factor is: LAPACK's test ratio."""

from __future__ import annotations

import numpy as np

__all__ = ["THRESHOLD", "cholesky_ratio"]

THRESHOLD = 30.0
"""A ratio below it passes LAPACK's own tests."""

_BLOCK = 512


def cholesky_ratio(a: np.ndarray, factor: np.ndarray, *, lower: bool = True) -> float:
    """The ratio ||A - L L^H||_1 / (n ||A||_1 u) of LAPACK's test program [1]_; for ``lower=False`` with U^H U.

    u is the unit roundoff, half of `numpy.finfo.eps`. Below `THRESHOLD` passes; well below 1 is usual. Only the named
    triangle of ``a`` is read. 2/3 n^3 flops in the factor's precision, O(n) words beside the arrays.

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
    u = np.finfo(L.dtype).eps / 2
    return float(residual.max() / (n * norm.max() * u))


def _add_columns(sums: np.ndarray, block: np.ndarray, i: int) -> None:
    """Add |block|, rows i.. of the lower triangle of a Hermitian matrix, to the column sums of the whole."""
    size = np.abs(block).astype(np.float64)
    diagonal = np.tril(size[:, i:])
    sums[:i] += size[:, :i].sum(axis=0)
    sums[i : i + len(block)] += size[:, :i].sum(axis=1) + diagonal.sum(axis=0) + np.tril(diagonal, -1).sum(axis=1)
