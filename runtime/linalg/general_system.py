"""A general system under refinement: a `System` whose factor is an LU factorisation in FP32."""

from __future__ import annotations

import numpy as np

from tilewright.linalg.mixed_lu import MixedLU
from tilewright.linalg.operator import block_rows
from tilewright.linalg.structure import General, Structure
from tilewright.linalg.system import System
from tilewright.tiles import TiledMatrix

__all__ = ["GeneralSystem"]


class GeneralSystem(System):
    """A x = b for any real square matrix in tiles by rows, all of which is read."""

    nests = False  # nested refinement is conjugate gradients inside

    @property
    def structure(self) -> Structure:
        return General()

    def take(self, factor: MixedLU) -> None:
        """Take P D A E = L U for the preconditioner. What was found so far stays if it is better than x = 0."""
        self._cut(factor.tile_size)
        tiles = {index: factor.lu[index].T for index in factor.lu}
        e = self.runner.engine.keep(np.ascontiguousarray(factor.scaling.columns).reshape(self.n, 1))
        data = {"L": tiles, "piv": factor.pivots, "E": block_rows(e, self.A)}
        self._bind(data, factor.scaling.rows, np.dtype(np.float32))

    def _cut(self, tile_size: int) -> None:
        """Take tiles of this size."""
        if tile_size != self.A.tile_size:
            self.A = TiledMatrix.view(self.A.to_numpy(), tile_size)
        self.nt = self.A.nt
