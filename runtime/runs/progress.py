"""How a run goes on: a bar on standard error, a page for a browser, or a function of the number of tasks done."""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from time import perf_counter
from typing import Any, Literal, NamedTuple, Protocol, TypeVar, cast

import numpy as np

from tilewright.door import upstairs
from tilewright.graph import Task, TaskGraph
from tilewright.scalars import flag
from tilewright.units import seconds

__all__ = [
    "Follower",
    "ProgressOption",
    "Ran",
    "Rows",
    "bar",
    "checked",
    "follow",
    "follow_run",
    "follower",
    "one_page",
    "rate",
    "reports",
    "takes_rows",
    "tell",
]

Report = Callable[[int], object]
C = TypeVar("C", bound=Callable[..., Any])


class Ran(NamedTuple):
    """One task that ran. Times are seconds since the run began."""

    rank: int
    worker: int
    task: int
    """`Task.index` in the graph of the run."""
    start: float
    end: float


Rows = Sequence[Ran] | np.ndarray
"""Tasks that ran; as an array a row has the fields of `Ran` as numbers, and costs a run less."""


class Follower(Protocol):
    """What is told more than the number of tasks done: which ran, where and when. Several runs may come in turn."""

    def __call__(self, done: int, /) -> object:
        """So many tasks are done."""

    def ran(self, rows: Rows, /) -> object:
        """These tasks have ended. From the thread that also calls with the number; nobody changes them afterwards."""

    def begin(self, graph: TaskGraph, title: str, flops: Callable[[Task], float], virtual: bool, /) -> object:
        """A run of this graph begins; with a ``virtual`` clock its times are not those that pass here."""

    def end(self, how: str, /) -> object:
        """It is over: ``"done"``, or what ended it."""


ProgressOption = bool | Literal["page"] | Callable[[int], object] | Follower
"""What calls take as ``progress=``."""


def checked(progress: ProgressOption) -> ProgressOption:
    """What was given for ``progress``. TypeError for what is neither a flag, ``"page"`` nor a function."""
    if callable(progress) or (isinstance(progress, str) and progress == "page"):
        return progress
    if isinstance(progress, str):
        raise TypeError(f'progress must be True or False, "page" or a function, not {progress!r}')
    return flag(progress, "progress")


@contextlib.contextmanager
def follow(progress: ProgressOption) -> Iterator[ProgressOption]:
    """A block whose runs, one after the other, are shown on one page; what is not ``"page"`` passes as it is."""
    progress = checked(progress)
    if progress != "page":
        yield progress
        return
    with upstairs("plot.live:LivePage")() as page:
        yield page


def one_page(call: C) -> C:
    """A call of several runs: with ``progress="page"`` one page follows them all."""

    @functools.wraps(call)
    def followed(*arguments: Any, **how: Any) -> Any:
        if not isinstance(how.get("progress"), str):
            return call(*arguments, **how)
        with follow(how.pop("progress")) as page:
            return call(*arguments, progress=page, **how)

    return cast(C, followed)


def follower(progress: object) -> Follower | None:
    """The page, if it is one."""
    return progress if hasattr(progress, "begin") else None  # type: ignore[return-value]


def takes_rows(progress: object) -> bool:
    """Whether it is told which tasks ran, beside their number."""
    return hasattr(progress, "ran")


def tell(progress: Any, done: int, rows: Callable[..., Rows], *of: Any) -> None:
    """Tell that so many tasks are done, and before that which ones ended since, ``rows(*of)``, if that is of use."""
    if takes_rows(progress):
        progress.ran(rows(*of))
    progress(done)


@contextlib.contextmanager
def reports(progress: ProgressOption, title: str, total: int, flops: float = 0.0) -> Iterator[Report | None]:
    """What an engine calls with the number of tasks done: a `bar`, the user's own function, or None for neither."""
    with follow(progress) as progress:
        if callable(progress):
            yield progress
        elif progress:
            with bar(title, total, flops) as report:
                yield report
        else:
            yield None


@contextlib.contextmanager
def follow_run(
    progress: ProgressOption, graph: TaskGraph, title: str, flops: Callable[[Task], float], virtual: bool
) -> Iterator[Report | None]:
    """`reports` of one run of a graph; a page learns of the run's beginning and end as well."""
    if progress is False:
        yield None
        return
    with follow(progress) as progress:
        page = follower(progress)
        if page is None:
            amount = sum(map(flops, graph)) if progress is True and graph.unrolled else 0.0
            with reports(progress, graph.name, len(graph), amount) as report:
                yield report
            return
        page.begin(graph, title, flops, virtual)
        try:
            yield page
        except BaseException as error:
            page.end(f"{type(error).__name__}: {error}")
            raise
        page.end("done")


@contextlib.contextmanager
def bar(title: str, total: int, flops: float = 0.0) -> Iterator[Callable[[int], None]]:
    """Draw a bar while the block runs; call what it yields with the number of tasks done.

    ``flops`` are those of all tasks; the rate shown is that of tasks times their mean, and exact at the end.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    if console.is_jupyter and find_spec("ipywidgets") is None:  # rich would warn, and show nothing
        with _line(title, total, flops) as line:
            yield line
        return
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("tasks"),
        TextColumn("{task.fields[rate]}"), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
    )  # fmt: skip
    began = perf_counter()
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(title, total=total, rate="")

        def report(done: int) -> None:
            progress.update(task, completed=done, rate=rate(done, total, flops, perf_counter() - began))

        yield report


@contextlib.contextmanager
def _line(title: str, total: int, flops: float) -> Iterator[Callable[[int], None]]:
    """A line of text that is written over again, ten times a second: what any notebook shows."""
    began, told = perf_counter(), -1.0

    def report(done: int) -> None:
        nonlocal told
        now = perf_counter() - began
        if done < total and now - told < 0.1:
            return
        told = now
        left = f", {seconds(now / done * (total - done))} left" if 0 < done < total else f", {seconds(now)}"
        sys.stderr.write(f"\r{title}: {done}/{total} tasks, {rate(done, total, flops, now)}{left}    ")
        sys.stderr.flush()

    report(0)
    try:
        yield report
    finally:
        sys.stderr.write("\n")


def rate(done: int, total: int, flops: float, elapsed: float) -> str:
    """``123 GFLOP/s``, or ``45,678 tasks/s`` where flops are unknown.

    >>> rate(50, 100, 4e9, 0.5), rate(50, 100, 0.0, 0.5)
    ('4 GFLOP/s', '100 tasks/s')
    """
    if not elapsed or not done:
        return ""
    return f"{flops * done / total / elapsed / 1e9:.3g} GFLOP/s" if flops else f"{done / elapsed:,.0f} tasks/s"
