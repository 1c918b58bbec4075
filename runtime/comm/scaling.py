"""Efficiency and scaling of the dense product: the lecture's formulas, its three questions, and points to check them.

The lecture is V. Eijkhout's *Parallel scalability*.

E_p = T_1 / (p T_p) with T_1 = 2 n^2 gamma, and L = log2 p:

=========  ==================================================================================================
layout     E_p(n)
=========  ==================================================================================================
rows       1 / (1 + p L / (2 n^2) alpha/gamma + p / (2 n) beta/gamma)                                      D1
columns    1 / (1 + p L / (2 n^2) alpha/gamma + p / (2 n) (beta + gamma)/gamma)                            D2
grid       1 / (1 + p L / (2 n^2) alpha/gamma + sqrt(p) / (2 n) (2 beta + gamma)/gamma)                    D3
slab       1 / (1 + alpha / (5 M gamma) + sqrt(p) beta / (5 sqrt(M) gamma)),   M = n^2 / p                 S8
patch      1 / (1 + 2 alpha / (5 M gamma) + 2 beta / (5 sqrt(M) gamma)),       M = n^2 / p                 S8
=========  ==================================================================================================

The last two are for a five-point stencil on an n x n domain, ten flops a point.

- Optimistic scaling, p fixed and n growing: E -> 1, as 1 - O(1/n).
- Strong scaling, n fixed and p growing: E -> 0, as 1/(p log2 p) in the end; rows go through 1/p before, where beta
  dominates, and the grid through 1/sqrt(p).
- Weak scaling, memory M = n^2/p fixed: rows fall as 1/sqrt(p); the grid only as 1/log2 p, through its alpha term.
- Iso-efficiency: n has to grow as p for rows, as sqrt(p log2 p) for the grid.
"""

from __future__ import annotations

from math import hypot, log2, sqrt

from tilewright.comm.cost import known_gamma
from tilewright.keywords import strict
from tilewright.machine import Machine
from tilewright.scalars import real

__all__ = ["FORMULAS", "MODEL", "efficiency", "isoefficiency", "weak_efficiency"]


MODEL = Machine(alpha=1e-6, beta=1e-9, gamma=1e-9)
"""The machine of the lecture's exercises."""


def _rows(p: float, machine: Machine) -> tuple[float, float]:
    return p * log2(p) / 2 * machine.alpha, p / 2 * machine.beta


def _columns(p: float, machine: Machine) -> tuple[float, float]:
    return p * log2(p) / 2 * machine.alpha, p / 2 * (machine.beta + _gamma(machine))


def _grid(p: float, machine: Machine) -> tuple[float, float]:
    return p * log2(p) / 2 * machine.alpha, sqrt(p) / 2 * (2 * machine.beta + _gamma(machine))


def _slab(p: float, machine: Machine) -> tuple[float, float]:
    return p / 5 * machine.alpha, p / 5 * machine.beta


def _patch(p: float, machine: Machine) -> tuple[float, float]:
    return 2 * p / 5 * machine.alpha, 2 * sqrt(p) / 5 * machine.beta


FORMULAS = {
    ("dense", "rows"): _rows,
    ("dense", "columns"): _columns,
    ("dense", "grid"): _grid,
    ("stencil", "slab"): _slab,
    ("stencil", "patch"): _patch,
}
"""By problem and layout: (a, b) of the lost time a/n^2 + b/n, in seconds, for every gamma seconds of work."""


def _gamma(machine: Machine) -> float:
    """Seconds of a flop, above 0: without work there is nothing to be efficient at."""
    gamma = known_gamma(machine)
    if not gamma:
        raise ValueError("an efficiency needs a machine with gamma above 0")
    return gamma


def _lost(problem: str, layout: str, p: float, machine: Machine) -> tuple[float, float]:
    known = FORMULAS.get((problem, layout)) if isinstance(problem, str) and isinstance(layout, str) else None
    if known is None:
        names = "; ".join(f"{a} {b}" for a, b in FORMULAS)
        raise ValueError(
            f"no efficiency formula for {problem!r} {layout!r}; known: {names}. They are problem and layout"
        )
    p = float(real(p, "p", 1))
    gamma = _gamma(machine)
    if p == 1:
        return 0.0, 0.0
    a, b = known(p, machine)
    return a / gamma, b / gamma


@strict
def efficiency(problem: str, layout: str, p: float, n: float, machine: Machine) -> float:
    """E_p(n) of the module's table.

    Parameters
    ----------
    problem, layout
        ``"dense"`` with ``"rows"``, ``"columns"`` or ``"grid"``; ``"stencil"`` with ``"slab"`` or ``"patch"``.
    p, n
        Ranks; order of the matrix, or points along a side of the domain.
    machine
        alpha, beta and gamma in seconds.

    Returns
    -------
    A number in (0, 1]; exactly 1 on one rank.

    Raises
    ------
    ValueError
        No such formula, p below 1, n not positive, or a machine without gamma.

    Examples
    --------
    >>> import tilewright as tw
    >>> machine = tw.Machine(alpha=1e-6, beta=1e-9, gamma=1e-9)
    >>> [round(tw.comm.efficiency("dense", layout, 4096, 64_000, machine), 5) for layout in ("rows", "grid")]
    [0.96339, 0.99256]
    """
    a, b = _lost(problem, layout, p, machine)
    n = float(real(n, "n", 0, above=True))
    return 1 / (1 + a / n / n + b / n)


@strict
def weak_efficiency(problem: str, layout: str, p: float, memory: float, machine: Machine) -> float:
    """E_p where each rank has ``memory`` words of the matrix, or points of the domain: n = sqrt(memory p).

    Parameters
    ----------
    problem, layout, p, machine
        As of `efficiency`.
    memory
        Words of the matrix, or points of the domain, a rank.

    Returns
    -------
    efficiency : float

    Raises
    ------
    ValueError, TypeError
        As of `efficiency`; memory is not above 0.

    Examples
    --------
    >>> import tilewright as tw
    >>> machine = tw.Machine(alpha=1e-6, beta=1e-9, gamma=1e-9)
    >>> [round(tw.comm.weak_efficiency("dense", layout, 1024, 1e6, machine), 3) for layout in ("rows", "grid")]
    [0.979, 0.994]
    """
    real(memory, "memory", 0, above=True)
    real(p, "p", 1)
    return efficiency(problem, layout, p, sqrt(memory) * sqrt(p), machine)


@strict
def isoefficiency(problem: str, layout: str, p: float, target: float, machine: Machine) -> float:
    """The n from which on E_p(n) >= ``target``; 0 on one rank.

    With k = (1 - E)/E it is the positive root of k n^2 - b n - a = 0.

    Parameters
    ----------
    problem, layout, p, machine
        As of `efficiency`.
    target
        An efficiency between 0 and 1.

    Returns
    -------
    n : float
        The order, or points along a side of the domain.

    Raises
    ------
    ValueError, TypeError
        As of `efficiency`; no such target.

    Examples
    --------
    >>> import tilewright as tw
    >>> machine = tw.Machine(alpha=0.0, beta=1e-9, gamma=1e-9)
    >>> [round(tw.comm.isoefficiency("dense", "rows", p, 0.5, machine)) for p in (100, 200)]     # n = O(p)
    [50, 100]
    """
    if not 0 < real(target, "target") < 1:
        raise ValueError(f"target must be an efficiency between 0 and 1, not {target}")
    a, b = _lost(problem, layout, p, machine)
    k = (1 - target) / target
    half = b / (2 * k)
    return half + hypot(half, sqrt(a) / sqrt(k))
