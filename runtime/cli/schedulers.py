"""Commands that plan and compare: ``compare``, ``simulate``, ``report``."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from tilewright.backends import BACKENDS, engine_class
from tilewright.backends.gpu.accelerators import ACCELERATION
from tilewright.cli.common import (
    Json,
    Progress,
    Scheduler,
    as_json,
    emit,
    input_file,
    one_sentence,
    output,
    picture,
    progress,
    together,
    wrote,
)
from tilewright.cli.graphs import documented, graph_command, owning, pin, pinning, placed, split, told, vary
from tilewright.distribution import Distribution
from tilewright.host.files import replacing
from tilewright.machine import Machine
from tilewright.studies.table import Table
from tilewright.studies.workloads import OWNERS, Sizes, Work

__all__ = ["compare", "report", "simulate"]

F = TypeVar("F", bound=Callable[..., None])


class Engines(click.ParamType):
    """Names of engines with commas, or ``all``."""

    name = "names"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return str(value)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from tilewright.studies.engines import ENGINES

        before, comma, last = incomplete.rpartition(",")
        named = [("all", "all that are here"), *((name, kind.summary) for name, kind in ENGINES.items())]
        return [CompletionItem(before + comma + name, help=said) for name, said in named if name.startswith(last)]


def _planned(command: F) -> F:
    """A command on a graph, a machine and owners, which it gets as `work`, `machine` and `owner`, from options."""

    @functools.wraps(command)
    def call(
        *,
        work: Work,
        sizes: Sizes,
        gpus: int,
        alpha: float | None,
        beta: float | None,
        gamma: float | None,
        sockets: int | None,
        socket_alpha: float | None,
        socket_beta: float | None,
        machine: Path | None,
        calibrate: bool,
        owner: str | None,
        **options: Any,
    ) -> None:
        costs = {"alpha": alpha, "beta": beta, "gamma": gamma, "sockets": sockets}
        costs |= {"socket_alpha": socket_alpha, "socket_beta": socket_beta}
        given = {name: value for name, value in costs.items() if value is not None}
        if machine is not None and calibrate:
            raise click.UsageError("--machine names a file, --calibrate measures; one of them says what tasks cost")
        if machine is not None:
            base = Machine.from_json(machine)
        else:
            base = Machine.calibrate() if calibrate else _default(work, bool(given.keys() & {"alpha", "beta", "gamma"}))
        planned = base.replace(
            ranks=sizes.ranks,
            workers=max(1, gpus),
            gpus=gpus,
            tile_size=sizes.tile_size,
            acceleration=(base.acceleration or ACCELERATION) if gpus else {},
            **given,
        )
        command(work=work, machine=planned, owner=placed(owner, sizes, work), **options)

    return _PLANNED(graph_command(call))  # type: ignore[return-value] # wraps keeps what click knows of the command


def _default(work: Work, said: bool) -> Machine:
    """Where nobody says what messages cost: nothing, and tasks take their weight; where there are ranks, a host's."""
    if said or work.graph.layout is None or any(task.op.weight for task in work.graph):
        return Machine()
    from tilewright.comm.cost import MACHINE

    click.echo(
        f"alpha = {MACHINE.alpha:g} s, beta = {MACHINE.beta:g} s a word, gamma = {MACHINE.gamma:g} s a flop; "
        "--alpha, --beta and --gamma say others",
        err=True,
    )
    return MACHINE


_PLANNED = together(
    click.option("--owner", type=click.Choice(OWNERS), help="Who owns which tile; else policies place tasks."),
    click.option("--gpus", type=click.IntRange(0), default=0, show_default=True, help="How many workers are GPUs."),
    click.option("--alpha", type=click.FloatRange(0), default=None, help="Seconds per message."),
    click.option("--beta", type=click.FloatRange(0), default=None, help="Seconds per 8-byte word."),
    click.option("--gamma", type=click.FloatRange(0), default=None, help="Seconds per flop."),
    click.option(
        "--sockets", type=click.IntRange(1), default=None, help="Groups of cores that share a memory.  [default: 1]"
    ),
    click.option(
        "--socket-alpha", type=click.FloatRange(0), default=None, help="Seconds per transfer between sockets."
    ),
    click.option("--socket-beta", type=click.FloatRange(0), default=None, help="Seconds per word between sockets."),
    input_file("--machine", help="What tasks and messages cost, and sockets, of this file of Machine.to_json."),
    click.option("--calibrate", is_flag=True, help="Take the rates of this computer, measured once and kept."),
    progress,
)


@click.command()
@_planned
@vary
@click.option("--workers", default=None, help="Workers of each rank; on an engine all workers.  [default: 1,2,4,16,64]")
@click.option("--schedulers", default=None, help="Names with commas; by default all that fit.")
@click.option(
    "--backend",
    type=click.Choice(BACKENDS[1:]),  # serial runs in program order, whatever the policy
    default="simulate",
    show_default=True,
    help="Predict, or measure on this computer with random data.",
)
@click.option(
    "--engines",
    type=Engines(),
    help="Measure these engines side by side, such as threads,mpi:2x1,dask,futures; or all that are here.",
)
@pin
@click.option("--repeat", type=click.IntRange(1), help="Rounds of runs.  [default: 1 if simulated, else 5]")
@picture("--plot", help="Draw it here.")
@output("--html", suffixes=[".html"], help="Write a page that opens offline.")
@output("--csv", suffixes=[".csv"], help="Write the rows. Needs pandas.")
@as_json
@documented
def compare(
    work: Work,
    problems: Mapping[str, Mapping[str, Work]],
    varied: Mapping[str, list[Any]],
    machine: Machine,
    owner: Distribution | None,
    workers: str | None,
    schedulers: str | None,
    backend: str,
    engines: str | None,
    pin: str | None,
    repeat: int | None,
    plot: Path | None,
    html: Path | None,
    csv: Path | None,
    as_json: Json,
    progress: Progress,
) -> None:
    """Run one graph under many policies, on the simulator or on this computer, and say who wins.

    --vary tree=greedy,flat puts graphs side by side that do the same in other ways, --vary nt=8,16 makes a table of
    each size; --engines compares engines.
    """
    if plot is not None and len(problems) > 1:
        raise click.UsageError("--plot draws one table; --html has all sizes on one page")
    if engines is not None:
        if pin is not None:
            raise click.UsageError("--engines has threads:pinned; leave out --pin")
        if owner is not None:
            raise click.UsageError(
                "--engines compares engines with the owners that each has by default; leave out --owner and --grid"
            )
        if varied or len(problems) > 1:
            raise click.UsageError("--engines compares engines on one graph; leave out --vary")

    def compared(works: Mapping[str, Work]) -> Table:
        if engines is not None:
            return _engines(works, engines, machine, workers, schedulers, repeat, progress)
        return _policies(works, varied, machine, owner, workers, schedulers, backend, pin, repeat, progress)

    tables = [compared(works) for works in problems.values()]
    found = [_facts(table) for table in tables]
    emit(
        found[0] if len(tables) == 1 else {"tables": found}, as_json, lambda: click.echo("\n\n".join(map(str, tables)))
    )
    if plot:
        tables[0].plot(plot)
    if html:
        tables[0].report(html, *tables[1:])
    if csv:
        import pandas

        frames = [
            table.to_pandas().assign(**{"graph": table.graph.name} if len(tables) > 1 else {}) for table in tables
        ]
        with replacing(csv) as aside:
            pandas.concat(frames).to_csv(aside, index=False)
    wrote(plot, html, csv)


def _facts(table: Table) -> dict[str, Any]:
    """What ``--json`` says of a table."""
    return {
        "graph": table.graph.name,
        "tasks": len(table.graph),
        "backend": table.backend,
        "unit": table.units,
        "rows": [asdict(row) for row in table.rows],
        "verdicts": table.verdicts(),
        "advice": table.advice(),
        "absent": table.absent,
    }


@click.command()
@_planned
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Workers of each rank.")
@click.option("--scheduler", type=Scheduler(), default="critical-path", show_default=True)
@click.option("--noise", type=click.FloatRange(0), default=0.0, show_default=True, help="Relative spread of durations.")
@output("--html", suffixes=[".html"], help="Write the report.")
@picture("--gantt", help="Draw the run here (.png, .svg or .pdf).")
@output("--perfetto", suffixes=[".json"], help="Write a trace for ui.perfetto.dev.")
@as_json
@documented
def simulate(
    work: Work,
    machine: Machine,
    owner: Distribution | None,
    workers: int,
    scheduler: str,
    noise: float,
    html: Path | None,
    gantt: Path | None,
    perfetto: Path | None,
    as_json: Json,
    progress: Progress,
) -> None:
    """Predict one run and print its bounds and idle times. --json has the run, for `report`."""
    from tilewright.engine import simulate as predict

    seed = click.get_current_context().params["seed"]
    machine = machine.replace(workers=max(workers, machine.gpus))
    run = predict(work.graph, machine, scheduler=scheduler, owner=owner, noise=noise, seed=seed, progress=progress)
    told(run, as_json, html=html, gantt=gantt, perfetto=perfetto)


@click.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False))
@output("--output", "-o", suffixes=[".html"], default="report.html", show_default=True)
def report(runs: Sequence[str], output: Path) -> None:
    """One HTML page of saved runs, side by side."""
    from tilewright.runs.saved import load

    with one_sentence():
        loaded = [load(path) for path in runs]
    loaded[0].report(output, *loaded[1:])
    wrote(output)


def _policies(
    works: Mapping[str, Work],
    varied: Mapping[str, list[Any]],
    machine: Machine,
    owner: Distribution | None,
    workers: str | None,
    schedulers: str | None,
    backend: str,
    pin: str | None,
    repeat: int | None,
    progress: Any,
) -> Table:
    """The table of policies, and of graphs that do the same."""
    from tilewright.host.cores import cores
    from tilewright.studies.schedulers import compare_schedulers

    engine = engine_class(backend)
    first = next(iter(works.values()))
    if not engine.virtual and first.data is None:
        raise ValueError(f"nobody knows data for graph {first.graph.name!r}; --backend simulate needs none")
    options = owning(owner, backend) | pinning(pin, backend)
    counts = _counts(workers) if workers else [1, 2, 4, 16, 64] if engine.virtual else sorted({1, cores()})
    several = len(works) > 1
    data: Any = {name: found.data for name, found in works.items()} if several else first.data
    return compare_schedulers(
        {name: found.graph for name, found in works.items()} if several else first.graph,
        counts,
        schedulers=split(schedulers) if schedulers else None,
        machine=machine if engine.virtual or (engine.plans and machine != Machine()) else None,
        backend=backend,
        data=None if engine.virtual else data,
        repeat=repeat,
        vary=varied or None,
        progress=progress,
        **options,
    )


def _engines(
    works: Mapping[str, Work],
    engines: str,
    machine: Machine,
    workers: str | None,
    schedulers: str | None,
    repeat: int | None,
    progress: Any,
) -> Table:
    """The table of ``--engines``."""
    from tilewright.studies.engines import compare_engines

    context = click.get_current_context()
    if context.get_parameter_source("backend") is not click.core.ParameterSource.DEFAULT:
        raise click.UsageError("--engines names the engines; leave out --backend")
    if len(works) > 1:
        raise click.UsageError("--engines compares engines on one graph; leave out --vary")
    counts = _counts(workers) if workers else [None]
    policies = split(schedulers) if schedulers else ["critical-path"]
    if len(counts) != 1 or len(policies) != 1:
        raise click.UsageError("--engines compares engines under one policy, on one number of --workers")
    (work,) = works.values()
    if work.data is None:
        raise ValueError(f"nobody knows data for graph {work.graph.name!r}; engines compute, so they need some")
    return compare_engines(
        work.graph,
        work.data,
        None if engines == "all" else split(engines),
        workers=counts[0],
        scheduler=policies[0],
        machine=machine if machine != Machine() else None,
        repeat=repeat,
        progress=progress,
    )


def _counts(text: str) -> list[int]:
    """``"2,16"`` as numbers."""
    try:
        return [int(count) for count in text.split(",")]
    except ValueError:
        raise click.BadParameter(f"{text!r} is not like 2,16", param_hint="'--workers'") from None
