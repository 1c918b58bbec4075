"""The preconditioner M^-1 = D L^-H L^-1 D of a factor L L^H of D A D, in the precision of L. Graphs of tile tasks."""

from __future__ import annotations

from tilewright.builder import graph_builder
from tilewright.graph import Handle, Handles, R, TaskGraph, W
from tilewright.linalg.cho_solve import substitute_back, substitute_forward
from tilewright.ops import OPS, convert, gemmlb

__all__ = ["narrow_graph", "precondition", "substitute"]


def precondition(g: TaskGraph, source: Handles, Z: Handles, sizes: Handle, nt: int, narrow: bool) -> None:
    """Insert Z := D L^-H L^-1 D ``source``, in the precision of W and L."""
    D, Y = g.handles("D"), g.handles("W")
    for i in range(nt):
        g.insert(OPS["narrow"], R(D[i]), R(source[i]), R(sizes), W(Y[i]))
    substitute(g, Y, nt, narrow)
    for i in range(nt):
        g.insert(OPS["widen"], R(D[i]), R(Y[i]), R(sizes), W(Z[i]))


def substitute(g: TaskGraph, X: Handles, nt: int, narrow: bool) -> None:
    """Insert X := L^-H L^-1 X; with ``narrow`` the tiles of L below the diagonal are read in BF16, from N."""
    below = (gemmlb, g.handles("N")) if narrow else None
    substitute_forward(g, g.handles("L"), X, nt, below=below)
    substitute_back(g, g.handles("L"), X, nt, below=below)


@graph_builder("narrow factor nt={nt}", cache=32)
def narrow_graph(g: TaskGraph, nt: int) -> None:
    """N[i,j] := tile (i, j) of L in BF16, below the diagonal."""
    L, N = g.handles("L"), g.handles("N")
    for j in range(nt):
        for i in range(j + 1, nt):
            g.insert(convert, R(L[i, j]), W(N[i, j]), on=L[i, j])
