"""Row and column scaling of a general matrix before it is factored in low precision. A graph of tile tasks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tilewright.builder import graph_builder
from tilewright.graph import R, TaskGraph, W
from tilewright.linalg.operator import block_rows
from tilewright.linalg.stage import Stage
from tilewright.ops import colscale, colsize, rowscale, rowsize
from tilewright.tiles import TiledMatrix

__all__ = ["Scaling", "equilibrate", "equilibration_graph"]


@dataclass(frozen=True)
class Scaling:
    """Powers of two with which the largest entry of each row and column of D A E is about 1 [1]_.

    .. [1] LAPACK ?geequb; N. Higham, S. Pranesh, M. Zounon, Squeezing a matrix into half precision, SISC 41 (2019).

    Attributes
    ----------
    rows, columns
        (n,) float64, the diagonals of D and E.
    sums
        (n,), sum_j |a_ij|; the largest is ||A||_inf. One that is not finite says that there is a NaN, an infinity or an
        overflow.
    """

    rows: np.ndarray
    columns: np.ndarray
    sums: np.ndarray

    @property
    def exponent(self) -> int:
        """e with the largest |a_ij| in [2^(e-1), 2^e); 0 for a matrix of zeros."""
        used = self.rows[self.sums > 0]
        return int(-np.log2(used.min())) if len(used) else 0


@graph_builder("equilibrate n={n} tile_size={nb}", cache=32)
def equilibration_graph(g: TaskGraph, n: int, nb: int) -> None:
    """D, E and the row sums of |A|: handles ``A[i,j]``, ``D[i]``, ``E[j]``, ``sums[i]``. A is read twice."""
    nt = -(-n // nb)
    sizes = [min(nb, n - i * nb) for i in range(nt)]
    A, D, E, sums = g.handles("A"), g.handles("D"), g.handles("E"), g.handles("sums")
    M = g.handles("M", shape=lambda i, j: (2, sizes[i]), dtype="float64")
    N = g.handles("N", shape=lambda i, j: (1, sizes[j]), dtype="float64")
    for i in range(nt):
        for j in range(nt):
            g.insert(rowsize, R(A[i, j]), W(M[i, j]), on=A[i, j])
        g.insert(rowscale, [R(M[i, j]) for j in range(nt)], W(D[i]), W(sums[i]))  # d_i := 1 / max_j |a_ij|
    for j in range(nt):
        for i in range(nt):
            g.insert(colsize, R(A[i, j]), R(D[i]), W(N[i, j]), on=A[i, j])
        g.insert(colscale, [R(N[i, j]) for i in range(nt)], W(E[j]))  # e_j := 1 / max_i d_i |a_ij|


def equilibrate(A: TiledMatrix, stage: Stage) -> Scaling:
    """The scaling of a square matrix, FP64. 4 n^2 operations, 16 n^2 bytes read."""
    n = A.shape[0]
    found: dict[str, Any] = {name: np.ones((n, 1)) for name in ("D", "E", "sums")}
    if n:
        blocks = {name: block_rows(array, A) for name, array in found.items()}
        stage.run(equilibration_graph(n, A.tile_size), {"A": A, **blocks})
    return Scaling(*(found[name][:, 0] for name in ("D", "E", "sums")))
