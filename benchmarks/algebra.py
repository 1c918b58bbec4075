"""`tilewright bench algebra`: products, inverses and systems of tiles beside NumPy and SciPy, in one run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import scipy.linalg

import tilewright as tw
from tilewright.benchmarks import options, record, table
from tilewright.benchmarks.timing import Contender, alternate

__all__ = ["command", "measure"]

SIZES = (1024, 4096)
RIGHT_HAND_SIDES = 1000

Calls = tuple[Callable[[], Any], Callable[[], Any], float]


def routines(a: np.ndarray, b: np.ndarray, **options: Any) -> dict[str, Calls]:
    """(ours, theirs, flops) by what is computed. ``options`` are of `tilewright.compute`."""
    n, k = b.shape
    A = tw.lazy(a)
    return {
        "A @ A": (lambda: (A @ A).compute(**options), lambda: a @ a, 2.0 * n**3),
        "A.T @ A": (lambda: (A.T @ A).compute(**options), lambda: a.T @ a, 1.0 * n**3),
        "inv": (lambda: tw.inv(a, **options), lambda: scipy.linalg.inv(a), 2.0 * n**3),
        "A.inv(), one graph": (lambda: A.inv().compute(**options), lambda: scipy.linalg.inv(a), 2.0 * n**3),
        f"solve, {k} columns": (lambda: tw.solve(a, b, assume_a="gen", **options),
                                lambda: scipy.linalg.solve(a, b, assume_a="gen"), 2 / 3 * n**3 + 2.0 * n**2 * k),
        f"A.solve, {k} columns, one graph": (lambda: A.solve(b).compute(**options),
                                             lambda: scipy.linalg.solve(a, b, assume_a="gen"),
                                             2 / 3 * n**3 + 2.0 * n**2 * k),
        "(A.T @ A).solve(A.T @ b)": (lambda: (A.T @ A).solve(A.T @ b, "pos").compute(**options),
                                     lambda: scipy.linalg.solve(a.T @ a, a.T @ b, assume_a="pos"),
                                     4 / 3 * n**3 + 4.0 * n**2 * k),
    }  # fmt: skip


def measure(n: int, repeat: int, **options: Any) -> list[dict[str, Any]]:
    """A record for each routine: our seconds and theirs, GFLOP/s, the ratio of our speed to theirs."""
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((n, n)), rng.standard_normal((n, min(RIGHT_HAND_SIDES, n)))
    records = []
    for name, (ours, theirs, flops) in routines(a, b, **options).items():
        times = alternate([Contender("ours", ours), Contender("theirs", theirs)], repeat)
        taken, other = times["ours"].median, times["theirs"].median
        records.append(
            {
                "benchmark": "algebra",
                "routine": name,
                "n": n,
                "dtype": "float64",
                "gflops": flops / taken / 1e9,
                **times["ours"].record(),
                "theirs": other,
                "ours_over_theirs": other / taken,
            }
        )
    return records


@click.command("algebra")
@click.option("--n", "sizes", type=int, multiple=True, help="Matrix size; repeat for several.  [default: 1024, 4096]")
@options.repeat(3)
@click.option("--tile-size", type=int, help="Tile size.  [default: chosen]")
@options.output
@options.as_json
def command(sizes: tuple[int, ...], repeat: int, tile_size: int | None, output: Path | None, as_json: bool) -> None:
    """Products, inverses and systems in FP64 on all cores beside NumPy and SciPy, alternating, medians."""
    for n in sizes or SIZES:
        records = measure(n, repeat, tile_size=tile_size)
        record.append(output, records)
        columns = {
            "seconds": "median",
            "GFLOP/s": "gflops",
            "NumPy, SciPy": "theirs",
            "ours / this": "ours_over_theirs",
        }
        table.show(f"n = {n}", "routine", columns, records, as_json=as_json)
