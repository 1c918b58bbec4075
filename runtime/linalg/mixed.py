"""Cholesky in mixed precision: the same loop, with scaling before it and conversions in between.

What is factored is H + shift diag(H) with H = D A D, for use as a preconditioner or under refinement; or A itself, for
`tiled_cholesky(A, precision=...)`. The calls are in `tilewright.linalg.factor`.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import numpy as np

from tilewright.graph import TaskGraph
from tilewright.host.memory import room, zeros
from tilewright.linalg.arena import copies, in_tiles
from tilewright.linalg.call import Call
from tilewright.linalg.mixed_factor import MixedFactor
from tilewright.linalg.mixed_graph import chosen_routes, factor_graph, fitting_map, fitting_tile_size, one_dtype
from tilewright.linalg.tuning import mixed_tile_size
from tilewright.passes.conversions import copy_name
from tilewright.precision import FORMATS, PrecisionMap
from tilewright.runs.run import Run
from tilewright.tiles import TiledMatrix

__all__ = ["MixedProblem"]


class MixedProblem:
    """One matrix to factor in one precision: checked arguments, the graph, the buffers."""

    def __init__(
        self,
        call: Call,
        precision: str | PrecisionMap,
        tile_size: int | None,
        route: str | None,
        *,
        finish: bool,
        lower: bool = True,
        overwrite: bool = False,
        norms: bool = False,
        in_tiles: bool = False,
    ) -> None:
        self.call = call
        with call.agreement() as facts:
            self.matrix = matrix = call.triangle(lower=lower, overwrite=overwrite and call.chunked)
            if matrix.dtype.kind == "c":
                raise TypeError(f"mixed precision is for real matrices, not {matrix.dtype}")
            known = matrix.tile_size if tile_size is None and not call.chunked else tile_size
            tile_size = fitting_tile_size(precision, matrix.n, known)
            self.source = matrix.source(call.tile_size(tile_size, matrix, mixed_tile_size))
            self.tile_size = self.source.tile_size
            nt = self.source.nt
            self.name = "map" if isinstance(precision, PrecisionMap) else precision
            self.precision = fitting_map(precision, matrix.n, self.tile_size)
            routes = chosen_routes(self.precision, route)
            facts.update(
                shape=self.source.shape,
                dtype=str(matrix.dtype),
                tile_size=self.tile_size,
                precision=self.precision.names,
                routes=routes,
            )
        self.scales = self.precision.single is not FORMATS["fp64"]
        self.norms, self.finish = norms and self.scales, finish
        self.in_tiles = in_tiles and call.here and self.precision.accumulate == "float32"
        self.recipe = self.precision, routes, self.scales, finish
        # An accelerator multiplies the narrow copies, and in mode "tasks" Dask sends what a product reads.
        self.wide = not (call.options.get("devices") or call.options.get("mode") == "tasks")
        self.narrow_pays = ("bfloat16", "cblas") in routes and self.precision.single is FORMATS["bf16"]
        self.width = nt * (nt - 1) // 2

    def factor(self, shift: float) -> MixedFactor:
        n, source, precision = self.matrix.n, self.source, self.precision
        scale = np.ones(n)
        L: np.ndarray | None = None
        tiles: dict[tuple[int, ...], np.ndarray] | None = None
        if self.in_tiles:
            whole = TiledMatrix.view(np.broadcast_to(np.float32(0), (n, n)), self.tile_size)  # shapes, no memory
            tiles = dict(in_tiles(whole, "float32"))
        else:
            L = self._room()
            whole = TiledMatrix.view(L, self.tile_size)
        data: dict[str, Any] = {"S": source, "D": TiledMatrix.view(scale.reshape(n, 1), self.tile_size)}
        if one_dtype(precision):
            data["A"] = whole if tiles is None else tiles
        else:
            data["L"] = whole
            data["A"] = {
                (i, j): whole[i, j]
                if (f := precision[i, j]).accumulate == precision.accumulate
                else np.zeros(whole[i, j].shape, f.accumulate)
                for i, j in precision
            }
        if self.norms:
            data["N"] = sums = {(i, j): np.zeros((2, len(whole[j, j]))) for i, j in precision}
        graph = factor_graph(*self.recipe, shift, norms=self.norms, wide=self.wide)
        data.update(copies(graph, whole))
        record = self._run(graph, data)
        total = _row_sums(sums, whole) if self.norms else None
        narrow = data.get(copy_name("A", "bfloat16"), {}) if self.in_tiles and self.narrow_pays else None
        return MixedFactor(
            L,
            scale,
            shift,
            self.name,
            precision,
            record,
            (shift,),
            total,
            self.tile_size,
            tiles,
            narrow,
            self.narrow_pays,
        )

    def _run(self, graph: TaskGraph, data: dict[str, Any]) -> Run:
        def first() -> None:  # NaN comes first, on every engine
            self.matrix.check_finite(optional=False)

        return self.call.run(graph, data, width=self.width, tiles=self.source, first=first)

    def whole(self) -> Any:
        """What `tiled_cholesky` returns: the factor of A itself, of the kind of A, with no shift."""
        if self.call.chunked:
            return self.call.result(self._on_workers())
        found = self.factor(0.0)
        factor: Any = found.L if self.matrix.lower else found.L.T
        if self.matrix.tiled:
            factor = TiledMatrix.view(factor, self.tile_size)
        elif self.matrix.tensor:
            factor = sys.modules["torch"].from_numpy(factor)
        return self.call.result(factor)

    def _on_workers(self) -> Any:
        """The factor as a `dask.array` of futures. Copies in other formats stay on the workers."""
        formats, S = self.precision, self.source
        L = self.matrix.target(dtype=formats.accumulate)
        apart = not one_dtype(formats)
        graph = factor_graph(*self.recipe, 0.0, apart)
        data: dict[str, Any] = {
            "S": S,
            "D": TiledMatrix.view(np.ones((self.matrix.n, 1)), self.tile_size),
            "L" if apart else "A": L,
        }
        self._run(graph, data)
        return self.matrix.result(L)

    def _room(self) -> np.ndarray:
        """Where the factor goes. For nobody but us a room with rows a few cache lines longer than they need to be.

        Rows that are a power of two apart share few sets of a cache: products were 10 to 20 % slower there.
        """
        n, dtype = self.matrix.n, self.precision.accumulate
        if self.finish:
            return zeros((n, n), dtype)
        lines = -(-n * np.dtype(dtype).itemsize // 64) | 1
        return room((n, lines * 64 // np.dtype(dtype).itemsize), dtype)[:, :n]

    def gathered(self, factor: MixedFactor) -> MixedFactor:
        """The factor as each rank of a collective call gets it."""
        sums = factor.row_sums
        return replace(
            factor,
            array=self.call.result(factor.array),
            scale=self.call.result(factor.scale),
            row_sums=None if sums is None else self.call.result(sums),
        )


def _row_sums(sums: dict[tuple[int, int], np.ndarray], tiles: TiledMatrix) -> np.ndarray:
    """The row sums of a Hermitian matrix from those along the rows and columns of the tiles of its lower triangle."""
    total = np.zeros(tiles.shape[0])
    for (i, j), (along, down) in sums.items():
        rows, columns = tiles.rows(i), tiles.columns(j)
        total[rows] += along[: rows.stop - rows.start]
        if i != j:
            total[columns] += down
    return total
