"""Which tile is computed in which format, as a picture."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from tilewright.keywords import strict
from tilewright.plot.canvas import new_figure, save
from tilewright.plot.palette import text_on
from tilewright.precision import FORMATS, PrecisionMap
from tilewright.scalars import instance, text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["COLOURS", "figure", "precision_map"]

COLOURS = {
    "fp64": "#332288",
    "fp32": "#0072B2",
    "tf32": "#56B4E9",
    "bf16x3": "#009E73",
    "bf16": "#E69F00",
    "fp16": "#F0E442",
}
"""From dark to light as digits go down."""

_NAMED = 16  # tiles a row up to which each square has its name


@strict
def precision_map(map: PrecisionMap, path: str | Path | None = None, *, title: str | None = None) -> Figure:
    """Draw the lower triangle of tiles, one colour per format, with shares in the legend.

    Parameters
    ----------
    map
        See `PrecisionMap`.
    path
        Also write it there; the suffix (.png, .svg, .pdf) says the format.
    title
        Instead of how the map was made.

    Raises
    ------
    ImportError
        matplotlib is missing; the message says what to install.
    """
    instance(map, "map", PrecisionMap, "a PrecisionMap")
    if path is not None and not isinstance(path, str | PathLike):
        raise TypeError(f"path must be the name of a file, not {path!r}")
    if title is not None:
        text(title, "title")
    fig = figure(map, title)
    if path is not None:
        save(fig, path)
    return fig


def figure(map: PrecisionMap, title: str | None = None) -> Figure:
    """The matplotlib figure."""
    fig = new_figure("a precision map", 6.4, 5.2)
    from matplotlib.patches import Patch, Rectangle

    axes = fig.add_subplot()
    for i, j in map:
        name = map[i, j].name
        axes.add_patch(Rectangle((j, i), 1, 1, facecolor=COLOURS[name], edgecolor="white", linewidth=0.8))
        if map.nt <= _NAMED:
            axes.text(j + 0.5, i + 0.5, name, ha="center", va="center", fontsize=8, color=text_on(COLOURS[name]))
    axes.set(xlim=(0, map.nt), ylim=(map.nt, 0), aspect="equal", xlabel="tile column j", ylabel="tile row i")
    step = max(1, map.nt // 8)
    ticks = range(0, map.nt, step)
    axes.set_xticks([k + 0.5 for k in ticks], [str(k) for k in ticks])
    axes.set_yticks([k + 0.5 for k in ticks], [str(k) for k in ticks])
    for side in ("top", "right", "bottom", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(length=0)
    counts = map.counts()
    tiles = sum(counts.values())
    handles = [
        Patch(
            facecolor=COLOURS[name], label=f"{name}  {count} tiles, {count / tiles:.0%}; u = 2^-{FORMATS[name].digits}"
        )
        for name, count in counts.items()
    ]
    axes.legend(handles=handles, loc="upper right", frameon=False)
    axes.set_title(title if title is not None else map.note or "precision of each tile", loc="left", fontsize=10)
    return fig
