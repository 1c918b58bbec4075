"""`tilewright bench outofcore`: factorisations with memory of a part of the matrix beside those in core."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np

import tilewright as tw
from tilewright.benchmarks import options, record, table
from tilewright.benchmarks.timing import Contender, alternate
from tilewright.linalg.slab_plan import cholesky_plan, lu_plan_in
from tilewright.rates import current
from tilewright.scalars import worker_count

__all__ = ["command", "measure"]

IN_CORE, OUTSIDE, CHECKPOINT, SAVED = "in core", "out of core", "out of core, checkpoint", "in core, checkpoint"


def measure(
    routine: str, n: int, repeat: int, *, part: float = 0.25, tile_size: int | None = None, folder: Path | None = None
) -> list[dict[str, Any]]:
    """Records of one routine, "cholesky" or "lu": seconds, the time in core over this one, bytes over the formula.

    ``part`` of the bytes of the matrix is the memory of those out of core. The matrix lies in a file, which the system
    caches if it has the memory.
    """
    rng = np.random.default_rng(0)
    a = rng.standard_normal((n, n))
    if routine == "cholesky":
        a = a + a.T
        a[np.diag_indices(n)] += 4 * np.sqrt(n) + 4
    call: Callable[..., Any] = tw.tiled_cholesky if routine == "cholesky" else tw.lu_factor
    same: dict[str, Any] = {} if routine == "cholesky" else {"update": "tile"}
    place = Path(tempfile.mkdtemp(prefix=".tilewright-bench-", dir=folder))
    try:
        np.save(place / "a.npy", a)
        _, first = call(a, tile_size=tile_size, return_run=True, **same)
        nb = first.store.families["A"].tile_size
        memory = int(part * a.nbytes)
        outside = {"out": place / "out.npy", "memory": memory, "tile_size": nb}
        runs: dict[str, Any] = {}

        def go(name: str, matrix: Any, **how: Any) -> Callable[[], None]:
            def once() -> None:
                runs[name] = call(matrix, return_run=True, **how)[1]

            return once

        def fresh() -> None:
            shutil.rmtree(place / "run", ignore_errors=True)
            (place / "out.npy").unlink(missing_ok=True)

        kept = {"checkpoint": place / "run"}
        times = alternate([
            Contender(IN_CORE, go(IN_CORE, a, tile_size=nb, **same)),
            Contender(SAVED, go(SAVED, a, tile_size=nb, **kept), fresh),
            Contender(OUTSIDE, go(OUTSIDE, place / "a.npy", **outside), fresh),
            Contender(CHECKPOINT, go(CHECKPOINT, place / "a.npy", **outside, **kept), fresh),
        ], repeat)  # fmt: skip
        wanted = _formula(routine, n, nb, a.itemsize, memory)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    base = times[IN_CORE].median
    records = []
    for name, taken in times.items():
        facts = runs[name].trace.facts if name in runs else {}
        moved = facts.get("read", 0) + facts.get("written", 0)
        outside_ = name in (OUTSIDE, CHECKPOINT)
        records.append(
            {
                "benchmark": "outofcore",
                "routine": routine,
                "contender": name,
                "n": n,
                "dtype": "float64",
                "tile_size": nb,
                "memory": memory if outside_ else None,
                "peak": runs[name].measured if outside_ else None,
                **taken.record(),
                "of_in_core": base / taken.median,
                "moved": moved if outside_ else None,
                "over_formula": moved / wanted if outside_ else None,
            }
        )
    return records


def _formula(routine: str, n: int, nb: int, item: int, memory: int) -> float:
    """Bytes read and written by slabs of the widths that fit: docs/outofcore.md."""
    workers = worker_count(None)
    plan = (
        cholesky_plan(n, nb, item, memory, workers)
        if routine == "cholesky"
        else lu_plan_in((n, n), nb, item, memory, workers)
    )
    if plan.slabs.height:
        nt = -(-n // nb)
        return float((plan.passing + nt * (nt + 1)) * nb * nb * item)
    numbers = 0.0
    for s0, s1 in plan.slabs.bounds:
        a, b = s0 * nb, min(s1 * nb, n)
        numbers += a * (n - a) if routine == "cholesky" else a * n - a * (a - nb) / 2
        numbers += (b - a) * (2 * n - a - b + nb) if routine == "cholesky" else 4 * n * (b - a)
    return numbers * item


@click.command("outofcore")
@click.option("--n", "sizes", type=click.IntRange(min=1), multiple=True, help="Order.  [default: 4096]")
@click.option("--routine", "routines", type=click.Choice(["cholesky", "lu"]), multiple=True, help="[default: both]")
@click.option(
    "--part",
    type=click.FloatRange(0, min_open=True),
    default=0.25,
    show_default=True,
    help="Memory, of the bytes of the matrix.",
)
@click.option("--tile-size", type=click.IntRange(min=1), help="Rows of a tile.  [default: chosen]")
@click.option(
    "--folder",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Where files go: the disk that is measured.  [default: that of temporary files]",
)
@options.repeat(3)
@options.output
@options.as_json
def command(
    sizes: tuple[int, ...],
    routines: tuple[str, ...],
    part: float,
    tile_size: int | None,
    folder: Path | None,
    repeat: int,
    output: Path | None,
    as_json: bool,
) -> None:
    """Cholesky and LU with memory of a part of the matrix, and with checkpoints, beside those in core."""
    current()
    for n in sizes or (4096,):
        for routine in routines or ("cholesky", "lu"):
            records = measure(routine, n, repeat, part=part, tile_size=tile_size, folder=folder)
            record.append(output, records)
            title = f"{routine}, n = {n}, tiles of {records[0]['tile_size']}"
            columns = {
                "seconds": "median",
                "in core / this": "of_in_core",
                "memory": "memory",
                "peak": "peak",
                "bytes / formula": "over_formula",
            }
            table.show(title, "contender", columns, records, as_json=as_json)
