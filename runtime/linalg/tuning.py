"""Tile sizes, chosen from n and the number of workers."""

from __future__ import annotations

import math

__all__ = ["ONE_TILE", "cholesky_tile_size", "lu_plan", "mixed_tile_size"]

ONE_TILE = 576  # up to here LAPACK on one core beats any graph of smaller tiles
_SMALLEST, _LARGEST = 224, 768  # below, kernels lose half their rate; above, the rate is flat and the tail grows
_MIXED = 1024  # with narrow operands; larger tiles gain little and lengthen the tail
_STEP = 32


def cholesky_tile_size(n: int, workers: int) -> int:
    """Rows of a tile for `tiled_cholesky`.

    The graph of t x t tiles keeps t^3 / (9t - 10), about t^2/9, workers busy; twice as many as there are leaves
    room for the start and the tail: t = sqrt(18 workers). Within limits measured on a CPU with AVX-512.

    Examples
    --------
    >>> [cholesky_tile_size(n, workers=2) for n in (100, 1024, 3072, 6144, 12288)]
    [100, 224, 512, 768, 768]
    >>> cholesky_tile_size(12288, workers=64)
    384
    """
    if n <= ONE_TILE:
        return max(n, 1)
    tiles = math.ceil(math.sqrt(18 * workers))
    size = min(max(n / tiles, _SMALLEST), _LARGEST)
    even = n / math.ceil(n / size)  # the last tile as large as the others
    return math.ceil(even / _STEP) * _STEP


def mixed_tile_size(n: int, workers: int) -> int:
    """Rows of a tile for a factorisation with narrow operands.

    Products on AMX want larger tiles than FP64 does, and the FP32 parts work in smaller blocks inside a tile: an eighth
    of n, up to 1024, or less where that leaves workers without tiles.

    Examples
    --------
    >>> [mixed_tile_size(n, workers=2) for n in (100, 1024, 4096, 8192)]
    [100, 224, 512, 1024]
    """
    if n <= ONE_TILE:
        return max(n, 1)
    size = min(max(n / max(8, math.ceil(math.sqrt(18 * workers))), _SMALLEST), _MIXED)
    even = n / math.ceil(n / size)
    return math.ceil(even / _STEP) * _STEP


def lu_plan(k: int, workers: int, here: bool, size: int | None = None) -> tuple[int, str]:
    """Rows of a tile for `lu_factor` of k pivots, and the kind of update for tiles of that or another ``size``.

    A panel of one task with updates by tile keeps about 1.1 nt workers busy, with updates by block column 0.44 nt.
    Tiles of 320 rows and more are multiplied at the full rate; of smaller ones a whole block column in one call is
    faster (Xeon with AMX, two cores, n = 4096: 384 by tile 94 GFLOP/s and by column 82, 256 by tile 70 and by column
    86).

    Examples
    --------
    >>> lu_plan(100, 2, True), lu_plan(2048, 2, True), lu_plan(4096, 2, True), lu_plan(4096, 16, True)
    ((100, 'tile'), (224, 'column'), (384, 'tile'), (256, 'tile'))
    """
    if size is None:
        size = max(k, 1)
        if k > _SMALLEST:
            wanted = min(max(k / max(10, math.ceil(math.sqrt(18 * workers))), 128), 384)
            size = math.ceil(k / math.ceil(k / wanted) / _STEP) * _STEP
    by_column = here and size < 320 and 1 < workers <= 0.3 * k / size
    return size, "column" if by_column else "tile"
