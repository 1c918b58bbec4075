"""What iterations ask of a Hermitian matrix in tiles: products, residuals, the sums of its rows. Graphs of tile tasks.

The lower triangle is read once for each.
"""

from __future__ import annotations

import numpy as np

from tilewright.builder import graph_builder
from tilewright.graph import RW, Handles, R, TaskGraph, W
from tilewright.linalg.runner import Runner
from tilewright.ops import OPS, blocks, hemm, hemmd, zero
from tilewright.tiles import TiledMatrix

__all__ = ["block_rows", "blocks_graph", "product", "residual_graph", "residual_tasks", "row_sums"]


def product(g: TaskGraph, A: Handles, X: Handles, V: Handles, nt: int) -> None:
    """Insert V := A X for a Hermitian A, reading its lower triangle once; F[i] are the `blocks` of tile (i, i).

    Tiles are taken diagonal by diagonal, so that neighbours write different blocks of V.
    """
    F = g.handles("F")
    for i in range(nt):
        g.insert(zero, W(V[i]))
        g.insert(hemmd, R(A[i, i]), R(F[i, i]), R(X[i]), RW(V[i]), on=A[i, i])  # V_i := V_i + A_ii X_i
    for distance in range(1, nt):
        for j in range(nt - distance):
            i = j + distance  # V_i := V_i + A_ij X_j, V_j := V_j + A_ij^H X_i
            g.insert(hemm, R(A[i, j]), R(X[i]), R(X[j]), RW(V[i]), RW(V[j]), on=A[i, j])


@graph_builder("diagonal nt={nt}", cache=32)
def blocks_graph(g: TaskGraph, nt: int) -> None:
    """F[i,i] := the blocks on the diagonal of tile (i, i) of A."""
    A, F = g.handles("A"), g.handles("F")
    for i in range(nt):
        g.insert(blocks, R(A[i, i]), W(F[i, i]))


def residual_tasks(g: TaskGraph, nt: int) -> None:
    """Insert R := B - A X, and its size."""
    A, B, D, X, V, S = map(g.handles, "ABDXVS")
    r = g.handles("R")
    product(g, A, X, V, nt)
    for i in range(nt):
        g.insert(OPS["residual"], R(D[i]), R(B[i]), R(V[i]), R(X[i]), W(r[i]), W(S[i]))
    g.insert(OPS["gather"], *[R(S[i]) for i in range(nt)], W(g.handle("sizes")))


@graph_builder("residual nt={nt}", cache=32)
def residual_graph(g: TaskGraph, nt: int) -> None:
    """r := b - A x."""
    residual_tasks(g, nt)


@graph_builder("row sums nt={nt}", cache=32)
def row_sums_graph(g: TaskGraph, nt: int) -> None:
    """s := the row sums of |A|, handles ``A[i,j]``, ``S[i]``."""
    A, S = g.handles("A"), g.handles("S")
    for i in range(nt):
        g.insert(zero, W(S[i]))
        g.insert(OPS["normsd"], R(A[i, i]), RW(S[i]), on=A[i, i])
    for distance in range(1, nt):
        for j in range(nt - distance):
            i = j + distance
            g.insert(OPS["norms"], R(A[i, j]), RW(S[i]), RW(S[j]), on=A[i, j])


def row_sums(A: TiledMatrix, runner: Runner) -> np.ndarray:
    """The sums of |a_ij| along the rows of a Hermitian matrix, (n,); its lower triangle is read once, by tile tasks.

    The largest is ||A||_inf; one that is not finite says that there is a NaN or an infinity, or an overflow.
    """
    sums = np.zeros((A.shape[0], 1))
    runner.run(row_sums_graph(A.nt), {"A": A, "S": block_rows(sums, A)})
    return sums[:, 0]


def block_rows(array: np.ndarray, A: TiledMatrix) -> list[np.ndarray]:
    """The rows of ``array`` that belong to each row of tiles."""
    return [array[A.rows(i)] for i in range(A.nt)]
