"""Records as a table for people, or as JSON lines for programs."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from tilewright.linalg.solve import SolveInfo

__all__ = ["show", "story"]

WIDE = 160
"""Columns of a table that goes to a file or a pipe."""


def show(
    title: str, name: str, columns: Mapping[str, str], records: Sequence[dict[str, Any]], *, as_json: bool = False
) -> None:
    """Print ``records``: the column ``name`` first, then ``columns``, heading to key. Errors are lines below."""
    if as_json:
        for record in records:
            print(json.dumps(record))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    table.add_column(name)
    for heading in columns:
        table.add_column(heading, justify="right")
    for record in records:
        table.add_row(str(record[name]), *(_cell(record, key) for key in columns.values()))
    console = Console()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = WIDE
    console.print(table)
    for record in records:
        if error := record.get("error"):
            console.print(f"{record[name]}: {error}", markup=False, highlight=False)


def _cell(record: dict[str, Any], key: str) -> str:
    value = record.get(key)
    if value is None:
        return "-" if record.get("error") else ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def story(info: SolveInfo) -> dict[str, Any]:
    """Path, accuracy and parts of a solution, for the record."""
    return {
        "path": " -> ".join(f"{attempt.precision} {attempt.code}" for attempt in info.path),
        "backward_error": info.backward_error,
        "criterion": info.criterion,
        "hpl": info.hpl_mxp_residual,
        "parts": info.times,
        "factor_gflops": info.factor_gflops,
    }
