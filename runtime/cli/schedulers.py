"""Commands that plan and compare: ``compare``, ``simulate``, ``report``."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from tilewright.backends import BACKENDS
from tilewright.backends.gpu.accelerators import ACCELERATION
from tilewright.cli.common import Extents, Scheduler, one_sentence, output, picture, progress, together
from tilewright.cli.qr import TREE, parsed
from tilewright.distribution import BlockCyclic
from tilewright.graph import TaskGraph
from tilewright.host.files import replacing
from tilewright.linalg.cholesky import cholesky_graph
from tilewright.linalg.lu_graph import lu_graph
from tilewright.linalg.qr_graph import qr_graph
from tilewright.machine import Machine

__all__ = ["compare", "report", "simulate"]

ALGORITHMS: dict[str, Callable[..., TaskGraph]] = {
    "cholesky": lambda nt, nb, **_: cholesky_graph(nt),
    "lu": lambda nt, nb, **_: lu_graph(nt, nt, shape=(nt * nb, nt * nb), tile_size=nb),
    "qr": lambda nt, nb, mt, tree: _qr(nt if mt is None else mt, nt, nb, tree),
}


def _qr(mt: int, nt: int, nb: int, tree: str) -> TaskGraph:
    return qr_graph(mt, nt, parsed(tree), shape=(mt * nb, nt * nb), tile_size=nb)


F = TypeVar("F", bound=Callable[..., None])


def _planned(command: F) -> F:
    """A command on a graph, a machine and owners, which it gets as `graph`, `machine` and `owner`, from options."""

    @functools.wraps(command)
    def call(
        *, algorithm: str, nt: int, mt: int | None, tree: str, tile_size: int, ranks: int,
        grid: tuple[int, int] | None, gpus: int,
        alpha: float | None, beta: float | None, gamma: float | None, calibrate: bool, **options: Any,
    ) -> None:  # fmt: skip
        if grid is not None and grid[0] * grid[1] != ranks:
            raise click.UsageError(f"--grid {grid[0]}x{grid[1]} has {grid[0] * grid[1]} ranks, --ranks is {ranks}")
        with one_sentence():
            base = Machine.calibrate() if calibrate else Machine()
            given = {"alpha": alpha, "beta": beta, "gamma": gamma}
            machine = base.replace(
                ranks=ranks, workers=max(1, gpus), gpus=gpus, tile_size=tile_size,
                acceleration=ACCELERATION if gpus else {},
                **{name: value for name, value in given.items() if value is not None},
            )  # fmt: skip
            owner = None if grid is None else BlockCyclic(*grid)
            graph = ALGORITHMS[algorithm](nt, tile_size, mt=mt, tree=tree)
            command(graph=graph, machine=machine, owner=owner, **options)

    return _PLANNED(call)  # type: ignore[return-value] # wraps keeps what click knows of the command


_PLANNED = together(
    click.argument("algorithm", type=click.Choice(list(ALGORITHMS))),
    click.option("--nt", type=click.IntRange(0), default=16, show_default=True, help="Columns of tiles."),
    click.option("--mt", type=click.IntRange(0), help="Rows of tiles, of qr.  [default: nt]"),
    click.option("--tree", default="greedy", show_default=True, help=TREE),
    click.option("--tile-size", type=click.IntRange(1), default=256, show_default=True, help="Rows of a tile, nb."),
    click.option("--ranks", type=click.IntRange(1), default=1, show_default=True),
    click.option("--grid", type=Extents(2), metavar="PxQ", help="Block-cyclic owners; else policies place tasks."),
    click.option("--gpus", type=click.IntRange(0), default=0, show_default=True, help="How many workers are GPUs."),
    click.option("--alpha", type=click.FloatRange(0), default=None, help="Seconds per message."),
    click.option("--beta", type=click.FloatRange(0), default=None, help="Seconds per 8-byte word."),
    click.option("--gamma", type=click.FloatRange(0), default=None, help="Seconds per flop."),
    click.option("--calibrate", is_flag=True, help="Take the rates of this computer, measured once and kept."),
    progress,
)


@click.command()
@_planned
@click.option("--workers", default="1,2,4,16,64", show_default=True, help="Workers of each rank, with commas.")
@click.option("--schedulers", default=None, help="Names with commas; by default all that fit.")
@click.option(
    "--backend",
    type=click.Choice(BACKENDS[1:]),  # serial runs in program order, whatever the policy
    default="simulate",
    show_default=True,
    help="Predict, or measure on this computer with a random matrix of nt tiles a side.",
)
@click.option("--repeat", type=click.IntRange(1), help="Runs per row.  [default: 1 if simulated, else 5]")
@picture("--plot", help="Draw it here.")
@output("--html", suffixes=[".html"], help="Write a page that opens offline.")
@output("--csv", suffixes=[".csv"], help="Write the rows. Needs pandas.")
def compare(
    graph: TaskGraph, machine: Machine, owner: BlockCyclic | None, workers: str, schedulers: str | None, backend: str,
    repeat: int | None, plot: Path | None, html: Path | None, csv: Path | None, progress: bool,
) -> None:  # fmt: skip
    """Run one graph under many policies, on the simulator or on this computer, and print the table."""
    from tilewright.backends import engine_class
    from tilewright.studies.schedulers import compare_schedulers

    engine = engine_class(backend)
    table = compare_schedulers(
        graph, _counts(workers), schedulers=_split(schedulers) if schedulers else None,
        machine=machine if engine.plans else None, owner=owner, backend=backend,
        data=None if engine.virtual else _data(graph, machine), repeat=repeat, progress=progress,
    )  # fmt: skip
    click.echo(str(table))
    if plot:
        table.plot(plot)
    if html:
        table.report(html)
    if csv:
        with replacing(csv) as aside:
            table.to_pandas().to_csv(aside, index=False)


@click.command()
@_planned
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Workers of each rank.")
@click.option("--scheduler", type=Scheduler(), default="critical-path", show_default=True)
@click.option("--noise", type=click.FloatRange(0), default=0.0, show_default=True, help="Relative spread of durations.")
@click.option("--seed", default=0, show_default=True)
@output("--html", suffixes=[".html"], help="Write the report.")
@output("--json", "saved", suffixes=[".json"], help="Write the run, for `report`.")
@output("--perfetto", suffixes=[".json"], help="Write a trace for ui.perfetto.dev.")
def simulate(
    graph: TaskGraph, machine: Machine, owner: BlockCyclic | None, workers: int, scheduler: str, noise: float,
    seed: int, html: Path | None, saved: Path | None, perfetto: Path | None, progress: bool,
) -> None:  # fmt: skip
    """Predict one run and print its bounds and idle times."""
    from tilewright.engine import simulate as predict

    machine = machine.replace(workers=max(workers, machine.gpus))
    run = predict(graph, machine, scheduler=scheduler, owner=owner, noise=noise, seed=seed, progress=progress)
    click.echo(str(run))
    if html:
        run.report(html)
    if saved:
        run.save(saved)
    if perfetto:
        run.trace.to_perfetto(perfetto)


@click.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False))
@output("--output", "-o", suffixes=[".html"], default="report.html", show_default=True)
def report(runs: Sequence[str], output: Path) -> None:
    """One HTML page of saved runs, side by side."""
    from tilewright.runs.saved import load

    with one_sentence():
        loaded = [load(path) for path in runs]
    loaded[0].report(output, *loaded[1:])
    click.echo(f"wrote {output}")


def _data(graph: TaskGraph, machine: Machine) -> dict[str, Any]:
    """Data of a graph: a random matrix, positive definite where it is square."""
    import numpy as np

    from tilewright.linalg.gallery import random_spd
    from tilewright.tiles import TiledMatrix

    mt, nt = graph.extents.get("A", (0, 0))
    if mt != nt:
        shape = mt * machine.tile_size, nt * machine.tile_size
        a = np.asfortranarray(np.random.default_rng(0).standard_normal(shape))
        return {"A": TiledMatrix.view(a, machine.tile_size)}
    nt = 1 + max((handle.index[0] for handle in graph.handles_used), default=-1)
    return {"A": TiledMatrix.view(random_spd(nt * machine.tile_size, "float64", 0), machine.tile_size)}


def _counts(text: str) -> list[int]:
    """``"2,16"`` as numbers."""
    try:
        return [int(count) for count in text.split(",")]
    except ValueError:
        raise click.BadParameter(f"{text!r} is not like 2,16", param_hint="'--workers'") from None


def _split(names: str) -> list[str]:
    """At commas outside parentheses: ``lookahead(2),eager``."""
    parts, depth, start = [], 0, 0
    for place, letter in enumerate(names):
        depth += {"(": 1, ")": -1}.get(letter, 0)
        if letter == "," and not depth:
            parts.append(names[start:place])
            start = place + 1
    return [part.strip() for part in [*parts, names[start:]] if part.strip()]
