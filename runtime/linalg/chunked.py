"""What users pass as a `dask.array`: from chunks on workers to chunks on workers, nothing gathered.

Any chunks will do. What is read is cut into square tiles by Dask; the tiles of the result stay where they were made,
and the array that comes back has the chunks of the one that was given.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tilewright.arguments import check_chunks
from tilewright.linalg.matrix import factor_dtype

if TYPE_CHECKING:
    from tilewright.backends.dask.remote import RemoteTiles

__all__ = ["Chunks", "to_dask"]

SIZES = range(128, 2049)
"""Rows of square chunks that serve as tiles as they are."""


class Chunks:
    """A dask.array as the argument of a routine: what `tilewright.linalg.matrix` has for an array.

    Parameters
    ----------
    a
        The dask.array.
    engine, workers
        Those of the call.
    lower
        Which triangle is read.
    triangle
        Whether the matrix is square and only a triangle of it is read; else all of it is.
    order
        How the tiles of the result lie in memory.
    what
        Its name.
    """

    in_place = turned = clear = False

    def __init__(
        self,
        a: Any,
        engine: Any,
        workers: int | None,
        *,
        lower: bool = True,
        overwrite: bool = False,
        triangle: bool = True,
        order: str = "C",
        what: str = "the matrix a",
    ) -> None:
        self.given, self.lower, self.triangle, self.order, self.what = a, lower, triangle, order, what
        self.shape = _check(a, overwrite, triangle, what)
        self.n = self.shape[0]
        self.dtype = factor_dtype(a.dtype)
        self.client = engine.client(engine.workers(workers))
        self.tile_size = _chunk_size(a)
        """The extent of the chunks, if they are good tiles as they are."""

    def source(self, tile_size: int, height: int | None = None) -> RemoteTiles:
        """The tiles to read, cut by Dask into squares, or blocks of ``height`` rows; of a triangle the lower one."""
        from tilewright.backends.dask.remote import RemoteTile, RemoteTiles

        a = self.given if self.lower else self.given.T
        order = "C" if self.lower else "F"
        self.tiles = S = RemoteTiles(self.shape, tile_size, self.dtype, order=order, height=height)
        places = [(i, j) for i, j in S if i >= j or not self.triangle]
        chunks = a.astype(self.dtype, copy=False).rechunk((S.height, tile_size))
        graph = chunks.__dask_graph__()
        tiles = {place: graph[chunks.name, *place] for place in places}
        missing = [place for place, tile in tiles.items() if not self._is_there(tile)]
        if missing:
            blocks = chunks.to_delayed()
            tiles.update(zip(missing, self.client.compute([blocks[place] for place in missing]), strict=True))
        S.pieces = {place: RemoteTile(tile) for place, tile in tiles.items()}
        return S

    def target(self, used_again: bool = False, dtype: Any = None) -> RemoteTiles:
        """The tiles that become the result, after `source`; they stay where they are made."""
        from tilewright.backends.dask.remote import RemoteTiles

        S = self.tiles
        return RemoteTiles(
            S.shape, S.tile_size, dtype or S.dtype, order=self.order, upper=not self.lower, height=S.height
        )

    def new(
        self, shape: tuple[int, int], height: int, width: int, dtype: Any = None, order: str | None = None
    ) -> RemoteTiles:
        """Tiles of any shape that stay where they are made."""
        from tilewright.backends.dask.remote import RemoteTiles

        return RemoteTiles(shape, width, dtype or self.dtype, order=order or self.order, height=height)

    def given_back(self, tiles: RemoteTiles) -> Any:
        """What `new` made as a dask.array: in the chunks that were given where an extent is as there."""
        array = self.made(tiles)
        pairs = zip(array.chunks, self.given.chunks, array.shape, self.given.shape, strict=True)
        return array.rechunk(tuple(there if m == n else here for here, there, m, n in pairs))

    @property
    def chunk_rows(self) -> int | None:
        """The rows of all chunks but the last, if there is one chunk of columns."""
        rows, columns = self.given.chunks
        regular = len(columns) == 1 and rows and set(rows[:-1]) <= {rows[0]} and rows[-1] <= rows[0]
        return int(rows[0]) if regular and rows[0] else None

    def result(self, target: RemoteTiles) -> Any:
        """A dask.array with the chunks that were given."""
        return self.made(target).rechunk(self.given.chunks)

    def made(self, target: RemoteTiles) -> Any:
        """Tiles of any shape as a dask.array, whose chunks they are.

        On the kept cluster nobody but its client can compute it, so that becomes Dask's current one.
        """
        from tilewright.backends.dask import client as clients

        if self.client is clients.kept_client():
            clients.make_current(self.client)
        return to_dask(target)

    def check_finite(self, *, optional: bool = True) -> None:
        """ValueError with the place of the first NaN or infinity of what is read."""
        if self.dtype.kind in "fc":
            hint = "; check_finite=False skips this check" if optional else ""
            _check_finite(self.client, self.tiles, self.lower, self.triangle, hint, self.what)

    def check_diagonal(self, what: str) -> None:
        """Nothing: the kernel that meets a zero there says so."""

    def _is_there(self, node: Any) -> bool:
        """Whether a node of a Dask graph is data on the workers, or will be."""
        from distributed import Future

        return isinstance(node, Future) and node.client is self.client and node.status in ("pending", "finished")


def _check(a: Any, overwrite: bool, square: bool, what: str) -> tuple[int, int]:
    """The shape of the matrix."""
    if a.ndim != 2:
        raise ValueError(f"{what} must be 2-D, not of shape {a.shape}")
    check_chunks(a)
    if square and a.shape[0] != a.shape[1]:
        raise ValueError(f"{what} must be square, not {a.shape[0]} x {a.shape[1]}")
    kind = type(a._meta)
    if issubclass(kind, np.ma.MaskedArray):
        raise ValueError(f"{what} has masked chunks; say what is masked with dask.array.ma.filled(a, value)")
    if kind is not np.ndarray:
        raise TypeError(
            f"the chunks of {what} are {kind.__name__}s, not NumPy arrays; convert them with a.map_blocks(...)"
        )
    if overwrite:
        raise ValueError("a dask.array cannot be overwritten; pass overwrite_a=False")
    return int(a.shape[0]), int(a.shape[1])


def _chunk_size(a: Any) -> int | None:
    """The extent of all chunks but the last, if they are square, in both directions, and good tiles."""
    rows, columns = a.chunks
    size = rows[0] if rows else 0
    regular = rows == columns and set(rows[:-1]) <= {size} and rows[-1] <= size
    return int(size) if regular and size in SIZES else None


def _check_finite(client: Any, tiles: Any, lower: bool, triangle: bool, hint: str, what: str) -> None:
    """ValueError with the place of the first NaN or infinity of what is read, row by row of tiles."""
    found = client.gather(
        [
            client.submit(_first_not_finite, piece.future, triangle and i == j, pure=False)
            for (i, j), piece in tiles.pieces.items()
        ]
    )
    for (i, j), place in zip(tiles.pieces, found, strict=True):
        if place is not None:
            row, column = place[0] + tiles.rows(i).start, place[1] + tiles.columns(j).start
            row, column = (row, column) if lower else (column, row)
            raise ValueError(f"{what} has a NaN or infinity at ({row}, {column}){hint}")


def _first_not_finite(tile: np.ndarray, diagonal: bool) -> tuple[int, int] | None:
    bad = ~np.isfinite(tile)
    places = np.argwhere(np.tril(bad) if diagonal else bad)
    return (int(places[0][0]), int(places[0][1])) if len(places) else None


def to_dask(A: Any) -> Any:
    """A matrix on workers as a `dask.array`, or its transpose where that is what the user has.

    No data moves. Tiles that are no chunks of it yet become some when it is computed.
    """
    import dask.array as da
    from dask._task_spec import Task
    from dask.highlevelgraph import HighLevelGraph

    if not len(A):
        return da.from_array(np.zeros(A.shape, A.dtype))
    down = tuple(s.stop - s.start for s in map(A.rows, range(A.mt)))
    along = tuple(s.stop - s.start for s in map(A.columns, range(A.nt)))
    extents = (along, down) if A.upper else (down, along)
    nodes: dict[Any, Any] = {}
    for i, j in A:
        key, piece = A.key(i, j), A.pieces.get((i, j))
        if piece is None:
            nodes[key] = Task(key, np.zeros, (extents[0][key[1]], extents[1][key[2]]), A.dtype)
        elif piece.future.key == key:
            nodes[key] = piece.future
        else:
            nodes[piece.future.key] = piece.future
            nodes[key] = piece.chunk(key, A.upper)
    graph = HighLevelGraph.from_collections(A.name, nodes)
    return da.Array(graph, A.name, extents, dtype=A.dtype, meta=np.empty((0, 0), A.dtype))
