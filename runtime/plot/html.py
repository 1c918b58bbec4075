"""Pages that open offline in any browser: a graph, a run, runs side by side, a comparison of schedulers.

One file each, with data, style and script inside, and no request to anywhere. `page.js` draws on canvases.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from functools import partial
from importlib.resources import files
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from tilewright.graph import TaskGraph
from tilewright.plot.colouring import Colouring, colouring
from tilewright.plot.compare import excess, shade
from tilewright.plot.outline import BOXES, bands
from tilewright.plot.palette import CAUSES, colours, text_on
from tilewright.plot.phases import PHASES, Phase, phases, warm_up
from tilewright.runs.footprint import held
from tilewright.runs.idle import pieces, queued, waits
from tilewright.runs.text import IDLE, chain_facts, memory, place, unit_name, units, weight_unit
from tilewright.scalars import positive
from tilewright.units import nbytes

if TYPE_CHECKING:
    from tilewright.runs.run import Run
    from tilewright.studies.table import Row, Table

__all__ = [
    "LIMIT",
    "comparison_page",
    "comparison_table",
    "frame",
    "graph_frame",
    "graph_page",
    "run_frame",
    "run_page",
]

LIMIT = 20_000
"""Tasks that are drawn one by one; beyond that they are drawn in groups."""
_LANES = 256  # workers that are drawn
_STRIP = 48  # pixels of a timeline, as in page.js
_FRAME = 700  # tasks that are drawn one by one in a notebook, where every page stays in the file

_REASONS = {
    "startup": "A task was ready on this rank, and the engine had not given this worker its first one yet.",
    "no_task": "Every ready task was running: the graph has no more at that time, or the order made it so.",
    "data": "No task of this rank was ready, while tasks queued on other ranks: the distribution.",
    "communication": "Tasks of this rank had all their predecessors behind them, and waited for messages.",
    "overhead": "A task was ready, its data there, and nobody had begun it: the engine, or the policy.",
    "tail": "All tasks had begun, and the last ones ran on other workers.",
}
_SLIVER = 4000
"""Idle times of less than this part of the makespan are drawn with those beside them."""


def graph_page(graph: TaskGraph, limit: int | None = None) -> str:
    """The graph alone, by layers, costs in units of `Op.weight`; more tasks than ``limit`` as in `run_page`."""
    limit = LIMIT if limit is None else positive(limit, "limit")
    facts = {
        "tasks": f"{len(graph):,}",
        "edges": f"{graph.edges:,}",
        "work": f"{graph.work():g}",
        "critical path": f"{graph.critical_path().length:g}",
    }
    return _page(graph.name, [(graph.name, _facts(facts), _picture(graph, None, limit))])


def run_page(*runs: Run, names: Sequence[str] = (), before: str = "", limit: int | None = None) -> str:
    """One run, or several side by side: verdict, Gantt chart and graph linked by selection, bounds, idle time, kernels.

    ``names`` stand before the headings of the runs, ``before``, in HTML, above all of them. More tasks than ``limit``,
    by default `LIMIT`, are drawn in groups.
    """
    title = " | ".join(dict.fromkeys(run.graph.name for run in runs))
    panels = []
    for number, run in enumerate(runs):
        heading = f"{run.scheduler} on {place(run)}, {'simulated' if run.trace.virtual else run.backend}"
        heading = f"{names[number]}: {heading}" if names else heading
        panels.append((heading, _tables(run), _picture(run.graph, run, limit)))
    return _page(title, panels, before)


def _tables(run: Run) -> str:
    return _facts(_run_facts(run)) + _idle(run) + _kernels(run)


def comparison_page(table: Table, *others: Table) -> str:
    """The table of a comparison, and two of its runs: the best and the worst on most workers of those that differ.

    Any two can be picked. Of several comparisons, such as of one algorithm at several sizes, one picks the graph first.
    The page has the runs of all rows that differ, as far as they fit into `_PAGE` bytes, and names those that it left
    out.
    """
    tables = [table, *others]
    panels: list[_Panel] = []
    parts: list[str] = []
    room, shown = _PAGE, 0
    for number, one in enumerate(tables):
        numbers, own, left, size = _explored(one, [panel[2] for panel in panels], room // (len(tables) - number))
        room -= size
        missing = f"Left out, to keep the page small: {_some(left)}." if left else ""
        pair = min(2, len(own)) if own[0][0].startswith("best: ") else 1
        first = ",".join(str(len(panels) + k) for k in range(pair))
        parts.append(
            f'<div class="comparison" data-first="{first}"{" hidden" * bool(number)}>{comparison_table(one, numbers)}'
            + f'<p class="note">{html.escape(missing)}</p>' * bool(left)
            + "</div>"
        )
        panels += own
        shown = shown or pair
    what = "Engines" if table.measure == "call" else "Schedulers"
    titles = "".join(f"<option value={k}>{html.escape(one.title)}</option>" for k, one in enumerate(tables))
    before = (
        f'<p><label>Graph <select id="which">{titles}</select></label></p>' * (len(tables) > 1)
        + "".join(parts)
        + '<p class="soft">Press a number of the map to see that run beside the last one.</p>'
        '<p id="parting" aria-live="polite"></p>'
    )
    title = f"{what} on {_some(list(dict.fromkeys(one.graph.name for one in tables)), 4)}"
    return _page(title, panels, before, shown=shown)


def _explored(
    table: Table, before: Sequence[dict[str, Any]], room: int
) -> tuple[dict[tuple[str, int], int], list[_Panel], list[str], int]:
    """Panels of a table in so many bytes, by policy and workers the number of each, what was left out, and the bytes.

    Panels ``before`` are on the page already. The first two are there in any case, in groups of tasks if need be.
    """
    run_of = {(row.name, row.workers): run for row, run in zip(table.rows, table.runs, strict=True)}
    names = {(rows[0].name, rows[0].workers): _some([row.name for row in rows], 2) for rows in table.merged()}
    rows = [rows[0] for rows in table.merged()]
    counts = Counter(row.workers for row in rows)
    most = max((count for count in counts if counts[count] > 1), default=max(counts))
    telling = [row for row in rows if row.workers == most]
    first = dict.fromkeys([telling[0], telling[-1]])
    panels: list[_Panel] = []
    numbers: dict[tuple[str, int], int] = {}
    size = 0

    def panel(row: Row, name: str, limit: int | None = None) -> tuple[_Panel, int]:
        run = run_of[row.name, row.workers]
        heading = f"{name}{': ' if name else ''}{names[row.name, row.workers]} on {place(run)}"
        made = heading, _tables(run), _picture(run.graph, run, limit)
        own = _alike(made[2], [*before, *(other[2] for other in panels)])
        return made, len(_section(0, *made)) + len(_json(own))

    order = [*zip(first, ("best", "worst"), strict=False), *((row, "") for row in rows if row not in first)]
    if len(first) == 1:
        order[0] = telling[0], ""
    for row, name in order:
        made, weight = panel(row, name)
        if row in first and weight > room // len(first):
            made, weight = panel(row, name, _FRAME)
        elif row not in first and size + weight > room:
            break
        size += weight
        numbers[row.name, row.workers] = len(before) + len(panels)
        panels.append(made)
    left = [f"{names[row.name, row.workers]} on {_of_workers(row.workers)}" for row, _ in order[len(panels) :]]
    for same in table.merged():  # those that made the same schedule have the same picture
        for row in same[1:]:
            if (same[0].name, row.workers) in numbers:
                numbers[row.name, row.workers] = numbers[same[0].name, row.workers]
    return numbers, panels, left, size


def _of_workers(count: int) -> str:
    return f"{count:,} {'worker' if count == 1 else 'workers'}"


def _alike(picture: dict[str, Any], earlier: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The picture without lists that an earlier one of the page has, too; ``same`` says which has them.

    Policies are compared on one graph: its tasks, edges and places would be in the page once for each of them.
    """
    same: dict[str, int] = {}
    for key, value in picture.items():
        if isinstance(value, list) and len(value) > _FEW:
            number = next((number for number, other in enumerate(earlier) if other.get(key) == value), None)
            if number is not None:
                same[key] = number
    return {key: value for key, value in picture.items() if key not in same} | ({"same": same} if same else {})


_Panel = tuple[str, str, dict[str, Any]]
"""Heading, tables, picture."""
_FEW = 16  # items of a list that is as well said again
_PAGE = 4_900_000  # bytes of runs in the page of a comparison, so that it has 5 MB with its tables and its script


def _some(names: Sequence[str], most: int = 12) -> str:
    """``a, b and 5 more``."""
    return ", ".join(names[:most]) + f" and {len(names) - most:,} more" * (len(names) > most)


def comparison_table(table: Table, numbers: Mapping[tuple[str, int], int] | None = None) -> str:
    """The rows alone, for a page or a notebook. ``numbers`` of panels, by policy and workers, if there are some."""
    groups = table.merged()
    rows = [rows[0] for rows in groups]
    unit = "" if table.units == "s" else f", {table.units}"
    calls = table.measure == "call"
    chosen = "engine" if calls else "scheduler"
    head = [
        "workers",
        chosen,
        *["call"] * calls,
        f"makespan{unit}",
        "/ bound",
        "speed-up",
        "W/(p T)",
        "behind",
        "memory",
    ]
    body = [
        [
            str(row.workers),
            ", ".join(other.name for other in rows),
            *[table.time(row.call)] * calls,
            table.time(row.makespan),
            f"{row.ratio:.3f}",
            f"{row.speedup:.2f}",
            f"{row.efficiency:.1%}",
            row.distance,
            nbytes(row.memory),
        ]
        for rows in groups
        for row in rows[:1]
    ]
    rulers = [number for number in range(1, len(rows)) if rows[number].workers != rows[number - 1].workers]
    verdicts = "".join(
        f'<p class="verdict">{html.escape(said)}</p>'
        for said in [*table.verdicts(), *(f"{name} is not here: {why}" for name, why in table.absent.items())]
    )
    verdicts = f'<p class="advice">{html.escape(table.advice())}</p>' * bool(table.advice()) + verdicts
    return verdicts + heat_map(table, numbers or {}) + _table(head, body, rulers)


def heat_map(table: Table, numbers: Mapping[tuple[str, int], int]) -> str:
    """Policies by workers: how far each makespan is over the lower bound."""
    groups, counts = excess(table), sorted({row.workers for row in table.rows})
    most = max((row.ratio - 1 for _, rows in groups for row in rows.values()), default=0.0)
    body = ""
    for names, rows in groups:
        cells = ""
        for count in counts:
            if count not in rows:
                cells += "<td></td>"
                continue
            row = rows[count]
            fill, ink = shade(row.ratio - 1, most)
            said = f"{row.ratio - 1:.1%}{' &#9733;' if row.ties else ''}"
            number = numbers.get((names[0], count))
            if number is not None:
                label = html.escape(f"{names[0]} on {_of_workers(count)}, {row.ratio - 1:.1%}")
                said = f'<button type="button" data-panel="{number}" aria-label="{label}">{said}</button>'
            cells += f'<td style="background:{fill};color:{ink}">{said}</td>'
        body += f"<tr><th scope=row>{html.escape(', '.join(names))}</th>{cells}</tr>"
    head = "".join(f"<th scope=col>{count}</th>" for count in counts)
    return (
        '<h3>Makespan over the lower bound, by workers; a star: best, or ties with it</h3><div class="scroll">'
        f'<table class="heat"><thead><tr><th></th>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def frame(page: str, height: int = 760) -> str:
    """A page inside another: its styles and its script see nothing of what is around them, and have no origin."""
    source = html.escape(page, quote=False).replace("'", "&#39;")  # in data there are more quotation marks
    return (
        f'<iframe sandbox="allow-scripts" srcdoc=\'{source}\' style="width:100%;height:{height}px;border:0" '
        f'title="tilewright"></iframe>'
    )


def graph_frame(graph: TaskGraph) -> str:
    """What a notebook shows of a graph: its page, in under 200 kB."""
    return frame(graph_page(graph, _FRAME))


def run_frame(run: Run) -> str:
    """What a notebook shows of a run: its page, as high as verdict, Gantt chart and details are, in under 200 kB."""
    lanes = min(run.trace.workers * run.trace.ranks, _LANES)
    strips = 1 + bool(run.trace.messages) + bool(run.memory and run.measured is None)
    chart = max(106, min(560, 40 + (22 if lanes > 8 else 30) * lanes))
    return frame(run_page(run, limit=_FRAME), 366 + _STRIP * strips + chart)


# ---------------------------------------------------------------- the page


def _page(title: str, panels: Sequence[_Panel], before: str = "", shown: int | None = None) -> str:
    """The page of these panels: heading, tables and picture. The first ``shown`` are visible, by default all."""
    folder = files("tilewright.plot")
    style, script = ((folder / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    # "<" never appears in the data, so no string in it can end the script element.
    pictures = [picture for _, _, picture in panels]
    data = _json([_alike(picture, pictures[:number]) for number, picture in enumerate(pictures)])
    data = data.replace("<", "\\u003c")
    # The browser runs this script and no other, and asks nobody for anything.
    known = base64.b64encode(hashlib.sha256(f"\n{script}".encode()).digest()).decode()
    policy = f"default-src 'none'; script-src 'sha256-{known}'; style-src 'unsafe-inline'; img-src data:"
    sections = "\n".join(
        _section(number, *panel, hidden=shown is not None and number >= shown) for number, panel in enumerate(panels)
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{html.escape(title)}</title>
<style>
{style}</style>
</head>
<body>
<header><h1>{html.escape(title)}</h1><button id="theme" type="button">dark / light</button></header>
{before}
<main class="runs">
{sections}
</main>
<p class="soft">The graph's critical path is outlined in red, and underlined on the workers; the chain that set the
makespan has a line above. Hatched times are idle: click one to see why.</p>
<p class="soft keys">Wheel, two fingers or <kbd>+</kbd> <kbd>-</kbd> magnify, dragging moves, <kbd>Shift</kbd> and
dragging marks a range of times, <kbd>0</kbd> shows all. In a picture,
arrow keys go left and right along the worker, up to the last predecessor and down to a successor; <kbd>Enter</kbd>
magnifies the selected task, <kbd>Esc</kbd> lets it go. In the search field <kbd>Enter</kbd> selects the next one
found.</p>
<div id="tip" role="tooltip"></div>
<script type="application/json" id="data">{data}</script>
<script>
{script}</script>
</body>
</html>
"""


def _json(found: Any) -> str:
    return json.dumps(found, separators=(",", ":"))


def _section(number: int, heading: str, tables: str, picture: dict[str, Any], hidden: bool = False) -> str:
    swatches = "".join(
        f'<button type="button" aria-pressed="true" data-op="{k}"><i class="swatch" style="background:{colour}"></i>'
        f"{html.escape(op)}</button>"
        for k, (op, colour) in enumerate(zip(picture["ops"], picture["colours"], strict=True))
    )
    note = f'<p class="note">{html.escape(picture["note"])}</p>' if picture["note"] else ""
    labels = picture["label"]
    example = labels[len(labels) // 2] if labels else ""
    gantt = timeline = idle = ""
    if "bars" in picture:
        gantt = (
            '<canvas class="gantt" tabindex="0" role="application" '
            'aria-label="Gantt chart: one row per worker, one bar per task; arrow keys select"></canvas>'
        )
        if "ready" in picture:
            timeline = (
                '<canvas class="times" style="height:48px" role="img" '
                'aria-label="Ready tasks, bytes under way and memory over time"></canvas>'
            )
        shown = sorted(set(picture["idle"]["cause"]))
        idle = "".join(
            f'<span><i class="swatch hatched" style="--c:{colour}"></i>{cause}</span>'
            for k, (cause, colour) in enumerate(zip(picture["causes"], picture["causeColours"], strict=True))
            if k in shown
        )
        idle = f'<div class="legend idle"><span class="soft">idle:</span>{idle}</div>' if shown else ""
    verdict = f'<p class="verdict">{html.escape(picture["verdict"])}</p>' if "verdict" in picture else ""
    by = ""
    if picture.get("by"):
        choices = "".join(f"<option value={k}>{found['name']}</option>" for k, found in enumerate(picture["by"]))
        by = f'<label>Colours by <select class="by"><option value=-1>op</option>{choices}</select></label> '
    graph = """<h3>Task graph by layers</h3>
<canvas class="dag" style="height:520px" tabindex="0" role="application"
aria-label="Task graph: one box per task, layers from top to bottom; arrow keys select"></canvas>"""
    return f"""<section class="run" id="panel-{number}"{" hidden" * hidden}>
<h2>{html.escape(heading)}</h2>
{verdict}
{gantt}
{timeline}
{note}
<div class="tools">
{by}<label>Find <input class="search" type="search" placeholder="{html.escape(example)}" size="16"></label>
<span class="found soft" aria-live="polite"></span><button class="home" type="button">Show all</button></div>
<div class="legend ops" role="group" aria-label="Ops: press to dim">{swatches}</div>
{idle}
<div class="range" aria-live="polite"></div>
<div class="details" aria-live="polite"></div>
{tables}
{graph}
</section>"""


def _table(head: Sequence[str], body: Sequence[Sequence[str]], rulers: Sequence[int] = ()) -> str:
    """Rows with a line above those in ``rulers``."""
    cells = "".join(f"<th scope=col>{html.escape(cell)}</th>" for cell in head)
    rows = ""
    for number, row in enumerate(body):
        texts = "".join(f"<td>{html.escape(cell)}</td>" for cell in row)
        rows += ("<tr class=ruled>" if number in rulers else "<tr>") + texts + "</tr>"
    return f'<div class="scroll"><table><thead><tr>{cells}</tr></thead><tbody>{rows}</tbody></table></div>'


def _facts(facts: dict[str, str]) -> str:
    rows = "".join(f"<tr><th scope=row>{k}</th><td>{html.escape(v)}</td></tr>" for k, v in facts.items())
    return f'<table class="facts">{rows}</table>'


def _run_facts(run: Run) -> dict[str, str]:
    lower, t = run.bounds, units(run)[1]
    work = lower.area if lower.work is None else lower.work
    unit = "" if units(run)[0] else f" {unit_name(run)}"
    facts = {
        "makespan": t(run.makespan) + unit + (f", {run.gflops:.4g} GFLOP/s" if run.rated else ""),
        "lower bounds": f"{t(lower.area)} area, {t(lower.critical_path)} critical path",
        "efficiency": f"{run.efficiency:.1%} = W/(p T), {run.of_bound:.1%} of the lower bound, idle {run.idle:.1%}",
        "chain": chain_facts(run) if run.makespan else "none",
        "work": f"{t(work)}; speed-up at most {lower.speedup_limit:.4g} (W/C)",
        "tasks": f"{len(run.graph):,}, up to {run.width:,} at once",
    }
    if run.memory:
        facts["memory"] = memory(run)
    if run.trace.messages:
        facts["messages"] = f"{run.messages:,}, {nbytes(run.bytes)}"
    return facts


def _idle(run: Run) -> str:
    idle, available = run.idle_split, run.makespan * run.workers
    if not available:
        return ""
    parts = [("in tasks", "", "#5B8F7B", available - idle.total)]
    parts += [(name, " hatched", CAUSES[field], getattr(idle, field)) for field, name in IDLE.items()]
    parts = [part for part in parts if part[3] > 0]
    bars = "".join(
        f'<span class="part{hatched}" style="width:{100 * v / available:.3f}%;--c:{c}"></span>'
        for _, hatched, c, v in parts
    )
    legend = "".join(
        f'<span><i class="swatch part{hatched}" style="--c:{c}"></i>{name} {v / available:.1%}</span>'
        for name, hatched, c, v in parts
    )
    return (
        f'<h3>Where the workers\' time went</h3><div class="shares"><div class="split">{bars}</div>'
        f'<div class="legend">{legend}</div></div>'
    )


def _kernels(run: Run) -> str:
    """Time and rate by op; the ceiling is a core's 1/gamma, or with GPUs the fastest single task of the run."""
    t = units(run)[1]
    durations = run.trace.durations
    each: dict[str, list[float]] = {}
    ran: dict[int, None] = {}
    for record in run.trace.records:  # of a run that failed some tasks have none
        each.setdefault(run.graph.tasks[record.task].op.name, []).append(record.duration)
        ran[record.task] = None
    flops = dict.fromkeys(each, 0.0)
    for index in ran:
        task = run.graph.tasks[index]
        flops[task.op.name] += run.task_flops(task)
    gamma = run.machine.gamma if run.machine is not None and not run.machine.gpus else None
    if gamma:
        ceiling, source = 1 / gamma, "the machine's 1/gamma"
    else:
        rates = [run.task_flops(run.graph.tasks[t]) / durations[t] for t in ran if durations[t]]
        ceiling, source = max(rates, default=0.0), "the fastest task of this run"
    body = []
    for op, (count, total) in run.trace.by_op().items():
        rate = flops[op] / total if total else 0.0
        body.append([
            op, f"{count:,}", t(total), t(min(each[op])), t(total / count), t(max(each[op])),
            f"{rate / 1e9:.4g}" if flops[op] else "-", f"{rate / ceiling:.0%}" if flops[op] and ceiling else "-",
        ])  # fmt: skip
    head = ["op", "tasks", "total", "fastest", "mean", "slowest", "GFLOP/s", "of ceiling"]
    if not any(flops.values()):
        head, body = head[:-2], [row[:-2] for row in body]
    note = f'<p class="soft">Ceiling: {ceiling / 1e9:.4g} GFLOP/s per worker, {source}.</p>' if ceiling else ""
    return f'<h3>Kernels</h3><div class="kernels">{_table(head, body)}</div>{note}'


# ---------------------------------------------------------------- the pictures as data


def _picture(graph: TaskGraph, run: Run | None, limit: int | None = None) -> dict[str, Any]:
    """What `page.js` draws. Numbers in lists by item; an item is a task, or a group of them in a large graph."""
    limit = LIMIT if limit is None else limit
    durations = run.trace.durations if run is not None else None
    costs = durations if durations is not None else [task.op.weight for task in graph.tasks]
    training = phases(graph)
    names = [task.op.name for task in graph.tasks] if training is None else [found.phase for found in training]
    ops = [name for name in (dict.fromkeys(names) if training is None else PHASES) if name in set(names)]
    number = {op: count for count, op in enumerate(ops)}
    inks = [(colour, text_on(colour)) for colour in colours(ops).values()]
    depth, slack, critical = _layers(graph, costs)
    op = [number[name] for name in names]
    groups: list[int] | None = None
    picture: dict[str, Any] = {
        "ops": ops,
        "colours": [fill for fill, _ in inks],
        "inks": [ink for _, ink in inks],
        "unit": units(run)[0] if run is not None else "",
        "note": "",
        "unitName": unit_name(run) if run is not None else weight_unit(graph),
    }
    if training is not None:
        said = list(dict.fromkeys(training))
        part, groups = _grouped(graph, costs, training, said, slack, critical)
        picture |= part | _rows(said) | {
            "label": [str(phase) for phase in said], "op": [number[phase.phase] for phase in said],
            "info": [f"{count:,} tasks" for count in part["count"]],
        }  # fmt: skip
        picture["note"] = "A box, and a bar, stands for all tasks of one phase of a step, on one replica or stage."
    elif len(graph) > limit:
        found = bands(depth, op, min(limit, BOXES))
        part, _ = _grouped(graph, costs, found.of, range(len(found.keys)), slack, critical)
        part["predecessors"] = [  # inside a band of layers edges may go both ways
            [p for p in before if found.keys[p][0] < band]
            for before, (band, _) in zip(part["predecessors"], found.keys, strict=True)
        ]
        picture |= part | _places([band for band, _ in found.keys], part["predecessors"]) | {
            "label": [f"{n} x {ops[o]}" for n, (_, o) in zip(part["count"], found.keys, strict=True)],
            "op": [o for _, o in found.keys], "info": [found.where(box) for box in range(len(found.keys))],
        }  # fmt: skip
        picture["note"] = (
            f"{len(graph):,} tasks are more than the {limit:,} that are drawn one by one: a box stands for all tasks "
            f"of one op in {found.tall}" + (", and a bar for neighbours on one worker." if run is not None else ".")
        )
    else:
        predecessors = [list(task.predecessors) for task in graph.tasks]
        picture |= {
            "label": [task.label for task in graph.tasks], "op": op, "cost": costs, "slack": slack,
            "critical": critical, "predecessors": predecessors,
            "info": [" ".join(map(str, task.uses)) for task in graph.tasks],
            **_places(depth, predecessors),
        }  # fmt: skip
    if len(graph) <= limit and groups is None:
        picture["by"] = _colourings(graph, run)
    if run is not None:
        notes = [picture["note"]]
        schedule = _schedule(run, op, limit, groups)
        notes.append(schedule.pop("note", ""))
        picture |= schedule
        picture["verdict"] = str(run.verdict)
        if training is not None:
            for bar, item in enumerate(picture["bars"]["item"]):
                picture["bars"]["label"][bar] = picture["label"][item]
            if begun := warm_up(run.trace, training):
                picture["from"] = begun
                picture["idle"] = _idle_pieces(run, (run.makespan - begun) / _SLIVER)  # of what is seen
                took = f"{units(run)[1](begun)}{'' if units(run)[0] else f' {unit_name(run)}'}"
                notes.append(f"The first step, {took} with its warm-up, is left of the chart: Show all.")
                picture["verdict"] += (
                    f" This counts the first step, {begun / run.makespan:.0%} of the run with its warm-up."
                )
        if run.workers > _LANES:
            notes.append(f"Only the first {_LANES} of {run.workers:,} workers are drawn.")
        picture["note"] = " ".join(filter(None, notes))
    return picture


def _colourings(graph: TaskGraph, run: Run | None) -> list[dict[str, Any]]:
    """What else colours may mean: owner, rank of the run, precision, step. Only what tells tasks apart."""
    choices: list[tuple[str, Callable[[], Colouring]]] = []
    if graph.layout is not None:
        choices.append(("owner", partial(colouring, graph, "owner")))
    if run is not None and run.trace.ranks > 1:
        rank = {record.task: record.rank for record in run.trace.records}
        choices.append(("rank", lambda: colouring(graph, lambda task: f"rank {rank.get(task.index, '-')}")))
    choices += [(by, partial(colouring, graph, by)) for by in ("precision", "step")]
    found = []
    for name, make in choices:
        groups, fill = make()
        if 1 < len(fill) <= _GROUPS:
            number = {group: place for place, group in enumerate(fill)}
            found.append({
                "name": name, "ops": list(fill), "op": [number[group] for group in groups],
                "colours": list(fill.values()), "inks": [text_on(colour) for colour in fill.values()],
            })  # fmt: skip
    return found


_GROUPS = 64  # colours that a legend may have


def _layers(graph: TaskGraph, costs: Sequence[float]) -> tuple[list[int], list[float], list[int]]:
    """Depth and slack of each task, and a critical path. Slack: how much later it could end with the path as long."""
    count = len(graph)
    depth, early = [0] * count, [0.0] * count
    for task in graph.tasks:
        for p in task.predecessors:
            depth[task.index] = max(depth[task.index], depth[p] + 1)
            early[task.index] = max(early[task.index], early[p] + costs[p])
    levels = graph.bottom_levels(costs)
    path = graph.critical_path(costs)
    slack = [path.length - early[t] - levels[t] for t in range(count)]
    slack = [late if late > 1e-9 * path.length else 0.0 for late in slack]  # what rounding left is none
    return depth, slack, [task.index for task in path.tasks]


def _places(depth: Sequence[int], predecessors: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Where items are drawn: layers from top to bottom, in a layer by the mean place of the predecessors."""
    layers: dict[int, list[int]] = {}
    for item, layer in enumerate(depth):
        layers.setdefault(layer, []).append(item)
    x = [0.0] * len(depth)
    for _, items in sorted(layers.items()):
        centre = {t: sum(x[p] for p in predecessors[t]) / max(len(predecessors[t]), 1) for t in items}
        items.sort(key=lambda t: (centre[t], t))
        for number, t in enumerate(items):
            x[t] = number - (len(items) - 1) / 2
    half = max((len(items) for items in layers.values()), default=1) / 2
    return {"x": x, "y": list(depth), "world": [-half, -0.5, half, max(layers, default=0) + 0.5]}


def _grouped(
    graph: TaskGraph,
    costs: Sequence[float],
    keys: Sequence[Hashable],
    order: Sequence[Hashable],
    slack: Sequence[float],
    critical: Sequence[int],
) -> tuple[dict[str, Any], list[int]]:
    """All tasks of one key as one item, the keys in this order; and by task its item."""
    place = {key: number for number, key in enumerate(order)}
    of = [place[key] for key in keys]
    count, cost, least = [0] * len(place), [0.0] * len(place), [float("inf")] * len(place)
    edges: list[set[int]] = [set() for _ in place]
    for task in graph.tasks:
        g = of[task.index]
        count[g] += 1
        cost[g] += costs[task.index]
        least[g] = min(least[g], slack[task.index])
        edges[g].update(of[p] for p in task.predecessors)
    part = {
        "count": count, "cost": cost, "slack": least, "critical": list(dict.fromkeys(of[t] for t in critical)),
        "predecessors": [sorted(found - {g}) for g, found in enumerate(edges)],
    }  # fmt: skip
    return part, of


def _rows(items: Sequence[Phase]) -> dict[str, Any]:
    """Where the phases of a training are drawn: a row a step, in it one place after the other."""
    wide = len(PHASES) + 0.5
    x = [wide * item.place + PHASES.index(item.phase) for item in items]
    y = [item.step for item in items]
    return {"x": x, "y": y, "world": [-0.5, -0.5, max(x) + 0.5, max(y) + 0.5]}


def _lane(run: Run, number: int) -> str:
    """``worker 3``, ``gpu 0``; on several ranks ``r2 w3``, ``r2 gpu0``."""
    rank, worker = divmod(number, run.trace.workers)
    machine = run.machine
    gpu = machine is not None and machine.gpus > 0 and machine.workers == run.trace.workers and machine.is_gpu(worker)
    if machine is not None and gpu:
        worker -= machine.workers - machine.gpus
    if run.trace.ranks > 1:
        return f"r{rank} {'gpu' if gpu else 'w'}{worker}"
    return f"{'gpu' if gpu else 'worker'} {worker}"


def _schedule(run: Run, op: Sequence[int], limit: int, groups: Sequence[int] | None = None) -> dict[str, Any]:
    """Bars by lane; of up to ``limit`` tasks also when and where each ran and why not sooner.

    With ``groups`` an item is all tasks of one group, and a bar those of them that are neighbours on a worker.
    """
    trace, workers, linked = run.trace, run.trace.workers, len(run.graph) <= limit and groups is None
    of = range(len(run.graph)) if groups is None else groups
    items = len(set(of))
    total = workers * trace.ranks
    lanes = [_lane(run, number) for number in range(min(total, _LANES))]
    bars: dict[str, list[Any]] = {"item": [], "lane": [], "start": [], "end": [], "op": [], "label": []}
    tasks = run.graph.tasks
    shortest = 0.0 if linked else run.makespan / max(20.0, limit / min(total, _LANES))
    open_bar: dict[int, int] = {}
    members: dict[int, int] = {}
    longest: dict[int, float] = {}
    for record in trace.records:
        lane = record.rank * workers + record.worker
        if lane >= _LANES:
            continue
        bar = open_bar.get(lane)
        near = bar is not None and (
            bars["item"][bar] == of[record.task] and record.start - bars["end"][bar] < run.makespan / _SLIVER
            if groups is not None
            else not linked and record.end - bars["start"][bar] < shortest
        )
        if bar is not None and near:
            bars["end"][bar] = record.end
            members[bar] += 1
            if record.duration > longest[bar]:  # a bar has the colour of its longest task
                longest[bar] = record.duration
                bars["op"][bar], bars["label"][bar] = op[record.task], tasks[record.task].label
            continue
        open_bar[lane] = len(bars["start"])
        members[open_bar[lane]] = 1
        longest[open_bar[lane]] = record.duration
        bars["item"].append(of[record.task] if linked or groups is not None else -1)
        bars["lane"].append(lane)
        bars["start"].append(record.start)
        bars["end"].append(record.end)
        bars["op"].append(op[record.task])
        bars["label"].append(tasks[record.task].label)
    for bar, count in members.items():
        if count > 1:
            bars["label"][bar] += f" and {count - 1} more"
    if linked:  # bars of tasks, which have these names and ops already
        del bars["label"], bars["op"]
    arrows: list[list[Any]] = [
        [
            m.source * workers,
            m.destination * workers,
            m.start,
            m.end,
            f"{m.handle} from rank {m.source} to {m.destination}, {m.nbytes:,} bytes",
        ]
        for m in trace.messages
        if max(m.source, m.destination) * workers < _LANES and m.source != m.destination
    ]
    picture: dict[str, Any] = {
        "lanes": lanes, "bars": bars, "arrows": arrows if len(arrows) <= _ARROWS else [], "makespan": run.makespan,
        "bounds": [["W/p", run.bounds.area, [7, 4]], ["C", run.bounds.critical_path, [2, 3]]],
        "idle": _idle_pieces(run, run.makespan / (_SLIVER if linked else min(_SLIVER, 4 * limit / max(len(lanes), 1)))),
        "causes": list(IDLE.values()), "reasons": [_REASONS[cause] for cause in IDLE],
        "causeColours": [CAUSES[cause] for cause in IDLE], "failed": None,
    }  # fmt: skip
    if len(arrows) > _ARROWS:
        picture["note"] = f"{len(arrows):,} messages are more than the {_ARROWS:,} that are drawn."
    failure = trace.failure
    if failure is not None:
        picture["failed"] = {
            "item": of[failure.task] if linked or groups is not None else -1,
            "label": tasks[failure.task].label,
            "lane": failure.rank * workers + failure.worker,
            "start": failure.start,
            "end": failure.end,
        }
    if linked or groups is not None:
        start, end, lane_of = [0.0] * items, [0.0] * items, [0] * items
        order: dict[int, dict[int, None]] = {}
        first: dict[int, int] = {}
        for record in trace.records:
            item, lane = of[record.task], record.rank * workers + record.worker
            if item not in first:
                first[item], start[item], lane_of[item] = record.task, record.start, lane
                order.setdefault(lane, {})[item] = None
            end[item] = max(end[item], record.end)
        reasons = waits(trace)

        def why(item: int) -> list[Any]:
            reason, on, until = reasons.get(first.get(item, -1), ("start", -1, 0.0))
            return [reason, of[on] if on >= 0 and reason != "message" else on, until]

        picture |= {
            "start": start, "end": end, "lane": lane_of, "order": {lane: list(own) for lane, own in order.items()},
            "waits": [why(item) for item in range(items)],
            "messages": [f"{m.handle} from rank {m.source}, {m.nbytes:,} bytes" for m in trace.messages],
            "chain": list(dict.fromkeys(of[task.index] for task in run.chain.tasks)),
            "remote": _remote(run) if linked and len(arrows) <= _ARROWS else [],
        }  # fmt: skip
        amounts = [run.task_flops(task) for task in run.graph] if linked else []
        if any(amounts):
            place = {amount: number for number, amount in enumerate(dict.fromkeys(amounts))}
            picture |= {"flops": list(place), "flop": [place[amount] for amount in amounts]}
        if len(first) < items:
            picture["ran"] = [item in first for item in range(items)]
    picture["ready"] = _steps((since, until, 1) for since, until in queued(trace))
    picture["flight"] = _steps((m.start, m.end, m.nbytes) for m in trace.messages)
    if run.memory and run.measured is None:
        changes = held(run)
        peaks = [max(accumulate(change for _, change in rank), default=0) for rank in changes]
        fullest = peaks.index(max(peaks))
        picture["memory"] = _sums(changes[fullest])
        picture["fullest"] = fullest if trace.ranks > 1 else -1
    return picture


def _remote(run: Run) -> list[list[Any]]:
    """Edges between ranks, each with its message: (writer, reader, what travelled)."""
    rank = {record.task: record.rank for record in run.trace.records}
    brought = {(m.writer, m.destination): m for m in run.trace.messages if m.source != m.destination}
    found = []
    for task in run.graph.tasks:
        here = rank.get(task.index)
        for p in task.predecessors:
            message = brought.get((p, here)) if here is not None and rank.get(p, here) != here else None
            if message is not None:
                said = f"{message.handle}, {nbytes(message.nbytes)}, rank {message.source} to {message.destination}"
                found.append([p, task.index, said])
    return found


_ARROWS = 4000  # messages that are drawn


def _idle_pieces(run: Run, shortest: float) -> dict[str, list[Any]]:
    """Idle times by lane, cause by number; shorter ones are with those beside them."""
    number = {cause: place for place, cause in enumerate(IDLE)}
    found: dict[str, list[Any]] = {"lane": [], "start": [], "end": [], "cause": []}
    for piece in pieces(run.trace, shortest, _LANES):
        lane = piece.rank * run.trace.workers + piece.worker
        for name, value in zip(found, (lane, piece.start, piece.end, number[piece.cause]), strict=True):
            found[name].append(value)
    return found


def _steps(spans: Iterable[tuple[float, float, float]], most: int = 2000) -> list[list[float]]:
    """Times, and the sum of the amounts of all spans that are open from each on; of many the largest side by side."""
    return _sums(
        (change for start, end, amount in spans if end > start for change in ((start, amount), (end, -amount))), most
    )


def _sums(found: Iterable[tuple[float, float]], most: int = 2000) -> list[list[float]]:
    """Times, and the sum of all changes until each; of many the largest side by side."""
    changes: dict[float, float] = {}
    for at, change in found:
        changes[at] = changes.get(at, 0) + change
    times: list[float] = []
    values: list[float] = []
    value = 0.0
    for at in sorted(changes):
        value += changes[at]
        if values and values[-1] == value:
            continue
        times.append(at)
        values.append(value)
    stride = -(-len(times) // most) if times else 1
    return [times[::stride], [max(values[k : k + stride]) for k in range(0, len(values), stride)]]
