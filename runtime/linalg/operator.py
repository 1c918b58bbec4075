"""What iterations ask of a matrix in tiles beside products: residuals, the sums of the rows of a Hermitian one."""

from __future__ import annotations

import numpy as np

from tilewright.builder import graph_builder
from tilewright.graph import RW, R, TaskGraph, W
from tilewright.linalg.runner import Runner
from tilewright.linalg.structure import Structure
from tilewright.ops import OPS, blocks, zero
from tilewright.tiles import TiledMatrix

__all__ = ["block_rows", "blocks_graph", "residual_graph", "residual_tasks", "row_sums"]


@graph_builder("diagonal nt={nt}", cache=32)
def blocks_graph(g: TaskGraph, nt: int) -> None:
    """F[i,i] := the blocks on the diagonal of tile (i, i) of A."""
    A, F = g.handles("A"), g.handles("F")
    for i in range(nt):
        g.insert(blocks, R(A[i, i]), W(F[i, i]))


def residual_tasks(g: TaskGraph, nt: int, structure: Structure) -> None:
    """Insert R := B - A X, and its size."""
    B, D, X, V, S = map(g.handles, "BDXVS")
    r = g.handles("R")
    structure.product(g, X, V, nt)
    for i in range(nt):
        g.insert(OPS["residual"], R(D[i]), R(B[i]), R(V[i]), R(X[i]), W(r[i]), W(S[i]))
    g.insert(OPS["gather"], [R(S[i]) for i in range(nt)], W(g.handle("sizes")))


@graph_builder("residual nt={nt}", cache=32)
def residual_graph(g: TaskGraph, nt: int, structure: Structure) -> None:
    """r := b - A x."""
    residual_tasks(g, nt, structure)


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
