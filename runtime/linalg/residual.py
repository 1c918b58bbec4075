"""How good is a factor? LAPACK's test ratio, and a cheap check for matrices too large for it."""

from __future__ import annotations

import numpy as np

__all__ = ["cholesky_ratio", "cholesky_ratio_by_products", "unit_roundoff"]


def unit_roundoff(dtype: np.dtype) -> float:
    """u, half the distance from 1 to the next number: 2^-53 for float64. LAPACK's `?lamch('E')`."""
    return float(np.finfo(dtype).eps) / 2


def cholesky_ratio(a: np.ndarray, factor: np.ndarray, *, lower: bool = True) -> float:
    """||A - L L^H||_1 / (n ||A||_1 u); LAPACK passes a factor below 30 [LAPACK TESTING/LIN/dpot01.f].

    Only the triangle of ``a`` that was factored is referenced. 2 n^3 flops, three matrices of workspace.
    """
    n = len(a)
    if n == 0:
        return 0.0
    matrix = _hermitian(a, lower)
    residual = matrix - (factor @ factor.conj().T if lower else factor.conj().T @ factor)
    norm = float(np.linalg.norm(matrix, 1))
    return float(np.linalg.norm(residual, 1)) / (n * norm * unit_roundoff(factor.dtype)) if norm else 0.0


def cholesky_ratio_by_products(a: np.ndarray, factor: np.ndarray, *, lower: bool = True, vectors: int = 3) -> float:
    """max ||A x - L (L^H x)||_1 / (n ||A||_1 ||x||_1 u) over random vectors x. O(n^2).

    For any x this is at most `cholesky_ratio`, as ||R x||_1 <= ||R||_1 ||x||_1; a factor with one wrong tile gives
    a residual R that no random x hides.
    """
    n = len(a)
    x = np.random.default_rng(0).standard_normal((n, vectors)).astype(factor.dtype)
    triangle = np.tril(a) if lower else np.triu(a)
    product = triangle @ x + triangle.conj().T @ x - np.diagonal(a).real[:, None] * x
    back = factor @ (factor.conj().T @ x) if lower else factor.conj().T @ (factor @ x)
    norm = float(np.linalg.norm(a, 1))
    errors = np.abs(product - back).sum(axis=0) / np.abs(x).sum(axis=0)
    return float(errors.max()) / (n * norm * unit_roundoff(factor.dtype))


def _hermitian(a: np.ndarray, lower: bool) -> np.ndarray:
    """The whole matrix, from one triangle; the diagonal of a Hermitian matrix is real."""
    triangle = np.tril(a, -1) if lower else np.triu(a, 1)
    return triangle + triangle.conj().T + np.diag(np.diagonal(a).real)
