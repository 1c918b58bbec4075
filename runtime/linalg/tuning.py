"""Tile sizes, by rule: from n, the number of workers, and what is known of the computer without asking a clock.

Bits depend on the tile size. So it comes from facts that stay: the second level of the caches and the rates of
`tilewright.rates`, which are a table's or were stored. Whoever makes a call chooses, and hands on what was chosen.
"""

from __future__ import annotations

import math
from functools import lru_cache

from tilewright.kernels.caches import level2
from tilewright.rates import Rates, current

__all__ = [
    "ONE_STAGE",
    "ONE_TILE",
    "STEP",
    "band_width",
    "cholesky_tile_size",
    "eigen_plan",
    "lu_plan",
    "lu_together",
    "mixed_lu_tile_size",
    "mixed_tile_size",
    "product_tile_size",
    "sketch_tile_size",
    "svd_plan",
]

ONE_TILE = 576
"""Up to here LAPACK on one core beats any graph of smaller tiles, whose threads take as long to start."""

STEP = 32
"""Tile sizes are multiples of it, and so of the widest registers and of the blocks inside kernels."""

_SMALLEST = 96  # below, kernels run at less than half their rate
_LARGEST = 1024  # larger ones gain nothing, and lengthen the tail
_NARROW_SMALLEST = 224

_NEAR = 2.0  # times the rate of memory: from other tasks' tiles, of which some lie in the caches of all cores
_LEVEL2 = 4.0  # times the second level: larger tiles measured no faster, Xeon (2 MiB) at 1024 and EPYC (1 MiB) at 724
_HALF_FACTOR = 400.0  # rows at which potrf of a tile runs at half the rate of products: 21 of 45 GFLOP/s at 224
_HALF_SOLVE = 96.0  # the same of trsm and syrk
_QUEUE = 4  # workers that can be given tasks at the same time: policy and frontier have one lock
_START = (
    1.2e-3  # seconds in which threads start and end and caches fill, on cores that idled; Xeon, n = 1024: 0.6 to 1.3
)


def cholesky_tile_size(n: int, workers: int, *, rates: Rates | None = None, cache: int | None = None) -> int:
    """Rows of a tile for `tiled_cholesky`: that with the least predicted time, of those that cut n into equal parts.

    With t x t tiles of nb rows and p workers, a flop takes 1/rate in a product, (1 + h/nb)/rate in a kernel that is
    half as fast at nb = h, and 16/nb bytes from other caches, or 16/b for tiles larger than the b x b that take four
    times the second level, as the library then works in such blocks [1]_. With W(m) the time of all tasks of the last
    m steps and C(m) that of their longest chain::

        T = W(t)/p + max_m (C(m) - W(m)/p) + tasks handed out + threads started

    where the maximum is the time in which too few tasks are ready for all workers. O(t^2), once for each n.

    .. [1] K. Goto and R. van de Geijn, Anatomy of high-performance matrix multiplication, ACM TOMS 34 (2008).

    Parameters
    ----------
    rates, cache
        Rates of a computer, and bytes of its second-level cache for each core; by default this computer's.

    Examples
    --------
    >>> from tilewright.rates import by_rule
    >>> zen4 = {"rates": by_rule(frozenset({"avx512f"})), "cache": 1 << 20}
    >>> [cholesky_tile_size(n, workers=2, **zen4) for n in (100, 1024, 3072, 6144, 12288)]
    [100, 256, 512, 768, 768]
    >>> cholesky_tile_size(12288, workers=64, **zen4)
    448
    """
    if n <= ONE_TILE:
        return max(n, 1)
    rates = current() if rates is None else rates
    cache = level2() if cache is None else cache
    return _fastest(n, workers, rates.flops["fp64"], rates.bandwidth, rates.task, cache)


@lru_cache(maxsize=256)
def _fastest(n: int, workers: int, flops: float, bandwidth: float, task: float, cache: int) -> int:
    block = math.sqrt(_LEVEL2 * cache / 8)

    def seconds(nt: int) -> float:
        nb = n / nt
        moved = 16 / min(nb, block) / (_NEAR * bandwidth)
        potrf = nb**3 / 3 * ((1 + _HALF_FACTOR / nb) / flops + moved)
        trsm = syrk = nb**3 * ((1 + _HALF_SOLVE / nb) / flops + moved)
        gemm = 2 * nb**3 * (1 / flops + moved)

        def work(m: int) -> float:
            return m * potrf + m * (m - 1) / 2 * (trsm + syrk) + m * (m - 1) * (m - 2) / 6 * gemm

        def chain(m: int) -> float:
            by_diagonal = m * potrf + (m - 1) * (trsm + syrk)
            by_products = 2 * potrf + (m - 1) * trsm + (m - 2) * gemm + syrk
            return max(by_diagonal, by_products if m > 1 else 0.0)

        idle = 0.0
        for m in range(1, nt + 1):  # rises, then falls
            if (more := chain(m) - work(m) / workers) < idle:
                break
            idle = more
        tasks = nt * (nt + 1) * (nt + 2) / 6 + nt * (nt + 1) / 2 + nt  # also copies, and what clears the triangle
        handed_out = tasks * task / min(workers, _QUEUE)
        return work(nt) / workers + idle + handed_out + (_START if nt > 2 else 0.0)  # up to 2 x 2 one worker does all

    parts = range(math.ceil(n / _LARGEST), n // _SMALLEST + 1)
    return _even(n, min(parts, key=seconds))


def _even(n: int, nt: int) -> int:
    """The tile size that cuts n into so many parts, all but the last of which are as large as each other."""
    return min(n, math.ceil(n / nt / STEP) * STEP)


def mixed_tile_size(n: int, workers: int) -> int:
    """Rows of a tile for a factorisation with narrow operands.

    Products on AMX want larger tiles than FP64 does, and the FP32 parts work in smaller blocks inside a tile: an eighth
    of n, up to 1024, or less where that leaves workers without tiles (t x t tiles keep about t^2/9 busy).

    Examples
    --------
    >>> [mixed_tile_size(n, workers=2) for n in (100, 1024, 4096, 8192)]
    [100, 224, 512, 1024]
    """
    if n <= ONE_TILE:
        return max(n, 1)
    size = min(max(n / max(8, math.ceil(math.sqrt(18 * workers))), _NARROW_SMALLEST), _LARGEST)
    return _even(n, math.ceil(n / size))


def product_tile_size(extent: int, workers: int) -> int:
    """Rows of a tile for products and what is made of them, from the largest extent.

    Tiles of 512 rows are multiplied at the rate of whole matrices; smaller ones give all workers four tiles of a square
    result.

    Examples
    --------
    >>> [product_tile_size(n, workers=2) for n in (100, 500, 1000, 4096)]
    [100, 192, 352, 512]
    """
    if extent <= _SMALLEST:
        return max(extent, 1)
    parts = max(math.ceil(extent / 512), min(math.ceil(math.sqrt(4 * workers)), extent // _SMALLEST))
    return _even(extent, parts)


def lu_plan(k: int, workers: int, here: bool, size: int | None = None) -> tuple[int, str]:
    """Rows of a tile for `lu_factor` of k pivots, and the kind of update for tiles of that or another ``size``.

    A panel of one task with updates by tile keeps about 1.1 nt workers busy, with updates by block column 0.44 nt.
    Where that is enough, a block column is one call of the library, which packs the panel once and not for every tile
    (Xeon with AMX, two cores, n = 4096, tiles of 384, processor time: 0.81 of dgemm's rate against 0.77).

    Examples
    --------
    >>> lu_plan(100, 2, True), lu_plan(2048, 2, True), lu_plan(4096, 2, True), lu_plan(4096, 16, True)
    ((100, 'tile'), (224, 'column'), (384, 'column'), (256, 'tile'))
    """
    if size is None:
        size = max(k, 1)
        if k > _NARROW_SMALLEST:
            wanted = min(max(k / max(10, math.ceil(math.sqrt(18 * workers))), 128), 384)
            size = math.ceil(k / math.ceil(k / wanted) / STEP) * STEP
    by_column = here and 1 < workers <= 0.3 * k / size
    return size, "column" if by_column else "tile"


_TOGETHER = 768  # columns of panels that update a block column together


def lu_together(k: int, size: int) -> int:
    """How many panels of ``size`` columns update a block column of a matrix of k pivots together.

    A block column is exchanged and goes through products once for all of them, with more flops a number. Up to 768
    columns, and a fifth of the panels: the others beyond them wait for the last.

    Examples
    --------
    >>> lu_together(4096, 384), lu_together(4096, 256), lu_together(2048, 224), lu_together(1024, 512)
    (2, 3, 2, 1)
    """
    return max(1, min(_TOGETHER // size, -(-k // size) // 5))


def eigen_plan(n: int, workers: int, vectors: bool, size: int | None = None) -> tuple[int, int]:
    """Rows of a tile for `eigh` of order n, and the half-width of the band, for tiles of that or another ``size``.

    One tile and no band, 0, up to `ONE_STAGE`: LAPACK reduces a matrix that lies in a cache as fast on one core as two
    stages do on a few. Beyond, panels as wide as the band make products with as many columns, and the way back through
    the bulges multiplies by blocks of b/2 reflectors: both want it wide. Chasing bulges takes 6 n^2 b flops at a lower
    rate, which counts where that is all.

    Examples
    --------
    >>> eigen_plan(100, 2, False), eigen_plan(4096, 2, False), eigen_plan(4096, 2, True), eigen_plan(300, 2, True, 100)
    ((100, 0), (512, 64), (512, 128), (100, 32))
    """
    if size is None:
        size = max(n, 1) if n <= ONE_STAGE else min(512, _even(n, max(4, math.ceil(n / 512))))
    if n <= min(size, ONE_STAGE):
        return size, 0
    return size, min(size, 32 if n < 1024 else 128 if vectors else 64)


ONE_STAGE = 1024
"""Rows up to which half of an FP64 matrix, 4 MiB, lies in the second level of the caches or near it."""

_EIGEN_SMALL = 256


def band_width(n: int, nb: int, band: int) -> int:
    """The widest band up to ``band`` of an n x n matrix in tiles of nb rows: panels of that width cut tiles evenly.

    Examples
    --------
    >>> band_width(4096, 512, 48), band_width(4096, 250, 64), band_width(100, 100, 32), band_width(1, 8, 8)
    (32, 50, 32, 1)
    """
    band = max(min(band, n - 1), 1)
    if n <= nb:
        return band
    return next(width for width in range(min(band, nb), 0, -1) if nb % width == 0)


def sketch_tile_size(k: int, workers: int) -> int:
    """Rows of a tile for products with few vectors: a few blocks of rows for each worker, as each adds one of n x l."""
    return max(1, min(k, max(256, min(1024, _even(max(k, 1), 2 * workers)))))


def svd_plan(k: int, workers: int, size: int | None = None) -> tuple[int, int]:
    """Rows of a tile for `svdvals` of k values, and the width of the band, for tiles of that or another ``size``."""
    if size is None:
        size = max(k, 1) if k <= _EIGEN_SMALL else min(512, _even(k, max(4, math.ceil(k / 512))))
    return size, min(size, 32)


def mixed_lu_tile_size(n: int, workers: int) -> int:
    """Rows of a tile for an LU factorisation with narrow operands.

    A panel is one task in FP32, whose flops grow with the tile size while products get faster with it.

    Examples
    --------
    >>> [mixed_lu_tile_size(n, workers=2) for n in (100, 1024, 4096, 8192)]
    [100, 128, 512, 512]
    """
    if n <= _NARROW_SMALLEST:
        return max(n, 1)
    size = min(max(n / max(8, math.ceil(math.sqrt(18 * workers))), 128), 512)
    return _even(n, math.ceil(n / size))
