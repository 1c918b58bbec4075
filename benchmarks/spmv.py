"""``tilewright bench spmv``: sparse products on ranks beside SciPy, PETSc and the memory's bandwidth.

1. A 5-point stencil on n x n points: SciPy on one core, its compiled loop on two threads, ours on ranks with vectors
   that stay there (as PETSc's do), ours as a call with NumPy vectors, PETSc's MatMult where there is a petsc4py.
   *Of the bound* is the time that the bytes of the product by rows take at the rate of a copy, measured by the same
   ranks' worth of threads in the same run, over the time of the product. Ranks that multiply by diagonals move fewer
   bytes; there is a bound for these too, and a contender whose values are not symmetric, which moves more of them.
2. The overhead of a product on a matrix of 10^4 rows: its time on the ranks beyond that bound.
3. Four products with one exchange beside separate ones: measured on ranks, and simulated with alpha raised.
4. Ghost words of real matrices before and after partitioning.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter
from typing import Any

import click
import numpy as np
import scipy.sparse as sparse

import tilewright as tw
from tilewright.benchmarks import options, record, table
from tilewright.benchmarks.timing import Contender, Times, alternate
from tilewright.comm.domains import block_size, efficiency
from tilewright.comm.partition import exchange, partition, patches, slabs
from tilewright.comm.structure import Plan
from tilewright.kernels import csr, diagonals
from tilewright.plot.canvas import new_figure, save
from tilewright.plot.palette import LINES, MARKERS

__all__ = ["blocks", "command", "copy_rate", "ghosts", "overhead", "petsc", "products", "raised_alpha", "stencil"]

RANKS = 2
MACHINE = tw.Machine(alpha=5e-6, beta=1.2e-9, gamma=0.7e-9)
"""Two ranks of this host: measured latency, words per second, and seconds per flop of a sparse product."""

METHODS = ("separate", "halo", "two-stage")
NAMES = {"slab": "slabs", "patch": "patches"}


def stencil(n: int, m: int | None = None) -> Any:
    """The 5-point stencil on n x m points, with 0 outside; n m rows."""
    line: Any = sparse.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(n, n))
    other: Any = sparse.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(m or n, m or n))
    return sparse.csr_array(sparse.kronsum(other, line, format="csr"))


def torus(n: int) -> Any:
    """The same on a periodic grid of n x n points: all ranks do the same, so no time is lost in waiting."""
    ring: Any = sparse.diags_array([1.0, 1.0, 1.0, 1.0], offsets=[-1, 1, n - 1, 1 - n], shape=(n, n))
    return sparse.csr_array(sparse.kronsum(ring, ring) + 4 * sparse.eye_array(n * n))


def copy_rate(nbytes: int, threads: int = RANKS, repeat: int = 7) -> float:
    """Bytes per second, read and written, of a copy by so many threads; the median."""
    source, target = np.ones(nbytes // 8), np.zeros(nbytes // 8)
    cuts = np.linspace(0, len(source), threads + 1).astype(int)
    loops = max(1, 2**24 // nbytes)

    def part(first: int, last: int) -> None:
        for _ in range(loops):
            np.copyto(target[first:last], source[first:last])

    seconds = []
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(repeat + 1):
            start = perf_counter()
            list(pool.map(part, cuts, cuts[1:]))
            seconds.append(perf_counter() - start)
    return 2 * loops * nbytes / statistics.median(seconds[1:])


def on_ranks(operator: tw.SparseOperator, times: int, steps: int = 1, plan: Plan | None = None) -> list[float]:
    """Seconds of ``times`` rounds, of the slowest rank each."""
    executor = operator.executor
    return [max(round_) for round_ in zip(*executor.time_products(np.float64, times, steps, plan), strict=True)]


# ------------------------------------------------------------------ products


def products(n: int, repeat: int) -> list[dict[str, Any]]:
    """One product on n x n points."""
    A = stencil(n)
    x = np.random.default_rng(0).standard_normal(n * n)
    half = n * n // 2
    y = np.empty_like(x)

    def rows(first: int, last: int) -> None:
        y[first:last] = 0
        csr.multiply_add(A.indptr[first : last + 1], A.indices, A.data, x, y[first:last])

    other = A.copy()
    other.data = 1.0 + np.random.default_rng(1).random(A.nnz)
    resident: list[float] = []
    unsymmetric: list[float] = []
    before = petsc(n, repeat)
    with tw.mpi.Pool(RANKS) as pool, ThreadPoolExecutor(2) as threads:
        operator = tw.SparseOperator(A, backend="mpi", pool=pool, check_finite=False)
        second = tw.SparseOperator(other, backend="mpi", pool=pool, check_finite=False)
        here, there = operator.vector(), operator.vector()
        here[:] = x
        taken = alternate([
            Contender("SciPy, one core", lambda: A @ x),
            Contender("ours, 2 ranks, vectors stay", lambda: resident.extend(on_ranks(operator, repeat))),
            Contender("ours, unsymmetric values", lambda: unsymmetric.extend(on_ranks(second, repeat))),
            Contender("SciPy's loop, 2 threads", lambda: list(threads.map(rows, (0, half), (half, n * n)))),
            Contender("ours, shared vectors", lambda: operator.multiply(here, out=there)),
            Contender("ours, NumPy in and out", lambda: operator @ x),
        ], repeat)  # fmt: skip
        assert np.array_equal(there, operator @ x)
        np.testing.assert_allclose(there, A @ x, rtol=1e-13, atol=1e-12)
        rate = copy_rate(8 * 20_000_000)
    after = petsc(n, repeat)
    taken["ours, 2 ranks, vectors stay"] = Times(resident[repeat:])
    taken["ours, unsymmetric values"] = Times(unsymmetric[repeat:])
    if before or after:
        taken["PETSc MatMult, 2 ranks"] = Times(before + after)
    nbytes = csr.bytes_moved(n * n, n * n, A.nnz, float)
    form = diagonals.find(A.indptr, A.indices, A.data, n * n, least=1)
    assert form is not None
    fewest = form.bytes_moved(n * n)
    scipy = taken["SciPy, one core"].median
    return [
        {
            "benchmark": "spmv", "contender": name, "rows": n * n, "milliseconds": 1e3 * own.median,
            "of_scipy": scipy / own.median, "gigabytes_per_second": nbytes / own.median / 1e9,
            "of_bound": nbytes / rate / own.median, **own.record(),
        }
        for name, own in taken.items()
    ] + [
        {"benchmark": "spmv", "contender": f"bound: {what} at the rate of a copy", "rows": n * n,
         "milliseconds": 1e3 * moved / rate, "of_scipy": scipy * rate / moved, "gigabytes_per_second": rate / 1e9,
         "of_bound": nbytes / moved}
        for what, moved in (("its bytes by rows", nbytes), ("its bytes by diagonals", fewest))
    ]  # fmt: skip


def petsc(n: int, repeat: int) -> list[float]:
    """Seconds of each MatMult on two ranks of PETSc; none where /usr/bin/python3 has no petsc4py, as Debian's has."""
    launcher, python = shutil.which("mpirun", path="/usr/bin:/bin"), "/usr/bin/python3"
    libraries = sorted(Path("/usr/lib/petscdir").glob("*/*-real/lib/python3/dist-packages"))
    if launcher is None or not libraries or not os.access(python, os.X_OK):
        return []
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PMI", "OMPI_", "PYTHON", "HYD"))}
    script = Path(__file__).with_name("petsc_matmult.py")
    launch = [launcher, "--allow-run-as-root", "--oversubscribe", "-n", str(RANKS), python, str(script)]
    done = subprocess.run(
        [*launch, str(n), str(repeat)],
        env={**kept, "PYTHONPATH": str(libraries[-1])},
        capture_output=True,
        text=True,
        timeout=200,
    )
    if done.returncode:
        return []
    seconds, text, decoder = [], done.stdout.strip(), json.JSONDecoder()
    while text:
        told, end = decoder.raw_decode(text)
        seconds.append(told["seconds"])
        text = text[end:].lstrip()
    return [max(round_) for round_ in zip(*seconds, strict=True)]


def overhead(n: int, rounds: int, steps: int) -> list[dict[str, Any]]:
    """Microseconds of a product on n x n points, on ranks, in rounds of ``steps`` products with nothing between."""
    A = stencil(n)
    records = []
    with tw.mpi.Pool(RANKS) as pool:
        operator = tw.SparseOperator(A, backend="mpi", pool=pool)
        x = np.ones(n * n)
        on_ranks(operator, 3, steps)
        seconds = [round_ / steps for round_ in on_ranks(operator, rounds, steps)]
        alone = alternate([Contender("SciPy", lambda: [A @ x for _ in range(steps)])], rounds)["SciPy"]
        rate = copy_rate(8 * 20_000_000)
        bound = csr.bytes_moved(n * n, n * n, A.nnz, float) / rate
        for name, taken in (("ours, 2 ranks", seconds), ("SciPy, one core", [s / steps for s in alone.seconds])):
            middle = statistics.median(taken)
            records.append(
                {
                    "benchmark": "spmv overhead",
                    "contender": name,
                    "rows": n * n,
                    "microseconds": 1e6 * middle,
                    "bound": 1e6 * bound,
                    "beyond": 1e6 * (middle - bound),
                    "seconds": taken,
                }
            )
    return records


# ------------------------------------------------------------------ several products, one exchange


def blocks(sizes: Iterable[int], s: int, repeat: int) -> list[dict[str, Any]]:
    """s products on ranks: separate, and with one exchange. Rounds alternate."""
    records = []
    with tw.mpi.Pool(RANKS) as pool:
        for n in sizes:
            operator = tw.SparseOperator(stencil(n), backend="mpi", pool=pool)
            steps = max(1, 20_000 // n**2)  # several blocks a round where a block is short
            taken: dict[str, list[float]] = {method: [] for method in METHODS}
            for turn in range(repeat + 1):
                for method in METHODS:
                    plan = None if method == "separate" else (s, method, False)
                    seconds = on_ranks(operator, steps, s, plan)
                    if turn:
                        taken[method].append(statistics.median(seconds))
            separate = statistics.median(taken["separate"])
            for method, own in taken.items():
                middle = statistics.median(own)
                redundant = 0 if method == "separate" else sum(mine.redundant for mine in operator.closures(s, method))
                records.append(
                    {
                        "benchmark": "spmv powers",
                        "contender": f"{n} x {n}, {method}",
                        "s": s,
                        "rows": n * n,
                        "microseconds": 1e6 * middle,
                        "of_separate": separate / middle,
                        "redundant": redundant,
                        "seconds": own,
                    }
                )
    return records


def raised_alpha(n: int, p: int, s: int, alphas: Iterable[float]) -> list[dict[str, Any]]:
    """The same on a simulated machine: a periodic grid of n x n points in p patches, alpha raised."""
    side = int(np.sqrt(p))
    cut = patches((n, n), (side, p // side))
    operator = tw.SparseOperator(torus(n), ranks=p, partition=cut, backend="serial")
    records = []
    for alpha in alphas:
        machine = MACHINE.replace(alpha=alpha)
        taken = {method: operator.simulate(machine, s=s, method=method).makespan for method in METHODS}
        for method, seconds in taken.items():
            records.append(
                {
                    "benchmark": "spmv simulated powers",
                    "contender": f"alpha = {alpha:.0e} s, {method}",
                    "alpha": alpha,
                    "method": method,
                    "s": s,
                    "ranks": p,
                    "rows": n * n,
                    "microseconds": 1e6 * seconds,
                    "of_separate": taken["separate"] / seconds,
                    "block": block_size(machine, flops=10),
                }
            )
    return records


def ghosts(ranks: int) -> list[dict[str, Any]]:
    """Ghost words of pyamg's matrices by partition; none without pyamg."""
    try:
        from pyamg.gallery import load_example
    except ImportError:
        return []
    records = []
    for name in ("airfoil", "bar", "helmholtz_2D", "knot", "recirc_flow", "unit_cube", "unit_square"):
        A = sparse.csr_array(load_example(name)["A"])
        words = {rule: exchange(A, partition(A, ranks, rule)).words for rule in ("rows", "bisection", "metis")}
        records.append({"benchmark": "spmv ghosts", "contender": name, "order": A.shape[0], "ranks": ranks, **words})
    return records


# ------------------------------------------------------------------ pictures


def draw_alpha(records: list[dict[str, Any]], path: Path) -> None:
    """How much s products gain by one exchange, against alpha."""
    figure = new_figure("a plot of this benchmark", 7, 4.5)
    axes = figure.add_subplot()
    for place, method in enumerate(METHODS):
        own = [r for r in records if r["method"] == method]
        axes.plot(
            [1e6 * r["alpha"] for r in own],
            [r["of_separate"] for r in own],
            MARKERS[place] + "-",
            color=LINES[place],
            label=method,
        )
    first = records[0]
    axes.set_xscale("log")
    axes.set_xlabel("alpha, microseconds")
    axes.set_ylabel("times as fast as separate products")
    axes.set_title(
        f"{first['s']} products, 5-point stencil, {first['rows']:,} rows on {first['ranks']} ranks, simulated"
    )
    axes.grid(alpha=0.3)
    axes.legend()
    save(figure, path)


def draw_cuts(path: Path, points: int = 4096) -> None:
    """Weak scaling of slabs and patches: the formulas, and simulated runs on a torus."""
    machine = tw.Machine(alpha=1e-6, beta=1e-8, gamma=1e-9)
    figure = new_figure("a plot of this benchmark", 7, 4.5)
    axes = figure.add_subplot()
    for place, cut in enumerate(("slab", "patch")):
        ranks = [4**k for k in range(1, 7)]
        axes.plot(
            ranks,
            [efficiency(cut, p, (points * p) ** 0.5, machine) for p in ranks],
            "-",
            color=LINES[place],
            label=f"{NAMES[cut]}, formula",
        )
        simulated = [p for p in ranks if 16 <= p <= 256]
        found = [torus_efficiency(cut, p, points, machine) for p in simulated]
        axes.plot(simulated, found, MARKERS[place], color=LINES[place], label=f"{NAMES[cut]}, simulated")
    axes.set_xscale("log", base=2)
    axes.set_xlabel("ranks")
    axes.set_ylabel("efficiency")
    axes.set_title(f"5-point stencil, {points} points a rank, nothing hidden")
    axes.grid(alpha=0.3)
    axes.legend()
    save(figure, path)


def torus_efficiency(cut: str, p: int, points: int, machine: tw.Machine) -> float:
    """Efficiency of a simulated product on a periodic grid with so many points a rank."""
    n, side = int((points * p) ** 0.5), int(p**0.5)
    A = torus(n)
    part = slabs((n, n), p) if cut == "slab" else patches((n, n), (side, side))
    run = tw.SparseOperator(A, ranks=p, partition=part, backend="serial").simulate(machine, overlap=False)
    assert machine.gamma is not None
    return 10 * n * n * machine.gamma / p / run.makespan


# ------------------------------------------------------------------ the command


@click.command("spmv")
@click.option("--n", default=2000, show_default=True, help="Points along each side of the large stencil.")
@options.repeat(9)
@click.option("--s", default=4, show_default=True, help="Products with one exchange.")
@options.output
@options.plot("Draw the gain against alpha here.")
@options.plot("Draw slabs against patches here.", "--plot-cuts")
@options.as_json
def command(
    n: int, repeat: int, s: int, output: Path | None, plot: Path | None, plot_cuts: Path | None, as_json: bool
) -> None:
    """Sparse products on ranks beside SciPy, PETSc and the memory's bandwidth."""
    large = products(n, repeat)
    small = overhead(100, repeat, 200)
    together = blocks((100, 400, min(n, 1000)), s, max(3, repeat // 2))
    raised = raised_alpha(400, 64, s, [10 ** (k / 2) * 1e-6 for k in range(-1, 8)])
    words = ghosts(8)
    record.append(output, [*large, *small, *together, *raised, *words])
    table.show(
        f"5-point stencil, {n * n:,} rows",
        "contender",
        {"ms": "milliseconds", "of SciPy": "of_scipy", "GB/s": "gigabytes_per_second", "of the bound": "of_bound"},
        large,
        as_json=as_json,
    )
    table.show(
        "overhead, 10^4 rows, microseconds",
        "contender",
        {"a product": "microseconds", "bound": "bound", "beyond it": "beyond"},
        small,
        as_json=as_json,
    )
    table.show(
        f"{s} products on {RANKS} ranks",
        "contender",
        {"us": "microseconds", "of separate": "of_separate", "redundant points": "redundant"},
        together,
        as_json=as_json,
    )
    table.show(
        f"{s} products, 160,000 rows in 8 x 8 patches, periodic, simulated",
        "contender",
        {"us": "microseconds", "of separate": "of_separate", "b*": "block"},
        raised,
        as_json=as_json,
    )
    table.show(
        "ghost words on 8 ranks",
        "contender",
        {"order": "order", "by rows": "rows", "bisection": "bisection", "METIS": "metis"},
        words,
        as_json=as_json,
    )
    if plot:
        draw_alpha(raised, plot)
    if plot_cuts:
        draw_cuts(plot_cuts)
