"""``tilewright bench dask``: a Cholesky factorisation on one LocalCluster, by dask.array, by us, and on threads.

All on a `LocalCluster` of two workers with one thread each, alternating:

*workers*
    The matrix lies on the workers and the factor has to: ``dask.array.linalg.cholesky`` with the best of four chunk
    sizes, found by one run each; ``tiled_cholesky`` of the same kind of array in our tile size, in both modes.
*numpy*
    The matrix is a NumPy array and so is the factor: ``dask.array.linalg.cholesky`` of ``from_array``, computed, with
    its best chunk size for that; ``tiled_cholesky`` in mode resident.

On both sides the threads engine with a NumPy array. Whole calls; of ours also the execution alone.
"""

from __future__ import annotations

import logging
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import click
import numpy as np

import tilewright as tw
from tilewright.benchmarks import options, record, table
from tilewright.benchmarks.timing import Contender, alternate
from tilewright.linalg.gallery import random_spd
from tilewright.linalg.tuning import cholesky_tile_size

__all__ = ["CHUNKS", "SIDES", "command", "measure"]

CHUNKS = (512, 768, 1024, 1536)
MODES = ("resident", "tasks")
SIDES = ("workers", "numpy")


def measure(n: int, repeat: int, chunks: tuple[int, ...], side: str, *, warm_up: bool = True) -> list[dict[str, Any]]:
    """Times of all contenders for one matrix size and one of `SIDES`."""
    import dask.array as da
    from distributed import Client, LocalCluster, wait

    a = random_spd(n)
    tile = cholesky_tile_size(n, 2)
    runs: dict[str, list[tw.Run]] = {}

    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0", silence_logs=logging.CRITICAL
        ) as cluster,
        Client(cluster) as client,
    ):

        def place(size: int) -> Any:
            """The matrix on the workers; none of it in a graph."""
            cuts = [slice(start, start + size) for start in range(0, n, size)]
            name = f"a-{uuid4().hex[:8]}"
            blocks = {(name, i, j): a[r, c].copy() for i, r in enumerate(cuts) for j, c in enumerate(cuts)}
            graph = client.scatter(blocks, hash=False, direct=True)
            chunks = tuple(len(range(*cut.indices(n))) for cut in cuts)
            return da.Array(graph, name, (chunks, chunks), dtype=a.dtype)

        def on_workers(size: int) -> Callable[[], Any]:
            x = place(size)
            return lambda: wait(da.linalg.cholesky(x, lower=True).persist())

        def from_numpy(size: int) -> Callable[[], Any]:
            return lambda: da.linalg.cholesky(da.from_array(a, chunks=size), lower=True).compute()

        def ours(name: str, x: Any, **options: Any) -> Callable[[], Any]:
            def call() -> None:
                factor, run = tw.tiled_cholesky(x, tile_size=tile, return_run=True, **options)
                if side == "workers" and options.get("client"):
                    wait(factor.persist())
                runs.setdefault(name, []).append(run)

            return call

        theirs = on_workers if side == "workers" else from_numpy
        sizes = [size for size in chunks if size < n]
        found = {
            size: alternate([Contender("", theirs(size))], 1, warm_up=False)[""].median for size in sizes if sizes[1:]
        }
        best = min(found or sizes, key=lambda size: found.get(size, 0.0))
        rival = f"dask.array, chunks of {best}"
        calls = {rival: theirs(best)}
        if side == "workers":
            y = place(tile)
            calls |= {f"ours, {mode}": ours(f"ours, {mode}", y, client=client, mode=mode) for mode in MODES}
        else:
            calls["ours, resident"] = ours("ours, resident", a, client=client, backend="dask", mode="resident")
        calls["threads"] = ours("threads", a, workers=2)
        contenders = [Contender(name, call) for name, call in calls.items()]
        times = alternate(contenders, repeat, warm_up=warm_up)
    flops = n**3 / 3
    base, threads = times[rival].median, times["threads"].median
    records = []
    for name, taken in times.items():
        row: dict[str, Any] = {
            "benchmark": "dask",
            "side": side,
            "contender": name,
            "n": n,
            "tile_size": tile,
            "dtype": "float64",
            "whole_gflops": flops / taken.median / 1e9,
            "faster": base / taken.median,
            "of_threads": threads / taken.median,
            **taken.record(),
        }
        own = runs.get(name, [])[-repeat:]
        if own:
            last = own[-1]
            facts = last.trace.facts
            row |= {
                "gflops": statistics.median(run.gflops for run in own), "submitted": facts.get("submitted"),
                "scheduler": facts.get("scheduler"), "messages": last.messages, "megabytes": last.bytes / 1e6,
                "in_and_out": (facts.get("inputs", 0) + facts.get("results", 0)) / 1e6,
            }  # fmt: skip
        records.append(row)
    records[0]["searched"] = {str(size): flops / seconds / 1e9 for size, seconds in found.items()}
    records[0]["submitted"] = _keys(n, best)
    return records


def _keys(n: int, chunk: int) -> int:
    """How many tasks dask.array submits."""
    import dask.array as da

    x = da.from_array(np.broadcast_to(0.0, (n, n)), chunks=chunk)
    return len(da.linalg.cholesky(x, lower=True).__dask_graph__()) - len(x.__dask_graph__())


@click.command("dask")
@click.option("--n", "sizes", multiple=True, type=click.IntRange(min=2), help="Matrix sizes.  [default: 6144]")
@options.repeat(5)
@click.option("--chunk", "chunks", multiple=True, type=click.IntRange(min=1), help="dask.array's.  [default: all four]")
@click.option(
    "--side", "sides", multiple=True, type=click.Choice(SIDES), help="Where matrix and factor are.  [default: both]"
)
@click.option("--warm-up/--no-warm-up", default=True, show_default=True, help="A round before, not counted.")
@options.output
@options.as_json
def command(
    sizes: tuple[int, ...],
    repeat: int,
    chunks: tuple[int, ...],
    sides: tuple[str, ...],
    warm_up: bool,
    output: Path | None,
    as_json: bool,
) -> None:
    """Cholesky on a Dask cluster: dask.array beside both modes of ours, and threads."""
    for n in sizes or (6144,):
        for side in sides or SIDES:
            records = measure(n, repeat, chunks or CHUNKS, side, warm_up=warm_up)
            record.append(output, records)
            where = "matrix and factor on the workers" if side == "workers" else "NumPy array in and out"
            table.show(
                f"n = {n}, FP64, LocalCluster 2 x 1, {where}, medians of {repeat}",
                "contender",
                {
                    "GFLOP/s": "whole_gflops",
                    "execution": "gflops",
                    "faster": "faster",
                    "of threads": "of_threads",
                    "tasks": "submitted",
                    "scheduler": "scheduler",
                    "MB moved": "megabytes",
                    "in, out": "in_and_out",
                },
                records,
                as_json=as_json,
            )
