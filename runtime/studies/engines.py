"""Compare engines on one graph: ours, and what others do with the same graph on the same kernels."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from tilewright.backends.execution.engine import Engine
from tilewright.engine import check_plan, run
from tilewright.graph import TaskGraph
from tilewright.host.cores import cores
from tilewright.keywords import strict
from tilewright.machine import Machine
from tilewright.runs.progress import ProgressOption, follower, one_page, reports
from tilewright.runs.run import Run
from tilewright.scalars import nearby, positive, text, whole
from tilewright.schedulers import Policy
from tilewright.schedulers import policy as find_policy
from tilewright.studies.schedulers import Data
from tilewright.studies.table import Table, alternating, in_order, row_of

__all__ = ["ENGINES", "compare_engines"]

_MOST = 10**4  # workers, or repeats


@dataclass(frozen=True)
class Kind:
    """A row of the table of engines."""

    summary: str
    make: Callable[[_Shape, ExitStack], tuple[str | Engine, dict[str, Any]]]
    """The backend, and its options; what has to be closed goes on the stack."""
    listens: bool = True
    """Whether it does what a policy says."""
    ranks: bool = False
    """Whether its name may say ranks and workers: ``mpi:2x1``."""


@dataclass(frozen=True)
class _Shape:
    """Who works."""

    workers: int
    """Workers of all ranks together."""
    ranks: int | None = None


def _plain(name: str, **options: Any) -> Callable[[_Shape, ExitStack], tuple[str | Engine, dict[str, Any]]]:
    return lambda shape, stack: (name, dict(options))


def _mpi(shape: _Shape, stack: ExitStack) -> tuple[str, dict[str, Any]]:
    from tilewright.backends.mpi.options import is_rank
    from tilewright.backends.mpi.pool import Pool

    if is_rank():
        raise ValueError("engines are compared in one process, which starts ranks itself; leave out mpiexec")
    return "mpi", {"pool": stack.enter_context(Pool(shape.ranks or shape.workers))}


def _baseline(name: str) -> Callable[[_Shape, ExitStack], tuple[Engine, dict[str, Any]]]:
    def make(shape: _Shape, stack: ExitStack) -> tuple[Engine, dict[str, Any]]:
        from tilewright.studies import baselines

        if name == "OpenMP":
            from tilewright.studies.openmp import OpenMP

            return OpenMP(), {}
        if name == "StarPU":
            from tilewright.studies.starpu import StarPU

            return stack.enter_context(StarPU()), {}
        engine: Engine = getattr(baselines, name)()
        return engine, {}

    return make


ENGINES: dict[str, Kind] = {
    "serial": Kind("one task after the other, in program order", _plain("serial"), listens=False),
    "threads": Kind("threads of this process", _plain("threads")),
    "threads:pinned": Kind("the same, each bound to a core", _plain("threads", pin="cores")),
    "mpi": Kind("ranks on this host, mpi:2x1 two of one worker each", _mpi, ranks=True),
    "dask": Kind("a Dask cluster, one long task a worker", _plain("dask", mode="resident")),
    "dask:tasks": Kind("a Dask cluster, tasks in groups that its scheduler runs", _plain("dask", mode="tasks")),
    "futures": Kind("baseline: concurrent.futures", _baseline("Futures"), listens=False),
    "dask.threaded": Kind("baseline: Dask's scheduler of threads", _baseline("DaskThreaded"), listens=False),
    "dask.distributed": Kind(
        "baseline: each task one of Dask's, on a cluster", _baseline("DaskDistributed"), listens=False
    ),
    "openmp": Kind("baseline: OpenMP tasks of C, for Cholesky in float64", _baseline("OpenMP"), listens=False),
    "starpu": Kind("baseline: StarPU's tasks of C, for Cholesky in float64", _baseline("StarPU"), listens=False),
}
"""By name, what `compare_engines` compares."""


@strict
@one_page
def compare_engines(
    graph: TaskGraph,
    data: Data | Callable[[], Data],
    engines: Sequence[str] | None = None,
    *,
    workers: int | None = None,
    scheduler: str | Policy = "critical-path",
    repeat: int | None = None,
    machine: Machine | None = None,
    progress: ProgressOption = False,
) -> Table:
    """Run one graph on many engines, and on what others have: which one, and how much faster?

    Parameters
    ----------
    graph
        The tasks.
    data
        The data, of which each run gets a deep copy; or a function that makes it anew.
    engines
        Names of `tilewright.studies.engines.ENGINES`; ``"mpi:2x1"`` is two ranks of one worker each, whatever
        ``workers`` says. By default all that are here, with workers that are not bound.
    workers
        How many tasks run at a time, on all ranks together; by default the cores. ``"serial"`` has one.
    scheduler
        The policy of the engines that have one.
    repeat
        Runs of each engine, in turns, after one of each that does not count; by default 5.
    machine
        What policies in this process plan with.
    progress
        As in `tilewright.run`, over the tasks of all runs; a page shows one after the other.

    Returns
    -------
    A table as from `compare_schedulers`. Rows are compared by whole calls, `Row.call`, with what goes to ranks and
    back; pools and clusters stand by then. `Row.makespan` is from the first task to the end of the last. A speed-up is
    that over ``serial``, which runs in each round whether it has a row or not. `Table.absent` says what is not here,
    and why.

    Raises
    ------
    ValueError
        An unknown engine, ``workers`` or ``repeat`` below 1, or a call on the ranks of mpiexec.
    TypeError
        An argument is of another kind.
    Exception
        Whatever a task raises.

    Notes
    -----
    Baselines run the kernels of the threads engine on the same buffers; only who says which task runs next differs:
    ``concurrent.futures``; Dask's scheduler of threads; Dask's distributed one, for which each task is one of Dask's;
    the tasks of OpenMP and of StarPU, in C that is compiled here where they are found. Ties are those of
    `compare_schedulers`.

    Examples
    --------
    >>> import numpy as np, tilewright as tw
    >>> data = {"A": tw.TiledMatrix.view(4 * np.eye(8), 4)}
    >>> table = tw.compare_engines(tw.cholesky_graph(2), data, ["threads", "futures"], workers=2, repeat=1)
    >>> sorted(row.engine for row in table)
    ['futures', 'threads']
    """
    check_plan(graph, machine)
    if data is None:
        raise ValueError("data: engines compute, so they need some")
    if isinstance(engines, str | bytes) or not (engines is None or isinstance(engines, Sequence)):
        raise TypeError(f"engines must be a list of names, not {engines!r}")
    count = cores() if workers is None else whole(positive(workers, "workers"), "workers", most=_MOST)
    rounds = 5 if repeat is None else whole(positive(repeat, "repeat"), "repeat", most=_MOST)
    find_policy(scheduler)
    here = [name for name in ENGINES if not name.endswith(":pinned")]  # there may be fewer cores than workers
    wanted = here if engines is None else list(dict.fromkeys(text(name, "a name of engines") for name in engines))
    if not wanted:
        raise ValueError("engines must name at least one, so that there is something to compare")
    if not callable(data):
        try:
            copy.deepcopy(data)
        except Exception as error:  # whatever its parts raise
            raise TypeError(f"data cannot be copied for each run ({error}); pass a function that makes it") from error
    shapes = {name: _shape(name, count) for name in wanted}
    names = list(dict.fromkeys(["serial", *wanted]))
    shapes["serial"] = _shape("serial", 1)

    def given() -> Any:
        return data() if callable(data) else copy.deepcopy(data)

    def once(name: str, report: ProgressOption = False) -> tuple[float, Run]:
        backend, options = made[name]
        mine = given()
        start = perf_counter()
        found = run(
            graph,
            mine,
            backend=backend,
            scheduler=scheduler,
            workers=shapes[name].workers,
            machine=machine if plans(backend) else None,
            progress=report,
            **options,
        )
        return perf_counter() - start, found

    absent: dict[str, str] = {}
    made: dict[str, tuple[str | Engine, dict[str, Any]]] = {}
    results: dict[str, list[tuple[float, Run]]] = {}
    with ExitStack() as stack:
        for name in names:  # one run of each before all others
            try:
                made[name] = ENGINES[_kind(name)].make(shapes[name], stack)
                once(name)
            except _missing() as error:
                absent[name] = str(error)
        names = [name for name in names if name not in absent]
        before = 0
        with reports(progress, f"engines on {graph.name}", len(names) * rounds * len(graph)) as report:
            for _, place in alternating(len(names), rounds):
                told = follower(report) or (_after(before, report) if report else False)
                results.setdefault(names[place], []).append(once(names[place], told))
                before += len(graph)
                if report:
                    report(before)  # baselines tell nothing
    alone = [call for call, _ in results["serial"]]
    rows = []
    for name in names:
        if name not in wanted:
            continue
        calls, runs = zip(*results[name], strict=True)
        policy = None if ENGINES[_kind(name)].listens else ""
        rows.append(row_of(runs, alone, calls, engine=name, scheduler=policy))
    return Table(graph, "", rows, measure="call", absent=absent)


def plans(backend: str | Engine) -> bool:
    """Whether policies of this engine are prepared in this process."""
    from tilewright.backends import engine_class

    return backend.plans if isinstance(backend, Engine) else engine_class(backend).plans


def _missing() -> tuple[type[Exception], ...]:
    """What says that an engine is not here."""
    from tilewright.backends.mpi.launcher import LaunchError
    from tilewright.studies.baselines import AbsentError

    return ImportError, AbsentError, LaunchError


def _kind(name: str) -> str:
    """The row of `ENGINES` that a name stands for."""
    return name if name in ENGINES else name.partition(":")[0]


def _shape(name: Any, workers: int) -> _Shape:
    """Who works on the engine of that name. ValueError if there is none; the message has what may be meant."""
    if not isinstance(name, str):
        raise TypeError(f"engines are names, such as 'threads', not {name!r}")
    if in_order(name):
        return _Shape(1)
    if name in ENGINES:
        return _Shape(workers)
    kind, _, size = name.partition(":")
    if kind in ENGINES and ENGINES[kind].ranks:
        found = re.fullmatch(r"([1-9]\d{0,3})x([1-9]\d{0,3})", size)
        if found is None:
            raise ValueError(f"engines: {name!r} is not like {kind}:2x1, ranks and workers of each")
        ranks, each = int(found[1]), int(found[2])
        return _Shape(ranks * each, ranks)
    hint = nearby([name], ENGINES)
    raise ValueError(f"engines: unknown engine {name!r}; known: {', '.join(ENGINES)}{f'; {hint}' if hint else ''}")


def _after(before: int, report: Callable[[int], object]) -> Callable[[int], object]:
    return lambda done: report(before + done)
