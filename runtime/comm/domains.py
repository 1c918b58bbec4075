"""A grid of n x n points in slabs or in patches: the scaling argument of the lecture, as formulas.

The grid has N = n^2 points, M = N / p on each of p ranks, and a 5-point stencil: 10 flops a point. A rank in the
interior exchanges its border with each neighbour, one after the other.

=======  ==========  ==================  ==========================================================
cut      neighbours  words to each       time of one product
=======  ==========  ==================  ==========================================================
slab     2           n                   2 (alpha + n beta) + 10 (n^2 / p) gamma
patch    4           n / sqrt(p)         4 (alpha + n / sqrt(p) beta) + 10 (n^2 / p) gamma
=======  ==========  ==================  ==========================================================

With M fixed a slab's message grows with sqrt(p), so slabs do not scale weakly; a patch's stays. Lecture: "MPI: parallel
scaling", row S8. `gamma` is in seconds per flop.
"""

from __future__ import annotations

from math import sqrt
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tilewright.machine import Machine

__all__ = ["CUTS", "FLOPS", "block_size", "block_time", "efficiency", "time"]

CUTS = ("slab", "patch")
FLOPS = 10
"""Flops of a 5-point stencil at one point."""


def communication(cut: str, p: int, n: float, machine: Machine) -> float:
    """Seconds that an interior rank sends. ValueError for an unknown cut."""
    if cut == "slab":
        return 2 * (machine.alpha + n * machine.beta)
    if cut == "patch":
        return 4 * (machine.alpha + n / sqrt(p) * machine.beta)
    raise ValueError(f"unknown cut {cut!r}; known: {', '.join(CUTS)}")


def time(cut: str, p: int, n: float, machine: Machine) -> float:
    """Seconds of one product on n x n points and p ranks, nothing hidden. ValueError for an unknown cut."""
    return communication(cut, p, n, machine) + FLOPS * n * n / p * (machine.gamma or 0.0)


def efficiency(cut: str, p: int, n: float, machine: Machine) -> float:
    """E_p: the time of one rank without messages over p times that of p ranks.

    1 / (1 + alpha / (5 M gamma) + sqrt(p) beta / (5 sqrt(M) gamma)) for slabs, and
    1 / (1 + 2 alpha / (5 M gamma) + 2 beta / (5 sqrt(M) gamma)) for patches, with M = n^2 / p.
    """
    work = FLOPS * n * n / p * (machine.gamma or 0.0)
    total = work + communication(cut, p, n, machine)
    return work / total if total else 1.0


def block_time(b: float, steps: int, points: float, p: int, machine: Machine) -> float:
    """Seconds of ``steps`` products with a 3-point stencil in blocks of b, by halo closure, nothing hidden.

    (steps / b) alpha + steps beta + (steps points / p + steps b) gamma, with gamma the seconds of one point. Lecture:
    "Optimization of multiple products", row L2.
    """
    gamma = machine.gamma or 0.0
    return steps / b * machine.alpha + steps * machine.beta + (steps * points / p + steps * b) * gamma


def block_size(machine: Machine, flops: float = 1.0) -> float:
    """The block b* = sqrt(alpha / gamma) for which `block_time` is least; a point costs ``flops`` gamma.

    It depends neither on the number of points nor on that of ranks. A rank that sends to two neighbours, one after the
    other, pays alpha twice: sqrt(2 alpha / gamma).
    """
    return sqrt(machine.alpha / (flops * (machine.gamma or float("inf"))))
