"""The figure that compares trees of a QR factorisation: critical path against p x q."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tilewright.linalg.qr_graph import qr_graph
from tilewright.plot.canvas import new_figure, save

__all__ = ["figure"]

#           tree and its label, colour and marker tell the same
_STYLES: tuple[tuple[Any, str, str, str], ...] = (
    ("flat", "flat, TS", "#D55E00", "o"),
    ("flat-tt", "flat, TT", "#E69F00", "s"),
    ("binary", "binary", "#CC79A7", "^"),
    (("hierarchical", 4, "greedy", "binary"), "domains of 4, greedy above", "#009E73", "v"),
    ("fibonacci", "Fibonacci", "#56B4E9", "D"),
    ("greedy", "greedy", "#0072B2", "x"),
)
_ROWS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 40)


def figure(path: str | Path, columns: Sequence[int] = (1, 4, 16), rows: Sequence[int] = _ROWS) -> None:
    """Draw it: one panel for each number of tile columns q, tile rows p along.

    ``path`` ends in .png, .svg or .pdf.
    """
    fig = new_figure("a comparison of trees", 4.0 * len(columns), 4.2)
    panels = fig.subplots(1, len(columns), squeeze=False)[0]
    for axes, q in zip(panels, columns, strict=True):
        shown = [p for p in rows if p >= q]
        for tree, label, colour, marker in _STYLES:
            lengths = [qr_graph(p, q, tree).critical_path().length for p in shown]
            axes.plot(shown, lengths, color=colour, marker=marker, markersize=4, linewidth=1.3, label=label)
        axes.set_title(f"q = {q} columns of tiles", fontsize=10)
        axes.set_xlabel("rows of tiles p")
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("critical path, nb³/3 flops")
    handles, labels = panels[0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=8.5, frameon=False)
    save(fig, path, dpi=130)
