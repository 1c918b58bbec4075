"""Compare schedulers on one graph: simulated or measured, as a table, a data frame, a figure and a page."""

from __future__ import annotations

import copy
import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from tilewright.backends import check_call, engine_class, find_engine
from tilewright.backends.simulate import Owner, known_shapes, noise_of
from tilewright.door import upstairs
from tilewright.engine import check_plan, run
from tilewright.graph import Handle, TaskGraph
from tilewright.host.files import write_text
from tilewright.machine import Machine
from tilewright.runs.frames import data_frame
from tilewright.runs.progress import ProgressOption, follower, one_page, reports
from tilewright.runs.run import Run
from tilewright.runs.text import plain, weight_unit
from tilewright.scalars import positive, whole
from tilewright.schedulers import SCHEDULERS, Policy, fitting
from tilewright.schedulers import policy as find_policy
from tilewright.schedulers.placed import Placed
from tilewright.units import nbytes, seconds

if TYPE_CHECKING:
    import pandas

__all__ = ["Row", "Table", "compare_schedulers"]

_MOST = 10**6  # workers, or repeats

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
    efficiency: float
    """W / (p T), of the same run."""
    idle: float
    """Share of the workers' time outside tasks."""
    speedup: float
    """T_1 / T_p: ``alone`` over the makespan."""
    memory: int
    """High-water mark of the fullest rank, bytes; an upper bound: `Run.memory`."""
    fastest: float
    slowest: float
    """Shortest and longest makespan of the repeats."""
    alone: float
    """T_1: seconds of the same graph under the same policy on one worker; the median over as many repeats."""
    behind: float = 0.0
    """How much longer than the best row on as many workers: 0.03 is 3 %, 0 the best."""
    ties: bool = True
    """Whether that is no more than noise; the best row ties with itself. See `compare_schedulers`."""


class Table:
    """The rows of a comparison, in the order of workers, then makespan. ``print(table)`` shows them.

    ``runs`` has the median run of each row, with trace and bounds; ``rounds`` the makespans of all its runs.
    """

    def __init__(
        self, graph: TaskGraph, backend: str, rows: Iterable[tuple[Row, Run, list[float]]], units: str = "s"
    ) -> None:
        self.graph = graph
        self.backend = backend
        self.units = units
        """``s``, or where the machine has no rates that of `Op.weight`, such as ``units of nb^3/3 flops``."""
        ordered = sorted(rows, key=lambda found: (found[0].workers, found[0].makespan, found[0].scheduler))
        self.runs = [run_ for _, run_, _ in ordered]
        self.rounds = [times for _, _, times in ordered]
        self.rows = _placed([row for row, _, _ in ordered], self.rounds, backend == "simulate")

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def best(self, workers: int | None = None) -> Row:
        """The row with the shortest makespan, of all or on so many workers. ValueError if nothing ran on so many."""
        rows = [row for row in self.rows if workers is None or row.workers == workers]
        if not rows:
            raise ValueError(f"nothing was compared on {workers} workers")
        return min(rows, key=lambda row: row.makespan)

    def ties(self, workers: int | None = None) -> list[Row]:
        """The rows beside the best whose distance from it is no more than noise."""
        best = self.best(workers)
        return [row for row in self.rows if row.workers == best.workers and row.ties and row is not best]

    def verdict(self, workers: int | None = None) -> str:
        """Who wins, by how much, and who ties, in one sentence. By default where the makespan is shortest."""
        best = self.best(workers)
        ties = [row.scheduler for row in self.ties(best.workers)]
        behind = [row for row in self.rows if row.workers == best.workers and not row.ties]
        on = f"{best.workers} {'worker' if best.workers == 1 else 'workers'}"
        if not behind and not ties:
            return f"{on}: only {best.scheduler} ran."
        if not behind:
            few = "" if self._tells else f"; {_ENOUGH} rounds could tell"
            return f"{on}: all {1 + len(ties)} policies tie{few}."
        second, last = behind[0], behind[-1]
        who = f"{best.scheduler} wins" if not ties else f"{_few([best.scheduler, *ties])} tie"
        after = f"{second.scheduler} is {_percent(second.behind)} behind"
        if last is not second:
            after += f", {last.scheduler} {_percent(last.behind)}"
        return f"{on}: {who}; {after}."

    @property
    def _tells(self) -> bool:
        """Whether there were enough rounds to tell policies apart."""
        return self.backend == "simulate" or max(map(len, self.rounds), default=0) >= _ENOUGH

    def merged(self) -> list[list[Row]]:
        """Rows that are alike in all but the policy's name, which in a simulation made the same schedule, together."""
        groups: dict[tuple[Any, ...], list[Row]] = {}
        for row in self.rows:
            groups.setdefault(tuple(getattr(row, name) for name in _NUMBERS), []).append(row)
        return list(groups.values())

    def time(self, value: float) -> str:
        """A makespan for people."""
        return seconds(value) if self.units == "s" else plain(value)

    def __str__(self) -> str:
        sizes = {row.memory for row in self.rows}
        several = len(sizes) > 1
        title = f"{self.graph.name}: {len(self.graph)} tasks, backend {self.backend}"
        title += "" if self.units == "s" else f", times in {self.units}"
        title += "" if several or sizes == {0} else f", {nbytes(*sizes)} of data"
        spread = any(row.fastest != row.slowest for row in self.rows)
        head = f"workers  makespan {'spread' * spread:>6} / bound speed-up  W/(pT) behind {'memory' * several:>10}"
        lines = [title, f"{head.rstrip()}  scheduler"]
        workers = None
        for rows in self.merged():
            row = rows[0]
            if row.workers != workers:
                lines += [""] * (workers is not None)
                workers = row.workers
            width = (row.slowest - row.fastest) / row.makespan if row.makespan else 0.0
            line = (
                f"{row.workers:>7} {self.time(row.makespan):>9} {f'{width:.0%}' * spread:>6} {row.ratio:>7.3f} "
                f"{row.speedup:>8.2f} {row.efficiency:>7.1%} {'tie' if row.ties else _percent(row.behind):>6} "
                f"{nbytes(row.memory) * several:>10}".rstrip()
            )
            names = wrap(", ".join(row.scheduler for row in rows), 40)
            lines += [f"{line}  {names[0]}", *(" " * (len(line) + 2) + name for name in names[1:])]
        return "\n".join([*lines, "", *map(self.verdict, sorted({row.workers for row in self.rows}))])

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
        return str(upstairs("plot.html:comparison_table")(self))

    def plot(self, path: str | Path) -> None:
        """Excess over the lower bound by policy and workers, and speed-up, as PNG, SVG or PDF. Needs matplotlib."""
        upstairs("plot.compare:figure")(self, path)

    def report(self, path: str | Path) -> None:
        """One HTML page that opens offline: the table, and the two best runs side by side."""
        write_text(path, upstairs("plot.html:comparison_page")(self))


@one_page
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
    progress: ProgressOption = False,
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
        ``"simulate"``, or an engine that listens to policies, as in `tilewright.run`: ``"threads"``, ``"mpi"`` or
        ``"dask"``.
    data
        For an engine: the data, of which each run gets a deep copy, or a function that makes it anew. For the
        simulator optional, for its shapes.
    schedulers
        Names or policy objects; by default all that know this graph (`tilewright.schedulers.fitting`).
    machine
        What is simulated, or what policies plan with.
    owner
        Where handles live on several ranks, see `tilewright.simulate`. In a simulation with owners, these or those of
        the graph's own layout, policies that place tasks themselves (``heft``, ``peft``) cannot be in the comparison,
        and are left out by default.
    repeat
        Runs per row, in turns over the policies so that a busy spell hits all alike; the row has the median.
        By default 5 on an engine, 1 on the simulator, whose runs are all equal, and 5 with ``noise``, of which each
        run has its own. On an engine one more run on each number of workers comes first, and counts for nothing.
    progress
        As in `tilewright.run`, over the tasks of all runs; a page shows one after the other.
    options
        Those of the backend, as in `tilewright.run`.

    Raises
    ------
    ValueError
        No data for an engine, an unknown scheduler or backend, ``repeat`` or a number of workers below 1, nothing to
        compare; ``backend="serial"``, which runs in program order whatever the policy.
    TypeError
        An argument is of another kind, or the backend has no such option.

    Notes
    -----
    Each round runs every policy once, in turns another one first, so rounds are pairs of runs side by side. A policy
    *ties* with the best one unless that was faster in so many rounds that, were they equal, this had a chance below
    5 %: the sign test [1]_. That takes 5 rounds of 5, 6 of 6, 7 of 8. Simulated runs without noise tie if their
    makespans are equal.

    A speed-up is T_1 / T_p. In a simulation T_1 is the time of one CPU worker that has all data. On an engine it is
    measured: the policy's own rows on one worker, or ``repeat`` more runs of each policy where no row is on one; those
    are runs of the same engine, or of one thread where owners, a pool or a launcher fix the number of ranks.

    .. [1] W. J. Conover, Practical Nonparametric Statistics, section 3.4.

    Examples
    --------
    >>> import tilewright as tw
    >>> table = tw.compare_schedulers(tw.cholesky_graph(nt=8), workers=[4], schedulers=["eager", "critical-path"])
    >>> [(row.scheduler, row.makespan) for row in table]
    [('critical-path', 136.0), ('eager', 139.0)]
    """
    check_plan(graph, machine)
    engine = engine_class(backend)
    if engine.in_order:
        raise ValueError(
            f"backend {backend!r} runs tasks in program order, whatever the policy, so there is nothing "
            f"to compare; backend='threads' with workers=1 does what policies say"
        )
    check_call(compare_schedulers, options, backend, also=["threads_per_task"] if engine.wide_tasks else [])
    if isinstance(workers, Integral) and not isinstance(workers, bool):
        workers = [int(workers)]
    if isinstance(workers, str | bytes) or not isinstance(workers, Iterable):
        raise TypeError(f"workers must be a number of workers or a list of numbers, not {workers!r}")
    counts = [whole(positive(count, "workers"), "workers", most=_MOST) for count in workers]
    if isinstance(schedulers, str | bytes) or not (schedulers is None or isinstance(schedulers, Sequence)):
        raise TypeError(f"schedulers must be a list of names or policies, not {schedulers!r}")
    for name, values in (("workers", counts), ("schedulers", schedulers)):
        if values is not None and not len(list(values)):
            raise ValueError(f"{name} must name at least one, so that there is something to compare")
    simulated = engine.virtual
    noisy = simulated and bool(options.get("noise"))
    repeat = (
        whole(positive(repeat, "repeat"), "repeat", most=_MOST)
        if repeat is not None
        else 1
        if simulated and not noisy
        else 5
    )
    if not simulated and data is None:
        raise ValueError(f"backend {backend!r} needs data; backend='simulate' needs none")
    if schedulers is None:
        placed = graph.layout is not None or (owner is not None and machine is not None and machine.ranks > 1)
        schedulers = [
            name for name in fitting(graph) if not (simulated and placed and issubclass(SCHEDULERS[name], Placed))
        ]
    for scheduler in schedulers:
        find_policy(scheduler)
    if owner is not None:
        options["owner"] = owner

    def once(scheduler: str | Policy, count: int, attempt: int, report: ProgressOption) -> Run:
        chosen = options | ({"seed": options.get("seed", 0) + attempt} if noisy else {})
        return run(
            graph,
            given(),
            backend=backend,
            scheduler=scheduler,
            workers=count,
            machine=machine,
            progress=report,
            **chosen,
        )

    def given() -> Data | None:
        return data() if callable(data) else data if simulated else copy.deepcopy(data)

    results: dict[tuple[int, int], list[Run]] = {}
    before = 0  # tasks of the runs that are over
    order = list(range(len(schedulers)))
    with reports(progress, f"compare on {graph.name}", len(counts) * len(schedulers) * repeat * len(graph)) as report:
        for count in counts:
            if not simulated:
                once(schedulers[0], count, 0, False)
            for attempt in range(repeat):
                first = attempt % len(order)
                for place in order[first:] + order[:first]:
                    told = follower(report) or (_after(before, report) if report else False)
                    results.setdefault((count, place), []).append(once(schedulers[place], count, attempt, told))
                    before += len(graph)
    if simulated:
        predicted = Alone(graph, machine, given(), options)
        alone = [[predicted(attempt) for attempt in range(repeat)]] * len(schedulers)
    else:
        alone = _measured_alone(graph, given, backend, schedulers, machine, options, results, repeat)
    rows = [_row(runs, alone[place]) for (_, place), runs in results.items()]
    timed = not simulated or (machine is not None and (machine.gamma is not None or bool(machine.durations)))
    return Table(graph, backend, rows, "s" if timed else weight_unit(graph))


# ------------------------------------------------------------------ one worker


class Alone:
    """T_1 of a simulation: the graph on one CPU worker that has all data and is never idle."""

    def __init__(self, graph: TaskGraph, machine: Machine | None, data: Any, options: Mapping[str, Any]) -> None:
        machine = known_shapes(graph, machine or Machine(), data, options.get("owner") is not None)
        self.graph = graph
        self.costs = machine.replace(workers=1, ranks=1, gpus=0).costs(graph)
        self.noise, self.seed = options.get("noise", 0.0), options.get("seed", 0)

    def __call__(self, attempt: int) -> float:
        noisy = noise_of(self.noise, self.seed + attempt if self.noise else 0)
        if noisy is None:
            return sum(self.costs, 0.0)
        return sum(map(noisy, self.graph.tasks, self.costs), 0.0)


_PLACES = ("owner", "grid", "pool", "comm", "root", "gather", "devices")
"""Options that fix the number of ranks, or add workers beside the cores."""


def _measured_alone(
    graph: TaskGraph,
    given: Callable[[], Any],
    backend: str,
    schedulers: Sequence[str | Policy],
    machine: Machine | None,
    options: Mapping[str, Any],
    results: Mapping[tuple[int, int], list[Run]],
    repeat: int,
) -> list[list[float]]:
    """T_1 of each policy on an engine: its own rows on one worker, or else runs for this alone.

    They are runs of the same engine, but for options, layouts and launchers that want more than one rank: then those of
    one thread in this process, which has no messages either.
    """
    own = {
        place: [run_.makespan for run_ in runs]
        for (_, place), runs in results.items()
        if runs[0].workers == 1 and not options.get("devices")
    }
    missing = [place for place in range(len(schedulers)) if place not in own]
    fixed = graph.layout is not None or any(options.get(name) is not None for name in _PLACES)
    call = find_engine(backend, {k: v for k, v in options.items() if k in engine_class(backend).options})
    engine, others = (backend, options) if not (fixed or call.fixed) else ("threads", {})
    if call.leads:  # one of several ranks measures, the others wait
        for _ in range(repeat):
            for place in missing:
                alone = run(
                    graph, given(), backend=engine, scheduler=schedulers[place], workers=1, machine=machine, **others
                )
                own.setdefault(place, []).append(alone.makespan)
    times = [own.get(place, []) for place in range(len(schedulers))]
    return call.agreed(times)


def _after(before: int, report: Callable[[int], object]) -> Callable[[int], object]:
    return lambda done: report(before + done)


_ENOUGH = 5
"""Rounds from which the sign test can tell two policies apart: 1/2^5 < 0.05."""
_NUMBERS = ("workers", "makespan", "ratio", "efficiency", "idle", "speedup", "memory", "fastest", "slowest", "alone")


def differ(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether ``one`` is faster than ``other`` by more than noise, round by round: the sign test, at 5 %.

    >>> differ([1, 2, 3, 4, 5], [2, 3, 4, 5, 6]), differ([1, 2, 3, 4, 5], [2, 3, 4, 5, 4])
    (True, False)
    """
    wins = sum(a < b for a, b in zip(one, other, strict=True))
    rounds = wins + sum(a > b for a, b in zip(one, other, strict=True))
    return sum(math.comb(rounds, k) for k in range(wins, rounds + 1)) < 0.05 * 2**rounds


def _placed(rows: list[Row], rounds: list[list[float]], simulated: bool) -> list[Row]:
    """The rows, which are in order, with how far each is behind the best on as many workers, and whether that counts.

    Runs of a simulation are equal or not; on an engine, or with noise, the rounds say.
    """
    best: dict[int, int] = {}
    placed = []
    for place, row in enumerate(rows):
        first = best.setdefault(row.workers, place)
        shortest = rows[first].makespan
        behind = row.makespan / shortest - 1 if shortest else 0.0
        exact = simulated and all(found.fastest == found.slowest for found in (row, rows[first]))
        ties = behind <= 1e-12 if exact else not differ(rounds[first], rounds[place])
        placed.append(replace(row, behind=behind, ties=ties))
    return placed


def _few(names: Sequence[str], most: int = 3) -> str:
    """``a, b and 5 more``."""
    if len(names) <= most:
        return " and ".join(names) if len(names) < 3 else f"{', '.join(names[:-1])} and {names[-1]}"
    return f"{', '.join(names[: most - 1])} and {len(names) - most + 1} more"


def _percent(share: float) -> str:
    return f"{share:.1%}" if share < 0.1 else f"{share:.0%}"


def _row(runs: list[Run], alone: Sequence[float]) -> tuple[Row, Run, list[float]]:
    """The median run, and the spread of all; ``alone`` are the times on one worker."""
    one = statistics.median_low(alone)
    makespans = [run_.makespan for run_ in runs]
    middle = runs[makespans.index(statistics.median_low(makespans))]
    makespan, bounds = middle.makespan, middle.bounds
    row = Row(
        scheduler=middle.scheduler,
        workers=middle.workers,
        makespan=makespan,
        ratio=makespan / bounds.lower if bounds.lower else 1.0,
        efficiency=middle.efficiency,
        idle=middle.idle,
        speedup=one / makespan if makespan else 1.0,
        memory=middle.memory,
        fastest=min(makespans),
        slowest=max(makespans),
        alone=one,
    )
    return row, middle, makespans
