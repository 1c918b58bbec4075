"""What every engine returns: `Run`, planned, measured or failed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tilewright.door import upstairs
from tilewright.errors import MissingDataError
from tilewright.graph import Handle, Task, TaskGraph
from tilewright.host.files import write_text
from tilewright.machine import Machine
from tilewright.passes.bounds import Bounds, bounds, mixed_bounds, width
from tilewright.rooms import Room
from tilewright.runs.footprint import high_water
from tilewright.runs.idle import Chain, Idle, chain, split
from tilewright.runs.trace import Trace
from tilewright.runs.verdict import Verdict, judge
from tilewright.tiles import Store

if TYPE_CHECKING:
    from tilewright.passes.conversions import Conversions

__all__ = ["Run"]


@dataclass(frozen=True)
class Run:
    """What happened, or on a simulator would happen, when a graph ran.

    ``run["x"]`` is the final value of handle x. ``print(run)`` shows all of this as a table.

    Examples
    --------
    >>> import tilewright as tw
    >>> run = tw.simulate(tw.cholesky_graph(nt=4), tw.Machine(workers=2))
    >>> run.makespan, run.bounds.lower, round(run.efficiency, 3)
    (35.0, 32.0, 0.914)
    """

    graph: TaskGraph
    """What ran."""
    trace: Trace
    """When and where each task ran, and each message."""
    backend: str
    """The name of the engine."""
    scheduler: str
    """The name of the policy."""
    workers: int
    """Workers of all ranks together."""
    store: Store
    """The values of handles; ``run[name]`` looks there."""
    machine: Machine | None = None
    """What the run was planned with or simulated on, if that was said."""
    switches: dict[str, Any] = field(default_factory=dict)
    """Process-wide settings that held while the run lasted, such as those of cuBLAS."""
    notes: tuple[str, ...] = ()
    """What the caller should know of how it was planned; `print` shows it."""
    measured: int | None = None
    """Bytes in use at the fullest moment beyond those before, where the values are no arrays that tell their size."""
    planned: int | None = None
    """Bytes that the call said it would need, where it did."""
    kernels: dict[str, str] = field(default_factory=dict)
    """For each op with a tile kernel where that came from: a BLAS library or a route. Bits depend on it."""
    failed: Task | None = None
    """The task that raised, of a run that failed: the exception has that run as its attribute ``run``."""

    def __getitem__(self, handle: str | Handle) -> Any:
        key = Handle(handle) if isinstance(handle, str) else handle
        room = self.graph.rooms.get(key.name)
        if room is not None and room.keep and room.indexed and not key.index:
            if not self.graph.unrolled:  # a rank that planned its own part has what its tasks made, or what came
                values = {h: self.store.get(h) for h in self.graph.loops.handles(key.name)}
                return {h: value for h, value in values.items() if value is not None}
            return {h: self.store[h] for h in self.graph.written if h.name == key.name}
        value = self.store[key]
        if room is not None and not room.keep and key not in self.store.given and key.name not in self.store.families:
            raise MissingDataError(
                f"{key} is a room that the run gave back after its last task; "
                f"graph.handles({key.name!r}, ..., keep=True) keeps the values"
            )
        if value is None:
            there = [h for h in self.graph.written if h.name not in self.store.families]
            names = ", ".join(map(str, [*self.store.families, *there[:5], *["..."] * (len(there) > 5)]))
            raise MissingDataError(f"the run has no value for {handle}; it has {names or 'none'}")
        return value

    @property
    def makespan(self) -> float:
        """Seconds from the start of the run to the end of its last task."""
        return self.trace.makespan

    @cached_property
    def _amounts(self) -> list[float]:
        """`task_flops` by task index, of those that ran."""
        ran = None if self.failed is None else {record.task for record in self.trace.records}
        return [self.task_flops(task) if ran is None or task.index in ran else 0.0 for task in self.graph.tasks]

    @cached_property
    def flops(self) -> float:
        """Real-arithmetic flops of the tasks that ran and have a formula; a complex operation counts four times."""
        return sum(self._amounts)

    def task_flops(self, task: Task) -> float:
        """Real-arithmetic flops of one task; 0 without a formula, or on a machine that counts in `Op.weight`."""
        if self.trace.virtual:
            machine = self.machine
            known = machine is not None and (machine.gamma is not None or machine.durations)
            return machine.flops(task) if machine is not None and known else 0.0
        return _flops(task, self.store, self.graph.rooms)

    @property
    def gflops(self) -> float:
        """10^9 flops per second of makespan."""
        return self.flops / self.makespan / 1e9 if self.makespan else 0.0

    @cached_property
    def rated(self) -> bool:
        """Whether at least half of the workers' time in tasks was in such with a formula: else `gflops` says little."""
        spans = [(record.duration, self._amounts[record.task] > 0) for record in self.trace.records]
        counted = sum(span for span, known in spans if known)
        return counted > 0 and 2 * counted >= sum(span for span, _ in spans)

    @cached_property
    def bounds(self) -> Bounds:
        """Lower bounds in seconds, from the measured durations: how short could a run of these tasks be?

        On a machine with CPUs and GPUs they come from the machine's costs, as a task's duration depends on where
        it ran.
        """
        if self.machine is not None and len(self.machine.kinds) > 1:
            return mixed_bounds(self.graph, self.machine)
        return bounds(self.graph, self.workers, self.trace.durations)

    @property
    def efficiency(self) -> float:
        """W / (p T): work over workers times makespan; 1 is workers that are never idle.

        On several kinds of workers W/p is the area bound.
        """
        return self.bounds.area / self.makespan if self.makespan else 1.0

    @property
    def of_bound(self) -> float:
        """Lower bound over makespan, max(W/p, C) / T: 1 is a schedule that cannot be better, whoever is idle."""
        return self.bounds.lower / self.makespan if self.makespan else 1.0

    @property
    def idle(self) -> float:
        """Share of the workers' time that was not spent in tasks."""
        available = self.makespan * self.workers
        return 1 - float(self.trace.busy.sum()) / available if available else 0.0

    @property
    def messages(self) -> int:
        """How many messages went between ranks."""
        return len(self.trace.messages)

    @property
    def bytes(self) -> int:
        """How many bytes those were."""
        return sum(message.nbytes for message in self.trace.messages)

    @cached_property
    def conversions(self) -> Conversions | None:
        """What the conversions between precisions did; None where there were none."""
        from tilewright.passes.conversions import count

        return count(self)

    @cached_property
    def idle_split(self) -> Idle:
        """Where the idle time went, by cause: see `tilewright.runs.idle`."""
        return split(self.trace)

    @cached_property
    def chain(self) -> Chain:
        """The tasks that set this makespan, each with what it waited for: a predecessor, its worker or a message.

        The critical path of ``run.bounds`` is the graph's, this one the schedule's.
        """
        return chain(self.trace)

    @cached_property
    def verdict(self) -> Verdict:
        """What limits this run and what would help, in one sentence: see `tilewright.runs.verdict.judge`."""
        return judge(self)

    @cached_property
    def width(self) -> int:
        """How many tasks could run at once at least, given workers. See `tilewright.passes.bounds.width`."""
        return width(self.graph)

    @cached_property
    def memory(self) -> int:
        """High-water mark of the fullest rank, in bytes: ``measured``, or an upper bound.

        The bound counts the data that the run was given, whoever else holds it, and everything that tasks write from
        its first writer to the end: see `tilewright.runs.footprint.high_water`. The process itself grows by less.
        """
        if self.measured is not None:
            return self.measured
        return max(high_water(self), default=0)

    def report(self, path: str | Path, *others: Run) -> None:
        """Write one HTML page that opens offline, with ``others`` side by side. See `tilewright.plot.html`."""
        write_text(path, upstairs("plot.html:run_page")(self, *others))

    def gantt(self, path: str | Path) -> None:
        """Draw who ran what and when, as PNG, SVG or PDF. See `tilewright.plot.gantt`."""
        upstairs("plot.gantt:gantt")(self, path)

    def save(self, path: str | Path) -> None:
        """Write the run as JSON, without data; `tilewright.runs.saved.load` reads it."""
        upstairs("runs.saved:save")(self, path)

    def _repr_html_(self) -> str:
        """What a notebook shows: the page in a frame of its own."""
        return str(upstairs("plot.html:run_frame")(self))

    def _repr_svg_(self) -> str | None:
        """The Gantt chart, for notebooks that show no scripts; None with more tasks than bars can be seen."""
        if len(self.trace) > 3000 or not self.trace.records:
            return None
        try:
            return str(upstairs("plot.gantt:svg")(self))
        except ImportError:
            return None

    def __str__(self) -> str:
        return str(upstairs("runs.text:text")(self))

    def __repr__(self) -> str:
        unit = upstairs("runs.text:unit_name")(self)
        return (
            f"Run({self.graph.name!r}, {len(self.graph)} tasks, backend={self.backend!r}, "
            f"scheduler={self.scheduler!r}, workers={self.workers}, makespan={self.makespan:.4g} {unit})"
        )


def _flops(task: Task, store: Store, rooms: Mapping[str, Room] = {}) -> float:
    """Flops of a task on this data; 0 without a formula, or where a buffer is not there yet, and has no room."""
    if task.op.flops is None:
        return 0.0

    def shape_of(handle: Handle) -> tuple[int, ...]:
        return tuple(getattr(store[handle], "shape", ()))

    tiles = [
        rooms[handle.name].outline(handle, shape_of)
        if (value := store[handle]) is None and handle.name in rooms
        else value
        for handle, _ in task.uses
    ]
    if any(getattr(tile, "shape", None) is None for tile in tiles):
        return 0.0
    shapes = [tuple(tile.shape) for tile in tiles]
    return task.op.flops(*task.arguments(shapes)) * (4 if any(map(is_complex, tiles)) else 1)


def is_complex(value: Any) -> bool:
    """Whether this is an array of complex numbers."""
    return getattr(getattr(value, "dtype", None), "kind", "f") == "c"  # a torch dtype has no kind
