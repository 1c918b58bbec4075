"""Factorisations by slabs: the loops for matrices larger than memory, left-looking, and how wide slabs can be.

A slab is some block columns that are in memory together. It is loaded once; finished block columns come by from the
disk, tile after tile, and update it; it is factored in memory by the loop of `tilewright.linalg.cholesky` or
`tilewright.linalg.lu_graph`; each of its block columns is stored when it is final, which is the checkpoint [1]_.

Every tile gets the updates of the loops in memory, in their order and by the same kernels, so bits are the same,
whatever the slabs. Buffers are handles: a load into one waits for the last task that uses what was there. So memory is
bounded by the graph and not by who watches it; in the order of the program the buffer that is taken is the one that has
waited longest, so the disk can work ahead as far as there are buffers.

.. [1] J. Dongarra, S. Hammarling, D. Walker, Key concepts for parallel out-of-core LU factorization, LAWN 110 (1996).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np

from tilewright.errors import NotPositiveDefiniteError
from tilewright.graph import RW, Handle, Handles, Op, R, Task, TaskGraph, W
from tilewright.linalg.lu_graph import pivots
from tilewright.ops import diag, gemm, gemmn, getrf, potrf, swap, swptrsm, syrk, tril, trsm
from tilewright.storage.ops import commit, load, store

__all__ = [
    "AHEAD",
    "Transit",
    "TileBuffers",
    "Slabs",
    "Strips",
    "Volume",
    "cholesky_slabs",
    "finite_at",
    "gauge_at",
    "lu_slabs",
    "potrf_at",
    "put",
    "slab_cholesky",
    "slab_lu",
    "update_from_left",
]

AHEAD = 2
"""Tiles, or rows of them, that can be read while others are used."""


class Volume:
    """What a graph reads and writes, in bytes: counted while it is built."""

    def __init__(self, shape: tuple[int, int], nb: int, item: int) -> None:
        self.shape, self.nb, self.item = shape, nb, item
        self.read = self.written = 0

    def extent(self, i: int, j: int) -> tuple[int, int]:
        """Rows and columns of a tile."""
        (m, n), nb = self.shape, self.nb
        return min(nb, m - i * nb), min(nb, n - j * nb)

    def nbytes(self, i: int, j: int) -> int:
        rows, columns = self.extent(i, j)
        return rows * columns * self.item


class Slabs(NamedTuple):
    """Slabs of a factorisation."""

    bounds: tuple[tuple[int, int], ...]
    """First block column and the one behind the last."""
    chunk: int
    """Tiles that are read together."""
    height: int = 0
    """Block rows of a slab that are in memory together, in `tilewright.linalg.blocks`; 0 are all."""


# ------------------------------------------------------------------ memory


class TileBuffers:
    """Buffers of a tile each, handed out in program order: of that shape the one that has been free for longest."""

    def __init__(self, handles: Handles, shape: tuple[int, int] = (0, 0), spare: int = 0) -> None:
        self.handles, self.shape, self.spare = handles, shape, spare
        self.shapes: list[tuple[int, int]] = []
        """By number of the buffer."""
        self._free: dict[tuple[int, int], deque[int]] = {}

    def take(self, shape: tuple[int, int]) -> Handle:
        """A buffer; a new one if none is free, or of the shape of most tiles no more than ``spare``."""
        free = self._free.setdefault(shape, deque())
        if len(free) > (self.spare if shape == self.shape else 0):
            return self.handles[free.popleft()]
        self.shapes.append(shape)
        return self.handles[len(self.shapes) - 1]

    def give(self, buffer: Handle) -> None:
        number = buffer.index[0]
        self._free[self.shapes[number]].append(number)


class Strips:
    """Block columns by columns, for panels: that of block column j is number j - first of the slab.

    The last one of a matrix, where it is narrower, has a strip of its own.
    """

    def __init__(self, strips: Handles, narrow: Handles, last: int, width: int) -> None:
        self.strips, self.narrow, self.last, self.width = strips, narrow, last, width
        self.first = 0

    def __call__(self, i: int, j: int) -> Handle:
        return self.narrow[i, 0] if j == self.last else self.strips[i, j - self.first]


# ------------------------------------------------------------------ ops with the place in the whole matrix


class _NotPositive:
    """The error of a potrf on tile (k, k) of the whole matrix."""

    def __init__(self, nb: int) -> None:
        self.nb = nb

    def __call__(self, task: Task, data: Any, info: int) -> Exception:
        place: Any = task.place
        (k,) = place
        tile, offset = Handle("A", (k, k)), k * self.nb
        if info < 0:
            return ValueError(f"{task} on {tile}: LAPACK calls its argument {-info} illegal")
        return NotPositiveDefiniteError(offset + info, task.label, tile, offset, len(data[task.writes[0]]))


class _NotFinite:
    """The error of a NaN in a tile that is looked at, with its place in the whole matrix."""

    def __init__(self, nb: int, height: int) -> None:
        self.nb, self.height = nb, height

    def __call__(self, task: Task, data: Any, info: int) -> Exception:
        tile = data[task.uses[0].handle]
        bad = ~np.isfinite(tile)
        if task.op.name == "finite" and task.params[0] == "lower":
            bad = np.tril(bad)
        place: Any = task.place  # said where it is inserted
        row, column = np.argwhere(bad)[0] + (place[0] * self.height, place[1] * self.nb)
        return ValueError(
            f"the matrix a has a NaN or infinity at ({row}, {column}); check_finite=False skips this check"
        )


@cache
def potrf_at(nb: int) -> Op:
    """potrf that knows by its task's place which tile it is on."""
    return Op("potrf", weight=potrf.weight, flops=potrf.flops, explain=_NotPositive(nb))


@cache
def finite_at(nb: int, height: int | None = None) -> Op:
    """The same for the look for NaN and infinities."""
    return Op("finite", weight=0, explain=_NotFinite(nb, nb if height is None else height))


@cache
def gauge_at(nb: int) -> Op:
    """The same for `gauge`."""
    return Op("gauge", weight=0, explain=_NotFinite(nb, nb))


# ------------------------------------------------------------------ Cholesky


def slab_cholesky(
    g: TaskGraph,
    nt: int,
    slabs: Slabs,
    first: int,
    volume: Volume,
    memory: TileBuffers,
    *,
    check: bool,
    log: bool,
    sums: bool,
) -> None:
    """Insert the left-looking Cholesky factorisation of the lower triangle by slabs, from block column ``first`` on.

    Handles ``A[i,j]`` and ``L[i,j]`` are stored tiles, the matrix and its factor; ``log`` is the checkpoint.
    """
    A, L = g.handles("A"), g.handles("L")
    held = Transit(g, memory, volume)
    for s0, s1 in slabs.bounds:
        slab = range(s0, s1)
        S: dict[tuple[int, int], Handle] = {}
        for i in range(s0, nt):
            row = [j for j in slab if j <= i]
            held.fetch(A, i, row, S, sums=sums)
            for j in row if check else ():
                g.insert(finite_at(volume.nb), R(S[i, j]), "lower" if i == j else "all", label=(i, j))
        update_from_left(g, held, L, S, slab, range(s1, nt), slabs.chunk)
        for k in slab:
            g.insert(potrf_at(volume.nb), RW(S[k, k]), label=(k,))
            for i in range(k + 1, nt):
                g.insert(trsm, R(S[k, k]), RW(S[i, k]), label=(i, k))
                put(g, [S[i, k]], L, range(i, i + 1), k, volume, sums)  # each alone: its buffer is free the sooner
            g.insert(tril, RW(S[k, k]), label=(k,))
            put(g, [S[k, k]], L, range(k, k + 1), k, volume, sums)
            if log:
                rows = range(k, nt)
                g.insert(
                    commit,
                    [R(A[i, k]) for i in rows],
                    [R(L[i, k]) for i in rows],
                    [],
                    RW(g.handle("log")),
                    k,
                    k == nt - 1,
                    label=(k,),
                )
            for i in range(k + 1, nt):
                for j in range(k + 1, min(i, s1)):
                    g.insert(gemm, R(S[i, k]), R(S[j, k]), RW(S[i, j]), label=(i, j, k))
                if i < s1:
                    g.insert(syrk, R(S[i, k]), RW(S[i, i]), label=(i, k))
            held.give({(i, k): S[i, k] for i in range(k, nt)})


def update_from_left(
    g: TaskGraph,
    held: Transit,
    L: Handles,
    S: Mapping[tuple[int, int], Handle],
    slab: range,
    below: Iterable[int],
    size: int,
    *,
    diagonal: bool = True,
) -> None:
    """S_ij := S_ij - sum_k L_ik L_jk^H, with finished tiles that come by in chunks of so many columns.

    For the tiles of a slab in its own rows if ``diagonal`` says so, and in rows ``below``; j is in the slab.
    """
    for k0 in range(0, slab.start, size):
        chunk = range(k0, min(k0 + size, slab.start))
        head: dict[tuple[int, int], Handle] = {}
        for i in slab:
            held.fetch(L, i, chunk, head)
            for k in chunk if diagonal else ():
                for j in range(slab.start, i):
                    g.insert(gemm, R(head[i, k]), R(head[j, k]), RW(S[i, j]), label=(i, j, k))
                g.insert(syrk, R(head[i, k]), RW(S[i, i]), label=(i, k))  # S_ii := S_ii - L_ik L_ik^H
        for i in below:
            some: dict[tuple[int, int], Handle] = {}
            held.fetch(L, i, chunk, some)
            for k in chunk:
                for j in slab:
                    g.insert(gemm, R(some[i, k]), R(head[j, k]), RW(S[i, j]), label=(i, j, k))
            held.give(some)
        held.give(head)


def put(
    g: TaskGraph, buffers: Sequence[Handle], tiles: Handles, rows: range, j: int, volume: Volume, sums: bool
) -> None:
    """Store tiles of block column j."""
    g.insert(store, [R(buffer) for buffer in buffers], [W(tiles[i, j]) for i in rows], sums, label=(rows[0], j))
    volume.written += sum(volume.nbytes(i, j) for i in rows)


class Transit:
    """Tiles on their way through memory."""

    def __init__(self, g: TaskGraph, memory: TileBuffers, volume: Volume) -> None:
        self.g, self.memory, self.volume = g, memory, volume

    def fetch(
        self,
        tiles: Handles,
        i: int,
        columns: Sequence[int] | range,
        into: dict[tuple[int, int], Handle],
        *,
        sums: bool = False,
    ) -> None:
        """Load tiles of row i."""
        volume = self.volume
        for j in columns:
            into[i, j] = self.memory.take(volume.extent(i, j))
        if columns:
            targets = [W(into[i, j]) for j in columns]
            self.g.insert(load, [R(tiles[i, j]) for j in columns], targets, sums, label=(i, columns[0]))
            volume.read += sum(volume.nbytes(i, j) for j in columns)

    def give(self, buffers: dict[tuple[int, int], Handle]) -> None:
        for buffer in buffers.values():
            self.memory.give(buffer)


def cholesky_slabs(nt: int, first: int, tiles: int, whole: int | None = None) -> tuple[Slabs, int] | None:
    """The widest slabs of which no more than so many whole tiles are in memory, and how many those are.

    None if one block column is too large. ``whole`` block rows are not cut off, all by default. A slab of w block
    columns from s on has sum (whole - j) whole tiles over its columns j; with c block columns coming by at a time there
    are c (w + 1 + ahead) more.
    """
    rows = nt if whole is None else whole
    chunk = max(1, min(4, tiles // (4 * max(nt, 1))))

    def most(s: int, w: int) -> int:
        inside = sum(rows - j for j in range(s, min(s + w, rows)))
        passing = chunk * (min(w, rows - s) + AHEAD + (s + w < nt)) if 0 < s < rows else 0
        return inside + passing

    bounds = []
    s, used = first, 0
    while s < nt:
        w = max((w for w in range(1, nt - s + 1) if most(s, w) <= tiles), default=0)
        if not w:
            return None
        bounds.append((s, s + w))
        used = max(used, most(s, w))
        s += w
    return Slabs(tuple(bounds), chunk), used


# ------------------------------------------------------------------ LU


def slab_lu(
    g: TaskGraph,
    slabs: Slabs,
    first: int,
    volume: Volume,
    memory: Strips,
    passing: TileBuffers,
    *,
    by_rows: bool,
    check: bool,
    log: bool,
    sums: bool,
    dtype: str,
    apart: bool,
) -> None:
    """Insert the left-looking LU factorisation with partial pivoting by slabs, from block column ``first`` on.

    Handles ``A[i,j]``, ``P[i,j]`` and ``F[i,j]`` are stored tiles: the matrix; block columns with the exchanges up to
    their own panel, which is how later ones need them; the factor.

    Parameters
    ----------
    by_rows
        Whether tiles next to each other in a row are read together, else those below each other.
    apart
        Whether ``F`` lies elsewhere than ``P``, so that finished block columns stay as they are; else it takes the
        place of it.
    """
    (m, n), nb = volume.shape, volume.nb
    mt, nt = -(-m // nb), -(-n // nb)
    last = min(mt, nt)
    A, P = g.handles("A"), g.handles("P")
    piv = pivots(g, volume.shape, nb)
    M = g.handles("M", shape=lambda i, j: (1, 1 + sum(volume.extent(i, j))), dtype="float64", keep=True)
    D = g.handles("D", shape=lambda k: (min(volume.extent(k, k)),), dtype=dtype, keep=True)
    for s0, s1 in slabs.bounds:
        slab = range(s0, s1)
        memory.first = s0
        for i in range(mt) if by_rows else ():
            targets = [W(memory(i, j)) for j in slab]
            g.insert(load, [R(A[i, j]) for j in slab], targets, sums, label=(i, s0))
            volume.read += sum(volume.nbytes(i, j) for j in slab)
        for j in () if by_rows else slab:
            _down(g, A, memory, range(mt), j, volume, sums)
        for j in slab:
            for i in range(mt):
                g.insert(gauge_at(nb), R(memory(i, j)), W(M[i, j]), [], check, label=(i, j))
        for k in range(min(s0, last)):
            _updates(g, k, slab, mt, piv, memory, _Passing(g, P, k, mt, passing, slabs.chunk, volume))
        for k in slab:
            if k < last:
                g.insert(getrf(mt - k), [RW(memory(i, k)) for i in range(k, mt)], W(piv[k]), label=(k,))
                g.insert(diag, R(memory(k, k)), W(D[k]), label=(k,))
            put(g, [memory(i, k) for i in range(mt)], P, range(mt), k, volume, sums)
            if log:
                more = [R(piv[k])] if k < last else []
                g.insert(
                    commit,
                    [R(A[i, k]) for i in range(mt)],
                    [R(P[i, k]) for i in range(mt)],
                    more,
                    RW(g.handle("log")),
                    k,
                    k == nt - 1,
                    label=(k,),
                )
            if k < last:
                _updates(g, k, range(k + 1, s1), mt, piv, memory, partial(_of_column, memory, k))
    _exchange(g, volume, mt, nt, piv, memory, g.handles("F") if apart else P)


def _of_column(memory: Strips, k: int, i: int) -> Handle:
    return memory(i, k)


def _updates(
    g: TaskGraph, k: int, columns: range, mt: int, piv: Handles, memory: Strips, panel: Callable[[int], Handle]
) -> None:
    """Insert what panel k does to block columns; ``panel(i)`` is tile i of it, asked for from k on, once each."""
    if not len(columns):
        return
    top = panel(k)
    for j in columns:
        g.insert(swptrsm, R(piv[k]), R(top), [RW(memory(i, j)) for i in range(k, mt)], label=(k, j))
    for i in range(k + 1, mt):
        tile = panel(i)
        for j in columns:
            g.insert(gemmn, R(tile), R(memory(k, j)), RW(memory(i, j)), label=(i, j, k))


class _Passing:
    """The tiles of a finished panel, read some at a time; asked for one, it gives back the buffers of those before."""

    def __init__(
        self, g: TaskGraph, tiles: Handles, k: int, mt: int, buffers: TileBuffers, chunk: int, volume: Volume
    ) -> None:
        self.g, self.tiles, self.k, self.mt, self.buffers, self.chunk = g, tiles, k, mt, buffers, chunk
        self.volume = volume
        self.there: dict[int, Handle] = {}

    def __call__(self, i: int) -> Handle:
        if i not in self.there:
            for buffer in self.there.values():
                self.buffers.give(buffer)
            rows = range(i, min(i + self.chunk, self.mt))
            self.there = {r: self.buffers.take(self.volume.extent(r, self.k)) for r in rows}
            self.g.insert(
                load,
                [R(self.tiles[r, self.k]) for r in rows],
                [W(self.there[r]) for r in rows],
                False,
                label=(i, self.k),
            )
            self.volume.read += sum(self.volume.nbytes(r, self.k) for r in rows)
        found = self.there[i]
        if i == self.mt - 1:
            for buffer in self.there.values():
                self.buffers.give(buffer)
            self.there = {}
        return found


def _down(
    g: TaskGraph, tiles: Handles, memory: Strips, rows: range, j: int, volume: Volume, sums: bool = False
) -> None:
    """Load a block column."""
    g.insert(load, [R(tiles[i, j]) for i in rows], [W(memory(i, j)) for i in rows], sums, label=(rows[0], j))
    volume.read += sum(volume.nbytes(i, j) for i in rows)


def _exchange(g: TaskGraph, volume: Volume, mt: int, nt: int, piv: Handles, memory: Strips, F: Handles) -> None:
    """The exchanges of later panels in earlier block columns: one pass over all of the disk."""
    last = min(mt, nt)
    P = g.handles("P")
    for j in range(nt):
        memory.first = j - j % memory.width
        _down(g, P, memory, range(mt), j, volume)
        if j < last - 1:
            g.insert(
                swap, [R(piv[k]) for k in range(j + 1, last)], [RW(memory(i, j)) for i in range(j + 1, mt)], label=(j,)
            )
        put(g, [memory(i, j) for i in range(mt)], F, range(mt), j, volume, False)


def lu_slabs(nt: int, first: int, width: int, chunk: int = 4) -> Slabs:
    """Slabs of so many block columns."""
    return Slabs(tuple((s, min(s + width, nt)) for s in range(first, nt, width)), chunk)
