"""``tilewright lu``: factor a general matrix and say how it went."""

from __future__ import annotations

import warnings
from pathlib import Path
from statistics import median
from typing import Any

import click

from tilewright.cli.common import (
    DTYPES,
    Json,
    Progress,
    as_json,
    emit,
    engine_options,
    general_matrix,
    one_sentence,
    order_and_file,
    output,
    progress,
    wrote,
)
from tilewright.linalg.lu_graph import PANELS, PIVOTING, UPDATES

__all__ = ["lu"]


@click.command()
@order_and_file
@click.option("--dtype", type=click.Choice(DTYPES), help="[default: the file's, or float64]")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the random matrix.")
@click.option("--pivoting", type=click.Choice(PIVOTING), help="How pivots are chosen.  [default: partial]")
@click.option("--update", type=click.Choice(UPDATES), help="Tasks of the update.  [default: chosen]")
@click.option("--panel", type=click.Choice(PANELS), help="Tasks of a panel.  [default: by workers]")
@click.option(
    "--threshold", type=click.FloatRange(0, 1, min_open=True), help="tau of threshold pivoting.  [default: 0.5]"
)
@engine_options
@click.option("--repeat", type=click.IntRange(min=1), default=1, show_default=True, help="Runs; the median counts.")
@output("--trace", suffixes=[".json"], help="Write the trace here, for ui.perfetto.dev.")
@as_json
@progress
def lu(
    n: int | None,
    matrix: Path | None,
    dtype: str | None,
    seed: int,
    pivoting: str | None,
    update: str | None,
    panel: str | None,
    threshold: float | None,
    tile_size: int | None,
    backend: str,
    scheduler: str,
    workers: int | None,
    repeat: int,
    trace: Path | None,
    as_json: Json,
    progress: Progress,
) -> None:
    """Factor a general matrix, P A = L U, and say how it went."""
    import numpy as np

    import tilewright as tw
    from tilewright.linalg.general import backward_errors
    from tilewright.linalg.residual import unit_roundoff

    with one_sentence():
        a = general_matrix(n, matrix, dtype, seed)
        how: dict[str, Any] = {"backend": backend, "scheduler": scheduler, "workers": workers}
        seconds = []
        for _ in range(repeat):
            with warnings.catch_warnings():
                warnings.filterwarnings(
                    "ignore", message="Diagonal number", category=RuntimeWarning
                )  # the table says it
                factor = tw.lu_factor(
                    a,
                    tile_size=tile_size,
                    pivoting=pivoting,
                    update=update,
                    panel=panel,
                    threshold=threshold,
                    progress=progress,
                    **how,
                )
            seconds.append(factor.run.makespan)
        run = factor.run
        if trace:
            run.trace.to_perfetto(trace)
        m, k = a.shape[0], min(a.shape)
        result: dict[str, Any] = {
            "shape": list(a.shape), "dtype": str(a.dtype), "tile_size": factor.tile_size, "tasks": len(run.graph),
            "backend": run.backend, "workers": run.workers, "seconds": median(seconds), "info": factor.info,
            "gflops": run.flops / median(seconds) / 1e9 if median(seconds) else 0.0, "growth": factor.growth,
            "messages": run.messages, "source": str(matrix) if matrix else f"random, seed {seed}", "rcond": None,
            "ratio": None, "passed": True,
        }  # fmt: skip
        if m == k == a.shape[1] and not factor.info and m:
            b = a @ np.ones(m, a.dtype)
            error = float(backward_errors(a, factor.solve(b), b, factor.norms[2]).max())
            ratio = error / unit_roundoff(a.dtype)
            result |= {"rcond": factor.rcond(), "ratio": ratio, "passed": bool(ratio < 30)}
    emit(result, as_json, lambda: click.echo(_text(result)))
    wrote(trace)
    if not result["passed"]:
        raise click.exceptions.Exit(1)


def _text(result: dict[str, Any]) -> str:
    m, n = result["shape"]
    rows = [
        f"lu        {m} x {n}, {result['dtype']}, {result['source']}",
        f"run       {result['tasks']} tasks, tiles of {result['tile_size']}, {result['backend']}, "
        f"{result['workers']} workers, {result['messages']} messages",
        f"time      {result['seconds']:.4g} s, {result['gflops']:.4g} GFLOP/s",
        f"growth    {result['growth']:.3g}",
    ]
    if result["info"]:
        rows.append(f"singular  diagonal number {result['info']} of U is exactly zero")
    if result["rcond"] is not None:
        rows.append(f"rcond     {result['rcond']:.2e}")
        verdict = "passes" if result["passed"] else "does not pass"
        rows.append(f"ratio     {result['ratio']:.2g} of LAPACK's test of solutions (< 30): {verdict}")
    return "\n".join(rows)
