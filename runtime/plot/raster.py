"""A task graph as pixels: the same picture as `tilewright.plot.dag.to_svg`, drawn with matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from math import hypot
from pathlib import Path as FilePath
from typing import TYPE_CHECKING

from tilewright.plot import canvas
from tilewright.plot.layered import Drawing, Point
from tilewright.plot.outline import Outline
from tilewright.plot.palette import ACCENT, text_on
from tilewright.plot.travels import MOST, middle

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["save"]

_DPI = 100
_PIXELS = 8_000  # most a side: what compresses in seconds and opens anywhere
_EDGE = 22  # around everything
_BORDER = 6  # that is drawn beyond the drawing
_KEY = 30  # a patch of the legend and its gap
_ROW = 18  # height of a row of the legend
_PATH = "\0path"  # its entry that is no group's


def save(outline: Outline, drawing: Drawing, path: FilePath) -> None:
    """Write a PNG. ImportError, in a sentence that says what to do, if matplotlib is not installed."""
    canvas.check_matplotlib("a PNG (an SVG does not)")
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    title = canvas.drawn(outline.title)
    entries = {op: f"{canvas.drawn(op)} {count:,}" for op, count in outline.counts.items()}
    entries |= {_PATH: "critical path"} if entries else {}
    scale = min(1.0, _PIXELS / max(drawing.width, drawing.height, 1.0))
    wide = _Ruler()
    widths = {op: _KEY + wide(entry, 8) for op, entry in entries.items()}
    room = min(max(drawing.width * scale, 420.0, wide(title, 11), *widths.values()), _PIXELS)
    rows = _rows(widths, room)
    head = 50 + _ROW * max(len(rows), 1)  # pixels above the graph
    width, height = room + 2 * _EDGE, drawing.height * scale + head + _EDGE
    fig = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI)
    # Outlines and the heads of edges reach a little beyond the drawing.
    axes = fig.add_axes((0, 0, 1, (height - head + _BORDER) / height))
    axes.set_xlim(drawing.width / 2 - width / scale / 2, drawing.width / 2 + width / scale / 2)
    axes.set_ylim(drawing.height + _EDGE / scale, -_BORDER / scale)
    axes.set_axis_off()
    _draw(axes, outline, drawing, scale)
    fig.text(_EDGE / width, 1 - 24 / height, title, fontsize=11, parse_math=False)
    for place, row in enumerate(rows):
        bottom = height - 46 - _ROW * place
        for op, start in row.items():
            key = (_EDGE + start) / width, bottom / height
            bold = op == _PATH
            patch = Rectangle(
                key,
                22 / width,
                8 / height,
                facecolor="none" if bold else outline.fill[op],
                edgecolor=ACCENT if bold else "#404040",
                linewidth=2.2 if bold else 1.0,
            )
            fig.add_artist(patch)
            fig.text(key[0] + 30 / width, key[1], entries[op], fontsize=8, parse_math=False)
    canvas.save(fig, path, dpi=_DPI, pil_kwargs={"compress_level": 1})


class _Ruler:
    """How many pixels wide a text is."""

    def __init__(self) -> None:
        from matplotlib.backends.backend_agg import RendererAgg
        from matplotlib.font_manager import FontProperties

        self.renderer, self.font = RendererAgg(1, 1, _DPI), FontProperties

    def __call__(self, text: str, points: float) -> float:
        return float(self.renderer.get_text_width_height_descent(text, self.font(size=points), False)[0])


def _rows(widths: dict[str, float], room: float) -> list[dict[str, float]]:
    """The entries of the legend row by row, each with where it starts."""
    rows: list[dict[str, float]] = []
    end = room
    for op, width in widths.items():
        if not rows or end + width > room:
            rows.append({})
            end = 0.0
        rows[-1][op] = end
        end += width + 18
    return rows


def _draw(axes: Axes, outline: Outline, drawing: Drawing, scale: float) -> None:
    from matplotlib.collections import PathCollection, PolyCollection
    from matplotlib.path import Path

    moved = outline.moved
    for bold, colour, width, size in ((False, "#808080", 0.8, 6.0), (True, ACCENT, 2.2, 9.0)):
        edges = [edge for edge in drawing.edges if (edge in outline.steps) == bold]
        curves = [drawing.edges[edge] for edge in edges]
        dashes = [(0, (5, 3)) if edge in moved else "solid" for edge in edges]
        paths = [Path(points, [Path.MOVETO] + [Path.CURVE4] * (len(points) - 1)) for points in curves]
        axes.add_collection(
            PathCollection(
                paths, facecolors="none", edgecolors=colour, linewidths=width * scale, linestyles=dashes or "solid"
            ),
            autolim=False,
        )
        heads = [_head(points, size) for points in curves]
        axes.add_collection(PolyCollection(heads, facecolors=colour, edgecolors="none"), autolim=False)
    fill = [outline.fill[node.group] for node in outline.nodes]
    boxes = [drawing.boxes[node.index] for node in outline.nodes]
    bold_one = [node.index in outline.critical for node in outline.nodes]
    axes.add_collection(
        PolyCollection(
            [
                [(b.x + sx * b.width / 2, b.y + sy * b.height / 2) for sx, sy in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
                for b in boxes
            ],
            facecolors=fill,
            edgecolors=[ACCENT if bold else "#404040" for bold in bold_one],
            linewidths=[(2.2 if bold else 0.6) * scale for bold in bold_one],
            zorder=3,
        ),
        autolim=False,
    )
    for edge, travel in moved.items() if len(moved) <= MOST else ():
        x, y = middle(drawing.edges[edge])
        box_of_words = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}
        axes.text(
            x,
            y,
            canvas.drawn(travel.what),
            ha="center",
            va="center",
            fontsize=7 * scale,
            zorder=5,
            parse_math=False,
            bbox=box_of_words,
        )
    for node, box in zip(outline.nodes, boxes, strict=True):
        axes.text(
            box.x,
            box.y,
            canvas.drawn(node.label),
            ha="center",
            va="center",
            color=text_on(fill[node.index]),
            fontsize=8.5 * scale,
            zorder=4,
            parse_math=False,
        )


def _head(points: Sequence[Point], size: float) -> list[Point]:
    """The triangle at the end of an edge."""
    x, y = points[-1]
    before = next((p for p in reversed(points) if p != points[-1]), (x, y - 1))
    length = hypot(x - before[0], y - before[1])
    dx, dy = (x - before[0]) / length * size, (y - before[1]) / length * size
    return [(x, y), (x - dx + dy / 2, y - dy - dx / 2), (x - dx - dy / 2, y - dy + dx / 2)]
