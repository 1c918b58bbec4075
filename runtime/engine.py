"""Run a graph: `run(graph, data, backend=..., scheduler=...)` returns a `Run`; `simulate` predicts one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Unpack

from tilewright.backends import check_call, engine_class, find_engine
from tilewright.backends.execution.engine import Engine, check_options
from tilewright.backends.execution.program import Program
from tilewright.graph import Handle, Task, TaskGraph
from tilewright.keywords import strict
from tilewright.machine import A_MACHINE, Machine
from tilewright.runs.failure import take
from tilewright.runs.progress import ProgressOption, checked, follow_run
from tilewright.runs.run import Run, _flops
from tilewright.runs.trace import Trace
from tilewright.scalars import instance, positive, whole, worker_count
from tilewright.schedulers import Policy
from tilewright.schedulers import policy as find_policy

if TYPE_CHECKING:
    from tilewright.backends.simulate import Noise, Owner
    from tilewright.kinds import EngineOptions

__all__ = ["check_plan", "run", "simulate"]

_MOST_THREADS = 2**31 - 1  # libraries count them in C integers


def run(
    graph: TaskGraph,
    data: Mapping[str, Any] | Mapping[Handle, Any] | None = None,
    *,
    backend: str | Engine | None = None,
    scheduler: str | Policy = "critical-path",
    workers: int | None = None,
    machine: Machine | None = None,
    progress: ProgressOption = False,
    threads_per_task: int = 1,
    **options: Unpack[EngineOptions],
) -> Run:
    """Run a graph on data.

    Parameters
    ----------
    graph
        The tasks. It is frozen, and can run again.
    data
        By handle or handle name: the buffers that tasks read and change in place. See `Store`.
    backend
        One of `BACKENDS`. None is ``"threads"``, in this and in all other calls; but those that work on a dask.array
        where its chunks are, such as `tiled_cholesky`, give one to ``"dask"``. ``"simulate"`` computes nothing and
        needs no data, see `tilewright.simulate`. Inside a call that has made its engine already, that engine: options
        and data are then as it took them, and what the ranks of a collective call still have to agree on they exchange
        here.
    scheduler
        One of `SCHEDULERS`, or an object with ``prepare``, ``push`` and ``pop``.
    workers
        Workers that run tasks, on all ranks together; by default one per core this process may use. Threads are no
        more than there are tasks. For ``simulate`` the workers of each rank of the machine, by default its own.
    machine
        What policies may plan with, such as `Machine.calibrate`; for ``simulate`` the machine to simulate.
    progress
        Draw a progress bar on standard error: tasks done, GFLOP/s, the time left. ``"page"`` serves a page on
        127.0.0.1 instead that follows the run in a browser, until it is over; its address is written to standard error.
        Or a function that is called with the number of tasks done, now and then.
    threads_per_task
        How many threads a task's calls into BLAS and OpenMP may use; more than one is for ``serial`` and ``threads``,
        and for graphs with fewer tasks at a time than the machine has cores.
    options
        Those of the backend; `tilewright.backends.mpi.engine` has ``owner``, ``grid``, ``pool``, ``comm``, ``root``,
        ``gather``, ``threads`` has ``devices``, GPUs that are workers beside the cores, and ``simulate`` has ``owner``,
        ``broadcast``, ``noise``, ``seed``: see `tilewright.simulate`.

    Raises
    ------
    ValueError, TypeError, MissingDataError
        A wrong argument, missing data or data of which the graph uses nothing, before any task runs.
    Exception
        Whatever a task raises, with a note that names the task and the worker. Tasks that have not begun by then
        never run. Its attribute ``run`` is the `Run` until then, with trace, report and picture.

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
    inside = isinstance(backend, Engine)
    if isinstance(backend, Engine):
        check_options(backend.name, options, ())
        found: Engine | type[Engine] = backend
    else:
        found = engine_class(backend)
        check_call(run, options, backend)
    check_plan(graph, machine)
    progress = checked(progress)
    worker_count(workers)
    threads_per_task = whole(positive(threads_per_task, "threads_per_task"), "threads_per_task", most=_MOST_THREADS)
    if threads_per_task > 1 and not found.wide_tasks:
        raise ValueError(f"threads_per_task must be 1 for backend {found.name!r}, not {threads_per_task}")
    engine = find_engine(backend, options, computes=False)
    engine.plan_with(machine)
    if not inside:
        data = engine.argument(data)
    with engine.agreement(run_follows=True):
        policy = find_policy(scheduler)
        program = engine.bind(graph, data)
        if isinstance(program, Program):
            program.threads_per_task = threads_per_task
    name = scheduler if isinstance(scheduler, str) else policy.called

    def told(trace: Trace, failed: Task | None = None) -> Run:
        return Run(
            graph,
            trace,
            engine.name,
            name,
            trace.ranks * trace.workers,
            program.store,
            engine.model,
            dict(engine.switches),
            kernels=program.kernels,
            failed=failed,
        )

    def flops(task: Task) -> float:
        return 0.0 if engine.virtual else _flops(task, program.store)

    title = f"{graph.name}: {name} on {engine.name}"
    with follow_run(progress if engine.tells else False, graph, title, flops, engine.virtual) as report:
        try:
            trace = engine.execute(program, policy, workers, report)
        except BaseException as error:
            left = take(error)
            if left is not None:
                error.run = told(left[0], graph.numbered(left[1]))  # type: ignore[attr-defined]
            raise
    return told(trace)


def check_plan(graph: Any, machine: Any) -> None:
    """TypeError if a run is asked for of something that is no graph, or with something that is no machine."""
    if not isinstance(graph, TaskGraph):
        raise TypeError(f"graph: a run wants a TaskGraph, not {graph!r}")
    if machine is not None:
        instance(machine, "machine", Machine, A_MACHINE)


@strict
def simulate(
    graph: TaskGraph,
    machine: Machine | None = None,
    *,
    scheduler: str | Policy = "critical-path",
    owner: Owner | None = None,
    data: Mapping[str, Any] | Mapping[Handle, Any] | None = None,
    broadcast: str | None = None,
    noise: Noise = 0.0,
    seed: int = 0,
    progress: ProgressOption = False,
) -> Run:
    """Predict a run of ``graph`` on ``machine``. Nothing is computed.

    Parameters
    ----------
    graph
        The tasks. It is frozen, as by any run.
    machine
        Ranks, workers and costs; by default `Machine()`, one worker on which a task takes `Op.weight` seconds.
    scheduler
        One of `SCHEDULERS`, such as ``"heft"`` or ``"lookahead(2)"``, or an object with three methods.
    owner
        The rank where a handle lives, by default that of the graph's layout, where it has one. As for ``mpi`` a
        `Distribution`, a function of tile indices (i, j), or a dict of such rules by handle name; or a function of
        one argument, the handle. A task runs on rank ``on``, or where the first handle it writes lives, or for a
        task that writes nothing the first it reads.
    data
        As in `tilewright.run`, for the shapes only: costs and messages then follow them, ragged tiles too.
    broadcast
        How a version reaches several ranks, with ``owner``: along a ``"binomial"`` tree, a ``"chain"`` or a ``"star"``.
        By default as with the engines, which send to each of up to three readers, and along a binomial tree to more.
    noise
        Relative standard deviation of a task's duration (log-normal, mean 1), or a function
        ``noise(generator, task, seconds) -> seconds``.
    seed
        For the noise. The same arguments give the same run, bit by bit.
    progress
        As in `tilewright.run`; the bar shows simulated tasks per second.

    Returns
    -------
    Run
        With ``backend="simulate"``: trace, messages, bounds and idle times in virtual seconds.

    Raises
    ------
    ValueError
        ``owner`` names a rank that the machine does not have; the policy places tasks on ranks itself
        (``heft``, ``peft``) and ``owner`` is given or the graph has a layout; an unknown scheduler or broadcast.
    SchedulerError
        The policy keeps ready tasks back, hands one out twice or gives one that is not ready.
    KeyError
        The machine has durations but none for some op, and no gamma.

    Notes
    -----
    O(tasks + edges + messages) events, each O(log workers) on top of the policy.

    Examples
    --------
    >>> import tilewright as tw
    >>> run = tw.simulate(tw.cholesky_graph(nt=16), tw.Machine(workers=8))
    >>> run.makespan, run.bounds.lower                    # units of nb^3/3 flops
    (526.0, 512.0)
    """
    return run(
        graph,
        data,
        backend="simulate",
        scheduler=scheduler,
        machine=machine,
        progress=progress,
        owner=owner,
        broadcast=broadcast,
        noise=noise,
        seed=seed,
    )
