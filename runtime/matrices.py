"""Test matrices: symmetric positive definite ones of any size, cheap to make and the same everywhere."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["random_spd"]


def random_spd(n: int, dtype: Any = np.float64, seed: int = 0) -> np.ndarray:
    """A dense random symmetric or Hermitian positive definite matrix, shape (n, n), C order. O(n^2).

    Off-diagonal entries have mean 0 and variance 1, so the eigenvalues of that part fill [-2 sqrt(n), 2 sqrt(n)] by
    Wigner's semicircle law; the shift 2.2 sqrt(n) + 1 makes the matrix definite with a condition number near 20.
    """
    dtype = np.dtype(dtype)
    generator = np.random.default_rng(seed)
    real = np.float32 if dtype in (np.float32, np.complex64) else np.float64
    a = generator.standard_normal((n, n), dtype=real).astype(dtype, copy=False)
    if dtype.kind == "c":
        a.imag = generator.standard_normal((n, n), dtype=real)
        a *= real(0.5**0.5)
    lower = np.tril(a, -1)
    a = lower + lower.conj().T
    a[np.diag_indices(n)] = 2.2 * n**0.5 + 1
    return a
