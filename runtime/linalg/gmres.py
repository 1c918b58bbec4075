"""GMRES, restarted and preconditioned from the right."""

from __future__ import annotations

from collections.abc import Iterator
from math import inf

import numpy as np

from tilewright.builder import graph_builder
from tilewright.graph import RW, R, TaskGraph, W
from tilewright.linalg.classical import classical_graph
from tilewright.linalg.operator import residual_tasks
from tilewright.linalg.preconditioner import precondition
from tilewright.linalg.stopping import Stop, steps_left, worst
from tilewright.linalg.structure import Structure
from tilewright.linalg.system import System
from tilewright.ops import OPS

__all__ = ["RESTART", "gmres", "gmres_start_graph", "gmres_step_graph", "gmres_update_graph"]

RESTART = 30
"""Steps before it starts anew."""

_SEEN = 8  # steps, before their number is extrapolated

_CYCLE = 1e-8
"""A cycle ends with a residual that much smaller: its vectors lose their use beyond."""


@graph_builder("GMRES start nt={nt}", cache=32)
def gmres_start_graph(g: TaskGraph, nt: int) -> None:
    """v_0 := r / ||r||, in P."""
    r, T, P, norm = g.handles("R"), g.handles("T"), g.handles("P"), g.handle("norm")
    for i in range(nt):
        g.insert(OPS["dot"], R(r[i]), R(r[i]), W(T[i]))
    g.insert(OPS["root"], [R(T[i]) for i in range(nt)], W(norm))
    for i in range(nt):
        g.insert(OPS["normalize"], R(r[i]), R(norm), W(P[i]))


@graph_builder("GMRES step nt={nt}", cache=32)
def gmres_step_graph(g: TaskGraph, nt: int, structure: Structure) -> None:
    """A step of Arnoldi on A M^-1, orthogonalised twice by classical Gram-Schmidt [1]_.

    It is one graph for every step: ``number[0]`` has the step, k, and P takes v_k to the basis and v_{k+1} on.

    .. [1] Y. Saad, algorithms 6.9 and 9.5; SLATE posv_mixed_gmres.
    """
    D, V, Z, S, T, H, P = map(g.handles, "DVZSTHP")
    basis, parts, sizes, norm = g.handles("basis"), g.handles("parts"), g.handle("size"), g.handle("norm")
    k = g.handles("number")[0]
    for i in range(nt):
        g.insert(OPS["append"], R(P[i]), R(k), RW(basis[i]))
        g.insert(OPS["measure"], R(D[i]), R(P[i]), W(S[i]))
    g.insert(OPS["gather"], [R(S[i]) for i in range(nt)], W(sizes))
    precondition(g, P, Z, sizes, nt, structure)
    structure.product(g, Z, V, nt)  # w := A M^-1 v_k
    for turn in range(2):
        for i in range(nt):
            g.insert(OPS["project"], R(basis[i]), R(k), R(V[i]), W(parts[i]))
        g.insert(OPS["total"], [R(parts[i]) for i in range(nt)], W(H[turn]))
        for i in range(nt):
            g.insert(OPS["orthogonalize"], R(basis[i]), R(k), R(H[turn]), RW(V[i]))  # w := w - sum_j h_j v_j
    for i in range(nt):
        g.insert(OPS["dot"], R(V[i]), R(V[i]), W(T[i]))
    g.insert(OPS["root"], [R(T[i]) for i in range(nt)], W(norm))
    for i in range(nt):
        g.insert(OPS["normalize"], R(V[i]), R(norm), W(P[i]))  # v_{k+1} := w / ||w||


@graph_builder("GMRES update nt={nt}", cache=32)
def gmres_update_graph(g: TaskGraph, nt: int, structure: Structure) -> None:
    """x := x + M^-1 sum_j y_j v_j for j up to that in ``number[0]``, and r := b - A x."""
    D, V, X, Z, S = map(g.handles, "DVXZS")
    basis, sizes, k, y = g.handles("basis"), g.handle("size"), g.handles("number")[0], g.handles("Y")[0]
    for i in range(nt):
        g.insert(OPS["combine"], R(basis[i]), R(k), R(y), W(V[i]))
        g.insert(OPS["measure"], R(D[i]), R(V[i]), W(S[i]))
    g.insert(OPS["gather"], [R(S[i]) for i in range(nt)], W(sizes))
    precondition(g, V, Z, sizes, nt, structure)
    for i in range(nt):
        g.insert(OPS["add"], R(Z[i]), RW(X[i]))
    residual_tasks(g, nt, structure)


def gmres(system: System, cap: int, worth: float = inf) -> Stop:
    """GMRES(30), preconditioned from the right, each right-hand side with its own Hessenberg matrix.

    It starts from x = M^-1 b: the size of x tells how far to go. From the eighth step of a cycle on it ends as ``slow``
    where more than ``worth`` seem to be left.
    """
    k, last = 0, inf
    if not system.x.any():
        system.replay(classical_graph, system.structure)
        k, excess = 1, system.record()
        if excess <= 1:
            return Stop("gmres", "converged", k)
    while k < cap:
        most = min(RESTART, cap - k)
        steps, hopeless = _cycle(system, most, worth)
        k += steps
        excess = system.excess
        if excess <= 1:
            return Stop("gmres", "converged", k)
        if not np.isfinite(excess) or not steps:
            return Stop("gmres", "diverged", k)
        if hopeless:
            return Stop("gmres", "slow", k)
        if excess > last / 2:
            return Stop("gmres", "stalled", k)
        last = excess
    return Stop("gmres", "slow", k)


def _cycle(system: System, most: int, worth: float) -> tuple[int, bool]:
    """One cycle of GMRES: at most ``most`` steps, then x and the true residual.

    Returns the number of steps, and whether it was cut short because more than ``worth`` seem to be left.
    """
    hessenberg = np.zeros((system.m, most + 1, most), system.kind)
    system.open_krylov(RESTART)
    krylov = system.krylov
    system.replay(gmres_start_graph)
    beta = system.scalars["norm"][0].copy()
    if not np.isfinite(beta).all() or not beta.any():
        return 0, False
    wanted = np.maximum(beta / np.maximum(_columns_excess(system), 1) / 2, _CYCLE * beta)
    x, r, _ = system.sizes
    start = worst(r, system.norm * x)
    k, history, hopeless = 0, len(system.residuals), False
    while k < most and not hopeless:
        krylov["number"][0][...] = k
        system.replay(gmres_step_graph, system.structure)
        H = krylov["H"]
        hessenberg[:, : k + 1, k] = (H[0] + H[1])[: k + 1].T
        hessenberg[:, k + 1, k] = system.scalars["norm"][0]
        k += 1
        y, left = _least_squares(hessenberg[:, : k + 1, :k], beta)
        if not np.isfinite(left).all():
            return 0, False
        system.residuals.append(worst(left, beta) * start)
        if (left <= wanted).all():
            break
        if k >= _SEEN and worth < inf:
            hopeless = steps_left(system.residuals[history:], system.residuals[-1] / system.tolerance) > worth
    krylov["number"][0][...] = k - 1
    krylov["Y"][0][:k] = y.T
    system.replay(gmres_update_graph, system.structure)
    return k, hopeless


def _columns_excess(system: System) -> np.ndarray:
    """How far each right-hand side is from LAPACK's criterion."""
    x, r, _ = system.sizes
    below = system.tolerance * system.norm * x
    return np.divide(r, below, out=np.zeros_like(r), where=below > 0)


def _least_squares(H: np.ndarray, beta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each right-hand side y with least ||beta e_1 - H y||, (m, k), and that norm, (m,)."""
    m, rows, k = H.shape
    y, left = np.zeros((m, k), H.dtype), np.zeros(m)
    for j, matrix in _finite(H):
        target = np.zeros(rows, H.dtype)
        target[0] = beta[j]
        y[j] = np.linalg.lstsq(matrix, target, rcond=None)[0]
        left[j] = np.linalg.norm(target - matrix @ y[j])
    left[~np.isfinite(H).all(axis=(1, 2))] = np.nan
    return y, left


def _finite(H: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    return ((j, matrix) for j, matrix in enumerate(H) if np.isfinite(matrix).all())
