"""How a factorisation by slabs fits into so much memory: widths, buffers, and what else the process grows by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from typing import NoReturn

from tilewright.kernels import table
from tilewright.linalg import blocks as by_blocks
from tilewright.linalg import lu_tiles as by_tiles
from tilewright.linalg.lu_graph import ENTRANTS
from tilewright.linalg.slabs import AHEAD, Slabs, cholesky_slabs, lu_slabs
from tilewright.units import nbytes

__all__ = [
    "MOVERS",
    "SlabPlan",
    "beside",
    "cholesky_plan",
    "lu_plan",
    "lu_plan_in",
    "lu_plan_sized",
    "lu_tiles_plan",
    "panel_copied",
    "too_little",
]

MOVERS = 2
"""Threads that read and write beside those that compute."""

_STEP, _WIDEST = 64, 4096  # sizes of tiles that are tried

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


def panel_copied(dtype: str) -> bool:
    """Whether getrf works on a copy of a panel, which is memory beside it."""
    return table.settles("getrf", dtype, "int32")


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
    """The same for an LU factorisation with partial pivoting, by block columns; ``copied``: its panels are copied."""
    found, least = _lu_slabs(shape, nb, item, memory, workers, first, copied)
    return found or too_little(least, memory, f"an LU factorisation of {shape[0]} x {shape[1]}", nb)


def _lu_slabs(
    shape: tuple[int, int], nb: int, item: int, memory: int | None, workers: int, first: int, copied: bool
) -> tuple[SlabPlan | None, int]:
    """The plan, if one fits, and the least memory."""
    m, n = shape
    mt, nt = -(-m // nb), -(-n // nb)
    full, column, last = nb * nb * item, m * nb * item, min(mt, nt)
    products = sum((mt - k) * (nt - 1 - k) for k in range(last))
    panels = [0, *accumulate(mt - k for k in range(last))]  # tiles of so many panels

    def fit(width: int, chunk: int) -> SlabPlan:
        slabs = lu_slabs(nt, first, width, chunk)
        reads = [0, *accumulate(-(-(mt - k) // chunk) for k in range(last))]
        passing = sum(reads[min(s0, last)] for s0, _ in slabs.bounds)
        tasks = products + passing + mt * len(slabs.bounds) + mt * nt + 2 * last + max(last - 1, 0) + 3 * nt
        alone = len(slabs.bounds) <= 1 and not first
        data = width * column + m * (n % nb) * item + (0 if alone else (chunk * (1 + AHEAD) + 1) * full)
        norms = 8 * mt * nt * (2 * nb + 1)
        more = column * copied + norms + beside(tasks, workers, 3 * full) + MOVERS * full
        again = sum(panels[min(s0, last)] for s0, _ in slabs.bounds)
        return SlabPlan(slabs, width, data, more, tasks, again)

    chunk = min(4, max(mt, 1))
    if memory is not None and fit(1, chunk).memory > memory:
        chunk = 1
    return _largest(lambda width: fit(width, chunk), 1, max(nt, 1), memory)


def lu_plan(
    pivoting: str | None,
    shape: tuple[int, int],
    nb: int,
    item: int,
    memory: int | None,
    workers: int,
    copied: bool = False,
) -> SlabPlan:
    """By slabs with partial pivoting, by tiles with a tournament; for None by what reads and writes less.

    Slabs where both move as much, and tiles where no slab fits. MemoryError with the least that would do.
    """
    if pivoting == "tournament":
        return lu_tiles_plan(shape, nb, item, memory, workers)
    if pivoting is not None:
        return lu_plan_in(shape, nb, item, memory, workers, copied=copied)
    slabs, least = _lu_slabs(shape, nb, item, memory, workers, 0, copied)
    if slabs is not None and len(slabs.slabs.bounds) <= 1:
        return slabs
    tiles, other = _lu_tiles(shape, nb, item, memory, workers, 0)
    if slabs is None or tiles is None:
        found = slabs or tiles
        return found or too_little(min(least, other), memory, f"an LU factorisation of {shape[0]} x {shape[1]}", nb)
    return tiles if _moved(tiles, shape, nb) < _moved(slabs, shape, nb) else slabs


def _moved(plan: SlabPlan, shape: tuple[int, int], nb: int) -> int:
    """Numbers that an LU factorisation reads and writes, beside the passes that all make over matrix and factor."""
    mt, nt = -(-shape[0] // nb), -(-shape[1] // nb)
    return (plan.passing + (by_tiles.stored(mt, nt) if plan.slabs.height else mt * nt)) * nb * nb


def lu_plan_sized(
    pivoting: str | None,
    shape: tuple[int, int],
    nb: int,
    item: int,
    memory: int | None,
    workers: int,
    copied: bool = False,
) -> tuple[SlabPlan, int]:
    """The same where tiles may be of any size, by default of ``nb``: the plan and its tile size.

    Where no slab of that size fits, narrower ones are tried. Tiles read n^3/(3 nb) numbers, so those of a tournament
    are as large as the memory allows, up to a sixteenth of the matrix, which leaves something to do at the same time.
    """
    if memory is None:
        return lu_plan(pivoting, shape, nb, item, memory, workers, copied), nb
    found: list[tuple[SlabPlan, int]] = []
    too_small: MemoryError | None = None
    try:
        found.append((lu_plan(pivoting, shape, nb, item, memory, workers, copied), nb))
    except MemoryError as error:
        too_small = error
    if pivoting != "tournament" and not (found and found[0][0].slabs.height == 0):
        for smaller in range(nb - nb % _STEP, 0, -_STEP):
            slabs, _ = _lu_slabs(shape, smaller, item, memory, workers, 0, copied)
            found += [(slabs, smaller)] if slabs is not None else []
    if pivoting in (None, "tournament") and (not found or found[0][0].passing):
        most = min(_WIDEST, max(max(shape) // 16, nb))
        for larger in range(most - most % _STEP, 0, -_STEP):
            if found and larger <= nb:
                break
            tiles, _ = _lu_tiles(shape, larger, item, memory, workers, 0)
            if tiles is not None:
                found.append((tiles, larger))
                break
    if not found:
        assert too_small is not None
        raise too_small
    return min(found, key=lambda one: _moved(one[0], shape, one[1]))


def lu_tiles_plan(
    shape: tuple[int, int], nb: int, item: int, memory: int | None, workers: int, first: int = 0
) -> SlabPlan:
    """For an LU factorisation by tournament and tiles, with as many tiles of a block column as fit."""
    found, least = _lu_tiles(shape, nb, item, memory, workers, first)
    return found or too_little(least, memory, f"an LU factorisation of {shape[0]} x {shape[1]} by tournament", nb)


def _lu_tiles(
    shape: tuple[int, int], nb: int, item: int, memory: int | None, workers: int, first: int
) -> tuple[SlabPlan | None, int]:
    """The plan, if one fits, and the least memory."""
    (m, n), full = shape, nb * nb * item
    mt, nt = -(-m // nb), -(-n // nb)

    def fit(heights: int) -> SlabPlan:
        slabs = by_tiles.lu_tiles(nt, heights * ENTRANTS, first)
        tasks = by_tiles.tasks(mt, nt, slabs)
        data = by_tiles.buffers(shape, nb, slabs) * item
        rows = 8 * 3 * m + 8 * mt * nt * (2 * nb + 1)  # the order of rows, old and new; norms
        copies = 2 * min(ENTRANTS, mt) + 1  # of an election: tiles below each other to be factored, again, and winners
        more = rows + beside(tasks, workers, copies * full) + MOVERS * full
        return SlabPlan(slabs, 1, data, more, tasks, by_tiles.passing(mt, nt, slabs))

    return _largest(fit, 1, max(-(-mt // ENTRANTS), 1), memory)


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
