"""Matrices whose tiles lie on Dask workers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from tilewright.cluster.part import pick
from tilewright.graph import Handle
from tilewright.outline import Outline
from tilewright.tiles import TiledMatrix

if TYPE_CHECKING:
    from distributed import Future

__all__ = ["Piece", "RemoteTiles"]


class Piece(NamedTuple):
    """Where a tile is: the value of a key, or one handle's in it."""

    future: Future
    handle: Handle | None = None

    def node(self, key: Any) -> Any:
        """The node of a Dask graph that is this tile."""
        from dask._task_spec import Alias, Task, TaskRef

        if self.handle is None:
            return Alias(key, self.future.key)
        return Task(key, pick, TaskRef(self.future.key), self.handle)


class RemoteTiles(TiledMatrix):
    """A tiled matrix of which this process knows shape and dtype alone: ``A[i, j]`` is an `Outline`.

    ``pieces`` has the places of the tiles that there are; a run reads them, and puts those that it wrote there.
    """

    def __init__(self, shape: tuple[int, int], tile_size: int, dtype: Any, order: str = "C") -> None:
        super().__init__(shape, tile_size, dtype, Outline.of(shape, dtype), packed=False)
        self.order = order
        """Of new tiles."""
        self.pieces: dict[tuple[int, int], Piece] = {}
