"""Cholesky of a `dask.array`: from chunks on workers to chunks on workers, nothing gathered.

Any chunks will do. The lower triangle is cut into square tiles by Dask; the factor's tiles stay where they were made,
and the array that comes back has the chunks of the one that was given.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from tilewright.engine import Run, run
from tilewright.linalg.matrix import factor_dtype
from tilewright.linalg.tuning import cholesky_tile_size

__all__ = ["chunked_cholesky", "is_chunked"]

SIZES = range(128, 2049)
"""Rows of square chunks that serve as tiles as they are."""


def is_chunked(a: Any) -> bool:
    """Whether ``a`` is a `dask.array.Array`; whoever has one has imported Dask."""
    module = sys.modules.get("dask.array")
    return module is not None and isinstance(a, module.Array)


def chunked_cholesky(
    a: Any, graph: Any, *, lower: bool, tile_size: int | None, overwrite_a: bool, check_finite: bool,
    workers: int | None, options: dict[str, Any], **how: Any,
) -> tuple[Any, Run]:  # fmt: skip
    """The factor as a `dask.array` of futures, and the run. ``graph(nt, check)`` builds the task graph."""
    from tilewright.backends.dask import DaskSite
    from tilewright.cluster.remote import Piece, RemoteTiles

    n = _check(a, overwrite_a)
    dtype = factor_dtype(a.dtype)
    site = DaskSite(options)
    crew = site.workers(workers)
    if tile_size is None:
        tile_size = _chunk_size(a) or cholesky_tile_size(n, crew)
    if isinstance(tile_size, bool) or not isinstance(tile_size, int | np.integer):
        raise TypeError(f"tile_size must be an integer, not {tile_size!r}")
    if tile_size < 1:
        raise ValueError(f"tile_size must be at least 1, not {tile_size}")
    client = site.client(crew)
    tiles = (a if lower else a.T).astype(dtype, copy=False).rechunk((tile_size, tile_size))
    S, A = (RemoteTiles((n, n), int(tile_size), dtype, order="C" if lower else "F") for _ in "SA")
    places = [(i, j) for i in range(S.nt) for j in range(i + 1)]
    blocks = tiles.to_delayed() if n else np.empty((0, 0), object)
    futures = client.compute([blocks[place] for place in places])
    S.pieces = {place: Piece(future) for place, future in zip(places, futures, strict=True)}
    data = {"A": A, "S": S}
    try:
        record = run(
            graph(S.nt, check_finite), data, backend="dask", workers=workers, **how, **options | {"client": client}
        )
    except ValueError:  # NotPositiveDefiniteError is one
        if check_finite and dtype.kind in "fc":
            _check_finite(client, S, lower)  # NaN comes before anything it causes, on every engine
        raise
    return to_dask(A).rechunk(a.chunks), record


def _check(a: Any, overwrite: bool) -> int:
    """The order of the matrix."""
    if a.ndim != 2:
        raise ValueError(f"the matrix must be 2-D, not of shape {a.shape}")
    if any(np.isnan(extent) for extent in a.shape):
        raise ValueError("the dask.array does not know its chunk sizes; call compute_chunk_sizes() on it first")
    if a.shape[0] != a.shape[1]:
        raise ValueError(f"the matrix must be square, not {a.shape[0]} x {a.shape[1]}")
    if overwrite:
        raise ValueError("a dask.array cannot be overwritten; pass overwrite_a=False")
    return int(a.shape[0])


def _chunk_size(a: Any) -> int | None:
    """The extent of all chunks but the last, if they are square, in both directions, and good tiles."""
    rows, columns = a.chunks
    size = rows[0] if rows else 0
    regular = rows == columns and set(rows[:-1]) <= {size} and rows[-1] <= size
    return int(size) if regular and size in SIZES else None


def _check_finite(client: Any, tiles: Any, lower: bool) -> None:
    """ValueError with the place of the first NaN or infinity of the lower triangle, row by row of tiles."""
    found = client.gather([
        client.submit(_first_not_finite, piece.future, i == j, pure=False) for (i, j), piece in tiles.pieces.items()
    ])  # fmt: skip
    for (i, j), place in zip(tiles.pieces, found, strict=True):
        if place is not None:
            row, column = place[0] + tiles.rows(i).start, place[1] + tiles.columns(j).start
            row, column = (row, column) if lower else (column, row)
            raise ValueError(
                f"the matrix has a NaN or infinity at ({row}, {column}); check_finite=False skips this check"
            )


def _first_not_finite(tile: np.ndarray, diagonal: bool) -> tuple[int, int] | None:
    bad = ~np.isfinite(tile)
    places = np.argwhere(np.tril(bad) if diagonal else bad)
    return (int(places[0][0]), int(places[0][1])) if len(places) else None


def to_dask(A: Any) -> Any:
    """The factor on workers as a `dask.array`: the lower triangle, or the upper one where tiles are in F order.

    No data moves. Tiles that are no chunks of it yet become some when it is computed.
    """
    import dask.array as da
    from dask._task_spec import Task
    from dask.highlevelgraph import HighLevelGraph

    if not A.nt:
        return da.from_array(np.zeros((0, 0), A.dtype))
    extents = tuple(s.stop - s.start for s in map(A.rows, range(A.nt)))
    nodes: dict[Any, Any] = {}
    for i, j in A:
        key, piece = A.key(i, j), A.pieces.get((i, j))
        if piece is None:
            nodes[key] = Task(key, np.zeros, tuple(extents[p] for p in key[1:]), A.dtype)
        elif piece.future.key == key:
            nodes[key] = piece.future
        else:
            nodes[piece.future.key] = piece.future
            nodes[key] = piece.chunk(key, A.order == "F")
    graph = HighLevelGraph.from_collections(A.name, nodes)
    return da.Array(graph, A.name, (extents, extents), dtype=A.dtype, meta=np.empty((0, 0), A.dtype))
