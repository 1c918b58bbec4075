"""``tilewright bench mpi``: ranks against threads and ScaLAPACK, what a pool costs, and how much has to be sent.

Four questions:

1. Two ranks with one worker each against two threads, alternating: rates of the execution and of the whole call, bytes
   sent, share of the messages' time that is hidden under computation.
2. The same two ranks, in place, against ScaLAPACK's pdpotrf or pdgetrf on two, which work in place, in the same rounds,
   with the same BLAS, at the best of a few block sizes; if it is installed.
3. How long four ranks take to start, and a call on them with a matrix of 64 rows, where all is overhead.
4. Messages and bytes of the plan, the pass that the engine uses, on 16 to 1024 ranks, for one matrix and for one that
   grows with the ranks, beside the count nt^2/2 (P + Q - 2) tiles for a P x Q block-cyclic grid.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable
from functools import partial
from math import isqrt, sqrt
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np

import tilewright as tw
from tilewright.benchmarks import options, record, table
from tilewright.benchmarks.scalapack import ScaLAPACK, UnavailableError
from tilewright.benchmarks.timing import Contender, alternate
from tilewright.distribution import near_square
from tilewright.linalg.gallery import random_spd
from tilewright.linalg.residual import THRESHOLD
from tilewright.plot.canvas import new_figure, save
from tilewright.plot.palette import LINES, MARKERS

__all__ = ["command", "counts", "overhead", "rates", "tuned"]

THREADS, RANKS, IN_PLACE = "2 threads", "2 ranks", "2 ranks in place"
SIZES = (3072, 6144)
BLOCKS = ((64, 32), (64, 64), (128, 64), (128, 128), (192, 96), (256, 128))
"""Blocks of ScaLAPACK and of the PBLAS in it, to choose from; on two ranks a 1 x 2 grid beat 2 x 1 at all of them."""

COUNTED = (16, 32, 64, 128, 256, 512, 1024)


class Factorisation(NamedTuple):
    """A factorisation of n x n numbers, ours and ScaLAPACK's."""

    rival: str
    call: Callable[..., Any]
    matrix: Callable[[int], np.ndarray]
    flops: float
    """In n^3."""


def _general(n: int) -> np.ndarray:
    return np.asfortranarray(np.random.default_rng(0).uniform(-1, 1, (n, n)))


JOBS = {
    "cholesky": Factorisation("pdpotrf", tw.tiled_cholesky, random_spd, 1 / 3),
    "lu": Factorisation("pdgetrf", tw.lu_factor, _general, 2 / 3),
}


def rates(n: int, repeat: int, *, rival: bool = True, routine: str = "cholesky") -> list[dict[str, Any]]:
    """Two threads, two ranks, and with ``rival`` ScaLAPACK; its record has an "error" if there is none."""
    job = JOBS[routine]
    a, theirs_is = job.matrix(n), f"{job.rival}, 2 ranks"
    work = np.empty_like(a, order="K")
    seconds: dict[str, list[float]] = {THREADS: [], RANKS: [], IN_PLACE: []}  # seconds of the execution alone
    runs: dict[str, tw.Run] = {}

    def ours(name: str, matrix: np.ndarray = a, **options: Any) -> None:
        _, runs[name] = job.call(matrix, return_run=True, workers=2, **options)
        seconds[name].append(runs[name].makespan)

    missing = ""
    with contextlib.ExitStack() as stack:
        pool = stack.enter_context(tw.mpi.Pool(2))
        contenders = [
            Contender(THREADS, lambda: ours(THREADS)),
            Contender(RANKS, lambda: ours(RANKS, backend="mpi", pool=pool)),
            Contender(
                IN_PLACE,
                lambda: ours(IN_PLACE, work, backend="mpi", pool=pool, overwrite_a=True, check_finite=False),
                partial(np.copyto, work, a),
            ),
        ]
        if rival:
            try:
                theirs = stack.enter_context(tuned(n, 2 if n > 8192 else 3, job.rival))
                seconds[theirs_is] = []
                contenders.append(Contender(theirs_is, lambda: seconds[theirs_is].append(theirs.factor())))
            except UnavailableError as error:
                missing = f"no ScaLAPACK to compare with: {error}"
        times = alternate(contenders, repeat)
    #   the first of each is the warm-up
    flops = job.flops * n**3
    rate = {name: flops / statistics.median(taken[1:]) / 1e9 for name, taken in seconds.items()}
    records: list[dict[str, Any]] = []
    for name, run in runs.items():
        records.append(
            {
                "benchmark": "mpi",
                "routine": routine,
                "contender": name,
                "n": n,
                "dtype": "float64",
                "gflops": rate[name],
                "whole_gflops": flops / times[name].median / 1e9,
                "of_threads": rate[name] / rate[THREADS],
                "messages": run.messages,
                "megabytes": run.bytes / 1e6,
                "overlap": run.trace.overlap,
                "executions": seconds[name][1:],
                **times[name].record(),
            }
        )
    if theirs_is in rate:
        records.append(
            {
                "benchmark": "mpi",
                "routine": routine,
                "contender": theirs_is,
                "n": n,
                "dtype": "float64",
                "gflops": rate[theirs_is],
                "of_threads": rate[theirs_is] / rate[THREADS],
                "ours_over_this": rate[IN_PLACE] / rate[theirs_is],
                "with_copy_over_this": rate[RANKS] / rate[theirs_is],
                "nb": theirs.nb,
                "pblas_nb": theirs.logical,
                "ratio": theirs.ratio,
                "passed": theirs.ratio < THRESHOLD,
                "executions": seconds[theirs_is][1:],
            }
        )
    if missing:
        records.append(
            {
                "benchmark": "mpi",
                "routine": routine,
                "contender": theirs_is,
                "n": n,
                "dtype": "float64",
                "error": missing,
            }
        )
    return records


def tuned(n: int, rounds: int, routine: str = "pdpotrf") -> ScaLAPACK:
    """ScaLAPACK at the (block, PBLAS block) of `BLOCKS` that had the fastest of ``rounds`` alternating runs."""
    taken: dict[ScaLAPACK, list[float]]
    with contextlib.ExitStack() as stack:
        blocks = [one for one in BLOCKS if 2 * one[0] <= n]
        taken = {stack.enter_context(ScaLAPACK(n, nb, (1, 2), logical, routine)): [] for nb, logical in blocks}
        for _ in range(rounds):
            for candidate, seconds in taken.items():
                seconds.append(candidate.factor())
    best = min(taken, key=lambda candidate: min(taken[candidate]))
    return ScaLAPACK(n, best.nb, best.grid, best.logical, routine)


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


def counts(nt: int, nb: int, ranks: tuple[int, ...] = COUNTED, scaling: str = "strong") -> list[dict[str, Any]]:
    """Tile messages of Cholesky factorisations in tiles of nb x nb doubles.

    nt x nt of them on all numbers of ``ranks``; for ``scaling="weak"`` on the largest number, and on fewer ranks so
    many that each rank has the same share of the matrix.
    """
    size = 8 * nb * nb
    records = []
    for count in ranks:
        own = nt if scaling == "strong" else round(nt * sqrt(count / max(ranks)))
        graph = tw.cholesky_graph(own)
        grid = near_square(count)
        for name, owner, formula in (
            (f"block-cyclic {grid.P} x {grid.Q}", grid, own**2 // 2 * (grid.P + grid.Q - 2)),
            (f"symmetric, r = {(r := _symmetric(count))}", tw.SymmetricBlockCyclic(r), None),
        ):
            plan = tw.MessagePlan(graph, owner.ranks, owner)
            sent = plan.sent()
            records.append(
                {
                    "benchmark": "mpi counts",
                    "scaling": scaling,
                    "distribution": name,
                    "ranks": owner.ranks,
                    "nt": own,
                    "nb": nb,
                    "messages": len(plan.messages),
                    "formula": formula,
                    "of_formula": len(plan.messages) / formula if formula else None,
                    "gigabytes": len(plan.messages) * size / 1e9,
                    "most_sent": max(sent),
                    "megabytes_a_rank": len(plan.messages) * size / owner.ranks / 1e6,
                }
            )
    return records


def _symmetric(ranks: int) -> int:
    """The largest r with r (r - 1) / 2 <= ranks."""
    return (1 + isqrt(1 + 8 * ranks)) // 2


def draw(records: list[dict[str, Any]], path: Path) -> None:
    """Data each rank sends against the number of ranks, one line a distribution, and the formula; a panel a scaling."""
    figure = new_figure("a plot of this benchmark", 9.5, 4.2)
    panels = figure.subplots(1, 2, sharey=True)
    for axes, scaling in zip(panels, ("strong", "weak"), strict=True):
        chosen = [r for r in records if r["scaling"] == scaling]
        for place, kind in enumerate(("block-cyclic", "symmetric")):
            own = [r for r in chosen if r["distribution"].startswith(kind)]
            axes.plot(
                [r["ranks"] for r in own],
                [r["megabytes_a_rank"] for r in own],
                MARKERS[place] + "-",
                color=LINES[place],
                label=f"{kind}, counted",
            )
        bound = [r for r in chosen if r["formula"]]
        axes.plot(
            [r["ranks"] for r in bound],
            [r["megabytes_a_rank"] / r["of_formula"] for r in bound],
            ":",
            color="black",
            label="nt$^2$/2 (P + Q - 2) tiles",
        )
        sizes = sorted({r["nt"] for r in chosen})
        tiles = f"{sizes[0]} to {sizes[-1]}" if len(sizes) > 1 else f"{sizes[0]}"
        axes.set_title(f"{scaling} scaling: {tiles} tile rows of {chosen[0]['nb']}, FP64")
        axes.set_xscale("log", base=2)
        ranks = [r["ranks"] for r in bound]
        axes.set_xticks(ranks, [str(count) for count in ranks])
        axes.set_yscale("log")
        axes.set_xlabel("ranks")
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("MB sent a rank, on average")
    panels[0].legend()
    save(figure, path, metadata={"Date": None} if path.suffix == ".svg" else None)


def show_rates(n: int, records: list[dict[str, Any]], as_json: bool) -> None:
    """A table, and below it at which blocks ScaLAPACK was best, or what is missing to compare with it."""
    table.show(
        f"n = {n}, FP64, medians",
        "contender",
        {
            "GFLOP/s": "gflops",
            "whole call": "whole_gflops",
            "of threads": "of_threads",
            "ours in place / this": "ours_over_this",
            "messages": "messages",
            "MB": "megabytes",
            "hidden": "overlap",
        },
        [r for r in records if "error" not in r],
        as_json=as_json,
    )
    for r in records:
        if "error" in r:
            table.show("", "contender", {}, [r], as_json=True) if as_json else print(r["error"])
        elif "nb" in r and not as_json:
            blocks = f"blocks of {r['nb']}, {r['pblas_nb']} in the PBLAS"
            print(f"{JOBS[r['routine']].rival}: {blocks}, residual ratio {r['ratio']:.2g}")


@click.command("mpi")
@click.option("--n", "sizes", type=int, multiple=True, help="Matrix size; repeat for several.  [default: 3072, 6144]")
@options.repeat(7)
@click.option("--scalapack/--no-scalapack", default=True, help="Compare with it if it is installed.")
@click.option("--routine", type=click.Choice(list(JOBS)), default="cholesky", show_default=True, help="What is timed.")
@click.option(
    "--nt",
    default=96,
    show_default=True,
    help="Tile rows of the counted factorisation; the most, where it grows with the ranks.",
)
@click.option("--nb", default=512, show_default=True, help="Rows of its tiles.")
@click.option("--counts", "only_counts", is_flag=True, help="Only count messages; run nothing.")
@options.output
@options.plot("Draw data sent against ranks.")
@options.as_json
def command(
    sizes: tuple[int, ...],
    repeat: int,
    scalapack: bool,
    routine: str,
    nt: int,
    nb: int,
    only_counts: bool,
    output: Path | None,
    plot: Path | None,
    as_json: bool,
) -> None:
    """Ranks against threads and ScaLAPACK, the cost of a pool, and message counts for 16 to 1024 ranks."""
    if not only_counts:
        for n in sizes or SIZES:
            speed = rates(n, repeat if n <= 8192 else min(repeat, 3), rival=scalapack, routine=routine)
            record.append(output, speed)
            show_rates(n, speed, as_json)
        costs = overhead(4, repeat)
        record.append(output, costs)
        table.show("pool", "what", {"seconds": "median"}, costs, as_json=as_json)
    plans = [*counts(nt, nb), *counts(nt, nb, scaling="weak")]
    record.append(output, plans)
    for scaling in ("strong", "weak"):
        table.show(
            f"{scaling} scaling, tiles of {nb}",
            "distribution",
            {
                "ranks": "ranks",
                "nt": "nt",
                "messages": "messages",
                "of formula": "of_formula",
                "GB": "gigabytes",
                "MB a rank": "megabytes_a_rank",
                "most sent": "most_sent",
            },
            [r for r in plans if r["scaling"] == scaling],
            as_json=as_json,
        )
    if plot:
        draw(plans, plot)
