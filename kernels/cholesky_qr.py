"""Q R of a tall matrix by Cholesky factorisation of its Gram matrix, twice: R^H R = A^H A, Q = A R^-1 [1]_.

Tiles of A and Q have all columns of some rows. A matrix n x n that is summed over tiles lies by columns, R by rows.

.. [1] Y. Yamamoto, Y. Nakatsukasa, Y. Yanagisawa and T. Fukaya, Roundoff error analysis of the CholeskyQR2 algorithm,
   ETNA 44 (2015).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from tilewright.kernels import table
from tilewright.kernels.band import times
from tilewright.kernels.lapack import by_columns, lapack, letter

__all__ = ["again", "factor", "gram", "join", "orthogonal", "second_gram"]


def gram(source: np.ndarray, g: np.ndarray) -> None:
    """-A^H A of a tile."""
    _gram(_copied(source, g.dtype), g)


def factor(grams: Sequence[np.ndarray], r: np.ndarray, state: np.ndarray) -> None:
    """R of the sum; how far that is from I, in Frobenius's norm, or infinity if it has no R, which then is I."""
    a = by_columns("cholesky", len(r), len(r), r.dtype)
    with np.errstate(all="ignore"):
        a[...] = 0
        for g in grams:
            a -= g.T
        distance = float(np.linalg.norm(a - np.eye(len(r), dtype=r.dtype)))
    info = lapack(f"{letter(r.dtype)}potrf", b"U", len(r), a, max(len(r), 1)) if np.isfinite(distance) else 1
    state[0] = np.inf if info else distance
    r[...] = np.eye(len(r)) if info else np.triu(a)


def orthogonal(source: np.ndarray, r: np.ndarray, q: np.ndarray, g: np.ndarray) -> None:
    """Q := A R^-1, and -Q^H Q."""
    found = _copied(source, r.dtype)
    _solve(r, found)
    q[...] = found
    _gram(found, g)


def second_gram(source: np.ndarray, r: np.ndarray, g: np.ndarray) -> None:
    """The same, without Q."""
    found = _copied(source, r.dtype)
    _solve(r, found)
    _gram(found, g)


def again(r: np.ndarray, q: np.ndarray) -> None:
    """Q := Q R^-1."""
    found = _copied(q, r.dtype)
    _solve(r, found)
    q[...] = found


def join(
    first: np.ndarray, second: np.ndarray, begun: np.ndarray, ended: np.ndarray, target: np.ndarray, state: np.ndarray
) -> None:
    """R := R_2 R_1, and the distance of what R_1 left from orthonormal columns."""
    product = by_columns("joined", len(first), len(first), first.dtype)
    product[...] = 0
    left, right = (by_columns(("joined", slot), len(first), len(first), first.dtype) for slot in range(2))
    left[...], right[...] = second, first
    times(first.dtype)(left, right, product)
    target[...] = np.triu(-product)
    state[0] = ended[0] if np.isfinite(begun[0]) else np.inf


def _copied(source: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """By columns, in memory of this thread."""
    rows, columns = source.shape
    found = by_columns("tall", rows, columns, dtype)
    np.copyto(found, source)
    return found


def _gram(a: np.ndarray, g: np.ndarray) -> None:
    g[...] = 0
    times(g.dtype)(a, a, g.T, "C")


def _solve(r: np.ndarray, x: np.ndarray) -> None:
    """X := X R^-1, as R^T on X^T, which lies by rows."""
    solve: Callable[..., None] = table.plain("trsolve", str(r.dtype)).function
    with np.errstate(all="ignore"):
        solve(r, x.T, "L", "U", "T")
