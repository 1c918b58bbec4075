"""`tilewright bench overhead`: what a task costs that does nothing, and how small tasks may be (METG).

The patterns are those of Task Bench (Slaughter et al., SC'20): independent tasks, a chain, and ``stencil_1d``, where
task (t, i) reads what tasks (t-1, i-1), (t-1, i) and (t-1, i+1) wrote. METG(50 %) is the smallest task that still
keeps the workers busy half of the time: minimum effective task granularity.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path
from typing import Any

import click

import tilewright as tw
from tilewright.benchmarks import options, record, table
from tilewright.benchmarks.timing import Contender, alternate
from tilewright.kernels.threads import one_thread

__all__ = ["chain", "command", "independent", "metg", "stencil_1d"]

WIDTH = 8  # tasks in one step of the stencil
EFFICIENCY = 0.5
METG_SIZES = (256, 192, 128, 96, 64, 48, 32, 24, 16, 8)  # tiles of the gemm tasks, ever smaller


def nothing(*_: Any) -> None:
    """An empty task."""


def independent(op: tw.Op, tasks: int) -> tw.TaskGraph:
    """Tasks that share nothing."""
    g = tw.TaskGraph("independent")
    x = g.handles("x")
    for i in range(tasks):
        g.insert(op, tw.W(x[i]))
    return g


def chain(op: tw.Op, tasks: int) -> tw.TaskGraph:
    """Each task waits for the one before."""
    g = tw.TaskGraph("chain")
    x = g.handle("x")
    g.insert(op, tw.W(x))
    for _ in range(tasks - 1):
        g.insert(op, tw.RW(x))
    return g


def stencil_1d(op: tw.Op, tasks: int, width: int = WIDTH) -> tw.TaskGraph:
    """``tasks / width`` steps of ``width`` points; a point waits for itself and its neighbours one step before."""
    g = tw.TaskGraph("stencil_1d")
    x = g.handles("x")
    for t in range(tasks // width):
        for i in range(width):
            before = range(max(0, i - 1), min(width, i + 2)) if t else ()
            g.insert(op, *[tw.R(x[t - 1, j]) for j in before], tw.W(x[t, i]))
    return g


PATTERNS: dict[str, Callable[[tw.Op, int], tw.TaskGraph]] = {
    "independent": independent,
    "chain": chain,
    "stencil_1d": stencil_1d,
}


def measure(tasks: int, workers: int, scheduler: str, repeat: int) -> list[dict[str, Any]]:
    """Microseconds per empty task, for each pattern and each executor."""
    records = []
    for pattern, build in PATTERNS.items():
        graph = build(tw.Op("nothing", nothing), tasks)
        ours = f"tilewright {scheduler}"
        runners = [
            Contender(ours, partial(tw.run, graph, {}, scheduler=scheduler, workers=workers)),
            Contender("concurrent.futures", partial(_futures, graph, workers)),
        ]
        if importlib.util.find_spec("dask"):
            runners.append(Contender("dask threaded", _dask(graph, workers)))
        times = alternate(runners, repeat, settle=0.02)
        for name, taken in times.items():
            records.append(
                {
                    "benchmark": "overhead",
                    "pattern": pattern,
                    "contender": name,
                    "tasks": len(graph),
                    "workers": workers,
                    "us_per_task": taken.median / len(graph) * 1e6,
                    "ours_over_this": taken.median / times[ours].median,
                    **taken.record(),
                }
            )
    return records


def _futures(graph: tw.TaskGraph, workers: int) -> None:
    """The same graph by `concurrent.futures`: submit what is ready, wait for any, submit what became ready."""
    successors = graph.successor_indices()
    waiting = [len(task.predecessors) for task in graph]
    with ThreadPoolExecutor(workers) as pool:
        running: dict[Future[None], int] = {pool.submit(nothing): task.index for task in graph if not task.predecessors}
        while running:
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                for s in successors[running.pop(future)]:
                    waiting[s] -= 1
                    if not waiting[s]:
                        running[pool.submit(nothing)] = s


def _dask(graph: tw.TaskGraph, workers: int) -> Callable[[], Any]:
    """The same graph by `dask.threaded.get`."""
    from dask.threaded import get

    tasks: dict[int, Any] = {task.index: (nothing, *task.predecessors) for task in graph}
    last = [task.index for task in graph if not graph.successor_indices()[task.index]]

    def compute() -> None:
        with ThreadPoolExecutor(workers) as pool:  # one of its own would outlive the call
            get(tasks, last, pool=pool)

    return compute


def metg(workers: int, scheduler: str) -> Iterator[dict[str, Any]]:
    """Efficiency of the stencil for smaller and smaller tasks, until it falls below one half.

    Tasks are matrix products through `kernels`, which release the GIL; efficiency is the time that one worker needs
    for the same work alone, over time x workers.
    """
    import numpy as np

    gemm = tw.kernels.lookup("gemm", "cpu", "float64", "float64").function
    for size in METG_SIZES:
        tiles = [np.ones((size, size)) for _ in range(3 * workers)]
        one = _seconds_of(partial(gemm, *tiles[:3]))
        tasks = int(min(20_000, max(400, 0.3 * workers / one))) // WIDTH * WIDTH
        buffers = {(t, i): np.ones((size, size)) for t in range(2) for i in range(WIDTH)}

        def product(*tiles: Any, gemm: Any = gemm) -> None:
            gemm(tiles[0], tiles[0], tiles[-1])

        graph = _ring(tw.Op("product", product), tasks)
        times = [tw.run(graph, {"x": buffers}, scheduler=scheduler, workers=workers).makespan for _ in range(5)]
        seconds = sorted(times)[2]
        efficiency = one * tasks / (seconds * workers)
        yield {
            "benchmark": "metg",
            "scheduler": scheduler,
            "workers": workers,
            "size": size,
            "tasks": tasks,
            "granularity_us": seconds * workers / tasks * 1e6,
            "efficiency": efficiency,
        }
        if efficiency < EFFICIENCY:
            return


def _ring(op: tw.Op, tasks: int) -> tw.TaskGraph:
    """`stencil_1d` with two buffers a point, so that memory does not grow with the number of steps."""
    g = tw.TaskGraph("stencil_1d")
    x = g.handles("x")
    for t in range(tasks // WIDTH):
        for i in range(WIDTH):
            before = range(max(0, i - 1), min(WIDTH, i + 2))
            g.insert(op, *[tw.R(x[(t + 1) % 2, j]) for j in before], tw.W(x[t % 2, i]))
    return g


def _seconds_of(call: Callable[[], Any]) -> float:
    """Median seconds of a call alone in one thread."""
    with one_thread():
        call()
        samples = []
        for _ in range(5):
            count, start = 0, time.perf_counter()
            while (spent := time.perf_counter() - start) < 0.02:
                call()
                count += 1
            samples.append(spent / count)
    return sorted(samples)[2]


@click.command("overhead")
@click.option("--tasks", default=10_000, show_default=True, help="Empty tasks a run.")
@click.option("--workers", default=2, show_default=True)
@click.option("--scheduler", default="critical-path", show_default=True)
@options.repeat(7)
@options.output
@options.as_json
def command(tasks: int, workers: int, scheduler: str, repeat: int, output: Path | None, as_json: bool) -> None:
    """Time per empty task, and the smallest task worth running (METG)."""
    records = measure(tasks, workers, scheduler, repeat)
    sizes = list(metg(workers, scheduler))
    for pattern in PATTERNS:
        chosen = [r for r in records if r["pattern"] == pattern]
        columns = {"us / task": "us_per_task", "this / ours": "ours_over_this"}
        table.show(
            f"{pattern}: {chosen[0]['tasks']} empty tasks, {workers} workers",
            "contender",
            columns,
            chosen,
            as_json=as_json,
        )
    columns = {"tasks": "tasks", "task x workers, us": "granularity_us", "efficiency": "efficiency"}
    table.show("Efficiency of gemm tasks on stencil_1d", "size", columns, sizes, as_json=as_json)
    record.append(output, [*records, *sizes])
    effective = [r["granularity_us"] for r in sizes if r["efficiency"] >= EFFICIENCY]
    if effective and not as_json:
        print(f"METG(50 %) = {min(effective):.3g} us")
