"""Right-hand sides as tiles by columns, for factors by columns: of an array here, or of chunks on Dask workers."""

from __future__ import annotations

from typing import Any

import numpy as np

from tilewright.arguments import is_chunked, like
from tilewright.linalg.call import Call
from tilewright.linalg.chunked import Chunks
from tilewright.linalg.right_hand_side import RightHandSide
from tilewright.linalg.tall import cut
from tilewright.tiles import TiledMatrix

__all__ = ["BlockColumns"]


class BlockColumns:
    """The b of a call, shape (n,) or (n, k); ``a`` is the matrix beside it.

    Attributes
    ----------
    shape
        As given.
    count
        k.

    Raises
    ------
    ValueError, TypeError
        As `RightHandSide`.
    """

    def __init__(self, call: Call, b: Any, n: int, a: Any = None) -> None:
        self.given, self.beside = b, a
        self.chunks: Chunks | None = None
        if call.chunked and is_chunked(b):
            if b.ndim not in (1, 2):
                raise ValueError(f"b must be 1-D or 2-D, not of shape {b.shape}")
            if b.shape[0] != n:
                raise ValueError(f"b has {b.shape[0]} rows, but the matrix has {n}")
            columns = b[:, None] if b.ndim == 1 else b
            self.chunks = Chunks(columns, call.engine, call.workers, triangle=False, order="F", what="b")
            self.shape: tuple[int, ...] = tuple(map(int, b.shape))
            self.dtype = self.chunks.dtype
            return
        self.local = RightHandSide(b.compute() if is_chunked(b) else b, n)
        self.shape, self.dtype = self.local.shape, self.local.columns.dtype

    @property
    def count(self) -> int:
        return 1 if len(self.shape) == 1 else self.shape[1]

    def dtype_with(self, dtype: np.dtype) -> np.dtype:
        """The dtype to work in with a matrix of that one."""
        if self.chunks is not None:
            return np.result_type(self.dtype, dtype)
        return self.local.dtype_with(dtype)

    def tiles(self, height: int, width: int) -> TiledMatrix:
        """b in tiles of that many rows and columns, as it is: tasks that copy it convert it."""
        if self.chunks is not None:
            return self.chunks.source(width, height)
        return cut(self.local.columns, height, width)

    def new(self, rows: int, height: int, width: int, dtype: Any) -> TiledMatrix:
        """Zeros with as many columns, where b is."""
        if self.chunks is not None:
            return self.chunks.new((rows, self.count), height, width, dtype)
        return cut(np.zeros((rows, self.count), dtype, "F"), height, width)

    def check_finite(self) -> None:
        """ValueError with the place of the first NaN or infinity."""
        if self.chunks is not None:
            self.chunks.check_finite()
        else:
            self.local.check_finite()

    def result(self, tiles: Any) -> Any:
        """What `new` made, in the kind of b or of the matrix beside it, 1-D if b is."""
        if self.chunks is not None:
            found = self.chunks.given_back(tiles)
            return found[:, 0] if len(self.shape) == 1 else found
        array = tiles.to_numpy().reshape(tiles.shape[0], *self.shape[1:])
        return like(array, self.local.given, self.beside)
