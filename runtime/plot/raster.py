"""A task graph as pixels: the same picture as `tilewright.plot.dag.to_svg`, drawn with matplotlib."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import hypot
from pathlib import Path as FilePath
from typing import TYPE_CHECKING

from tilewright.graph import TaskGraph
from tilewright.plot import canvas
from tilewright.plot.layered import Layout, Point
from tilewright.plot.palette import ACCENT, colours, text_on

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["save"]

_DPI = 100
_PIXELS = 8_000  # most a side: what compresses in seconds and opens anywhere


def save(graph: TaskGraph, layout: Layout, critical: tuple[set[int], set[tuple[int, int]]], path: FilePath) -> None:
    """Write a PNG. ImportError, in a sentence that says what to do, if matplotlib is not installed."""
    canvas.check_matplotlib("a PNG (an SVG does not)")
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    scale = min(1.0, _PIXELS / max(layout.width, layout.height, 1.0))
    width, height = max(layout.width * scale, 420.0) + 44, layout.height * scale + 90
    fig = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI)
    axes = fig.add_axes((20 / width, 20 / height, (width - 40) / width, (height - 90) / height))
    axes.set_xlim(layout.width / 2 - (width - 40) / scale / 2, layout.width / 2 + (width - 40) / scale / 2)
    axes.set_ylim(max(layout.height, 1.0), 0)
    axes.set_axis_off()
    _draw(axes, graph, layout, critical, scale)
    counts = Counter(task.op.name for task in graph)
    fill = colours(counts)
    title = f"{canvas.drawn(graph.name)}: {len(graph):,} tasks, {graph.edges:,} edges"
    fig.text(20 / width, 1 - 22 / height, title, fontsize=11)
    if counts:
        fig.legend(
            [Patch(facecolor=fill[op], edgecolor="#404040") for op in counts],
            [f"{canvas.drawn(op)} {count:,}" for op, count in counts.items()],
            loc="upper left", bbox_to_anchor=(12 / width, 1 - 30 / height), ncols=len(counts), frameon=False,
            fontsize=8,
        )  # fmt: skip
    canvas.save(fig, path, dpi=_DPI, pil_kwargs={"compress_level": 3})


def _draw(
    axes: Axes, graph: TaskGraph, layout: Layout, critical: tuple[set[int], set[tuple[int, int]]], scale: float
) -> None:
    from matplotlib.collections import PathCollection, PolyCollection
    from matplotlib.path import Path

    bold_tasks, bold_edges = critical
    for bold, colour, width, size in ((False, "#808080", 0.8, 6.0), (True, ACCENT, 2.2, 9.0)):
        curves = [points for edge, points in layout.edges.items() if (edge in bold_edges) == bold]
        paths = [Path(points, [Path.MOVETO] + [Path.CURVE4] * (len(points) - 1)) for points in curves]
        axes.add_collection(
            PathCollection(paths, facecolors="none", edgecolors=colour, linewidths=width * scale), autolim=False
        )
        heads = [_head(points, size) for points in curves]
        axes.add_collection(PolyCollection(heads, facecolors=colour, edgecolors="none"), autolim=False)
    fill = colours(task.op.name for task in graph)
    boxes = [layout.boxes[task.index] for task in graph]
    bold_one = [task.index in bold_tasks for task in graph]
    axes.add_collection(
        PolyCollection(
            [
                [(b.x + sx * b.width / 2, b.y + sy * b.height / 2) for sx, sy in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
                for b in boxes
            ],
            facecolors=[fill[task.op.name] for task in graph],
            edgecolors=[ACCENT if bold else "#404040" for bold in bold_one],
            linewidths=[(2.2 if bold else 0.6) * scale for bold in bold_one],
            zorder=3,
        ),
        autolim=False,
    )
    for task, box in zip(graph, boxes, strict=True):
        axes.text(box.x, box.y, canvas.drawn(task.label), ha="center", va="center", color=text_on(fill[task.op.name]),
                  fontsize=8.5 * scale, zorder=4, parse_math=False)  # fmt: skip


def _head(points: Sequence[Point], size: float) -> list[Point]:
    """The triangle at the end of an edge."""
    x, y = points[-1]
    before = next((p for p in reversed(points) if p != points[-1]), (x, y - 1))
    length = hypot(x - before[0], y - before[1])
    dx, dy = (x - before[0]) / length * size, (y - before[1]) / length * size
    return [(x, y), (x - dx + dy / 2, y - dy - dx / 2), (x - dx - dy / 2, y - dy + dx / 2)]
