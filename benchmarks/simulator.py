"""Is the simulator right, and fast? What does it say about 10^4 cores?

Parts, in ``--parts``: ``prediction`` (see `tilewright.benchmarks.prediction`), ``speed`` in tasks per second,
``large`` (10^6 tasks on 4096 ranks: time and memory) and ``scaling`` (`tilewright.benchmarks.scaling`). JSON lines in
``simulator.jsonl``; figures are drawn from that file alone.
"""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

import click

import tilewright as tw
from tilewright.benchmarks import prediction, scaling
from tilewright.host.cores import cores
from tilewright.schedulers import SCHEDULERS

__all__ = ["command", "large", "speed"]

LIST_POLICIES = ("eager", "lifo", "prio", "critical-path", "lookahead", "parsec", "chameleon", "ws", "lws")
PARTS = ("prediction", "speed", "large", "scaling")


@click.command(name="simulator")
@click.option("--output", type=click.Path(file_okay=False, path_type=Path), default=Path("results"), show_default=True)
@click.option("--parts", default=",".join(PARTS), show_default=True, help="What to measure.")
@click.option("--sizes", default="3072,6144", show_default=True, help="Orders n of the matrices.")
@click.option("--tile-sizes", default="256,384,512", show_default=True)
@click.option("--workers", type=int, default=None, help="By default one per core.")
@click.option("--repeat", type=click.IntRange(1), default=7, show_default=True)
@click.option("--tiles", default=80, show_default=True, help="Tiles a side, for the speed.")
@click.option("--large-tiles", default=181, show_default=True, help="Tiles a side, for 10^6 tasks.")
@click.option("--scaling-tiles", default="50,100,181", show_default=True, help="Tiles a side, for the scaling study.")
def command(
    output: Path,
    parts: str,
    sizes: str,
    tile_sizes: str,
    workers: int | None,
    repeat: int,
    tiles: int,
    large_tiles: int,
    scaling_tiles: str,
) -> None:
    """Validate the simulator, measure its speed, and predict Cholesky on up to 16384 cores."""
    wanted = parts.split(",")
    unknown = [part for part in wanted if part not in PARTS]
    if unknown:
        raise click.UsageError(f"--parts knows {', '.join(PARTS)}, not {', '.join(unknown)}")
    output.mkdir(parents=True, exist_ok=True)
    file = output / "simulator.jsonl"
    work: dict[str, Callable[[], Iterator[dict[str, Any]]]] = {
        "prediction": lambda: _prediction(sizes, tile_sizes, workers or cores(), repeat, output / "prediction.html"),
        "speed": lambda: speed(tiles),
        "large": lambda: large(large_tiles),
        "scaling": lambda: scaling.study(_integers(scaling_tiles)),
    }
    written: list[dict[str, Any]] = []
    with file.open("w") as lines:
        for part in wanted:
            for record in work[part]():
                written.append(record)
                lines.write(json.dumps(record) + "\n")
                lines.flush()
                click.echo(" ".join(f"{key}={_short(value)}" for key, value in record.items() if key != "measured"))
    if "prediction" in wanted:
        click.echo(prediction.summary(written))
        prediction.draw(written, output / "prediction.png")
    if "scaling" in wanted:
        scaling.draw(written, output / "scaling.png")


def _prediction(sizes: str, tile_sizes: str, workers: int, repeat: int, page: Path) -> Iterator[dict[str, Any]]:
    yield from prediction.validate(_integers(sizes), _integers(tile_sizes), workers, repeat, page)
    yield from prediction.naps(10, 16, repeat)


def speed(nt: int) -> Iterator[dict[str, Any]]:
    """Simulated tasks per second, `prepare` and the trace included."""
    graph = tw.cholesky_graph(nt)
    graph.successor_indices()
    for policy in SCHEDULERS:
        for workers in (16, 1024) if policy in LIST_POLICIES else (16,):
            began = perf_counter()
            run = tw.simulate(graph, tw.Machine(workers=workers), scheduler=policy)
            seconds = perf_counter() - began
            yield {
                "case": "speed",
                "nt": nt,
                "tasks": len(graph),
                "workers": workers,
                "scheduler": policy,
                "tasks_per_second": len(graph) / seconds,
                "makespan": run.makespan,
            }


def large(nt: int) -> Iterator[dict[str, Any]]:
    """One run on 4096 ranks with a worker each, with messages; the peak memory is that of the whole process."""
    began = perf_counter()
    graph = tw.cholesky_graph(nt)
    built = perf_counter()
    machine = tw.Machine(ranks=4096, workers=1, alpha=2e-6, beta=8 / 12.5e9, gamma=1 / 40e9, tile_size=512)
    run = tw.simulate(graph, machine, owner=tw.BlockCyclic(64, 64))
    yield {
        "case": "large",
        "nt": nt,
        "tasks": len(graph),
        "ranks": 4096,
        "messages": run.messages,
        "makespan": run.makespan,
        "build_seconds": built - began,
        "seconds": perf_counter() - built,
        "gib": _peak_memory(),
    }


def _integers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _peak_memory() -> float:
    """GiB this process has held at most."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**30 if sys.platform == "darwin" else peak / 2**20


if __name__ == "__main__":
    command()
