"""``tilewright cholesky``: factor a matrix and say how it went."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tilewright.cli.common import (
    DTYPES,
    PRECISIONS,
    Json,
    Progress,
    as_json,
    emit,
    engine_options,
    one_sentence,
    order_and_file,
    output,
    picture,
    progress,
)
from tilewright.host.files import write_text
from tilewright.kernels.products import ROUTES

if TYPE_CHECKING:
    import numpy as np

    from tilewright.graph import TaskGraph

__all__ = ["cholesky"]


@click.command()
@order_and_file
@click.option("--dtype", type=click.Choice(DTYPES), help="[default: the file's, or float64]")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the random matrix.")
@click.option("--upper", is_flag=True, help="Factor into U^H U instead of L L^H.")
@click.option(
    "--precision", type=click.Choice(PRECISIONS), help="Format of products' operands.  [default: the dtype's own]"
)
@click.option("--route", type=click.Choice(ROUTES), help="How 16-bit products are computed.  [default: the best here]")
@click.option("--emulate", is_flag=True, help="Has no effect: no format needs it.", hidden=True)
@engine_options
@click.option("--repeat", type=click.IntRange(min=1), default=1, show_default=True, help="Runs; the median counts.")
@click.option("--compare", is_flag=True, help="Also time numpy, scipy and torch, in turns.")
@output("--trace", suffixes=[".json"], help="Write the trace here, for ui.perfetto.dev.")
@output("--dag", suffixes=[".svg", ".dot", ".gv"], help="Draw the factorisation's task graph here (.svg or .dot).")
@picture("--gantt", help="Draw the run here (.png, .svg or .pdf).")
@as_json
@progress
def cholesky(
    n: int | None,
    matrix: Path | None,
    dtype: str | None,
    seed: int,
    upper: bool,
    tile_size: int | None,
    backend: str,
    scheduler: str,
    workers: int | None,
    repeat: int,
    compare: bool,
    trace: Path | None,
    dag: Path | None,
    gantt: Path | None,
    as_json: Json,
    progress: Progress,
    precision: str | None,
    route: str | None,
    emulate: bool,
) -> None:
    """Factor a symmetric positive definite matrix and say how it went."""
    from tilewright.benchmarks.job import cholesky_job

    if precision is None and route:
        raise click.UsageError("--route is for products in a --precision")
    options: dict[str, Any] = {"precision": precision, "route": route} if precision else {}
    with one_sentence():
        a = _matrix(n, matrix, dtype, seed)
        result, run = cholesky_job(
            a,
            lower=not upper,
            tile_size=tile_size,
            backend=backend,
            scheduler=scheduler,
            workers=workers,
            repeat=repeat,
            compare=compare,
            progress=progress,
            **options,
        )
        result["source"] = str(matrix) if matrix else f"random, seed {seed}"
        files = {"trace": trace, "dag": dag, "gantt": gantt}
        if trace:
            run.trace.to_perfetto(trace)
        if dag:
            _write_graph(_graph(result["nt"], precision), dag)
        if gantt:
            from tilewright.plot.gantt import gantt as draw_gantt

            draw_gantt(run, gantt)
        result["files"] = {name: str(path) for name, path in files.items() if path}

    def show() -> None:
        from tilewright.cli import tables

        tables.show_job(result)

    emit(result, as_json, show)
    if not result["passed"]:
        raise click.exceptions.Exit(1)


def _matrix(n: int | None, path: Path | None, dtype: str | None, seed: int) -> np.ndarray:
    from tilewright.linalg.gallery import load_matrix, random_spd

    if path is None:
        return random_spd(4096 if n is None else n, dtype or "float64", seed)
    a = load_matrix(path)
    if a.dtype.kind == "c" and dtype is not None and not dtype.startswith("complex"):
        raise ValueError(f"{path.name!r} is {a.dtype}; as {dtype} it would lose its imaginary part")
    wanted = dtype or ("float64" if a.dtype.kind in "biu" else a.dtype)
    converted: np.ndarray = a.astype(wanted, copy=False)
    return converted


def _graph(nt: int, precision: str | None) -> TaskGraph:
    """The factorisation's graph, with the conversions of a precision. No route: the machine does not matter."""
    from tilewright.linalg.cholesky import cholesky_graph
    from tilewright.passes.conversions import with_conversions
    from tilewright.precision import PrecisionMap

    graph = cholesky_graph(nt)
    if precision is None:
        return graph
    return with_conversions(graph, PrecisionMap.uniform(nt, precision), lambda form: "reference")


def _write_graph(graph: TaskGraph, path: Path) -> None:
    if path.suffix.lower() == ".svg":
        graph.to_svg(path)
    else:
        write_text(path, graph.to_dot())
