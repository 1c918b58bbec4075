"""y := A x with a Hermitian A, which LAPACK calls inside its reductions to tridiagonal form: whether it is sound here.

OpenBLAS 0.3.30 on CPUs without SSE4.2 (its kernels of Core 2 and Prescott) multiplies by zero what earlier calls left
in its workspace: with float32, the lower triangle and order 4 k + 2 or 4 k + 3, finite numbers give NaN after something
was computed that was not finite. All other numbers are right.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from tilewright.kernels import blas
from tilewright.kernels.lapack import plain
from tilewright.kernels.layout import address

__all__ = ["sound"]

_DTYPES = {"s": np.float32, "d": np.float64, "c": np.complex64, "z": np.complex128}
_ROUNDS = 2  # another thread may take the workspace that one call has left before the next


@cache
def sound(kind: str, triangle: bytes = b"L") -> bool:
    """Whether SciPy's ?symv or ?hemv of a letter in "sdcz" keeps finite numbers finite, whatever came before."""
    product = kind + ("symv" if kind in "sd" else "hemv")
    if blas.load("openblas").symbol(product) is None:
        return True  # then nothing calls it

    def finite(order: int, value: float) -> bool:
        a, x, y = (np.full(shape, value, _DTYPES[kind]) for shape in ((order, order), order, order))
        one, zero = np.ones(1, x.dtype), np.zeros(1, x.dtype)
        plain(product, triangle, order, address(one), a, order, x, 1, address(zero), y, 1)
        return bool(np.isfinite(y).all())

    orders = range(1, 8)
    try:
        return all(finite(8, np.nan) or finite(order, 1.0) for _ in range(_ROUNDS) for order in orders)
    finally:
        finite(8, 1.0)  # what is not finite does not stay in the workspace
