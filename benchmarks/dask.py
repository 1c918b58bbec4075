"""``tilewright bench dask``: a Cholesky factorisation on one LocalCluster, by dask.array, by us, and on threads.

All on a `LocalCluster` of two workers with one thread each, alternating:

1. ``dask.array.linalg.cholesky`` with the best of four chunk sizes, found by one run each. Its input lies on the
   workers, and its result has to.
2. ``tiled_cholesky`` of the same kind of array in our tile size, in both modes; likewise.
3. ``tiled_cholesky`` of a NumPy array: threads beside Dask, the whole call and the execution alone.
"""

from __future__ import annotations

import logging
import statistics
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import click
import numpy as np

import tilewright as tw
from tilewright.benchmarks import record, table
from tilewright.benchmarks.timing import Contender, alternate
from tilewright.linalg.tuning import cholesky_tile_size
from tilewright.matrices import random_spd

__all__ = ["CHUNKS", "command", "measure"]

CHUNKS = (512, 768, 1024, 1536)
MODES = ("resident", "tasks")


def measure(n: int, repeat: int, chunks: tuple[int, ...], modes: tuple[str, ...] = MODES) -> list[dict[str, Any]]:
    """Times of all contenders for one matrix size."""
    import dask.array as da
    from distributed import Client, LocalCluster, wait

    a = random_spd(n)
    tile = cholesky_tile_size(n, 2)
    runs: dict[str, list[tw.Run]] = {}

    def keep(name: str, run: tw.Run) -> None:
        runs.setdefault(name, []).append(run)

    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0",
                     silence_logs=logging.CRITICAL) as cluster,
        Client(cluster) as client,
    ):  # fmt: skip

        def place(size: int) -> Any:
            """The matrix on the workers; none of it in a graph."""
            cuts = [slice(start, start + size) for start in range(0, n, size)]
            name = f"a-{uuid4().hex[:8]}"
            blocks = {(name, i, j): a[r, c].copy() for i, r in enumerate(cuts) for j, c in enumerate(cuts)}
            graph = client.scatter(blocks, hash=False, direct=True)
            chunks = tuple(len(range(*cut.indices(n))) for cut in cuts)
            return da.Array(graph, name, (chunks, chunks), dtype=a.dtype)

        def theirs(x: Any) -> None:
            wait(da.linalg.cholesky(x, lower=True).persist())

        def ours(x: Any, mode: str, name: str) -> None:
            factor, run = tw.tiled_cholesky(x, client=client, mode=mode, tile_size=tile, return_run=True)
            wait(factor.persist())
            keep(name, run)

        def numpy(name: str, **options: Any) -> None:
            keep(name, tw.tiled_cholesky(a, workers=2, tile_size=tile, return_run=True, **options)[1])

        found = {}
        for size in chunks:
            if size < n:
                x = place(size)
                found[size] = alternate([Contender("", partial(theirs, x))], 1, warm_up=False)[""].median
                del x
        best = min(found, key=found.__getitem__)
        x, y = place(best), place(tile)
        rival = f"dask.array, chunks of {best}"
        arrays = {mode: f"ours, dask.array, {mode}" for mode in modes}
        whole = {"threads": "threads, 2 workers", "resident": "ours, NumPy array, resident"}
        contenders = [
            Contender(rival, lambda: theirs(x), repeat=max(1, repeat // 2)),
            *(Contender(name, partial(ours, y, mode, name)) for mode, name in arrays.items()),
            Contender(whole["threads"], lambda: numpy(whole["threads"])),
            Contender(whole["resident"], lambda: numpy(whole["resident"], backend="dask", client=client)),
        ]
        times = alternate(contenders, repeat)
    flops = n**3 / 3
    base, threads = times[rival].median, times[whole["threads"]].median
    records = []
    for name, taken in times.items():
        row: dict[str, Any] = {
            "benchmark": "dask", "contender": name, "n": n, "tile_size": tile, "dtype": "float64",
            "whole_gflops": flops / taken.median / 1e9, "faster": base / taken.median,
            "of_threads": threads / taken.median, **taken.record(),
        }  # fmt: skip
        own = runs.get(name, [])[1:]
        if own:
            last = own[-1]
            facts = last.trace.facts
            row |= {
                "gflops": statistics.median(run.gflops for run in own), "submitted": facts.get("submitted"),
                "scheduler": facts.get("scheduler"), "messages": last.messages, "megabytes": last.bytes / 1e6,
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
@click.option("--repeat", default=5, show_default=True, help="Rounds to take the median of.")
@click.option("--chunk", "chunks", multiple=True, type=click.IntRange(min=1), help="dask.array's.  [default: all four]")
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="Append JSON lines to this file.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON lines instead of tables.")
def command(sizes: tuple[int, ...], repeat: int, chunks: tuple[int, ...], output: Path | None, as_json: bool) -> None:
    """Cholesky on a Dask cluster: dask.array beside both modes of ours, and threads."""
    for n in sizes or (6144,):
        records = measure(n, repeat, chunks or CHUNKS)
        record.append(output, records)
        table.show(f"n = {n}, FP64, LocalCluster 2 x 1, medians of {repeat}", "contender", {
            "whole call, GFLOP/s": "whole_gflops", "execution": "gflops", "times dask.array": "faster",
            "of threads": "of_threads", "Dask tasks": "submitted", "scheduler": "scheduler", "MB moved": "megabytes",
        }, records, as_json=as_json)  # fmt: skip
