"""How a factorisation by slabs fits into so much memory: widths, buffers, and what else the process grows by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

from tilewright.linalg import blocks as by_blocks
from tilewright.linalg.slabs import AHEAD, Slabs, cholesky_slabs, lu_slabs
from tilewright.units import nbytes

__all__ = ["MOVERS", "SlabPlan", "beside", "cholesky_plan", "lu_plan_in", "too_little"]

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
    passing
        Tiles of what is finished that are read again, each as often as it is.
    """

    slabs: Slabs
    width: int
    data: int
    beside: int
    tasks: int
    passing: int

    @property
    def memory(self) -> int:
        """Bytes by which the process grows."""
        return self.data + self.beside


def cholesky_plan(n: int, nb: int, item: int, memory: int | None, workers: int, first: int = 0) -> SlabPlan:
    """The slabs of a Cholesky factorisation in ``memory`` bytes that read least: whole, or in blocks.

    Whole ones where both read as much. MemoryError with the least that would do.
    """
    nt = -(-n // nb)
    full, ragged = nb * nb * item, (n % nb) * nb * item

    def fit(tiles: int) -> SlabPlan | None:
        found = cholesky_slabs(nt, first, tiles, n // nb)
        if found is None:
            return None
        slabs, whole = found
        width = max((s1 - s0 for s0, s1 in slabs.bounds), default=0)
        loads = sum((nt - s0) * -(-s0 // slabs.chunk) + (nt - s0) for s0, _ in slabs.bounds)
        passing = sum(s0 * (nt - s0) for s0, _ in slabs.bounds)
        tasks = nt * (nt + 1) * (nt + 2) // 6 + nt * (nt + 1) + loads + nt
        data = whole * full + (width + slabs.chunk + 1) * ragged
        return SlabPlan(slabs, width, data, beside(tasks, workers, full), tasks, passing)

    def blocks(width: int) -> SlabPlan:
        slabs = by_blocks.cholesky_blocks(nt, first, width)
        used = width**2 + slabs.chunk * (width + 1)
        data = (used + by_blocks.spare(slabs)) * full + (width + slabs.chunk + 1) * ragged
        tasks = by_blocks.tasks(nt, slabs)
        return SlabPlan(slabs, width, data, beside(tasks, workers, full), tasks, by_blocks.passing(nt, slabs))

    most = nt * (nt + 1) // 2
    whole, least = _largest(fit, max(n // nb, 1), max(most, nt + 2 + AHEAD), memory)
    if whole is not None and not whole.passing:
        return whole
    cut = [blocks(width) for width in range(1, nt)]  # narrow ones have more tasks, so the least is not the first
    fitting = [plan for plan in cut if memory is None or plan.memory <= memory]
    found = min([*([whole] if whole else []), *fitting], key=lambda plan: plan.passing, default=None)
    least = min([least, *(plan.memory for plan in cut)])
    return found or too_little(least, memory, f"a Cholesky factorisation of order {n}", nb)


def lu_plan_in(
    shape: tuple[int, int],
    nb: int,
    item: int,
    memory: int | None,
    workers: int,
    first: int = 0,
    *,
    copied: bool = False,
) -> SlabPlan:
    """The same for an LU factorisation, whose slabs are whole block columns; ``copied``: getrf copies its panel."""
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
        more = column * copied + norms + beside(tasks, workers, 3 * full) + MOVERS * full
        again = sum(mt - k for s0, _ in slabs.bounds for k in range(min(s0, last)))
        return SlabPlan(slabs, width, data, more, tasks, again)

    chunk = min(4, max(mt, 1))
    if memory is not None and fit(1, chunk).memory > memory:
        chunk = 1
    found, least = _largest(lambda width: fit(width, chunk), 1, max(nt, 1), memory)
    return found or too_little(least, memory, f"an LU factorisation of {m} x {n}", nb)


def beside(tasks: int, workers: int, copies: int) -> int:
    """Bytes of a graph, of threads, and of what the kernels of each worker copy."""
    return tasks * _TASK + (workers + MOVERS) * _THREAD + workers * copies


def too_little(least: int, memory: int | None, what: str, nb: int, where: str = "") -> NoReturn:
    """MemoryError with the least that would do, ``where`` that is for each of several."""
    raise MemoryError(
        f"memory={nbytes(memory or 0)} is too little for {what} in tiles of {nb}: the least is {nbytes(least)}{where}; "
        f"a smaller tile_size needs less"
    )


def _largest(
    fit: Callable[[int], SlabPlan | None], least: int, most: int, memory: int | None
) -> tuple[SlabPlan | None, int]:
    """The plan of the largest size from ``least`` to ``most`` that fits, and the memory of the smallest."""
    while (smallest := fit(least)) is None:
        least += 1
    if memory is None:
        return fit(most) or smallest, smallest.memory
    if smallest.memory > memory:
        return None, smallest.memory
    found, low, high = smallest, least, most + 1
    while high - low > 1:
        middle = (low + high) // 2
        plan = fit(middle)
        if plan is not None and plan.memory <= memory:
            low, found = middle, plan
        else:
            high = middle
    return found, smallest.memory
