"""`tilewright bench qr`: our QR beside SciPy, torch and Dask, and beside the best product of matrices, in one run."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import scipy.linalg

import tilewright as tw
from tilewright.benchmarks import options, record, table
from tilewright.benchmarks.ceiling import SIZE, dgemm, threaded_libraries
from tilewright.benchmarks.timing import Contender, alternate
from tilewright.kernels.threads import limits

__all__ = ["command", "measure", "measure_tall"]

SIZES = (1024, 2048, 4096)
OURS = "tilewright"


def contenders(a: np.ndarray, **options: Any) -> Iterator[Contender]:
    """Everything that finds R of the square matrix ``a``, which lies by columns."""
    yield Contender(OURS, lambda: tw.qr(a, mode="r", **options))
    yield Contender("tilewright qr_factor", lambda: tw.qr_factor(a, **options))
    yield Contender("scipy", lambda: scipy.linalg.qr(a, mode="r"))
    if importlib.util.find_spec("torch"):
        import torch

        tensor = torch.from_numpy(a.T).T
        yield Contender("torch geqrf", lambda: torch.geqrf(tensor))
    for library in threaded_libraries():
        yield dgemm(library, min(SIZE, max(len(a), 512)))


def tall_contenders(a: np.ndarray, *, dask: bool = True, **options: Any) -> Iterator[Contender]:
    """Everything that finds Q and R of the tall matrix ``a``."""
    yield Contender(OURS, lambda: tw.qr(a, mode="economic", **options))
    yield Contender("numpy", lambda: np.linalg.qr(a))
    if importlib.util.find_spec("torch"):
        import torch

        tensor = torch.from_numpy(a)
        yield Contender("torch", lambda: torch.linalg.qr(tensor))
    if dask and importlib.util.find_spec("dask"):
        yield Contender("dask tsqr", _dask(a))


def _dask(a: np.ndarray) -> Callable[[], Any]:
    """`dask.array.linalg.tsqr` on threads; BLAS on one thread each."""
    import dask
    import dask.array as da

    graph = da.linalg.tsqr(da.from_array(a, chunks=(max(len(a) // 16, a.shape[1]), a.shape[1])))

    def compute() -> Any:
        with limits(functions=True):
            return dask.compute(*graph, scheduler="threads")

    return compute


def measure(n: int, repeat: int, **options: Any) -> list[dict[str, Any]]:
    """Records of all contenders at one size: seconds, GFLOP/s, the ratio of our speed to theirs, share of dgemm."""
    a = np.asfortranarray(np.random.default_rng(0).standard_normal((n, n)))
    factor = tw.qr_factor(a, **options)
    times = alternate(contenders(a, **options), repeat)
    size = min(SIZE, max(n, 512))
    ceilings = [2.0 * size**3 / taken.median / 1e9 for name, taken in times.items() if name.startswith("dgemm")]
    ours = times[OURS].median
    records = []
    for name, taken in times.items():
        ceiling = name.startswith("dgemm")
        rate = (2.0 * size**3 if ceiling else 4 / 3 * n**3) / taken.median / 1e9
        records.append(
            {
                "benchmark": "qr",
                "contender": name,
                "m": n,
                "n": n,
                "dtype": "float64",
                "tile_size": factor.tile_size,
                "tree": str(factor.tree),
                "gflops": rate,
                **taken.record(),
                "share": rate / max(ceilings) if ceilings else None,
                "ours_over_this": None if ceiling else taken.median / ours,
            }
        )
    return records


def measure_tall(m: int, n: int, repeat: int, **options: Any) -> list[dict[str, Any]]:
    """The same for Q and R of a tall matrix, by rows."""
    a = np.random.default_rng(0).standard_normal((m, n))
    times = alternate(tall_contenders(a, dask=m >= 10_000, **options), repeat)
    ours = times[OURS].median
    return [
        {
            "benchmark": "qr",
            "contender": name,
            "m": m,
            "n": n,
            "dtype": "float64",
            "gflops": (4.0 * m * n**2 - 4 / 3 * n**3) / taken.median / 1e9,
            **taken.record(),
            "ours_over_this": taken.median / ours,
        }
        for name, taken in times.items()
    ]


@click.command("qr")
@click.option("--n", "sizes", type=int, multiple=True, help="Matrix size; repeat for several.  [default: 1024 to 4096]")
@click.option("--rows", type=int, help="Rows of a tall matrix of n columns, of which Q is wanted as well.")
@options.repeat(5)
@click.option("--tile-size", type=int, help="Tile size.  [default: chosen]")
@click.option("--tree", default="auto", show_default=True, help="Tree of eliminations.")
@options.output
@options.as_json
def command(
    sizes: tuple[int, ...],
    rows: int | None,
    repeat: int,
    tile_size: int | None,
    tree: str,
    output: Path | None,
    as_json: bool,
) -> None:
    """QR in FP64 on all cores, side by side, alternating, medians."""
    for n in sizes or SIZES:
        if rows is None:
            records = measure(n, repeat, tile_size=tile_size, tree=tree)
            title = f"n = {n}, tiles of {records[0]['tile_size']}, tree {records[0]['tree']}"
            columns = {"seconds": "median", "GFLOP/s": "gflops", "of dgemm": "share", "ours / this": "ours_over_this"}
        else:
            records = measure_tall(rows, n, repeat, tile_size=tile_size, tree=tree)
            title = f"{rows} x {n}, economic"
            columns = {"seconds": "median", "GFLOP/s": "gflops", "ours / this": "ours_over_this"}
        record.append(output, records)
        table.show(title, "contender", columns, records, as_json=as_json)
