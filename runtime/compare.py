"""Compare schedulers on one graph: simulated or measured, as a table, a data frame, a figure and a page."""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tilewright.backends.simulate import Owner
from tilewright.engine import Run, run
from tilewright.files import write_text
from tilewright.frames import data_frame
from tilewright.graph import Handle, TaskGraph
from tilewright.machine import Machine
from tilewright.progress import reports
from tilewright.report import nbytes, plain, seconds
from tilewright.schedulers import Policy, fitting

if TYPE_CHECKING:
    import pandas

__all__ = ["Row", "Table", "compare_schedulers"]

Data = Mapping[str, Any] | Mapping[Handle, Any]


@dataclass(frozen=True, slots=True)
class Row:
    """One policy on one number of workers."""

    scheduler: str
    workers: int
    """Workers of all ranks."""
    makespan: float
    """Seconds; the median over the repeats."""
    ratio: float
    """Makespan over the lower bound of that run: 1 cannot be better."""
    idle: float
    """Share of the workers' time outside tasks."""
    speedup: float
    """Work of the run over its makespan."""
    memory: int
    """High-water mark of the fullest rank, bytes."""
    fastest: float
    slowest: float
    """Shortest and longest makespan of the repeats."""


class Table:
    """The rows of a comparison, in the order of workers, then makespan. ``print(table)`` shows them.

    ``runs`` has the median run of each row, with trace and bounds.
    """

    def __init__(self, graph: TaskGraph, backend: str, rows: Iterable[tuple[Row, Run]], units: str = "s") -> None:
        self.graph = graph
        self.backend = backend
        self.units = units
        """``s``, or ``weights`` where the machine has no rates and a task takes `Op.weight`."""
        ordered = sorted(rows, key=lambda pair: (pair[0].workers, pair[0].makespan, pair[0].scheduler))
        self.rows = [row for row, _ in ordered]
        self.runs = [run_ for _, run_ in ordered]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def best(self, workers: int) -> Row:
        """The row with the shortest makespan. ValueError if nothing ran on so many workers."""
        for row in self.rows:
            if row.workers == workers:
                return row
        raise ValueError(f"nothing was compared on {workers} workers")

    def time(self, value: float) -> str:
        """A makespan for people."""
        return seconds(value) if self.units == "s" else plain(value)

    def __str__(self) -> str:
        lines = [
            f"{self.graph.name}: {len(self.graph)} tasks, backend {self.backend}"
            + ("" if self.units == "s" else ", times in units of task weight"),
            f"{'workers':>7}  {'scheduler':<16} {'makespan':>10}  {'/ bound':>7}  {'speed-up':>8}  {'idle':>6}"
            f"  {'memory':>9}",
        ]
        workers = None
        for row in self.rows:
            if workers is not None and row.workers != workers:
                lines.append("")
            workers = row.workers
            lines.append(
                f"{row.workers:>7}  {row.scheduler:<16} {self.time(row.makespan):>10}  {row.ratio:>7.3f}  "
                f"{row.speedup:>8.2f}  {row.idle:>6.1%}  {nbytes(row.memory):>9}"
            )
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"Table({self.graph.name!r}, {len(self)} rows, backend={self.backend!r})"

    def print(self) -> None:
        """Print the table."""
        print(self)

    def to_pandas(self) -> pandas.DataFrame:
        """A data frame with one row per policy and number of workers. ImportError without pandas."""
        columns = list(Row.__dataclass_fields__)
        return data_frame(([getattr(row, c) for c in columns] for row in self.rows), columns)

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        from tilewright.plot.html import comparison_table

        return comparison_table(self)

    def plot(self, path: str | Path) -> None:
        """Ratio to the lower bound and speed-up over workers, as PNG, SVG or PDF. Needs matplotlib."""
        from tilewright.plot.compare import figure

        figure(self, path)

    def report(self, path: str | Path) -> None:
        """One HTML page that opens offline: the table, and the two best runs side by side."""
        from tilewright.plot.html import comparison_page

        write_text(path, comparison_page(self))


def compare_schedulers(
    graph: TaskGraph,
    workers: int | Sequence[int] = (1, 2, 4, 16, 64),
    *,
    backend: str = "simulate",
    data: Data | Callable[[], Data] | None = None,
    schedulers: Sequence[str | Policy] | None = None,
    machine: Machine | None = None,
    owner: Owner | None = None,
    repeat: int | None = None,
    progress: bool | Callable[[int], object] = False,
    **options: Any,
) -> Table:
    """Run one graph under many policies.

    Parameters
    ----------
    graph
        The tasks.
    workers
        Numbers of workers: for the simulator those of each rank of the machine, for an engine of all ranks together.
    backend
        ``"simulate"``, or an engine such as ``"threads"``, as in `tilewright.run`.
    data
        For an engine: the data, of which each run gets a deep copy, or a function that makes it anew. For the
        simulator optional, for its shapes.
    schedulers
        Names or policy objects; by default all that know this graph (`tilewright.schedulers.fitting`).
    machine
        What is simulated, or what policies plan with.
    owner
        Where handles live on several ranks, see `tilewright.simulate`. Policies that place tasks themselves cannot
        be in the comparison then, and are left out by default.
    repeat
        Runs per row, in turns over the policies so that a busy spell hits all alike; the row has the median.
        By default 5 on an engine, 1 on the simulator, whose runs are all equal, and 5 with ``noise``, of which each
        run has its own.
    progress
        As in `tilewright.run`, over the tasks of all runs.
    options
        Of the backend, as in `tilewright.run`.

    Raises
    ------
    ValueError
        No data for an engine, an unknown scheduler or backend, ``repeat`` or a number of workers below 1.

    Examples
    --------
    >>> import tilewright as tw
    >>> table = tw.compare_schedulers(tw.cholesky_graph(nt=8), workers=[4], schedulers=["eager", "critical-path"])
    >>> [(row.scheduler, row.makespan) for row in table]
    [('critical-path', 136.0), ('eager', 139.0)]
    """
    counts = [workers] if isinstance(workers, int) else list(workers)
    simulated = backend == "simulate"
    noisy = simulated and bool(options.get("noise"))
    repeat = repeat if repeat is not None else 1 if simulated and not noisy else 5
    if repeat < 1:
        raise ValueError(f"repeat must be at least 1, not {repeat}")
    if not simulated and data is None:
        raise ValueError(f"backend {backend!r} needs data; backend='simulate' needs none")
    machine = machine or Machine()
    if schedulers is None:
        placed = ("heft", "peft") if owner is not None and machine.ranks > 1 else ()
        schedulers = [name for name in fitting(graph) if name not in placed]

    if owner is not None:
        options["owner"] = owner

    def once(scheduler: str | Policy, count: int, attempt: int, report: Callable[[int], object] | bool) -> Run:
        chosen = options | ({"seed": options.get("seed", 0) + attempt} if noisy else {})
        given = data() if callable(data) else data if simulated else copy.deepcopy(data)
        return run(
            graph,
            given,
            backend=backend,
            scheduler=scheduler,
            workers=count,
            machine=machine,
            progress=report,
            **chosen,
        )

    results: dict[tuple[int, int], list[Run]] = {}
    before = 0  # tasks of the runs that are over
    with reports(progress, f"compare on {graph.name}", len(counts) * len(schedulers) * repeat * len(graph)) as report:
        for count in counts:
            for attempt in range(repeat):
                for place, scheduler in enumerate(schedulers):
                    told = _after(before, report) if report else False
                    results.setdefault((count, place), []).append(once(scheduler, count, attempt, told))
                    before += len(graph)
    rows = [_row(runs) for runs in results.values()]
    timed = not simulated or machine.gamma is not None or bool(machine.durations)
    return Table(graph, backend, rows, "s" if timed else "weights")


def _after(before: int, report: Callable[[int], object]) -> Callable[[int], object]:
    return lambda done: report(before + done)


def _row(runs: list[Run]) -> tuple[Row, Run]:
    """The median run, and the spread of all."""
    makespans = [run_.makespan for run_ in runs]
    middle = runs[makespans.index(statistics.median_low(makespans))]
    makespan, bounds = middle.makespan, middle.bounds
    row = Row(
        scheduler=middle.scheduler,
        workers=middle.workers,
        makespan=makespan,
        ratio=makespan / bounds.lower if bounds.lower else 1.0,
        idle=middle.idle,
        speedup=float(middle.trace.busy.sum()) / makespan if makespan else 1.0,
        memory=middle.memory,
        fastest=min(makespans),
        slowest=max(makespans),
    )
    return row, middle
