"""`tilewright bench cholesky`: our Cholesky beside NumPy, SciPy, torch, LAPACK in place and Dask, in one run."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np

import tilewright as tw
from tilewright.benchmarks import options, record, table
from tilewright.benchmarks.ceiling import ceiling_size, ceilings, potrf_in_place, threaded_libraries
from tilewright.benchmarks.rivals import dask_threads, rivals
from tilewright.benchmarks.timing import Contender, Times, alternate
from tilewright.linalg.gallery import random_spd
from tilewright.linalg.residual import THRESHOLD, cholesky_ratio_by_products

__all__ = ["command", "measure"]

SIZES = (64, 128, 256, 512, 1024, 2048, 3072, 6144, 12288)
OURS, IN_PLACE = "tilewright", "tilewright in place"


def contenders(a: np.ndarray, *, dask: bool = True, **options: Any) -> Iterator[Contender]:
    """Everything that factors ``a``. Those in place get a fresh copy each time, off the clock."""
    work = np.empty_like(a)
    restore = partial(np.copyto, work, a)
    yield Contender(OURS, lambda: tw.tiled_cholesky(a, **options))
    yield Contender(IN_PLACE, lambda: tw.tiled_cholesky(work, overwrite_a=True, check_finite=False, **options), restore)
    for name, call in rivals(a).items():
        yield Contender(name, call)
    for library in threaded_libraries():
        yield Contender(f"dpotrf {library.name}", potrf_in_place(library, work), restore)
    if dask and importlib.util.find_spec("dask"):
        yield Contender("dask threads", _dask(a), repeat=2)
    yield from ceilings(len(a))


def _dask(a: np.ndarray) -> Callable[[], Any]:
    """`dask.array.linalg.cholesky`."""
    import dask.array as da

    n = len(a)
    chunk = next((c for c in (768, 512, 1024, 384, 256, 128) if n % c == 0 and n >= 4 * c), n)
    return dask_threads(da.linalg.cholesky(da.from_array(a, chunks=chunk), lower=True))


def measure(n: int, repeat: int, **options: Any) -> list[dict[str, Any]]:
    """Records of all contenders at one size: seconds, GFLOP/s, and the ratio of our speed to theirs."""
    a = random_spd(n)
    factor, run = tw.tiled_cholesky(a, return_run=True, **options)
    ratio = cholesky_ratio_by_products(a, factor)
    del factor
    times = alternate(contenders(a, dask=1024 <= n <= 6144, **options), repeat)
    records = []
    for name, taken in times.items():
        ceiling = name.startswith("dgemm")
        flops = 2.0 * ceiling_size(n) ** 3 if ceiling else n**3 / 3
        records.append(
            {
                "benchmark": "cholesky",
                "contender": name,
                "n": n,
                "dtype": "float64",
                "tile_size": run.store.families["A"].tile_size,
                "gflops": flops / taken.median / 1e9,
                **taken.record(),
                "ratio": ratio if name == OURS else None,
                "passed": ratio < THRESHOLD,
                "ours_over_this": None if ceiling else taken.median / _fair(times, name).median,
            }
        )
    return records


def _fair(times: dict[str, Times], name: str) -> Times:
    """Our times to compare with: in place against in place."""
    return times[IN_PLACE if name.startswith("dpotrf") or name == IN_PLACE else OURS]


@click.command("cholesky")
@click.option("--n", "sizes", type=int, multiple=True, help="Matrix size; repeat for several.  [default: 64 to 12288]")
@options.repeat(7)
@click.option("--tile-size", type=int, help="Tile size.  [default: chosen]")
@click.option("--scheduler", default="critical-path", show_default=True, help="Policy of our runs.")
@options.output
@options.plot("Draw rates against n.")
@options.as_json
def command(
    sizes: tuple[int, ...],
    repeat: int,
    tile_size: int | None,
    scheduler: str,
    output: Path | None,
    plot: Path | None,
    as_json: bool,
) -> None:
    """Cholesky in FP64 on all cores, side by side, alternating, medians."""
    collected: list[dict[str, Any]] = []
    for n in sizes or SIZES:
        records = measure(n, repeat if n < 8192 else min(repeat, 3), tile_size=tile_size, scheduler=scheduler)
        collected += records
        record.append(output, records)
        ratio = records[0]["ratio"]
        title = f"n = {n}, tiles of {records[0]['tile_size']}, LAPACK ratio {ratio:.2g}"
        columns = {"seconds": "median", "GFLOP/s": "gflops", "ours / this": "ours_over_this"}
        table.show(title, "contender", columns, records, as_json=as_json)
    if plot:
        from tilewright.benchmarks.plot import rates

        rates(collected, plot)
