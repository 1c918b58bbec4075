"""Row and column scaling of a general matrix before it is factored in low precision. A graph of tile tasks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tilewright.builder import graph_builder
from tilewright.graph import R, TaskGraph, W
from tilewright.linalg.operator import block_rows
from tilewright.linalg.runner import Runner
from tilewright.ops import colscale, colsize, extents, rowscale
from tilewright.tiles import TiledMatrix

__all__ = ["Scaling", "columns_graph", "equilibrate", "equilibration_graph"]


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
    exponent
        e with the largest |a_ij| in [2^(e-1), 2^e); 0 for a matrix of zeros.
    """

    rows: np.ndarray
    columns: np.ndarray
    sums: np.ndarray
    exponent: int = 0


_EVEN = 4.0  # rows whose scales differ by no more than that count as of one size


@graph_builder("equilibrate n={n} tile_size={nb}", cache=32)
def equilibration_graph(g: TaskGraph, n: int, nb: int) -> None:
    """D, the row sums of |A|, and E for D = I: handles ``A[i,j]``, ``D[i]``, ``sums[i]``, ``E[j]``. A is read once."""
    nt, sizes = _cut(n, nb)
    A, D, E, sums = g.handles("A"), g.handles("D"), g.handles("E"), g.handles("sums")
    M = g.handles("M", shape=lambda i, j: (2, sizes[i]), dtype="float64")
    N = g.handles("N", shape=lambda i, j: (1, sizes[j]), dtype="float64")
    for i in range(nt):
        for j in range(nt):
            g.insert(extents, R(A[i, j]), W(M[i, j]), W(N[i, j]), on=A[i, j])
        g.insert(rowscale, [R(M[i, j]) for j in range(nt)], W(D[i]), W(sums[i]))  # d_i := 1 / max_j |a_ij|
    for j in range(nt):
        g.insert(colscale, [R(N[i, j]) for i in range(nt)], W(E[j]))  # e_j := 1 / max_i |a_ij|


@graph_builder("equilibrate columns n={n} tile_size={nb}", cache=32)
def columns_graph(g: TaskGraph, n: int, nb: int) -> None:
    """E for this D: handles ``A[i,j]``, ``D[i]``, ``E[j]``."""
    nt, sizes = _cut(n, nb)
    A, D, E = g.handles("A"), g.handles("D"), g.handles("E")
    N = g.handles("N", shape=lambda i, j: (1, sizes[j]), dtype="float64")
    for j in range(nt):
        for i in range(nt):
            g.insert(colsize, R(A[i, j]), R(D[i]), W(N[i, j]), on=A[i, j])
        g.insert(colscale, [R(N[i, j]) for i in range(nt)], W(E[j]))  # e_j := 1 / max_i d_i |a_ij|


def _cut(n: int, nb: int) -> tuple[int, list[int]]:
    """Tiles along a side, and the extent of each."""
    nt = -(-n // nb)
    return nt, [min(nb, n - i * nb) for i in range(nt)]


def equilibrate(A: TiledMatrix, runner: Runner) -> Scaling:
    """The scaling of a square matrix, FP64. A is read once, and again where its rows are of very different size.

    Where they are not, D is the identity.
    """
    n, exponent = A.shape[0], 0
    found: dict[str, Any] = {name: np.ones((n, 1)) for name in ("D", "E", "sums")}
    if n:
        blocks = {name: block_rows(array, A) for name, array in found.items()}
        runner.run(equilibration_graph(n, A.tile_size), {"A": A, **blocks})
        d, used = found["D"], found["sums"] > 0
        exponent = int(-np.log2(d[used].min())) if used.any() else 0
        if d.max() > _EVEN * d.min():
            runner.run(columns_graph(n, A.tile_size), {"A": A, "D": blocks["D"], "E": blocks["E"]})
        else:
            d.fill(1)
    return Scaling(found["D"][:, 0], found["E"][:, 0], found["sums"][:, 0], exponent)
