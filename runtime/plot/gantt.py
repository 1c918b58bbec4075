"""The Gantt chart of a run: which worker did what, and when."""

from __future__ import annotations

from collections.abc import Sequence
from io import StringIO
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tilewright.passes.bounds import bounds
from tilewright.plot.canvas import drawn, new_figure, save
from tilewright.plot.palette import ACCENT, CAUSES, colours
from tilewright.plot.phases import phases, warm_up
from tilewright.runs.idle import pieces
from tilewright.runs.run import Run
from tilewright.runs.text import IDLE, units, weight_unit
from tilewright.runs.trace import TaskRecord, Trace
from tilewright.units import seconds

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["SUFFIXES", "figure", "gantt", "svg"]

SUFFIXES = (".png", ".svg", ".pdf")
"""File formats."""

_BAR = 0.8  # share of a lane's height
_SLIVER = 2000  # part of the makespan from which an idle time has a colour of its own
_CROWDED = 100  # tasks per lane from which bars are so narrow that a thick outline would fill them
_NARROW = 250  # part of the axis below which any outline would


def gantt(run: Run | Trace, path: str | Path) -> None:
    """Draw a run, or its trace, into a file.

    One lane per worker, a bar per task coloured by op; idle times are hatched by cause (`tilewright.runs.idle`). Tasks
    of the critical path, the longest chain by measured durations, are outlined, short ones underlined; a task that
    failed is crossed out. Vertical lines mark the lower bounds W/p and C. A training is coloured by phase, and a first
    step that is mostly warm-up is left of the axis (`tilewright.plot.phases`).

    Parameters
    ----------
    run
        What `tilewright.run` returned; a `Trace` has no flops, so its title has no rate.
    path
        Its suffix, one of `SUFFIXES`, says the format.

    Raises
    ------
    ValueError
        Another suffix.
    ImportError
        matplotlib is not installed.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"cannot write a Gantt chart to {path.name!r}; its suffix must be {', '.join(SUFFIXES)}")
    save(figure(run), path)


def svg(run: Run | Trace) -> str:
    """The chart as SVG text. ImportError if matplotlib is not installed."""
    file = StringIO()
    figure(run).savefig(file, format="svg")
    return file.getvalue()


def figure(run: Run | Trace) -> Figure:
    """The chart as a matplotlib figure, for a notebook or to add to. ImportError if matplotlib is not installed."""
    trace = run.trace if isinstance(run, Run) else run
    lanes = sorted({(r.rank, w) for r in trace for w in range(trace.workers)})
    chart = new_figure("a Gantt chart", 12, 1.9 + 0.5 * max(len(lanes), 1), dpi=120)
    axes = chart.add_subplot()
    unit, scale = _unit(run, trace.makespan)
    training = phases(trace.graph)
    begun = 0.0 if training is None else warm_up(trace, training)
    kinds = [task.op.name for task in trace.graph.tasks] if training is None else [found.phase for found in training]
    seen = trace.makespan - begun
    _draw_lanes(axes, trace, lanes, scale, seen)
    _draw_tasks(axes, trace, lanes, scale, kinds, seen)
    _draw_bounds(axes, run, trace, scale)
    axes.set_xlabel(f"time ({unit})" if unit else f"time in {weight_unit(trace.graph)}")
    title = _title(run, trace)
    if begun:
        axes.set_xlim(begun * scale, (trace.makespan + 0.01 * seen) * scale)
        title += "; the first step, with its warm-up, is left out"
    axes.set_title(title, loc="left", fontsize=11)
    _legend(chart, axes)
    return chart


def _unit(run: Run | Trace, makespan: float) -> tuple[str, float]:
    """Unit of the time axis, and how many there are in a second."""
    if isinstance(run, Run) and not units(run)[0]:
        return "", 1.0
    return ("s", 1.0) if makespan >= 1 else ("ms", 1e3) if makespan >= 1e-3 else ("us", 1e6)


def _title(run: Run | Trace, trace: Trace) -> str:
    time = units(run)[1] if isinstance(run, Run) else seconds
    parts = [f"{drawn(trace.graph.name)}: {len(trace)} tasks, {time(trace.makespan)}"]
    if isinstance(run, Run):
        if run.rated:
            parts.append(f"{run.gflops:.4g} GFLOP/s")
        parts += [f"idle {run.idle:.1%}", drawn(f"{run.backend}, {run.scheduler}")]
    return "; ".join(parts)


def _draw_lanes(axes: Axes, trace: Trace, lanes: list[tuple[int, int]], scale: float, seen: float) -> None:
    several = len({rank for rank, _ in lanes}) > 1
    place = {lane: y for y, lane in enumerate(lanes)}
    idle: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for piece in pieces(trace, seen / _SLIVER):
        if (piece.rank, piece.worker) in place:
            spans = idle.setdefault((piece.cause, place[piece.rank, piece.worker]), [])
            spans.append((piece.start * scale, (piece.end - piece.start) * scale))
    named: set[str] = set()
    for cause in IDLE:
        for y in range(len(lanes)):
            if (cause, y) in idle:
                axes.broken_barh(
                    idle[cause, y],
                    (y - _BAR / 2, _BAR),
                    facecolor="#FFFFFF",
                    edgecolor=CAUSES[cause],
                    hatch="////",
                    linewidth=0,
                    zorder=1,
                    label=None if cause in named else f"idle: {IDLE[cause]}",
                )
                named.add(cause)
    if trace.failure is not None and (trace.failure.rank, trace.failure.worker) in place:
        failed, y = trace.failure, place[trace.failure.rank, trace.failure.worker]
        start, end = failed.start * scale, failed.end * scale
        axes.broken_barh(
            [(start, end - start)],
            (y - _BAR / 2, _BAR),
            facecolor="#FFFFFF",
            edgecolor="#B3003C",
            linewidth=1.6,
            hatch="xx",
            zorder=2,
            label="failed",
        )
    names = [f"rank {rank}, worker {worker}" if several else f"worker {worker}" for rank, worker in lanes]
    axes.set_yticks(range(len(lanes)), names)
    axes.set_ylim(len(lanes) - 0.4, -0.6)
    axes.margins(x=0.01)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(axis="y", length=0)


def _draw_tasks(
    axes: Axes, trace: Trace, lanes: list[tuple[int, int]], scale: float, kinds: Sequence[str], seen: float
) -> None:
    """One collection of bars per kind and lane, so that 10^5 tasks are a handful of artists."""
    lane = {place: y for y, place in enumerate(lanes)}
    order = list(dict.fromkeys(kinds))
    fill = colours(order)

    def key(record: TaskRecord) -> tuple[int, int]:
        return order.index(kinds[record.task]), lane[record.rank, record.worker]

    named: set[str] = set()
    for (number, y), records in groupby(sorted(trace, key=key), key=key):
        op = order[number]
        axes.broken_barh(
            [(r.start * scale, r.duration * scale) for r in records],
            (y - _BAR / 2, _BAR),
            facecolor=fill[op],
            edgecolor="#FFFFFF",
            linewidth=0.3,
            zorder=2,
            label=None if op in named else drawn(op),
        )
        named.add(op)
    outline = 0.8 if len(trace) > _CROWDED * len(lanes) else 1.6
    critical = {task.index for task in trace.graph.critical_path(trace.durations).tasks}
    for y in range(len(lanes)):
        on_path = [r for r in trace if r.task in critical and lane[r.rank, r.worker] == y]
        wide = [r for r in on_path if r.duration * _NARROW > seen]
        axes.broken_barh(
            [(r.start * scale, r.duration * scale) for r in on_path if r.duration * _NARROW <= seen],
            (y + _BAR / 2 - 0.06, 0.06),
            facecolor=ACCENT,
            linewidth=0,
            zorder=3,
        )
        axes.broken_barh(
            [(r.start * scale, r.duration * scale) for r in wide],
            (y - _BAR / 2, _BAR),
            facecolor="none",
            edgecolor=ACCENT,
            linewidth=outline,
            zorder=3,
            label="critical path" if y == 0 else None,
        )


def _draw_bounds(axes: Axes, run: Run | Trace, trace: Trace, scale: float) -> None:
    ranks = len({record.rank for record in trace}) or 1
    lower = run.bounds if isinstance(run, Run) else bounds(trace.graph, trace.workers * ranks, trace.durations)
    time = units(run)[1] if isinstance(run, Run) else seconds
    for value, name, style in ((lower.area, "bound W/p", "--"), (lower.critical_path, "bound C", ":")):
        axes.axvline(
            value * scale, color="#CC79A7", linestyle=style, linewidth=2, zorder=4, label=f"{name} = {time(value)}"
        )


def _legend(chart: Figure, axes: Axes) -> None:
    handles: dict[str, Any] = {}
    for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
        handles.setdefault(label, handle)
    chart.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=6, frameon=False, fontsize=9)
