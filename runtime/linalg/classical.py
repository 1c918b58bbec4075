"""Classical refinement: x := x + M^-1 r."""

from __future__ import annotations

from math import inf

import numpy as np

from tilewright.builder import graph_builder
from tilewright.graph import RW, R, TaskGraph
from tilewright.linalg.operator import residual_tasks
from tilewright.linalg.preconditioner import precondition
from tilewright.linalg.stopping import Stop, steps_left
from tilewright.linalg.structure import Structure
from tilewright.linalg.system import System
from tilewright.ops import OPS

__all__ = ["classical", "classical_graph"]


@graph_builder("refinement nt={nt}", cache=32)
def classical_graph(g: TaskGraph, nt: int, structure: Structure) -> None:
    """One step of classical refinement [1]_: x := x + M^-1 r, r := b - A x.

    .. [1] LAPACK dsposv, dsgesv.
    """
    r, Z, X = map(g.handles, "RZX")
    precondition(g, r, Z, g.handle("sizes"), nt, structure)
    for i in range(nt):
        g.insert(OPS["add"], R(Z[i]), RW(X[i]))
    residual_tasks(g, nt, structure)


def classical(system: System, cap: int, patience: float = inf) -> Stop:
    """x := x + M^-1 r until LAPACK's criterion holds; ends when the residual grows twice in a row.

    Or, as ``slow``, where from the second step on more than ``patience`` seem to be left, or does not get smaller.
    """
    previous, grown = inf, 0
    for k in range(1, cap + 1):
        system.replay(classical_graph, system.structure)
        excess = system.record()
        if excess <= 1:
            return Stop("classical", "converged", k)
        grown = grown + 1 if excess >= previous else 0
        if not np.isfinite(excess) or grown == 2:
            return Stop("classical", "diverged" if not np.isfinite(excess) or k < 4 else "stalled", k)
        if patience < inf and k >= 2 and (grown or steps_left(system.residuals[-k:], excess) > patience):
            return Stop("classical", "slow", k)
        if k >= 6 and steps_left(system.residuals[-k:], excess) > 2 * cap:
            return Stop("classical", "slow", k)
        previous = excess
    return Stop("classical", "slow", cap)
