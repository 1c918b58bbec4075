"""Cholesky of a `dask.array` in mixed precision: the graph of `tilewright.linalg.mixed` on tiles on workers."""

from __future__ import annotations

from typing import Any

import numpy as np

from tilewright.linalg.chunked import Chunks
from tilewright.linalg.mixed import (
    chosen_routes,
    factor_graph,
    fitting_map,
    fitting_tile_size,
    one_dtype,
)  # fmt: skip
from tilewright.linalg.tuning import mixed_tile_size
from tilewright.passes.conversions import copy_outline
from tilewright.precision import FORMATS, PrecisionMap
from tilewright.rooms import Outline
from tilewright.runs.run import Run
from tilewright.scalars import positive
from tilewright.tiles import TiledMatrix

__all__ = ["chunked_mixed"]


def chunked_mixed(
    a: Any, precision: str | PrecisionMap, *, lower: bool, tile_size: int | None, overwrite_a: bool, route: str | None,
    workers: int | None, options: dict[str, Any], **how: Any,
) -> tuple[Any, Run]:  # fmt: skip
    """The factor of A itself as a `dask.array` of futures, and the run. Copies in other formats stay on the workers."""
    from tilewright.backends.dask.remote import RemoteTiles

    there = Chunks(a, lower, overwrite_a, workers, options)
    if there.dtype.kind == "c":
        raise TypeError(f"mixed precision is for real matrices, not {there.dtype}")
    size = fitting_tile_size(precision, there.n, tile_size)
    if size is None:
        size = there.chunk_size or mixed_tile_size(there.n, there.workers)
    size = positive(size, "tile_size")
    formats = fitting_map(precision, there.n, size)
    routes = chosen_routes(formats, route)
    S = there.tiles(size)
    L = RemoteTiles(S.shape, size, formats.accumulate, order="C", upper=not lower)
    apart = not one_dtype(formats)
    graph = factor_graph(formats, routes, formats.single is not FORMATS["fp64"], True, 0.0, apart)
    data: dict[str, Any] = {"S": S, "D": TiledMatrix.view(np.ones((there.n, 1)), size), "L" if apart else "A": L}
    if apart:
        data["A"] = {place: Outline.of(L[place].shape, formats[place].accumulate) for place in formats}
    for handle in graph.written:
        if ":" in handle.name:  # a copy
            i, j = handle.index
            data.setdefault(handle.name, {})[i, j] = Outline.of(*copy_outline(handle, L[i, j].shape))
    record = there.run(graph, data, True, **how)
    return there.given_back(L), record
