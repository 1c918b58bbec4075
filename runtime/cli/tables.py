"""Tables for people, on standard output."""

from __future__ import annotations

from itertools import groupby
from operator import itemgetter
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tilewright.kernels.contest import Entry
from tilewright.kernels.tile_op import ANY
from tilewright.linalg.residual import THRESHOLD
from tilewright.passes.conversions import Conversions
from tilewright.units import seconds

__all__ = ["comparison", "show_contest", "show_inventory", "show_job"]


def show_job(result: dict[str, Any]) -> None:
    """What `tilewright.benchmarks.job.cholesky_job` found."""
    console = Console(highlight=False)
    console.print(_facts(f"Cholesky of a {result['n']} x {result['n']} matrix, {result['dtype']}", _job_rows(result)))
    console.print()
    console.print(_ops(result))
    if "compare" in result:
        console.print()
        console.print(comparison(result["seconds"], {k: v["seconds"] for k, v in result["compare"].items()}))


def show_inventory(found: dict[str, Any]) -> None:
    """What `tilewright.studies.inventory.inventory` found."""
    console = Console(highlight=False)
    rows = [(name, str(found[name])) for name in ("python", "numpy", "scipy", "machine", "cores")]
    rows += [("backends", ", ".join(found["backends"])), ("schedulers", ", ".join(found["schedulers"]))]
    rows += [(name, _have(version)) for name, version in found["optional"].items()]
    console.print(_facts(f"tilewright {found['tilewright']}", rows))
    blas = Table("BLAS", "serves", "what it is", title="BLAS libraries", title_justify="left")
    for name, library in found["libraries"].items():
        text = escape(library["version"] if "version" in library else f"not here: {library['reason']}")
        ops = dict.fromkeys(row["op"] for row in found["choice"] if row["library"] == name)
        serves = "all ops" if len({row["library"] for row in found["choice"]}) == 1 else ", ".join(ops)
        blas.add_row(name, f"[green]{serves}[/]" if ops else "", text + _bits(library))
    console.print()
    console.print(blas)
    for why, group in groupby(found["choice"], key=itemgetter("why")):
        console.print(f"{', '.join(dict.fromkeys(row['op'] for row in group))}: {escape(why)}", style="dim")
    console.print()
    kernels = Table(title="Kernels", title_justify="left")
    for heading, width in (("ops", 23), ("device", 6), ("dtypes", 22), ("from", 16)):  # 80 columns with the frame
        kernels.add_column(heading, width=width)
    for row in _merged(found["kernels"]):
        kernels.add_row(*row)
    console.print(kernels)


_MODES = {1: "no mode of reproducibility", 2: "MKL_CBWR=AUTO", 3: "MKL_CBWR=COMPATIBLE"}


def _bits(library: dict[str, Any]) -> str:
    """What is known of the bits of a library."""
    if "version" not in library:
        return ""
    mode = f"\n{_MODES.get(library['mode'], 'MKL_CBWR=' + str(library['mode']))}" if library["mode"] else ""
    if not library["unsteady"]:
        return f"{mode}\nsame bits wherever tiles lie"
    return f"{mode}\nworks on copies, for the same bits: {', '.join(library['unsteady'])}"


def show_contest(entries: list[Entry], kept: dict[str, str]) -> None:
    """What `tilewright.kernels.contest.contest` found: GFLOP/s on one thread by op, dtype and library."""
    names = list(dict.fromkeys(entry.library for entry in entries))
    table = Table("op", title="GFLOP/s on one thread, tiles of 384", title_justify="left")
    for name in names:
        table.add_column(name, justify="right")
    table.add_column("kept")
    rates = {(e.letter + e.op, e.library): f"{e.gflops:.1f}" for e in entries}
    for op in dict.fromkeys(e.letter + e.op for e in entries):
        table.add_row(op, *(rates.get((op, name), "") for name in names), kept.get(op, ""))
    Console(highlight=False).print(table)


def comparison(ours: float, others: dict[str, float]) -> Table:
    """Seconds of several ways to the same factor, and each over ours."""
    table = Table("library", title="Compared (median times)", title_justify="left")
    table.add_column("time", justify="right")
    table.add_column("over tilewright's", justify="right")
    table.add_row("tilewright", seconds(ours), "")
    for name, taken in others.items():
        table.add_row(name, seconds(taken), f"{taken / ours:.2f}x" if ours else "")
    return table


def _job_rows(result: dict[str, Any]) -> list[tuple[str, str]]:
    ratio, bounds = result["ratio"], result["bounds"]
    count = len(result["times"])
    verdict = "[green]PASS[/]" if result["passed"] else "[red]FAIL[/]"
    rows = [
        ("matrix", escape(result["source"])),
        ("tiles", f"{result['nt']} x {result['nt']} of {result['nb']} rows, {result['triangle']} triangle"),
        ("ran on", f"{result['backend']}, {_count(result['workers'], 'worker')}, {result['scheduler']}, "
                   f"BLAS from {result['blas']}"),
        *_precision_rows(result),
        ("time", seconds(result["seconds"]) + (f"  (median of {count})" if count > 1 else "")),
        ("rate", f"{result['gflops']:.4g} GFLOP/s"),
        ("LAPACK ratio", f"{'not finite' if ratio is None else f'{ratio:.3g}'}  {verdict}  "
                         f"(below {THRESHOLD:g}{_roundoff(result)})"),
        ("lower bounds", f"{seconds(bounds['area'])} area, {seconds(bounds['critical_path'])} critical path"),
        ("makespan", f"{seconds(result['makespan'])}, efficiency {result['efficiency']:.1%}, "
                     f"{result['of_bound']:.1%} of the lower bound"),
        ("verdict", result["verdict"]),
    ]  # fmt: skip
    return rows + [(name, escape(path)) for name, path in result["files"].items()]


def _precision_rows(result: dict[str, Any]) -> list[tuple[str, str]]:
    if "precision" not in result:
        return []
    found = result["precision"]
    text = f"{found['name']} operands" + "".join(f", by {route}" for route in found["routes"])
    rows = [("products", f"{text}; sums and tiles in {result['dtype']}")]
    if found["conversions"]:
        rows.append(("conversions", str(Conversions(**found["conversions"]))))
    return rows


def _roundoff(result: dict[str, Any]) -> str:
    """Whose unit roundoff the ratio has, where that is not the dtype's."""
    return f", u = 2^-{result['precision']['digits']} of {result['precision']['name']}" if "precision" in result else ""


def _ops(result: dict[str, Any]) -> Table:
    table = Table("op", title=f"{result['tasks']} tasks", title_justify="left")
    for heading in ("tasks", "total", "mean", "share"):
        table.add_column(heading, justify="right")
    busy = sum(op["seconds"] for op in result["ops"].values()) or 1.0
    for name, op in result["ops"].items():
        table.add_row(
            name,
            str(op["tasks"]),
            seconds(op["seconds"]),
            seconds(op["seconds"] / op["tasks"]),
            f"{op['seconds'] / busy:.1%}",
        )
    return table


def _facts(title: str, rows: list[tuple[str, str]]) -> Table:
    table = Table(title=f"[bold]{title}[/]", title_justify="left", show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def _merged(rows: list[dict[str, str]]) -> list[tuple[str, str, str, str]]:
    """Ops, device, dtypes, sources: rows that differ in one of them only share a line."""
    dtypes: dict[tuple[str, str, str, str], list[str]] = {}
    for row in rows:
        form, _, source = row["source"].rpartition("/")
        named = dict.fromkeys([*row["storage"].split(","), row["accumulate"]])  # other arguments pass, such as pivots
        if len(named) > 1:
            named.pop(ANY, None)
        dtype = " into ".join(named)
        inner = f", products in {form}" if form not in ("", row["storage"]) else ""  # potrf and trsm have them
        dtypes.setdefault((row["op"], row["device"], form, source), []).append(dtype + inner)
    sources: dict[tuple[str, str, str], list[str]] = {}
    for (op, device, _, source), names in dtypes.items():
        sources.setdefault((op, device, ", ".join(names)), []).append(source)
    ops: dict[tuple[str, str, str], list[str]] = {}
    for (op, device, kinds), origins in sources.items():
        ops.setdefault((device, kinds, ", ".join(origins)), []).append(op)
    return [(", ".join(together), *rest) for rest, together in ops.items()]


def _have(version: str | None) -> str:
    return version or "[dim]not installed[/]"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
