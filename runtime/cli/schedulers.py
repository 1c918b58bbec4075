"""Commands that plan and compare: ``compare``, ``simulate``, ``report``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from tilewright.cli.common import File, one_sentence, writable
from tilewright.distribution import BlockCyclic
from tilewright.graph import TaskGraph
from tilewright.linalg.cholesky import cholesky_graph
from tilewright.machine import Machine

__all__ = ["compare", "report", "simulate"]

ALGORITHMS: dict[str, Callable[[int], TaskGraph]] = {"cholesky": cholesky_graph}

F = TypeVar("F", bound=Callable[..., Any])


def _machine_options(function: F) -> F:
    """Options that describe a machine, and the graph to run on it."""
    options = [
        click.argument("algorithm", type=click.Choice(list(ALGORITHMS))),
        click.option("--nt", type=click.IntRange(0), default=16, show_default=True, help="Tiles a side."),
        click.option("--tile-size", type=click.IntRange(1), default=256, show_default=True, help="Rows of a tile, nb."),
        click.option("--ranks", type=click.IntRange(1), default=1, show_default=True),
        click.option("--grid", default=None, metavar="PxQ", help="Block-cyclic owners; else policies place tasks."),
        click.option("--gpus", type=click.IntRange(0), default=0, show_default=True, help="How many workers are GPUs."),
        click.option("--alpha", type=click.FloatRange(0), default=None, help="Seconds per message."),
        click.option("--beta", type=click.FloatRange(0), default=None, help="Seconds per 8-byte word."),
        click.option("--gamma", type=click.FloatRange(0), default=None, help="Seconds per flop."),
        click.option("--calibrate", is_flag=True, help="Take the rates of this computer, measured once and kept."),
        click.option("--progress/--no-progress", default=None, help="[default: on a terminal]"),
    ]
    for option in reversed(options):
        function = option(function)
    return function


@click.command()
@_machine_options
@click.option("--workers", default="1,2,4,16,64", show_default=True, help="Workers of each rank, with commas.")
@click.option("--schedulers", default=None, help="Names with commas; by default all that fit.")
@click.option(
    "--backend",
    type=click.Choice(["simulate", "threads"]),
    default="simulate",
    show_default=True,
    help="Predict, or measure on this computer with a random matrix of nt tiles a side.",
)
@click.option("--repeat", type=click.IntRange(1), default=None, help="Runs per row. [default: 5 on threads, else 1]")
@click.option("--plot", type=File, callback=writable(".png", ".svg", ".pdf"), help="Draw it here.")
@click.option("--html", type=File, callback=writable(".html"), help="Write a page that opens offline.")
@click.option("--csv", type=File, callback=writable(".csv"), help="Write the rows. Needs pandas.")
def compare(
    algorithm: str, nt: int, workers: str, schedulers: str | None, backend: str, repeat: int | None,
    plot: Path | None, html: Path | None, csv: Path | None, grid: str | None, progress: bool | None, **machine: Any,
) -> None:  # fmt: skip
    """Run one graph under many policies, on the simulator or on this computer, and print the table."""
    from tilewright.compare import compare_schedulers

    with one_sentence():
        table = compare_schedulers(
            ALGORITHMS[algorithm](nt), [int(count) for count in workers.split(",")],
            schedulers=_split(schedulers) if schedulers else None, machine=_machine(**machine),
            owner=_owner(grid, machine["ranks"]), backend=backend,
            data=_matrix(nt, machine["tile_size"]) if backend == "threads" else None,
            repeat=repeat, progress=sys.stderr.isatty() if progress is None else progress,
        )  # fmt: skip
        click.echo(str(table))
        if plot:
            table.plot(plot)
        if html:
            table.report(html)
        if csv:
            table.to_pandas().to_csv(csv, index=False)


@click.command()
@_machine_options
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Workers of each rank.")
@click.option("--scheduler", default="critical-path", show_default=True)
@click.option("--noise", type=click.FloatRange(0), default=0.0, show_default=True, help="Relative spread of durations.")
@click.option("--seed", default=0, show_default=True)
@click.option("--html", type=File, callback=writable(".html"), help="Write the report.")
@click.option("--json", "saved", type=File, callback=writable(".json"), help="Write the run, for `report`.")
@click.option("--perfetto", type=File, callback=writable(".json"), help="Write a trace for ui.perfetto.dev.")
def simulate(
    algorithm: str, nt: int, workers: int, scheduler: str, noise: float, seed: int, html: Path | None,
    saved: Path | None, perfetto: Path | None, grid: str | None, progress: bool | None, **machine: Any,
) -> None:  # fmt: skip
    """Predict one run and print its bounds and idle times."""
    from tilewright.backends.simulate import simulate as predict

    with one_sentence():
        run = predict(
            ALGORITHMS[algorithm](nt), _machine(workers=workers, **machine), scheduler=scheduler,
            owner=_owner(grid, machine["ranks"]), noise=noise, seed=seed,
            progress=sys.stderr.isatty() if progress is None else progress,
        )  # fmt: skip
    click.echo(str(run))
    if html:
        run.report(html)
    if saved:
        run.save(saved)
    if perfetto:
        run.trace.to_perfetto(perfetto)


@click.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False))
@click.option("--output", "-o", type=File, callback=writable(".html"), default="report.html", show_default=True)
def report(runs: Sequence[str], output: Path) -> None:
    """One HTML page of saved runs, side by side."""
    from tilewright.saved import load

    with one_sentence():
        loaded = [load(path) for path in runs]
    loaded[0].report(output, *loaded[1:])
    click.echo(f"wrote {output}")


def _machine(
    *, ranks: int, gpus: int, tile_size: int, alpha: float | None, beta: float | None, gamma: float | None,
    calibrate: bool, workers: int | None = None,
) -> Machine:  # fmt: skip
    """The machine of the options; a GPU runs the updates 20 times as fast as a core where nothing is known."""
    base = Machine.calibrate() if calibrate else Machine()
    given = {"alpha": alpha, "beta": beta, "gamma": gamma}
    acceleration = {"gemm": 20.0, "syrk": 20.0, "trsm": 10.0} if gpus else {}
    return base.replace(
        ranks=ranks, workers=max(workers or 1, gpus), gpus=gpus, tile_size=tile_size, acceleration=acceleration,
        **{name: value for name, value in given.items() if value is not None},
    )  # fmt: skip


def _matrix(nt: int, tile_size: int) -> dict[str, Any]:
    """Data of the graph: a random positive definite matrix."""
    from tilewright.matrices import random_spd
    from tilewright.tiles import TiledMatrix

    return {"A": TiledMatrix.view(random_spd(nt * tile_size, "float64", 0), tile_size)}


def _owner(grid: str | None, ranks: int) -> BlockCyclic | None:
    """Tile (i, j) on rank (i mod P) Q + j mod Q."""
    if grid is None:
        return None
    try:
        p, q = (int(extent) for extent in grid.lower().split("x"))
    except ValueError:
        raise click.UsageError(f"--grid must be like 2x2, not {grid!r}") from None
    if p < 1 or q < 1 or p * q != ranks:
        raise click.UsageError(f"--grid {grid} has {p * q} ranks, --ranks is {ranks}")
    return BlockCyclic(p, q)


def _split(names: str) -> list[str]:
    """At commas outside parentheses: ``lookahead(2),eager``."""
    parts, depth, start = [], 0, 0
    for place, letter in enumerate(names):
        depth += {"(": 1, ")": -1}.get(letter, 0)
        if letter == "," and not depth:
            parts.append(names[start:place])
            start = place + 1
    return [part.strip() for part in [*parts, names[start:]] if part.strip()]
