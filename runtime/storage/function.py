"""A matrix whose tiles a function makes when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tilewright.arguments import LAPACK
from tilewright.keywords import strict
from tilewright.scalars import choice, function, positive, whole
from tilewright.storage.matrix import Place, Stored

__all__ = ["TileFunction"]


@strict
class TileFunction(Stored):
    """A matrix that is nowhere: ``make(i, j)`` gives tile (i, j) as an array, each time the same.

    Parameters
    ----------
    make
        Called with two integers, from several threads.
    shape
        Rows and columns of the matrix.
    tile_size
        Rows and columns of a tile; those of the last row and column may be smaller.
    dtype
        float32, float64, complex64 or complex128.

    Raises
    ------
    TypeError, ValueError
        An argument is none of these; or, when it is read, a tile has another shape or more exact numbers.

    Examples
    --------
    >>> import numpy as np, tilewright as tw
    >>> A = tw.TileFunction(lambda i, j: 4.0 * np.eye(2) * (i == j), shape=(6, 6), tile_size=2)
    >>> tw.tiled_cholesky(A, out="L.npy").diagonal()                # doctest: +SKIP
    memmap([2., 2., 2., 2., 2., 2.])
    """

    def __init__(
        self, make: Callable[[int, int], Any], shape: tuple[int, int], tile_size: int, dtype: str = "float64"
    ) -> None:
        self.make = function(make, "make")
        if not isinstance(shape, tuple | list) or len(shape) != 2:
            raise TypeError(f"shape must be two numbers, (rows, columns), not {shape!r}")
        rows, columns = (whole(extent, "an extent of shape", 0) for extent in shape)
        tile_size = positive(tile_size, "tile_size")
        super().__init__((rows, columns), choice(dtype, "dtype", LAPACK), f"the function {_called(make)}")
        self.tile_size: int = tile_size

    def read(self, places: Sequence[Place], targets: Sequence[np.ndarray]) -> None:
        for (row, column), target in zip(places, targets, strict=True):
            i, j = row // self.tile_size, column // self.tile_size
            tile = np.asarray(self.make(i, j))
            if tile.shape != target.shape:
                raise ValueError(f"{self.name} made tile ({i}, {j}) of shape {tile.shape}, not {target.shape}")
            if not np.can_cast(tile.dtype, self.dtype, "safe"):
                raise TypeError(f"{self.name} made tile ({i}, {j}) of {tile.dtype}, not {self.dtype}")
            np.copyto(target, tile)

    def opening(self) -> tuple[Callable[..., Stored], tuple[Any, ...]]:
        return _made, (self.make, self.shape, self.tile_size, str(self.dtype))


def _made(make: Callable[[int, int], Any], shape: tuple[int, int], tile_size: int, dtype: str) -> TileFunction:
    return TileFunction(make, shape, tile_size, dtype)


def _called(make: Any) -> str:
    return str(getattr(make, "__name__", type(make).__name__))
