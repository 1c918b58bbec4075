"""The reference kernels: plain NumPy and SciPy, complete, and the specification of all others.

They hold the GIL for most of their time and copy where they please. The fast kernels are tested against them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np

__all__ = [
    "gemm",
    "gemml",
    "gemmn",
    "gemmp",
    "getrf",
    "getrfn",
    "hemm",
    "hemmd",
    "lauum",
    "matmul",
    "potrf",
    "rankk",
    "swpgemm",
    "swptrsm",
    "syrk",
    "trmm",
    "trsm",
    "trsml",
    "trsmn",
    "trsmr",
    "trsmu",
    "trsolve",
    "trtri",
]


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


def gemmp(a: np.ndarray, x: np.ndarray, v: np.ndarray) -> None:
    """V := V + A X."""
    v += a @ x


def hemm(a: np.ndarray, xi: np.ndarray, xj: np.ndarray, vi: np.ndarray, vj: np.ndarray) -> None:
    """V_i := V_i + A X_j and V_j := V_j + A^H X_i."""
    vi += a @ xj
    vj += a.conj().T @ xi


def hemmd(a: np.ndarray, f: np.ndarray, x: np.ndarray, v: np.ndarray) -> None:
    """V := V + A X with the Hermitian matrix whose lower triangle is that of A."""
    below = np.tril(a, -1)
    v += below @ x + below.conj().T @ x + a.diagonal().real[:, None] * x


def getrf(tiles: Sequence[np.ndarray], piv: np.ndarray, threshold: float = 1.0) -> None:
    """P A = L U of the tiles below each other; the largest |Re| + |Im| is the pivot, of equal ones the highest.

    With a ``threshold`` below 1 the diagonal, or else the largest of the first tile, is if it is that share of it.
    """
    a = np.concatenate(tiles)
    for j in range(len(piv)):
        size = np.abs(a[j:, j].real) + np.abs(a[j:, j].imag)
        largest = int(np.argmax(size))
        near = int(np.argmax(size[: max(len(tiles[0]) - j, 1)]))
        good = [p for p in (0, near) if threshold < 1 and size[p] >= threshold * size[largest] > 0]
        p = piv[j] = j + (good[0] if good else largest)
        a[[j, p]] = a[[p, j]]
        _eliminate(a, j)
    _put(a, tiles)


def getrfn(a: np.ndarray) -> None:
    """A = L U without pivoting."""
    for j in range(min(a.shape)):
        _eliminate(a, j)


def _eliminate(a: np.ndarray, j: int) -> None:
    if a[j, j] != 0:
        wide = np.result_type(a, np.float64).type
        scale = 2.0**200 if abs(a[j, j]) < 1e-290 else 1.0  # NumPy forms 1/z of a complex z
        a[j + 1 :, j] = (a[j + 1 :, j].astype(wide) * scale / (wide(a[j, j]) * scale)).astype(a.dtype)
    a[j + 1 :, j + 1 :] -= np.outer(a[j + 1 :, j], a[j, j + 1 :])


def _put(a: np.ndarray, tiles: Sequence[np.ndarray]) -> None:
    row = 0
    for tile in tiles:
        tile[...] = a[row : row + len(tile)]
        row += len(tile)


def gemmn(a: np.ndarray, b: np.ndarray, c: np.ndarray, flag: str = "N") -> None:
    """C := C - op(A) B."""
    c -= {"N": a, "T": a.T, "C": a.conj().T}[flag] @ b


def trsmn(t: np.ndarray, x: np.ndarray, part: str = "L", flag: str = "N") -> None:
    """X := op(T)^-1 X, T unit lower or upper."""
    from scipy.linalg import solve_triangular

    k, lower, solve = len(x), part == "L", cast(Any, solve_triangular)
    x[...] = solve(t[:k, :k], x, lower=lower, trans=flag, unit_diagonal=lower, check_finite=False)


def trsmu(u: np.ndarray, a: np.ndarray) -> None:
    """A := A U^-1."""
    from scipy.linalg import solve_triangular

    k = a.shape[1]
    a[...] = solve_triangular(u[:k, :k], a.T, trans="T", check_finite=False).T


def swptrsm(piv: np.ndarray, l: np.ndarray, tiles: Sequence[np.ndarray]) -> None:  # noqa: E741
    """Rows exchanged, then A_k := L_kk^-1 A_k."""
    a = np.concatenate(tiles)
    for t, p in enumerate(piv):
        a[[t, p]] = a[[p, t]]
    _put(a, tiles)
    trsmn(l, tiles[0])


def swpgemm(piv: np.ndarray | Sequence[np.ndarray], panel: Sequence[np.ndarray], tiles: Sequence[np.ndarray]) -> None:
    """The same, and A_i := A_i - L_ik A_k below; of several panels ``panel`` has the tiles row by row."""
    together = 1 if isinstance(piv, np.ndarray) else len(piv)
    tops = np.cumsum([0, *map(len, tiles)])
    rows = piv if isinstance(piv, np.ndarray) else np.concatenate([p + top for p, top in zip(piv, tops, strict=False)])
    beside = [np.concatenate(panel[at : at + together], axis=1) for at in range(0, len(panel), together)]
    a, l, k = np.concatenate(tiles), np.concatenate(beside), len(rows)  # noqa: E741
    for t, p in enumerate(rows):
        a[[t, p]] = a[[p, t]]
    trsmn(l, a[:k])
    gemmn(l[k:], a[:k], a[k:])
    _put(a, tiles)


def _op(a: np.ndarray, flag: str) -> np.ndarray:
    return {"N": a, "T": a.T, "C": a.conj().T}[flag]


def matmul(
    a: np.ndarray, b: np.ndarray, c: np.ndarray, flags: str = "NN", alpha: complex = 1.0, beta: complex = 0.0
) -> None:
    """C := alpha op(A) op(B) + beta C."""
    alpha, beta = c.dtype.type(alpha), c.dtype.type(beta)
    product = alpha * (_op(a, flags[0]) @ _op(b, flags[1]))
    c[...] = product + beta * c if beta else product


def rankk(
    a: np.ndarray,
    c: np.ndarray,
    uplo: str = "L",
    flag: str = "N",
    conj: bool = True,
    alpha: complex = 1.0,
    beta: complex = 0.0,
) -> None:
    """C := alpha op(A) op(A)^H + beta C, or with ^T, on one triangle."""
    turned = "C" if conj else "T"
    whole = c.copy()
    matmul(a, a, whole, "N" + turned if flag == "N" else turned + "N", alpha, beta)
    if conj:
        whole[np.diag_indices(len(c))] = whole.diagonal().real
    lower = np.tri(len(c), dtype=bool)
    np.copyto(c, whole, where=lower if uplo == "L" else lower.T)


def _triangle(t: np.ndarray, uplo: str, diag: str) -> np.ndarray:
    whole = np.tril(t) if uplo == "L" else np.triu(t)
    if diag == "U":
        np.fill_diagonal(whole, 1)
    return whole


def trmm(
    t: np.ndarray,
    x: np.ndarray,
    side: str = "L",
    uplo: str = "L",
    flag: str = "N",
    diag: str = "N",
    alpha: complex = 1.0,
) -> None:
    """X := alpha op(T) X, or alpha X op(T)."""
    whole = _op(_triangle(t, uplo, diag), flag)
    x[...] = x.dtype.type(alpha) * (whole @ x if side == "L" else x @ whole)


def trsolve(
    t: np.ndarray,
    x: np.ndarray,
    side: str = "L",
    uplo: str = "L",
    flag: str = "N",
    diag: str = "N",
    alpha: complex = 1.0,
) -> None:
    """X := alpha op(T)^-1 X, or alpha X op(T)^-1, from op(T)^T X^T."""
    from scipy.linalg import solve_triangular

    whole = _op(_triangle(t, uplo, diag), flag)
    lower = (uplo == "L") == (flag == "N")
    if side == "L":
        found = solve_triangular(whole, x, lower=lower, check_finite=False)
    else:
        found = solve_triangular(whole.T, x.T, lower=not lower, check_finite=False).T
    x[...] = x.dtype.type(alpha) * found


def lauum(t: np.ndarray) -> None:
    """T := T^H T on the lower triangle."""
    lower = np.tril(t)
    np.copyto(t, lower.conj().T @ lower, where=np.tri(len(t), dtype=bool))
