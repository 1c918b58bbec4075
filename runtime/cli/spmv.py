"""``tilewright spmv``: multiply a sparse matrix on ranks and say what was exchanged and how fast it went."""

from __future__ import annotations

import statistics
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import click

from tilewright.backends import COMPUTING
from tilewright.cli.common import Extents, Json, as_json, emit, input_file, one_sentence
from tilewright.extras import pip

if TYPE_CHECKING:
    from tilewright.comm.sparse import SparseOperator

__all__ = ["spmv"]


@click.command()
@click.option(
    "--poisson", type=Extents(), metavar="NxM", help="The stencil of a Poisson problem, such as 1000x1000 or 50x50x50."
)
@click.option("--example", metavar="NAME", help="A matrix of pyamg's gallery: airfoil, bar, knot, recirc_flow, ...")
@input_file("--matrix", help="A .mtx or .npz file.")
@click.option("--ranks", type=click.IntRange(min=1), default=2, show_default=True)
@click.option("--partition", type=click.Choice(("rows", "bisection", "metis")), default="rows", show_default=True)
@click.option(
    "--discovery", type=click.Choice(("auto", "reduce-scatter", "nbx", "alltoall")), default="auto", show_default=True
)
@click.option("--backend", type=click.Choice(COMPUTING), default="mpi", show_default=True)
@click.option("--powers", "s", type=click.IntRange(min=1), default=1, show_default=True, help="How many products.")
@click.option("--method", type=click.Choice(("separate", "halo", "two-stage")), default="separate", show_default=True)
@click.option("--transposed", is_flag=True, help="Multiply by the transpose, once.")
@click.option("--solve", is_flag=True, help="Also solve A x = 1 by conjugate gradients, --powers steps per exchange.")
@click.option("--repeat", type=click.IntRange(min=1), default=5, show_default=True, help="Rounds; the median counts.")
@as_json
def spmv(
    poisson: tuple[int, ...] | None,
    example: str | None,
    matrix: Path | None,
    ranks: int,
    partition: str,
    discovery: str,
    backend: str,
    s: int,
    method: str,
    transposed: bool,
    solve: bool,
    repeat: int,
    as_json: Json,
) -> None:
    """Multiply a sparse matrix by a vector on several ranks."""
    if (poisson is not None) + (example is not None) + (matrix is not None) > 1:
        raise click.UsageError("--poisson, --example and --matrix each name a matrix; give one of them")
    if transposed and s > 1:
        raise click.UsageError(f"--transposed is for one product, not for --powers {s}")
    with one_sentence():
        A, source = _load(poisson, example, matrix)
        from tilewright.comm.sparse import SparseOperator

        start = perf_counter()
        operator = SparseOperator(A, ranks=ranks, partition=partition, discovery=discovery, backend=backend)
        result = {
            "matrix": source,
            "rows": A.shape[0],
            "columns": A.shape[1],
            "entries": A.nnz,
            "dtype": str(operator.dtype),
            "ranks": ranks,
            "partition": partition,
            "discovery": discovery,
            "backend": backend,
            "products": s,
            "method": method,
            "transposed": transposed,
            "set_up_seconds": perf_counter() - start,
        }
        result |= _measure(operator, A, s, method, repeat, transposed)
        result["partitions"] = _partitions(A, ranks)
        if s > 1 and method != "separate":
            closures = operator.closures(s, method)
            result |= {
                "words": sum(c.words for c in closures),
                "messages": sum(c.messages for c in closures),
                "redundant": sum(c.redundant for c in closures),
            }
        else:
            result |= {"words": s * operator.exchange.words, "messages": s * operator.exchange.messages, "redundant": 0}
        if solve:
            result["solve"] = _solve(operator, s, "two-stage" if method == "two-stage" else "halo")
    emit(result, as_json, lambda: _show(result))
    if not result["agrees"] or (solve and not result["solve"]["converged"]):
        raise click.exceptions.Exit(1)


def _load(poisson: tuple[int, ...] | None, example: str | None, path: Path | None) -> tuple[Any, str]:
    """(matrix, where it comes from). ValueError or ImportError in one sentence."""
    import scipy.sparse as sparse

    if path is not None:
        from tilewright.linalg.gallery import load_sparse

        return load_sparse(path), str(path)
    if example is not None:
        try:
            from pyamg.gallery import load_example
        except ImportError:
            raise ImportError(f"--example needs pyamg; {pip('pyamg')}") from None
        try:
            return sparse.csr_array(load_example(example)["A"]), f"pyamg's {example}"
        except ValueError as error:
            raise ValueError(f"pyamg has no example {example!r}: {error}") from None
    shape = poisson or (1000, 1000)
    A = sparse.csr_array((1, 1))
    for place, n in enumerate(shape):
        line: Any = sparse.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(n, n))
        A = sparse.csr_array(line if place == 0 else sparse.kronsum(line, A))
    return A, f"Poisson, {' x '.join(map(str, shape))} points"


def _measure(operator: SparseOperator, A: Any, s: int, method: str, repeat: int, transposed: bool) -> dict[str, Any]:
    """Times of the products, on vectors that stay on the ranks where there are ranks, and of SciPy's."""
    import numpy as np

    from tilewright.kernels import csr

    turned, B = (operator.T, A.T) if transposed else (operator, A)
    x = np.random.default_rng(0).standard_normal(B.shape[1]).astype(operator.dtype)
    calls, alone = [], []
    for _ in range(repeat + 1):
        start = perf_counter()
        y = turned @ x if s == 1 else operator.powers(x, s, method)[-1]
        calls.append(perf_counter() - start)
        start = perf_counter()
        wanted = x
        for _ in range(s):
            wanted = B @ wanted
        alone.append(perf_counter() - start)
    size = float(np.abs(wanted).max(initial=0)) or 1.0
    result = {
        "call_seconds": statistics.median(calls[1:]), "scipy_seconds": statistics.median(alone[1:]),
        "agrees": bool(np.allclose(y / size, wanted / size, rtol=1e-4, atol=1e-5)),
    }  # fmt: skip
    if operator.on_ranks and A.shape[0] == A.shape[1] and not transposed:
        plan = None if s == 1 or method == "separate" else (s, method, False)
        rounds = operator.executor.time_products(operator.dtype, repeat + 1, s, plan)
        seconds = statistics.median([max(times) for times in zip(*rounds, strict=True)][1:])
        nbytes = s * csr.bytes_moved(A.shape[0], A.shape[1], A.nnz, operator.dtype)
        result |= {"rank_seconds": seconds, "gigabytes_per_second": nbytes / seconds / 1e9}
    return result


def _partitions(A: Any, ranks: int) -> list[dict[str, Any]]:
    """What one product exchanges under each partition there is."""
    from tilewright.comm.partition import PARTITIONS, by_rows, exchange, partition

    square = A.shape[0] == A.shape[1]
    found = []
    for rule in PARTITIONS if square and A.shape[0] <= 500_000 else ("rows",):
        try:
            rows = partition(A, ranks, rule)
            cost = exchange(A, rows, rows if square else by_rows(A.shape[1], ranks))
        except ImportError:
            continue
        found.append({"partition": rule, **cost._asdict()})
    return found


def _solve(operator: SparseOperator, s: int, method: str) -> dict[str, Any]:
    import numpy as np

    from tilewright.comm.solve import cg

    start = perf_counter()
    _, report = cg(operator, np.ones(operator.shape[0], operator.dtype), s=s, method=method)
    return {
        "seconds": perf_counter() - start,
        "converged": report.converged,
        "iterations": report.iterations,
        "residual": report.residual,
        "exchanges": report.exchanges,
        "reductions": report.reductions,
        "condition": report.condition,
        "s": report.s,
        "basis": report.basis,
    }


def _show(result: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    size = f"{result['rows']:,} x {result['columns']:,}, {result['entries']:,} entries, {result['dtype']}"
    console.print(f"{result['matrix']}: {size}", highlight=False)
    kind = "transposed" if result["transposed"] else result["method"]
    times = Table(title=f"{result['products']} product(s), {kind}", title_justify="left")
    times.add_column("")
    times.add_column("ms", justify="right")
    for label, key in (
        ("on the ranks, vectors stay", "rank_seconds"),
        ("the whole call", "call_seconds"),
        ("SciPy, one core", "scipy_seconds"),
        ("set-up, once", "set_up_seconds"),
    ):
        if key in result:
            times.add_row(label, f"{1e3 * result[key]:.4g}")
    console.print(times)
    if "gigabytes_per_second" in result:
        console.print(
            f"{result['gigabytes_per_second']:.1f} GB/s of the matrix by rows and the vectors", highlight=False
        )
    console.print(
        f"{result['ranks']} ranks exchange {result['words']:,} words in {result['messages']:,} messages; "
        f"{result['redundant']:,} components are computed twice",
        highlight=False,
    )
    cuts = Table(title="one product by partition", title_justify="left")
    for heading in ("partition", "ghost words", "messages", "most words", "most messages", "imbalance"):
        cuts.add_column(heading, justify="left" if heading == "partition" else "right")
    for row in result["partitions"]:
        cuts.add_row(
            row["partition"],
            f"{row['words']:,}",
            f"{row['messages']:,}",
            f"{row['most_words']:,}",
            str(row["most_messages"]),
            f"{row['imbalance']:.3f}",
        )
    console.print(cuts)
    if "solve" in result:
        report = result["solve"]
        state = "converged" if report["converged"] else "did NOT converge"
        console.print(
            f"conjugate gradients {state}: {report['iterations']} iterations, "
            f"residual {report['residual']:.1e}, {report['exchanges']} exchanges, "
            f"{report['reductions']} reductions, basis {report['basis']} of "
            f"condition {report['condition']:.1e}, {report['seconds']:.3g} s",
            highlight=False,
        )
    if not result["agrees"]:
        console.print("the products do NOT agree with SciPy's", style="bold red")
