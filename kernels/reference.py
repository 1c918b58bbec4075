"""The reference kernels: plain NumPy and SciPy, complete, and the specification of all others.

They hold the GIL for most of their time and copy where they please. The fast kernels are tested against them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["gemm", "gemml", "hemm", "hemmd", "potrf", "syrk", "trsm", "trsml", "trsmr", "trtri"]


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


def trsml(
    t: np.ndarray, x: np.ndarray, adjoint: bool = False, lower: bool = True, unit: bool = False, alpha: float = 1.0
) -> None:
    """X := alpha T^-1 X, or alpha T^-H X."""
    from scipy.linalg import solve_triangular

    trans: Any = "C" if adjoint else "N"
    x[...] = solve_triangular(t, x, lower=lower, trans=trans, unit_diagonal=unit, check_finite=False)
    if alpha != 1:
        x *= alpha


def trsmr(t: np.ndarray, x: np.ndarray, lower: bool = True, unit: bool = False) -> None:
    """X := X T^-1, from T^-T X^T."""
    from scipy.linalg import solve_triangular

    x[...] = solve_triangular(t, x.T, lower=lower, trans="T", unit_diagonal=unit, check_finite=False).T


def trtri(t: np.ndarray, unit: bool = False) -> int:
    """T := T^-1 on the lower triangle; returns LAPACK's info."""
    from scipy.linalg import get_lapack_funcs

    routine: Any = get_lapack_funcs("trtri", [t])
    inverse, info = routine(t, lower=1, unitdiag=int(unit))
    if not info:
        np.copyto(t, inverse, where=np.tri(len(t), dtype=bool))
        if unit:
            np.fill_diagonal(t, 1)
    return int(info)


def gemml(a: np.ndarray, y: np.ndarray, x: np.ndarray, adjoint: bool = False) -> None:
    """X := X - A Y, or X - A^H Y."""
    x -= (a.conj().T if adjoint else a) @ y


def hemm(a: np.ndarray, xi: np.ndarray, xj: np.ndarray, vi: np.ndarray, vj: np.ndarray) -> None:
    """V_i := V_i + A X_j and V_j := V_j + A^H X_i."""
    vi += a @ xj
    vj += a.conj().T @ xi


def hemmd(a: np.ndarray, f: np.ndarray, x: np.ndarray, v: np.ndarray) -> None:
    """V := V + A X with the Hermitian matrix whose lower triangle is that of A."""
    below = np.tril(a, -1)
    v += below @ x + below.conj().T @ x + a.diagonal().real[:, None] * x
