"""Cholesky-QR2: Q R of a tall matrix with few columns by products of matrices; Householder's where they do not do."""

from __future__ import annotations

from typing import Any

from tilewright.builder import graph_builder
from tilewright.graph import RW, Handle, R, TaskGraph, W
from tilewright.kernels import cholesky_qr
from tilewright.linalg.call import Call
from tilewright.linalg.qr_graph import QRPlan, layout_of
from tilewright.ops import in_place

__all__ = ["CHOLESKY", "cholesky_qr2"]

CHOLESKY = "cholesky"
"""The name of this way where a tree is asked for."""

_NEAR = 0.5
"""Distance of Q^H Q from I after the first step up to which the second one makes Q orthonormal to roundoff: its
singular values are between 0.7 and 1.3 then."""


def _product_flops(source: tuple[int, ...], *others: tuple[int, ...]) -> float:
    return 2.0 * source[0] * source[1] ** 2


def _both_flops(source: tuple[int, ...], *others: tuple[int, ...]) -> float:
    return 3.0 * source[0] * source[1] ** 2


def _solve_flops(r: tuple[int, ...], q: tuple[int, ...]) -> float:
    return 1.0 * q[0] * q[1] ** 2


gram = in_place("gram", cholesky_qr.gram, weight=6, flops=_product_flops)
factor = in_place("factor", cholesky_qr.factor, weight=1)
orthogonal = in_place("orthogonal", cholesky_qr.orthogonal, weight=9, flops=_both_flops)
second_gram = in_place("second", cholesky_qr.second_gram, weight=9, flops=_both_flops)
again = in_place("again", cholesky_qr.again, weight=3, flops=_solve_flops)
join = in_place("join", cholesky_qr.join, weight=1)


@graph_builder("cholesky qr {plan.m} x {plan.n} tile_size={plan.width}", cache=16, layout=layout_of)
def _graph(g: TaskGraph, plan: QRPlan, vectors: bool) -> None:
    """``R[0,0]``, with ``vectors`` ``Q[i,0]``, and how far Q was from orthonormal after the first step: ``state``."""
    A, Q, U = g.handles("source"), g.handles("Q"), g.handles("R")
    n, rows = plan.n, range(plan.mt)
    G, T = (g.handles(name, shape=(n, n), dtype=plan.dtype) for name in ("gram", "triangle"))
    states = g.handles("states", shape=1, dtype="float64")
    found = g.handle("state", shape=1, dtype="float64", keep=True)
    for i in rows:
        g.insert(gram, R(A[i, 0]), W(G[0, i]))  # G := sum A_i^H A_i
    g.insert(factor, [R(G[0, i]) for i in rows], W(T[0]), W(states[0]), on=U[0, 0])  # G = R_1^H R_1
    for i in rows:
        if vectors:
            g.insert(orthogonal, R(A[i, 0]), R(T[0]), W(Q[i, 0]), W(G[1, i]))  # Q_i := A_i R_1^-1, G := sum Q_i^H Q_i
        else:
            g.insert(second_gram, R(A[i, 0]), R(T[0]), W(G[1, i]))
    g.insert(factor, [R(G[1, i]) for i in rows], W(T[1]), W(states[1]), on=U[0, 0])  # G = R_2^H R_2
    for i in rows if vectors else ():
        g.insert(again, R(T[1]), RW(Q[i, 0]))  # Q_i := Q_i R_2^-1
    g.insert(join, R(T[0]), R(T[1]), R(states[0]), R(states[1]), W(U[0, 0]), W(found), on=U[0, 0])  # R := R_2 R_1


def cholesky_qr2(call: Call, plan: QRPlan, data: dict[str, Any], vectors: bool) -> str:
    """Run it; why it did not do, so that Q and R have to be found in another way, or an empty string.

    Never a Q that is not orthonormal: that is measured, not inferred from the condition. R has a positive diagonal.
    """
    named = {name: tiles for name, tiles in data.items() if name != "A"}
    record = call.run(_graph(plan, vectors), named)
    found = record.store[Handle("state")]
    distance = call.engine.agreed(None if found is None else float(found[0]))
    if distance is None or distance <= _NEAR:
        return ""
    if distance == float("inf"):
        return "A^H A is not positive definite to working precision"
    return f"A R^-1 with R from A^H A is {distance:.1g} from orthonormal columns, more than {_NEAR}"
