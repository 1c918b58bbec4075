"""Pictures of a task graph: DOT for Graphviz, SVG for everybody, PNG for slides.

Graphviz's ``dot`` places the tasks where it is installed, `tilewright.plot.layered` where it is not. Either way the
drawing is ours: one box per task, coloured by op, with a tooltip that says what it reads and writes; the critical
path bold; a legend of ops. Of a graph that says where its data lives, edges between ranks are dashed and say what
travels. Of a large graph a box is all tasks of one colour in one layer (`tilewright.plot.outline`).
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import warnings
from pathlib import Path
from typing import Literal
from xml.sax.saxutils import escape, quoteattr

from tilewright.graph import TaskGraph
from tilewright.host.files import write_text
from tilewright.plot.colouring import By
from tilewright.plot.layered import HEIGHT, Box, Drawing, Point, layered, width_of
from tilewright.plot.outline import Node, Outline, outline
from tilewright.plot.palette import ACCENT, text_on
from tilewright.plot.travels import MOST, middle
from tilewright.runs.text import shown
from tilewright.scalars import positive

__all__ = ["LIMIT", "to_dot", "to_png", "to_svg"]

LIMIT = 400
"""Tasks that are drawn one by one; of more a picture has pages of names that nobody reads, and takes its time."""

_DOT_SECONDS = 60  # that Graphviz may take
_POINTS = 72  # per inch; Graphviz counts in inches, one of our pixels is one of its points


def to_dot(graph: TaskGraph, *, by: By = "op") -> str:
    """The graph in Graphviz's DOT language, coloured by op or as `colouring` says, the critical path bold.

    Node ``t7`` is task 7, and its attribute ``weight`` is `Op.weight`; all tasks are there, however many, so that other
    tools can read the graph. The text depends on the graph only. O(tasks + edges).
    """
    return _dot(outline(graph, by, None))


def _dot(drawn: Outline) -> str:
    lines = [
        f"digraph {_quoted(drawn.name)} {{",
        "  rankdir=TB; ranksep=0.45; nodesep=0.2;",
        '  node [shape=box, style="rounded,filled", fontname="Helvetica", fontsize=12, '
        f"height={HEIGHT / _POINTS:.3f}, fixedsize=true];",
        '  edge [color="#808080", arrowsize=0.6];',
    ]
    for node in drawn.nodes:
        colour = drawn.fill[node.group]
        lines.append(
            f"  t{node.index} [label={_quoted(node.label)}, width={width_of(node.label) / _POINTS:.3f}, "
            f'fillcolor="{colour}", fontcolor="{text_on(colour)}", tooltip={_quoted(node.tooltip)}, '
            f"weight={node.weight:g}{', penwidth=3' if node.index in drawn.critical else ''}];"
        )
    for node in drawn.nodes:
        for p in node.predecessors:
            style = f' [penwidth=3, color="{ACCENT}"]' if (p, node.index) in drawn.steps else ""
            lines.append(f"  t{p} -> t{node.index}{style};")
    return "\n".join([*lines, "}\n"])


def to_svg(
    graph: TaskGraph,
    path: str | Path | None = None,
    *,
    layout: Literal["dot", "layered"] | None = None,
    by: By = "op",
    limit: int | None = None,
) -> str:
    """The graph as SVG text, also written to ``path`` if given.

    Parameters
    ----------
    graph
        What is drawn.
    path
        File to write, UTF-8.
    layout
        Who places the tasks: Graphviz's ``dot``, or ``layered``, which needs nothing installed. By default ``dot`` if
        it is found, and ``layered`` otherwise, with a RuntimeWarning if ``dot`` was found and failed.
    by
        What colours mean: see `tilewright.plot.colouring.colouring`.
    limit
        More tasks than that, by default `LIMIT`, are drawn in groups: a box stands for all of one colour in one layer,
        or in as many layers as there must be for a picture that can be read.

    Raises
    ------
    ValueError
        The layout is unknown, or ``limit`` is below 1.
    RuntimeError
        ``layout="dot"``, and it is not installed, fails or takes more than a minute.
    """
    drawn = _outline(graph, layout, by, limit)
    text = _draw(drawn, _layout(drawn, layout))
    if path is not None:
        write_text(path, text)
    return text


def to_png(
    graph: TaskGraph,
    path: str | Path,
    *,
    layout: Literal["dot", "layered"] | None = None,
    by: By = "op",
    limit: int | None = None,
) -> None:
    """The same picture as a PNG. Errors are those of `to_svg`, and ImportError without matplotlib."""
    from tilewright.plot.raster import save

    drawn = _outline(graph, layout, by, limit)
    save(drawn, _layout(drawn, layout), Path(path))


def _outline(graph: TaskGraph, layout: str | None, by: By, limit: int | None) -> Outline:
    """What is drawn, after a look at the arguments."""
    if layout not in (None, "dot", "layered"):
        raise ValueError(f"unknown layout {layout!r}; known: dot, layered, or None to choose")
    return outline(graph, by, LIMIT if limit is None else positive(limit, "limit"))


# ------------------------------------------------------------------ Graphviz


def _quoted(text: str) -> str:
    """A DOT string: Graphviz reads backslash escapes in labels."""
    escaped = shown(text).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def _layout(drawn: Outline, layout: str | None) -> Drawing:
    placed = layout == "layered" or (layout is None and drawn.rows is not None)  # dot would not keep rows
    program = None if placed else shutil.which("dot")
    if program is None:
        if layout == "dot":
            raise RuntimeError("Graphviz's dot is not on the PATH; install graphviz, or use layout='layered'")
        return layered(drawn.nodes, drawn.rows)
    try:
        return _by_dot(drawn, program)
    except RuntimeError as error:
        if layout == "dot":
            raise
        warnings.warn(f"{error}; using the layered layout", RuntimeWarning, stacklevel=3)
        return layered(drawn.nodes, drawn.rows)


def _by_dot(drawn: Outline, program: str) -> Drawing:
    """Positions from ``dot -Tplain``; RuntimeError says what went wrong."""
    try:
        done = subprocess.run(
            [program, "-Tplain", "-Earrowhead=none"],  # or the curves would end where an arrowhead of its own begins
            input=_dot(drawn),
            capture_output=True,
            encoding="utf-8",
            timeout=_DOT_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"{program} took more than {_DOT_SECONDS} s on {len(drawn.nodes)} boxes") from None
    except OSError as error:
        raise RuntimeError(f"{program} does not start: {error}") from error
    if done.returncode:
        raise RuntimeError(f"{program} failed with exit code {done.returncode}: {done.stderr.strip()[:500]}")
    try:
        parsed = _parse_plain(done.stdout)
    except (ValueError, IndexError) as error:
        raise RuntimeError(f"{program} -Tplain gave output that is not in its plain format: {error}") from error
    edges = sum(len(node.predecessors) for node in drawn.nodes)
    if len(parsed.boxes) != len(drawn.nodes) or len(parsed.edges) != edges:
        raise RuntimeError(f"{program} placed {len(parsed.boxes)} of {len(drawn.nodes)} boxes")
    return parsed


def _parse_plain(text: str) -> Drawing:
    """Graphviz's plain format: lines ``graph``, ``node`` and ``edge``, in inches, y upwards."""
    boxes: dict[int, Box] = {}
    edges: dict[tuple[int, int], list[Point]] = {}
    width = height = 0.0
    for line in text.splitlines():
        kind, *fields = shlex.split(line)
        if kind == "graph":
            width, height = (float(field) * _POINTS for field in fields[1:3])
        elif kind == "node":
            x, y, w, h = (float(field) * _POINTS for field in fields[1:5])
            boxes[int(fields[0][1:])] = Box(x, height - y, w, h)
        elif kind == "edge":
            numbers = [float(field) * _POINTS for field in fields[3 : 3 + 2 * int(fields[2])]]
            points = [(x, height - y) for x, y in zip(numbers[::2], numbers[1::2], strict=True)]
            edges[int(fields[0][1:]), int(fields[1][1:])] = points
    return Drawing(width, height, boxes, edges)


# ------------------------------------------------------------------ SVG

_MARGIN = 24.0
_HEAD = 58.0  # for the title and the legend; both grow with the picture, to be read on a page
_LEGEND_STEP = 20.0  # between entries, beside their text
_STYLE = """
  text { font-family: Helvetica, Arial, "Liberation Sans", sans-serif; font-size: 12px; }
  .title { font-size: 16px; font-weight: bold; }
  .task text { text-anchor: middle; dominant-baseline: central; }
  .task rect { stroke: #404040; stroke-width: 0.8; }
  .edge { fill: none; stroke: #808080; stroke-width: 1; marker-end: url(#arrow); }
  .edge.message { stroke-dasharray: 5 3; }
  .words { font-size: 10px; text-anchor: middle; stroke: #FFFFFF; stroke-width: 3; paint-order: stroke; }
  .task.critical rect { stroke: #000000; stroke-width: 3; }
  .edge.critical { stroke: #000000; stroke-width: 3; marker-end: url(#bold-arrow); }
"""
_ARROWS = """
  <marker id="arrow" viewBox="0 0 8 8" refX="7.5" refY="4" markerWidth="6" markerHeight="6" orient="auto">
    <path d="M0 1 L8 4 L0 7 z" fill="#808080"/></marker>
  <marker id="bold-arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="4" markerHeight="4" orient="auto">
    <path d="M0 0 L8 4 L0 8 z" fill="#000000"/></marker>
"""


def _draw(drawn: Outline, layout: Drawing) -> str:
    title = "; ".join(filter(None, [drawn.title, drawn.details]))
    legend, legend_width = _legend(drawn)
    scale = min(max(1.0, layout.width / 1400), 8.0)
    head = scale * _HEAD
    width = max(layout.width, legend_width, 8.4 * len(title)) + 2 * _MARGIN
    height = layout.height + head + 2 * _MARGIN
    left, top = (width - layout.width) / 2, _MARGIN + head
    moved = drawn.moved
    edges = [
        _edge(points, (p, t), (p, t) in drawn.steps, left, top, moved[p, t].words if (p, t) in moved else "")
        for (p, t), points in sorted(layout.edges.items(), key=lambda item: (item[0] in drawn.steps, item[0]))
    ]
    tasks = [
        _task(node, layout.boxes[node.index], drawn.fill[node.group], node.index in drawn.critical, left, top)
        for node in drawn.nodes
    ]
    return "\n".join(
        [
            '<?xml version="1.0" encoding="UTF-8"?>',
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
            f'viewBox="0 0 {width:.0f} {height:.0f}" role="img">',
            f"<title>{escape(shown(drawn.name))}</title>",
            f"<style>{_STYLE}</style>",
            f"<defs>{_ARROWS}</defs>",
            '<rect width="100%" height="100%" fill="#FFFFFF"/>',
            f'<g transform="translate({_MARGIN:.0f} {_MARGIN:.0f}) scale({scale:.2f})">',
            f'<text class="title" x="0" y="12">{escape(shown(title))}</text>',
            *legend,
            "</g>",
            *edges,
            *tasks,
            *(
                _beside(layout.edges[edge], found.what, left, top)
                for edge, found in moved.items()
                if len(moved) <= MOST
            ),
            "</svg>\n",
        ]
    )


def _legend(drawn: Outline) -> tuple[list[str], float]:
    """One swatch per op, with how many tasks it has; and the width of all."""
    x, y = 0.0, 28.0
    parts = []
    for op, count in drawn.counts.items():
        text = f"{shown(op)} {count:,}"
        parts.append(
            f'<g class="legend"><rect x="{x:.1f}" y="{y:.1f}" width="16" height="12" rx="3" fill="{drawn.fill[op]}" '
            f'stroke="#404040" stroke-width="0.8"/><text x="{x + 22:.1f}" y="{y + 10.5:.1f}">{escape(text)}</text></g>'
        )
        x += 22 + 6.8 * len(text) + _LEGEND_STEP
    if drawn.counts:
        parts.append(
            f'<g class="legend"><path d="M{x:.1f} {y + 6:.1f} h22" stroke="{ACCENT}" stroke-width="3"/>'
            f'<text x="{x + 28:.1f}" y="{y + 10.5:.1f}">critical path</text></g>'
        )
        x += 28 + 6.8 * len("critical path")
    return parts, x


def _task(node: Node, box: Box, colour: str, critical: bool, left: float, top: float) -> str:
    x, y = box.x + left, box.y + top
    return (
        f'<g class="task{" critical" if critical else ""}" id="t{node.index}" data-op={quoteattr(shown(node.op))}>'
        f"<title>{escape(shown(node.tooltip))}</title>"
        f'<rect x="{x - box.width / 2:.1f}" y="{y - box.height / 2:.1f}" width="{box.width:.1f}" '
        f'height="{box.height:.1f}" rx="6" fill="{colour}"/>'
        f'<text x="{x:.1f}" y="{y:.1f}" fill="{text_on(colour)}">{escape(shown(node.label))}</text></g>'
    )


def _edge(points: list[Point], edge: tuple[int, int], critical: bool, left: float, top: float, words: str) -> str:
    start, *rest = (f"{x + left:.1f},{y + top:.1f}" for x, y in points)
    kind = "edge" + " critical" * critical + " message" * bool(words)
    path = f'<path class="{kind}" data-edge="t{edge[0]} t{edge[1]}" d="M{start} C{" ".join(rest)}"'
    return f"{path}><title>{escape(shown(words))}</title></path>" if words else f"{path}/>"


def _beside(points: list[Point], words: str, left: float, top: float) -> str:
    """The words of an edge, on its middle."""
    x, y = middle(points)
    return f'<text class="words" x="{x + left:.1f}" y="{y + top:.1f}">{escape(shown(words))}</text>'
