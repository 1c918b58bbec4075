"""Efficiency and scaling of the dense product: the lecture's formulas, its three questions, and points to check them.

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

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import log2, sqrt
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tilewright.comm.cost import known_gamma
from tilewright.files import write_text
from tilewright.machine import A_MACHINE, Machine
from tilewright.scalars import flag, instance, real, whole
from tilewright.scalars import ranks as rank_count

if TYPE_CHECKING:
    from tilewright.comm.grid import Grid

__all__ = ["FORMULAS", "MODEL", "Point", "Study", "efficiency", "isoefficiency", "scaling_study", "weak_efficiency"]

MODEL = Machine(alpha=1e-6, beta=1e-9, gamma=1e-9)
"""The machine of the lecture's exercises."""

KINDS = ("optimistic", "strong", "weak")


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
    real(p, "p", 1)
    gamma = _gamma(machine)
    if p == 1:
        return 0.0, 0.0
    a, b = known(p, machine)
    return a / gamma, b / gamma


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
    real(n, "n", 0, above=True)
    return 1 / (1 + a / (n * n) + b / n)


def weak_efficiency(problem: str, layout: str, p: float, memory: float, machine: Machine) -> float:
    """E_p where each rank has ``memory`` words of the matrix, or points of the domain: n = sqrt(memory p)."""
    real(memory, "memory", 0, above=True)
    real(p, "p", 1)
    return efficiency(problem, layout, p, sqrt(memory * p), machine)


def isoefficiency(problem: str, layout: str, p: float, target: float, machine: Machine) -> float:
    """The n from which on E_p(n) >= ``target``; 0 on one rank.

    With k = (1 - E)/E it is the positive root of k n^2 - b n - a = 0.

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
    return (b + sqrt(b * b + 4 * a * k)) / (2 * k)


# ------------------------------------------------------------------ points


class Point(NamedTuple):
    """One efficiency."""

    kind: str
    """``"optimistic"``, ``"strong"``, ``"weak"`` or ``"measured"``."""
    layout: str
    p: int
    n: int
    formula: float
    """The lecture's."""
    simulated: float | None = None
    """Of the graph, on the simulator."""
    measured: float | None = None
    """Of the graph, on MPI; None where it was not run."""


@dataclass(frozen=True)
class Study:
    """What `scaling_study` found."""

    points: list[Point]
    machine: Machine
    """Of the formulas and the simulator."""
    computer: Machine | None = None
    """Of the formulas beside measured points."""
    facts: dict[str, Any] = field(default_factory=dict)

    def of(self, kind: str, layout: str) -> list[Point]:
        """The points of one line."""
        return [point for point in self.points if (point.kind, point.layout) == (kind, layout)]

    def to_json(self, path: str | Path | None = None) -> str:
        """One JSON object, also written to ``path`` if given."""
        text = json.dumps({**self.facts, "points": [point._asdict() for point in self.points]})
        if path is not None:
            write_text(path, text + "\n")
        return text

    def plot(self, path: str | Path) -> None:
        """One panel a kind: formulas as lines, simulated points as circles, measured ones as crosses.

        ImportError without matplotlib.
        """
        from tilewright.plot.scaling import figure

        figure(self, path)

    def __str__(self) -> str:
        lines = [f"{'':10} {'layout':8} {'p':>6} {'n':>8} {'formula':>9} {'simulated':>10} {'measured':>9}"]
        for kind, layout, p, n, formula, simulated, measured in self.points:
            cells = ["" if value is None else f"{value:.5f}" for value in (simulated, measured)]
            lines.append(f"{kind:10} {layout:8} {p:6d} {n:8d} {formula:9.5f} {cells[0]:>10} {cells[1]:>9}")
        return "\n".join(lines)


def scaling_study(
    *,
    layouts: Sequence[str] = ("rows", "columns", "grid"),
    machine: Machine = MODEL,
    n: int = 4096,
    memory: int = 1 << 20,
    p: int = 64,
    most: int = 1024,
    simulated: bool = True,
    measured: Sequence[int] = (),
    measured_n: int = 4096,
    computer: Machine | None = None,
) -> Study:
    """Optimistic, strong and weak scaling of the dense product.

    Parameters
    ----------
    layouts
        Of ``"rows"``, ``"columns"`` and ``"grid"``; grids are square, so these have p = 1, 4, 16, ...
    machine
        For formulas and simulator.
    n
        Order of the matrix for strong scaling.
    memory
        Words a rank for weak scaling, M.
    p
        Ranks for optimistic scaling; a power of four if ``layouts`` has ``"grid"``.
    most
        Most ranks: powers of four up to here.
    simulated
        Run every graph on the simulator.
    measured
        Numbers of ranks to run on MPI for real, with n = ``measured_n``.
    computer
        alpha, beta and gamma of this computer, for the formula beside measured points; by default it is calibrated.

    Raises
    ------
    ValueError
        An unknown layout, ``most`` below 1, or a p that has no square grid.

    Notes
    -----
    Ten seconds for the default; two minutes up to 4096 ranks, where a graph has 10^5 tasks.
    """
    for name, values, kind in (("layouts", layouts, "names"), ("measured", measured, "numbers of ranks")):
        if isinstance(values, str | bytes) or not isinstance(values, Sequence):
            raise TypeError(f"{name} must be a list of {kind}, not {values!r}")
    if not layouts:
        raise ValueError("layouts must name at least one")
    instance(machine, "machine", Machine, A_MACHINE)
    if computer is not None:
        instance(computer, "computer", Machine, A_MACHINE)
    for layout in layouts:
        _lost("dense", layout, 4, machine)
    for name, value in {"n": n, "memory": memory, "p": p, "most": most, "measured_n": measured_n}.items():
        whole(value, name, 1)
    rank_count(p, "p")
    rank_count(most, "most")
    for count in measured:
        whole(count, "a number of ranks in measured", 1)
    simulated = flag(simulated, "simulated")
    if "grid" in layouts and round(sqrt(p)) ** 2 != p:
        raise ValueError(f"p={p} is no square, so it has no square grid for optimistic scaling")
    counts = [4**k for k in range(12) if 4**k <= most]
    cases = [
        *(("optimistic", p, size) for size in (64 * 4**k for k in range(5))),
        *(("strong", count, n) for count in counts),
        *(("weak", count, round(sqrt(memory * count))) for count in counts),
    ]
    known: dict[tuple[str, int, int], float] = {}
    points = []
    for kind, count, size in cases:
        for layout in layouts:
            key = layout, count, size
            if simulated and key not in known:
                known[key] = _simulated(_grid_for(layout, count, size), machine)
            points.append(
                Point(kind, layout, count, size, efficiency("dense", layout, count, size, machine), known.get(key))
            )
    if measured:
        computer = computer or _computer()
        points += _measure(layouts, measured, measured_n, computer)
    return Study(points, machine, computer, {"n": n, "memory": memory, "p": p, "measured_n": measured_n})


def _grid_for(layout: str, p: int, n: int) -> Grid:
    from tilewright.comm.grid import Grid, best_grid

    if layout == "grid":
        side = round(sqrt(p))
        r, c = (side, side) if side * side == p else best_grid(p, n)
    else:
        r, c = (p, 1) if layout == "rows" else (1, p)
    return Grid(n, n, r, c)


def _simulated(grid: Grid, machine: Machine) -> float:
    from tilewright.backends.simulate import simulate
    from tilewright.comm.matvec_graph import matvec_graph

    serial = 2 * grid.n**2 * _gamma(machine)
    return serial / (grid.ranks * simulate(matvec_graph(grid), machine, scheduler="eager").makespan)


def _computer() -> Machine:
    from tilewright.comm.calibrate import calibrate

    return calibrate().machine()


def _measure(layouts: Sequence[str], counts: Sequence[int], n: int, computer: Machine) -> list[Point]:
    """Medians over products, of each layout and number of ranks in turn; E against the product on one rank."""
    from tilewright.comm.matvec import DenseOperator

    A = np.random.default_rng(0).standard_normal((n, n))
    x = np.ones(n)
    seconds: dict[tuple[str, int], list[float]] = {}
    for count in sorted({1, *counts}):
        for layout in layouts if count > 1 else ("rows",):
            grid = _grid_for(layout, count, n)
            operator = DenseOperator(A, "grid", grid=(grid.r, grid.c), backend="mpi")
            operator @ x
            taken = seconds[layout, count] = []
            for _ in range(9):
                start = perf_counter()
                operator @ x
                taken.append(perf_counter() - start)
            operator.close()
    alone = statistics.median(seconds["rows", 1])
    return [
        Point("measured", layout, count, n, efficiency("dense", layout, count, n, computer), None,
              alone / (count * statistics.median(seconds[layout, count])) if count > 1 else 1.0)
        for count in counts for layout in layouts
    ]  # fmt: skip
