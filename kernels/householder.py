"""Householder's reflections in plain NumPy: the specification of the QR kernels, and what they agree on.

A block of reflections is Q = H_1 H_2 ... H_k = I - V T V^H with V unit lower trapezoidal and T upper triangular, and
H_j = I - tau_j v_j v_j^H [1]_. LAPACK cuts the k reflections into blocks of ``ib`` and keeps the triangles beside each
other, (ib, k). Kernels take any T of at least that size, and as many rows of it as there can be reflections.

.. [1] R. Schreiber and C. van Loan, A storage-efficient WY representation for products of Householder transformations,
   SISSC 10 (1989); LAPACK ?geqrt, ?tpqrt.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from tilewright.kernels.columns import column_ld
from tilewright.kernels.scratch import room

__all__ = [
    "across",
    "by_columns",
    "corner",
    "geqrf",
    "geqrt",
    "larfb",
    "put_back",
    "reflection",
    "stand_alone",
    "tsmqr",
    "tsqrt",
    "ttmqr",
    "ttqrt",
    "turned",
    "unmqr",
]


def turned(t: Any) -> Any:
    """The transpose of an array, or of a shape."""
    return t[::-1] if isinstance(t, tuple) else t.T


def corner(t: np.ndarray, k: int) -> np.ndarray:
    """What k reflections need of a T. ValueError if it is smaller."""
    found = t[:k, :k]
    if found.shape[1] != k or (k and not len(found)):
        raise ValueError(f"T {t.shape} is too small for {k} reflections")
    return found


def by_columns(tile: np.ndarray, slot: str) -> np.ndarray:
    """The tile where LAPACK can take it, else a copy in memory of this thread: see `tilewright.kernels.scratch`."""
    if column_ld(tile):
        return tile
    copy = room(("by columns", slot), tile.shape[::-1], tile.dtype).T
    np.copyto(copy, tile)
    return copy


def put_back(worked: np.ndarray, tile: np.ndarray) -> None:
    """Copy what `by_columns` made back, if it was a copy."""
    if worked is not tile:
        np.copyto(tile, worked)


# ------------------------------------------------------------------ the reference


def reflection(alpha: Any, x: np.ndarray) -> tuple[Any, Any, np.ndarray]:
    """(beta, tau, v): H^H (alpha, x) = (beta, 0) with H = I - tau (1, v) (1, v)^H, beta real [LAPACK ?larfg]."""
    top = float(max(np.abs(x).max(initial=0), abs(alpha)))
    below = top * float(np.linalg.norm(x / top)) if top else 0.0
    if not below and not np.imag(alpha):
        return alpha, alpha.dtype.type(0), np.zeros_like(x)
    size = float(np.hypot(abs(alpha), below))
    beta = -size if alpha.real >= 0 else size
    tau = (beta - alpha) / beta
    return alpha.dtype.type(beta), alpha.dtype.type(tau), (x / (alpha - alpha.dtype.type(beta))).astype(x.dtype)


def _blocks(k: int, ib: int) -> Iterator[slice]:
    return (slice(start, min(start + ib, k)) for start in range(0, k, max(ib, 1)))


def _triangle(v: np.ndarray, taus: Sequence[Any], t: np.ndarray) -> None:
    """T of some reflections, whose vectors stand in full in ``v``."""
    for j, tau in enumerate(taus):
        t[j, j] = tau
        t[:j, j] = -tau * (np.triu(t[:j, :j]) @ (v[:, :j].conj().T @ v[:, j]))


def geqrt(a: np.ndarray, t: np.ndarray, v: np.ndarray | None = None) -> None:
    """A = Q R: R on and above the diagonal, V below it; ``v`` gets a turned copy of both."""
    m, k = a.shape[0], min(a.shape)
    t = corner(t, k)
    taus = []
    for j in range(k):
        a[j, j], tau, a[j + 1 :, j] = reflection(a[j, j], a[j + 1 :, j])
        full = np.concatenate([np.ones(1, a.dtype), a[j + 1 :, j]])
        a[j:, j + 1 :] -= np.conj(tau) * np.outer(full, full.conj() @ a[j:, j + 1 :])
        taus.append(tau)
    whole = np.tril(a[:, :k], -1) + np.eye(m, k, dtype=a.dtype)
    for block in _blocks(k, len(t)):
        _triangle(whole[:, block], taus[block], t[: block.stop - block.start, block])
    if v is not None:
        np.copyto(v.T, a)


def unmqr(v: np.ndarray, t: np.ndarray, c: np.ndarray, flag: str = "C", turn: bool = False) -> None:
    """C := Q^H C, or with ``flag`` "N" Q C; ``turn`` says that V is turned."""
    v = v.T if turn else v
    k = min(v.shape)
    t = corner(t, k)
    whole = np.tril(v[:, :k], -1) + np.eye(len(v), k, dtype=v.dtype)
    blocks = list(_blocks(k, len(t)))
    for block in blocks if flag == "C" else reversed(blocks):
        part, triangle = whole[:, block], t[: block.stop - block.start, block]
        triangle = np.triu(triangle)
        c -= part @ ((triangle.conj().T if flag == "C" else triangle) @ (part.conj().T @ c))


def _pentagon(n: int, b: np.ndarray, triangle: bool) -> np.ndarray:
    """The rows of B that count: all, or those of a triangle."""
    return b[: min(len(b), n)] if triangle else b


def _qrt(a: np.ndarray, b: np.ndarray, t: np.ndarray, triangle: bool) -> None:
    """R below R, or B below R: the upper triangle of A becomes the new R, B the vectors."""
    n = a.shape[1]
    b, t = _pentagon(n, b, triangle), corner(t, n)
    taus = []
    for j in range(n):
        rows = min(j + 1, len(b)) if triangle else len(b)
        a[j, j], tau, b[:rows, j] = reflection(a[j, j], b[:rows, j])
        update = np.conj(tau) * (a[j, j + 1 :] + b[:rows, j].conj() @ b[:rows, j + 1 :])
        a[j, j + 1 :] -= update
        b[:rows, j + 1 :] -= np.outer(b[:rows, j], update)
        taus.append(tau)
    below = np.triu(b) if triangle else b
    whole = np.concatenate([np.eye(n, dtype=a.dtype), below])
    for block in _blocks(n, len(t)):
        _triangle(whole[:, block], taus[block], t[: block.stop - block.start, block])


def _mqr(v: np.ndarray, t: np.ndarray, a: np.ndarray, b: np.ndarray, flag: str, triangle: bool) -> None:
    """(A, B) := Q^H (A, B) or Q (A, B), of the first rows of A, as many as there are reflections."""
    k = v.shape[1]
    v, b, t = _pentagon(k, v, triangle), _pentagon(k, b, triangle), corner(t, k)
    v = np.triu(v) if triangle else v
    blocks = list(_blocks(k, len(t)))
    for block in blocks if flag == "C" else reversed(blocks):
        part, top, factor = v[:, block], a[block], np.triu(t[: block.stop - block.start, block])
        update = (factor.conj().T if flag == "C" else factor) @ (top + part.conj().T @ b)
        top -= update
        b -= part @ update


def tsqrt(a: np.ndarray, b: np.ndarray, t: np.ndarray) -> None:
    """A triangle on a square."""
    _qrt(a, b, t, False)


def ttqrt(a: np.ndarray, b: np.ndarray, t: np.ndarray) -> None:
    """A triangle on a triangle."""
    _qrt(a, b, t, True)


def tsmqr(v: np.ndarray, t: np.ndarray, a: np.ndarray, b: np.ndarray, flag: str = "C") -> None:
    """What `tsqrt` did to two tiles, done to two others."""
    _mqr(v, t, a, b, flag, False)


def ttmqr(v: np.ndarray, t: np.ndarray, a: np.ndarray, b: np.ndarray, flag: str = "C") -> None:
    """What `ttqrt` did to two tiles, done to two others."""
    _mqr(v, t, a, b, flag, True)


def geqrf(tiles: Sequence[np.ndarray], t: np.ndarray, r: np.ndarray | None = None) -> None:
    """`geqrt` of the tiles below each other, with T in one block; with ``r`` see `stand_alone`."""
    strip = np.concatenate(tiles)
    t[...] = 0
    geqrt(strip, t)
    if r is not None:
        stand_alone(strip, r)
    _put(strip, tiles)


def stand_alone(strip: np.ndarray, r: np.ndarray) -> None:
    """Move R, (k, n), out of a factored strip, so that the reflections stand there with their ones and zeros."""
    k = min(strip.shape)
    corner = strip[:k, :k]
    np.copyto(r[:k], strip[:k])
    for j in range(k):
        r[j + 1 : k, j] = 0
        corner[:j, j] = 0
        corner[j, j] = 1


def larfb(
    panel: Sequence[np.ndarray], t: np.ndarray, tiles: Sequence[np.ndarray], flag: str = "C", full: bool = False
) -> None:
    """C := Q^H C or Q C with what `geqrf` made, all of T; C in rows of tiles like the panel, of one tile or more.

    ``full`` says that the reflections stand in the panel with their ones and zeros.
    """
    wide = across(panel, tiles)
    v = np.concatenate(panel)
    strip = np.block([list(tiles[at : at + wide]) for at in range(0, len(tiles), wide)])
    k = min(v.shape)
    v = v[:, :k] if full else np.tril(v[:, :k], -1) + np.eye(len(v), k, dtype=v.dtype)
    t = t[:k, :k].conj().T if flag == "C" else t[:k, :k]
    strip -= v @ (t @ (v.conj().T @ strip))
    left = 0
    for column in range(wide):
        width = tiles[column].shape[1]
        _put(strip[:, left : left + width], tiles[column::wide])
        left += width


def across(panel: Sequence[Any], tiles: Sequence[Any]) -> int:
    """How many tiles, or shapes, are beside each other in each of as many rows as the panel has.

    ValueError if rows do not fit.
    """
    rows = [getattr(tile, "shape", tile)[0] for tile in panel]
    wide, rest = divmod(len(tiles), max(len(rows), 1))
    other = [getattr(tile, "shape", tile)[0] for tile in tiles[:: max(wide, 1)]]
    if rest or rows != other:
        raise ValueError(f"larfb: a panel of {rows} rows and tiles of {other} rows do not fit Q C")
    return wide


def _put(strip: np.ndarray, tiles: Sequence[np.ndarray]) -> None:
    row = 0
    for tile in tiles:
        tile[...] = strip[row : row + len(tile)]
        row += len(tile)
