"""The reference kernels: plain NumPy and SciPy, complete, and the specification of all others.

They hold the GIL for most of their time and copy where they please. The fast kernels are tested against them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["gemm", "potrf", "syrk", "trsm"]


def potrf(a: np.ndarray) -> int:
    """A := L with A = L L^H on the lower triangle; returns LAPACK's info."""
    from scipy.linalg import get_lapack_funcs

    routine: Any = get_lapack_funcs("potrf", [a])
    factor, info = routine(a, lower=1, clean=0)
    lower = np.tri(len(a), dtype=bool)
    a[lower] = factor[lower]
    return int(info)


def trsm(l: np.ndarray, a: np.ndarray) -> None:  # noqa: E741
    """A := A L^-H, from L^-1 A^H."""
    from scipy.linalg import solve_triangular

    a[...] = solve_triangular(l, a.conj().T, lower=True, check_finite=False).conj().T


def syrk(a: np.ndarray, c: np.ndarray) -> None:
    """C := C - A A^H on the lower triangle."""
    lower = np.tri(len(c), dtype=bool)
    c[lower] -= (a @ a.conj().T)[lower]


def gemm(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> None:
    """C := C - A B^H."""
    c -= a @ b.conj().T
