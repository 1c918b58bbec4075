"""Graphs at the shell: the argument and options by which commands name one; ``dag`` draws it, ``run`` runs it."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from tilewright.backends import COMPUTING, DEFAULT, engine_class
from tilewright.cli.common import (
    PRECISIONS,
    Extents,
    Json,
    Progress,
    Scheduler,
    as_json,
    emit,
    one_sentence,
    output,
    picture,
    progress,
    together,
    wrote,
)
from tilewright.cli.qr import TREE, parsed
from tilewright.distribution import Distribution, owners
from tilewright.graph import Layout, TaskGraph
from tilewright.host.affinity import PIN
from tilewright.host.files import write_text
from tilewright.linalg.lu_graph import PANELS, PIVOTING, UPDATES
from tilewright.scalars import nearby
from tilewright.studies.workloads import OWNERS, WORKLOADS, Sizes, Work, owner_of, workload
from tilewright.units import size

__all__ = ["SIZES", "dag", "graph_command", "owner", "owning", "pin", "pinning", "placed", "run", "split", "vary"]

F = TypeVar("F", bound=Callable[..., None])


class GraphName(click.ParamType):
    """A name of `WORKLOADS`, ``random:SEED``, ``file.py:function``, or a file of a graph."""

    name = "graph"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return str(value)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        named = [CompletionItem(name, help=row.summary) for name, row in WORKLOADS.items()]
        return [item for item in named if item.value.startswith(incomplete)] or [CompletionItem("", type="file")]


SIZES = together(
    click.option("--nt", type=click.IntRange(0), help="Tile columns, blocks a side, leaves or layers.  [default: 16]"),
    click.option("--mt", type=click.IntRange(0), help="Tile rows.  [default: nt]"),
    click.option("--tile-size", type=click.IntRange(1), default=256, show_default=True, help="Rows of a tile, nb."),
    click.option("--n", type=click.IntRange(0), help="Order of a matrix, or words of a vector."),
    click.option("--ranks", type=click.IntRange(1), default=1, show_default=True),
    click.option("--grid", type=Extents(2), metavar="PxQ", help="Rows and columns of ranks."),
    click.option(
        "--steps", type=click.IntRange(1), default=4, show_default=True, help="Steps of an iteration or training."
    ),
    click.option(
        "--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of random graphs and data."
    ),
    click.option(
        "--algorithm", default="auto", show_default=True, help="Rounds of a collective, such as tree or ring."
    ),
    click.option(
        "--pivoting", type=click.Choice(PIVOTING), default="partial", show_default=True, help="Pivoting of lu."
    ),
    click.option("--update", type=click.Choice(UPDATES), default="tile", show_default=True, help="Update of lu."),
    click.option("--panel", type=click.Choice(PANELS), default="single", show_default=True, help="Panels of lu."),
    click.option("--tree", default="greedy", show_default=True, help=TREE),
    click.option("--precision", type=click.Choice(PRECISIONS), help="Format of the products of cholesky."),
)
"""How large a graph is."""


def graph_command(command: F, **defaults: Any) -> F:
    """A command on the graph that its first argument names; it gets `work`, a `Work`, and `sizes`.

    Numbers of ``defaults`` stand where an option was not given. With `vary` it gets also `problems`, by what each
    varies of `SIZED` the works that are compared, and `varied`, values of the backend's options.
    """

    @functools.wraps(command)
    def call(graph: str, **options: Any) -> None:
        if options["grid"] is not None:
            p, q = options["grid"]
            if options["ranks"] not in (1, p * q):
                raise click.UsageError(f"--grid {p}x{q} has {p * q} ranks, --ranks is {options['ranks']}")
            options["ranks"] = p * q
        mine = {field.name: options.pop(field.name) for field in fields(Sizes)}
        mine |= {name: value for name, value in defaults.items() if mine[name] is None}
        with one_sentence():
            if "vary" in options:
                wishes = options.pop("vary")
                options["varied"] = _told(wishes)
                of_graph = [wish for wish in wishes if wish.partition("=")[0] not in TOLD]
                changes = _changes(graph, [wish for wish in of_graph if wish.partition("=")[0] not in SIZED])
                problems = _changes(graph, [wish for wish in of_graph if wish.partition("=")[0] in SIZED])
                options["problems"] = {
                    problem: {name: workload(graph, _sizes(mine | size | change)) for name, change in changes.items()}
                    for problem, size in problems.items()
                }
                sizes = _sizes(mine | next(iter(problems.values())) | next(iter(changes.values())))
                work = next(iter(next(iter(options["problems"].values())).values()))
            else:
                sizes = _sizes(mine)
                work = workload(graph, sizes)
            command(work=work, sizes=sizes, **options)

    return click.argument("graph", type=GraphName(), metavar="GRAPH")(SIZES(call))  # type: ignore[return-value]


pin = click.option("--pin", type=click.Choice(PIN), help="Bind each worker of threads or mpi to a core of its own.")


def pinning(pin: str | None, backend: str) -> dict[str, Any]:
    """The option of the engine that ``--pin`` asks for."""
    if pin is not None and "pin" not in engine_class(backend).options:
        raise click.UsageError(f"--pin is for engines that bind workers: threads and mpi, not {backend}")
    return {} if pin is None else {"pin": pin}


owner = click.option("--owner", type=click.Choice(OWNERS), help="Who owns which tile, as --grid does.")


def placed(owner: str | None, sizes: Sizes, work: Work) -> Distribution | None:
    """The rule of ``--owner``, or of ``--grid`` for a graph that does not say where its data lives; None without."""
    wanted = owner or ("grid" if sizes.grid is not None and work.graph.layout is None else None)
    return None if wanted is None else owner_of(wanted, sizes)


def owning(rule: Distribution | None, backend: str) -> dict[str, Any]:
    """The option of the engine that ``--owner`` or ``--grid`` asks for."""
    engine = engine_class(backend)
    if rule is not None and "owner" not in engine.options:
        raise click.UsageError(f"--owner and --grid are for engines with ranks: mpi, dask, simulate; not {backend}")
    if rule is not None and rule.ranks == 1 and not engine.virtual:
        raise click.UsageError("--owner deals tiles out to several ranks; say how many with --ranks or --grid")
    return {} if rule is None else {"owner": rule}


def _dealt(graph: TaskGraph, rule: Distribution) -> TaskGraph:
    """The graph, which says where its data lives, and not how large it is."""
    mine = copy.copy(graph)
    mine.layout = Layout(rule.ranks, owners(rule, rule.ranks), lambda handle: ())
    return mine


TOLD: dict[str, Callable[[str], Any]] = {"window": lambda text: size(text, "window"), "broadcast": str}
"""Options of a backend that ``--vary`` may change, and how they are read."""
VARIED = ("algorithm", "pivoting", "update", "panel", "tree", "precision")
"""What ``--vary`` may change: the way, and not the problem."""
SIZED = ("nt", "mt", "n", "steps")
"""The problem: each value has a table of its own, as only what does the same can be faster."""

vary = click.option(
    "--vary",
    multiple=True,
    metavar="NAME=A,B",
    help=f"Compare graphs too: of each value of {', '.join(VARIED)}, such as tree=greedy,flat; or what the backend is "
    "told: window=1MB,64MB of mpi and dask, broadcast=star,chain of simulate. "
    f"{', '.join(SIZED[:-1])} or {SIZED[-1]}, such as nt=8,16: a table for each, and a page on which one picks.",
)


def _sizes(fields: dict[str, Any]) -> Sizes:
    return Sizes(**fields | {"tree": parsed(fields["tree"])})


def _told(wishes: Sequence[str]) -> dict[str, list[Any]]:
    """Values of the options of a backend that ``--vary`` asks for."""
    found = {}
    for wish in wishes:
        name, _, values = wish.partition("=")
        if name in TOLD:
            try:
                found[name] = [TOLD[name](value) for value in split(values)]
            except ValueError as error:
                raise click.BadParameter(str(error), param_hint="'--vary'") from None
            if not found[name]:
                raise click.BadParameter(f"{wish!r} has no values", param_hint="'--vary'")
    return found


def _changes(graph: str, wishes: Sequence[str]) -> dict[str, dict[str, Any]]:
    """By label, the fields of each graph that ``--vary`` asks for; without it one, called nothing."""
    context = click.get_current_context()
    types = {param.name: param for param in context.command.params}
    made: dict[str, dict[str, Any]] = {"": {}}
    for wish in wishes:
        name, equals, values = wish.partition("=")
        if not equals or name not in (*VARIED, *SIZED) or not split(values):
            names = ", ".join([*VARIED, *TOLD, *SIZED])
            hint = nearby([name], [*VARIED, *TOLD, *SIZED])
            said = f"{wish!r} is not like tree=greedy,flat; it takes {names}{f'; {hint}' if hint else ''}"
            raise click.BadParameter(said, param_hint="'--vary'")
        if graph in WORKLOADS and name not in WORKLOADS[graph].sizes:
            known = [field for field in (*VARIED, *SIZED) if field in WORKLOADS[graph].sizes]
            raise click.BadParameter(f"graph {graph} has no {name}; it has {', '.join(known)}", param_hint="'--vary'")
        param = types[name]
        made = {
            f"{label}, {name}={value}" if label else f"{name}={value}": {
                **change,
                name: param.type(value, param, context),
            }
            for label, change in made.items()
            for value in split(values)
        }
    return made


_NAMES = (
    "\n\nGRAPH is "
    + ", ".join(WORKLOADS)
    + (
        ", random:SEED, file.py:function (a function that returns a graph), or a file .dot, .gv, .graphml or .json "
        "(WfCommons, networkx)."
    )
)


def documented(command: F) -> F:
    """The command, whose help lists the graphs."""
    command.__doc__ = f"{command.__doc__ or ''}{_NAMES}"
    return command


@click.command()
@functools.partial(graph_command, nt=8)
@output("--svg", suffixes=[".svg"], help="Write a picture here.")
@output("--png", suffixes=[".png"], help="Write a picture here.")
@output("--dot", suffixes=[".dot", ".gv"], help="Write Graphviz's DOT here.")
@output("--html", suffixes=[".html"], help="Write an interactive page here.")
@click.option("--by", help="Colours: op, owner, precision, step.  [default: op; with --owner or --grid owner]")
@click.option(
    "--limit", type=click.IntRange(1), help="Draw more tasks than this in groups.  [default: 400, of a page 20000]"
)
@owner
@as_json
@documented
def dag(
    work: Work,
    sizes: Sizes,
    owner: str | None,
    limit: int | None,
    svg: Path | None,
    png: Path | None,
    dot: Path | None,
    html: Path | None,
    by: str | None,
    as_json: Json,
) -> None:
    """Draw a task graph: DOT on standard output, or files. Of many tasks a picture has groups, DOT has all."""
    from tilewright.runs.text import weight_unit

    graph = work.graph
    rule = placed(owner, sizes, work)
    if rule is not None:
        graph, by = _dealt(graph, rule), by or "owner"
    by = by or "op"
    if svg:
        graph.to_svg(svg, by=by, limit=limit)
    if dot:
        write_text(dot, graph.to_dot(by=by))
    if png:
        graph.to_png(png, by=by, limit=limit)
    if html:
        graph.to_html(html, limit=limit)
    wrote(svg, dot, png, html)
    path = graph.critical_path()
    unit = weight_unit(graph)
    facts = {
        "name": graph.name, "tasks": len(graph), "edges": graph.edges, "work": graph.work(), "unit": unit,
        "critical_path": {"tasks": len(path), "length": path.length},
    }  # fmt: skip

    def show() -> None:
        if not (svg or png or dot or html):
            click.echo(graph.to_dot(by=by), nl=False)
        click.echo(
            f"{len(graph)} tasks, {graph.edges} edges, critical path {len(path)} tasks of length {path.length:g}, "
            f"work {graph.work():g} ({unit})",
            err=True,
        )

    emit(facts, as_json, show)


@click.command()
@functools.partial(graph_command)
@click.option("--backend", type=click.Choice(COMPUTING), default=DEFAULT, show_default=True)
@click.option("--scheduler", type=Scheduler(), default="critical-path", show_default=True)
@click.option("--workers", type=click.IntRange(1), help="[default: one per core]")
@owner
@pin
@output("--html", suffixes=[".html"], help="Write the report.")
@picture("--gantt", help="Draw the run here (.png, .svg or .pdf).")
@output("--perfetto", suffixes=[".json"], help="Write a trace for ui.perfetto.dev.")
@as_json
@progress
@documented
def run(
    work: Work,
    sizes: Sizes,
    backend: str,
    scheduler: str,
    workers: int | None,
    owner: str | None,
    pin: str | None,
    html: Path | None,
    gantt: Path | None,
    perfetto: Path | None,
    as_json: Json,
    progress: Progress,
) -> None:
    """Run a graph on this computer, on random data, and print what happened. --json has the run, for `report`."""
    from tilewright.engine import run as run_graph

    if work.data is None:
        raise ValueError(f"nobody knows data for graph {work.graph.name!r}; tilewright simulate needs none")
    known = sizes if sizes.ranks > 1 or workers is None else replace(sizes, ranks=workers)
    rule = placed(owner, known, work)
    found = run_graph(
        work.graph,
        work.data(),
        backend=backend,
        scheduler=scheduler,
        workers=rule.ranks if rule is not None and workers is None else workers,
        progress=progress,
        **owning(rule, backend),
        **pinning(pin, backend),
    )
    told(found, as_json, html=html, gantt=gantt, perfetto=perfetto)


def told(
    found: Any, as_json: Json, *, html: Path | None = None, gantt: Path | None = None, perfetto: Path | None = None
) -> None:
    """Print a run, and write what was asked for."""
    from tilewright.runs.saved import document

    emit(document(found), as_json, lambda: click.echo(str(found)))
    if html:
        found.report(html)
    if gantt:
        found.gantt(gantt)
    if perfetto:
        found.trace.to_perfetto(perfetto)
    wrote(html, gantt, perfetto)


def split(names: str) -> list[str]:
    """At commas outside parentheses: ``lookahead(2),eager``."""
    parts, depth, start = [], 0, 0
    for place, letter in enumerate(names):
        depth += {"(": 1, ")": -1}.get(letter, 0)
        if letter == "," and not depth:
            parts.append(names[start:place])
            start = place + 1
    return [part.strip() for part in [*parts, names[start:]] if part.strip()]
