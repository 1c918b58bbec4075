"""The preconditioner M^-1 = E (D A E)^-1 D of a factor of D A E, in its precision. Graphs of tile tasks."""

from __future__ import annotations

from tilewright.builder import graph_builder
from tilewright.graph import Handle, Handles, R, TaskGraph, W
from tilewright.linalg.structure import Structure
from tilewright.ops import OPS, convert

__all__ = ["narrow_graph", "precondition"]


def precondition(g: TaskGraph, source: Handles, Z: Handles, sizes: Handle, nt: int, structure: Structure) -> None:
    """Insert Z := E (D A E)^-1 D ``source``, in the precision of W and the factor."""
    D, E, Y = g.handles("D"), g.handles(structure.columns), g.handles("W")
    for i in range(nt):
        g.insert(OPS["narrow"], R(D[i]), R(source[i]), R(sizes), W(Y[i]))
    structure.substitute(g, Y, nt)
    for i in range(nt):
        g.insert(OPS["widen"], R(E[i]), R(Y[i]), R(sizes), W(Z[i]))


@graph_builder("narrow factor nt={nt}", cache=32)
def narrow_graph(g: TaskGraph, nt: int) -> None:
    """N[i,j] := tile (i, j) of L in BF16, below the diagonal."""
    L, N = g.handles("L"), g.handles("N")
    for j in range(nt):
        for i in range(j + 1, nt):
            g.insert(convert, R(L[i, j]), W(N[i, j]), on=L[i, j])
