"""Mode ``resident``: every Dask worker runs its rank's part in one long task; see `tilewright.cluster.part`.

All ranks have to run at the same time, so the run waits until all have begun, for a limited time, and ends with
`WorkerDied` if one goes. Nothing is computed again: a lost part is noticed by its address.
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import uuid4

import numpy as np

from tilewright.ambient import capture
from tilewright.backends import Progress
from tilewright.cluster import client as clients
from tilewright.cluster.client import Ranks
from tilewright.cluster.part import Values, run_part, told_of
from tilewright.cluster.post import Job, pack
from tilewright.cluster.remote import Piece, RemoteTiles
from tilewright.distribution import owners
from tilewright.errors import WorkerDied
from tilewright.graph import Access, Handle
from tilewright.kernels import blas
from tilewright.machine import cores
from tilewright.messages import MessagePlan
from tilewright.mpi.buffers import layout
from tilewright.mpi.outcome import Order, Outcome, merge, planned
from tilewright.program import Program
from tilewright.schedulers import Policy
from tilewright.tiles import Store, TiledMatrix
from tilewright.trace import Trace

if TYPE_CHECKING:
    from distributed import Client, Future

__all__ = ["Options", "deliver", "families_of", "needs", "outlines_of", "run_resident", "scatter"]

SMALL = 1 << 16  # bytes that travel with the call; more are scattered
LOOK = 0.5  # seconds between two looks at the workers


class Options(NamedTuple):
    """What a run is told, beside its program."""

    owner: Any
    window: int
    timeout: float
    kept: bool
    """The cluster is our own, on this host."""


def run_resident(
    client: Client, ranks: Ranks, program: Program, scheduler: str | Policy, options: Options,
    progress: Progress | None,
) -> Trace:  # fmt: skip
    """Run a program; results go to its store, or stay on the workers where its matrices are `RemoteTiles`."""
    graph, store = program.graph, program.store
    rank_of = owners(options.owner, len(ranks.members))
    order: Order = tuple(rank_of(handle) for handle in graph.handles_used), None, ()
    plan = planned(graph, len(ranks.members), order)
    families, outlines = families_of(store), outlines_of(program)
    contents = _dumps((graph, scheduler, order, families, outlines))
    stay = tuple(name for name, family in store.families.items() if isinstance(family, RemoteTiles))
    run = uuid4().hex[:8]
    path = tuple(sys.path) if options.kept else ()
    keys = [(f"{_word(graph.name)}-{run}", rank) for rank in range(len(ranks.members))]
    jobs = [
        Job(run, keys[rank], rank, ranks.addresses, contents, ranks.workers, options.window, blas.current().name,
            options.timeout, progress is not None, path, stay, capture())
        for rank in range(len(ranks.members))
    ]  # fmt: skip
    done = [0] * len(ranks.members)

    def hear(message: dict[str, Any]) -> None:
        done[message["rank"]] = message["done"]
        if progress is not None:
            progress(sum(done))

    clock = clients.SchedulerClock(client)
    with clients.bulletin(client).read(run, hear):
        futures = _submit(client, ranks, jobs, plan, store, keys)
        results = _results(client, ranks, futures)
    outcomes = [outcome for outcome, _ in results]
    trace = merge(graph, plan, ranks.workers, outcomes)
    replaced: set[Handle] = set().union(*(pickle.loads(outcome.values) for outcome in outcomes if outcome.values))
    for _, values in results:
        deliver(store, values, replaced)
    for handle, rank in plan.final_places.items():
        family = store.families.get(handle.name)
        if isinstance(family, RemoteTiles):
            family.pieces[handle.index[0], handle.index[1]] = Piece(futures[rank], handle)
    if progress is not None:
        progress(len(graph))
    trace.facts = {"submitted": len(futures), "scheduler": clock.share()}
    return trace


def _dumps(value: Any) -> bytes:
    """Pickle, functions of the main module and of no module by value."""
    from distributed.protocol import pickle as dask_pickle

    return dask_pickle.dumps(value)


def _word(name: str) -> str:
    """The first word of a graph's name, for keys; Dask's dashboard groups by it."""
    word = "".join(letter for letter in name.split()[0] if letter.isalnum()) if name.split() else ""
    return f"{word or 'graph'}-part" if word.isalpha() else "graph-part"


# ------------------------------------------------------------------ data


def families_of(store: Store) -> dict[str, tuple[tuple[int, int], int, str, str]]:
    """Shape, tile size, dtype and order of each tiled matrix: what a worker has to know of tiles elsewhere."""
    return {
        name: (family.shape, family.tile_size, family.dtype.str, _order(family))
        for name, family in store.families.items()
        if isinstance(family, TiledMatrix)
    }


def _order(matrix: TiledMatrix) -> str:
    if isinstance(matrix, RemoteTiles):
        return matrix.order
    return layout(matrix[0, 0]) if len(matrix) else "C"


def outlines_of(program: Program) -> dict[Handle, tuple[tuple[int, ...], str]]:
    """Shape and dtype of the arrays that are in no tiled matrix."""
    store = program.store
    return {
        handle: (value.shape, value.dtype.str)
        for handle in program.graph.handles_used
        if not isinstance(store.families.get(handle.name), TiledMatrix)
        and isinstance(value := store[handle], np.ndarray)
        and not value.dtype.hasobject
    }


def _parcels(plan: MessagePlan, store: Store) -> list[dict[Handle, Any]]:
    """By rank, the data it begins with: what it owns and somebody reads, and what is no array and it writes."""
    parcels: list[dict[Handle, Any]] = [{} for _ in range(plan.ranks)]
    for handle in plan.graph.inputs:
        parcels[plan.owner(handle)][handle] = _piece_or_value(store, handle)
    for task, place in zip(plan.graph.tasks, plan.places, strict=True):
        for handle, access in task.uses:
            if access is Access.WRITE:
                value = store[handle]
                if value is not None and (not isinstance(value, np.ndarray) or value.dtype.hasobject):
                    parcels[place].setdefault(handle, value)
    return parcels


def _piece_or_value(store: Store, handle: Handle) -> Any:
    family = store.families.get(handle.name)
    if isinstance(family, RemoteTiles):
        return family.pieces[handle.index[0], handle.index[1]]
    return pack(store[handle])


def needs(plan: MessagePlan, store: Store, window: int) -> list[int]:
    """Bytes that each rank needs: what it reads first, what it makes, and the window of others' tiles."""

    def size(handle: Handle) -> int:
        value = store[handle]
        return value.nbytes if isinstance(value, np.ndarray) else 0

    return plan.peak_memory(size, window)


def scatter(client: Client, value: Any, address: str) -> Future:
    """A value in the memory of one worker; past the scheduler where the worker can be reached."""
    try:
        future: Future = client.scatter([value], workers=[address], hash=False, direct=True)[0]
    except OSError:
        future = client.scatter([value], workers=[address], hash=False, direct=False)[0]
    return future


def deliver(store: Store, values: Values, replaced: set[Handle]) -> None:
    """Put results into the user's arrays; into the store where they have none. On several cores if it pays."""
    copies = []
    for handle, value in values.items():
        place = store[handle]
        if handle not in replaced and isinstance(place, np.ndarray) and isinstance(value, np.ndarray):
            copies.append((place, value))
        else:
            store[handle] = value
    if sum(value.nbytes for _, value in copies) < 1 << 22:
        for place, value in copies:
            np.copyto(place, value)
        return
    with ThreadPoolExecutor(cores()) as copiers:
        for _ in copiers.map(lambda pair: np.copyto(*pair), copies):
            pass


# ------------------------------------------------------------------ the tasks


def _submit(
    client: Client, ranks: Ranks, jobs: list[Job], plan: MessagePlan, store: Store, keys: list[Any]
) -> list[Future]:
    from dask._task_spec import Task, TaskRef
    from dask.highlevelgraph import HighLevelGraph, MaterializedLayer

    tasks: dict[Any, Any] = {}
    held: list[Future] = []  # until the tasks have begun
    for job, parcel, address in zip(jobs, _parcels(plan, store), ranks.addresses, strict=True):
        pieces = {handle: value for handle, value in parcel.items() if isinstance(value, Piece)}
        values = {handle: value for handle, value in parcel.items() if handle not in pieces}
        tiles = []
        for number, piece in enumerate(pieces.values()):
            held.append(piece.future)
            if piece.handle is None:
                tiles.append(TaskRef(piece.future.key))
            else:
                key = (f"pick-{job.run}", job.rank, number)
                tasks[key] = piece.node(key)
                tiles.append(TaskRef(key))
        large = _nbytes(values.values()) > SMALL
        if large:
            held.append(scatter(client, values, address))
        tasks[job.key] = Task(job.key, run_part, job, list(pieces), TaskRef(held[-1].key) if large else values, *tiles)
    place = dict(zip(keys, ([address] for address in ranks.addresses), strict=True))
    wanted = keys
    if jobs[0].stay:
        told = [(f"told-{job.run}", job.rank) for job in jobs]
        tasks.update((key, Task(key, told_of, TaskRef(job.key))) for key, job in zip(told, jobs, strict=True))
        wanted = [*keys, *told]
    # Loose, so that a part whose worker is gone runs elsewhere, sees that, and says so.
    layer = MaterializedLayer(tasks, annotations={"workers": place.get, "allow_other_workers": True})
    futures: list[Future] = client.get(HighLevelGraph({"run": layer}, {"run": set()}), wanted, sync=False)
    return futures


def _nbytes(values: Iterable[Any]) -> int:
    return sum(value.nbytes if isinstance(value, np.ndarray) else 0 for value in values)


def _results(client: Client, ranks: Ranks, futures: list[Future]) -> list[tuple[Outcome, Values]]:
    """What happened on each rank, and the values it returned."""
    from distributed import CancelledError, wait

    told = futures[-len(ranks.members) :]
    try:
        while True:
            try:
                with client.as_current():
                    wait(told, timeout=LOOK)
                break
            except TimeoutError:
                there = client.scheduler_info()["workers"]
                gone = [address for address in ranks.addresses if address not in there]
                if gone and not all(future.done() for future in told):
                    raise WorkerDied(gone[0], "it left the cluster during a run") from None
        return [(result[0], result[1]) for result in client.gather(told, direct=True)]
    except CancelledError as error:
        raise WorkerDied(", ".join(ranks.addresses), f"its part of the run is lost ({error})") from error
    except BaseException:
        for future in futures:
            future.release()
        raise
