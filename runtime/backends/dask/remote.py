"""Matrices whose tiles lie on Dask workers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import uuid4

import numpy as np

from tilewright.backends.dask.rank import pick, pick_transposed
from tilewright.graph import Handle
from tilewright.rooms import Outline
from tilewright.tiles import TiledMatrix

if TYPE_CHECKING:
    from distributed import Future

__all__ = ["RemoteTile", "RemoteTiles"]


class RemoteTile(NamedTuple):
    """Where a tile is: the value of a key, one handle's in it, or the transposed one."""

    future: Future
    handle: Handle | None = None
    transposed: bool = False

    @property
    def whole(self) -> bool:
        """Whether the value of the key is the tile."""
        return self.handle is None and not self.transposed

    def node(self, key: Any) -> Any:
        """The node of a Dask graph that is this tile."""
        from dask._task_spec import Alias, Task, TaskRef

        if self.transposed:
            return Task(key, np.transpose, TaskRef(self.future.key))
        if self.handle is None:
            return Alias(key, self.future.key)
        return Task(key, pick, TaskRef(self.future.key), self.handle)

    def chunk(self, key: Any, transposed: bool) -> Any:
        """The node of a Dask graph that is this tile, or the transposed one."""
        from dask._task_spec import Task, TaskRef

        if not transposed or self.transposed:
            return self.node(key)
        return Task(key, pick_transposed, TaskRef(self.future.key), self.handle)


class RemoteTiles(TiledMatrix):
    """A tiled matrix of which this process knows shape and dtype alone: ``A[i, j]`` is an `Outline`.

    ``pieces`` has the places of the tiles that there are; a run reads them, and puts those that it wrote there.
    """

    def __init__(
        self,
        shape: tuple[int, int],
        tile_size: int,
        dtype: Any,
        order: str = "C",
        *,
        upper: bool = False,
        height: int | None = None,
    ) -> None:
        super().__init__(shape, tile_size, dtype, Outline.of(shape, dtype), packed=False, height=height)
        self.order = order
        """The memory order of new tiles."""
        self.pieces: dict[tuple[int, int], RemoteTile] = {}
        self.upper = upper
        """Whether this is the transpose of what the user has."""
        self.name = f"cholesky-{uuid4().hex}"

    def key(self, i: int, j: int) -> tuple[str, int, int]:
        """The key of tile (i, j) as a chunk of the user's dask.array."""
        return (self.name, j, i) if self.upper else (self.name, i, j)
