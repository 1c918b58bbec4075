"""What users pass as an m x n matrix, seen as tiles by columns, as LAPACK has it; and the result in the same kind."""

from __future__ import annotations

from typing import Any

import numpy as np

from tilewright.arguments import is_tensor, like
from tilewright.kernels.columns import column_ld
from tilewright.linalg.matrix import _check_overwrite, _lies_in, _plain, _read, factor_dtype
from tilewright.scalars import positive
from tilewright.tiles import TiledMatrix

__all__ = ["ByColumns"]


class ByColumns:
    """The m x n argument of a factorisation, whose result is in Fortran order; ``what`` in messages.

    Attributes
    ----------
    shape, dtype
        The dtype is that to compute in.
    tile_size
        Of a TiledMatrix that was given, else None.
    in_place
        Whether tasks write into what was given: a matrix by columns that may be overwritten.
    """

    def __init__(self, a: Any, *, overwrite: bool = False, what: str = "the matrix a", square: bool = False) -> None:
        self.given, self.what = a, what
        self.tiled = isinstance(a, TiledMatrix)
        array: Any = _plain(a, what) if self.tiled else _read(a, what)
        if len(array.shape) != 2:
            raise ValueError(f"{what} must be 2-D, not of shape {tuple(array.shape)}")
        if square and array.shape[0] != array.shape[1]:
            raise ValueError(f"{what} must be square, not {array.shape[0]} x {array.shape[1]}")
        self.dtype = factor_dtype(array.dtype)
        if array.dtype.kind in "biu":
            array = (array.to_numpy() if self.tiled else array).astype(self.dtype)
            array = TiledMatrix.view(array, a.tile_size) if self.tiled else array
        if overwrite:
            _check_overwrite(a, what)
        plain = None if self.tiled and array.packed else array.to_numpy() if self.tiled else array
        self.array = array
        self.shape: tuple[int, int] = self.array.shape
        self.tile_size: int | None = a.tile_size if self.tiled else None
        fits = plain is not None and bool(column_ld(plain))
        self.in_place = overwrite and array.dtype == self.dtype and fits
        self.in_given = array is a if self.tiled else _lies_in(array, a)

    def source(self, tile_size: int) -> TiledMatrix:
        """The tiles to read."""
        tile_size = positive(tile_size, "tile_size")
        if self.tiled and tile_size != self.tile_size:
            raise ValueError(f"tile_size={tile_size}, but the TiledMatrix has tiles of {self.tile_size}")
        self.tiles: TiledMatrix = self.array if self.tiled else TiledMatrix.view(self.array, tile_size)
        return self.tiles

    def factor(self, tile_size: int, dtype: np.dtype) -> TiledMatrix:
        """The tiles of a factor in that dtype, by columns: a copy where they are not so."""
        tiles = self.source(tile_size)
        if tiles.dtype == dtype and not tiles.packed and column_ld(tiles.to_numpy()):
            return tiles
        return TiledMatrix.view(tiles.to_numpy().astype(dtype, order="F"), tile_size)

    def target(self) -> TiledMatrix:
        """The tiles that become the result, by columns, after `source`: the source itself in place, else new ones."""
        if self.in_place:
            return self.tiles
        return self.room(self.shape[1])

    def room(self, columns: int) -> TiledMatrix:
        """Memory by columns, with as many rows as the matrix, to be written before it is read."""
        return TiledMatrix.view(np.empty((self.shape[0], columns), self.dtype, "F"), self.tiles.tile_size)

    def result(self, target: TiledMatrix) -> Any:
        """The result in the kind that was given."""
        if self.in_place and self.in_given and target is self.tiles:
            return self.given
        return target if self.tiled else like(target.to_numpy(), self.given)

    def first_not_finite(self) -> tuple[int, int] | None:
        """Where the first NaN or infinity is, row by row of tiles."""
        for i, j in self.tiles:
            places = np.argwhere(~np.isfinite(self.tiles[i, j]))
            if len(places):
                row, column = places[0] + (self.tiles.rows(i).start, self.tiles.columns(j).start)
                return int(row), int(column)
        return None

    def check_finite(self) -> None:
        """ValueError with the place of the first NaN or infinity."""
        place = self.first_not_finite()
        if place is not None:
            raise ValueError(f"{self.what} has a NaN or infinity at {place}; check_finite=False skips this check")

    @property
    def tensor(self) -> bool:
        """Whether a tensor was given."""
        return is_tensor(self.given)
