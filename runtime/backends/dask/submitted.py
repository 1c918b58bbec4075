"""Mode ``tasks``: the coarsened graph goes to Dask's scheduler, one pure Dask task per group.

A Dask task gets versions and makes new ones, so Dask may run it again anywhere; owners are where it runs unless its
worker is gone. Keys name the tasks: ``('trsm-1a2b3c4d', 'gemm(3,1,0)..trsm(3,1)', 17)``. Data that this process has
goes to its owner before; what is lost with a worker and that Dask cannot make again is sent again, and the run starts
over.
"""

from __future__ import annotations

import asyncio
import heapq
import socket
import sys
import threading
import time
import weakref
from collections import defaultdict
from collections.abc import Callable, Collection, Coroutine, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from uuid import uuid4

import numpy as np

from tilewright.backends.dask import client as clients
from tilewright.backends.dask.client import Ranks
from tilewright.backends.dask.courier import pack
from tilewright.backends.dask.group import Common, TaskFailed, transfers
from tilewright.backends.dask.rank import Values, here
from tilewright.backends.dask.remote import RemoteTile, RemoteTiles
from tilewright.backends.dask.resident import Options, deliver, nbytes_of
from tilewright.backends.dask.submission import Submission, priorities, seconds, submission
from tilewright.backends.execution.engine import Progress
from tilewright.backends.execution.program import Program
from tilewright.backends.execution.torch_state import capture
from tilewright.backends.ranks.outcome import planned, thaw
from tilewright.backends.ranks.output import show
from tilewright.distribution import by_handle, owners
from tilewright.errors import WorkerDied
from tilewright.graph import Handle, TaskGraph
from tilewright.kernels import choice
from tilewright.machine import Machine
from tilewright.passes.coarsen import Coarse, Overheads, coarsen
from tilewright.runs.failure import leave
from tilewright.runs.progress import Ran, tell
from tilewright.runs.trace import MessageRecord, TaskRecord, Trace
from tilewright.schedulers import Policy

if TYPE_CHECKING:
    from distributed import Client, Future

__all__ = ["run_submitted"]

K = TypeVar("K")

ATTEMPTS = 4
LOOK = 0.25  # seconds between two looks at the futures, if nobody says anything
TALE = 5.0  # seconds to wait for the last records
GROUP = 0.15  # share of a worker's memory limit that a group's data may take, by thread; what it changes is there twice
PROCESS = 250e6  # bytes of a worker with Python, Dask and BLAS in it, measured


class Tale:
    """What workers tell while a run goes on. Its method `hear` is called on the client's event loop."""

    def __init__(self, tasks: int, progress: Progress | None, began: float) -> None:
        self.tasks = tasks
        self.progress = progress
        self.began = began
        self.lanes: dict[int, dict[Any, int]] = {}
        """By rank, its threads in the order in which they told something."""
        self.records: dict[int, tuple[dict[str, Any], float, float]] = {}
        self.replaced: set[Handle] = set()
        self.failed = False
        self.news = threading.Event()

    def hear(self, message: dict[str, Any]) -> None:
        if "said" in message:
            show(message["rank"], message["said"], message["error"])
        elif "failed" in message:
            self.failed = True
        else:
            for index, start, end in message["records"]:
                self.records[index] = message, start, end
            self.replaced.update(Handle(name, tuple(index)) for name, index in message["replaced"])
            if self.progress is not None:
                tell(self.progress, len(self.records), self.rows, message)
        if self.failed or len(self.records) == self.tasks:
            self.news.set()

    def rows(self, message: dict[str, Any]) -> list[Ran]:
        """The tasks of a message."""
        rank, lanes = message["rank"], self.lanes.setdefault(message["rank"], {})
        worker = lanes.setdefault((message["address"], message["thread"]), len(lanes))
        shift = self.began if message["host"] == socket.gethostname() else self.began - message["delay"]
        return [
            Ran(rank, worker, index, max(start - shift, 0.0), max(end - shift, 0.0))
            for index, start, end in message["records"]
        ]


def run_submitted(
    client: Client,
    ranks: Ranks,
    program: Program,
    scheduler: str | Policy,
    options: Options,
    progress: Progress | None,
    machine: Machine | None,
    overheads: Overheads,
    placed: bool = True,
) -> Trace:
    """Run a program; results go to its store, or stay on the workers where its matrices are `RemoteTiles`.

    Without ``placed`` each task is one of Dask's, and Dask says where among the ranks, and which first.
    """
    for attempt in range(ATTEMPTS):
        owner = by_handle(program.graph, owners(options.owner, len(ranks.members)))
        plan = _plan(program, ranks, owner, scheduler, machine, overheads, placed)
        try:
            return _attempt(client, ranks, program, plan, options, progress)
        except _Lost as lost:
            if attempt + 1 == ATTEMPTS:
                raise WorkerDied(
                    ", ".join(ranks.addresses), f"data was lost with workers {ATTEMPTS} times ({lost})"
                ) from None
            ranks = _others(client, ranks, options.timeout)
    raise AssertionError("unreachable")


def _others(client: Client, ranks: Ranks, timeout: float) -> Ranks:
    """The same number of ranks on workers that are there now."""
    for left in reversed(range(ATTEMPTS)):
        time.sleep(LOOK)  # the scheduler takes a moment to see who is gone
        found = clients.wait_for_workers(client, timeout)
        others = Ranks(tuple(found[r % len(found)] for r in range(len(ranks.members))), ranks.workers)
        try:
            clients.check(client, others.addresses)
        except WorkerDied:
            if not left:
                raise
        else:
            return others
    raise AssertionError("unreachable")


class _Plan(NamedTuple):
    """What is settled before a run, and for all runs of a prepared program."""

    coarse: Coarse
    order: list[int]
    room: float
    placed: bool


_plans: weakref.WeakKeyDictionary[Program, tuple[Any, _Plan]] = weakref.WeakKeyDictionary()
"""The plans of prepared programs, and with what each was made."""


def _plan(
    program: Program,
    ranks: Ranks,
    owner: tuple[int, ...],
    scheduler: str | Policy,
    machine: Machine | None,
    overheads: Overheads,
    placed: bool,
) -> _Plan:
    memory = [member.memory for member in ranks.members]
    question = owner, scheduler, machine, overheads, ranks.workers, memory, placed
    known = _plans.get(program)
    if known is not None and known[0] == question:
        return known[1]
    places = planned(program.graph, len(ranks.members), (owner, None, ())).places
    room = _room(program, ranks, owner)
    workers = len(ranks.members) * ranks.workers
    coarse = _coarse(program, places, seconds(program, machine, overheads), overheads, workers, room if placed else -1)
    plan = _Plan(coarse, priorities(program.graph, scheduler, machine or Machine()), room, placed)
    if program.prepared and isinstance(scheduler, str):  # a policy with state may say something else next time
        _plans[program] = question, plan
    return plan


_known: weakref.WeakKeyDictionary[TaskGraph, tuple[Any, Coarse]] = weakref.WeakKeyDictionary()


def _size(program: Program, handle: Handle) -> int:
    value = program.store[handle]
    return value.nbytes if isinstance(value, np.ndarray) else 0


def _room(program: Program, ranks: Ranks, owner: Sequence[int]) -> float:
    """Bytes that one group may need. MemoryError if a worker has no room for one task, or none for spilling."""
    limit = min((member.memory for member in ranks.members if member.memory), default=inf)
    for task in program.graph:
        need = sum(_size(program, handle) for handle in {use.handle for use in task.uses})
        if need > clients.ROOM * limit:
            raise MemoryError(
                f"{task} needs {need / 1e6:.0f} MB on one Dask worker, whose limit is {limit / 1e6:.0f} MB, of which "
                f"data may take {clients.ROOM:.0%}; use smaller tiles"
            )
    share = [0] * len(ranks.members)
    for handle, rank in zip(program.graph.handles_used, owner, strict=True):
        share[rank] += _size(program, handle)
    left = clients.ROOM * limit - PROCESS
    if left < min(max(share), GROUP * limit):
        raise MemoryError(
            f"{max(share) / 1e6:.0f} MB of data are for one Dask worker, whose limit is {limit / 1e6:.0f} MB; Dask "
            f"spills at {clients.ROOM:.0%} of it, of which Python and BLAS take {PROCESS / 1e6:.0f} MB, so too little "
            f"is left to work in; start workers with more memory"
        )
    return GROUP * limit / ranks.workers


def _coarse(
    program: Program, places: list[int], cost: list[float], overheads: Overheads, workers: int, room: float
) -> Coarse:
    """`coarsen`; the last result is kept as long as the graph is."""
    question = places, cost, overheads, workers, room
    known = _known.get(program.graph)
    if known is None or known[0] != question:
        sizes = partial(_size, program)
        coarse = coarsen(program.graph, places, cost, overheads, workers=workers, nbytes=sizes, room=room)
        known = _known[program.graph] = question, coarse
    return known[1]


class _Lost(Exception):  # noqa: N818 - it says what happened
    """Dask gave up on a key, as data went with its worker."""


def _attempt(
    client: Client, ranks: Ranks, program: Program, plan: _Plan, options: Options, progress: Progress | None
) -> Trace:
    from dask.highlevelgraph import HighLevelGraph, MaterializedLayer

    run = uuid4().hex[:8]
    graph, store, (coarse, order, room, placed) = program.graph, program.store, plan
    path = tuple(sys.path) if options.kept else ()
    common = Common(run, choice.choice(), path, capture(), here())
    sent, data = submission(run, program, coarse, ranks, order, common)
    rank_of = owners(options.owner, len(ranks.members))
    values = {handle: pack(store[handle]) for handle in data}
    inputs = nbytes_of(values.values())
    held = _scatter(client, ranks, sent, ((handle, rank_of(handle), value) for handle, value in values.items()), room)
    clock = clients.SchedulerClock(client)
    began = time.time()
    tale = Tale(len(graph), progress, began)
    futures: list[Future] = []
    try:
        with clients.bulletin(client).read(run, tale.hear):
            hints: dict[str, Any] = {"workers": sent.workers.get, "priority": sent.priority.get}
            if not placed:
                hints = {"workers": list(ranks.addresses)}
            layer = MaterializedLayer(sent.tasks, annotations=hints)
            keys = [sent.keys[g] for g in sent.wanted]
            if keys:
                futures = client.get(HighLevelGraph({"run": layer}, {"run": set()}), keys, sync=False)
            _wait(
                futures,
                tale,
                client,
                run,
                set(ranks.addresses),
                lambda: _trace(graph, coarse, ranks, sent, tale, {}, began),
            )
            values = _values(client, sent, dict(zip(sent.wanted, futures, strict=True)), program, room)
            tale.news.wait(TALE if graph.tasks else 0)
        share = clock.share()
        moved = _moved(client, ranks, began, run)
    except BaseException:
        for future in futures:
            future.release()
        raise
    del held
    deliver(store, values, tale.replaced)
    trace = _trace(graph, coarse, ranks, sent, tale, moved, began)
    trace.facts = {
        "submitted": len(sent.tasks), "scheduler": share, "groups": len(coarse), "overhead": coarse.overhead,
        "expected": coarse.makespan, "inputs": inputs, "results": nbytes_of(values.values()),
    }  # fmt: skip
    return trace


def _moved(client: Client, ranks: Ranks, began: float, run: str) -> dict[str, Any]:
    """What workers got of a run's values; of those that are still there, as nobody waits for mere numbers."""
    there = clients.workers_of(client)
    left = [address for address in dict.fromkeys(ranks.addresses) if address in there]
    try:
        told = client._run(transfers, began, run, workers=left, on_error="ignore")
        return {address: moved for address, moved in _meanwhile(client, left, told).items() if isinstance(moved, list)}
    except _Lost:
        return {}


def _meanwhile(client: Client, addresses: Collection[str], work: Coroutine[Any, Any, Any]) -> Any:
    """What a coroutine of the client returns, for which these workers are needed.

    Raises
    ------
    _Lost
        One of them went. Dask says so in several ways, or waits for its limit of 30 s to connect again.
    """

    def gone() -> set[str]:
        return set(addresses) - clients.workers_of(client).keys()

    going = asyncio.run_coroutine_threadsafe(work, client.loop.asyncio_loop)
    try:
        while True:
            try:
                return going.result(LOOK)
            except TimeoutError:
                if going.done():
                    raise
                if lost := gone():
                    raise _Lost(", ".join(lost)) from None
    except (KeyError, OSError, ValueError, TimeoutError, CancelledError, asyncio.CancelledError) as error:
        if not gone():
            time.sleep(LOOK)
        if lost := gone():
            raise _Lost(f"{', '.join(lost)}: {type(error).__name__}") from None
        raise
    finally:
        going.cancel()


def _values(client: Client, sent: Submission, futures: dict[int, Future], program: Program, room: float) -> Values:
    """Final values that this process wants; those of matrices on workers become pieces."""
    local: dict[int, list[Handle]] = defaultdict(list)
    for handle, g in sent.final.items():
        family = program.store.families.get(handle.name)
        if isinstance(family, RemoteTiles):
            several = len(sent.outputs[g]) > 1
            family.pieces[handle.index[0], handle.index[1]] = RemoteTile(futures[g], handle if several else None)
        else:
            local[g].append(handle)
    values: Values = {}
    sizes = {g: sum(_size(program, handle) for handle in sent.outputs[g]) for g in local}
    for load in _loads(sizes, room):
        for g, value in zip(load, _gathered(client, [futures[g] for g in load]), strict=True):
            values.update((handle, value[handle] if len(sent.outputs[g]) > 1 else value) for handle in local[g])
    return values


def _gathered(client: Client, futures: list[Future]) -> list[Any]:
    """The values of futures that are done."""
    try:
        values: list[Any] = client.gather(futures, direct=True)
    except (KeyError, OSError, CancelledError, asyncio.CancelledError) as error:
        # What the tasks raised came out before: a value went with its worker, and Dask cannot make it again.
        raise _Lost(f"{type(error).__name__} while results were fetched") from None
    return values


def _loads(sizes: Mapping[K, int], room: float) -> Iterator[list[K]]:
    """Keys in order, as many at a time as have ``room`` bytes together, and at least one.

    A worker has all that one message holds in its memory, also what it had spilled.
    """
    load: list[K] = []
    total = 0
    for key, size in sizes.items():
        if load and total + size > room:
            yield load
            load, total = [], 0
        load.append(key)
        total += size
    if load:
        yield load


def _scatter(
    client: Client, ranks: Ranks, sent: Submission, data: Iterable[tuple[Handle, int, Any]], room: float
) -> list[dict[Any, Future]]:
    """Each owner's data in its memory, ``room`` bytes at a time. The futures have to live as long as the run."""
    by_rank: dict[int, dict[Any, Any]] = defaultdict(dict)
    for handle, rank, value in data:
        by_rank[rank][sent.initial(handle)] = value
    held = []
    for rank, values in by_rank.items():
        address = ranks.addresses[rank]
        for load in _loads({key: nbytes_of([value]) for key, value in values.items()}, room):
            part = {key: values[key] for key in load}
            try:
                going = client._scatter(part, workers=[address], hash=False, direct=True)
                held.append(_meanwhile(client, [address], going))
            except OSError:
                going = client._scatter(part, workers=[address], hash=False, direct=False)
                held.append(_meanwhile(client, [address], going))
    return held


def loosen(run: str, dask_scheduler: Any = None) -> None:
    """On the scheduler: let tasks of a run whose worker is gone go elsewhere."""
    ready = {}
    for task in dask_scheduler.tasks.values():
        places = task.worker_restrictions
        if places and places.isdisjoint(dask_scheduler.workers) and run in str(task.key):
            task.loose_restrictions = True
            if task.state == "no-worker":
                ready[task.key] = "processing"
    dask_scheduler.transitions(ready, stimulus_id=f"loosen-{run}-{time.time()}")


def _wait(
    futures: list[Future], tale: Tale, client: Client, run: str, addresses: set[str], until: Callable[[], Trace]
) -> None:
    """Return when all are done; raise what the first task that failed raised. A worker that goes is made good."""

    def broken() -> bool:
        return any(future.status in ("error", "cancelled", "lost") for future in futures)

    try:
        while futures and not clients.ended(client, futures, 0.01 if tale.failed else LOOK) and not broken():
            if addresses - clients.workers_of(client).keys():
                client.run_on_scheduler(loosen, run)
    except Exception:  # Dask raises where a future is cancelled
        if not broken():
            raise
    states = {future.status for future in futures}
    errors = [future.exception() for future in futures if future.status == "error"]
    failures = [error for error in errors if isinstance(error, TaskFailed)]
    if failures:
        first = min(failures, key=lambda failure: failure.number)
        raised = thaw(first.frozen)
        leave(raised, until(), first.number)
        raise raised
    if errors:
        error = errors[0]
        if type(error).__name__ == "KilledWorker":
            raise WorkerDied(str(getattr(error, "last_worker", "unknown")), f"Dask gave up on {error}")
        raise error
    if states & {"cancelled", "lost"}:
        raise _Lost("cancelled by the scheduler")


def _trace(
    graph: TaskGraph,
    coarse: Coarse,
    ranks: Ranks,
    sent: Submission,
    tale: Tale,
    moved: dict[str, list[tuple[str, Any, int, float, float]]],
    began: float,
) -> Trace:
    """What workers told, as a trace. Threads of one process are its workers, in order of use."""
    here = socket.gethostname()
    ranks_of: dict[str, int] = {address: rank for rank, address in enumerate(ranks.addresses)}
    rows: dict[int, list[tuple[float, float, int]]] = defaultdict(list)
    for index, (message, start, end) in tale.records.items():
        rank = ranks_of.setdefault(message["address"], len(ranks_of))
        shift = began if message["host"] == here else began - message["delay"]
        rows[rank].append((max(start - shift, 0.0), max(end - shift, 0.0), index))
    records = []
    most = ranks.workers
    for rank, own in rows.items():
        free: list[int] = []  # workers that are idle, the first first
        running: list[tuple[float, int]] = []
        lanes = 0
        for start, end, index in sorted(own):
            while running and running[0][0] <= start:
                heapq.heappush(free, heapq.heappop(running)[1])
            if not free:
                free, lanes = [lanes], lanes + 1
            worker = heapq.heappop(free)
            heapq.heappush(running, (end, worker))
            records.append(TaskRecord(index, worker, start, end, rank))
        most = max(most, lanes)
    group = {key: g for g, key in enumerate(sent.keys)}
    messages = []
    for destination, received in moved.items():
        for source, key, nbytes, start, end in received:
            g = group.get(tuple(key) if isinstance(key, list) else key)
            if g is not None and source in ranks_of and destination in ranks_of and sent.outputs[g]:
                messages.append(
                    MessageRecord(
                        ranks_of[source],
                        ranks_of[destination],
                        sent.outputs[g][0],
                        nbytes,
                        max(start - began, 0.0),
                        max(end - began, 0.0),
                        coarse.groups[g].tasks[-1],
                    )
                )
    trace = Trace(graph, most, records, ranks=max(len(ranks_of), 1), messages=messages)
    trace.pure = True
    return trace
