"""`tilewright bench hpl-mxp`: LU in low precision without pivoting, refined to FP64, by the rules of HPL-MxP.

The matrix is that of the benchmark (`tilewright.linalg.gallery.hpl_mxp`), an answer counts if the scaled residual
||b - A x|| / (n u (||A|| ||x|| + ||b||)) in infinity norms, u = 2^-53, is at most 16, and flops are those of FP64,
2/3 n^3 + 3/2 n^2, whatever was computed. Time is that of everything after A and b: scaling, factor, refinement.
"""

from __future__ import annotations

from pathlib import Path
from time import perf_counter
from typing import Any

import click
import numpy as np

import tilewright as tw
from tilewright.benchmarks import options, record, table
from tilewright.benchmarks.table import story
from tilewright.benchmarks.timing import Contender, alternate
from tilewright.linalg.by_columns import ByColumns
from tilewright.linalg.gallery import hpl_mxp
from tilewright.linalg.general import GeneralProblem
from tilewright.linalg.refinement import FOR_GENERAL
from tilewright.linalg.right_hand_side import RightHandSide
from tilewright.linalg.runner import Runner
from tilewright.linalg.solve import SolveInfo

__all__ = ["PRECISIONS", "THRESHOLD", "command", "flops", "measure", "solve"]

PRECISIONS = ("bf16", "fp16", "fp32")

THRESHOLD = 16.0
"""The largest scaled residual that counts."""

FP64 = "tilewright fp64, pivoted"


def flops(n: int) -> float:
    """2/3 n^3 + 3/2 n^2."""
    return 2 / 3 * n**3 + 3 / 2 * n**2


def solve(
    a: np.ndarray,
    b: np.ndarray,
    precision: str,
    refine: str = "gmres",
    workers: int | None = None,
    backend: str | None = None,
) -> tuple[np.ndarray, SolveInfo]:
    """x with A x = b from an LU factor without pivoting; `AccuracyError` where refinement does not converge."""
    began = perf_counter()
    runner = Runner(backend, workers=workers)
    columns = RightHandSide(b, len(a))
    problem = GeneralProblem(
        solve, ByColumns(a, square=True), columns, precision, refine, False, True, None, runner, pivoting="none"
    )
    x = columns.result(problem.solve())
    return x, problem.finish(began)


def measure(
    n: int, repeat: int, precisions: tuple[str, ...] = PRECISIONS, refine: str = "gmres", workers: int | None = None
) -> list[dict[str, Any]]:
    """Records of each format, and of our FP64 solution with partial pivoting, which is HPL's task."""
    a, b = hpl_mxp(n)
    found: dict[str, SolveInfo] = {}

    def ours(precision: str) -> Contender:
        name = f"tilewright {precision}"

        def call() -> None:
            found[name] = solve(a, b, precision, refine, workers)[1]

        return Contender(name, call)

    def exact() -> None:
        options: dict[str, Any] = {"workers": workers, "return_info": True}
        found[FP64] = tw.solve(a, b, assume_a="gen", precision="fp64", **options)[1]

    times = alternate([*map(ours, precisions), Contender(FP64, exact)], repeat)
    hpl = times[FP64].median
    records = []
    for name, taken in times.items():
        info = found.get(name)
        records.append(
            {
                "benchmark": "hpl-mxp",
                "contender": name,
                "n": n,
                "gflops": flops(n) / taken.median / 1e9,
                **taken.record(),
                "fp64_over_this": hpl / taken.median,
                **(story(info) if info is not None else {}),
                "passed": info is not None and info.hpl_mxp_residual <= THRESHOLD,
            }
        )
    return records


@click.command("hpl-mxp")
@click.option("--n", "sizes", type=int, multiple=True, help="Matrix size; repeat for several.  [default: 4096]")
@click.option(
    "--precision",
    "precisions",
    type=click.Choice(PRECISIONS),
    multiple=True,
    help="Of the factor; repeat for several.  [default: all]",
)
@click.option("--refine", type=click.Choice(FOR_GENERAL), default="gmres", show_default=True)
@click.option("--workers", type=click.IntRange(min=1), help="Workers.  [default: the cores]")
@options.repeat(3)
@options.output
@options.as_json
def command(
    sizes: tuple[int, ...],
    precisions: tuple[str, ...],
    refine: str,
    workers: int | None,
    repeat: int,
    output: Path | None,
    as_json: bool,
) -> None:
    """The HPL-MxP benchmark: low-precision LU without pivoting, refined to FP64; alternating, medians."""
    for n in sizes or (4096,):
        records = measure(n, repeat, precisions or PRECISIONS, refine, workers)
        record.append(output, records)
        columns = {
            "seconds": "median",
            "GFLOP/s": "gflops",
            "FP64 / this": "fp64_over_this",
            "path": "path",
            "residual (<= 16)": "hpl",
            "passed": "passed",
        }
        table.show(f"HPL-MxP, n = {n}", "contender", columns, records, as_json=as_json)
