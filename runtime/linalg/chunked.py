"""Cholesky of a `dask.array`: from chunks on workers to chunks on workers, nothing gathered.

Any chunks will do. The lower triangle is cut into square tiles by Dask; the factor's tiles stay where they were made,
and the array that comes back has the chunks of the one that was given.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tilewright.arguments import is_chunked
from tilewright.engine import run
from tilewright.graph import TaskGraph
from tilewright.linalg.matrix import factor_dtype
from tilewright.linalg.tuning import cholesky_tile_size
from tilewright.runs.run import Run
from tilewright.scalars import positive

if TYPE_CHECKING:
    from tilewright.backends.dask.remote import RemoteTiles

__all__ = ["Chunks", "chunked_cholesky", "is_chunked"]

SIZES = range(128, 2049)
"""Rows of square chunks that serve as tiles as they are."""


def chunked_cholesky(
    a: Any, graph: Any, *, lower: bool, tile_size: int | None, overwrite_a: bool, check_finite: bool,
    workers: int | None, options: dict[str, Any], **how: Any,
) -> tuple[Any, Run]:  # fmt: skip
    """The factor as a `dask.array` of futures, and the run. ``graph(nt, check)`` builds the task graph."""
    from tilewright.backends.dask.remote import RemoteTiles

    there = Chunks(a, lower, overwrite_a, workers, options)
    if tile_size is None:
        tile_size = there.chunk_size or cholesky_tile_size(there.n, there.workers)
    S = there.tiles(positive(tile_size, "tile_size"))
    A = RemoteTiles(S.shape, S.tile_size, S.dtype, order=S.order, upper=not lower)
    record = there.run(graph(S.nt, check_finite), {"A": A, "S": S}, check_finite, **how)
    return there.given_back(A), record


class Chunks:
    """A matrix in a `dask.array` and the workers of a call."""

    def __init__(self, a: Any, lower: bool, overwrite: bool, workers: int | None, options: dict[str, Any]) -> None:
        from tilewright.backends.dask.engine import Dask

        self.a, self.lower, self.asked, self.options = a, lower, workers, options
        self.n = _check(a, overwrite)
        self.dtype = factor_dtype(a.dtype)
        self.engine = Dask(options)
        self.workers = self.engine.workers(workers)
        self.chunk_size = _chunk_size(a)
        """Of chunks that are good tiles as they are."""

    def tiles(self, tile_size: int) -> RemoteTiles:
        """The triangle to be read as a lower one, cut into square tiles by Dask."""
        from tilewright.backends.dask.remote import Piece, RemoteTiles

        self.client = self.engine.client(self.workers)
        a = self.a if self.lower else self.a.T
        self.S = S = RemoteTiles((self.n, self.n), tile_size, self.dtype, order="C" if self.lower else "F")
        places = [(i, j) for i in range(S.nt) for j in range(i + 1)]
        chunks = a.astype(self.dtype, copy=False).rechunk((tile_size, tile_size))
        graph = chunks.__dask_graph__()
        tiles = {place: graph[chunks.name, *place] for place in places}
        missing = [place for place, tile in tiles.items() if not self._is_there(tile)]
        if missing:
            blocks = chunks.to_delayed()
            tiles.update(zip(missing, self.client.compute([blocks[place] for place in missing]), strict=True))
        S.pieces = {place: Piece(tile) for place, tile in tiles.items()}
        return S

    def _is_there(self, node: Any) -> bool:
        """Whether a node of a Dask graph is data on the workers, or will be."""
        from distributed import Future

        return isinstance(node, Future) and node.client is self.client and node.status in ("pending", "finished")

    def run(self, graph: TaskGraph, data: dict[str, Any], check_finite: bool, **how: Any) -> Run:
        """Run the graph where the tiles are."""
        options = self.options | {"client": self.client}
        try:
            return run(graph, data, backend="dask", workers=self.asked, **how, **options)
        except ValueError:  # NotPositiveDefiniteError is one
            if check_finite and self.dtype.kind in "fc":
                _check_finite(self.client, self.S, self.lower)  # NaN comes before what it causes, on every engine
            raise

    def given_back(self, L: RemoteTiles) -> Any:
        """The factor as a `dask.array` with the chunks that were given.

        On the kept cluster nobody but its client can compute it, so that becomes Dask's current one.
        """
        from tilewright.backends.dask import client as clients

        if self.client is clients.kept_client():
            clients.make_current(self.client)
        return to_dask(L).rechunk(self.a.chunks)


def _check(a: Any, overwrite: bool) -> int:
    """The order of the matrix."""
    if a.ndim != 2:
        raise ValueError(f"the matrix a must be 2-D, not of shape {a.shape}")
    if any(np.isnan(extent) for extent in a.shape):
        raise ValueError("the dask.array does not know its chunk sizes; call compute_chunk_sizes() on it first")
    if a.shape[0] != a.shape[1]:
        raise ValueError(f"the matrix a must be square, not {a.shape[0]} x {a.shape[1]}")
    kind = type(a._meta)
    if issubclass(kind, np.ma.MaskedArray):
        raise ValueError("the matrix a has masked chunks; say what is masked with dask.array.ma.filled(a, value)")
    if kind is not np.ndarray:
        raise TypeError(f"the chunks of the matrix a are {kind.__name__}s, not NumPy arrays; convert them with "
                        f"a.map_blocks(...)")  # fmt: skip
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
                f"the matrix a has a NaN or infinity at ({row}, {column}); check_finite=False skips this check"
            )


def _first_not_finite(tile: np.ndarray, diagonal: bool) -> tuple[int, int] | None:
    bad = ~np.isfinite(tile)
    places = np.argwhere(np.tril(bad) if diagonal else bad)
    return (int(places[0][0]), int(places[0][1])) if len(places) else None


def to_dask(A: Any) -> Any:
    """The factor on workers as a `dask.array`: L, or U = L^T.

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
            nodes[key] = piece.chunk(key, A.upper)
    graph = HighLevelGraph.from_collections(A.name, nodes)
    return da.Array(graph, A.name, (extents, extents), dtype=A.dtype, meta=np.empty((0, 0), A.dtype))
