"""``tilewright bench mpi``: ranks against threads, what a pool costs, and how much a factorisation has to send.

Three questions:

1. Two ranks with one worker each against two threads, alternating: rates of the execution and of the whole call, bytes
   sent, share of the messages' time that is hidden under computation.
2. How long four ranks take to start, and a call on them with a matrix of 64 rows, where all is overhead.
3. Messages and bytes of the plan, the pass that the engine uses, on 16 to 1024 ranks, beside the count
   nt^2/2 (P + Q - 2) tiles for a P x Q block-cyclic grid.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

import click

import tilewright as tw
from tilewright.benchmarks import record, table
from tilewright.benchmarks.timing import Contender, alternate
from tilewright.distribution import near_square
from tilewright.matrices import random_spd

__all__ = ["command", "counts", "overhead", "rates"]

RANKS = (16, 64, 256, 1024)
SYMMETRIC = {16: 6, 64: 11, 256: 23, 1024: 45}  # r with r (r - 1) / 2 ranks, the closest below or at the number


def rates(n: int, repeat: int) -> list[dict[str, Any]]:
    """Two threads against two ranks."""
    a = random_spd(n)
    runs: dict[str, list[tw.Run]] = {"threads, 2 workers": [], "mpi, 2 ranks": []}

    def call(name: str, **options: Any) -> None:
        _, run = tw.tiled_cholesky(a, return_run=True, workers=2, **options)
        runs[name].append(run)

    with tw.mpi.Pool(2) as pool:
        threads, ranks = runs
        times = alternate([
            Contender(threads, lambda: call(threads)),
            Contender(ranks, lambda: call(ranks, backend="mpi", pool=pool)),
        ], repeat)  # fmt: skip
    rate = {name: statistics.median(run.gflops for run in own[1:]) for name, own in runs.items()}  # without the warm-up
    return [
        {
            "benchmark": "mpi", "contender": name, "n": n, "dtype": "float64", "gflops": rate[name],
            "whole_gflops": n**3 / 3 / taken.median / 1e9, "of_threads": rate[name] / rate[threads],
            "messages": runs[name][-1].messages, "megabytes": runs[name][-1].bytes / 1e6,
            "overlap": statistics.median(run.trace.overlap for run in runs[name][1:]), **taken.record(),
        }
        for name, taken in times.items()
    ]  # fmt: skip


def overhead(ranks: int, repeat: int) -> list[dict[str, Any]]:
    """Seconds to start a pool, and of a call on it that has next to nothing to compute."""
    start = time.perf_counter()
    a = random_spd(64)
    with tw.mpi.Pool(ranks) as pool:
        started = time.perf_counter() - start
        times = alternate([Contender("call, n = 64", lambda: tw.tiled_cholesky(a, backend="mpi", pool=pool))], repeat)
    return [
        {"benchmark": "mpi overhead", "ranks": ranks, "what": what, **taken}
        for what, taken in [
            (f"start of {ranks} ranks", {"median": started}),
            *((name, taken.record()) for name, taken in times.items()),
        ]
    ]


def counts(nt: int, nb: int, ranks: tuple[int, ...] = RANKS) -> list[dict[str, Any]]:
    """Tile messages of a Cholesky factorisation of nt x nt tiles of nb x nb doubles."""
    graph = tw.cholesky_graph(nt)
    size = 8 * nb * nb
    records = []
    for count in ranks:
        grid = near_square(count)
        for name, owner, formula in (
            (f"block-cyclic {grid.P} x {grid.Q}", grid, nt**2 // 2 * (grid.P + grid.Q - 2)),
            (f"symmetric, r = {SYMMETRIC[count]}", tw.SymmetricBlockCyclic(SYMMETRIC[count]), None),
        ):
            plan = tw.MessagePlan(graph, owner.ranks, owner)
            sent = plan.sent()
            records.append({
                "benchmark": "mpi counts", "distribution": name, "ranks": owner.ranks, "nt": nt, "nb": nb,
                "messages": len(plan.messages), "formula": formula,
                "of_formula": len(plan.messages) / formula if formula else None,
                "gigabytes": len(plan.messages) * size / 1e9, "most_sent": max(sent),
                "megabytes_a_rank": len(plan.messages) * size / owner.ranks / 1e6,
            })  # fmt: skip
    return records


def draw(records: list[dict[str, Any]], path: Path) -> None:
    """Data each rank sends against the number of ranks, one line a distribution, and the formula."""
    from matplotlib.figure import Figure

    from tilewright.benchmarks.plot import COLOURS, MARKS

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for place, kind in enumerate(("block-cyclic", "symmetric")):
        own = [r for r in records if r["distribution"].startswith(kind)]
        axes.plot([r["ranks"] for r in own], [r["megabytes_a_rank"] for r in own], MARKS[place] + "-",
                  color=COLOURS[place], label=f"{kind}, counted")  # fmt: skip
    bound = [r for r in records if r["formula"]]
    axes.plot([r["ranks"] for r in bound], [r["megabytes_a_rank"] / r["of_formula"] for r in bound], ":", color="black",
              label="nt$^2$/2 (P + Q - 2) tiles")  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xlabel("ranks")
    axes.set_ylabel("MB sent a rank")
    axes.set_title(f"Cholesky, {records[0]['nt']} x {records[0]['nt']} tiles of {records[0]['nb']}, FP64")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path)


@click.command("mpi")
@click.option("--n", default=6144, show_default=True, help="Matrix size of the comparison with threads.")
@click.option("--repeat", default=7, show_default=True, help="Rounds to take the median of.")
@click.option("--nt", default=96, show_default=True, help="Tile rows of the counted factorisation.")
@click.option("--nb", default=512, show_default=True, help="Rows of its tiles.")
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="Append JSON lines to this file.")
@click.option("--plot", type=click.Path(dir_okay=False, path_type=Path), help="Draw data sent against ranks.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON lines instead of tables.")
def command(n: int, repeat: int, nt: int, nb: int, output: Path | None, plot: Path | None, as_json: bool) -> None:
    """Ranks against threads, the cost of a pool, and message counts for 16 to 1024 ranks."""
    speed, costs, plans = rates(n, repeat), overhead(4, repeat), counts(nt, nb)
    record.append(output, [*speed, *costs, *plans])
    table.show(f"n = {n}, FP64, medians of {repeat}", "contender", {
        "GFLOP/s": "gflops", "whole call": "whole_gflops", "of threads": "of_threads", "messages": "messages",
        "MB": "megabytes", "hidden": "overlap",
    }, speed, as_json=as_json)  # fmt: skip
    table.show("pool", "what", {"seconds": "median"}, costs, as_json=as_json)
    table.show(f"plan of {nt} x {nt} tiles of {nb}", "distribution", {
        "ranks": "ranks", "messages": "messages", "of formula": "of_formula", "GB": "gigabytes",
        "MB a rank": "megabytes_a_rank", "most sent by one": "most_sent",
    }, plans, as_json=as_json)  # fmt: skip
    if plot:
        draw(plans, plot)
