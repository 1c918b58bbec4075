"""`tilewright bench lu`: our LU beside SciPy, torch and Dask, and beside the best product of matrices, in one run."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import scipy.linalg

import tilewright as tw
from tilewright.benchmarks import options, record, table
from tilewright.benchmarks.ceiling import ceiling_size, ceilings
from tilewright.benchmarks.rivals import dask_threads
from tilewright.benchmarks.timing import Contender, alternate

__all__ = ["command", "measure"]

SIZES = (512, 1024, 2048, 4096)
CHUNKS = (2048, 1024, 512, 256)
"""Rows of dask's chunks, to choose from."""
OURS, IN_PLACE = "tilewright", "tilewright in place"


def contenders(a: np.ndarray, *, dask: bool = True, **options: Any) -> Iterator[Contender]:
    """Everything that factors ``a``, which lies by columns. Those in place get a fresh copy, off the clock."""
    work = np.empty_like(a, order="F")
    restore = partial(np.copyto, work, a)
    yield Contender(OURS, lambda: tw.lu_factor(a, **options))
    yield Contender(IN_PLACE, lambda: tw.lu_factor(work, overwrite_a=True, check_finite=False, **options), restore)
    yield Contender("scipy", lambda: scipy.linalg.lu_factor(a))
    yield Contender(
        "scipy in place", lambda: scipy.linalg.lu_factor(work, overwrite_a=True, check_finite=False), restore
    )
    if importlib.util.find_spec("torch"):
        import torch

        tensor = torch.from_numpy(np.ascontiguousarray(a))
        yield Contender("torch", lambda: torch.linalg.lu_factor(tensor))
    if dask and importlib.util.find_spec("dask"):
        yield _dask(a)
    yield from ceilings(len(a))


def _dask(a: np.ndarray) -> Contender:
    """`dask.array.linalg.lu`, which pivots inside diagonal blocks alone, with the fastest of some chunk sizes."""
    import dask.array as da

    n = len(a)
    chunks = [chunk for chunk in CHUNKS if n % chunk == 0 and n >= 2 * chunk] or [n]
    calls = {chunk: dask_threads(*da.linalg.lu(da.from_array(a, chunks=chunk))) for chunk in chunks}
    tried = alternate((Contender(str(chunk), call) for chunk, call in calls.items()), 1)
    best = min(calls, key=lambda chunk: tried[str(chunk)].median)
    return Contender(f"dask threads, chunks of {best}", calls[best], repeat=2)


def measure(n: int, repeat: int, **options: Any) -> list[dict[str, Any]]:
    """Records of all contenders at one size: seconds, GFLOP/s, the ratio of our speed to theirs, share of dgemm."""
    rng = np.random.default_rng(0)
    a = np.asfortranarray(rng.standard_normal((n, n)))
    factor = tw.lu_factor(a, **options)
    x = rng.standard_normal(n)
    residual = np.abs(a @ factor.solve(x) - x).max()
    nb = factor.tile_size
    times = alternate(contenders(a, dask=1024 <= n <= 4096, **options), repeat)
    size = ceiling_size(n)
    rates = [2.0 * size**3 / taken.median / 1e9 for name, taken in times.items() if name.startswith("dgemm")]
    records = []
    for name, taken in times.items():
        ceiling = name.startswith("dgemm")
        rate = (2.0 * size**3 if ceiling else 2 / 3 * n**3) / taken.median / 1e9
        ours = times[IN_PLACE if "in place" in name else OURS].median
        records.append(
            {
                "benchmark": "lu",
                "contender": name,
                "n": n,
                "dtype": "float64",
                "tile_size": nb,
                "gflops": rate,
                **taken.record(),
                "residual": float(residual),
                "share": rate / max(rates) if rates else None,
                "ours_over_this": None if ceiling else taken.median / ours,
            }
        )
    return records


@click.command("lu")
@click.option("--n", "sizes", type=int, multiple=True, help="Matrix size; repeat for several.  [default: 512 to 4096]")
@options.repeat(5)
@click.option("--tile-size", type=int, help="Tile size.  [default: chosen]")
@click.option("--update", type=click.Choice(["tile", "column"]), help="Kind of update.  [default: chosen]")
@options.output
@options.as_json
def command(
    sizes: tuple[int, ...], repeat: int, tile_size: int | None, update: str | None, output: Path | None, as_json: bool
) -> None:
    """LU in FP64 on all cores, side by side, alternating, medians."""
    for n in sizes or SIZES:
        records = measure(n, repeat, tile_size=tile_size, update=update)
        record.append(output, records)
        title = f"n = {n}, tiles of {records[0]['tile_size']}"
        columns = {"seconds": "median", "GFLOP/s": "gflops", "of dgemm": "share", "ours / this": "ours_over_this"}
        table.show(title, "contender", columns, records, as_json=as_json)
