"""From a general matrix to a band, by panels from the left and from the right: A := Q^H A P [1]_.

Buffers have matrices by columns, as in `tilewright.kernels.band`. The band has the diagonal and b diagonals above it.
Rotations make it bidiagonal [LAPACK ?gbbrd], of which the singular values are found without any square [?bdsqr].

.. [1] PLASMA pzgebrd_ge2gb.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tilewright.kernels.band import factor, shifted, times
from tilewright.kernels.lapack import by_columns, lapack, letter, real_dtype
from tilewright.kernels.scratch import room
from tilewright.kernels.sketch import small_svd

__all__ = ["dense", "from_left", "from_right", "gather", "row_panel", "store", "take", "values"]


def take(source: np.ndarray, exponent: np.ndarray, tile: np.ndarray, adjoint: bool) -> None:
    """A tile by columns, scaled, or its conjugate transpose."""
    tile.T[...] = shifted(source.conj().T if adjoint else source, int(exponent[0]))


def row_panel(
    tiles: Sequence[np.ndarray], parts: Sequence[np.ndarray], t: np.ndarray, row: int, column: int, width: int
) -> None:
    """L Q of ``width`` rows of a block row, from ``column`` of its first tile here on; V in parts, and T."""
    rows = [tile.T[row : row + width, column if not j else 0 :] for j, tile in enumerate(tiles)]
    strip = by_columns("strip", sum(part.shape[1] for part in rows), width, t.dtype)
    np.concatenate([part.conj().T for part in rows], out=strip)
    v = factor(strip, t)
    left = 0
    for target, part in zip(rows, parts, strict=True):
        span = slice(left, left + target.shape[1])
        target[...], part[...] = strip[span].conj().T, v[:, span]
        left = span.stop


def from_left(parts: Sequence[np.ndarray], t: np.ndarray, tiles: Sequence[np.ndarray], row: int, column: int) -> None:
    """A := (I - V T V^H)^H A for a block column from ``row`` of its first tile and ``column`` on."""
    targets = [tile.T[row if not i else 0 :, column:] for i, tile in enumerate(tiles)]
    minus, shape = times(t.dtype), (targets[0].shape[1], len(t))
    first, second = (room(("left", slot), shape, t.dtype) for slot in range(2))
    first[...], second[...] = 0, 0
    for part, target in zip(parts, targets, strict=True):
        minus(part.T, target, first.T, "C")  # -V^H A
    minus(t.T, first.T, second.T, "C")  # T^H V^H A
    for part, target in zip(parts, targets, strict=True):
        minus(part.T, second.T, target)


def from_right(parts: Sequence[np.ndarray], t: np.ndarray, tiles: Sequence[np.ndarray], row: int, column: int) -> None:
    """A := A (I - V T V^H) for a block row from ``row`` and from ``column`` of its first tile on."""
    targets = [tile.T[row:, column if not j else 0 :] for j, tile in enumerate(tiles)]
    minus, shape = times(t.dtype), (len(t), len(targets[0]))
    first, second = (room(("right", slot), shape, t.dtype) for slot in range(2))
    first[...], second[...] = 0, 0
    for part, target in zip(parts, targets, strict=True):
        minus(target, part.T, first.T)  # -A V
    minus(first.T, t.T, second.T)  # A V T
    for part, target in zip(parts, targets, strict=True):
        adjoint = by_columns("right V", len(t), part.shape[1], t.dtype)
        np.conjugate(part, out=adjoint)
        minus(second.T, adjoint, target)


def gather(
    tiles: Sequence[np.ndarray], band: np.ndarray, places: tuple[tuple[int, int], ...], first: int, b: int
) -> None:
    """Columns of the band, from ``first`` on, as LAPACK has upper bands; ``places`` has where the tiles begin."""
    band[...] = 0
    for tile, (row, column) in zip(tiles, places, strict=True):
        width, height = tile.shape
        for j in range(max(first, column), min(first + len(band), column + width)):
            low, high = max(j - b, row), min(j + 1, row + height)
            if low < high:
                band[j - first, low - j + b : high - j + b] = tile[j - column, low - row : high - row]


def values(parts: Sequence[np.ndarray], exponent: np.ndarray, s: np.ndarray) -> int:
    """Singular values, descending, of a band in parts; info > 0 if some were not found."""
    count, width = sum(map(len, parts)), parts[0].shape[1]
    kind, real, dtype = letter(parts[0].dtype), real_dtype(parts[0].dtype), parts[0].dtype
    band = by_columns("band", width, count, dtype)
    np.concatenate(parts, out=band.T)
    d, e, one = np.zeros(count, real), np.zeros(count, real), np.zeros(1, dtype)
    space = (
        [np.zeros(max(count, 1), dtype), np.zeros(max(count, 1), real)]
        if dtype.kind == "c"
        else [np.zeros(2 * count + 1, dtype)]
    )
    none = [one, 1] * 3
    lapack(f"{kind}gbbrd", b"N", count, count, 0, 0, width - 1, band, width, d, e, *none, *space)
    kind, unused = letter(d.dtype), [np.zeros(1, real), 1] * 3
    info = lapack(f"{kind}bdsqr", b"U", count, 0, 0, 0, d, e, *unused, np.zeros(4 * count + 1, real))
    s[...] = shifted(d, -int(exponent[0]))
    return info


def dense(
    tiles: Sequence[np.ndarray],
    exponent: np.ndarray,
    s: np.ndarray,
    left: Sequence[np.ndarray],
    right: Sequence[np.ndarray],
    places: tuple[tuple[int, int], ...],
    shape: tuple[int, int],
) -> int:
    """All of U diag(s) V^H in one task: blocks of columns of U, with zeros or ones below, and of V^H."""
    whole = np.zeros(shape[::-1], tiles[0].dtype).T
    for tile, (row, column) in zip(tiles, places, strict=True):
        part = tile.T[: shape[0] - row]
        whole[row : row + len(part), column : column + part.shape[1]] = part
    wanted = sum(map(len, left))
    u, found, vh, info = small_svd(whole, full=bool(left) and wanted > len(s) and left[0].shape[1] == shape[0])
    s[...] = shifted(found, -int(exponent[0]))
    top = 0
    for block in left:
        block[...] = 0
        inner = u.T[top : top + len(block)]
        block[: len(inner), : shape[0]] = inner
        for q in range(max(top, u.shape[1]), top + len(block)):
            block[q - top, q] = 1
        top += len(block)
    top = 0
    for block in right:
        block[...] = vh.T[top : top + len(block)]
        top += len(block)
    return info


def store(block: np.ndarray, tiles: Sequence[np.ndarray], adjoint: bool) -> None:
    """A block of columns into tiles below each other, or of rows of the conjugate transpose beside each other."""
    at = 0
    for tile in tiles:
        if adjoint:
            tile[...] = block[:, at : at + tile.shape[1]].conj()
            at += tile.shape[1]
        else:
            tile[...] = block.T[at : at + len(tile)]
            at += len(tile)
