"""The machine a run is planned for or measured on.

The model is the lecture's: a message of n words takes alpha + beta n seconds, a flop takes gamma seconds. Kernels
that were measured have a table of seconds by tile size instead. Memories are *nodes*: each rank has one for its
CPU workers and one more for each of its GPUs.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tilewright.graph import Handle, Op, Task, TaskGraph

from tilewright.arguments import positive

__all__ = ["Machine", "check_plan", "cores", "worker_count"]

Shape = tuple[int, ...]
Durations = float | Mapping[int, float]


@dataclass(frozen=True, slots=True)
class Machine:
    """Ranks with workers, what their messages cost and how long their kernels take.

    With neither ``gamma`` nor ``durations`` a task costs its `Op.weight` in seconds, as in the textbooks.

    Raises
    ------
    ValueError
        ``workers``, ``ranks`` or ``tile_size`` is below 1, ``gpus`` is not in 0..``workers``, or a time is negative,
        infinite or no number, also one of ``durations``.
    TypeError
        ``workers``, ``ranks`` or ``tile_size`` is not an integer, or a time is nothing that could be one.

    Examples
    --------
    >>> import tilewright as tw
    >>> machine = tw.Machine(ranks=8, workers=1, alpha=1e-6, beta=1e-9, gamma=1e-9)
    >>> round(machine.transfer(1000, 0, 1) * 1e6, 9)          # microseconds for 1000 words
    2.0
    >>> machine.replace(ranks=64).size
    64
    """

    workers: int = 1
    """Workers of each rank, numbered from 0; worker w of rank r is number r ``workers`` + w of the whole machine."""
    ranks: int = 1
    gpus: int = 0
    """How many workers of a rank are GPUs: the last ones. The others are CPU cores."""
    alpha: float = 0.0
    """Seconds per message between ranks."""
    beta: float = 0.0
    """Seconds per 8-byte word between ranks."""
    gamma: float | None = None
    """Seconds per flop of a CPU worker, for ops without ``durations``."""
    tile_size: int = 256
    """Rows and columns of a tile, nb, for handles of unknown shape."""
    durations: Mapping[str, Durations] = field(default_factory=dict)
    """Seconds of a CPU worker by op name: a number, or a table by tile size, read by log-log interpolation."""
    acceleration: Mapping[str, float] = field(default_factory=dict)
    """How many times faster than a CPU worker a GPU runs each op; 1 for ops that are not named."""
    overhead: float = 0.0
    """Seconds a worker spends around each task."""
    device_alpha: float = 0.0
    """Seconds per transfer between memories of one rank."""
    device_beta: float = 0.0
    """Seconds per 8-byte word between memories of one rank."""
    shape: Callable[[Handle], Shape] | None = field(default=None, compare=False)
    """Shape of a handle's buffer, where data is known; otherwise every handle is one (nb, nb) tile."""

    def __post_init__(self) -> None:
        for name in ("workers", "ranks", "tile_size"):
            positive(getattr(self, name), f"Machine: {name}")
        if not 0 <= self.gpus <= self.workers:
            raise ValueError(f"Machine: gpus must be in 0..workers={self.workers}, not {self.gpus}")
        for name in ("alpha", "beta", "gamma", "overhead", "device_alpha", "device_beta"):
            value = getattr(self, name)
            if value is not None:
                _check_time(value, name)
        for op, table in self.durations.items():
            for size, seconds in table.items() if isinstance(table, Mapping) else [(1, table)]:
                _check_time(seconds, f"durations[{op!r}]")
                if isinstance(size, bool) or not isinstance(size, Real) or not 0 < size < math.inf:
                    raise ValueError(f"Machine: durations[{op!r}] is a table by tile size, and {size!r} is none")
        for op, factor in self.acceleration.items():
            if isinstance(factor, bool) or not isinstance(factor, Real) or not 0 < factor < math.inf:
                raise ValueError(f"Machine: acceleration[{op!r}] must be a positive number, not {factor!r}")

    def replace(self, **changes: Any) -> Machine:
        """The same machine with some fields changed."""
        return dataclasses.replace(self, **changes)

    # ---------------------------------------------------------------- workers and memories

    @property
    def size(self) -> int:
        """Workers of all ranks."""
        return self.ranks * self.workers

    @property
    def nodes(self) -> int:
        """Memories of all ranks."""
        return self.ranks * (1 + self.gpus)

    def is_gpu(self, worker: int) -> bool:
        """Whether worker number ``worker`` of the whole machine is a GPU: the last ``gpus`` of each rank are."""
        return worker % self.workers >= self.workers - self.gpus

    def node(self, worker: int) -> int:
        """The memory that worker number ``worker`` of the whole machine computes in."""
        rank, local = divmod(worker, self.workers)
        return rank * (1 + self.gpus) + max(0, local - (self.workers - self.gpus) + 1)

    @property
    def kinds(self) -> dict[bool, int]:
        """How many workers of the whole machine are CPU cores (False) and GPUs (True); only kinds there are."""
        counts = {False: self.ranks * (self.workers - self.gpus), True: self.ranks * self.gpus}
        return {gpu: count for gpu, count in counts.items() if count}

    # ---------------------------------------------------------------- costs

    def cost(self, task: Task, worker: int = 0) -> float:
        """Expected seconds of ``task`` on a worker. KeyError for an op without a duration where gamma is unknown."""
        return self._seconds(task.op, self._shapes(task), self.is_gpu(worker))

    def costs(self, graph: TaskGraph, gpu: bool = False) -> list[float]:
        """Expected seconds of every task on a CPU worker, or on a GPU. O(tasks)."""
        if self.shape is not None:
            return [self._seconds(task.op, self._shapes(task), gpu) for task in graph.tasks]
        known: dict[tuple[int, int], float] = {}
        costs = []
        for task in graph.tasks:
            key = id(task.op), len(task.uses)
            seconds = known.get(key)
            if seconds is None:
                seconds = known[key] = self._seconds(task.op, self._shapes(task), gpu)
            costs.append(seconds)
        return costs

    def mean_costs(self, graph: TaskGraph) -> list[float]:
        """Seconds of every task, averaged over all workers."""
        kinds, size = self.kinds, self.size
        tables = [(count, self.costs(graph, gpu)) for gpu, count in kinds.items()]
        if len(tables) == 1:
            return tables[0][1]
        return [sum(count * seconds for (count, _), seconds in zip(tables, row, strict=True)) / size
                for row in zip(*(costs for _, costs in tables), strict=True)]  # fmt: skip

    def flops(self, task: Task) -> float:
        """Flops of a task; 0 for an op without a formula."""
        return task.op.flops(*self._shapes(task)) if task.op.flops else 0.0

    def words(self, handle: Handle) -> float:
        """8-byte words of a handle's buffer."""
        return math.prod(self.shape(handle)) if self.shape else self.tile_size**2

    def transfer(self, words: float, source: int, target: int) -> float:
        """Seconds to send ``words`` from memory ``source`` to memory ``target``."""
        if source == target:
            return 0.0
        memories = 1 + self.gpus
        if source // memories == target // memories:
            return self.device_alpha + self.device_beta * words
        return self.alpha + self.beta * words

    def mean_transfer(self, words: float) -> float:
        """Seconds to send ``words``, averaged over all ordered pairs of workers, equal ones left out."""
        size, workers, cpus = self.size, self.workers, self.workers - self.gpus
        if size == 1:
            return 0.0
        pairs = size * (size - 1)
        remote = size * (size - workers)
        shared = self.ranks * cpus * (cpus - 1)  # two cores of one memory: free
        local = pairs - remote - shared
        return (remote * (self.alpha + self.beta * words)
                + local * (self.device_alpha + self.device_beta * words)) / pairs  # fmt: skip

    def _shapes(self, task: Task) -> list[Shape]:
        shape = self.shape
        if shape is None:
            return [(self.tile_size, self.tile_size)] * len(task.uses)
        return [shape(use.handle) for use in task.uses]

    def _seconds(self, op: Op, shapes: Sequence[Shape], gpu: bool) -> float:
        table = self.durations.get(op.name)
        if table is not None:
            seconds = float(table) if isinstance(table, int | float) else _interpolate(table, _tile_size(shapes))
        elif self.gamma is not None:
            # Op.weight counts units of nb^3/3 flops.
            seconds = self.gamma * (op.flops(*shapes) if op.flops else op.weight * _tile_size(shapes) ** 3 / 3)
        elif self.durations:
            raise KeyError(f"no duration for op {op.name!r} and no gamma; durations has {', '.join(self.durations)}")
        else:
            seconds = op.weight
        if gpu:
            seconds /= self.acceleration.get(op.name, 1.0)
        return seconds + self.overhead

    # ---------------------------------------------------------------- on disk

    def to_json(self, path: str | Path | None = None) -> str:
        """The machine as JSON, also written to ``path`` if given. ``shape`` is a function and left out."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "shape"}
        text = json.dumps(fields, indent=1, default=dict)
        if path is not None:
            Path(path).write_text(text + "\n")
        return text

    @classmethod
    def from_json(cls, source: str | Path) -> Machine:
        """The machine that `to_json` wrote: a path, or the text itself if it starts with ``{``."""
        text = source if isinstance(source, str) and source.lstrip().startswith("{") else Path(source).read_text()
        fields = json.loads(text)
        fields["durations"] = {
            op: {int(size): seconds for size, seconds in table.items()} if isinstance(table, dict) else table
            for op, table in fields.get("durations", {}).items()
        }
        return cls(**fields)

    @classmethod
    def calibrate(cls, **options: Any) -> Machine:
        """This computer, measured; kept on disk and reused. See `tilewright.calibration.calibrate`."""
        from tilewright.calibration import calibrate

        return calibrate(**options)


def _check_time(value: Any, what: str) -> None:
    """ValueError or TypeError unless it is a finite number of seconds, not negative: NaN comes before no other time."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"Machine: {what} must be a time in seconds, not {value!r}")
    if not 0 <= float(value) < math.inf:
        raise ValueError(f"Machine: {what} must be a time in seconds, finite and not negative, not {value}")


def _tile_size(shapes: Sequence[Shape]) -> float:
    """The geometric mean of all extents: nb for square tiles, less for ragged ones."""
    extents = [extent for shape in shapes for extent in shape]
    return math.prod(extents) ** (1 / len(extents)) if extents else 1.0


def _interpolate(table: Mapping[int, float], size: float) -> float:
    """Seconds at a tile size, linear between logarithms; outside the table the nearest power law goes on."""
    exact = table.get(round(size)) if abs(size - round(size)) < 1e-6 else None
    if exact is not None:
        return exact
    points = sorted((s, t) for s, t in table.items() if t > 0)
    if not points or size <= 0:
        return 0.0
    if len(points) == 1:
        return points[0][1] * (size / points[0][0]) ** 3
    upper = next((place for place, (s, _) in enumerate(points) if s > size), len(points) - 1)
    (s0, t0), (s1, t1) = points[max(upper, 1) - 1], points[max(upper, 1)]
    power = math.log(t1 / t0) / math.log(s1 / s0)
    return t0 * math.pow(size / s0, power)


def check_plan(graph: Any, machine: Any) -> None:
    """TypeError if a run is asked for of something that is no graph, or with something that is no machine."""
    from tilewright.graph import TaskGraph

    if not isinstance(graph, TaskGraph):
        raise TypeError(f"a run wants a TaskGraph, not {graph!r}")
    if machine is not None and not isinstance(machine, Machine):
        raise TypeError(f"machine is a Machine, such as Machine(workers=4), not {machine!r}")


def cores() -> int:
    """Cores this process may use: its affinity mask, which containers and batch systems set."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def worker_count(workers: int | None) -> int:
    """The number of workers a user asked for, or one per core.

    Raises
    ------
    TypeError
        Not an integer.
    ValueError
        Below 1.
    """
    if workers is None:
        return cores()
    return positive(workers, "workers")
