"""Run a graph: `run(graph, data, backend=..., scheduler=...)` returns a `Run`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tilewright.backends import BACKENDS
from tilewright.errors import MissingDataError
from tilewright.files import write_text
from tilewright.footprint import high_water
from tilewright.graph import Handle, Task, TaskGraph
from tilewright.idle import Idle, split
from tilewright.machine import Machine, check_plan, worker_count
from tilewright.plan import Bounds, bounds, mixed_bounds, width
from tilewright.program import Program
from tilewright.progress import reports
from tilewright.scalars import choice, positive, whole
from tilewright.schedulers import Policy
from tilewright.schedulers import policy as find_policy
from tilewright.site import check_call, find_site
from tilewright.tiles import Store
from tilewright.trace import Trace

if TYPE_CHECKING:
    from tilewright.conversions import Conversions

__all__ = ["Run", "run"]

_MOST_THREADS = 2**31 - 1  # libraries count them in C integers


@dataclass(frozen=True)
class Run:
    """What happened, or on a simulator would happen, when a graph ran.

    ``run["x"]`` is the final value of handle x. ``print(run)`` shows all of this as a table.
    """

    graph: TaskGraph
    trace: Trace
    backend: str
    scheduler: str
    workers: int
    """Workers of all ranks together."""
    store: Store
    machine: Machine | None = None
    """What the run was planned with or simulated on, if that was said."""
    switches: dict[str, Any] = field(default_factory=dict)
    """Process-wide settings that held while the run lasted, such as those of cuBLAS."""
    notes: tuple[str, ...] = ()
    """What the caller should know of how it was planned; `print` shows it."""
    measured: int | None = None
    """Bytes in use at the fullest moment beyond those before, where the values are no arrays that tell their size."""
    kernels: dict[str, str] = field(default_factory=dict)
    """For each op with a tile kernel where that came from: a BLAS library or a route. Bits depend on it."""

    def __getitem__(self, handle: str | Handle) -> Any:
        key = Handle(handle) if isinstance(handle, str) else handle
        value = self.store[key]
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
    def flops(self) -> float:
        """Real-arithmetic flops of all tasks whose op has a formula; a complex operation counts four times."""
        return sum(map(self.task_flops, self.graph))

    def task_flops(self, task: Task) -> float:
        """Real-arithmetic flops of one task; 0 without a formula, or on a machine that counts in `Op.weight`."""
        if self.backend == "simulate":
            machine = self.machine
            known = machine is not None and (machine.gamma is not None or machine.durations)
            return machine.flops(task) if machine is not None and known else 0.0
        return _flops(task, self.store)

    @property
    def gflops(self) -> float:
        """10^9 flops per second of makespan."""
        return self.flops / self.makespan / 1e9 if self.makespan else 0.0

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
        """Lower bound over makespan; 1 is a schedule that cannot be better."""
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
        from tilewright.conversions import count

        return count(self)

    @cached_property
    def idle_split(self) -> Idle:
        """Where the idle time went: start-up, dependencies, communication, overhead, tail."""
        return split(self.trace)

    @cached_property
    def width(self) -> int:
        """How many tasks could run at once at least, given workers. See `tilewright.plan.width`."""
        return width(self.graph)

    @cached_property
    def memory(self) -> int:
        """High-water mark of the fullest rank, in bytes: ``measured``, or an upper bound.

        The bound counts the data that the run was given, whoever else holds it, and everything that tasks write from
        its first writer to the end: see `tilewright.footprint.high_water`. The process itself grows by less.
        """
        if self.measured is not None:
            return self.measured
        return max(high_water(self), default=0)

    def report(self, path: str | Path, *others: Run) -> None:
        """Write one HTML page that opens offline, with ``others`` side by side. See `tilewright.plot.html`."""
        from tilewright.plot.html import run_page

        write_text(path, run_page(self, *others))

    def gantt(self, path: str | Path) -> None:
        """Draw who ran what and when, as PNG, SVG or PDF. See `tilewright.plot.gantt`."""
        from tilewright.plot.gantt import gantt

        gantt(self, path)

    def save(self, path: str | Path) -> None:
        """Write the run as JSON, without data; `tilewright.saved.load` reads it."""
        from tilewright.saved import save

        save(self, path)

    def _repr_html_(self) -> str:
        """What a notebook shows: the page in a frame of its own."""
        from tilewright.plot.html import frame, run_page

        return frame(run_page(self))

    def _repr_svg_(self) -> str | None:
        """The Gantt chart, for notebooks that show no scripts; None with more tasks than bars can be seen."""
        if len(self.trace) > 3000 or not self.trace.records:
            return None
        from tilewright.plot.gantt import svg

        try:
            return svg(self)
        except ImportError:
            return None

    def __str__(self) -> str:
        from tilewright.report import text

        return text(self)

    def __repr__(self) -> str:
        from tilewright.report import units

        unit = units(self)[0] or "units of task weight"
        return (
            f"Run({self.graph.name!r}, {len(self.graph)} tasks, backend={self.backend!r}, "
            f"scheduler={self.scheduler!r}, workers={self.workers}, makespan={self.makespan:.4g} {unit})"
        )


def _check_data(graph: TaskGraph, data: Any) -> None:
    """ValueError for data of which the graph uses nothing, or only a part where it is made for all."""
    ours = graph.layout is not None or (graph.recipe is not None and not graph.extents)
    if not isinstance(data, Mapping) or not len(graph) or ours:  # the library's own calls may give more
        return
    names = {handle.name for handle in graph.handles_used}
    for key, value in data.items():
        name = key.name if isinstance(key, Handle) else key
        if isinstance(name, str) and name not in names:
            raise ValueError(
                f"data has {key!s}, which graph {graph.name!r} does not use; it uses {', '.join(sorted(names))}"
            )
        extent = graph.extents.get(name) if isinstance(key, str) else None
        tiles = getattr(value, "mt", None), getattr(value, "nt", None)
        if extent is not None and None not in tiles and tiles != extent:
            raise ValueError(f"data: {name} has {tiles[0]} x {tiles[1]} tiles, but graph {graph.name!r} is for "
                             f"{extent[0]} x {extent[1]}")  # fmt: skip


def _flops(task: Task, store: Store) -> float:
    """Flops of a task on this data; 0 without a formula, or where a buffer is not there yet."""
    if task.op.flops is None:
        return 0.0
    tiles = [store[use.handle] for use in task.uses]
    if any(getattr(tile, "shape", None) is None for tile in tiles):
        return 0.0
    complex_ = getattr(tiles[-1].dtype, "kind", "f") == "c"  # a torch dtype has no kind
    return task.op.flops(*(tuple(tile.shape) for tile in tiles)) * (4 if complex_ else 1)


def run(
    graph: TaskGraph,
    data: Mapping[str, Any] | Mapping[Handle, Any] | None = None,
    *,
    backend: str = "threads",
    scheduler: str | Policy = "critical-path",
    workers: int | None = None,
    machine: Machine | None = None,
    progress: bool | Callable[[int], object] = False,
    threads_per_task: int = 1,
    **options: Any,
) -> Run:
    """Run a graph on data.

    Parameters
    ----------
    graph
        The tasks. It is frozen, and can run again.
    data
        By handle or handle name: the buffers that tasks read and change in place. See `Store`.
    backend
        One of `BACKENDS`; or ``"simulate"``, which computes nothing and needs no data, see `tilewright.simulate`.
    scheduler
        One of `SCHEDULERS`, or an object with ``prepare``, ``push`` and ``pop``.
    workers
        Workers that run tasks, on all ranks together; by default one per core this process may use. Threads are no
        more than there are tasks. For ``simulate`` the workers of each rank of the machine, by default its own.
    machine
        What policies may plan with, such as `Machine.calibrate`; for ``simulate`` the machine to simulate.
    progress
        Draw a progress bar on standard error: tasks done, GFLOP/s, the time left. Or a function that is called with
        the number of tasks done, now and then.
    threads_per_task
        How many threads a task's calls into BLAS and OpenMP may use; more than one is for ``serial`` and ``threads``,
        and for graphs with fewer tasks at a time than the machine has cores.
    options
        Of the backend; `tilewright.backends.mpi` has ``owner``, ``grid``, ``pool``, ``comm``, ``root``, ``gather``,
        ``threads`` has ``devices``, GPUs that are workers beside the cores, and ``simulate`` has ``owner``,
        ``broadcast``, ``noise``, ``seed``: see `tilewright.simulate`.

    Raises
    ------
    ValueError, TypeError, MissingDataError
        A wrong argument, missing data or data of which the graph uses nothing, before any task runs.
    Exception
        Whatever a task raises, with a note that names the task and the worker. Tasks that have not begun by then
        never run.

    Examples
    --------
    >>> import numpy as np, tilewright as tw
    >>> def axpy(x, y, alpha):
    ...     y += alpha * x
    >>> g = tw.TaskGraph()
    >>> x, y = g.handle("x"), g.handle("y")
    >>> _ = g.insert(axpy, tw.R(x), tw.RW(y), 3.0)
    >>> run = tw.run(g, {"x": np.ones(2), "y": np.zeros(2)}, workers=2)
    >>> run["y"]
    array([3., 3.])
    """
    if "return_run" in options:
        raise TypeError("run() has no argument return_run: the Run is what it returns")
    choice(backend, "backend", (*BACKENDS, "simulate"))
    check_call(run, options, backend)
    if backend == "simulate":
        from tilewright.backends.simulate import simulate

        check_plan(graph, machine)
        machine = machine or Machine()
        if workers is not None:
            machine = machine.replace(workers=workers)
        return simulate(graph, machine, scheduler=scheduler, data=data, progress=progress, **options)
    check_plan(graph, machine)
    worker_count(workers)
    if whole(
        positive(threads_per_task, "threads_per_task"), "threads_per_task", most=_MOST_THREADS
    ) > 1 and backend not in ("serial", "threads"):
        raise ValueError(f"threads_per_task must be 1 for backend {backend!r}, not {threads_per_task}")
    site = find_site(backend, options)
    site.plan_with(machine)
    data = site.argument({} if data is None else data)
    with site.agreement():
        policy = find_policy(scheduler)
        program = Program(graph, Store(data))
        _check_data(graph, data)
        program.threads_per_task = threads_per_task
        graph.frozen = True
    flops = sum(_flops(task, program.store) for task in graph) if progress is True else 0.0
    with reports(progress, graph.name, len(graph), flops) as report:
        try:
            trace = site.execute(program, policy, workers, report)
        except BaseException:
            if program.streams is not None:
                program.streams.wait()  # else the allocator would hand out memory that kernels still write to
            raise
    if program.streams is not None:
        trace = program.streams.measured(trace)
    name = scheduler if isinstance(scheduler, str) else type(policy).__name__
    if machine is not None:
        machine = machine.replace(workers=max(machine.workers, site.gpus), gpus=site.gpus)
    workers = trace.ranks * trace.workers
    return Run(
        graph, trace, backend, name, workers, program.store, machine, dict(site.switches), kernels=program.kernels
    )
