"""Cholesky by blocks of tiles: the loop for matrices much larger than memory, left-looking.

Of a slab only a block of w x w tiles is in memory at a time. Finished tiles come by from the disk, for each block those
of its rows and of its columns. A slab is as wide as a part of the matrix with all of its rows allows, so slabs read
n^4/(12 M) numbers where M fit into memory; blocks are sqrt(M) wide and read n^3/(3 sqrt(M)), which is less from
n^2 = 16 M on [1]_. Memory may even be too small for one block column.

Every tile gets the updates of the loop in memory, in their order and by the same kernels, so bits are the same.

.. [1] S. Toledo, A survey of out-of-core algorithms in numerical linear algebra, External Memory Algorithms (1999).
"""

from __future__ import annotations

from collections.abc import Iterator

from tilewright.graph import RW, Handle, R, TaskGraph
from tilewright.linalg.slabs import (
    AHEAD,
    Slabs,
    TileBuffers,
    Transit,
    Volume,
    finite_at,
    potrf_at,
    put,
    slab_cholesky,
    update_from_left,
)
from tilewright.ops import gemm, syrk, tril, trsm
from tilewright.storage.ops import commit

__all__ = ["block_cholesky", "cholesky_blocks", "groups", "insert_cholesky", "passing", "spare", "tasks"]


def cholesky_blocks(nt: int, first: int, width: int) -> Slabs:
    """Slabs of so many block columns, in blocks of as many rows."""
    bounds = tuple((s, min(s + width, nt)) for s in range(first, nt, width))
    return Slabs(bounds, max(1, min(4, width // 8)), width)


def spare(blocks: Slabs) -> int:
    """Buffers that are free while all that is needed is in memory: for what comes by next."""
    return blocks.chunk * (blocks.height + AHEAD)


def groups(nt: int, blocks: Slabs) -> Iterator[tuple[range, range]]:
    """Columns and rows of each block, in order: that on the diagonal, then those below it."""
    for s0, s1 in blocks.bounds:
        yield range(s0, s1), range(s0, s1)
        for r0 in range(s1, nt, blocks.height):
            yield range(s0, s1), range(r0, min(r0 + blocks.height, nt))


def passing(nt: int, blocks: Slabs) -> int:
    """Tiles of the factor that are read: those left of a block, left of the diagonal block above it, and that one."""
    total = 0
    for s0, s1 in blocks.bounds:
        w, below = s1 - s0, nt - s1
        cut = -(-below // blocks.height)
        total += s0 * (w * (1 + cut) + below) + cut * (w * (w + 1) // 2)
    return total


def tasks(nt: int, blocks: Slabs) -> int:
    """Those of a run from the beginning, without a checkpoint."""
    total = nt * (nt + 1) * (nt + 2) // 6 + nt * (nt + 1) + nt  # with looks for NaN, stores, and triangles cut
    for s0, s1 in blocks.bounds:
        w, below = s1 - s0, nt - s1
        cut = -(-below // blocks.height)
        total += w + below  # loads of the matrix
        total += -(-s0 // blocks.chunk) * (w * (1 + cut) + below) + cut * (w * (w + 1) // 2)
    return total


def insert_cholesky(
    g: TaskGraph, nt: int, slabs: Slabs, first: int, volume: Volume, *, check: bool, log: bool, sums: bool
) -> TileBuffers:
    """Insert the factorisation from block column ``first`` on, by slabs or by blocks of them; the buffers it takes."""
    free = spare(slabs) if slabs.height else slabs.chunk * AHEAD
    memory = TileBuffers(g.handles("buffer"), (volume.nb, volume.nb), free)
    if slabs.height:
        block_cholesky(g, nt, slabs, volume, memory, check=check, log=log, sums=sums)
    else:
        slab_cholesky(g, nt, slabs, first, volume, memory, check=check, log=log, sums=sums)
    return memory


def block_cholesky(
    g: TaskGraph, nt: int, blocks: Slabs, volume: Volume, memory: TileBuffers, *, check: bool, log: bool, sums: bool
) -> None:
    """Insert the left-looking Cholesky factorisation of the lower triangle by blocks.

    Handles ``A[i,j]`` and ``L[i,j]`` are stored tiles, the matrix and its factor; ``log`` is the checkpoint.
    """
    A, L = g.handles("A"), g.handles("L")
    held = Transit(g, memory, volume)
    for slab, rows in groups(nt, blocks):
        diagonal = rows == slab
        S: dict[tuple[int, int], Handle] = {}
        for i in rows:
            row = [j for j in slab if j <= i]
            held.fetch(A, i, row, S, sums=sums)
            for j in row if check else ():
                g.insert(finite_at(volume.nb), R(S[i, j]), "lower" if i == j else "all", label=(i, j))
        update_from_left(g, held, L, S, slab, () if diagonal else rows, blocks.chunk, diagonal=diagonal)
        for k in slab:
            if diagonal:
                below = range(k, slab.stop)
                g.insert(potrf_at(volume.nb), RW(S[k, k]), label=(k,))
                for i in range(k + 1, slab.stop):
                    g.insert(trsm, R(S[k, k]), RW(S[i, k]), label=(i, k))
                    put(g, [S[i, k]], L, range(i, i + 1), k, volume, sums)
                g.insert(tril, RW(S[k, k]), label=(k,))
                put(g, [S[k, k]], L, range(k, k + 1), k, volume, sums)
                for i in range(k + 1, slab.stop):
                    for j in range(k + 1, i):
                        g.insert(gemm, R(S[i, k]), R(S[j, k]), RW(S[i, j]), label=(i, j, k))
                    g.insert(syrk, R(S[i, k]), RW(S[i, i]), label=(i, k))
            else:
                below = rows
                above: dict[tuple[int, int], Handle] = {}
                for j in range(k, slab.stop):
                    held.fetch(L, j, (k,), above)
                for i in rows:
                    g.insert(trsm, R(above[k, k]), RW(S[i, k]), label=(i, k))
                    put(g, [S[i, k]], L, range(i, i + 1), k, volume, sums)
                    for j in range(k + 1, slab.stop):
                        g.insert(gemm, R(S[i, k]), R(above[j, k]), RW(S[i, j]), label=(i, j, k))
                held.give(above)
            held.give({(i, k): S[i, k] for i in below})
        if log and rows.stop == nt:
            for k in slab:
                done = range(k, nt)
                sources, finals = [R(A[i, k]) for i in done], [R(L[i, k]) for i in done]
                g.insert(commit, sources, finals, [], RW(g.handle("log")), k, k == nt - 1, label=(k,))
