"""`tilewright bench eig`: our eigenvalues and singular values beside those of SciPy, torch and Dask, in one run."""

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
from tilewright.benchmarks.timing import Contender, alternate
from tilewright.kernels.threads import limits

__all__ = ["command", "measure"]

SIZES = (1024, 2048)
OURS = "tilewright"
KINDS = ("eigvalsh", "eigh", "svdvals", "svd", "svd_lowrank")
_RANK = 50


def contenders(kind: str, a: np.ndarray, **how: Any) -> Iterator[Contender]:
    """Everything that finds these values or vectors of ``a``, Hermitian for the first two kinds."""
    if kind == "svd_lowrank":
        yield Contender(OURS, lambda: tw.svd_lowrank(a, min(_RANK, len(a)), **how))
        if importlib.util.find_spec("dask") and len(a) >= 1024:
            yield Contender("dask svd_compressed", _dask(a))
        return
    ours: dict[str, Callable[[], Any]] = {
        "eigvalsh": lambda: tw.eigvalsh(a, **how),
        "eigh": lambda: tw.eigh(a, **how),
        "svdvals": lambda: tw.svdvals(a, **how),
        "svd": lambda: tw.svd(a, **how),
    }
    scipys: dict[str, Callable[[], Any]] = {
        "eigvalsh": lambda: scipy.linalg.eigvalsh(a),
        "eigh": lambda: scipy.linalg.eigh(a),
        "svdvals": lambda: scipy.linalg.svdvals(a),
        "svd": lambda: scipy.linalg.svd(a),
    }
    yield Contender(OURS, ours[kind])
    yield Contender("scipy", scipys[kind])
    if importlib.util.find_spec("torch"):
        import torch

        tensor = torch.from_numpy(np.ascontiguousarray(a))
        name = {"svd": "svd", "svdvals": "svdvals", "eigh": "eigh", "eigvalsh": "eigvalsh"}[kind]
        yield Contender("torch", lambda: getattr(torch.linalg, name)(tensor))


def _dask(a: np.ndarray) -> Callable[[], Any]:
    """`dask.array.linalg.svd_compressed` with as many power iterations; BLAS on one thread each."""
    import dask.array as da

    lazy = da.linalg.svd_compressed(
        da.from_array(a, chunks=min(1024, len(a))), min(_RANK, len(a)), n_power_iter=2, seed=0
    )

    def compute() -> Any:
        import dask

        with limits(functions=True):
            return dask.compute(*lazy, scheduler="threads")

    return compute


def measure(kind: str, n: int, repeat: int, **how: Any) -> list[dict[str, Any]]:
    """Records of all contenders: seconds, the ratio of our speed to theirs, and the error of our values."""
    rng = np.random.default_rng(0)
    a = rng.standard_normal((n, n))
    a = a + a.T if kind in ("eigvalsh", "eigh") else a
    times = alternate(contenders(kind, a, **how), repeat)
    ours = times[OURS].median
    return [
        {
            "benchmark": "eig",
            "kind": kind,
            "contender": name,
            "n": n,
            "dtype": "float64",
            **taken.record(),
            "ours_over_this": taken.median / ours,
        }
        for name, taken in times.items()
    ]


@click.command("eig")
@click.option("--n", "sizes", type=int, multiple=True, help="Matrix size; repeat for several.  [default: 1024, 2048]")
@click.option("--kind", "kinds", type=click.Choice(KINDS), multiple=True, help="What to find.  [default: all]")
@options.repeat(3)
@click.option("--tile-size", type=int, help="Tile size.  [default: chosen]")
@options.output
@options.as_json
def command(
    sizes: tuple[int, ...],
    kinds: tuple[str, ...],
    repeat: int,
    tile_size: int | None,
    output: Path | None,
    as_json: bool,
) -> None:
    """Eigenvalues, eigenvectors and singular values in FP64 on all cores, side by side, alternating, medians."""
    for kind in kinds or KINDS:
        for n in sizes or SIZES:
            records = measure(kind, n, repeat, tile_size=tile_size)
            record.append(output, records)
            columns = {"seconds": "median", "ours / this": "ours_over_this"}
            table.show(f"{kind}, n = {n}", "contender", columns, records, as_json=as_json)
