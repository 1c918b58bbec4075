"""The libraries against each other, op by op, on this computer: what ``tilewright calibrate --blas`` does."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from time import perf_counter
from typing import NamedTuple

import numpy as np

from tilewright.kernels import blas, choice, cpu, steady, table
from tilewright.kernels.catalogue import TILE_OPS
from tilewright.kernels.threads import limits, one_thread

__all__ = ["Entry", "contest", "winners"]

TILE_SIZE = 384
MARGIN = 1.03
"""How many times as fast another library has to be before it takes an op over from that of the rules."""


class Entry(NamedTuple):
    """How fast a library is in an op, on one thread."""

    op: str
    letter: str
    library: str
    gflops: float
    """Real-arithmetic GFLOP/s, the median."""


def contest(
    letters: Iterable[str] = choice.LETTERS,
    *,
    tile_size: int = TILE_SIZE,
    repeat: int = 9,
    progress: Callable[[str], object] | None = None,
) -> list[Entry]:
    """Time every tile kernel of every library that is here, in turns, on tiles of a row-major matrix.

    Kernels that need it work on copies (`tilewright.kernels.steady`), as they would in a run. About 10 s for two
    libraries with the defaults.

    Parameters
    ----------
    letters
        BLAS letters of the dtypes, of "sdcz".
    tile_size
        Rows of a tile.
    repeat
        Turns; the median counts.
    progress
        Called with a line before each op.
    """
    libraries = [found for found in blas.available().values() if isinstance(found, blas.Library)]
    found: list[Entry] = []
    for op in steady.OPERANDS:
        for letter in letters:
            if progress is not None:
                progress(f"{letter}{op}")
            found += _turns(op, letter, libraries, tile_size, repeat)
    return found


def _turns(op: str, letter: str, libraries: list[blas.Library], nb: int, repeat: int) -> list[Entry]:
    dtype = next(name for name, short in table.DTYPES.items() if short == letter)
    tile_op = TILE_OPS[op]
    columns = tile_op.columns or nb
    rng = np.random.default_rng(0)
    specs = list(steady.OPERANDS[op](nb, columns, nb))
    values = [steady.numbers(dtype, rng, shape, kind) for _, shape, kind in specs]
    height = max(map(len, values)) + 8 * tile_op.by_columns
    whole = np.zeros((height, nb * len(specs) + 8), dtype, "F" if tile_op.by_columns else "C")
    tiles = [whole[: v.shape[0], k * nb : k * nb + v.shape[1]] for k, v in enumerate(values)]
    kernels = {}
    for library in libraries:
        build = tile_op.build
        function = None if build is None else build(library, letter)
        if function is not None:
            kernels[library.name] = steady.steady(function, library.name, op, dtype, dtype)
    arguments = tile_op.called(*tiles)
    seconds: dict[str, list[float]] = {name: [] for name in kernels}
    with limits(False), one_thread():
        for turn in range(repeat + 1):
            for name, kernel in kernels.items():
                for tile, value in zip(tiles, values, strict=True):
                    tile[...] = value
                began = perf_counter()
                kernel(*arguments)
                if turn:  # the first warms up
                    seconds[name].append(perf_counter() - began)
    flops = tile_op.flops(*tile_op.called(*(shape for _, shape, _ in specs))) * (4 if letter in "cz" else 1)
    return [Entry(op, letter, name, flops / statistics.median(taken) / 1e9) for name, taken in seconds.items()]


def winners(entries: list[Entry]) -> dict[str, str]:
    """Library by letter and op where one is more than `MARGIN` times as fast as that of the rules here."""
    rates = {(e.op, e.letter, e.library): e.gflops for e in entries}
    found = {}
    for op, letter in dict.fromkeys((e.op, e.letter) for e in entries):
        here = {name: rate for (*place, name), rate in rates.items() if place == [op, letter]}
        ruled = next((name for name in choice.rule(op, letter, cpu.vendor()).order if name in here), None)
        best = max(here, key=here.__getitem__)
        if ruled is None or here[best] > MARGIN * here[ruled]:
            found[f"{letter}{op}"] = best
            if op == "hemm":
                found[f"{letter}hemmd"] = best
    return found
