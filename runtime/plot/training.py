"""The figure of a training, or of several side by side: loss, accuracy, time, loss scale. And a page around it."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from tilewright.plot.canvas import new_figure, save

if TYPE_CHECKING:
    from tilewright.training.result import Result

__all__ = ["figure", "page"]

_COLOURS = {"fp32": "#0072B2", "tf32": "#56B4E9", "fp16": "#D55E00", "bf16": "#009E73", "adaptive": "#CC79A7"}
_MARKS = {"fp32": "o", "tf32": "P", "fp16": "s", "bf16": "^", "adaptive": "D"}


def page(results: Mapping[str, Result], table: str) -> str:
    """The table, the figure, and the last run of each training side by side, in one HTML page that opens offline."""
    from tilewright.plot.html import run_page

    ran = {name: result.run for name, result in results.items() if result.runs}
    before = f"<pre>{html.escape(table)}</pre>"
    try:
        picture = io.BytesIO()
        figure(results, picture)
    except ImportError:  # no matplotlib: the page has no figure
        return run_page(*ran.values(), names=list(ran), before=before)
    source = base64.b64encode(picture.getvalue()).decode()
    before += (
        f'<img src="data:image/png;base64,{source}" style="max-width:100%" '
        f'alt="loss, test accuracy, time per epoch, loss scale and skipped steps">'
    )
    return run_page(*ran.values(), names=list(ran), before=before)


def figure(results: Mapping[str, Result], path: str | Path | BinaryIO) -> None:
    """Write four panels; ImportError without matplotlib. A dashed line marks each change of precision."""
    fig = new_figure("a plot of a training", 11, 7)
    from matplotlib.ticker import MaxNLocator

    loss, accuracy, time, scale = fig.subplots(2, 2).flat
    for above, (name, result) in zip(reversed(range(len(results))), results.items(), strict=True):
        style = {"color": _COLOURS.get(name, "#000000"), "label": name, "linewidth": 1.5 + 1.3 * above}
        marked = {**style, "marker": _MARKS.get(name, "o"), "markersize": 4 + 2 * above}  # equal curves: all show
        epochs = result.table_of_epochs
        places = [(row["step"] + 1) / result.per_epoch for row in result.steps]
        loss.plot(places, result.losses, color=style["color"], alpha=0.25, linewidth=0.8 + 0.7 * above)
        loss.plot([e.number for e in epochs], [e.loss for e in epochs], **marked)
        tested = [e for e in epochs if e.test_accuracy is not None]
        accuracy.plot([e.number for e in tested], [100 * (e.test_accuracy or 0) for e in tested], **marked)
        timed = [e.seconds for e in epochs if e.seconds]
        bars = time.bar([name], [sum(timed) / len(timed) if timed else 0.0], color=style["color"])
        time.bar_label(bars, fmt="%.3g s", fontsize=8)
        if any(row["scale"] != 1 for row in result.steps):
            scale.step(places, [row["scale"] for row in result.steps], where="post", **style)
        skipped = [(x, row["scale"]) for x, row in zip(places, result.steps, strict=True) if row["skipped"]]
        if skipped:
            scale.plot(*zip(*skipped, strict=True), "x", color=style["color"], label=f"{name}: skipped")
        for event in result.events:
            for axes in (loss, scale):
                axes.axvline((event.step + 1) / result.per_epoch, color=style["color"], linestyle="--", linewidth=1)
            loss.annotate(
                f"{event.before} \N{RIGHTWARDS ARROW} {event.after}",
                ((event.step + 1) / result.per_epoch, 1),
                xycoords=("data", "axes fraction"),
                xytext=(3, -10),
                textcoords="offset points",
                fontsize=8,
                color=style["color"],
            )
    for axes, title, label in (
        (loss, "Training loss", "loss"),
        (accuracy, "Test accuracy", "test accuracy (%)"),
        (time, "Time per epoch", "seconds"),
        (scale, "Loss scale and skipped steps", "loss scale"),
    ):
        axes.set_title(title, fontsize=10)
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
        if axes is not time:
            axes.set_xlabel("epoch")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=8, frameon=False, loc="lower right" if axes is accuracy else "best")
    accuracy.set_xlim(0.5, max(result.epochs for result in results.values()) + 0.5)
    time.set_ylim(bottom=0)
    if scale.lines:
        scale.set_yscale("log", base=2)
    else:
        scale.text(0.5, 0.5, "no loss scaling", ha="center", va="center", transform=scale.transAxes, color="0.4")
        scale.set_yticks([])
    save(fig, path, dpi=150)
