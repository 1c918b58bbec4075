"""What a comparison found: a row for each choice on each number of workers, who wins, by how much, and what ties."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any, Literal

from tilewright.backends import BACKENDS, engine_class
from tilewright.door import upstairs
from tilewright.graph import TaskGraph
from tilewright.host.files import write_text
from tilewright.runs.frames import data_frame
from tilewright.runs.run import Run
from tilewright.runs.text import plain
from tilewright.units import nbytes, seconds

if TYPE_CHECKING:
    import pandas

__all__ = ["Row", "Table", "alternating", "differ", "row_of"]


@dataclass(frozen=True, slots=True)
class Row:
    """One choice of policy, of graph or of engine on one number of workers."""

    scheduler: str
    """The policy; empty for an engine that asks none."""
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
    variant: str = ""
    """Which graph or option, where several were compared."""
    engine: str = ""
    """Which engine, where several were compared."""
    call: float = 0.0
    """Seconds of the whole call, with what it copies in and out: the median, where engines were compared, else 0."""

    @property
    def name(self) -> str:
        """What was chosen: ``lookahead(2)``; ``greedy: critical-path``; ``mpi:2x1``."""
        chosen = self.engine or self.scheduler
        return f"{self.variant}: {chosen}" if self.variant else chosen

    @property
    def distance(self) -> str:
        """``behind`` for people: ``"3.2%"`` longer than the best, ``"40x"`` as long, or ``"tie"``."""
        return "tie" if self.ties else _percent(self.behind)


class Table:
    """The rows of a comparison, in the order of workers, then makespan. ``print(table)`` shows them.

    ``runs`` has the median run of each row, with trace and bounds; ``rounds`` the times of all its runs.
    """

    def __init__(
        self,
        graph: TaskGraph | Mapping[str, TaskGraph],
        backend: str,
        rows: Iterable[tuple[Row, Run, list[float]]],
        units: str = "s",
        *,
        measure: Literal["makespan", "call"] = "makespan",
        absent: Mapping[str, str] | None = None,
    ) -> None:
        self.graphs: dict[str, TaskGraph] = {"": graph} if isinstance(graph, TaskGraph) else dict(graph)
        """By `Row.variant`; where only options of a backend vary, it is one graph."""
        self.graph = next(iter(self.graphs.values()))
        self.backend = backend
        """On which all ran; empty where engines were compared."""
        self.measure = measure
        """The field of a row by which rows are compared."""
        self.absent = dict(absent or {})
        """Engines that are not here, and why."""
        self.units = units
        """``s``, or where the machine has no rates that of `Op.weight`, such as ``units of nb^3/3 flops``."""
        ordered = sorted(rows, key=lambda found: (found[0].workers, self.measured(found[0]), found[0].name))
        self.runs = [run_ for _, run_, _ in ordered]
        self.rounds = [times for _, _, times in ordered]
        self.rows = _placed([row for row, _, _ in ordered], self.rounds, self._simulated, measure)

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def measured(self, row: Row) -> float:
        """The time of a row by which it is compared."""
        return row.call if self.measure == "call" else row.makespan

    @property
    def title(self) -> str:
        """Name and size of the graph, or of the graphs."""
        sizes = sorted(map(len, {id(graph): graph for graph in self.graphs.values()}.values()))
        if len(sizes) == 1:
            return f"{self.graph.name}: {len(self.graph)} tasks"
        return f"{self.graph.name} and {len(sizes) - 1} more graphs: {sizes[0]} to {sizes[-1]} tasks"

    @property
    def noun(self) -> str:
        """What the rows are."""
        return "engines" if self.measure == "call" else "policies" if len(self.graphs) == 1 else "choices"

    def best(self, workers: int | None = None) -> Row:
        """The row with the shortest time, of all or on so many workers. ValueError if nothing ran on so many."""
        rows = [row for row in self.rows if workers is None or row.workers == workers]
        if not rows:
            raise ValueError(f"nothing was compared on {workers} workers")
        return min(rows, key=self.measured)

    def ties(self, workers: int | None = None) -> list[Row]:
        """The rows beside the best whose distance from it is no more than noise."""
        best = self.best(workers)
        return [row for row in self.rows if row.workers == best.workers and row.ties and row is not best]

    def verdict(self, workers: int | None = None) -> str:
        """Who wins, by how much, and who ties, in one sentence. By default where the time is shortest."""
        best = self.best(workers)
        ties = [row.name for row in self.ties(best.workers)]
        behind = [row for row in self.rows if row.workers == best.workers and not row.ties]
        on = _workers(best.workers)
        if not behind and not ties:
            return f"{on}: only {best.name} ran."
        if not behind:
            few = "" if self._tells else f"; {ENOUGH} rounds could tell"
            return f"{on}: all {1 + len(ties)} {self.noun} tie{few}."
        second, last = behind[0], behind[-1]
        who = f"{best.name} wins" if not ties else f"{_few([best.name, *ties])} tie"
        after = f"{second.name} is {_behind(second.behind)}"
        if last is not second:
            after += f", {last.name} {_behind(last.behind) if last.behind > _TIMES else _percent(last.behind)}"
        return f"{on}: {who}; {after}."

    @property
    def _simulated(self) -> bool:
        return bool(self.backend) and engine_class(self.backend).virtual

    @property
    def _tells(self) -> bool:
        """Whether there were enough rounds to tell policies apart."""
        return self._simulated or max(map(len, self.rounds), default=0) >= ENOUGH

    def merged(self) -> list[list[Row]]:
        """Rows that are alike in all but the policy's name, which in a simulation made the same schedule, together."""
        groups: dict[tuple[Any, ...], list[Row]] = {}
        for row in self.rows:
            groups.setdefault(tuple(getattr(row, name) for name in _NUMBERS), []).append(row)
        return list(groups.values())

    def time(self, value: float) -> str:
        """A makespan for people."""
        return seconds(value) if self.units == "s" else plain(value)

    def verdicts(self) -> list[str]:
        """`verdict` on each number of workers where there is something to tell."""
        counts = Counter(row.workers for row in self.rows)
        several = [count for count in counts if counts[count] > 1]
        return [self.verdict(count) for count in sorted(several or counts)]

    def advice(self) -> str:
        """Which to take on all numbers of workers together, and what limits it on most of them."""
        counts = sorted({row.workers for row in self.rows if self.measure != "call" or not in_order(row.engine)})
        rows: dict[str, dict[int, Row]] = {}
        for row in self.rows:
            rows.setdefault(row.name, {})[row.workers] = row
        behind = {
            name: [0.0 if of[count].ties else of[count].behind for count in counts]
            for name, of in rows.items()
            if of.keys() >= set(counts)
        }
        if not counts or not behind:  # such as engines that each have another number
            return ""
        raw = {name: sum(rows[name][count].behind for count in counts) for name in behind}  # of what ties, the shortest
        name = min(behind, key=lambda name: (max(behind[name]), sum(behind[name]), raw[name], name))
        worst = max(behind[name])
        on = "any number of workers" if len(counts) > 1 else f"{_workers(counts[0])}"
        why = f"at most {_behind(worst, 'the best')} on {on}" if worst else f"none is faster on {on}"
        limit = str(self.runs[self.rows.index(rows[name][counts[-1]])].verdict)
        where = f"On {_workers(counts[-1])}" if len(counts) > 1 else "There"
        return f"Take {name}: {why}. {where}, {limit[:1].lower()}{limit[1:]}"

    def __str__(self) -> str:
        calls = self.measure == "call"
        sizes = {row.memory for row in self.rows}
        several = len(sizes) > 1 and not calls
        title = self.title
        title += f", backend {self.backend}" if self.backend else ", whole calls, speed-up over serial" * calls
        title += "" if self.units == "s" else f", times in {self.units}"
        title += "" if several or sizes == {0} else f", {nbytes(max(sizes))} of data"
        spread = any(row.fastest != row.slowest for row in self.rows)
        call = f"{'call':>9} {'spread' * spread:>6} {'behind':>6} " * calls
        head = f"workers {call} makespan {'spread' * (spread and not calls):>6} / bound speed-up  W/(pT)"
        head += "" if calls else f" behind {'memory' * several:>10}"
        lines = [title, f"{head.rstrip()}  {'engine' if calls else 'scheduler'}"]
        workers = None
        for rows in self.merged():
            row = rows[0]
            if row.workers != workers:
                lines += [""] * (workers is not None)
                workers = row.workers
            time = self.measured(row)
            width = f"{(row.slowest - row.fastest) / time if time else 0.0:.0%}" * spread
            behind = row.distance
            call = f"{self.time(row.call):>9} {width:>6} {behind:>6} " * calls
            line = (
                f"{row.workers:>7} {call}{self.time(row.makespan):>9} {width * (not calls):>6} {row.ratio:>7.3f} "
                f"{row.speedup:>8.2f} {row.efficiency:>7.1%}"
            )
            line += "" if calls else f" {behind:>6} {nbytes(row.memory) * several:>10}".rstrip()
            names = wrap(", ".join(row.name for row in rows), 40)
            lines += [f"{line}  {names[0]}", *(" " * (len(line) + 2) + name for name in names[1:])]
        absent = [f"{name} is not here: {why}" for name, why in self.absent.items()]
        return "\n".join([*lines, "", *self.verdicts(), *filter(None, [self.advice()]), *absent])

    def __repr__(self) -> str:
        return f"Table({self.graph.name!r}, {len(self)} rows, backend={self.backend or 'several'!r})"

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

    def report(self, path: str | Path, *others: Table) -> None:
        """One HTML page that opens offline: the table, a heat map, and any two of its runs side by side.

        With ``others``, such as the same algorithm at other sizes, one picks the graph on the page. It has up to 5 MB,
        the best and the worst run first, and names those that it left out.
        """
        write_text(path, upstairs("plot.html:comparison_page")(self, *others))


ENOUGH = 5
"""Rounds from which the sign test can tell two policies apart: 1/2^5 < 0.05."""
_NUMBERS = (
    *("workers", "makespan", "ratio", "efficiency", "idle", "speedup", "memory", "fastest", "slowest", "alone", "call"),
)


def in_order(engine: str) -> bool:
    """Whether the engine of that name is one worker, whatever is asked for."""
    return engine in BACKENDS and engine_class(engine).in_order


def differ(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether ``one`` is faster than ``other`` by more than noise, round by round: the sign test, at 5 %.

    >>> differ([1, 2, 3, 4, 5], [2, 3, 4, 5, 6]), differ([1, 2, 3, 4, 5], [2, 3, 4, 5, 4])
    (True, False)
    """
    wins = sum(a < b for a, b in zip(one, other, strict=True))
    rounds = wins + sum(a > b for a, b in zip(one, other, strict=True))
    return sum(math.comb(rounds, k) for k in range(wins, rounds + 1)) < 0.05 * 2**rounds


def _placed(rows: list[Row], rounds: list[list[float]], simulated: bool, measure: str) -> list[Row]:
    """The rows, which are in order, with how far each is behind the best on as many workers, and whether that counts.

    Runs of a simulation are equal or not; on an engine, or with noise, the rounds say.
    """
    best: dict[int, int] = {}
    placed = []
    for place, row in enumerate(rows):
        first = best.setdefault(row.workers, place)
        shortest = getattr(rows[first], measure)
        behind = getattr(row, measure) / shortest - 1 if shortest else 0.0
        exact = simulated and all(found.fastest == found.slowest for found in (row, rows[first]))
        ties = behind <= 1e-12 if exact else not differ(rounds[first], rounds[place])
        placed.append(replace(row, behind=behind, ties=ties))
    return placed


def _few(names: Sequence[str], most: int = 3) -> str:
    """``a, b and 5 more``."""
    if len(names) <= most:
        return " and ".join(names) if len(names) < 3 else f"{', '.join(names[:-1])} and {names[-1]}"
    return f"{', '.join(names[: most - 1])} and {len(names) - most + 1} more"


def _workers(count: int) -> str:
    return f"{count} {'worker' if count == 1 else 'workers'}"


_TIMES = 2.0  # behind by more than that is said as a factor


def _percent(share: float) -> str:
    """How far behind, for a column: 3 % longer, 40 times as long."""
    if share > _TIMES:
        return f"{_factor(share)}x"
    return f"{share:.1%}" if share < 0.1 else f"{share:.0%}"


def _factor(share: float) -> str:
    return f"{1 + share:.1f}" if share < 9 else f"{1 + share:.0f}"


def _behind(share: float, than: str = "") -> str:
    """The same in words."""
    if share > _TIMES:
        return f"{_factor(share)} times as slow{f' as {than}' if than else ''}"
    return f"{_percent(share)} behind{f' {than}' if than else ''}"


def row_of(
    runs: Sequence[Run],
    alone: Sequence[float],
    calls: Sequence[float] | None = None,
    *,
    variant: str = "",
    engine: str = "",
    scheduler: str | None = None,
) -> tuple[Row, Run, list[float]]:
    """The median run, and the spread of all; ``alone`` are the times on one worker.

    With ``calls``, the seconds of the whole calls, these are what is compared.
    """
    one = statistics.median_low(alone)
    times = [run_.makespan for run_ in runs] if calls is None else list(calls)
    place = times.index(statistics.median_low(times))
    middle = runs[place]
    makespan, bounds = middle.makespan, middle.bounds
    row = Row(
        scheduler=middle.scheduler if scheduler is None else scheduler,
        workers=middle.workers,
        makespan=makespan,
        ratio=makespan / bounds.lower if bounds.lower else 1.0,
        efficiency=middle.efficiency,
        idle=middle.idle,
        speedup=one / times[place] if times[place] else 1.0,
        memory=middle.memory,
        fastest=min(times),
        slowest=max(times),
        alone=one,
        variant=variant,
        engine=engine,
        call=0.0 if calls is None else times[place],
    )
    return row, middle, times


def alternating(count: int, rounds: int) -> Iterator[tuple[int, int]]:
    """(round, place): each round has every place once, another one first."""
    order = list(range(count))
    for attempt in range(rounds):
        first = attempt % count
        for place in order[first:] + order[:first]:
            yield attempt, place
