"""From a full Hermitian matrix to a band, by panels: A := Q^H A Q with Q = I - V T V^H [1]_.

Buffers have matrices by columns: the array of an m x n matrix has shape (n, m). A tile on the diagonal has both
triangles. In a panel of w columns V is m x w, unit lower trapezoidal, and in parts by tile rows, as is all that has
rows of the matrix; Y = -A V::

    W = A V T - V T^H (V^H A V) T / 2        A := A - V W^H - W V^H

.. [1] LAPACK ?sytrd_sy2sb; PLASMA pzhe2hb.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from tilewright.kernels import table
from tilewright.kernels.lapack import by_columns, lapack, letter
from tilewright.kernels.scratch import room

__all__ = [
    "back",
    "factor",
    "fill",
    "join",
    "largest",
    "middle",
    "panel",
    "product",
    "scale",
    "shifted",
    "times",
    "update",
]


def times(dtype: np.dtype) -> Callable[..., None]:
    """times(A, B, C, flag): C := C - op(A) B, with the same bits wherever they lie."""
    found: Callable[..., None] = table.plain("gemmn", str(dtype)).function
    return found


# ------------------------------------------------------------------ what comes in


def largest(tile: np.ndarray, found: np.ndarray, diagonal: bool, check: bool) -> int:
    """The largest absolute value, on the diagonal of the lower triangle; info 1 for a NaN or infinity."""
    read = np.tril(tile) if diagonal else tile
    with np.errstate(all="ignore"):
        parts = (read.real, read.imag) if read.dtype.kind == "c" else (read,)
        tops = [bound for part in parts for bound in (part.max(initial=0), -part.min(initial=0))]
        top = float(np.max(tops))  # NaN if there is one
    found[0] = top
    return int(check and not np.isfinite(top))


def scale(tops: Sequence[np.ndarray], exponent: np.ndarray, dtype: str) -> None:
    """The power of two by which entries are neither too large nor too small to be squared [LAPACK ?syev]."""
    information = np.finfo(dtype)
    top = max(float(found[0]) for found in tops)
    small = float(np.sqrt(float(information.tiny) / float(information.eps)))
    exponent[0] = 0 if not np.isfinite(top) or top == 0 or small < top < 1 / small else -np.frexp(top)[1]


def shifted(x: np.ndarray, exponent: int) -> np.ndarray:
    """x 2^exponent, also where that power is no number of its dtype."""
    half = exponent // 2
    kind = x.real.dtype.type
    with np.errstate(all="ignore"):
        return x if not exponent else np.asarray(x * kind(2.0**half) * kind(2.0 ** (exponent - half)))


def fill(source: np.ndarray, exponent: np.ndarray, tile: np.ndarray, diagonal: bool, conjugate: bool) -> None:
    """A tile by columns, scaled; of one on the diagonal both triangles from the lower one."""
    read = shifted(source.conj() if conjugate else source, int(exponent[0]))
    if diagonal:
        lower = np.tril(read, -1)
        read = lower + lower.conj().T + np.diag(read.diagonal().real)
    tile.T[...] = read


# ------------------------------------------------------------------ one panel


def factor(strip: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Q R of a matrix by columns in memory of its own: R in its place, zeros below; T by columns; returns V^T."""
    m, n = strip.shape
    k, kind = min(m, n), letter(strip.dtype)
    inner = by_columns("factor T", k, k, strip.dtype)
    inner[...] = 0
    lapack(f"{kind}geqrt", m, n, k, strip, m, inner, max(k, 1), np.empty(max(k * n, 1), strip.dtype))
    v = room("factor", (k, m), strip.dtype)
    np.copyto(v, np.triu(strip.T[:k], 1))
    np.einsum("ii->i", v[:, :k])[...] = 1
    t[...] = inner.T
    strip[...] = np.triu(strip)
    return v


def panel(
    tiles: Sequence[np.ndarray], parts: Sequence[np.ndarray], t: np.ndarray, row: int, column: int, width: int
) -> None:
    """Q R of ``width`` columns of a block column, from ``row`` of its first tile here on; V in parts, and T."""
    columns = [tile.T[row if not i else 0 :, column : column + width] for i, tile in enumerate(tiles)]
    strip = by_columns("strip", sum(map(len, columns)), width, t.dtype)
    np.concatenate(columns, out=strip)
    v = factor(strip, t)
    top = 0
    for target, part in zip(columns, parts, strict=True):
        rows = slice(top, top + len(target))
        target[...], part[...] = strip[rows], v[:, rows]
        top += len(target)


def product(tiles: Sequence[np.ndarray], parts: Sequence[np.ndarray], y: np.ndarray, place: int, row: int) -> None:
    """A block row of Y = -A V: tiles up to the one at ``place``, on the diagonal, then those below it, to be turned.

    The matrix begins at ``row`` of the first tile row and column.
    """
    y[...] = 0
    minus = times(y.dtype)
    top = 0 if place else row
    for j, (tile, part) in enumerate(zip(tiles, parts, strict=True)):
        if j <= place:
            minus(tile.T[top:, 0 if j else row :], part.T, y.T, "N")
        else:
            minus(tile.T[:, top:], part.T, y.T, "C")


def middle(parts: Sequence[np.ndarray], products: Sequence[np.ndarray], t: np.ndarray, s: np.ndarray) -> None:
    """T^H (V^H A V) T / 2."""
    minus = times(t.dtype)
    inner, right = (room(("middle", slot), t.shape, t.dtype) for slot in range(2))
    inner[...], right[...], s[...] = 0, 0, 0
    for part, y in zip(parts, products, strict=True):
        minus(part.T, y.T, inner.T, "C")
    minus(inner.T, t.T, right.T)
    minus(t.T, right.T, s.T, "C")
    s *= s.real.dtype.type(0.5)


def join(part: np.ndarray, y: np.ndarray, t: np.ndarray, s: np.ndarray, both: np.ndarray, turned: np.ndarray) -> None:
    """A part of V and W beside each other, and W^H and V^H below each other."""
    k = len(t)
    minus = times(t.dtype)
    both[:k], both[k:] = part, 0
    minus(y.T, t.T, both[k:].T)
    minus(part.T, s.T, both[k:].T)
    np.conjugate(both[k:].T, out=turned[:, :k])
    np.conjugate(part.T, out=turned[:, k:])


def update(down: np.ndarray, along: np.ndarray, tile: np.ndarray, row: int, column: int) -> None:
    """A_ij := A_ij - V_i W_j^H - W_i V_j^H, from ``row`` and ``column`` of the tile on."""
    times(tile.dtype)(down.T, along.T, tile.T[row:, column:])


# ------------------------------------------------------------------ back


def back(parts: Sequence[np.ndarray], t: np.ndarray, x: np.ndarray, row: int) -> None:
    """X := Q X from ``row`` on, for a block of columns."""
    minus = times(x.dtype)
    k, columns = len(t), len(x)
    first, second = (room(("back", slot), (columns, k), x.dtype) for slot in range(2))
    first[...], second[...] = 0, 0
    tops = row + np.cumsum([0, *(part.shape[1] for part in parts)])
    rows = [x.T[top:end] for top, end in zip(tops[:-1].tolist(), tops[1:].tolist(), strict=True)]
    for part, target in zip(parts, rows, strict=True):
        minus(part.T, target, first.T, "C")  # -V^H X
    minus(t.T, first.T, second.T)  # T V^H X
    for part, target in zip(parts, rows, strict=True):
        minus(part.T, second.T, target)
