"""`plan`: what a graph would take, before anything runs: tasks, memory, reads and writes, time."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from tilewright.arguments import LAPACK
from tilewright.graph import Handle, TaskGraph
from tilewright.keywords import strict
from tilewright.linalg import lu_tiles
from tilewright.linalg.cholesky import cholesky_graph
from tilewright.linalg.qr import r_by_pages
from tilewright.linalg.qr_plan import qr_plan
from tilewright.linalg.slab_plan import SlabPlan, cholesky_plan, lu_plan_in, lu_tiles_plan, panel_copied
from tilewright.machine import Machine
from tilewright.rates import current
from tilewright.runs.text import shown
from tilewright.scalars import choice, instance, positive, worker_count
from tilewright.storage.matrix import Stored
from tilewright.units import nbytes, seconds, size

__all__ = ["Plan", "plan"]

_ITEM = {"float32": 4, "float64": 8, "complex64": 8, "complex128": 16}
_DISK = "1GB"


@dataclass(frozen=True)
class Plan:
    """What a graph would take. ``print(plan)`` shows it.

    Attributes
    ----------
    name
        That of the graph.
    tasks
        How many, with those that load and store.
    data
        Bytes of all handles of the graph.
    memory
        Bytes of memory that a run takes: all of that, or with slabs what is in memory at a time, and what tasks and
        threads take.
    limit
        The memory that there is, if it was said.
    read, written
        Bytes from and to a disk.
    flops
        Those of all tasks, real arithmetic.
    compute, move
        Predicted seconds of workers and of the disk; they overlap.
    workers
        How many share the computing.
    slabs
        First and last block column of each slab; empty in core, and for QR, whose tiles go through pages.
    height
        Block rows of a slab that are in memory at a time; 0 where all are, or there are no slabs.

    Examples
    --------
    >>> import tilewright as tw
    >>> plan = tw.plan(tw.cholesky_graph(nt=4), tile_size=100)
    >>> plan.tasks, plan.data
    (20, 800000)
    """

    name: str
    tasks: int
    data: int
    memory: int
    limit: int | None
    read: int
    written: int
    flops: float
    compute: float
    move: float
    workers: int
    slabs: tuple[tuple[int, int], ...] = ()
    height: int = 0

    @property
    def fits(self) -> bool:
        """Whether the memory is enough."""
        return self.limit is None or self.memory <= self.limit

    @property
    def seconds(self) -> float:
        """Predicted: the longer of computing and moving."""
        return max(self.compute, self.move)

    def __str__(self) -> str:
        there = "" if self.limit is None else f" of {nbytes(self.limit)}{'' if self.fits else ': too little'}"
        lines = [
            shown(f"{self.name}: {self.tasks} tasks on {self.workers} workers"),
            f"  data           {nbytes(self.data)}",
            f"  memory         {nbytes(self.memory)}{there}",
        ]
        if self.slabs:
            wide = max(b - a for a, b in self.slabs)
            cut = f", in blocks of {self.height} block rows" if self.height else ""
            lines += [f"  slabs          {len(self.slabs)} of up to {wide} block columns{cut}"]
        if self.read or self.written:
            lines += [
                f"  disk           {nbytes(self.read)} read, {nbytes(self.written)} written: {seconds(self.move)}"
            ]
        lines.append(f"  time           {seconds(self.seconds)}, {seconds(self.compute)} of it computing"
                     if self.flops else "  time           not known: no op has a formula of flops")  # fmt: skip
        return "\n".join(lines)


@strict
def plan(
    graph: TaskGraph,
    *,
    tile_size: int,
    dtype: str = "float64",
    memory: int | str | None = None,
    workers: int | None = None,
    disk: int | str = _DISK,
) -> Plan:
    """What a run of a graph would take: tasks, memory, reads and writes, predicted time. Nothing runs.

    Parameters
    ----------
    graph
        `cholesky_graph` and `lu_graph` with partial pivoting are planned by slabs where ``memory`` is less than their
        data, as ``tiled_cholesky(..., out=, memory=)`` works, Cholesky's in blocks where these read less; `lu_graph`
        with a tournament by tiles; and
        `qr_graph` through pages, as ``qr(..., mode="r", out=, memory=)``. Of any other graph all data is in memory.
    tile_size
        Rows and columns of tiles; handles whose room is declared have their own size.
    dtype
        That of tiles.
    memory
        Bytes, or a text such as ``"2GB"``. By default as much as is needed.
    workers
        One for each core by default.
    disk
        Bytes that it reads or writes in a second.

    Raises
    ------
    MemoryError
        No slabs fit into ``memory``; the message has the least that would do.
    TypeError, ValueError
        An argument is none of these.

    Notes
    -----
    Time: flops at the rate of `tilewright.rates`, bytes at that of the disk; whichever is longer, as they overlap.
    O(tasks of a slab's list) for the two factorisations, O(accesses) for others.

    Examples
    --------
    >>> import tilewright as tw
    >>> plan = tw.plan(tw.cholesky_graph(nt=16), tile_size=1024, memory="600MB", workers=2)
    >>> plan.tasks, plan.slabs[0], plan.memory < 600e6, plan.written == 136 * 1024**2 * 8
    (1246, (0, 4), True, True)
    """
    instance(graph, "graph", TaskGraph, "a TaskGraph, such as tw.cholesky_graph(nt=4)")
    nb = positive(tile_size, "tile_size")
    item = _ITEM[choice(dtype, "dtype", LAPACK)]
    limit = None if memory is None else size(memory, "memory")
    count, speed = worker_count(workers), size(disk, "disk")
    data = _data(graph, nb, item)
    complex_ = 4 if dtype.startswith("complex") else 1
    flops = complex_ * sum(Machine(tile_size=nb, gamma=1.0).flops(task) for task in graph)
    rate = current().flops["fp32" if dtype in ("float32", "complex64") else "fp64"]
    compute = flops / (rate * min(count, max(len(graph), 1)))
    paged = _by_pages(graph, nb, dtype, data, limit, count)
    if paged is not None:
        tasks, planned, volume = paged
        move = sum(volume) / speed
        return Plan(graph.name, tasks, data, planned, limit, *volume, flops, compute, move, count)
    found, volume = _by_slabs(graph, nb, dtype, data, limit, count)
    if found is None:
        return Plan(graph.name, len(graph), data, data, limit, 0, 0, flops, compute, 0.0, count)
    read, written = volume
    return Plan(
        graph.name,
        found.tasks,
        data,
        found.memory,
        limit,
        read,
        written,
        flops,
        compute,
        (read + written) / speed,
        count,
        found.slabs.bounds,
        found.slabs.height,
    )


def _data(graph: TaskGraph, nb: int, item: int) -> int:
    """Bytes of all handles."""

    def shape(handle: Handle) -> tuple[int, ...]:
        return (nb, nb)

    rooms = graph.rooms
    return sum(
        rooms[handle.name].nbytes(handle, shape) if handle.name in rooms else prod(shape(handle)) * item
        for handle in graph.handles_used
        if len(handle.index) == 2 or handle.name in rooms
    )


def _by_pages(
    graph: TaskGraph, nb: int, dtype: str, data: int, limit: int | None, workers: int
) -> tuple[int, int, tuple[int, int]] | None:
    """Tasks, memory, and bytes read and written of a QR factorisation that does not fit; None for all else."""
    recipe: Any = graph.recipe
    if recipe is None or limit is None or data <= limit or not graph.name.startswith("qr "):
        return None
    (function, arguments) = recipe
    if function.__name__ == "_outline":
        mt, nt, tree, _ = arguments
        rows, columns = mt * nb, nt * nb
    else:
        (shaped,) = arguments
        rows, columns, tree = shaped.m, shaped.n, shaped.tree
    shaped = qr_plan(rows, columns, np.dtype(dtype), workers=workers, here=True, tree=tree, tile_size=nb)
    job = r_by_pages(shaped)
    m, n = shaped.m, shaped.n
    outlines = [Stored(shape, dtype, "outline") for shape in ((m, n), (m, n))]
    families = job.families(outlines, Stored((m, n), dtype, "the matrix"))
    found, planned = job.fit(job.graph, families, limit, workers, 1, False)
    return len(found.graph), planned, (found.read, found.written)


def _by_slabs(
    graph: TaskGraph, nb: int, dtype: str, data: int, limit: int | None, workers: int
) -> tuple[SlabPlan | None, tuple[int, int]]:
    """The slabs of a factorisation that does not fit, and bytes read and written; None for all else."""
    recipe: Any = graph.recipe
    if recipe is None or limit is None or data <= limit:
        return None, (0, 0)
    (function, arguments), item = recipe, np.dtype(dtype).itemsize
    tile = nb * nb * item
    if function is cholesky_graph:
        (nt,) = arguments
        found = cholesky_plan(nt * nb, nb, item, limit, workers)
        triangle = nt * (nt + 1) // 2
        return found, ((triangle + found.passing) * tile, triangle * tile)
    if function.__name__ == "_lu_graph" and arguments[2:5:2] == ("partial", 1):
        mt, nt = arguments[:2]
        found = lu_plan_in((mt * nb, nt * nb), nb, item, limit, workers, copied=panel_copied(dtype))
        return found, ((2 * mt * nt + found.passing) * tile, 2 * mt * nt * tile)
    if function.__name__ == "_lu_graph" and arguments[2:5:2] == ("tournament", 1):
        mt, nt = arguments[:2]
        found = lu_tiles_plan((mt * nb, nt * nb), nb, item, limit, workers)
        written = mt * nt + lu_tiles.stored(mt, nt)
        return found, ((2 * mt * nt + found.passing) * tile, written * tile)
    return None, (0, 0)
