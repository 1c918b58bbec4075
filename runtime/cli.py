"""The ``tilewright`` command.

Exit codes: 0 done; 1 the numbers failed (not positive definite, or a LAPACK ratio that does not pass); 2 bad input or a
missing optional package, in one sentence. Tables go to standard output and progress to standard error; with ``--json``
standard output has exactly one line, a JSON object.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tilewright import cli_schedulers
from tilewright.backends import BACKENDS
from tilewright.errors import NotPositiveDefiniteError
from tilewright.schedulers import SCHEDULERS

if TYPE_CHECKING:
    import numpy as np

    from tilewright.graph import TaskGraph

__all__ = ["BENCHMARKS", "main"]

BENCHMARKS = {
    "cholesky": "Tiled Cholesky beside numpy, scipy, torch, dpotrf and dask.",
    "overhead": "Time per empty task, beside dask and concurrent.futures.",
    "simulator": "Predicted beside measured runs, simulated tasks per second.",
    "mpi": "Ranks beside threads, what a pool costs, message counts.",
}
"""Subcommands of ``tilewright bench``: each is ``command`` in the module `tilewright.benchmarks` has of that name."""

_DTYPES = ("float32", "float64", "complex64", "complex128")


class _BadInput(click.ClickException):
    """Bad input."""

    exit_code = 2


@contextlib.contextmanager
def _one_sentence() -> Iterator[None]:
    """Turn what the library says about bad input into a message and an exit code, with no traceback."""
    try:
        yield
    except NotPositiveDefiniteError as error:
        raise click.ClickException(str(error)) from error  # exit code 1
    except (ValueError, TypeError, OSError, ImportError, MemoryError) as error:
        raise _BadInput(str(error)) from error


class _BenchGroup(click.Group):
    """Subcommands that are imported when they are used; their names and summaries need no import."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *BENCHMARKS})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in BENCHMARKS:
            return super().get_command(ctx, cmd_name)
        with _one_sentence():
            module: Any = importlib.import_module(f"tilewright.benchmarks.{cmd_name}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, BENCHMARKS.get(name, "")) for name in self.list_commands(ctx)])


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="tilewright", prog_name="tilewright", message="%(prog)s %(version)s")
def main() -> None:
    """Tiled linear algebra as task graphs."""


# ------------------------------------------------------------------ cholesky


def _writable(*suffixes: str) -> Any:
    """A check, before any work, that an output file has a known suffix and a folder."""

    def check(ctx: click.Context, param: click.Parameter, value: Path | None) -> Path | None:
        if value is not None:
            if value.suffix.lower() not in suffixes:
                raise click.BadParameter(f"{str(value)!r} must end in {' or '.join(suffixes)}")
            if not value.parent.is_dir():
                raise click.BadParameter(f"there is no folder {str(value.parent)!r}")
        return value

    return check


_File = click.Path(path_type=Path, dir_okay=False)


@main.command()
@click.option("--n", type=click.IntRange(min=0), help="Order of a random matrix.  [default: 4096]")
@click.option(
    "--matrix",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Factor this .npy, .npz or .mtx file instead.",
)
@click.option("--dtype", type=click.Choice(_DTYPES), help="[default: the file's, or float64]")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the random matrix.")
@click.option("--upper", is_flag=True, help="Factor into U^H U instead of L L^H.")
@click.option("--tile-size", type=click.IntRange(min=1), help="Rows of a tile.  [default: chosen from n]")
@click.option("--backend", type=click.Choice(BACKENDS), default="threads", show_default=True)
@click.option("--scheduler", type=click.Choice(list(SCHEDULERS)), default="critical-path", show_default=True)
@click.option("--workers", type=click.IntRange(min=1), help="[default: one per core]")
@click.option("--repeat", type=click.IntRange(min=1), default=1, show_default=True, help="Runs; the median counts.")
@click.option("--compare", is_flag=True, help="Also time numpy, scipy and torch, in turns.")
@click.option("--trace", type=_File, callback=_writable(".json"), help="Write the trace here, for ui.perfetto.dev.")
@click.option(
    "--dag",
    type=_File,
    callback=_writable(".svg", ".dot", ".gv"),
    help="Draw the factorisation's task graph here (.svg or .dot).",
)
@click.option(
    "--gantt", type=_File, callback=_writable(".png", ".svg", ".pdf"), help="Draw the run here (.png, .svg or .pdf)."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of tables.")
@click.option("--progress/--no-progress", default=None, help="[default: on a terminal]")
def cholesky(
    n: int | None, matrix: Path | None, dtype: str | None, seed: int, upper: bool, tile_size: int | None, backend: str,
    scheduler: str, workers: int | None, repeat: int, compare: bool, trace: Path | None, dag: Path | None,
    gantt: Path | None, as_json: bool, progress: bool | None,
) -> None:  # fmt: skip
    """Factor a symmetric positive definite matrix and say how it went."""
    if n is not None and matrix is not None:
        raise click.UsageError("--n is the order of a random matrix; it cannot be given with --matrix")
    from tilewright.benchmarks.job import cholesky_job

    with _one_sentence():
        if gantt:
            from tilewright.plot.gantt import check_matplotlib

            check_matplotlib()  # before the work
        a = _matrix(n, matrix, dtype, seed)
        result, run = cholesky_job(
            a, lower=not upper, tile_size=tile_size, backend=backend, scheduler=scheduler, workers=workers,
            repeat=repeat, compare=compare, progress=sys.stderr.isatty() if progress is None else progress,
        )  # fmt: skip
        result["source"] = str(matrix) if matrix else f"random, seed {seed}"
        files = {"trace": trace, "dag": dag, "gantt": gantt}
        if trace:
            run.trace.to_perfetto(trace)
        if dag:
            from tilewright.linalg.cholesky import cholesky_graph

            _write_graph(cholesky_graph(result["nt"]), dag)
        if gantt:
            from tilewright.plot.gantt import gantt as draw_gantt

            draw_gantt(run, gantt)
        result["files"] = {name: str(path) for name, path in files.items() if path}
    if as_json:
        click.echo(json.dumps(result))
    else:
        from tilewright import console

        console.show_job(result)
    if not result["passed"]:
        raise click.exceptions.Exit(1)


def _matrix(n: int | None, path: Path | None, dtype: str | None, seed: int) -> np.ndarray:
    from tilewright.matrices import load_matrix, random_spd

    if path is None:
        return random_spd(4096 if n is None else n, dtype or "float64", seed)
    a = load_matrix(path)
    if a.dtype.kind == "c" and dtype is not None and not dtype.startswith("complex"):
        raise ValueError(f"{path.name!r} is {a.dtype}; as {dtype} it would lose its imaginary part")
    wanted = dtype or ("float64" if a.dtype.kind in "biu" else a.dtype)
    converted: np.ndarray = a.astype(wanted, copy=False)
    return converted


def _write_graph(graph: TaskGraph, path: Path) -> None:
    if path.suffix.lower() == ".svg":
        graph.to_svg(path)
    else:
        path.write_text(graph.to_dot(), encoding="utf-8")


# ------------------------------------------------------------------ dag, info, bench


@main.group()
def dag() -> None:
    """Draw task graphs; no data needed."""


@dag.command("cholesky")
@click.option("--nt", type=click.IntRange(min=0), default=8, show_default=True, help="Rows of tiles.")
@click.option("--svg", type=_File, callback=_writable(".svg"), help="Write a picture here.")
@click.option("--dot", type=_File, callback=_writable(".dot", ".gv"), help="Write Graphviz's DOT here.")
@click.option("--html", type=_File, callback=_writable(".html"), help="Write an interactive page here.")
def dag_cholesky(nt: int, svg: Path | None, dot: Path | None, html: Path | None) -> None:
    """The task graph of tiled Cholesky: DOT on standard output, or files."""
    from tilewright.linalg.cholesky import cholesky_graph

    graph = cholesky_graph(nt)
    path = graph.critical_path()
    with _one_sentence():
        for file in (svg, dot):
            if file:
                _write_graph(graph, file)
        if html:
            graph.to_html(str(html))
        if not (svg or dot or html):
            click.echo(graph.to_dot(), nl=False)
    click.echo(
        f"{len(graph)} tasks, {graph.edges} edges, critical path {len(path)} tasks of length {path.length:g}, "
        f"work {graph.work():g} (units of nb^3/3 flops)", err=True,
    )  # fmt: skip


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of tables.")
def info(as_json: bool) -> None:
    """Say what is installed, which BLAS is used and which kernels, engines and policies there are."""
    from tilewright import console, inventory

    with _one_sentence():
        found = inventory.inventory()
    if as_json:
        click.echo(json.dumps(found))
    else:
        console.show_inventory(found)


for _command in (cli_schedulers.compare, cli_schedulers.simulate, cli_schedulers.report):
    main.add_command(_command)


@main.group(cls=_BenchGroup)
def bench() -> None:
    """Measure tilewright beside other libraries."""


if __name__ == "__main__":
    main()
