"""The figure of a comparison of schedulers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tilewright.plot.canvas import drawn, new_figure, save
from tilewright.plot.palette import LINES, MARKERS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from tilewright.studies.schedulers import Row, Table

__all__ = ["excess", "figure", "shade"]


def figure(table: Table, path: str | Path) -> None:
    """Write two panels: a heat map of the excess over the lower bound, policy by workers, and speed-up over workers.

    Policies that made the same schedules share a row and a line. A star marks the best on each number of workers, and
    what ties with it.
    """
    groups = excess(table)
    counts = sorted({row.workers for row in table.rows})
    wide = 5.2 + 0.75 * len(counts)
    fig = new_figure("a plot of a comparison", wide + 5.5, max(4.2, 1.6 + 0.32 * len(groups)))
    left, right = fig.subplots(1, 2, width_ratios=(wide - 2, 5))
    _heat_map(fig, left, groups, counts)
    for place, (names, rows) in enumerate(groups):
        style: dict[str, Any] = {
            "color": LINES[place % len(LINES)],
            "marker": MARKERS[place % len(MARKERS)],
            "linestyle": ("-", "--", ":")[place // len(LINES) % 3],
            "markersize": 4,
            "linewidth": 1.2,
        }
        right.plot(list(rows), [row.speedup for row in rows.values()], label=", ".join(names), **style)
    limits = {row.workers: run.bounds for row, run in zip(table.rows, table.runs, strict=True)}
    right.plot(
        counts,
        [p * limits[p].area / limits[p].lower if limits[p].lower else 1.0 for p in counts],
        color="0.5",
        linestyle="--",
        linewidth=1,
        label="limit min(p, W/C)",
    )
    right.set_xscale("log", base=2)
    right.set_yscale("log", base=2)
    right.set_xticks(counts, [str(p) for p in counts])
    right.set_xlabel("workers")
    right.set_ylabel("speed-up T1/Tp")
    right.grid(alpha=0.3)
    right.legend(loc="upper left", fontsize=7, frameon=False)
    where = f", backend {table.backend}" if table.backend else ""
    fig.suptitle(f"{drawn(table.title)}{where}", fontsize=11)
    save(fig, path, dpi=150)


def excess(table: Table) -> list[tuple[list[str], dict[int, Row]]]:
    """Names of policies that agree on every number of workers, and their row on each; the shortest in sum first."""
    by_name: dict[str, dict[int, Row]] = {}
    for row in table.rows:
        by_name.setdefault(row.name, {})[row.workers] = row
    lines: dict[tuple[Any, ...], list[str]] = {}
    for name in sorted(by_name, key=lambda name: (sum(row.behind for row in by_name[name].values()), name)):
        key = tuple((row.workers, row.makespan, row.alone) for row in by_name[name].values())
        lines.setdefault(key, []).append(name)
    return [(names, by_name[names[0]]) for names in lines.values()]


def shade(share: float, most: float) -> tuple[str, str]:
    """Colours of a cell and of its text: white where nothing is in excess of the bound, darker the more there is."""
    depth = min(max(share, 0.0) / most, 1.0) if most > 0 else 0.0
    light, dark = (255, 255, 255), (0, 62, 110)
    mixed = "".join(f"{round(a + (b - a) * depth):02X}" for a, b in zip(light, dark, strict=True))
    return f"#{mixed}", "#FFFFFF" if depth > 0.5 else "#000000"


def _heat_map(fig: Figure, axes: Any, groups: list[tuple[list[str], dict[int, Row]]], counts: list[int]) -> None:
    most = max((row.ratio - 1 for _, rows in groups for row in rows.values()), default=0.0)
    for y, (_, rows) in enumerate(groups):
        for x, count in enumerate(counts):
            if count not in rows:
                continue
            row = rows[count]
            fill, ink = shade(row.ratio - 1, most)
            axes.fill(
                [x - 0.5, x + 0.5, x + 0.5, x - 0.5],
                [y - 0.5, y - 0.5, y + 0.5, y + 0.5],
                facecolor=fill,
                edgecolor="#CCCCCC",
                linewidth=0.5,
            )
            star = "*" if row.ties else ""
            axes.text(x, y, f"{row.ratio - 1:.0%}{star}", color=ink, ha="center", va="center", fontsize=8)
    names = [
        ", ".join(names) if len(names) < 4 else f"{', '.join(names[:2])} and {len(names) - 2} more"
        for names, _ in groups
    ]
    axes.set_yticks(range(len(groups)), names, fontsize=8)
    axes.set_xticks(range(len(counts)), [str(count) for count in counts])
    axes.set_xlim(-0.5, len(counts) - 0.5)
    axes.set_ylim(len(groups) - 0.5, -0.5)
    axes.tick_params(length=0)
    axes.set_xlabel("workers")
    axes.set_title("makespan over the lower bound; * best, and what ties", fontsize=9, loc="left")
    for spine in axes.spines.values():
        spine.set_visible(False)
