"""The machine a run is planned for or measured on.

The model is that of V. Eijkhout's lecture *Parallel scalability*: a message of n words takes alpha + beta n seconds, a
flop takes gamma seconds. Kernels that were measured have a table of seconds by tile size instead. Memories are *nodes*:
each rank has one for each of its sockets, whose cores share it, and one more for each of its GPUs.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tilewright.graph import Handle, Task, TaskGraph

from tilewright import machine_file
from tilewright.door import upstairs
from tilewright.host.files import write_text
from tilewright.keywords import strict
from tilewright.scalars import function, instance, plain, positive, real, text, whole

__all__ = ["Machine"]

A_MACHINE = "a Machine, such as Machine(workers=4)"
NO_GAMMA = "the machine has no gamma, so nobody knows what a flop costs; Machine(gamma=...)"

_BETWEEN = ("device_alpha", "device_beta", "socket_alpha", "socket_beta")

Shape = tuple[int, ...]
Durations = float | Mapping[int, float]


class _Table(dict[Any, Any]):
    """A dict that stays as it was checked."""

    def _refuse(self, *_: Any, **__: Any) -> Any:
        raise TypeError("tables of a Machine cannot be changed; dataclasses.replace makes a machine with others")

    __setitem__ = __delitem__ = __ior__ = clear = pop = popitem = setdefault = update = _refuse

    def __reduce__(self) -> Any:
        return _Table, (dict(self),)


@strict
@dataclass(frozen=True, slots=True)
class Machine:
    """Ranks with workers, what their messages cost and how long their kernels take.

    Tables are copied: what the caller changes in them afterwards changes nothing here.

    With neither ``gamma`` nor ``durations`` a task costs its `Op.weight` in seconds, as in the textbooks.

    Parameters
    ----------
    workers
        Workers of each rank, CPU cores and GPUs.
    ranks
        How many ranks there are.
    gpus
        How many workers of a rank are GPUs: the last ones.
    alpha, beta
        Seconds per message between ranks, and per 8-byte word.
    gamma
        Seconds per flop of a CPU worker, for ops without ``durations``.
    tile_size
        Rows and columns of a tile, nb, for handles of unknown shape.
    durations
        Seconds of a CPU worker by op name: a number, or a table by tile size.
    acceleration
        How many times faster than a CPU worker a GPU runs each op, by op name.
    overhead
        Seconds a worker spends around each task.
    dispatch
        Seconds that a rank's one lock is held for each task: its workers take turns in that.
    device_alpha, device_beta
        Seconds per transfer between memories of one rank, and per 8-byte word.
    sockets, socket_alpha, socket_beta
        Sockets of a rank, among which its CPU workers are dealt out; seconds per transfer between them, and per
        8-byte word.
    shape, itemsize
        Functions of a handle: the shape of its buffer, and bytes of an element. Where data is known, the engine gives
        them.

    Raises
    ------
    ValueError
        ``workers``, ``ranks``, ``sockets`` or ``tile_size`` is below 1, ``gpus`` is not in 0..``workers``, a time is
        negative or not finite, an acceleration is not positive.
    TypeError
        A field is of another kind, such as a string for a time.

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
    sockets: int = 1
    """How many groups the CPU cores of a rank are in: sockets, or cores with one third-level cache. Neighbours share a
    group, and groups differ by one core at most. What a task wrote lies in its group's memory; what nobody wrote yet in
    that of the first."""
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
    dispatch: float = 0.0
    """Seconds before each task in which its rank's one lock, such as the interpreter's, is held: workers of a rank take
    turns in that, first come, first served. What a task costs by itself is not more for it."""
    device_alpha: float = 0.0
    """Seconds per transfer between a GPU and another memory of its rank."""
    device_beta: float = 0.0
    """Seconds per 8-byte word of such a transfer."""
    socket_alpha: float = 0.0
    """Seconds per transfer between two sockets of one rank."""
    socket_beta: float = 0.0
    """Seconds per 8-byte word between two sockets. One transfer at a time leaves a socket, and one comes in: its cores
    share that bandwidth."""
    shape: Callable[[Handle], Shape] | None = field(default=None, compare=False)
    """Shape of a handle's buffer, where data is known; otherwise every handle is one (nb, nb) tile."""
    itemsize: Callable[[Handle], int] | None = field(default=None, compare=False)
    """Bytes of an element of a handle's buffer, where data is known; otherwise 8."""

    def __post_init__(self) -> None:
        for name in ("workers", "ranks", "tile_size", "sockets"):
            positive(getattr(self, name), f"Machine: {name}")
        if not 0 <= whole(self.gpus, "Machine: gpus") <= self.workers:
            raise ValueError(f"Machine: gpus must be in 0..workers={self.workers}, not {self.gpus}")
        for name in ("alpha", "beta", "gamma", "overhead", "dispatch", *_BETWEEN):
            value = getattr(self, name)
            if value is None and name == "gamma":
                continue
            if not real(value, f"Machine: {name}") >= 0:
                raise ValueError(f"Machine: {name} must be a time in seconds, not {value}")
        for name in ("durations", "acceleration"):
            table = instance(
                getattr(self, name), f"Machine: {name}", Mapping, "a dict by op name, such as {'gemm': 0.1}"
            )
            for op, value in table.items():
                text(op, f"a name in Machine: {name}")
                if name == "acceleration":
                    real(value, f"Machine: acceleration of {op}", 0, above=True)
                elif isinstance(value, Mapping):
                    for size, seconds in value.items():
                        real(size, f"a tile size in Machine: durations of {op}", 0, above=True)
                        real(seconds, f"Machine: durations of {op} at {size}", 0)
                else:
                    real(value, f"Machine: durations of {op}", 0)
        tables = {
            op: _Table({plain(size): plain(seconds) for size, seconds in t.items()})
            if isinstance(t, Mapping)
            else plain(t)
            for op, t in self.durations.items()
        }
        object.__setattr__(self, "durations", _Table(tables))  # copies: the caller may change his
        object.__setattr__(self, "acceleration", _Table({op: plain(times) for op, times in self.acceleration.items()}))
        for name in ("shape", "itemsize"):
            if getattr(self, name) is not None:
                function(getattr(self, name), f"Machine: {name}")

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return str(upstairs("plot.cards:machine")(self))

    def replace(self, **changes: Any) -> Machine:
        """The same machine with some fields changed."""
        return dataclasses.replace(self, **changes)

    # ---------------------------------------------------------------- workers and memories

    @property
    def size(self) -> int:
        """Workers of all ranks."""
        return self.ranks * self.workers

    @property
    def memories(self) -> int:
        """Memories of one rank: its sockets', then its GPUs'."""
        return self.sockets + self.gpus

    @property
    def nodes(self) -> int:
        """Memories of all ranks."""
        return self.ranks * self.memories

    def is_gpu(self, worker: int) -> bool:
        """Whether worker number ``worker`` of the whole machine is a GPU: the last ``gpus`` of each rank are."""
        return worker % self.workers >= self.workers - self.gpus

    def node(self, worker: int) -> int:
        """The memory that worker number ``worker`` of the whole machine computes in."""
        rank, local = divmod(worker, self.workers)
        cores = self.workers - self.gpus
        inside = local * self.sockets // cores if local < cores else self.sockets + local - cores
        return rank * self.memories + inside

    @property
    def kinds(self) -> dict[bool, int]:
        """How many workers of the whole machine are CPU cores (False) and GPUs (True); only kinds there are."""
        counts = {False: self.ranks * (self.workers - self.gpus), True: self.ranks * self.gpus}
        return {gpu: count for gpu, count in counts.items() if count}

    # ---------------------------------------------------------------- costs

    def cost(self, task: Task, worker: int = 0) -> float:
        """Expected seconds of ``task`` on a worker. KeyError for an op without a duration where gamma is unknown."""
        return self._seconds(task, self.is_gpu(worker))

    def costs(self, graph: TaskGraph, gpu: bool = False) -> list[float]:
        """Expected seconds of every task on a CPU worker, or on a GPU. O(tasks).

        ValueError where gamma is unknown and the tasks have flops and no weights, such as a reduction of vectors of
        known sizes: they would cost nothing. (Beside others a weight of 0 says that a task is nothing.)
        """
        if self.shape is not None:
            if self.gamma is None and not self.durations and not any(task.op.weight for task in graph.tasks):
                for task in graph.tasks:
                    if self.flops(task):
                        raise ValueError(f"{task}: {NO_GAMMA}")
            return [self._seconds(task, gpu) for task in graph.tasks]
        known: dict[tuple[int, int, tuple[int, ...]], float] = {}
        costs = []
        for task in graph.tasks:
            key = id(task.op), len(task.uses), task.groups
            seconds = known.get(key)
            if seconds is None:
                seconds = known[key] = self._seconds(task, gpu)
            costs.append(seconds)
        return costs

    def mean_costs(self, graph: TaskGraph) -> list[float]:
        """Seconds of every task, averaged over all workers."""
        kinds, size = self.kinds, self.size
        tables = [(count, self.costs(graph, gpu)) for gpu, count in kinds.items()]
        if len(tables) == 1:
            return tables[0][1]
        return [
            sum(count * seconds for (count, _), seconds in zip(tables, row, strict=True)) / size
            for row in zip(*(costs for _, costs in tables), strict=True)
        ]

    def flops(self, task: Task) -> float:
        """Flops of a task; 0 for an op without a formula."""
        return task.op.flops(*task.arguments(self._shapes(task))) if task.op.flops else 0.0

    def words(self, handle: Handle) -> float:
        """8-byte words of a handle's buffer: a quarter of its elements where they have two bytes."""
        elements = math.prod(self.shape(handle)) if self.shape else self.tile_size**2
        return elements if self.itemsize is None else elements * self.itemsize(handle) / 8

    def transfer(self, words: float, source: int, target: int) -> float:
        """Seconds to send ``words`` from memory ``source`` to memory ``target``."""
        if source == target:
            return 0.0
        memories, sockets = self.memories, self.sockets
        if source // memories != target // memories:
            return self.alpha + self.beta * words
        if source % memories < sockets and target % memories < sockets:
            return self.socket_alpha + self.socket_beta * words
        return self.device_alpha + self.device_beta * words

    def mean_transfer(self, words: float) -> float:
        """Seconds to send ``words``, averaged over all ordered pairs of workers, equal ones left out."""
        if self.size == 1:
            return 0.0
        pairs, remote, crossed, local = _pairs(self.ranks, self.workers, self.gpus, self.sockets)
        return (
            remote * (self.alpha + self.beta * words)
            + crossed * (self.socket_alpha + self.socket_beta * words)
            + local * (self.device_alpha + self.device_beta * words)
        ) / pairs

    def _shapes(self, task: Task) -> list[Shape]:
        shape = self.shape
        if shape is None:
            return [(self.tile_size, self.tile_size)] * len(task.uses)
        return [shape(use.handle) for use in task.uses]

    def _seconds(self, task: Task, gpu: bool) -> float:
        op, shapes = task.op, self._shapes(task)
        table = self.durations.get(op.name)
        if table is not None:
            seconds = float(table) if isinstance(table, int | float) else _interpolate(table, _tile_size(shapes))
        elif self.gamma is not None:
            # Op.weight counts units of nb^3/3 flops.
            seconds = self.gamma * (self.flops(task) if op.flops else op.weight * _tile_size(shapes) ** 3 / 3)
        elif self.durations:
            raise KeyError(f"no duration for op {op.name!r} and no gamma; durations has {', '.join(self.durations)}")
        else:
            seconds = op.weight
        if gpu:
            seconds /= self.acceleration.get(op.name, 1.0)
        return seconds + self.overhead

    # ---------------------------------------------------------------- on disk

    def to_json(self, path: str | Path | None = None) -> str:
        """The machine as JSON, also written to ``path`` if given, without ``shape`` and ``itemsize``: functions."""
        functions = ("shape", "itemsize")
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in functions}
        text = json.dumps(fields, indent=1, default=dict)
        if path is not None:
            write_text(path, text + "\n")
        return text

    @classmethod
    def from_json(cls, source: str | Path) -> Machine:
        """The machine that `to_json` wrote: a path, or the text itself if it starts with ``{``.

        Raises
        ------
        ValueError
            It is damaged, or has fields that this version does not know.
        OSError
            The file cannot be read.
        """
        return machine_file.read(source, cls.from_fields)

    @classmethod
    def from_fields(cls, found: Any) -> Machine:
        """The machine of a JSON object. ValueError that names the field at fault."""
        return cls(**machine_file.fields_of(found))

    @classmethod
    def calibrate(cls, **options: Any) -> Machine:
        """This computer, measured; kept on disk and reused. See `tilewright.studies.calibration.calibrate`."""
        made: Machine = upstairs("studies.calibration:calibrate")(**options)
        return made


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


@lru_cache
def _pairs(ranks: int, workers: int, gpus: int, sockets: int) -> tuple[int, int, int, int]:
    """Ordered pairs of workers: all; of two ranks; of two sockets of a rank; of other memories of a rank."""
    size, cores = ranks * workers, workers - gpus
    pairs, remote = size * (size - 1), size * (size - workers)
    groups = Counter(core * sockets // cores for core in range(cores)).values()
    shared = ranks * sum(count * (count - 1) for count in groups)  # two cores of one memory: free
    crossed = ranks * cores * (cores - 1) - shared
    return pairs, remote, crossed, pairs - remote - shared - crossed
