"""Tile sizes, chosen from n and the number of workers."""

from __future__ import annotations

__all__ = ["cholesky_tile_size"]


def cholesky_tile_size(n: int, workers: int) -> int:
    """Rows of a tile for `tiled_cholesky`."""
    for limit, size in ((512, 512), (1024, 256), (4096, 384), (6000, 512)):
        if n <= limit:
            return size
    return 768
