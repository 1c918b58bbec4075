"""What a notebook shows of small things: a machine, a tiled matrix, a precision map, a trace, a text."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING

from tilewright.plot.palette import text_on
from tilewright.plot.precision import COLOURS
from tilewright.units import nbytes, seconds

if TYPE_CHECKING:
    from tilewright.machine import Machine
    from tilewright.precision import PrecisionMap
    from tilewright.runs.trace import Trace
    from tilewright.tiles import TiledMatrix

__all__ = ["machine", "precision_map", "text", "tiles", "trace"]

_MOST = 64  # rows of a map that are drawn


def machine(found: Machine) -> str:
    """Its fields that are not as they are by default, the tables by op below."""
    between = ("device_alpha", "device_beta", "socket_alpha", "socket_beta")
    times = ("alpha", "beta", "gamma", "overhead", "dispatch", *between)
    rows = {}
    for field in fields(found):
        value = getattr(found, field.name)
        if field.name in ("workers", "ranks") or (value not in (field.default, {}) and field.name != "shape"):
            if field.name in ("durations", "acceleration"):
                value = ", ".join(f"{op} {_said(amount)}" for op, amount in value.items())
            rows[field.name] = seconds(value) if field.name in times and value is not None else str(value)
    return _facts("Machine", rows)


def _said(amount: float | Mapping[int, float]) -> str:
    if not isinstance(amount, Mapping):
        return f"{amount:g}"
    return f"at {len(amount)} sizes" if len(amount) != 1 else f"{next(iter(amount.values())):g}"


def tiles(matrix: TiledMatrix) -> str:
    """Shape, tiles, dtype and size."""
    return _facts(
        "TiledMatrix",
        {
            "shape": f"{matrix.shape[0]:,} x {matrix.shape[1]:,}",
            "dtype": str(matrix.dtype),
            "tiles": f"{matrix.mt} x {matrix.nt} of {matrix.tile_size} rows",
            "size": nbytes(matrix.nbytes),
            "memory": "packed tile by tile" if matrix.packed else "a view of an array",
        },
    )


def precision_map(found: PrecisionMap) -> str:
    """The lower triangle, a square a tile in the colour of its format; of many tiles a share of each row."""
    counts = found.counts()
    total = sum(counts.values()) or 1
    legend = " ".join(
        f'<span style="background:{COLOURS[name]};color:{text_on(COLOURS[name])};padding:0 .4em">{name}</span> '
        f"{count / total:.0%}"
        for name, count in counts.items()
    )
    stride = -(-found.nt // _MOST) if found.nt else 1
    size = max(4, min(18, 360 // max(found.nt // stride, 1)))
    rows = "".join(
        "<div style='display:flex'>"
        + "".join(
            f'<i title="({i},{j}) {found[i, j].name}" style="width:{size}px;height:{size}px;'
            f'background:{COLOURS[found[i, j].name]}"></i>'
            for j in range(0, i + 1, stride)
        )
        + "</div>"
        for i in range(0, found.nt, stride)
    )
    note = f"<p>{html.escape(found.note)}</p>" if found.note else ""
    every = f"<p>every {stride}th tile of {found.nt} x {found.nt}</p>" if stride > 1 else ""
    return f"<div><p>{legend}</p>{rows}{every}{note}</div>"


def trace(found: Trace) -> str:
    """How many records, where, and how long by op."""
    rows = {
        "graph": found.graph.name,
        "records": f"{len(found):,} of {len(found.graph):,} tasks",
        "workers": f"{found.ranks} x {found.workers}",
        "messages": f"{len(found.messages):,}",
        "ends": f"{found.makespan:g}" if found.virtual else seconds(found.makespan),
    }
    for op, (count, total) in list(found.by_op().items())[:12]:
        rows[op] = f"{count:,} tasks, {f'{total:g}' if found.virtual else seconds(total)}"
    return _facts("Trace", rows)


def text(said: str) -> str:
    """A text as it is printed."""
    return f'<pre style="white-space:pre-wrap">{html.escape(said)}</pre>'


def _facts(title: str, rows: Mapping[str, str]) -> str:
    body = "".join(
        f'<tr><th style="text-align:left;font-weight:400">{html.escape(name)}</th>'
        f'<td style="text-align:left">{html.escape(value)}</td></tr>'
        for name, value in rows.items()
    )
    return f"<table><caption style='text-align:left'>{html.escape(title)}</caption><tbody>{body}</tbody></table>"
