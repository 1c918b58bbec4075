"""How a factorisation by slabs fits into so much memory: widths, buffers, and what else the process grows by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tilewright.linalg.slabs import AHEAD, Slabs, cholesky_slabs, lu_slabs
from tilewright.units import nbytes

__all__ = ["MOVERS", "SlabPlan", "beside", "cholesky_plan", "lu_plan_in"]

MOVERS = 2
"""Threads that read and write beside those that compute."""

_TASK = 2000  # bytes of a task with its edges, its accesses, its places in policy and trace
_THREAD = 700_000  # bytes of a thread's stack, heap, caches and lines that are turned


@dataclass(frozen=True)
class SlabPlan:
    """Slabs, and the memory that they take.

    Attributes
    ----------
    slabs
        Those of the part that is left to do.
    width
        Block columns of the widest.
    data
        Bytes of buffers.
    beside
        Bytes of copies inside kernels, of threads, and of the graph itself.
    tasks
        Those of a run from the beginning, without a checkpoint; of an LU, of a matrix that lies by rows.
    """

    slabs: Slabs
    width: int
    data: int
    beside: int
    tasks: int

    @property
    def memory(self) -> int:
        """Bytes by which the process grows."""
        return self.data + self.beside


def cholesky_plan(n: int, nb: int, item: int, memory: int | None, workers: int, first: int = 0) -> SlabPlan:
    """The widest slabs of a Cholesky factorisation in ``memory`` bytes. MemoryError with the least that would do."""
    nt = -(-n // nb)
    full, ragged = nb * nb * item, (n % nb) * nb * item

    def fit(tiles: int) -> SlabPlan | None:
        found = cholesky_slabs(nt, first, tiles, n // nb)
        if found is None:
            return None
        slabs, whole = found
        width = max((s1 - s0 for s0, s1 in slabs.bounds), default=0)
        passing = sum((nt - s0) * -(-s0 // slabs.chunk) + (nt - s0) for s0, _ in slabs.bounds)
        tasks = nt * (nt + 1) * (nt + 2) // 6 + nt * (nt + 1) // 2 + passing + 2 * nt
        data = whole * full + (width + slabs.chunk + 1) * ragged
        return SlabPlan(slabs, width, data, beside(tasks, workers, full), tasks)

    most = nt * (nt + 1) // 2
    return _largest(
        fit, max(n // nb, 1), max(most, nt + 2 + AHEAD), memory, f"a Cholesky factorisation of order {n}", nb
    )


def lu_plan_in(
    shape: tuple[int, int], nb: int, item: int, memory: int | None, workers: int, first: int = 0
) -> SlabPlan:
    """The same for an LU factorisation, whose slabs are whole block columns."""
    m, n = shape
    mt, nt = -(-m // nb), -(-n // nb)
    full, column, last = nb * nb * item, m * nb * item, min(mt, nt)

    def fit(width: int, chunk: int) -> SlabPlan:
        slabs = lu_slabs(nt, first, width, chunk)
        passing = sum(-(-(mt - k) // chunk) for s0, _ in slabs.bounds for k in range(min(s0, last)))
        products = sum((mt - k) * (nt - 1 - k) for k in range(last))
        tasks = products + passing + mt * len(slabs.bounds) + mt * nt + 2 * last + max(last - 1, 0) + 3 * nt
        alone = len(slabs.bounds) <= 1 and not first
        data = width * column + m * (n % nb) * item + (0 if alone else (chunk * (1 + AHEAD) + 1) * full)
        norms = 8 * mt * nt * (2 * nb + 1)
        return SlabPlan(slabs, width, data, column + norms + beside(tasks, workers, 3 * full) + MOVERS * full, tasks)

    chunk = min(4, max(mt, 1))
    if memory is not None and fit(1, chunk).memory > memory:
        chunk = 1
    return _largest(lambda width: fit(width, chunk), 1, max(nt, 1), memory, f"an LU factorisation of {m} x {n}", nb)


def beside(tasks: int, workers: int, copies: int) -> int:
    """Bytes of a graph, of threads, and of what the kernels of each worker copy."""
    return tasks * _TASK + (workers + MOVERS) * _THREAD + workers * copies


def _largest(
    fit: Callable[[int], SlabPlan | None], least: int, most: int, memory: int | None, what: str, nb: int
) -> SlabPlan:
    """The plan of the largest size from ``least`` to ``most`` that fits."""
    while (smallest := fit(least)) is None:
        least += 1
    if memory is None:
        return fit(most) or smallest
    if smallest.memory > memory:
        raise MemoryError(
            f"memory={nbytes(memory)} is too little for {what} in tiles of {nb}: the least is "
            f"{nbytes(smallest.memory)}; a smaller tile_size needs less"
        )
    found, low, high = smallest, least, most + 1
    while high - low > 1:
        middle = (low + high) // 2
        plan = fit(middle)
        if plan is not None and plan.memory <= memory:
            low, found = middle, plan
        else:
            high = middle
    return found
