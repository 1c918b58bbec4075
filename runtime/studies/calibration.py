"""Measure this computer: seconds per kernel and tile size, overhead per task, alpha and beta of its memory.

Kernels are timed where they will run: in a Cholesky factorisation on all workers, with strided tiles, real caches
and neighbours that compete for memory, not one by one on an idle machine. What counts is the median over the repeats
of the mean in each [1]_: sums are predicted, so tasks that take longer now and then belong to the mean, while a
repeat in a busy second must not spoil the model. Repeats go in turns over the tile sizes.

.. [1] "Median of means": G. Lugosi and S. Mendelson, Mean estimation and regression under heavy-tailed
   distributions: a survey, Foundations of Computational Mathematics 19 (2019).
"""

from __future__ import annotations

import hashlib
import json
import platform
import statistics
import warnings
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tilewright.host.cache import folder
from tilewright.host.cores import cores
from tilewright.kernels import choice
from tilewright.kernels.cpu import model
from tilewright.kernels.threads import limits, one_thread
from tilewright.machine import Machine
from tilewright.rates import copy_cost, median_seconds
from tilewright.runs.trace import Trace

__all__ = ["cache_path", "calibrate", "drift", "gaps", "inliers"]

TILE_SIZES = (128, 256, 384, 512)
_ORDER = 3072  # rows of the matrix that kernels are timed in, about: one footprint, larger than caches, for all tiles
_TILES = 24  # most tiles a side of it
_DRIFT = 1.5


def calibrate(
    *,
    workers: int | None = None,
    tile_sizes: Sequence[int] = TILE_SIZES,
    repeat: int = 5,
    dtype: str = "float64",
    alpha: float | None = None,
    beta: float | None = None,
    path: str | Path | None = None,
    refresh: bool = False,
) -> Machine:
    """This computer as a `Machine`, from disk where it was measured before.

    Parameters
    ----------
    workers
        Workers that run at the same time while kernels are timed; by default one per core.
    tile_sizes
        Rows of a tile, nb; the matrices have 6 to 24 tiles a side and about 3072 rows.
    repeat
        Pairs of factorisations per tile size, into a fresh matrix and in place, after one pair to warm up.
    dtype
        That of the tiles.
    alpha, beta
        Seconds per message and per word; by default those of a copy in memory, the best a rank on this computer
        could do.
    path
        Where the JSON lies; by default in the user's cache folder, one file per computer, BLAS, dtype and
        arguments. The environment variable ``TILEWRIGHT_CACHE`` names another folder.
    refresh
        Measure again, whatever there is on disk.

    Returns
    -------
    Machine
        ``durations`` of every kernel by tile size, ``gamma`` for other ops at the rate of the largest gemm,
        ``overhead`` per task.

    Warns
    -----
    RuntimeWarning
        The machine is from disk, and gemm now takes 1.5 times as long or short. What is on disk is damaged or was
        written by a newer version, so this computer is measured again. Nothing can be written there.

    Notes
    -----
    Takes about 7 s for the default sizes on two cores; 1/20 s from disk.
    """
    workers = workers or cores()
    file = Path(path) if path is not None else cache_path(workers, tile_sizes, repeat, dtype)
    machine = None if refresh else _kept(file)
    if machine is not None:
        change = drift(machine, dtype)
        if not 1 / _DRIFT < change < _DRIFT:
            warnings.warn(
                f"gemm takes {change:.2f} times as long as when {file} was written: the computer is busy, throttled "
                "or changed; refresh=True measures again",
                RuntimeWarning,
                stacklevel=2,
            )
    else:
        machine = _measure(workers, tile_sizes, repeat, dtype)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            machine.to_json(file)
        except OSError as error:
            warnings.warn(
                f"what was measured is not kept for the next time ({error}); TILEWRIGHT_CACHE names another folder",
                RuntimeWarning,
                stacklevel=2,
            )
    if alpha is not None:
        machine = machine.replace(alpha=alpha)
    return machine if beta is None else machine.replace(beta=beta)


def _kept(file: Path) -> Machine | None:
    """The machine that was measured before; None, with a warning where a file is of no use, if there is none."""
    try:
        machine = Machine.from_json(file)
        if "gemm" not in machine.durations:
            raise ValueError(f"{file} has no time of gemm")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        warnings.warn(f"measuring again: {error}", RuntimeWarning, stacklevel=3)
        return None
    return machine


def cache_path(workers: int, tile_sizes: Sequence[int], repeat: int, dtype: str) -> Path:
    """The file for these arguments on this computer with the BLAS in use."""
    what = [platform.node(), model(), str(choice.choice()), workers, list(tile_sizes), repeat, dtype]
    digest = hashlib.sha256(json.dumps(what).encode()).hexdigest()[:16]
    return folder() / f"machine-{digest}.json"


# ---------------------------------------------------------------- measuring


def _measure(workers: int, tile_sizes: Sequence[int], repeat: int, dtype: str) -> Machine:
    from tilewright.linalg.factor import tiled_cholesky

    orders = {nb: nb * max(6, min(_TILES, round(_ORDER / nb))) for nb in tile_sizes}
    matrices = {n: _spd(n, dtype) for n in dict.fromkeys(orders.values())}
    means: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))  # op, tile size: one per repeat
    overheads: list[float] = []
    for attempt in range(repeat + 1):
        for nb, n in orders.items():
            a = matrices[n]
            seconds: dict[str, list[float]] = defaultdict(list)
            idle: list[float] = []
            # Twice: into a fresh matrix, which has copies, and in place, which has tiles to clear.
            for target in (a, a.copy()):
                _, run = tiled_cholesky(
                    target,
                    tile_size=nb,
                    workers=workers,
                    overwrite_a=target is not a,
                    check_finite=False,
                    return_run=True,
                )
                for record in run.trace:
                    seconds[run.graph.tasks[record.task].op.name].append(record.duration)
                idle += gaps(run.trace)
                del _, run  # and the factor: the next one finds its pages
            if attempt:  # the first warms up
                for op, samples in seconds.items():
                    means[op][nb].append(statistics.fmean(samples))
                overheads.append(statistics.fmean(inliers(idle)) if idle else 0.0)
    durations = {op: {nb: statistics.median(found) for nb, found in sizes.items()} for op, sizes in means.items()}
    alpha, beta = copy_cost()
    largest = max(tile_sizes)
    gamma = durations["gemm"][largest] / (2 * largest**3)
    return Machine(
        workers=workers,
        alpha=alpha,
        beta=beta,
        gamma=gamma,
        tile_size=largest,
        durations=durations,
        overhead=statistics.median(overheads),
        device_alpha=alpha,
        device_beta=beta,
    )


def inliers(samples: Sequence[float]) -> list[float]:
    """The samples within 5 robust standard deviations (1.4826 times the median absolute deviation) of the median."""
    if not samples:
        return []
    middle = statistics.median(samples)
    spread = 5 * 1.4826 * statistics.median(abs(sample - middle) for sample in samples)
    return [sample for sample in samples if abs(sample - middle) <= spread]


def gaps(trace: Trace) -> list[float]:
    """Seconds between two tasks of a worker where the second was ready before the first ended."""
    end = {record.task: record.end for record in trace}
    last: dict[tuple[int, int], float] = {}
    found = []
    for record in trace:
        place = record.rank, record.worker
        before = last.get(place)
        last[place] = record.end
        ready = max((end[p] for p in trace.graph.tasks[record.task].predecessors), default=0.0)
        if before is not None and ready < before:
            found.append(record.start - before)
    return found


def drift(machine: Machine, dtype: str = "float64") -> float:
    """How many times as long as ``machine`` says a gemm takes now, at the smallest tile size it knows."""
    from tilewright.kernels import table

    sizes = machine.durations["gemm"]
    if isinstance(sizes, int | float):
        nb, expected = machine.tile_size, float(sizes)
    else:
        nb = min(sizes)
        expected = sizes[nb]
    kernel = table.lookup("gemm", "cpu", dtype, dtype).function
    a, b, c = (np.ones((nb, nb), dtype) for _ in range(3))
    with limits(False), one_thread():
        return median_seconds(lambda: kernel(a, b, c), 15) / expected


def _spd(n: int, dtype: str) -> np.ndarray:
    """A symmetric positive definite matrix in O(n^2): diagonally dominant."""
    a = np.random.default_rng(0).standard_normal((n, n)).astype(dtype)
    a += a.conj().T.copy()
    a[np.diag_indices(n)] += 4 * n
    return a
