"""Nested refinement: conjugate gradients in FP32 on a scaled copy of the matrix, inside refinement in FP64.

A step of conjugate gradients is at the speed of memory. Inside, it reads H = D A D in FP32, a quarter of the bytes of A
with both triangles and half of those with one, tile by tile from where they are next to each other; and the factor in
BF16 where its products read it so. FP64 takes part in the residuals alone, one for every four digits.

    r := b - A x;  solve H y = D r roughly;  x := x + D y
"""

from __future__ import annotations

from math import inf
from typing import Any

import numpy as np

from tilewright.builder import graph_builder
from tilewright.graph import RW, R, TaskGraph, W
from tilewright.kernels.hemm import BLOCK
from tilewright.linalg.arena import in_tiles
from tilewright.linalg.conjugate_gradients import direction_tasks
from tilewright.linalg.operator import blocks_graph, residual_tasks
from tilewright.linalg.runner import Bindings
from tilewright.linalg.stopping import Stop, steps_left
from tilewright.linalg.structure import Positive, Structure
from tilewright.linalg.system import CONSTANT, SCRATCH, System
from tilewright.ops import OPS, copy, scaled

__all__ = ["DIGITS", "nested"]

DIGITS = 1e-4
"""How far a solution in FP32 goes. Beyond, its recursive residual loses sight of the true one, and at a condition of
1e4 it had already: 1e-5 and 1e-6 took more steps and saved no product in FP64."""

_GOAL = 0.5  # times LAPACK's criterion is where the last one ends
_WORTH = 4.0  # what refinement has to gain at least
_SEEN = 8  # steps, before their number is extrapolated


@graph_builder("scaling nt={nt}", cache=32)
def scaling_graph(g: TaskGraph, nt: int) -> None:
    """H := D A D in FP32, its lower triangle."""
    A, D, H = g.handles("A"), g.handles("D"), g.handles("H")
    for j in range(nt):
        for i in range(j, nt):
            extra = (0.0,) if i == j else ()
            g.insert(scaled, R(A[i, j]), R(D[i]), R(D[j]), W(H[i, j]), *extra, on=A[i, j])


@graph_builder("inner conjugate gradients nt={nt}", cache=32)
def inner_graph(g: TaskGraph, nt: int, structure: Structure) -> None:
    """One step of preconditioned conjugate gradients on H y = r, with H as A; all of it in FP32 but the scalars."""
    r, Z = g.handles("R"), g.handles("Z")
    for i in range(nt):  # z := L^-T L^-1 r
        g.insert(copy, R(r[i]), W(Z[i]))
    structure.substitute(g, Z, nt)
    direction_tasks(g, nt, g.handles("Y"), OPS["descend"], structure)


@graph_builder("inner start nt={nt}", cache=32)
def start_graph(g: TaskGraph, nt: int) -> None:
    """r := D r / max|D r| in FP32."""
    D, source, r = g.handles("D"), g.handles("R"), g.handles("inner R")
    for i in range(nt):
        g.insert(OPS["narrow"], R(D[i]), R(source[i]), R(g.handle("sizes")), W(r[i]))


@graph_builder("nested refinement nt={nt}", cache=32)
def outer_graph(g: TaskGraph, nt: int) -> None:
    """x := x + D y max|D r|, r := b - A x."""
    D, Y, Z, X = g.handles("D"), g.handles("inner Y"), g.handles("Z"), g.handles("X")
    for i in range(nt):
        g.insert(OPS["widen"], R(D[i]), R(Y[i]), R(g.handle("sizes")), W(Z[i]))
        g.insert(OPS["add"], R(Z[i]), RW(X[i]))
    residual_tasks(g, nt, Positive())


class _Inner:
    """The buffers of the FP32 iteration, and its graph bound to them."""

    def __init__(self, system: System) -> None:
        runner, m, nt, A = system.runner, system.m, system.nt, system.A
        keep = runner.engine.keep
        H = {index: keep(tile) for index, tile in in_tiles(A, "float32")}
        runner.run(scaling_graph(nt), {"A": A, "D": system.data["D"], "H": H})
        diagonal = {(i, i): keep(np.empty((len(A[i, i]), BLOCK), np.float32)) for i in range(nt)}
        runner.run(blocks_graph(nt), {"A": H, "F": diagonal})
        vectors = {name: keep(np.zeros((system.n, m), np.float32)) for name in "RYZPV"}
        self.r, self.y, self.p = vectors["R"], vectors["Y"], vectors["P"]
        self.sizes = keep(np.zeros((3, m)))
        names = "rho", "alpha", "beta", "curvature"
        self.scalars = dict(zip(names, keep(np.zeros((len(names), 1, m))), strict=True))
        data: dict[str, Any] = {
            **{name: [array[A.rows(i)] for i in range(nt)] for name, array in vectors.items()},
            **{name: system.data[name] for name in "LND"},
            "A": H,
            "F": diagonal,
            "sizes": self.sizes,
            **self.scalars,
            "S": [np.zeros((3, m)) for _ in range(nt)],
            "T": [np.zeros((1, m)) for _ in range(nt)],
        }
        self._bindings, self._graph = Bindings(runner, data, CONSTANT, SCRATCH), inner_graph(nt, system.structure)

    def step(self) -> None:
        """One step."""
        self._bindings.run(self._graph)

    def restart(self) -> None:
        """Begin at y = 0, with beta = 0 in the first step."""
        self.scalars["rho"][...] = inf
        self.y.fill(0)
        self.p.fill(0)

    @property
    def sound(self) -> bool:
        """Whether this step was one for a positive definite matrix, and its numbers finite."""
        rho, curvature = self.scalars["rho"], self.scalars["curvature"]
        if not (np.isfinite(rho).all() and np.isfinite(self.sizes).all()):
            return False
        return not ((curvature <= 0) & (rho > 0)).any()


def nested(system: System, cap: int) -> Stop:
    """Refine with at most ``cap`` steps inside, with the FP32 factor that the system uses. n^2/2 numbers in FP32.

    ``stalled`` says that FP32 does not lead on. The residual of the system is a true one in any case.
    """
    inner = _Inner(system)
    system.bind("inner R", inner.r)
    system.bind("inner Y", inner.y)
    k, last = 0, system.excess
    while True:
        if k and last <= 1:
            return Stop("nested", "converged", k)
        if k >= cap:
            return Stop("nested", "slow", k)
        system.replay(start_graph)
        inner.restart()
        x, _, size = system.sizes
        goal = _GOAL * system.tolerance * system.norm
        start, history = np.abs(inner.r).max(axis=0), len(system.residuals)
        while k < cap:
            inner.step()
            k += 1
            if not inner.sound:
                return Stop("nested", "stalled", k)
            below, reached, left = inner.sizes
            beside = np.maximum(x, below * size)  # |x + D y|, roughly
            system.note(reached * size, beside)
            if ((left <= DIGITS * start) | (reached * size <= goal * beside)).all():
                break
            since = system.residuals[history:]
            if len(since) >= _SEEN and k + steps_left(since, system.excess_of(reached * size, beside)) > 2 * cap:
                return Stop("nested", "slow", k)
        system.replay(outer_graph)
        excess = system.excess
        system.correct()
        if not excess <= 1 and not excess < last / _WORTH:
            return Stop("nested", "stalled", k)
        last = excess
