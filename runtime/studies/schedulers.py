"""Compare schedulers on one graph: simulated or measured, as a table, a data frame, a figure and a page."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import product
from numbers import Integral
from typing import Any

from tilewright.backends import check_call, engine_class, find_engine, named
from tilewright.backends.simulate import Owner, known_shapes, noise_of
from tilewright.engine import check_plan, run
from tilewright.graph import Handle, TaskGraph
from tilewright.machine import Machine
from tilewright.runs.progress import ProgressOption, follower, one_page, reports
from tilewright.runs.run import Run
from tilewright.runs.text import weight_unit
from tilewright.scalars import positive, shown, whole
from tilewright.schedulers import SCHEDULERS, Policy, fitting
from tilewright.schedulers import policy as find_policy
from tilewright.schedulers.placed import Placed
from tilewright.studies.table import Row, Table, alternating, row_of

__all__ = ["Row", "Table", "compare_schedulers"]

_MOST = 10**6  # workers, or repeats

Data = Mapping[str, Any] | Mapping[Handle, Any]


@one_page
def compare_schedulers(
    graph: TaskGraph | Mapping[str, TaskGraph],
    workers: int | Sequence[int] = (1, 2, 4, 16, 64),
    *,
    backend: str = "simulate",
    data: Data | Callable[[], Data] | None = None,
    schedulers: Sequence[str | Policy] | None = None,
    machine: Machine | None = None,
    owner: Owner | None = None,
    repeat: int | None = None,
    vary: Mapping[str, Sequence[Any]] | None = None,
    progress: ProgressOption = False,
    **options: Any,
) -> Table:
    """Run one graph under many policies, or several graphs: trees, panels, tile sizes.

    Parameters
    ----------
    graph
        The tasks. Or graphs that do the same in other ways, by name: then each runs under each policy, and their rows
        stand side by side.
    workers
        Numbers of workers: for the simulator those of each rank of the machine, for an engine of all ranks together.
    backend
        ``"simulate"``, or an engine that listens to policies, as in `tilewright.run`: ``"threads"``, ``"mpi"`` or
        ``"dask"``.
    data
        For an engine: the data, of which each run gets a deep copy, or a function that makes it anew. For the
        simulator optional, for its shapes. With several graphs for all of them, or by the same names as these.
    schedulers
        Names or policy objects; by default all that know this graph (`tilewright.schedulers.fitting`), and for several
        graphs ``critical-path``.
    machine
        What is simulated, or what policies plan with.
    owner
        Where handles live on several ranks, see `tilewright.simulate`. In a simulation with owners, these or those of
        the graph's own layout, policies that place tasks themselves (``heft``, ``peft``) cannot be in the comparison,
        and are left out by default.
    repeat
        Runs per row, in turns over the policies so that a busy spell hits all alike; the row has the median.
        By default 5 on an engine, 1 on the simulator, whose runs are all equal, and 5 with ``noise``, of which each
        run has its own. On an engine one more run on each number of workers comes first, and counts for nothing.
    vary
        Options of the backend that take several values in turn, such as ``{"window": [2**20, 2**26]}`` on ranks, or
        ``{"broadcast": ["star", "binomial"]}`` in a simulation: rows for each, called ``window=1048576``.
    progress
        As in `tilewright.run`, over the tasks of all runs; a page shows one after the other.
    options
        Those of the backend, as in `tilewright.run`.

    Raises
    ------
    ValueError
        No data for an engine, an unknown scheduler or backend, ``repeat`` or a number of workers below 1, nothing to
        compare; an option in ``vary`` and beside it; ``backend="serial"``, which runs in program order whatever the
        policy.
    TypeError
        An argument is of another kind, or the backend has no such option.

    Notes
    -----
    Each round runs every policy once, in turns another one first, so rounds are pairs of runs side by side. A policy
    *ties* with the best one unless that was faster in so many rounds that, were they equal, this had a chance below
    5 %: the sign test [1]_. That takes 5 rounds of 5, 6 of 6, 7 of 8. Simulated runs without noise tie if their
    makespans are equal.

    A speed-up is T_1 / T_p. In a simulation T_1 is the time of one CPU worker that has all data. On an engine it is
    measured: the policy's own rows on one worker, or ``repeat`` more runs of each policy where no row is on one; those
    are runs of the same engine, or of one thread where owners, a pool or a launcher fix the number of ranks.

    .. [1] W. J. Conover, Practical Nonparametric Statistics, section 3.4.

    Examples
    --------
    >>> import tilewright as tw
    >>> table = tw.compare_schedulers(tw.cholesky_graph(nt=8), workers=[4], schedulers=["eager", "critical-path"])
    >>> [(row.scheduler, row.makespan) for row in table]
    [('critical-path', 136.0), ('eager', 139.0)]
    """
    graphs = _graphs(graph)
    for one in graphs.values():
        check_plan(one, machine)
    backend = named(backend)
    engine = engine_class(backend)
    if engine.in_order:
        raise ValueError(
            f"backend {backend!r} runs tasks in program order, whatever the policy, so there is nothing "
            f"to compare; backend='threads' with workers=1 does what policies say"
        )
    changes = _changes(vary, {**options, **({} if owner is None else {"owner": owner})})
    also = ["threads_per_task"] if engine.wide_tasks else []
    for change in changes.values():
        check_call(compare_schedulers, options | change, backend, also=also)
    if isinstance(workers, Integral) and not isinstance(workers, bool):
        workers = [int(workers)]
    if isinstance(workers, str | bytes) or not isinstance(workers, Iterable) or getattr(workers, "ndim", 1) != 1:
        raise TypeError(f"workers must be a number of workers or a list of numbers, not {shown(workers)}")
    counts = [whole(positive(count, "workers"), "workers", most=_MOST) for count in workers]
    if isinstance(schedulers, str | bytes) or not (schedulers is None or isinstance(schedulers, Sequence)):
        raise TypeError(f"schedulers must be a list of names or policies, not {schedulers!r}")
    for name, values in (("workers", counts), ("schedulers", schedulers)):
        if values is not None and not len(list(values)):
            raise ValueError(f"{name} must name at least one, so that there is something to compare")
    simulated = engine.virtual
    noisy = simulated and bool(options.get("noise"))
    repeat = (
        whole(positive(repeat, "repeat"), "repeat", most=_MOST)
        if repeat is not None
        else 1
        if simulated and not noisy
        else 5
    )
    if not simulated and data is None:
        raise ValueError(f"backend {backend!r} needs data; backend='simulate' needs none")
    variants = {
        ", ".join(filter(None, [name, label])): (name, change)
        for name, label in product(graphs, changes)
        for change in [changes[label]]
    }
    if schedulers is None and len(variants) > 1:
        schedulers = ["critical-path"]
    if schedulers is None:
        (one,) = graphs.values()
        placed = one.layout is not None or (owner is not None and machine is not None and machine.ranks > 1)
        schedulers = [
            name for name in fitting(one) if not (simulated and placed and issubclass(SCHEDULERS[name], Placed))
        ]
    for scheduler in schedulers:
        find_policy(scheduler)
    if owner is not None:
        options["owner"] = owner

    apart = len(graphs) > 1 and isinstance(data, Mapping) and data.keys() == graphs.keys()
    choices = list(product(variants, schedulers))

    def once(choice: int, count: int, attempt: int, report: ProgressOption) -> Run:
        variant, scheduler = choices[choice]
        name, change = variants[variant]
        chosen = options | change
        if noisy:
            chosen["seed"] = chosen.get("seed", 0) + attempt
        return run(
            graphs[name],
            given(name),
            backend=backend,
            scheduler=scheduler,
            workers=count,
            machine=machine,
            progress=report,
            **chosen,
        )

    def given(name: str) -> Any:
        mine: Any = data[name] if apart else data  # type: ignore[index]
        return mine() if callable(mine) else mine if simulated else copy.deepcopy(mine)

    results: dict[tuple[int, int], list[Run]] = {}
    before = 0  # tasks of the runs that are over
    title = next(iter(graphs.values())).name
    total = len(counts) * len(schedulers) * repeat * sum(len(graphs[name]) for name, _ in variants.values())
    with reports(progress, f"compare on {title}", total) as report:
        for count in counts:
            if not simulated:
                once(0, count, 0, False)
            for attempt, place in alternating(len(choices), repeat):
                told = follower(report) or (_after(before, report) if report else False)
                results.setdefault((count, place), []).append(once(place, count, attempt, told))
                before += len(graphs[variants[choices[place][0]][0]])
    alone: list[list[float]] = []
    for name, change in variants.values():
        mine, one = range(len(alone), len(alone) + len(schedulers)), graphs[name]
        if simulated:
            predicted = Alone(one, machine, given(name), options | change)
            alone += [[predicted(attempt) for attempt in range(repeat)]] * len(mine)
        else:
            own = {(count, place - mine[0]): runs for (count, place), runs in results.items() if place in mine}
            data_of = partial(given, name)
            alone += _measured_alone(one, data_of, backend, schedulers, machine, options | change, own, repeat)
    rows = [row_of(runs, alone[place], variant=choices[place][0]) for (_, place), runs in results.items()]
    timed = not simulated or (machine is not None and (machine.gamma is not None or bool(machine.durations)))
    of = {variant: graphs[name] for variant, (name, _) in variants.items()}
    return Table(of, backend, rows, "s" if timed else weight_unit(next(iter(graphs.values()))))


def _changes(vary: Any, options: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """By label, the options of each variant; without ``vary`` one, called nothing."""
    if vary is None:
        return {"": {}}
    if not isinstance(vary, Mapping):
        raise TypeError(f"vary must be lists of values by option, not {vary!r}")
    for name, values in vary.items():
        if not isinstance(name, str) or isinstance(values, str | bytes) or not isinstance(values, Sequence):
            raise TypeError(f"vary must be lists of values by option, not {name!r}: {values!r}")
        if not len(values):
            raise ValueError(f"vary[{name!r}] must have at least one value, so that there is something to compare")
        if name in options:
            raise ValueError(f"{name} is varied, and given as {options[name]!r}; leave one of them out")
    found = [dict(zip(vary, values, strict=True)) for values in product(*vary.values())]
    return {", ".join(f"{name}={value}" for name, value in change.items()): change for change in found}


def _graphs(graph: Any) -> dict[str, TaskGraph]:
    """Graphs by name; one alone is called nothing."""
    if not isinstance(graph, Mapping):
        return {"": graph}
    if not graph:
        raise ValueError("graph must name at least one, so that there is something to compare")
    for name, one in graph.items():
        if not isinstance(name, str) or not name or not isinstance(one, TaskGraph):
            raise TypeError(f"graph: several to compare are task graphs by name, not {name!r}: {one!r}")
    return dict(graph)


# ------------------------------------------------------------------ one worker


class Alone:
    """T_1 of a simulation: the graph on one CPU worker that has all data and is never idle."""

    def __init__(self, graph: TaskGraph, machine: Machine | None, data: Any, options: Mapping[str, Any]) -> None:
        machine = known_shapes(graph, machine or Machine(), data, options.get("owner") is not None)
        self.graph = graph
        self.costs = machine.replace(workers=1, ranks=1, gpus=0).costs(graph)
        self.noise, self.seed = options.get("noise", 0.0), options.get("seed", 0)

    def __call__(self, attempt: int) -> float:
        noisy = noise_of(self.noise, self.seed + attempt if self.noise else 0)
        if noisy is None:
            return sum(self.costs, 0.0)
        return sum(map(noisy, self.graph.tasks, self.costs), 0.0)


_PLACES = ("owner", "grid", "pool", "comm", "root", "gather", "devices")
"""Options that fix the number of ranks, or add workers beside the cores."""


def _measured_alone(
    graph: TaskGraph,
    given: Callable[[], Any],
    backend: str,
    schedulers: Sequence[str | Policy],
    machine: Machine | None,
    options: Mapping[str, Any],
    results: Mapping[tuple[int, int], list[Run]],
    repeat: int,
) -> list[list[float]]:
    """T_1 of each policy on an engine: its own rows on one worker, or else runs for this alone.

    They are runs of the same engine, but for options, layouts and launchers that want more than one rank: then those of
    one thread in this process, which has no messages either.
    """
    own = {
        place: [run_.makespan for run_ in runs]
        for (_, place), runs in results.items()
        if runs[0].workers == 1 and not options.get("devices")
    }
    missing = [place for place in range(len(schedulers)) if place not in own]
    fixed = graph.layout is not None or any(options.get(name) is not None for name in _PLACES)
    call = find_engine(backend, {k: v for k, v in options.items() if k in engine_class(backend).options})
    engine, others = (backend, options) if not (fixed or call.fixed) else ("threads", {})
    if call.leads:  # one of several ranks measures, the others wait
        for _ in range(repeat):
            for place in missing:
                alone = run(
                    graph, given(), backend=engine, scheduler=schedulers[place], workers=1, machine=machine, **others
                )
                own.setdefault(place, []).append(alone.makespan)
    times = [own.get(place, []) for place in range(len(schedulers))]
    return call.agreed(times)


def _after(before: int, report: Callable[[int], object]) -> Callable[[int], object]:
    return lambda done: report(before + done)
