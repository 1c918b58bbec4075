"""What users pass as an m x n matrix, seen as tiles by columns, as LAPACK has it; and the result in the same kind."""

from __future__ import annotations

from typing import Any

import numpy as np

from tilewright.arguments import like
from tilewright.host.memory import room
from tilewright.kernels.columns import column_ld
from tilewright.linalg.matrix import Matrix
from tilewright.linalg.tall import cut
from tilewright.tiles import TiledMatrix

__all__ = ["ByColumns"]


class ByColumns(Matrix):
    """The m x n argument of a factorisation, whose result is in Fortran order; ``what`` in messages.

    Attributes
    ----------
    shape, dtype
        The dtype is that to compute in.
    tile_size
        That of a TiledMatrix that was given, else None.
    in_place
        Whether tasks write into what was given: a matrix by columns that may be overwritten.
    """

    def __init__(self, a: Any, *, overwrite: bool = False, what: str = "the matrix a", square: bool = False) -> None:
        self.square = square
        super().__init__(a, overwrite=overwrite, what=what)

    def _check_shape(self, shape: tuple[int, ...], what: str) -> None:
        if self.square and shape[0] != shape[1]:
            raise ValueError(f"{what} must be square, not {shape[0]} x {shape[1]}")

    def _choose_place(self) -> None:
        packed = self.tiled and self.array.packed
        self.in_place = not packed and bool(column_ld(self.array.to_numpy() if self.tiled else self.array))

    def factor(self, tile_size: int, dtype: np.dtype) -> TiledMatrix:
        """The tiles of a factor in that dtype, by columns: a copy where they are not so."""
        tiles = self.source(tile_size)
        if tiles.dtype == dtype and not tiles.packed and column_ld(tiles.to_numpy()):
            return tiles
        return TiledMatrix.view(tiles.to_numpy().astype(dtype, order="F"), tile_size)

    def source(self, tile_size: int, height: int | None = None) -> TiledMatrix:
        """The tiles to read; ``height`` rows in each of an array, if they are not square."""
        tiles = super().source(tile_size)
        if height not in (None, tile_size) and not self.tiled:
            self.tiles = tiles = cut(self.array, height or tile_size, tile_size)
        return tiles

    def target(self) -> TiledMatrix:
        """The tiles that become the result, by columns, after `source`: the source itself in place, else new ones."""
        if self.in_place:
            return self.tiles
        return self.room(self.shape[1])

    def new(self, shape: tuple[int, int], height: int, width: int, dtype: Any = None) -> TiledMatrix:
        """Zeros by columns, in tiles of that many rows and columns, in memory that is taken as it is written."""
        return cut(np.zeros(shape, self.dtype if dtype is None else dtype, "F"), height, width)

    def given_back(self, tiles: TiledMatrix) -> Any:
        """What `new` made, in the kind that was given."""
        square = tiles.height == tiles.tile_size
        return tiles if self.tiled and square else like(tiles.to_numpy(), self.given)

    def room(self, columns: int) -> TiledMatrix:
        """Memory by columns, with as many rows as the matrix, to be written before it is read."""
        memory = room((columns, self.shape[0]), self.dtype, huge=True).T
        return cut(memory, self.tiles.height, self.tiles.tile_size)

    def result(self, target: TiledMatrix) -> Any:
        """The result in the kind that was given."""
        if self.in_place and self.in_given and target is self.tiles:
            return self.given
        return target if self.tiled else like(target.to_numpy(), self.given)
