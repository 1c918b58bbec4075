"""What a factorisation in mixed precision gives: a factor of a scaled and shifted matrix."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np

from tilewright.errors import NotPositiveDefiniteError
from tilewright.precision import FORMATS, PrecisionMap
from tilewright.runs.run import Run
from tilewright.tiles import TiledMatrix

__all__ = ["SHIFTS", "MixedFactor", "default_shift", "shifted"]

SHIFTS = 4
"""Attempts with ``shift=None``: the first shift, then doubled, at most so often."""

_FIRST_SHIFT = 2.0  # c_n of Higham and Pranesh, in units of u

T = TypeVar("T")
Tiles = dict[tuple[int, ...], np.ndarray]


@dataclass(frozen=True)
class MixedFactor:
    """L with L L^T = D A D + shift diag(D A D), up to the rounding of its precision.

    Attributes
    ----------
    array
        L as tasks left it, or None if they left it in tiles.
    scale
        (n,) float64, the diagonal of D: d_i = a_ii^(-1/2). Ones for precision ``"fp64"``.
    shift
        The shift it was factored with. diag(D A D) = 1, so it adds to every diagonal element.
    precision
        What was asked for: a name, or ``"map"``.
    precision_map
        The format of every tile.
    run
        The run that made it; its report counts the conversions.
    attempts
        The shifts that were tried, this one last.
    row_sums
        (n,), the sums of |a_ij| along the rows of A, if that was asked for.
    tile_size
        Rows of a tile.
    tiles
        {(i, j): tile} of the lower triangle of L, if asked for in tiles and tasks write into memory of this process.
    narrow
        {(i, j): tile} of L below the diagonal in BF16, as uint16, if it was asked for in tiles and ``narrow_pays``.
    narrow_pays
        Whether substitution reads such tiles faster than those of FP32: products were native ones in BF16.
    """

    array: Any
    scale: np.ndarray
    shift: float
    precision: str
    precision_map: PrecisionMap
    run: Run
    attempts: tuple[float, ...] = ()
    row_sums: np.ndarray | None = None
    tile_size: int = 0
    tiles: Tiles | None = None
    narrow: Tiles | None = None
    narrow_pays: bool = False

    @cached_property
    def L(self) -> Any:  # noqa: N802 - as in the equation
        """(n, n), rows contiguous, float32; float64 if some tile is FP64; a tensor on a device.

        Its lower triangle is the factor; what stands above is undefined. Made of the tiles where it lies in tiles.
        """
        if self.tiles is None:
            return self.array
        L = np.zeros((self.n, self.n), np.float32)
        whole = TiledMatrix.view(L, self.tile_size)
        for (i, j), tile in self.tiles.items():
            whole[i, j][...] = tile
        return L

    @property
    def n(self) -> int:
        return len(self.scale)


def default_shift(precision: PrecisionMap) -> float:
    """c_n u of the least exact format of the products, with c_n = 2; 0 for FP32 and FP64 [1]_.

    .. [1] N. Higham, S. Pranesh, Exploiting lower precision arithmetic in solving symmetric positive definite linear
       systems and least squares problems, SISC 43 (2021), section 3.
    """
    u = max((FORMATS[name].u for name in precision.counts()), default=0.0)
    return _FIRST_SHIFT * u if u > FORMATS["fp32"].u else 0.0


def shifted(factor: Callable[[float], T], shift: float | None, first: float) -> tuple[T, tuple[float, ...]]:
    """(factor(shift), the shifts that were tried). Without a shift ``first``, doubled on breakdown."""
    if shift is not None:
        if not 0 <= shift < np.inf:
            raise ValueError(f"shift must be a number of at least 0, not {shift!r}")
        return factor(float(shift)), (float(shift),)
    attempts = [first]
    while True:
        try:
            return factor(attempts[-1]), tuple(attempts)
        except NotPositiveDefiniteError:
            if not first or len(attempts) == SHIFTS:
                raise
            attempts.append(2 * attempts[-1])
