"""``tilewright precision``: number formats, what they do to numbers, and which products this machine has for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from tilewright.cli.common import Json, as_json, emit, one_sentence, picture, wrote

__all__ = ["precision"]


@click.command()
@picture("--map", "map_path", help="Also draw the precision map of an exponential covariance by the norm rule.")
@click.option("--tolerance", default=1e-4, show_default=True, help="Tolerance of the norm rule.")
@as_json
def precision(map_path: Path | None, tolerance: float, as_json: Json) -> None:
    """Say what number formats there are, show overflow, underflow and scaling, and how 16-bit products are computed."""
    from tilewright.cli.rounding import demonstrations, format_rows
    from tilewright.kernels import products

    with one_sentence():
        formats, shown = format_rows(), demonstrations()
        chosen = {form: products.route(form).name for form in products.FORMS}
        routes = [
            route._asdict() | {"chosen": route.name == chosen[form]}
            for form in products.FORMS
            for route in products.probe(form)
        ]
        if map_path is not None:
            _draw(map_path, tolerance)
    found = [{**d._asdict(), "results": {k: str(v) for k, v in d.results.items()}} for d in shown]
    emit(
        {"formats": formats, "demonstrations": found, "routes": routes}, as_json, lambda: _show(formats, shown, routes)
    )
    wrote(map_path)


def _show(formats: list[dict[str, Any]], shown: list[Any], routes: list[Any]) -> None:
    """For people."""
    _table(
        "Formats; u is the unit roundoff, sums are what products add up to",
        ["format", "bits", "u", "", "largest", "normal", "smallest", "sums"],
        [
            [
                r["format"],
                r["bits"],
                f"2^-{r['digits']}",
                f"{r['u']:.1e}",
                f"{r['max']:.5g}",
                f"{r['tiny']:.1e}",
                f"{r['smallest']:.1e}",
                r["products into"].replace("float", "fp"),
            ]
            for r in formats
        ],
    )
    rows = [[d.expression, *(f"{v:.6g}" if v >= 1 else f"{v:.3g}" for v in d.results.values())] for d in shown]
    _table("Overflow, underflow, scaling", ["computed", *shown[0].results], rows)
    for topic in dict.fromkeys(d.topic for d in shown):
        click.echo(f"{topic}: " + "; ".join(d.note for d in shown if d.topic == topic))
    _table(
        "Products with 16-bit operands, sums in FP32",
        ["operands", "route", ""],
        [[r["form"], r["name"], _usable(r)] for r in routes],
    )


def _usable(route: dict[str, Any]) -> str:
    """Why not, or what a route is like."""
    if route["reason"]:
        return f"no: {route['reason']}"
    found = ["chosen"] * route["chosen"] + ["native"] * route["native"] + [route["note"]] * bool(route["note"])
    return ", ".join(found) or "yes"


def _draw(path: Path, tolerance: float) -> None:
    import numpy as np

    from tilewright.plot.precision import precision_map
    from tilewright.precision import PrecisionMap

    x = np.linspace(0, 1, 1024)
    a = np.exp(-np.abs(x[:, None] - x) / 0.05)
    precision_map(
        PrecisionMap.norm(a, tile_size=64, tolerance=tolerance),
        path,
        title=f"exp(-|x - y| / 0.05), n = 1024, norm rule, tolerance {tolerance:g}",
    )


def _table(title: str, columns: list[str], rows: list[list[Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column)
    for row in rows:
        table.add_row(*map(str, row))
    Console().print(table)
