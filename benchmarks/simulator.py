"""Is the simulator right, and fast? Prediction against the threads engine, tasks per second, 10^4 cores.

JSON lines in ``simulator.jsonl``, one per case; the figures are drawn from that file alone.
"""

from __future__ import annotations

import json
import resource
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations, product
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import click
import numpy as np

import tilewright as tw
from tilewright.kernels import current
from tilewright.machine import cores
from tilewright.schedulers import SCHEDULERS

__all__ = ["command", "order_agreement", "scaling", "speed", "validate"]

POLICIES = ("critical-path", "eager", "lifo", "lws")
LIST_POLICIES = ("eager", "lifo", "prio", "critical-path", "lookahead", "parsec", "chameleon")


@click.command(name="simulator")
@click.option("--output", type=click.Path(file_okay=False, path_type=Path), default=Path("results"), show_default=True)
@click.option("--sizes", default="3072,6144", show_default=True, help="Orders n of the matrices.")
@click.option("--tile-sizes", default="256,384,512", show_default=True)
@click.option("--workers", type=int, default=None, help="By default one per core.")
@click.option("--repeat", type=click.IntRange(1), default=5, show_default=True)
@click.option("--tiles", default=80, show_default=True, help="Tiles a side, for the speed.")
@click.option("--scaling-tiles", default=100, show_default=True, help="Tiles a side, for the scaling study; 0: none.")
def command(
    output: Path, sizes: str, tile_sizes: str, workers: int | None, repeat: int, tiles: int, scaling_tiles: int
) -> None:
    """Validate the simulator, measure its speed, and predict Cholesky on up to 16384 cores."""
    output.mkdir(parents=True, exist_ok=True)
    file = output / "simulator.jsonl"
    with file.open("w") as lines:
        for records in (
            validate(_integers(sizes), _integers(tile_sizes), workers or cores(), repeat),
            speed(tiles),
            scaling(scaling_tiles) if scaling_tiles else (),
        ):
            for record in records:
                lines.write(json.dumps(record) + "\n")
                lines.flush()
                click.echo(" ".join(f"{key}={_short(value)}" for key, value in record.items() if key != "measured"))
    written: list[dict[str, Any]] = [json.loads(line) for line in file.read_text().splitlines()]
    click.echo(summary(written))
    draw(written, output / "simulator.png")


def validate(sizes: Sequence[int], tile_sizes: Sequence[int], workers: int, repeat: int) -> Iterator[dict[str, Any]]:
    """Makespans of `tiled_cholesky` on threads, in turns over the cases, and what the simulator predicts.

    ``ratio`` compares with the fastest repeat: other processes of a shared computer only ever add time, and the
    calibration drops what they added. ``ratio_to_median`` tells how busy the computer was.
    """
    machines = []
    measured: dict[tuple[int, int, str], list[float]] = {}
    graphs = {}
    for attempt in range(repeat + 1):
        machines.append(_calibrated(tile_sizes, workers))
        for n in sizes:
            a = np.random.default_rng(0).standard_normal((n, n))
            a += a.T.copy()
            a[np.diag_indices(n)] += 4 * n
            for nb, policy in product(tile_sizes, POLICIES):
                run = tw.tiled_cholesky(
                    a, tile_size=nb, workers=workers, scheduler=policy, check_finite=False, return_run=True
                )[1]
                graphs[n, nb] = run.graph
                if attempt:  # the first warms up
                    measured.setdefault((n, nb, policy), []).append(run.makespan)
                del run  # and its matrix: the next run finds its pages, as in a loop of a user
    machine = _least_disturbed(machines)
    for (n, nb, policy), times in measured.items():
        run = tw.simulate(graphs[n, nb], machine.replace(tile_size=nb), scheduler=policy)
        yield {
            "case": "validate", "n": n, "nb": nb, "workers": workers, "scheduler": policy,
            "measured": times, "fastest": min(times), "median": statistics.median(times),
            "predicted": run.makespan, "ratio": run.makespan / min(times),
            "ratio_to_median": run.makespan / statistics.median(times), "blas": current().name,
        }  # fmt: skip


def _calibrated(tile_sizes: Sequence[int], workers: int) -> tw.Machine:
    with TemporaryDirectory() as folder:  # the user's own calibration stays as it is
        return tw.Machine.calibrate(
            tile_sizes=tuple(tile_sizes), workers=workers, repeat=1, path=Path(folder) / "machine.json"
        )


def _least_disturbed(machines: Sequence[tw.Machine]) -> tw.Machine:
    """The smallest of each duration: rounds are spread over the benchmark, and a busy spell only adds time."""
    tables: list[Any] = [machine.durations for machine in machines]
    durations = {op: {nb: min(t[op][nb] for t in tables) for nb in tables[0][op]} for op in tables[0]}
    return machines[0].replace(durations=durations, overhead=min(machine.overhead for machine in machines))


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
                "case": "speed", "nt": nt, "tasks": len(graph), "workers": workers, "scheduler": policy,
                "tasks_per_second": len(graph) / seconds, "makespan": run.makespan,
            }  # fmt: skip


def scaling(nt: int) -> Iterator[dict[str, Any]]:
    """Cholesky of nt x nt tiles of 512, two-dimensional block-cyclic, on nodes of 16 cores."""
    graph = tw.cholesky_graph(nt)
    node = tw.Machine(workers=16, alpha=2e-6, beta=8 / 12.5e9, gamma=1 / 40e9, tile_size=512, overhead=5e-6)
    for ranks in (1, 4, 16, 64, 256, 1024):
        began = perf_counter()
        run = tw.simulate(graph, node.replace(ranks=ranks), owner=_block_cyclic(round(ranks**0.5)))
        seconds = perf_counter() - began
        yield {
            "case": "scaling", "nt": nt, "n": 512 * nt, "tasks": len(graph), "ranks": ranks, "cores": 16 * ranks,
            "makespan": run.makespan, "gflops": run.gflops, "lower": run.bounds.lower,
            "messages": len(run.trace.messages), "seconds": seconds, "gib": _peak_memory(),
        }  # fmt: skip


def _block_cyclic(p: int) -> Callable[[tw.Handle], int]:
    return lambda handle: handle.index[0] % p * p + handle.index[1] % p


def order_agreement(records: Sequence[dict[str, Any]]) -> tuple[int, int]:
    """(pairs of policies ordered as predicted, pairs whose measured ranges do not overlap)."""
    agreed = total = 0
    cases: dict[tuple[int, int], list[dict[str, Any]]] = {}
    for record in records:
        cases.setdefault((record["n"], record["nb"]), []).append(record)
    for same in cases.values():
        for a, b in combinations(same, 2):
            if max(a["measured"]) < min(b["measured"]) or max(b["measured"]) < min(a["measured"]):
                total += 1
                agreed += (a["fastest"] < b["fastest"]) == (a["predicted"] < b["predicted"])
    return agreed, total


def summary(records: Sequence[dict[str, Any]]) -> str:
    """The numbers that matter, in words."""
    checked = [record for record in records if record["case"] == "validate"]
    lines = []
    for policy in dict.fromkeys(record["scheduler"] for record in checked):
        mine = [record for record in checked if record["scheduler"] == policy]
        errors = [abs(record["ratio"] - 1) for record in mine]
        busy = statistics.median(record["median"] / record["fastest"] - 1 for record in mine)
        lines.append(
            f"{policy}: median error {statistics.median(errors):.1%}, worst {max(errors):.1%}; "
            f"the median repeat took {busy:.1%} longer than the fastest"
        )
    agreed, total = order_agreement(checked)
    lines.append(f"order of policies as predicted in {agreed} of {total} pairs that differ by more than noise")
    return "\n".join(lines)


def draw(records: Sequence[dict[str, Any]], path: Path) -> None:
    """Predicted over measured with the range of the repeats; tasks per second; efficiency over cores."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    colours = ("#0072B2", "#D55E00", "#009E73", "#E69F00")
    fig = Figure(figsize=(14, 4.4), layout="constrained")
    FigureCanvasAgg(fig)
    left, middle, right = fig.subplots(1, 3)
    checked = [record for record in records if record["case"] == "validate"]
    cases = list(dict.fromkeys((record["n"], record["nb"]) for record in checked))
    for place, policy in enumerate(dict.fromkeys(record["scheduler"] for record in checked)):
        mine = [record for record in checked if record["scheduler"] == policy]
        x = [cases.index((record["n"], record["nb"])) + 0.15 * (place - 1.5) for record in mine]
        y = [record["ratio"] for record in mine]
        low = [r["ratio"] - r["ratio_to_median"] for r in mine]
        left.errorbar(
            x, y, yerr=[low, [0.0] * len(low)], fmt="osD^"[place % 4], color=colours[place % 4], label=policy, capsize=2
        )
    left.axhspan(0.9, 1.1, color="0.9", zorder=0, label="within 10 %")
    left.axhline(1, color="0.4", linewidth=0.8)
    left.set_xticks(range(len(cases)), [f"n={n}\nnb={nb}" for n, nb in cases], fontsize=8)
    left.set_ylabel("predicted / fastest measured (bars: to the median)")
    left.legend(fontsize=8)
    fast = sorted((r for r in records if r["case"] == "speed"), key=lambda r: r["tasks_per_second"])
    middle.barh([f"{r['scheduler']}, {r['workers']} workers" for r in fast], [r["tasks_per_second"] for r in fast],
                color=["#0072B2" if r["scheduler"] in LIST_POLICIES else "#999999" for r in fast])  # fmt: skip
    middle.axvline(100_000, color="#D55E00", linewidth=1)
    middle.set_xlabel("simulated tasks per second (blue: list policies)")
    middle.tick_params(axis="y", labelsize=7)
    far = [record for record in records if record["case"] == "scaling"]
    if far:
        right.loglog(
            [r["cores"] for r in far], [r["gflops"] / 1e3 for r in far], "o-", color="#0072B2", label="predicted"
        )
        right.loglog([r["cores"] for r in far], [r["gflops"] / 1e3 * r["makespan"] / r["lower"] for r in far], "--",
                     color="0.4", label="bound by area and path")  # fmt: skip
        right.set_xlabel(f"cores (16 per rank), n = {far[0]['n']}, tiles of 512")
        right.set_ylabel("TFLOP/s")
        right.legend(fontsize=8)
    fig.savefig(path, dpi=140)


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
