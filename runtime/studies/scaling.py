"""Efficiency over ranks and sizes as the formulas say, as simulated, and as measured: `scaling_study`."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import sqrt
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tilewright.comm.domains import CUTS, FLOPS
from tilewright.comm.scaling import MODEL, _gamma, _lost, efficiency
from tilewright.door import upstairs
from tilewright.host.files import write_text
from tilewright.keywords import strict
from tilewright.machine import A_MACHINE, Machine
from tilewright.scalars import flag, instance, whole
from tilewright.scalars import ranks as rank_count

if TYPE_CHECKING:
    from tilewright.comm.grid import Grid
    from tilewright.graph import TaskGraph

__all__ = ["Point", "scaling_study", "Study"]


KINDS = ("optimistic", "strong", "weak")


# ------------------------------------------------------------------ points


class Point(NamedTuple):
    """One efficiency."""

    kind: str
    """``"optimistic"``, ``"strong"``, ``"weak"`` or ``"measured"``."""
    layout: str
    p: int
    n: int
    formula: float
    """That of the lecture, V. Eijkhout's *Parallel scalability*."""
    simulated: float | None = None
    """What the graph takes on the simulator."""
    measured: float | None = None
    """What the graph takes on MPI; None where it was not run."""


@dataclass(frozen=True)
class Study:
    """What `scaling_study` found."""

    points: list[Point]
    machine: Machine
    """What the formulas and the simulator go by."""
    computer: Machine | None = None
    """What the formulas beside measured points go by."""
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
        upstairs("plot.scaling:figure")(self, path)

    def __str__(self) -> str:
        lines = [f"{'':10} {'layout':8} {'p':>6} {'n':>8} {'formula':>9} {'simulated':>10} {'measured':>9}"]
        for kind, layout, p, n, formula, simulated, measured in self.points:
            cells = ["" if value is None else f"{value:.5f}" for value in (simulated, measured)]
            lines.append(f"{kind:10} {layout:8} {p:6d} {n:8d} {formula:9.5f} {cells[0]:>10} {cells[1]:>9}")
        return "\n".join(lines)


@strict
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
    """Optimistic, strong and weak scaling of the dense product, or of a five-point stencil on a torus.

    Parameters
    ----------
    layouts
        Some of ``"rows"``, ``"columns"`` and ``"grid"`` of a matrix, or of ``"slab"`` and ``"patch"`` of a torus; grids
        and patches are square, so these have p = 1, 4, 16, ...
    machine
        For formulas and simulator.
    n
        Order of the matrix, or points along a side, for strong scaling.
    memory
        Words of the matrix, or points, a rank for weak scaling, M.
    p
        Ranks for optimistic scaling; a square if ``layouts`` has ``"grid"`` or ``"patch"``.
    most
        Most ranks: powers of four up to here.
    simulated
        Run every graph on the simulator.
    measured
        Numbers of ranks to run on MPI for real, with n = ``measured_n``; squares if ``layouts`` has ``"patch"``.
    computer
        alpha, beta and gamma of this computer, for the formula beside measured points; by default it is calibrated.
    measured_n
        Order of the matrix, or points along a side, that is run.

    Returns
    -------
    study : Study
        ``.points``, ``.plot(path)``; print it.

    Raises
    ------
    ValueError
        An unknown layout, layouts of both kinds, ``most`` below 1, a p that has no square grid or patches, or fewer
        points along a side than ranks in a line.
    ImportError
        ``measured`` without mpi4py.

    Notes
    -----
    Ten seconds for the default; two minutes up to 4096 ranks, where a graph has 10^5 tasks.

    Examples
    --------
    >>> import tilewright as tw
    >>> study = tw.comm.scaling_study(layouts=("rows",), p=4, most=4, n=64, memory=64)
    >>> study.points[-1].kind, study.points[-1].p, 0 < study.points[-1].formula < 1
    ('weak', 4, True)
    """
    for name, values, kind in (("layouts", layouts, "names"), ("measured", measured, "numbers of ranks")):
        if isinstance(values, str | bytes) or not isinstance(values, Sequence):
            raise TypeError(f"{name} must be a list of {kind}, not {values!r}")
    if not layouts:
        raise ValueError("layouts must name at least one")
    instance(machine, "machine", Machine, A_MACHINE)
    if computer is not None:
        instance(computer, "computer", Machine, A_MACHINE)
    problem = "stencil" if any(layout in CUTS for layout in layouts) else "dense"
    for layout in layouts:
        _lost(problem, layout, 4, machine)
    for name, value in {"n": n, "memory": memory, "p": p, "most": most, "measured_n": measured_n}.items():
        whole(value, name, 1)
    rank_count(p, "p")
    rank_count(most, "most")
    for count in measured:
        whole(count, "a number of ranks in measured", 1)
    stencils = _stencils(layouts, sorted({1, *measured}), measured_n) if problem == "stencil" and measured else {}
    simulated = flag(simulated, "simulated")
    if {"grid", "patch"} & set(layouts) and round(sqrt(p)) ** 2 != p:
        raise ValueError(f"p={p} is no square, so it has no square grid for optimistic scaling")
    counts = [4**k for k in range(12) if 4**k <= most]
    cases = [
        *(("optimistic", p, size) for size in (64 * 4**k for k in range(5))),
        *(("strong", count, n) for count in counts),
        *(("weak", count, round(sqrt(memory * count))) for count in counts),
    ]
    for kind, count, size in cases if "slab" in layouts else ():
        if count > size:
            raise ValueError(f"{count} slabs of {size} x {size} points, for {kind} scaling, are more than one a row")
    known: dict[tuple[str, int, int], float] = {}
    points = []
    for kind, count, size in cases:
        for layout in layouts:
            key = layout, count, size
            if simulated and key not in known:
                known[key] = _simulated(layout, count, size, machine)
            points.append(
                Point(kind, layout, count, size, efficiency(problem, layout, count, size, machine), known.get(key))
            )
    if measured:
        computer = computer or _computer()
        seconds = _stencil_seconds(stencils) if stencils else _product_seconds(layouts, measured, measured_n)
        points += _measured(problem, layouts, measured, measured_n, computer, seconds)
    return Study(points, machine, computer, {"n": n, "memory": memory, "p": p, "measured_n": measured_n})


def _grid_for(layout: str, p: int, n: int) -> Grid:
    from tilewright.comm.grid import Grid, best_grid

    if layout == "grid":
        side = round(sqrt(p))
        r, c = (side, side) if side * side == p else best_grid(p, n)
    else:
        r, c = (p, 1) if layout == "rows" else (1, p)
    return Grid(n, n, r, c)


def _simulated(layout: str, p: int, n: int, machine: Machine) -> float:
    from tilewright.comm.matvec_graph import matvec_graph
    from tilewright.comm.stencil import stencil_graph
    from tilewright.engine import simulate

    graph = stencil_graph(layout, p, n) if layout in CUTS else matvec_graph(_grid_for(layout, p, n))
    serial = (FLOPS if layout in CUTS else 2) * n**2 * _gamma(machine)
    return serial / (p * simulate(graph, machine, scheduler="eager").makespan)


def _computer() -> Machine:
    from tilewright.studies.network import measure

    return measure().machine()


ROUNDS = 9
"""How often a product is timed, of which the median counts."""

Seconds = Mapping[tuple[str, int], float]
"""What one product takes, by layout and number of ranks."""


def _product_seconds(layouts: Sequence[str], counts: Sequence[int], n: int) -> Seconds:
    from tilewright.comm.matvec import DenseOperator

    A = np.random.default_rng(0).standard_normal((n, n))
    x = np.ones(n)
    found: dict[tuple[str, int], float] = {}
    for count in sorted({1, *counts}):
        for layout in layouts if count > 1 else layouts[:1]:
            grid = _grid_for(layout, count, n)
            operator = DenseOperator(A, "grid", grid=(grid.r, grid.c), backend="mpi")
            operator @ x
            taken = []
            for _ in range(ROUNDS):
                start = perf_counter()
                operator @ x
                taken.append(perf_counter() - start)
            operator.close()
            found[layout, count] = statistics.median(taken)
    return found


def _stencils(layouts: Sequence[str], counts: Sequence[int], n: int) -> dict[tuple[str, int], TaskGraph]:
    """The graphs that are measured, made before anything runs: they refuse what cannot be cut."""
    from tilewright.comm.stencil import stencil_graph

    return {
        (layout, count): stencil_graph(layout, count, n)
        for count in counts
        for layout in (layouts if count > 1 else layouts[:1])
    }


def _stencil_seconds(graphs: Mapping[tuple[str, int], TaskGraph]) -> Seconds:
    """Products with points that stay on their ranks; the slowest rank counts."""
    from tilewright.resident import prepare

    found: dict[tuple[str, int], float] = {}
    for (layout, count), graph in graphs.items():
        product = prepare(graph, inputs=["x"], backend="mpi", workers=count)
        found[layout, count] = statistics.median(map(max, zip(*product.timed(ROUNDS), strict=True)))
        product.close()
    return found


def _measured(
    problem: str, layouts: Sequence[str], counts: Sequence[int], n: int, computer: Machine, seconds: Seconds
) -> list[Point]:
    """E against the product on one rank, which has no layout, beside the formula of this computer."""
    alone = seconds[layouts[0], 1]
    return [
        Point(
            "measured",
            layout,
            count,
            n,
            efficiency(problem, layout, count, n, computer),
            None,
            alone / (count * seconds[layout, count]) if count > 1 else 1.0,
        )
        for count in counts
        for layout in layouts
    ]
