"""Run a graph: `run(graph, data, backend=..., scheduler=...)` returns a `Run`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from tilewright.backends import BACKENDS, check_call, find_site
from tilewright.backends.execution.program import Program
from tilewright.graph import Handle, TaskGraph
from tilewright.machine import Machine, check_plan
from tilewright.runs.progress import reports
from tilewright.runs.run import Run, _flops
from tilewright.scalars import choice, positive, whole, worker_count
from tilewright.schedulers import Policy
from tilewright.schedulers import policy as find_policy
from tilewright.tiles import Store

if TYPE_CHECKING:
    pass

__all__ = ["check_data", "run"]

_MOST_THREADS = 2**31 - 1  # libraries count them in C integers


def check_data(graph: TaskGraph, data: Any) -> None:
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
        Of the backend; `tilewright.backends.mpi.engine` has ``owner``, ``grid``, ``pool``, ``comm``, ``root``,
        ``gather``, ``threads`` has ``devices``, GPUs that are workers beside the cores, and ``simulate`` has ``owner``,
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
        check_data(graph, data)
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
