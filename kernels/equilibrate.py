"""Row and column scaling of a general matrix, tile by tile: extents, rowscale, colsize, colscale [LAPACK ?geequb].

Scales are powers of two, so that D A E has the digits of A. They bring the largest entry of each row into [1/2, 1),
then that of each column, so nothing of D A E is too large for any format.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from tilewright.kernels.scratch import room

__all__ = ["KERNELS", "colscale", "colsize", "extents", "rowscale"]

_ROWS = 64  # rows at a time: their magnitudes stay in cache
_FARTHEST = 1000  # exponents beyond +-1000 are cut off: a scale has to be a normal number, and so has its product


def extents(tile: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> None:
    """``rows``, (2, m), gets max_j |a_ij| and sum_j |a_ij|, ``columns``, (1, n), max_i |a_ij|, in FP64.

    A NaN or infinity shows in the sums.
    """
    columns.fill(0)
    with np.errstate(all="ignore"):
        for part, size in _magnitudes(tile):
            size.max(axis=1, initial=0, out=rows[0, part])
            size.sum(axis=1, out=rows[1, part])
            np.maximum(columns[0], size.max(axis=0, initial=0), out=columns[0])


def rowscale(sizes: Sequence[np.ndarray], d: np.ndarray, sums: np.ndarray) -> None:
    """d_i := 2^-e with the largest |a_ij| of a row of tiles in [2^(e-1), 2^e); ``sums``, (m, 1), gets sum_j |a_ij|."""
    with np.errstate(all="ignore"):
        d[:, 0] = _scale(np.max([size[0] for size in sizes], axis=0))
        sums.fill(0)
        for size in sizes:
            sums[:, 0] += size[1]


def colsize(tile: np.ndarray, d: np.ndarray, sizes: np.ndarray) -> None:
    """``sizes``, (1, n), gets max_i d_i |a_ij|, in FP64."""
    sizes.fill(0)
    with np.errstate(all="ignore"):
        for rows, size in _magnitudes(tile):
            size *= d[rows]
            np.maximum(sizes[0], size.max(axis=0, initial=0), out=sizes[0])


def colscale(sizes: Sequence[np.ndarray], e: np.ndarray) -> None:
    """e_j := 2^-k with the largest of the ``sizes`` of a column of tiles in [2^(k-1), 2^k), shape (n, 1)."""
    with np.errstate(all="ignore"):
        e[:, 0] = _scale(np.max([size[0] for size in sizes], axis=0))


def _magnitudes(tile: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """|a_ij| of some rows at a time, FP64, in memory of this thread."""
    m, n = tile.shape
    for start in range(0, m, _ROWS):
        rows = slice(start, min(start + _ROWS, m))
        yield rows, np.abs(tile[rows], out=room("magnitudes", (rows.stop - start, n), np.dtype(np.float64)))


def _scale(top: np.ndarray) -> np.ndarray:
    """2^-e with ``top`` in [2^(e-1), 2^e); 1 where that is zero or no number."""
    usable = np.isfinite(top) & (top > 0)
    exponent = np.frexp(np.where(usable, top, 1.0))[1]
    return np.where(usable, np.ldexp(1.0, -np.clip(exponent, -_FARTHEST, _FARTHEST)), 1.0)


KERNELS: dict[str, Callable[..., Any]] = {kernel.__name__: kernel for kernel in (extents, rowscale, colsize, colscale)}
"""By the name of the op."""
