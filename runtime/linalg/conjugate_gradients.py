"""Conjugate gradients, preconditioned."""

from __future__ import annotations

from math import inf

import numpy as np

from tilewright.builder import graph_builder
from tilewright.graph import RW, Handles, Op, R, TaskGraph, W
from tilewright.linalg.operator import residual_graph
from tilewright.linalg.preconditioner import precondition
from tilewright.linalg.stopping import Stop, steps_left
from tilewright.linalg.structure import Structure
from tilewright.linalg.system import System
from tilewright.ops import OPS

__all__ = ["ATTAINED", "cg", "cg_graph", "direction_tasks"]

ATTAINED = 2.0
"""An FP64 residual has rounding errors of its own; where they are of the size of the criterion, no factor helps."""


def direction_tasks(g: TaskGraph, nt: int, X: Handles, advance: Op, structure: Structure) -> None:
    """Insert a step [1]_ along the next direction, from z := M^-1 r on: x := x + alpha p, r := r - alpha A p.

    ``advance`` does the last of it, to blocks of ``X`` and of r.

    .. [1] Y. Saad, Iterative Methods for Sparse Linear Systems, 2nd ed., algorithm 9.1.
    """
    D, P, V, Z, S, T = map(g.handles, "DPVZST")
    r = g.handles("R")
    rho, alpha, beta, curvature = map(g.handle, ("rho", "alpha", "beta", "curvature"))
    for i in range(nt):
        g.insert(OPS["dot"], R(r[i]), R(Z[i]), W(T[i]))
    g.insert(OPS["turn"], [R(T[i]) for i in range(nt)], RW(rho), W(beta))  # beta := r^H z / rho, rho := r^H z
    for i in range(nt):
        g.insert(OPS["sweep"], R(beta), R(Z[i]), RW(P[i]))  # p := z + beta p
    structure.product(g, P, V, nt)
    for i in range(nt):
        g.insert(OPS["dot"], R(P[i]), R(V[i]), W(T[i]))
    g.insert(OPS["step"], [R(T[i]) for i in range(nt)], R(rho), W(curvature), W(alpha))  # alpha := rho / p^H A p
    for i in range(nt):
        g.insert(advance, R(alpha), R(D[i]), R(P[i]), R(V[i]), RW(X[i]), RW(r[i]), W(S[i]))
    g.insert(OPS["gather"], [R(S[i]) for i in range(nt)], W(g.handle("sizes")))


@graph_builder("conjugate gradients nt={nt}", cache=32)
def cg_graph(g: TaskGraph, nt: int, structure: Structure) -> None:
    """One step of preconditioned conjugate gradients, each right-hand side with its own scalars."""
    precondition(g, g.handles("R"), g.handles("Z"), g.handle("sizes"), nt, structure)  # z := M^-1 r
    direction_tasks(g, nt, g.handles("X"), OPS["advance"], structure)


def cg(system: System, cap: int, worth: float = inf) -> Stop:
    """Preconditioned conjugate gradients; where the recursive residual has converged the true one is looked at.

    It ends as ``slow`` after ``cap`` steps; or from the eighth on, where it seems to need more than ``cap`` in all and
    more than ``worth`` from there, or more than twice ``cap`` in all. Where the true residual goes no further it is
    content with one of `ATTAINED` times LAPACK's criterion that keeps the promise of a backward error of n u.
    """
    k, checks, last = 0, 0, inf
    while True:
        system.restart()
        start = len(system.residuals)
        excess = system.excess
        while not excess <= 1 and k < cap:
            system.replay(cg_graph, system.structure)
            k += 1
            excess = system.record()
            rho, curvature = system.scalars["rho"], system.scalars["curvature"]
            if not (np.isfinite(excess) and np.isfinite(rho).all()):
                return Stop("cg", "diverged", k)
            if ((curvature <= 0) & (rho > 0)).any():
                return Stop("cg", "indefinite", k)
            since = system.residuals[start:]
            if len(since) >= 8 and k + steps_left(since, excess) > min(2 * cap, max(cap, k + worth)):
                return Stop("cg", "slow", k)
        system.replay(residual_graph, system.structure)
        excess = system.excess
        if excess <= 1:
            return Stop("cg", "converged", k)
        if k >= cap:
            return Stop("cg", "slow", k)
        checks += 1
        if checks > 4 or not excess < last:
            attained = excess <= ATTAINED and system.hpl <= 1
            return Stop("cg", "converged" if attained else "stalled", k)
        last = excess / 2
