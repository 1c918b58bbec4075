"""`tilewright bench gemm`: rates of every format and route by tile size, and the share a factorisation reaches."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np

from tilewright.benchmarks import options, record, table
from tilewright.benchmarks.timing import Contender, Times, alternate
from tilewright.engine import run
from tilewright.host.cores import cores
from tilewright.kernels import choice, products
from tilewright.kernels.narrow import split, to_bf16, widen
from tilewright.kernels.table import dtype_name, lookup
from tilewright.kernels.threads import one_thread
from tilewright.linalg.arena import copies
from tilewright.linalg.cholesky import cholesky_graph
from tilewright.linalg.factor import mixed_factor
from tilewright.linalg.tuning import mixed_tile_size
from tilewright.passes.conversions import with_conversions
from tilewright.precision import FORMATS, PrecisionMap
from tilewright.tiles import TiledMatrix

__all__ = ["command", "factor_contenders", "measure", "routes_here"]

TILES = (256, 512, 1024, 2048)
DEVICE_TILES = (2048, 4096, 8192)
SECONDS = 0.02
"""What one measurement takes, about."""

_MOST = 300  # repetitions
_GUESS = {"fp64": 8e10, "fp32": 1.6e11, "tf32": 1.6e11, "bf16x3": 1e11}  # flop/s of a core, to choose repetitions


def routes_here() -> Iterator[tuple[str, str]]:
    """(precision, route) of every gemm that this machine has; the route is "" for FP64 and FP32."""
    yield from (("fp64", ""), ("fp32", ""))
    for name in ("bf16", "bf16x3", "fp16"):
        for route in products.probe(FORMATS[name].storage):
            if route.name != "reference" and not route.reason:
                yield name, route.name


def _operand(form: str, route: str, n: int) -> np.ndarray:
    """As products by this route find it: what is widened is so by a task, once."""
    narrow = _narrow(form, n)
    if route != "widen":
        return narrow
    wide = np.empty((3, n, n) if narrow.ndim == 3 else (n, n), np.float32)
    widen(narrow, wide)
    return wide


def _narrow(form: str, n: int) -> np.ndarray:
    x = np.random.default_rng(n).standard_normal((n, n)).astype(np.float32)
    if form == "bfloat16x2":
        two = np.empty((2, n, n), np.uint16)
        split(x, two)
        return two
    if form == "bfloat16":
        one = np.empty((n, n), np.uint16)
        to_bf16(x, one)
        return one
    return x.astype(form)


def _gemm(precision: str, route: str, tile: int, workers: int) -> tuple[Callable[[], None], float]:
    """A call that lets every worker update tiles of its own, and its flops."""
    form, into = FORMATS[precision].storage, FORMATS[precision].accumulate
    storage = dtype_name(_operand(form, route, 1))
    kernel = lookup("gemm", "cpu", storage, into, f"{form}/{route}" if route else "").function
    repeat = min(max(1, round(SECONDS * _GUESS.get(precision, 3e11) / (2.0 * tile**3))), _MOST)
    data = [
        (_operand(form, route, tile), _operand(form, route, tile), np.zeros((tile, tile), into)) for _ in range(workers)
    ]

    def work(worker: int) -> None:
        with one_thread():
            for _ in range(repeat):
                kernel(*data[worker])

    def together() -> None:
        threads = [threading.Thread(target=work, args=(worker,)) for worker in range(workers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    return together, 2.0 * tile**3 * repeat * workers


def covariance(n: int) -> np.ndarray:
    """exp(-16 |i - j| / n) plus 1 on the diagonal: positive definite, made in O(n^2), no number near underflow."""
    decay = np.exp(-16.0 * np.arange(n) / n)
    i = np.arange(n, dtype=np.int32)
    a = decay[np.abs(i[:, None] - i)]
    a[i, i] += 1.0
    return a


def factor_contenders(n: int, precision: str, tile_size: int | None, workers: int) -> tuple[list[Contender], int]:
    """The factorisation alone, in place on a scaled matrix in FP32; the whole `mixed_factor`; and the tile size.

    The first also with operands that are widened, and in FP32: what those two reach on a CPU without 16-bit products.
    """
    nb = tile_size or mixed_tile_size(n, workers)
    a = covariance(n)
    scaled = (a / 2.0).astype(np.float32)  # its diagonal is 2
    L = np.empty_like(scaled)
    whole = TiledMatrix.view(L, nb)

    def in_place(name: str, precision: str, route: str | None = None) -> Contender:
        graph = with_conversions(
            cholesky_graph(whole.nt),
            PrecisionMap.uniform(whole.nt, precision),
            lambda form: products.route(form, route).name,
        )
        data = {"A": whole, **copies(graph, whole)}
        return Contender(name, lambda: run(graph, data, workers=workers), partial(np.copyto, L, scaled))

    form = FORMATS[precision].storage
    also = [in_place(f"factor {precision} widen", precision, "widen")] if form in products.FORMS else []
    also = [] if also and products.route(form).name == "widen" else also
    return [
        in_place(f"factor {precision}", precision),
        *also,
        *([in_place("factor fp32", "fp32")] if precision != "fp32" else []),
        Contender(
            f"mixed_factor {precision}", lambda: mixed_factor(a, precision, tile_size=nb, workers=workers, shift=0.0)
        ),
    ], nb


def measure(
    n: int, repeat: int, tiles: tuple[int, ...], tile_size: int | None, workers: int, precision: str = "bf16"
) -> list[dict[str, Any]]:
    """Records of all gemms and, with n > 0, of the factorisation, with its share of the fastest gemm of its format."""
    contenders: list[Contender] = []
    flops: dict[str, float] = {}
    facts: dict[str, dict[str, Any]] = {}
    for name, route in routes_here():
        for tile in tiles:
            label = f"{name} {route} {tile}".replace("  ", " ")
            call, flops[label] = _gemm(name, route, tile, workers)
            contenders.append(Contender(label, call))
            facts[label] = {"precision": name, "route": route or choice.current().name, "tile_size": tile}
    if n:
        factors, nb = factor_contenders(n, precision, tile_size, workers)
        # the factorisation between two looks at its ceiling, as this moves on a shared machine
        contenders += factors
        for contender in factors:
            flops[contender.name] = n**3 / 3
            fp32 = contender.name == "factor fp32"
            facts[contender.name] = {"precision": "fp32" if fp32 else precision, "route": "", "tile_size": nb, "n": n}
    times = alternate(contenders, repeat)
    records = [
        {
            "benchmark": "gemm",
            "contender": label,
            **facts[label],
            "workers": workers,
            "gflops": flops[label] / taken.median / 1e9,
            **taken.record(),
            "share": None,
        }
        for label, taken in times.items()
    ]
    if n:
        _add_shares(records, times, flops)
    return records


def _add_shares(records: list[dict[str, Any]], times: dict[str, Times], flops: dict[str, float]) -> None:
    """For each factorisation the median over rounds of its rate over the best gemm rate of the same round."""
    for entry in records:
        if "n" in entry:
            gemms = [r["contender"] for r in records if r["precision"] == entry["precision"] and "n" not in r]
            label = entry["contender"]
            shares = [
                flops[label] / seconds / max(flops[g] / times[g].seconds[turn] for g in gemms)
                for turn, seconds in enumerate(times[label].seconds)
            ]
            entry["share"] = float(np.median(shares))


@click.command("gemm")
@click.option("--n", default=8192, show_default=True, help="Size of the matrix to factor; 0 for gemm alone.")
@click.option("--tile", "tiles", type=int, multiple=True, help="Tile of the products; repeat.  [default: 256 to 2048]")
@click.option("--tile-size", type=int, help="Tile size of the factorisation.  [default: chosen]")
@click.option("--precision", type=click.Choice([*FORMATS]), default="bf16", show_default=True, help="Of the factor.")
@click.option("--workers", type=int, help="Workers.  [default: all cores]")
@click.option("--device", help="cuda, cuda:1: products and factorisations there, beside torch's.  [default: the CPU]")
@options.repeat(5)
@options.output
@options.as_json
def command(
    n: int,
    tiles: tuple[int, ...],
    tile_size: int | None,
    precision: str,
    workers: int | None,
    repeat: int,
    device: str | None,
    output: Path | None,
    as_json: bool,
) -> None:
    """Tile products in every format by every route, one thread per worker; and a factorisation beside them."""
    if device is not None:
        from tilewright.benchmarks.device import measure_factors

        records = measure_factors(n, repeat, tiles or DEVICE_TILES, tile_size, precision, device)
        record.append(output, records)
        columns = {
            "n": "n",
            "tile": "tile_size",
            "seconds": "median",
            "GFLOP/s": "gflops",
            "of the product": "share",
            "torch / this": "over_torch",
            "Python": "python",
        }
        where = records[0]["where"]
        title = ", ".join(f"{key} {where[key]}" for key in ("name", "torch", "cuda", "driver") if where.get(key))
        table.show(title, "contender", columns, records, as_json=as_json)
        return
    workers = workers or cores()
    records = measure(n, repeat, tiles or TILES, tile_size, workers, precision)
    record.append(output, records)
    columns = {"tile": "tile_size", "seconds": "median", "GFLOP/s": "gflops", "of the gemm ceiling": "share"}
    table.show(f"{workers} workers", "contender", columns, records, as_json=as_json)
    if not as_json:
        for name in ("bf16", "fp16"):
            for route in products.probe(FORMATS[name].storage):
                if route.reason:
                    click.echo(f"{name} {route.name}: {route.reason}")
        click.echo("tf32: on a CPU, operands rounded to 11 bits by a task and the FP32 product")
