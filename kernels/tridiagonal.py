"""Eigenvalues and eigenvectors of real symmetric tridiagonal matrices, by LAPACK."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tilewright.kernels.band import shifted
from tilewright.kernels.bulge import diagonals
from tilewright.kernels.lapack import lapack, letter

__all__ = ["numbers", "pairs", "solve", "values"]


def values(parts: Sequence[np.ndarray], exponent: np.ndarray, w: np.ndarray, low: int) -> int:
    """Eigenvalues ``low`` and so on, ascending, of a band in parts: see `tilewright.kernels.bulge.diagonals`.

    info > 0 if some were not found.
    """
    d, e = diagonals(np.concatenate(parts))
    found, info = numbers(d, e, low, len(w))
    w[...] = shifted(found, -int(exponent[0]))
    return info


def solve(
    parts: Sequence[np.ndarray], exponent: np.ndarray, w: np.ndarray, columns: Sequence[np.ndarray], low: int
) -> int:
    """The same with eigenvectors, in blocks of columns, of the band that was chased."""
    d, e, phases = _real(parts)
    found, z, info = pairs(d, e, low, len(w))
    w[...] = shifted(found, -int(exponent[0]))
    top = 0
    for block in columns:
        part = z[top : top + len(block)]
        block[...] = part if phases is None else part * phases
        top += len(block)
    return info


def numbers(d: np.ndarray, e: np.ndarray, low: int, k: int) -> tuple[np.ndarray, int]:
    """Eigenvalues ``low`` to ``low`` + k - 1 and info; d and e, as long as d, are used up.

    All by the root-free QL method, some of them by bisection.
    """
    if k < len(d) and len(d) >= 3:
        return _bisected(d, e, low, low + k)
    info = lapack(f"{letter(d.dtype)}sterf", len(d), d, e)
    return d[low : low + k], info


def pairs(d: np.ndarray, e: np.ndarray, low: int, k: int) -> tuple[np.ndarray, np.ndarray, int]:
    """The same with eigenvectors, in rows of the second array.

    By divide and conquer, which finds all of them; a quarter and less by bisection and inverse iteration.
    """
    n = len(d)
    if 4 * k <= n and n >= 3:
        return _some(d, e, low, low + k)
    z = np.zeros((n, n), d.dtype)
    work, whole = np.empty(1 + 4 * n + n * n, d.dtype), np.empty(3 + 5 * n, np.int32)
    info = lapack(f"{letter(d.dtype)}stedc", b"I", n, d, e, z, n, work, len(work), whole, len(whole))
    return d[low : low + k], z[low : low + k], info


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
    """Eigenvalues low to high - 1, ascending [LAPACK ?stebz]."""
    found, _, _, info = _in_blocks(d, e, low, high, b"E")
    return found, info


def _in_blocks(
    d: np.ndarray, e: np.ndarray, low: int, high: int, order: bytes
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """These eigenvalues, the blocks in which they are and where those end."""
    n, kind = len(d), letter(d.dtype)
    found, split = np.empty(n, d.dtype), np.zeros(1, np.int32)
    count, blocks, ends = np.zeros(1, np.int32), np.zeros(n, np.int32), np.zeros(n, np.int32)
    bounds, tolerance = np.zeros(2, d.dtype), np.full(1, 2 * np.finfo(d.dtype).tiny, d.dtype)
    work, whole = np.empty(4 * n, d.dtype), np.empty(3 * n, np.int32)
    info = lapack(
        f"{kind}stebz",
        b"I",
        order,
        n,
        bounds,
        bounds,
        low + 1,
        high,
        tolerance,
        d,
        e,
        count,
        split,
        found,
        blocks,
        ends,
        work,
        whole,
    )
    return found[: high - low], blocks, ends, info if info or count[0] == high - low else 1


def _some(d: np.ndarray, e: np.ndarray, low: int, high: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Eigenpairs low to high - 1, by bisection and inverse iteration [LAPACK ?stein]."""
    n, k, kind = len(d), high - low, letter(d.dtype)
    found, blocks, ends, info = _in_blocks(d, e, low, high, b"B")
    z = np.zeros((k, n), d.dtype)
    if info:
        return found, z, info
    work, whole, failed = np.empty(5 * n, d.dtype), np.empty(n, np.int32), np.empty(k, np.int32)
    info = lapack(f"{kind}stein", n, d, e, k, found, blocks, ends, z, n, work, whole, failed)
    order = np.argsort(found, kind="stable")
    return found[order], z[order], info
