"""load, store, commit: tasks that move tiles between memory and a stored matrix; and those of parts of a checkpoint.

A handle of a stored tile has a `tilewright.storage.matrix.StoredTile`. To load is to read that handle and to write one
of a buffer, so a load waits for whoever still uses the buffer, and a store for nobody else.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tilewright.graph import Handle, Op
from tilewright.storage import parts
from tilewright.storage.checkpoint import Checkpoint
from tilewright.storage.checksums import CheckpointError, checksum
from tilewright.storage.matrix import StoredTile

__all__ = [
    "MOVES",
    "commit",
    "compare",
    "gather",
    "keep",
    "load",
    "load_told",
    "restore",
    "scatter",
    "settle",
    "store",
    "store_after",
    "weigh",
]


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


def _weigh(tiles: Sequence[np.ndarray], sums: np.ndarray, halves: tuple[str, ...]) -> None:
    """Checksums of tiles of the matrix; of those on its diagonal of one ``"lower"`` or ``"upper"`` half."""
    for place, (tile, half) in enumerate(zip(tiles, halves, strict=True)):
        sums[place] = int(_sum(tile, half), 16)


def _sum(tile: np.ndarray, half: str) -> str:
    return checksum(tile if not half else np.tril(tile) if half == "lower" else np.triu(tile))


def _compare(
    tiles: Sequence[np.ndarray],
    same: np.ndarray,
    folder: str,
    what: str,
    handles: tuple[Handle, ...],
    halves: tuple[str, ...],
    sums: tuple[str, ...],
) -> None:
    """CheckpointError if tiles of the matrix are not those that a checkpoint was begun with."""
    for tile, handle, half, sum_ in zip(tiles, handles, halves, sums, strict=True):
        if _sum(tile, half) != sum_:
            raise CheckpointError(
                f"{folder} was begun with another matrix: {what} has other numbers in tile {handle.index}"
            )
    same[...] = 1


def _restore(tile: np.ndarray, folder: str, where: parts.TileInPart, name: str) -> None:
    parts.read_tile(folder, where, tile, name)


def _keep(
    tiles: Sequence[np.ndarray],
    sums: Sequence[np.ndarray],
    same: Sequence[np.ndarray],
    kept: np.ndarray,
    folder: str,
    run: str,
    handles: tuple[Handle, ...],
    sources: tuple[tuple[Handle, ...], ...],
    every: float,
    wait: bool,
) -> None:
    """Tiles are final: let them become a part of the checkpoint. ``same`` and ``kept`` are for the order alone."""
    found = [
        (handle, f"{int(value):016x}")
        for some, values in zip(sources, sums, strict=True)
        for handle, value in zip(some, values, strict=True)
    ]
    parts.keep(folder, run, handles, tiles, found, every=every, wait=wait)


def _settle(kept: np.ndarray, folder: str, run: str) -> None:
    """Wait until what this process writes is on the disk."""
    parts.settle(folder, run)


def _load_told(
    tiles: Sequence[StoredTile], buffers: Sequence[np.ndarray], told: Sequence[np.ndarray], sums: bool = False
) -> None:
    """The same, and whoever is to write these tiles next may do so."""
    _load(tiles, buffers, sums)
    for one in told:
        one[...] = 1


def _store_after(
    buffers: Sequence[np.ndarray], tiles: Sequence[StoredTile], told: Sequence[np.ndarray], sums: bool = False
) -> None:
    """When all have told that they read what was there."""
    _store(buffers, tiles, sums)


def _gather(
    order: np.ndarray, whole: Sequence[np.ndarray], tiles: Sequence[StoredTile], buffers: Sequence[np.ndarray]
) -> None:
    """Tiles of a matrix whose row r is row ``order[r]`` of the file; those of the same rows are read together.

    ``whole`` is for the order of tasks alone: their rows may have been stored as rows of any tile.
    """
    start = 0
    while start < len(tiles):
        end, column = start, tiles[start].column
        while end < len(tiles) and (tiles[end].row, tiles[end].column) == (tiles[start].row, column):
            column += tiles[end].shape[1]
            end += 1
        first = tiles[start]
        first.matrix.read_rows(order[first.row : first.row + first.shape[0]], first.column, buffers[start:end])
        start = end
    if tiles:
        tiles[0].matrix.count(read=sum(buffer.nbytes for buffer in buffers))


def _scatter(order: np.ndarray, buffer: np.ndarray, tile: StoredTile, sums: bool = False) -> None:
    if sums:
        tile.sum = checksum(buffer)
    tile.matrix.write_rows(order[tile.row : tile.row + tile.shape[0]], tile.column, [buffer])
    tile.matrix.count(written=buffer.nbytes)


gather = Op("load", _gather, in_place=True)
scatter = Op("store", _scatter, in_place=True)
load = Op("load", _load, in_place=True)
load_told = Op("load", _load_told, in_place=True)
store_after = Op("store", _store_after, in_place=True)
store = Op("store", _store, in_place=True)
commit = Op("commit", _commit, weight=0, in_place=True)
weigh = Op("weigh", _weigh, weight=0, in_place=True)
compare = Op("compare", _compare, weight=0, in_place=True)
restore = Op("restore", _restore, weight=0, in_place=True)
keep = Op("keep", _keep, weight=0, in_place=True)
settle = Op("settle", _settle, weight=0, in_place=True)

MOVES = frozenset(("load", "store", "commit"))
"""The names of those that wait for a disk."""
