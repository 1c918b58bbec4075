"""`tilewright bench tiles`: every sensible tile size of our Cholesky beside the one that is chosen, in one run."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np

import tilewright as tw
from tilewright.benchmarks import options, record, table
from tilewright.benchmarks.timing import Contender, alternate
from tilewright.linalg.gallery import random_spd
from tilewright.linalg.tuning import STEP, cholesky_tile_size
from tilewright.scalars import worker_count

__all__ = ["candidates", "command", "measure"]

SIZES = (1024, 2048, 3072, 6144)
SMALLEST, LARGEST = 96, 1536
"""Smaller tiles have kernels of less than half their rate; with larger ones there is nothing to do at the end."""


def candidates(n: int, chosen: int) -> list[int]:
    """Tile sizes that cut n into equal parts, or nearly: one for each number of tiles, and the chosen one; ascending.

    Examples
    --------
    >>> candidates(1024, 256)
    [96, 128, 160, 192, 224, 256, 352, 512, 1024]
    """
    parts = range(max(1, n // LARGEST), n // SMALLEST + 1)
    sizes = {min(n, math.ceil(n / nt / STEP) * STEP) for nt in parts}
    return sorted({size for size in sizes if SMALLEST <= size <= LARGEST} | {chosen})


def _contenders(a: np.ndarray, sizes: list[int], workers: int, in_place: bool) -> Iterator[Contender]:
    work = np.empty_like(a) if in_place else a
    prepare = partial(np.copyto, work, a) if in_place else lambda: None
    for size in sizes:
        call = partial(
            tw.tiled_cholesky, work, tile_size=size, workers=workers, overwrite_a=in_place, check_finite=not in_place
        )
        yield Contender(str(size), call, prepare)


def measure(
    n: int, repeat: int, *, workers: int | None = None, in_place: bool = False, near: float | None = None
) -> list[dict[str, Any]]:
    """Records of all tile sizes at one n: seconds, and how many times as long as it the chosen one takes.

    With ``near``, only sizes from the chosen one divided by that to the chosen one times that.
    """
    workers = worker_count(workers)
    a = random_spd(n)
    chosen = cholesky_tile_size(n, workers)
    sizes = [size for size in candidates(n, chosen) if near is None or chosen / near <= size <= chosen * near]
    times = alternate(_contenders(a, sizes, workers, in_place), repeat)
    ours = times[str(chosen)].median
    best = min((times[str(size)].median for size in sizes if size != chosen), default=ours)
    return [
        {
            "benchmark": "tiles",
            "n": n,
            "dtype": "float64",
            "workers": workers,
            "in_place": in_place,
            "tile_size": size,
            "chosen": size == chosen,
            "gflops": n**3 / 3 / times[str(size)].median / 1e9,
            **times[str(size)].record(),
            "this_over_chosen": times[str(size)].median / ours,
            "best_other_over_chosen": best / ours,
        }
        for size in sizes
    ]


@click.command("tiles")
@click.option("--n", "sizes", type=int, multiple=True, help="Matrix size; repeat for several.  [default: 1024 to 6144]")
@options.repeat(5)
@click.option("--workers", type=int, help="Threads.  [default: one per core]")
@click.option("--in-place", is_flag=True, help="Overwrite the matrix, without a look for NaN.")
@click.option("--near", type=float, help="Only sizes within this factor of the chosen one.")
@options.output
@options.as_json
def command(
    sizes: tuple[int, ...],
    repeat: int,
    workers: int | None,
    in_place: bool,
    near: float | None,
    output: Path | None,
    as_json: bool,
) -> None:
    """Tile sizes of the Cholesky factorisation in FP64, alternating, medians: is there a better one than ours?"""
    for n in sizes or SIZES:
        records = measure(n, repeat, workers=workers, in_place=in_place, near=near)
        record.append(output, records)
        chosen = next(r["tile_size"] for r in records if r["chosen"])
        title = f"n = {n}, tiles of {chosen} chosen; best other over ours {records[0]['best_other_over_chosen']:.3f}"
        columns = {"seconds": "median", "fastest": "min", "GFLOP/s": "gflops", "this / ours": "this_over_chosen"}
        table.show(title, "tile_size", columns, records, as_json=as_json)
