"""A progress bar for a run, on standard error: tasks done, their rate, and how long is left."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from time import perf_counter

from tilewright.scalars import flag
from tilewright.units import seconds

__all__ = ["bar", "rate", "reports"]

Report = Callable[[int], object]


@contextlib.contextmanager
def reports(progress: bool | Report, title: str, total: int, flops: float = 0.0) -> Iterator[Report | None]:
    """What an engine calls with the number of tasks done: a `bar`, the user's own function, or None for neither."""
    if callable(progress):
        yield progress
    elif flag(progress, "progress"):
        with bar(title, total, flops) as report:
            yield report
    else:
        yield None


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
