"""What users pass as right-hand sides: a vector or columns, as a 2-D array; and the solution in the same kind."""

from __future__ import annotations

from typing import Any

import numpy as np

from tilewright.arguments import LAPACK, dense, like
from tilewright.tiles import TiledMatrix

__all__ = ["RightHandSide"]


class RightHandSide:
    """The b of A x = b, shape (n,) or (n, m).

    Raises
    ------
    ValueError
        It is not 1-D or 2-D, or has not ``n`` rows.
    TypeError
        Its dtype is not one of the four of LAPACK and not an integer.
    """

    def __init__(self, b: Any, n: int) -> None:
        self.given = b
        array = dense(b, "b")
        if array.ndim not in (1, 2):
            raise ValueError(f"b must be 1-D or 2-D, not of shape {array.shape}")
        if len(array) != n:
            raise ValueError(f"b has {len(array)} rows, but the matrix has {n}")
        if array.dtype.kind not in "biu" and str(array.dtype) not in LAPACK:
            raise TypeError(
                f"no kernel for a right-hand side of dtype {array.dtype}; convert it to {', '.join(LAPACK)}"
            )
        self.shape: tuple[int, ...] = array.shape
        self.columns: np.ndarray = array if array.ndim == 2 else array.reshape(n, 1)
        """(n, m)."""

    def dtype_with(self, dtype: np.dtype) -> np.dtype:
        """The dtype to solve in with a matrix of that one: the wider, of LAPACK's four."""
        wider = np.result_type(dtype, self.columns.dtype)
        return wider if str(wider) in LAPACK else np.dtype(np.float64)

    def tiles(self, tile_size: int, dtype: np.dtype) -> TiledMatrix:
        """b in tiles, as it is: tasks that copy it convert it to ``dtype``."""
        return TiledMatrix.view(self.columns, tile_size)

    def room(self, tile_size: int, dtype: np.dtype) -> TiledMatrix:
        """The tiles that become x."""
        return TiledMatrix.view(np.zeros(self.columns.shape, dtype), tile_size)

    def check_before(self) -> None:
        """Nothing: tasks look at b while they copy it, and `check_finite` finds the place."""

    def check_finite(self) -> None:
        """ValueError with the place of the first NaN or infinity."""
        bad = ~np.isfinite(self.columns)
        if bad.any():
            place = ", ".join(map(str, np.argwhere(bad)[0]))
            raise ValueError(f"b has a NaN or infinity at ({place}); check_finite=False skips this check")

    def result(self, x: Any, matrix: Any = None) -> Any:
        """The solution x, (n, m), in the shape of b; a tensor if b or ``matrix`` is one."""
        return like(np.asarray(x).reshape(self.shape), self.given, matrix)
