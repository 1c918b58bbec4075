"""``tilewright matvec``, ``tilewright scaling`` and ``tilewright calibrate``: the dense half of the lecture.

The lecture is V. Eijkhout's *Parallel scalability*.
"""

from __future__ import annotations

import statistics
from math import isqrt
from pathlib import Path
from time import perf_counter
from typing import Any

import click

from tilewright.backends import COMPUTING
from tilewright.cli.common import DTYPES, Extents, Json, as_json, emit, one_sentence, output, picture, wrote

__all__ = ["calibrate", "matvec", "scaling"]


@click.command()
@click.option("--n", type=click.IntRange(min=1), default=4096, show_default=True, help="Order of a random matrix.")
@click.option("--dtype", type=click.Choice(DTYPES), default="float64", show_default=True)
@click.option("--layout", type=click.Choice(["rows", "columns", "grid"]), default="rows", show_default=True)
@click.option("--ranks", type=click.IntRange(min=1), help="[default: those of the grid, or one per core]")
@click.option("--grid", type=Extents(2), metavar="PxQ", help="Rows and columns of ranks, with --layout grid.")
@click.option("--backend", type=click.Choice(COMPUTING), default="mpi", show_default=True)
@click.option("--overlap", is_flag=True, help="Multiply by a rank's own piece of x while the others travel.")
@click.option("--transposed", is_flag=True, help="Multiply by the transpose.")
@click.option("--repeat", type=click.IntRange(min=1), default=5, show_default=True, help="Products; the median counts.")
@click.option(
    "--picture", is_flag=True, help="Draw who has what, as the lecture does (n up to 24), and compute nothing."
)
@as_json
def matvec(
    n: int,
    dtype: str,
    layout: str,
    ranks: int | None,
    grid: tuple[int, int] | None,
    backend: str,
    overlap: bool,
    transposed: bool,
    repeat: int,
    picture: bool,
    as_json: Json,
) -> None:
    """Multiply a dense matrix that stays on the ranks by vectors."""
    import numpy as np

    from tilewright.comm.grid import grid_of, matvec_cost
    from tilewright.comm.matvec import DenseOperator

    with one_sentence():
        chosen = grid_of(layout, ranks, grid, (n, n))
        if picture:
            if n > 24:
                raise ValueError(f"a picture of {n} columns fits no screen; --n 24 at most")
            click.echo(chosen.picture())
            return
        rng = np.random.default_rng(0)
        A = rng.standard_normal((n, n)).astype(dtype)
        x = rng.standard_normal(n).astype(dtype)
        operator = DenseOperator(A, "grid", grid=(chosen.r, chosen.c), backend=backend, overlap=overlap)
        times = []
        for _ in range(repeat + 1):
            start = perf_counter()
            y = operator.T @ x if transposed else operator @ x
            times.append(perf_counter() - start)
        _, trace = operator.traced(x, transposed=transposed)
        operator.close()
    B = A.T if transposed else A
    unit = np.finfo(dtype).eps / 2
    scale = n * unit * (np.abs(B) @ np.abs(x))
    ratio = float(np.max(np.abs(y - B @ x) / scale))
    median = statistics.median(times[1:])
    result = {
        "n": n, "dtype": dtype, "grid": [chosen.r, chosen.c], "backend": backend, "seconds": median,
        "gigabytes_per_second": A.nbytes / median / 1e9, "gflops": 2 * n * n / median / 1e9,
        "messages": len(trace.messages), "words": sum(m.nbytes for m in trace.messages) // A.itemsize,
        "ratio": ratio, "passed": ratio < 30,
        "model_seconds": matvec_cost(chosen.ranks, n, _default(), grid=(chosen.r, chosen.c), overlap=overlap),
    }  # fmt: skip

    def show() -> None:
        click.echo(
            f"{'A^T x' if transposed else 'A x'}, n = {n}, {dtype}, {chosen.r} x {chosen.c} ranks, {backend}\n"
            f"  median of {repeat}   {median * 1e3:.3f} ms, {result['gigabytes_per_second']:.1f} GB/s of A, "
            f"{result['gflops']:.2f} GFLOP/s\n"
            f"  a product    {result['messages']} messages, {result['words']} words\n"
            f"  largest error / (n u |A| |x|)   {ratio:.3g}   {'PASS' if result['passed'] else 'FAIL'}"
        )

    emit(result, as_json, show)
    if not result["passed"]:
        raise click.exceptions.Exit(1)


def _default() -> Any:
    from tilewright.comm.cost import MACHINE

    return MACHINE


@click.command()
@click.option(
    "--layout",
    "layouts",
    type=click.Choice(["rows", "columns", "grid", "slab", "patch"]),
    multiple=True,
    help="rows, columns, grid: of a matrix; slab, patch: of a five-point stencil.  [default: the first three]",
)
@click.option("--alpha", type=float, default=1e-6, show_default=True, help="Seconds per message.")
@click.option("--beta", type=float, default=1e-9, show_default=True, help="Seconds per word.")
@click.option("--gamma", type=float, default=1e-9, show_default=True, help="Seconds per flop.")
@click.option("--n", type=click.IntRange(min=1), default=4096, show_default=True, help="Order, for strong scaling.")
@click.option(
    "--memory", type=click.IntRange(min=1), default=1 << 20, show_default=True, help="Words a rank, for weak scaling."
)
@click.option("--p", type=click.IntRange(min=1), default=64, show_default=True, help="Ranks, for optimistic scaling.")
@click.option("--most", type=click.IntRange(min=1), default=1024, show_default=True, help="Most ranks.")
@click.option(
    "--simulate/--no-simulate", "simulated", default=True, show_default=True, help="Run the graphs on the simulator."
)
@click.option(
    "--measure",
    type=click.IntRange(min=0),
    default=0,
    help="Also run on 1 to this many ranks for real, patches on squares.",
)
@click.option("--measured-n", type=click.IntRange(min=1), default=4096, show_default=True, help="Order, for --measure.")
@picture("--plot", help="Draw it here.")
@as_json
def scaling(
    layouts: tuple[str, ...],
    alpha: float,
    beta: float,
    gamma: float,
    n: int,
    memory: int,
    p: int,
    most: int,
    simulated: bool,
    measure: int,
    measured_n: int,
    plot: Path | None,
    as_json: Json,
) -> None:
    """Optimistic, strong and weak scaling of the dense product, or of a stencil: formulas and simulated points.

    The formulas are those of V. Eijkhout's lecture, Parallel scalability.
    """
    from tilewright.machine import Machine
    from tilewright.studies.scaling import scaling_study

    with one_sentence():
        study = scaling_study(
            layouts=layouts or ("rows", "columns", "grid"),
            machine=Machine(alpha=alpha, beta=beta, gamma=gamma),
            n=n,
            memory=memory,
            p=p,
            most=most,
            simulated=simulated,
            measured=[p for p in range(1, measure + 1) if "patch" not in layouts or isqrt(p) ** 2 == p],
            measured_n=measured_n,
        )
        if plot:
            study.plot(plot)
    emit(study.to_json(), as_json, lambda: click.echo(str(study)))


@click.command()
@click.option("--seconds", type=float, default=2.0, show_default=True, help="For all messages together.")
@click.option(
    "--largest", type=click.IntRange(min=16), default=8 << 20, show_default=True, help="Bytes of the longest message."
)
@click.option("--n", type=click.IntRange(min=1), default=4096, show_default=True, help="Order of the matrix of dgemv.")
@output("--machine", suffixes=[".json"], help="Write alpha, beta and gamma here, for Machine.from_json.")
@click.option("--blas", is_flag=True, help="Instead: measure which library is the fastest for each op, and keep that.")
@click.option("--rates", is_flag=True, help="Instead: measure how fast each format is here, and keep that.")
@click.option("--forget", is_flag=True, help="With --blas or --rates: remove what was kept; the rules hold again.")
@as_json
def calibrate(
    seconds: float, largest: int, n: int, machine: Path | None, blas: bool, rates: bool, forget: bool, as_json: Json
) -> None:
    """Measure alpha and beta of messages between two ranks, and gamma of dgemm and dgemv.

    With --blas, measure the tile kernels of the BLAS libraries that are here and keep which is the fastest for each op
    where it is not the one of the rules (`tilewright info` lists these). Later processes of this computer use it. Bits
    change with the library.

    With --rates, measure the products of each format and a copy of memory and keep them. solve --precision auto of
    later processes goes by them instead of by the rules for CPUs of this kind.
    """
    if blas and rates:
        raise click.UsageError("--blas and --rates are two measurements; ask for one after the other")
    if forget and not (blas or rates):
        raise click.UsageError("--forget goes with --blas or --rates")
    if blas or rates:
        with one_sentence():
            (_calibrate_blas if blas else _calibrate_rates)(forget, as_json)
        return
    from tilewright.studies.network import SIZES, measure

    with one_sentence():
        found = measure(sizes=[size for size in SIZES if size <= largest], seconds=seconds, n=n)
        if machine:
            found.machine().to_json(machine)
    emit(found.record(), as_json, lambda: click.echo(str(found)))
    wrote(machine)


def _calibrate_rates(forget: bool, as_json: Json) -> None:
    from tilewright import rates

    if forget:
        rates.forget()
        emit({"rates": {}}, as_json, lambda: click.echo("The rules hold again."))
        return
    file = rates.measure()
    found = rates.current()

    def show() -> None:
        for name, rate in found.flops.items():
            click.echo(f"{name:<8}{rate / 1e9:8.1f} GFLOP/s a core")
        click.echo(f"{'memory':<8}{found.bandwidth / 1e9:8.1f} GB/s a core\nKept in {file}")

    emit({"rates": dict(found.flops), "bandwidth": found.bandwidth, "file": str(file)}, as_json, show)


def _calibrate_blas(forget: bool, as_json: Json) -> None:
    from tilewright.cli import tables
    from tilewright.kernels import contest, preference

    if forget:
        preference.forget()
        emit({"preference": {}}, as_json, lambda: click.echo("The rules hold again."))
        return
    entries = contest.contest(progress=None if as_json == "-" else lambda op: click.echo(f"{op} ", nl=False, err=True))
    kept = contest.winners(entries)
    file = preference.store(kept)

    def show() -> None:
        click.echo(err=True)
        tables.show_contest(entries, kept)
        click.echo(f"Kept in {file}" if kept else f"The rules choose the fastest everywhere; {file} says so.")

    emit({"rates": [e._asdict() for e in entries], "preference": kept, "file": str(file)}, as_json, show)
