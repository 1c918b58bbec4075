"""The figure of a comparison of schedulers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tilewright.plot.canvas import drawn, new_figure, save
from tilewright.plot.palette import LINES, MARKERS

if TYPE_CHECKING:
    from tilewright.studies.schedulers import Row, Table

__all__ = ["figure"]


def figure(table: Table, path: str | Path) -> None:
    """Write two panels over workers: makespan over lower bound, and speed-up with its two limits."""
    by_name: dict[str, list[Row]] = {}
    for row in table.rows:
        by_name.setdefault(row.scheduler, []).append(row)
    # Policies that made the same schedules share a line, or one would hide the other.
    lines: dict[tuple[float, ...], list[str]] = {}
    for name in sorted(by_name):
        lines.setdefault(tuple(row.makespan for row in by_name[name]), []).append(name)
    counts = sorted({row.workers for row in table.rows})
    fig = new_figure("a plot of a comparison", 11, 4.8)
    left, right = fig.subplots(1, 2)
    for place, names in enumerate(lines.values()):
        rows = by_name[names[0]]
        style: dict[str, Any] = {
            "color": LINES[place % len(LINES)], "marker": MARKERS[place // len(LINES) % len(MARKERS)],
            "markersize": 4, "linewidth": 1.2,
        }  # fmt: skip
        x = [row.workers for row in rows]
        left.plot(x, [row.ratio for row in rows], label=", ".join(names), **style)
        right.plot(x, [row.speedup for row in rows], **style)
    limits = {row.workers: run.bounds for row, run in zip(table.rows, table.runs, strict=True)}
    right.plot(counts, [p * limits[p].area / limits[p].lower if limits[p].lower else 1.0 for p in counts],
               color="0.5", linestyle="--", linewidth=1, label="limit min(p, W/C)")  # fmt: skip
    for axes, label in ((left, "makespan / lower bound"), (right, "speed-up")):
        axes.set_xscale("log", base=2)
        axes.set_xticks(counts, [str(p) for p in counts])
        axes.set_xlabel("workers")
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
    left.set_ylim(bottom=1 - 0.02 * (left.get_ylim()[1] - 1))
    right.set_yscale("log", base=2)
    right.legend(loc="upper left", fontsize=8, frameon=False)
    fig.legend(loc="outside right center", fontsize=8, frameon=False, handles=left.get_lines())
    fig.suptitle(f"{drawn(table.graph.name)}, {len(table.graph)} tasks, backend {table.backend}", fontsize=11)
    save(fig, path, dpi=150)
