"""LU by tournament and tiles: the loop for matrices much larger than memory, left-looking.

One block column is factored at a time, and not even that is in memory: some of its tiles are, while finished tiles come
by from the disk. The rows of a panel are chosen by the tournament of `tilewright.linalg.lu_graph`, depth first, so that
of its candidates few are there at a time [1]_.

No row is ever exchanged on the disk. Row r of the matrix stays row r of the file, and a vector ``order`` says which row
of the file is which row of the factor. A tile is gathered from its rows, wherever they lie, by the list of reads that
reads one of adjacent rows, too. So a panel changes ``order`` and nothing else; one pass at the end writes the factor.

What is done to a tile, and in which order, depends on the tile size alone: bits do not depend on the memory.

.. [1] L. Grigori, J. Demmel, H. Xiang, CALU: a communication optimal LU factorization algorithm, SIMAX 32 (2011).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from tilewright.graph import RW, Handle, Handles, Op, R, TaskGraph, W
from tilewright.kernels.swaps import permutation
from tilewright.linalg.lu_graph import ENTRANTS, pivots
from tilewright.linalg.slabs import AHEAD, Slabs, TileBuffers, Volume, gauge_at
from tilewright.ops import crown, diag, elect, elect_last, gemmn, match, match_last, trsmn, trsmu
from tilewright.storage.matrix import StoredTile
from tilewright.storage.ops import commit, gather, load, scatter, store

__all__ = ["buffers", "lu_tiles", "passing", "reordered", "stored", "tasks", "tile_lu"]


def lu_tiles(nt: int, height: int, first: int = 0) -> Slabs:
    """Block columns of one tile, of which so many tiles are in memory at a time, from block column ``first`` on.

    A multiple of `ENTRANTS`, the tiles whose candidates are chosen together.
    """
    return Slabs(tuple((j, j + 1) for j in range(first, nt)), max(1, min(4, height // 8)), height)


# ------------------------------------------------------------------ what it takes


def buffers(shape: tuple[int, int], nb: int, how: Slabs) -> int:
    """Numbers in buffers: tiles of a block column, finished ones in two chunks, candidates, and what is read ahead.

    A last block column or block row that is cut off has buffers of its own.
    """
    (m, n), h, c = shape, how.height, how.chunk
    mt, rows, columns = -(-m // nb), m % nb, n % nb
    candidates = max(-(-mt // ENTRANTS) - 1, 1).bit_length() + 2
    found = (h + (2 + AHEAD) * c + candidates) * nb * nb + (c + 4) * rows * nb
    if columns:
        found += (h + c + 3) * nb * columns + candidates * columns * columns + 4 * rows * columns
    return found


def _cut(first: int, last: int, height: int) -> Iterator[range]:
    return (range(r, min(r + height, last)) for r in range(first, last, height))


def passing(mt: int, nt: int, how: Slabs) -> int:
    """Tiles that are read from the file of rows before the last pass; of finished ones each as often as it is."""
    total, t = 0, min(mt, nt)
    for j in range(nt):
        total += mt + (mt - j if j < t else 0)
        for rows in _cut(0, min(j, t), how.height):
            b = len(rows)
            total += rows.start * (1 + b) + b * (b + 1) // 2
        if j < t:
            total += j * -(-(mt - j) // how.height) + (mt - j) * j
    return total


def stored(mt: int, nt: int) -> int:
    """Tiles that are written into the file of rows."""
    t = min(mt, nt)
    return mt * nt + sum(min(j, t) for j in range(nt)) + sum(2 * (mt - j) for j in range(t))


def tasks(mt: int, nt: int, how: Slabs) -> int:
    """Those of a run."""
    total, t, c = 2 * mt * nt, min(mt, nt), how.chunk  # the last pass
    for j in range(nt):
        total += 3 * mt + 2
        for rows in _cut(0, min(j, t), how.height):
            b = len(rows)
            total += 3 * b + -(-rows.start // c) * (1 + b) + rows.start * b + b * (b + 1) // 2 + b * (b - 1) // 2
        if j < t:
            below = mt - j
            total += below + -(-j // c) * (-(-below // how.height) + below) + below * j
            total += 2 * -(-below // ENTRANTS) - 1 + below + 3 + 2 * below + below - 1
    return total


# ------------------------------------------------------------------ ops


def _whole(tiles: Sequence[StoredTile], told: np.ndarray) -> None:
    """All these tiles are stored: rows of them may be read in another order."""
    told[...] = 1


def _reorder(piv: np.ndarray, tiles: Sequence[StoredTile], order: np.ndarray, first: int) -> None:
    """`reordered`; the tiles of the panel are stored in the order before it."""
    reordered(piv, order, first)


def reordered(piv: np.ndarray, order: np.ndarray, first: int) -> None:
    """The rows of the factor after the exchanges of a panel whose first row is ``first``."""
    rows = order[first:]
    rows[...] = rows[permutation(piv, len(rows))]


whole = Op("whole", _whole, weight=0, in_place=True)
reorder = Op("reorder", _reorder, weight=0, in_place=True)


# ------------------------------------------------------------------ the loop


class _Column:
    """Tiles of a file of rows on their way through memory."""

    def __init__(self, g: TaskGraph, memory: TileBuffers, volume: Volume, first: int, sums: bool) -> None:
        self.g, self.memory, self.volume, self.first, self.sums = g, memory, volume, first, sums
        self.order = g.handle("order")
        self._final = g.handles("final", shape=lambda j: (1,), dtype="int8")

    def final(self, columns: Iterable[int]) -> list[Handle]:
        """What a reader of these block columns waits for; nothing where an earlier run made them."""
        return [self._final[k] for k in columns if k >= self.first]

    def get(self, tiles: Sequence[Handle], after: Sequence[Handle], where: Sequence[tuple[int, int]]) -> list[Handle]:
        """Buffers with tiles (i, j), when what comes before is whole."""
        into = [self.memory.take(self.volume.extent(i, j)) for i, j in where]
        reads, targets = [R(tile) for tile in tiles], [W(buffer) for buffer in into]
        self.g.insert(gather, R(self.order), [R(token) for token in after], reads, targets, label=where[0])
        self.volume.read += sum(self.volume.nbytes(i, j) for i, j in where)
        return into

    def put(self, buffer: Handle, tile: Handle, i: int, j: int) -> None:
        """Store tile (i, j)."""
        self.g.insert(scatter, R(self.order), R(buffer), W(tile), self.sums, label=(i, j))
        self.volume.written += self.volume.nbytes(i, j)

    def give(self, buffers: Sequence[Handle]) -> None:
        for buffer in buffers:
            self.memory.give(buffer)


def tile_lu(
    g: TaskGraph,
    how: Slabs,
    first: int,
    volume: Volume,
    memory: TileBuffers,
    spots: TileBuffers,
    *,
    check: bool,
    log: bool,
    dtype: str,
) -> None:
    """Insert the left-looking LU factorisation by tournament, from block column ``first`` on.

    Handles ``A[i,j]`` and ``F[i,j]`` are stored tiles, the matrix and its factor. ``P[i,j]``, ``B[i,j]`` and ``L[i,j]``
    are those of one file of rows: as they were, when the rows of their panel are to be chosen, and final. ``order`` has
    the row of the file for each row of the factor. ``log`` is the checkpoint.
    """
    (m, n), nb = volume.shape, volume.nb
    mt, nt = -(-m // nb), -(-n // nb)
    t = min(mt, nt)
    A, P, B, L, F = (g.handles(name) for name in "APBLF")
    piv = pivots(g, volume.shape, nb)
    M = g.handles("M", shape=lambda i, j: (1, 1 + sum(volume.extent(i, j))), dtype="float64", keep=True)
    D = g.handles("D", shape=lambda k: (min(volume.extent(k, k)),), dtype=dtype, keep=True)
    copied = g.handles("copied", shape=lambda j: (1,), dtype="int8")
    held = _Column(g, memory, volume, first, log)
    for j in range(first, nt):
        for i in range(mt):
            buffer = memory.take(volume.extent(i, j))
            g.insert(load, [R(A[i, j])], [W(buffer)], log, label=(i, j))
            g.insert(gauge_at(nb), R(buffer), W(M[i, j]), [], check, label=(i, j))
            g.insert(store, [R(buffer)], [W(P[i, j])], False, label=(i, j))
            volume.read += volume.nbytes(i, j)
            volume.written += volume.nbytes(i, j)
            memory.give(buffer)
        g.insert(whole, [R(P[i, j]) for i in range(mt)], W(copied[j]), label=(j,))
        for rows in _cut(0, min(j, t), how.height):
            _above(g, held, rows, j, how.chunk, (P, L), copied)
        if j < t:
            _panel(g, held, spots, j, mt, how, (P, B, L), piv, D, copied)
        g.insert(whole, [R(L[i, j]) for i in range(mt)], W(held.final([j])[0]), label=(j,))
        if log:
            sources, tiles = [R(A[i, j]) for i in range(mt)], [R(L[i, j]) for i in range(mt)]
            more = [R(piv[j])] if j < t else []
            g.insert(commit, sources, tiles, more, RW(g.handle("log")), j, j == nt - 1, label=(j,))
    for j in range(nt):
        for i in range(mt):
            (buffer,) = held.get([L[i, j]], held.final([j]), [(i, j)])
            g.insert(store, [R(buffer)], [W(F[i, j])], False, label=(i, j))
            volume.written += volume.nbytes(i, j)
            memory.give(buffer)


def _update(g: TaskGraph, held: _Column, tiles: dict[int, Handle], before: int, j: int, chunk: int, L: Handles) -> None:
    """A_ij := A_ij - sum_(k < before) L_ik U_kj, for the tiles of a block column that are in memory."""
    for k0 in range(0, before, chunk):
        columns = range(k0, min(k0 + chunk, before))
        above = held.get([L[k, j] for k in columns], [], [(k, j) for k in columns])
        for i, tile in tiles.items():
            left = held.get([L[i, k] for k in columns], held.final(columns), [(i, k) for k in columns])
            for k, one, two in zip(columns, left, above, strict=True):
                g.insert(gemmn, R(one), R(two), RW(tile), label=(i, j, k))
            held.give(left)
        held.give(above)


def _above(
    g: TaskGraph, held: _Column, rows: range, j: int, chunk: int, files: tuple[Handles, Handles], copied: Handles
) -> None:
    """U_kj := L_kk^-1 (A_kj - sum_(l < k) L_kl U_lj) for some k."""
    P, L = files
    tiles = {k: held.get([P[k, j]], [copied[j]], [(k, j)])[0] for k in rows}
    _update(g, held, tiles, rows.start, j, chunk, L)
    for k, top in tiles.items():
        (own,) = held.get([L[k, k]], held.final([k]), [(k, k)])
        g.insert(trsmn, R(own), RW(top), label=(k, j))
        held.give([own])
        held.put(top, L[k, j], k, j)
        for i in range(k + 1, rows.stop):
            (left,) = held.get([L[i, k]], held.final([k]), [(i, k)])
            g.insert(gemmn, R(left), R(top), RW(tiles[i]), label=(i, j, k))
            held.give([left])
    held.give(list(tiles.values()))


def _panel(
    g: TaskGraph,
    held: _Column,
    spots: TileBuffers,
    j: int,
    mt: int,
    how: Slabs,
    files: tuple[Handles, Handles, Handles],
    piv: Handles,
    D: Handles,
    copied: Handles,
) -> None:
    """The panel of block column j: its updates, its tournament, the new order, and L_ij := A_ij U_jj^-1."""
    (P, B, L), nb, width = files, held.volume.nb, held.volume.extent(j, j)[1]
    matches = _Tournament(g, held, spots, j, -(-(mt - j) // ENTRANTS), width)
    for rows in _cut(j, mt, how.height):
        tiles = {i: held.get([P[i, j]], [copied[j]], [(i, j)])[0] for i in rows}
        _update(g, held, tiles, j, j, how.chunk, L)
        for some in _cut(rows.start, rows.stop, ENTRANTS):
            matches.enter([tiles[i] for i in some], some, piv[j], nb)
        for i, tile in tiles.items():
            held.put(tile, B[i, j], i, j)
        held.give(list(tiles.values()))
    winners = matches.end(piv[j])
    g.insert(reorder, R(piv[j]), [R(B[i, j]) for i in range(j, mt)], RW(held.order), j * nb, label=(j,))
    (top,) = held.get([B[j, j]], [], [(j, j)])
    g.insert(crown, R(winners), RW(top), label=(j,))
    g.insert(diag, R(top), W(D[j]), label=(j,))
    held.give([winners])
    held.put(top, L[j, j], j, j)
    for i in range(j + 1, mt):
        (tile,) = held.get([B[i, j]], [], [(i, j)])
        g.insert(trsmu, R(top), RW(tile), label=(i, j))
        held.put(tile, L[i, j], i, j)
        held.give([tile])
    held.give([top])


class _Tournament:
    """Matches of `tilewright.linalg.lu_graph.tournament`, each as soon as both sides are there."""

    def __init__(self, g: TaskGraph, held: _Column, spots: TileBuffers, j: int, entrants: int, width: int) -> None:
        self.g, self.held, self.spots, self.j, self.entrants, self.width = g, held, spots, j, entrants, width
        self.winners: Handle | None = None
        self.left: list[tuple[int, Handle, Handle]] = []
        """Those that still play: how many they stand for, their rows, their places."""

    def enter(self, tiles: Sequence[Handle], where: range, piv: Handle, nb: int) -> None:
        """The candidates of some tiles."""
        places_of, reads = tuple(i - self.j for i in where), [R(tile) for tile in tiles]
        if self.entrants == 1:
            self.g.insert(elect_last(len(where)), W(piv), reads, W(self._crown()), places_of, nb, label=(self.j,))
            return
        rows, places = self.held.memory.take((self.width, self.width)), self.spots.take((self.width, 1))
        self.g.insert(elect(len(where)), W(places), reads, W(rows), places_of, nb, label=(where[0], self.j))
        self.left.append((1, rows, places))
        while len(self.left) > 1 and self.left[-1][0] == self.left[-2][0] and 2 * self.left[-1][0] < self.entrants:
            self._meet()

    def end(self, piv: Handle) -> Handle:
        """The factor of the rows that won."""
        while len(self.left) > 2:
            self._meet()
        if self.left:
            (_, a, at), (_, b, bt) = self.left
            self.g.insert(match_last, W(piv), R(at), R(bt), R(a), R(b), W(self._crown()), label=(self.j,))
            for rows, places in ((a, at), (b, bt)):
                self.held.memory.give(rows)
                self.spots.give(places)
        assert self.winners is not None
        return self.winners

    def _meet(self) -> None:
        count, b, bt = self.left.pop()
        more, a, at = self.left.pop()
        self.g.insert(match, RW(at), R(bt), R(b), RW(a), label=(self.j, len(self.left), count))
        self.left.append((more + count, a, at))
        self.held.memory.give(b)
        self.spots.give(bt)

    def _crown(self) -> Handle:
        rows = min(self.held.volume.shape[0] - self.j * self.held.volume.nb, self.width)
        self.winners = self.held.memory.take((rows, self.width))
        return self.winners
