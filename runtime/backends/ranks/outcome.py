"""What ranks tell about a run, and how the whole is put together from it. No MPI here."""

from __future__ import annotations

import contextlib
import io
import pickle
import traceback
import weakref
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from tilewright.backends.ranks.pickling import CodePickler
from tilewright.builder import MANY
from tilewright.distribution import Distribution, near_square
from tilewright.graph import Handle, TaskGraph
from tilewright.passes.listed import Listed, ListedPlan, listed_graph
from tilewright.passes.local import LocalPlan
from tilewright.passes.loops import Nest, nest_of
from tilewright.passes.messages import MessagePlan
from tilewright.passes.one_rank import OneRank
from tilewright.runs.failure import leave
from tilewright.runs.run import Run
from tilewright.runs.trace import MessageRecord, TaskRecord, Trace
from tilewright.tiles import Store

__all__ = [
    "Order",
    "Outcome",
    "failed_at",
    "freeze",
    "kernels_of",
    "listed_of",
    "loops_of",
    "merge",
    "nbytes_of",
    "plan_of",
    "planned",
    "planned_needs",
    "ran",
    "thaw",
    "travelled",
]

Order = tuple[tuple[int, ...] | Distribution, int | None, tuple[int, ...]]
"""What a plan is made with: the owner of each handle in order of first access, or for a `Nest` the rule; ``start``,
``collect``."""


class Outcome(NamedTuple):
    """What one rank has to tell."""

    tasks: np.ndarray
    """One row per task: index, worker, start, end."""
    sent: np.ndarray
    """One row per message that it sent: destination, tag, place of the handle in ``handles``, writer, bytes, start."""
    received: np.ndarray
    """One row per message that it received: source, tag, end."""
    handles: tuple[Handle, ...]
    """Those whose values it sent."""
    failure: tuple[int, bytes] | None
    """Index of the first failed task, and the pickled exception."""
    announced: bool
    values: bytes
    """Pickled ({handle: value}, replaced handles): results that are not in the place of the data of the run."""
    failed_at: tuple[int, float, float] | None = None
    """Worker, start and end of the failed task, if a worker ran it."""
    grown: int | None = None
    """Bytes by which the process grew at its fullest moment, if its system says so."""
    kernels: tuple[tuple[int, str, str], ...] = ()
    """The first task of each op, the op, where its kernel comes from; of a part from loops under ``mpiexec``."""
    said: int = 0
    """Messages with what tasks printed that were sent beside this."""


WORTH = MANY
"""Tasks of a graph from which on a rank makes its part from the loops."""

_plans: weakref.WeakKeyDictionary[TaskGraph, dict[Any, MessagePlan]] = weakref.WeakKeyDictionary()


def planned(graph: TaskGraph, ranks: int, order: Order, results: frozenset[Handle] | None = None) -> MessagePlan:
    """The plan of a graph; the last one is kept as long as the graph is.

    The plan knows its graph by a weak reference, or neither would ever go: who works with the plan holds the graph.
    """
    known = _plans.setdefault(graph, {})
    key = len(graph), ranks, order, results
    if key not in known:
        owner, start, collect = order
        assert isinstance(owner, tuple)
        by_handle = dict(zip(graph.handles_used, owner, strict=True))
        known.clear()  # one per graph: 50 calls must not need more memory than one
        plan = known[key] = MessagePlan(graph, ranks, by_handle, start=start, collect=collect, results=results)
        plan.graph = weakref.proxy(graph)
    return known[key]


_own: weakref.WeakKeyDictionary[Nest | Listed, tuple[Any, OneRank]] = weakref.WeakKeyDictionary()


def plan_of(graph: TaskGraph | Nest | Listed, ranks: int, rank: int, order: Order) -> MessagePlan | OneRank:
    """`planned`, of a graph; of loops, or tasks in arrays, what a rank plans for itself alone. The last one is kept as
    long as they are, and knows them by a weak reference, too."""
    if isinstance(graph, TaskGraph):
        return planned(graph, ranks, order)
    key = ranks, rank, order
    known = _own.get(graph)
    if known is None or known[0] != key:
        owner, start, collect = order
        plan: OneRank
        if isinstance(graph, Nest):
            assert isinstance(owner, Distribution)
            plan = LocalPlan(graph, ranks, rank, owner, start, collect)
            plan.nest = weakref.proxy(graph)
        else:
            assert isinstance(owner, tuple)
            plan = ListedPlan(graph, ranks, rank, owner, start, collect)
            plan.graph = weakref.proxy(graph)
        known = _own[graph] = key, plan
    return known[1]


def listed_of(graph: TaskGraph) -> TaskGraph | Listed:
    """What ranks get that have to be told all tasks: arrays, of which each makes its part, where that pays."""
    return (listed_graph(graph) if len(graph) >= WORTH else None) or graph


def loops_of(graph: TaskGraph, owner: Any, ranks: int) -> tuple[Nest, Distribution] | None:
    """The loops of a graph and a rule of owners for which ranks make their parts alone; None where that does not pay.

    ``owner`` is the rule of a call, None where it has none.
    """
    if len(graph) < WORTH:
        return None
    rule = owner
    if owner is None:
        rule = near_square(ranks) if graph.layout is None else graph.layout.rule
    if not isinstance(rule, Distribution) or rule.ranks > ranks or (nest := nest_of(graph)) is None:
        return None
    return nest, rule


def planned_needs(plan: MessagePlan, store: Store, window: int) -> list[int]:
    """Bytes that each rank needs: what it reads first, what it makes, and the window of others' tiles."""
    return plan.peak_memory(partial(nbytes_of, store), window)


def nbytes_of(store: Store, handle: Handle) -> int:
    """Bytes of the array of a handle."""
    value = store[handle]
    return value.nbytes if isinstance(value, np.ndarray) else 0


class Elsewhere(Exception):  # noqa: N818 - what it shows is where
    """The traceback that an exception had in another process, shown as its cause."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


class _ErrorPickler(CodePickler):
    main_is_there = True  # so that ``except`` knows the class; that of a pool's caller is not here, and goes as code


def failed_at(team: Any, number: int, began: float) -> tuple[int, float, float] | None:
    """`Outcome.failed_at` of the task of that number, from the workers who ran it."""
    found = team.failed_at.get(number)
    return None if found is None else (found[0], found[1] - began, found[2] - began)


def travelled(sent: Iterable[Any], received: Iterable[Any], began: float) -> dict[str, Any]:
    """`Outcome.sent`, `Outcome.received` and `Outcome.handles` of what a courier counted: (message, bytes, start) and
    (message, end)."""
    handles: dict[Handle, int] = {}
    out = [
        (m.destination, m.tag, handles.setdefault(m.handle, len(handles)), m.writer, nbytes, start - began)
        for m, nbytes, start in sent
    ]
    into = [(m.source, m.tag, end - began) for m, end in received]
    return {
        "sent": np.array(out, float).reshape(-1, 6),
        "received": np.array(into, float).reshape(-1, 3),
        "handles": tuple(handles),
    }


def ran(team: Any, plan: MessagePlan | OneRank, began: float) -> np.ndarray:
    """`Outcome.tasks` of the workers of one rank; without those that made a copy anew which another rank has."""
    origin = np.array(team.part.origin, np.int64)
    tables = [np.zeros((0, 4))]
    for worker, records in enumerate(team.records):
        if records:
            index, start, end = np.array(records, float).reshape(-1, 3).T
            tables.append(
                np.column_stack([origin[index.astype(int)], np.full(len(index), worker), start - began, end - began])
            )
    rows = np.concatenate(tables)
    if isinstance(plan, MessagePlan) and plan.anew:
        rows = rows[np.array(plan.places)[rows[:, 0].astype(int)] == team.rank]
    elif isinstance(plan, OneRank) and len(plan.anew):
        rows = rows[~np.isin(rows[:, 0], plan.anew)]
    return rows


def freeze(error: BaseException) -> bytes:
    """An exception as bytes, with the text of its traceback; one that cannot travel becomes a RuntimeError."""
    if isinstance(getattr(error, "run", None), Run):  # of a run inside the task: data of this process
        del error.run  # type: ignore[attr-defined]
    lines = "".join(traceback.format_exception(error)) if error.__traceback__ is not None else ""
    with contextlib.suppress(Exception):
        return _pickled(error, lines)
    with contextlib.suppress(Exception), _alone(error):  # Dask brings the others along, which may not travel
        return _pickled(error, lines)
    notes = " ".join(getattr(error, "__notes__", []))
    return pickle.dumps((RuntimeError(f"{type(error).__name__}: {error} {notes}".strip()), lines))


def _pickled(error: BaseException, lines: str) -> bytes:
    buffer = io.BytesIO()
    _ErrorPickler(buffer, pickle.HIGHEST_PROTOCOL).dump((error, lines))
    data = buffer.getvalue()
    pickle.loads(data)
    return data


@contextlib.contextmanager
def _alone(error: BaseException) -> Iterator[None]:
    """The exception without its traceback and those that led to it, in a block."""
    kept = error.__traceback__, error.__cause__, error.__context__, error.__suppress_context__
    error.__traceback__ = error.__cause__ = error.__context__ = None
    try:
        yield
    finally:
        error.__traceback__, error.__cause__, error.__context__, error.__suppress_context__ = kept


def thaw(data: bytes) -> BaseException:
    """The exception that `freeze` took; its cause shows where it was raised."""
    try:
        error: BaseException
        error, lines = pickle.loads(data)
    except Exception as problem:
        return RuntimeError(f"a rank raised an exception that cannot be read here: {problem}")
    if lines and error.__traceback__ is None:  # Dask brings tracebacks along
        error.__cause__ = Elsewhere(lines)
    return error


def kernels_of(outcomes: list[Outcome]) -> dict[str, str]:
    """Where the kernels of each op come from, in the order in which ops come first."""
    found: dict[str, dict[str, None]] = {}
    for _, op, sources in sorted(row for outcome in outcomes for row in outcome.kernels):
        found.setdefault(op, {}).update(dict.fromkeys(sources.split(", ")))
    return {op: ", ".join(sources) for op, sources in found.items()}


def merge(graph: TaskGraph, workers: int, outcomes: list[Outcome]) -> Trace:
    """One trace of what all ranks tell. Raises what the first task that failed raised, with the trace until then."""
    trace = _merged(graph, workers, outcomes)
    failures = [outcome.failure for outcome in outcomes if outcome.failure is not None]
    if failures:
        number, frozen = min(failures)
        for rank, outcome in enumerate(outcomes):
            if outcome.failure == (number, frozen) and outcome.failed_at is not None:
                worker, start, end = outcome.failed_at
                trace.failure = TaskRecord(number, worker, start, end, rank)
        error = thaw(frozen)
        leave(error, trace, number)
        raise error
    return trace


def _records(tables: list[np.ndarray]) -> Iterator[TaskRecord]:
    """What `Outcome.tasks` of all ranks say, as a trace sorts them."""
    rows = np.concatenate([np.zeros((0, 4)), *tables])
    rank_of = np.repeat(np.arange(len(tables)), list(map(len, tables)))
    order = np.lexsort((rows[:, 0], rows[:, 3], rows[:, 2]))
    whole = rows[order, :2].astype(int).T.tolist()
    return map(TaskRecord._make, zip(*whole, *rows[order, 2:].T.tolist(), rank_of[order].tolist(), strict=True))


def _messages(traffic: list[tuple[np.ndarray, np.ndarray, tuple[Handle, ...]]]) -> list[MessageRecord]:
    """What `Outcome.sent` and `Outcome.received` of all ranks say."""
    ends = {
        (int(source), rank, int(tag)): end
        for rank, (_, received, _) in enumerate(traffic)
        for source, tag, end in received.tolist()
    }
    return [
        MessageRecord(rank, destination, handles[handle], nbytes, start, ends[rank, destination, tag], writer)
        for rank, (sent, _, handles) in enumerate(traffic)
        for (destination, tag, handle, writer, nbytes), start in zip(
            sent[:, :5].astype(int).tolist(), sent[:, 5].tolist(), strict=True
        )
        if (rank, destination, tag) in ends  # in a run that failed some never came
    ]


def _merged(graph: TaskGraph, workers: int, outcomes: list[Outcome]) -> Trace:
    tables = [outcome.tasks for outcome in outcomes]
    traffic = [(outcome.sent, outcome.received, outcome.handles) for outcome in outcomes]
    trace = Trace(graph, workers, partial(_records, tables), ranks=len(outcomes), messages=partial(_messages, traffic))
    trace.grown = tuple(outcome.grown for outcome in outcomes if outcome.grown is not None)
    return trace
