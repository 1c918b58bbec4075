"""A grid of n x n points in slabs or in patches: the scaling argument of the lecture, as formulas.

The lecture is V. Eijkhout's *Parallel scalability*.

The grid has N = n^2 points, M = N / p on each of p ranks, and a 5-point stencil: 10 flops a point. A rank in the
interior exchanges its border with each neighbour, one after the other.

=======  ==========  ==================  ==========================================================
cut      neighbours  words to each       time of one product
=======  ==========  ==================  ==========================================================
slab     2           n                   2 (alpha + n beta) + 10 (n^2 / p) gamma
patch    4           n / sqrt(p)         4 (alpha + n / sqrt(p) beta) + 10 (n^2 / p) gamma
=======  ==========  ==================  ==========================================================

One rank has no neighbour and sends nothing. With M fixed a slab's message grows with sqrt(p), so slabs do not scale
weakly; a patch's stays. Lecture: "MPI: parallel scaling", row S8. `gamma` is in seconds per flop. Every function raises
ValueError for a machine without gamma, p below 1 and a size that is not positive.
"""

from __future__ import annotations

from math import inf, sqrt
from typing import TYPE_CHECKING

from tilewright.comm.cost import known_gamma
from tilewright.keywords import strict
from tilewright.scalars import choice, real

if TYPE_CHECKING:
    from tilewright.machine import Machine

__all__ = ["CUTS", "FLOPS", "block_size", "block_time", "efficiency", "time"]

CUTS = ("slab", "patch")
FLOPS = 10
"""Flops of a 5-point stencil at one point."""


def _check(cut: str, p: float, n: float) -> None:
    choice(cut, "cut", CUTS)
    real(p, "p", 1)
    real(n, "n", 0, above=True)


def communication(cut: str, p: int, n: float, machine: Machine) -> float:
    """Seconds that an interior rank sends; none on one rank. ValueError for an unknown cut."""
    _check(cut, p, n)
    if p == 1:
        return 0.0
    if cut == "slab":
        return 2 * (machine.alpha + n * machine.beta)
    return 4 * (machine.alpha + n / sqrt(p) * machine.beta)


@strict
def time(cut: str, p: int, n: float, machine: Machine) -> float:
    """T_p: seconds of one product on n x n points and p ranks, nothing hidden. ValueError for an unknown cut."""
    _check(cut, p, n)
    gamma = known_gamma(machine)
    return communication(cut, p, n, machine) + FLOPS * float(n) * n / p * gamma


@strict
def efficiency(cut: str, p: int, n: float, machine: Machine) -> float:
    """E_p = T_1 / (p T_p); exactly 1 on one rank.

    1 / (1 + alpha / (5 M gamma) + sqrt(p) beta / (5 sqrt(M) gamma)) for slabs, and
    1 / (1 + 2 alpha / (5 M gamma) + 2 beta / (5 sqrt(M) gamma)) for patches, with M = n^2 / p. ValueError also where
    gamma is 0: then there is no work to be efficient at.
    """
    _check(cut, p, n)
    gamma = known_gamma(machine)
    if not gamma:
        raise ValueError("an efficiency needs a machine with gamma above 0")
    return 1 / (1 + communication(cut, p, n, machine) / n / n * p / (FLOPS * gamma))


@strict
def block_time(b: float, steps: int, points: float, p: int, machine: Machine) -> float:
    """Seconds of ``steps`` products with a 3-point stencil in blocks of b, by halo closure, nothing hidden.

    (steps / b) alpha + steps beta + (steps points / p + steps b) gamma, with gamma the seconds of one point; on one
    rank steps points gamma. Lecture: "Optimization of multiple products", row L2.
    """
    real(b, "b", 0, above=True)
    real(steps, "steps", 0)
    real(points, "points", 0)
    real(p, "p", 1)
    gamma = known_gamma(machine)
    if p == 1:
        return steps * points * gamma
    return steps / b * machine.alpha + steps * machine.beta + (steps * points / p + steps * b) * gamma


@strict
def block_size(machine: Machine, flops: float = 1.0) -> float:
    """The block b* = sqrt(alpha / gamma) for which `block_time` is least; a point costs ``flops`` gamma.

    It depends neither on the number of points nor on that of ranks. A rank that sends to two neighbours, one after the
    other, pays alpha twice: sqrt(2 alpha / gamma). Infinite where a message costs something and a point nothing.
    """
    real(flops, "flops", 0, above=True)
    point = flops * known_gamma(machine)
    return sqrt(machine.alpha / point) if point else inf if machine.alpha else 0.0
