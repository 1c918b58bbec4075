"""How many workers one process feeds: the lock that all take for each task, measured here and simulated."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from tilewright.engine import run, simulate
from tilewright.graph import RW, Op, R, TaskGraph
from tilewright.host.cores import cores
from tilewright.host.files import write_text
from tilewright.keywords import strict
from tilewright.linalg.cholesky import cholesky_graph
from tilewright.machine import A_MACHINE, Machine
from tilewright.rates import current
from tilewright.scalars import instance, positive, real
from tilewright.schedulers import Policy
from tilewright.units import seconds

__all__ = ["Contention", "Crowd", "contention_study", "dispatch_seconds"]

_GAIN = 1.1  # of a step in the number of workers, from which on it pays
_TASKS, _WIDTH, _ROUNDS = 8000, 64, 5


class Crowd(NamedTuple):
    """A number of workers on tiles of one size."""

    tile_size: int
    workers: int
    seconds: float
    """Simulated, with the lock."""
    without: float
    """The same without it."""
    task: float
    """Seconds of a task on average."""

    @property
    def slowdown(self) -> float:
        """How many times as long the lock makes the run."""
        return self.seconds / self.without if self.without else 1.0


@dataclass(frozen=True)
class Contention:
    """What `contention_study` found. ``print(study)`` shows a table.

    Attributes
    ----------
    crowds
        One for each tile size and number of workers.
    dispatch
        Seconds that the lock is held for each task.
    tasks
        Those of each graph.
    """

    crowds: tuple[Crowd, ...]
    dispatch: float
    tasks: int

    @property
    def pays(self) -> dict[int, int]:
        """By tile size: the most workers up to which each step makes the run a tenth faster at least."""
        found: dict[int, int] = {}
        for nb in dict.fromkeys(crowd.tile_size for crowd in self.crowds):
            line = [crowd for crowd in self.crowds if crowd.tile_size == nb]
            found[nb] = line[0].workers
            for before, after in pairwise(line):
                if before.seconds < _GAIN * after.seconds:
                    break
                found[nb] = after.workers
        return found

    @property
    def feeds(self) -> dict[int, float]:
        """By tile size: how many workers the lock can feed with tasks as long as the average, task / dispatch + 1."""
        return {c.tile_size: c.task / self.dispatch + 1 if self.dispatch else float("inf") for c in self.crowds}

    def to_json(self, path: str | Path | None = None) -> str:
        """One JSON object, also written to ``path`` if given."""
        text = json.dumps(
            {
                "dispatch": self.dispatch,
                "tasks": self.tasks,
                "pays": self.pays,
                "crowds": [crowd._asdict() for crowd in self.crowds],
            }
        )
        if path is not None:
            write_text(path, text + "\n")
        return text

    def __str__(self) -> str:
        workers = list(dict.fromkeys(crowd.workers for crowd in self.crowds))
        lines = [
            f"{self.tasks} tasks, one at a time through a lock of {seconds(self.dispatch)}; speed-up over one worker, "
            f"and in parentheses without the lock",
            f"{'nb':>5} {'task':>9} " + " ".join(f"{p:>13}" for p in workers) + "   pays up to",
        ]
        pays = self.pays
        for nb in pays:
            line = [crowd for crowd in self.crowds if crowd.tile_size == nb]
            cells = [f"{line[0].seconds / c.seconds:.1f} ({line[0].without / c.without:.1f})" for c in line]
            lines.append(
                f"{nb:>5} {seconds(line[0].task):>9} " + " ".join(f"{cell:>13}" for cell in cells) + f"   {pays[nb]}"
            )
        return "\n".join(lines)


@strict
def contention_study(
    graph: TaskGraph | None = None,
    *,
    tile_sizes: Sequence[int] = (64, 128, 256, 512),
    workers: Sequence[int] = (1, 2, 4, 8, 16, 32, 64, 128, 256),
    dispatch: float | None = None,
    machine: Machine | None = None,
    scheduler: str | Policy = "critical-path",
) -> Contention:
    """Where threads stop paying: a graph simulated on more and more workers of one process, who share one lock.

    Between two kernels a worker runs Python: it notes what is done, asks the policy, looks up buffers. The interpreter
    lets one thread at a time do that, so no more than 1 / dispatch tasks begin in a second, however many cores there
    are.

    Parameters
    ----------
    graph
        By default the Cholesky factorisation of 32 x 32 tiles, of which some hundred workers find work.
    tile_sizes
        Rows and columns of tiles.
    workers
        Numbers of workers, ascending.
    dispatch
        Seconds of the lock for each task; by default what an empty task takes on the threads engine here, measured.
    machine
        What kernels cost: its ``gamma`` or ``durations``. By default flops at the rate of `tilewright.rates`.
    scheduler
        The policy.

    Raises
    ------
    ValueError
        A number is not positive, or ``workers`` do not ascend.
    TypeError
        An argument is of another kind.

    Notes
    -----
    Two simulations for each size and number. The model is a lock that is passed on first come, first served; caches,
    sockets and memory bandwidth are not in it, so real machines are worse.

    Examples
    --------
    >>> import tilewright as tw
    >>> study = tw.contention_study(tw.cholesky_graph(nt=12), tile_sizes=[32, 256], workers=[1, 4, 16], dispatch=6e-6,
    ...                             machine=tw.Machine(gamma=1 / 30e9))
    >>> study.pays
    {32: 4, 256: 16}
    """
    if graph is None:
        graph = cholesky_graph(nt=32)
    instance(graph, "graph", TaskGraph, "a TaskGraph, such as tw.cholesky_graph(nt=4)")
    sizes = [positive(nb, "a number of tile_sizes") for nb in _several(tile_sizes, "tile_sizes")]
    counts = [positive(count, "a number of workers") for count in _several(workers, "workers")]
    if any(a >= b for a, b in pairwise(counts)):
        raise ValueError(f"workers must ascend, not {counts}")
    if machine is None:
        machine = Machine(gamma=1 / current().flops["fp64"])
    instance(machine, "machine", Machine, A_MACHINE)
    lock = dispatch_seconds() if dispatch is None else float(real(dispatch, "dispatch", 0))
    crowds = []
    for nb in sizes:
        sized = machine.replace(tile_size=nb, ranks=1, gpus=0)
        costs = sized.costs(graph)
        for count in counts:
            crowded = sized.replace(workers=count, sockets=min(sized.sockets, count))
            locked, free = (
                simulate(graph, crowded.replace(dispatch=each), scheduler=scheduler).makespan for each in (lock, 0.0)
            )
            crowds.append(Crowd(nb, count, locked, free, sum(costs) / max(len(costs), 1)))
    return Contention(tuple(crowds), lock, len(graph))


def _several(numbers: Any, name: str) -> list[Any]:
    if isinstance(numbers, str | bytes) or not isinstance(numbers, Sequence | np.ndarray) or not len(numbers):
        raise TypeError(f"{name} must be several numbers, such as [64, 128], not {numbers!r}")
    return list(numbers)


def dispatch_seconds(workers: int | None = None) -> float:
    """Seconds that an empty task of a stencil takes on the threads engine: none of them outside of the interpreter."""
    op = Op("empty", _empty, weight=0, in_place=True)
    g = TaskGraph("empty tasks")
    x = g.handles("x")
    for step in range(_TASKS // _WIDTH):
        for i in range(_WIDTH):
            beside = [R(x[j]) for j in (i - 1, i + 1) if 0 <= j < _WIDTH] if step else []
            g.insert(op, RW(x[i]), *beside)
    data = {"x": [np.zeros(1) for _ in range(_WIDTH)]}
    found = [run(g, data, workers=workers or cores()).makespan / len(g) for _ in range(_ROUNDS)]
    return median(found)


def _empty(*_: np.ndarray) -> None:
    pass
