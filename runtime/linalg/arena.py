"""Memory for many tiles in one piece, laid out for the caches."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tilewright.graph import Handle, TaskGraph
from tilewright.host.memory import room
from tilewright.passes.conversions import copy_outline
from tilewright.tiles import TiledMatrix

__all__ = ["copies", "in_tiles"]


def copies(
    graph: TaskGraph, tiles: TiledMatrix, *, by_columns: bool = False
) -> dict[str, dict[tuple[int, ...], np.ndarray]]:
    """Room for the copies that a graph makes, by family, each tile on a cache line of one arena."""
    data: dict[str, dict[tuple[int, ...], np.ndarray]] = {}
    for name in sorted(name for name in graph.temporary if ":" in name):
        handles = [handle for handle in graph.written if handle.name == name]
        _, dtype = copy_outline(handles[0], (1, 1))
        data[name] = dict(_arena(handles, tiles, dtype, by_columns))
    return data


def in_tiles(tiles: TiledMatrix, dtype: str) -> Iterator[tuple[tuple[int, ...], np.ndarray]]:
    """Room for the tiles of a lower triangle."""
    return _arena([Handle("", (i, j)) for j in range(tiles.nt) for i in range(j, tiles.nt)], tiles, dtype)


def _arena(
    handles: list[Handle], tiles: TiledMatrix, dtype: str, by_columns: bool = False
) -> Iterator[tuple[tuple[int, ...], np.ndarray]]:
    """A tile for each handle in one arena. Rows, or columns, are an odd number of cache lines long.

    Rows a power of two apart share few sets of a cache: with such rows in both operands and the result products took
    20 % longer.
    """
    whole, _ = copy_outline(handles[0], (tiles.tile_size, tiles.tile_size))
    lines = -(-tiles.tile_size * np.dtype(dtype).itemsize // 64) | 1
    length = lines * 64 // np.dtype(dtype).itemsize
    arena = room((len(handles), *whole[:-1], length), dtype, huge=True)
    for place, handle in enumerate(handles):
        i, j = handle.index
        rows, columns = tiles[i, j].shape
        tile = arena[place, ..., :columns, :rows].swapaxes(-1, -2) if by_columns else arena[place, ..., :rows, :columns]
        yield handle.index, tile
