"""load, store, commit: the tasks that move tiles between memory and a stored matrix.

A handle of a stored tile has a `tilewright.storage.matrix.StoredTile`. To load is to read that handle and to write one
of a buffer, so a load waits for whoever still uses the buffer, and a store for nobody else.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tilewright.graph import Op
from tilewright.storage.checkpoint import Checkpoint, checksum
from tilewright.storage.matrix import StoredTile

__all__ = ["MOVES", "commit", "load", "store"]


def _load(tiles: Sequence[StoredTile], buffers: Sequence[np.ndarray], sums: bool = False) -> None:
    """Tiles that lie next to each other are read together."""
    tiles[0].matrix.read([(tile.row, tile.column) for tile in tiles], buffers)
    tiles[0].matrix.count(read=sum(buffer.nbytes for buffer in buffers))
    if sums:
        for tile, buffer in zip(tiles, buffers, strict=True):
            tile.sum = checksum(buffer)


def _store(buffers: Sequence[np.ndarray], tiles: Sequence[StoredTile], sums: bool = False) -> None:
    if sums:
        for tile, buffer in zip(tiles, buffers, strict=True):
            tile.sum = checksum(buffer)
    tiles[0].matrix.write([(tile.row, tile.column) for tile in tiles], buffers)
    tiles[0].matrix.count(written=sum(buffer.nbytes for buffer in buffers))


def _commit(
    sources: Sequence[StoredTile],
    tiles: Sequence[StoredTile],
    piv: Sequence[np.ndarray],
    log: Checkpoint,
    panel: int,
    last: bool,
) -> None:
    """The block column is final: note it, with the checksums of its tiles and of what they were made of."""
    matrix = tiles[0].matrix
    more = {"piv": piv[0].tolist()} if piv else {}
    log.add(panel, matrix.sync, tiles=[tile.sum for tile in tiles], of=[tile.sum for tile in sources], **more)
    if last:
        log.flush(matrix.sync)


load = Op("load", _load, in_place=True)
store = Op("store", _store, in_place=True)
commit = Op("commit", _commit, weight=0, in_place=True)

MOVES = frozenset((load, store, commit))
"""Those that wait for a disk."""
