"""``tilewright bench matvec``: dense products on two ranks beside NumPy and the bandwidth of the memory.

A product reads the matrix once and does two flops a word, so memory decides. The bound is the time that a copy on all
cores, n^2 words read and n^2 written, needs for half of its traffic. Some memories carry reads and writes side by side,
so that no program that only reads comes near; the maximum of A, taken on all cores, shows what reading alone costs. All
contenders alternate in one run. A product of order 64 shows what a call costs where there is next to nothing to read.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np

import tilewright as tw
from tilewright.benchmarks import options, record, table
from tilewright.benchmarks.timing import Contender, alternate
from tilewright.host.cores import cores

__all__ = ["command", "overhead", "rates"]


def rates(n: int, ranks: int, repeat: int, dtype: str = "float64") -> list[dict[str, Any]]:
    """Resident operators, NumPy and the copy, medians."""
    A = np.random.default_rng(0).standard_normal((n, n)).astype(dtype)
    x = np.ones(n, dtype)
    target = np.empty_like(A)
    parts = [slice(n * k // cores(), n * (k + 1) // cores()) for k in range(cores())]
    grid = {"rows": (ranks, 1), "columns": (1, ranks)}
    with tw.mpi.Pool(ranks) as pool, ThreadPoolExecutor(cores()) as crew:
        operators = {
            f"{layout}, {ranks} ranks": tw.DenseOperator(A, "grid", grid=shape, backend="mpi", pool=pool)
            for layout, shape in grid.items()
        }
        transposed = operators[f"rows, {ranks} ranks"]
        contenders = [Contender(name, partial(op.matvec, x)) for name, op in operators.items()]
        contenders += [
            Contender(f"rows transposed, {ranks} ranks", lambda: transposed.T @ x),
            Contender("numpy @", lambda: A @ x),
            Contender("read only: the maximum of A", lambda: list(crew.map(lambda part: A[part].max(), parts))),
            Contender("copy", lambda: list(crew.map(lambda part: np.copyto(target[part], A[part]), parts))),
        ]
        times = alternate(contenders, repeat)
        for operator in operators.values():
            operator.close()
    bound, reading = times["copy"].median / 2, times["read only: the maximum of A"].median
    return [
        {
            "benchmark": "matvec", "contender": name, "n": n, "dtype": dtype, "ranks": ranks, **taken.record(),
            "milliseconds": taken.median * 1e3, "gigabytes_per_second": A.nbytes / taken.median / 1e9,
            "of_bound": bound / taken.median, "of_reading": reading / taken.median,
            "of_numpy": times["numpy @"].median / taken.median,
        }
        for name, taken in times.items() if name != "copy"
    ] + [
        {
            "benchmark": "matvec", "contender": "bound: half a copy", "n": n, "dtype": dtype, "ranks": ranks,
            "median": bound, "milliseconds": bound * 1e3, "gigabytes_per_second": A.nbytes / bound / 1e9,
            "of_bound": 1.0, "of_reading": reading / bound, "of_numpy": times["numpy @"].median / bound,
        }
    ]  # fmt: skip


def overhead(ranks: int, repeat: int) -> list[dict[str, Any]]:
    """Microseconds of a product of order 64, 100 at a time, beside a call of the general engine."""
    A, x = np.eye(64), np.ones(64)
    graph = tw.comm.broadcast(ranks, 64, "tree")
    data = {"x": [np.ones(64) for _ in range(ranks)]}
    with tw.mpi.Pool(ranks) as pool:
        operator = tw.DenseOperator(A, ranks=ranks, backend="mpi", pool=pool)
        times = alternate(
            [
                Contender("op @ x, n = 64", lambda: [operator @ x for _ in range(100)]),
                Contender(
                    "tw.run of a broadcast",
                    lambda: [tw.run(graph, data, backend="mpi", pool=pool, workers=ranks) for _ in range(100)],
                    repeat=2,
                ),
            ],
            repeat,
        )
    return [
        {
            "benchmark": "matvec overhead",
            "what": name,
            "ranks": ranks,
            "microseconds": taken.median * 1e4,
            **taken.record(),
        }
        for name, taken in times.items()
    ]


@click.command("matvec")
@click.option("--n", default=8192, show_default=True, help="Order of the matrix.")
@click.option("--ranks", default=2, show_default=True, help="Ranks.")
@options.repeat(11)
@click.option("--dtype", type=click.Choice(["float32", "float64"]), default="float64", show_default=True)
@options.output
@options.as_json
def command(n: int, ranks: int, repeat: int, dtype: str, output: Path | None, as_json: bool) -> None:
    """Dense products on two ranks beside NumPy and the copy bandwidth."""
    products, calls = rates(n, ranks, repeat, dtype), overhead(ranks, min(repeat, 5))
    record.append(output, [*products, *calls])
    table.show(
        f"y = A x, n = {n}, {dtype}, medians of {repeat}",
        "contender",
        {
            "ms": "milliseconds",
            "GB/s": "gigabytes_per_second",
            "of the bound": "of_bound",
            "of reading": "of_reading",
            "of numpy": "of_numpy",
        },
        products,
        as_json=as_json,
    )
    table.show("cost of a call", "what", {"us": "microseconds"}, calls, as_json=as_json)
