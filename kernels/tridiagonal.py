"""Eigenvalues and eigenvectors of real symmetric tridiagonal matrices, by LAPACK."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tilewright.kernels.band import shifted
from tilewright.kernels.lapack import lapack, letter

__all__ = ["solve", "values"]


def values(parts: Sequence[np.ndarray], exponent: np.ndarray, w: np.ndarray, low: int) -> int:
    """Eigenvalues ``low`` and so on, ascending, of the band that was chased; info > 0 if some were not found.

    All by the root-free QL method, some of them by bisection.
    """
    d, e, _ = _real(parts)
    kind = letter(d.dtype)
    if len(w) == len(d) or len(d) < 3:
        info = lapack(f"{kind}sterf", len(d), d, e)
        found = d[low : low + len(w)]
    else:
        found, info = _bisected(d, e, low, low + len(w))
    w[...] = shifted(found, -int(exponent[0]))
    return info


def solve(
    parts: Sequence[np.ndarray], exponent: np.ndarray, w: np.ndarray, columns: Sequence[np.ndarray], low: int
) -> int:
    """The same with eigenvectors, in blocks of columns: all by divide and conquer, some by relatively robust forms."""
    d, e, phases = _real(parts)
    n, k = len(d), len(w)
    kind = letter(d.dtype)
    if k == n:
        z = np.zeros((n, n), d.dtype)
        work, whole = np.empty(1 + 4 * n + n * n, d.dtype), np.empty(3 + 5 * n, np.int32)
        info = lapack(f"{kind}stedc", b"I", n, d, e, z, n, work, len(work), whole, len(whole))
        found = d
    else:
        found, z, info = _some(d, e, low, low + k)
    w[...] = shifted(found, -int(exponent[0]))
    top = 0
    for block in columns:
        part = z[top : top + len(block)]
        block[...] = part if phases is None else part * phases
        top += len(block)
    return info


def _real(parts: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Diagonals d, e >= 0 or real, and the phases p with T = diag(p) T' diag(p)^H, T' real."""
    d = np.concatenate([part[:, 0].real for part in parts])
    below = np.concatenate([part[:, 1] for part in parts])[: max(len(d) - 1, 0)]
    if below.dtype.kind != "c":
        return d, np.append(below, d.dtype.type(0)), None
    with np.errstate(all="ignore"):
        e = np.abs(below)
        turns = np.where(e == 0, 1, below / np.where(e == 0, 1, e))
        phases = np.concatenate([np.ones(min(len(d), 1), below.dtype), np.cumprod(turns)])
        phases /= np.abs(phases)
    return d, np.append(e, e.dtype.type(0)), phases.astype(below.dtype)


def _bisected(d: np.ndarray, e: np.ndarray, low: int, high: int) -> tuple[np.ndarray, int]:
    """Eigenvalues low to high - 1 [LAPACK ?stebz]."""
    n, kind = len(d), letter(d.dtype)
    found, split = np.empty(n, d.dtype), np.zeros(1, np.int32)
    count, blocks, starts = np.zeros(1, np.int32), np.empty(n, np.int32), np.empty(n, np.int32)
    bounds, tolerance = np.zeros(2, d.dtype), np.full(1, 2 * np.finfo(d.dtype).tiny, d.dtype)
    work, whole = np.empty(4 * n, d.dtype), np.empty(3 * n, np.int32)
    info = lapack(f"{kind}stebz", b"I", b"E", n, bounds, bounds, low + 1, high, tolerance, d, e, count, split, found,
                  blocks, starts, work, whole)  # fmt: skip
    return found[: high - low], info


def _some(d: np.ndarray, e: np.ndarray, low: int, high: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Eigenpairs low to high - 1 [LAPACK ?stemr]."""
    n, k, kind = len(d), high - low, letter(d.dtype)
    found, z = np.empty(n, d.dtype), np.zeros((k, n), d.dtype)
    count, support, accurate = np.zeros(1, np.int32), np.empty(2 * max(k, 1), np.int32), np.ones(1, np.int32)
    bounds, work, whole = np.zeros(2, d.dtype), np.empty(18 * n, d.dtype), np.empty(10 * n, np.int32)
    info = lapack(f"{kind}stemr", b"V", b"I", n, d, e, bounds, bounds, low + 1, high, count, found, z, n, k, support,
                  accurate, work, len(work), whole, len(whole))  # fmt: skip
    return found[:k], z, info
