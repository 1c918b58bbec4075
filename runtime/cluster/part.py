"""On a Dask worker: one rank's part of a graph, run by the threads engine's workers."""

from __future__ import annotations

import asyncio
import pickle
import sys
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from tilewright.cluster import wire
from tilewright.cluster.post import Job, Office, Post, blank, own
from tilewright.crew import Crew
from tilewright.errors import WorkerDied
from tilewright.graph import Access, Handle
from tilewright.kernels import blas
from tilewright.machine import Machine
from tilewright.messages import MessagePlan, Part
from tilewright.mpi.outcome import Outcome, freeze, planned, thaw
from tilewright.outline import Outline
from tilewright.program import Program
from tilewright.schedulers import policy as find_policy
from tilewright.tiles import Store, TiledMatrix

if TYPE_CHECKING:
    from distributed import Worker

__all__ = ["TOPIC", "Values", "office", "pick", "run_part", "told_of", "use_blas"]

Values = dict[Handle, Any]

PAUSE = 0.2  # seconds before a part that came to the wrong worker tries again

TOPIC = "tilewright"
"""Of Dask events: under it workers tell how a run goes on."""


def office(worker: Worker | None = None) -> Office:
    """The office of a Dask worker, opened on first use; by default of the worker this runs on."""
    from distributed import get_worker

    wire.install()
    worker = worker or get_worker()
    found = worker.extensions.get("tilewright")
    if found is None:
        found = worker.extensions["tilewright"] = Office(worker)
    return found


def run_part(job: Job, handles: list[Handle], parcel: Values, *tiles: Any) -> tuple[Outcome, Values, Values]:
    """Run one rank of a job. Its data are ``parcel``, and ``tiles`` by ``handles``, which are not changed.

    Returns what happened, the final values for the caller, and those that stay.
    """
    from distributed import Reschedule, get_worker, secede

    worker = get_worker()
    if worker.address != job.addresses[job.rank]:
        if _answers(worker, job.addresses[job.rank]):  # it is only busy, and Dask wanted to help
            time.sleep(PAUSE)
            raise Reschedule
        gone = WorkerDied(job.addresses[job.rank], f"rank {job.rank} of a run cannot go on at {worker.address}")
        return _nothing(gone), {}, {}
    secede()  # ranks of two runs that begin at the same time must not wait for each other
    post = Post(office(worker), job)
    problem: BaseException | None = None
    try:
        with job.ambient.entered():  # the crew takes it into its threads
            crew, plan, orders = _crew(job, parcel, dict(zip(handles, tiles, strict=True)))
    except BaseException as error:
        problem = error

    def on_loop(coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, post.loop).result()

    began = on_loop(post.meet(problem))
    if problem is None and not post.stopped:
        post.employ(crew, plan.numbers, orders)
        report = None
        if job.tells:

            def report(done: int) -> None:
                worker.log_event(TOPIC, {"run": job.run, "rank": job.rank, "done": done})

        if post.stopped:  # between the two lines above
            crew.stop()
        with blas.limits(crew.program.uses_functions):
            if job.workers == 1 and report is None:
                crew.work(0)
            else:
                crew.on_threads(report)
    on_loop(post.part())
    if problem is not None:
        return _nothing(problem), {}, {}
    return _told(job, post, crew, plan, began)


def _answers(worker: Worker, address: str) -> bool:
    """Whether there is a worker at this address."""

    async def call() -> None:
        comm = await worker.rpc.connect(address, timeout=PAUSE * 10)
        worker.rpc.reuse(address, comm)

    try:
        asyncio.run_coroutine_threadsafe(call(), worker.loop.asyncio_loop).result()
    except OSError:
        return False
    return True


def _nothing(error: BaseException) -> Outcome:
    return Outcome(np.empty((0, 4)), [], [], (-1, freeze(error)), False, b"")


def _crew(job: Job, parcel: Values, tiles: Values) -> tuple[Crew, MessagePlan, dict[str, str]]:
    sys.path.extend(entry for entry in job.path if entry not in sys.path)
    graph, scheduler, order, families, outlines = pickle.loads(job.contents)
    use_blas(job.blas)
    plan = planned(graph, len(job.addresses), order)
    part = plan.part(job.rank)
    store = Store({name: outline_family(*what) for name, what in families.items()})
    for handle, (shape, dtype) in outlines.items():
        store[handle] = Outline.of(shape, dtype)
    orders = {name: what[-1] for name, what in families.items()}
    written = {handle for task in part.graph if not task.op.external for handle in task.writes}
    store.update(tiles)
    for name, value in parcel.items():
        handle = Handle(*name)  # Dask may have made it a plain tuple
        store[handle] = own(value, copy=False, order=orders.get(handle.name), read=handle not in written)
    for handle in written & tiles.keys():
        store[handle] = own(tiles[handle], order=orders.get(handle.name))  # a copy: they are Dask's
    _provide(part, store, orders)
    policy = find_policy(scheduler)
    policy.prepare(part.graph, Machine(workers=job.workers))
    crew = Crew(Program(part.graph, store), policy, job.workers, part, job.rank, "dask")
    return crew, plan, orders


def outline_family(shape: tuple[int, int], tile_size: int, dtype: str, order: str) -> TiledMatrix:
    """A tiled matrix of which only the shape is here."""
    return TiledMatrix.view(Outline.of(shape, dtype), tile_size)


def _provide(part: Part, store: Store, orders: dict[str, Any]) -> None:
    """Zeros for what tasks of this rank write without reading, all in one arena."""
    missing: dict[Handle, np.ndarray] = {}
    for task in part.graph:
        if not task.op.external:
            for handle, access in task.uses:
                if access is Access.WRITE and isinstance(store[handle], Outline):
                    missing[handle] = store[handle]
    step = {handle: -(-outline.nbytes // 64) * 64 for handle, outline in missing.items()}
    arena = np.zeros(sum(step.values()) + 64, np.uint8)
    start = -arena.ctypes.data % 64
    for handle, outline in missing.items():
        if outline.ndim == 2 and outline.shape[0] == 1:
            store[handle] = blank(outline.shape, outline.dtype, orders.get(handle.name, "C"))
            continue
        raw = arena[start : start + outline.nbytes].view(outline.dtype)
        store[handle] = raw.reshape(outline.shape, order=orders.get(handle.name, "C"))
        start += step[handle]


def use_blas(name: str) -> None:
    """Take kernels from the library that the caller uses: same library, same bits."""
    if blas.current().name != name:
        try:
            blas.use(name)
        except OSError as error:
            raise OSError(
                f"the caller's kernels are those of {name}, which this worker cannot load ({error}); set "
                f"{blas.VARIABLE}=openblas where the caller runs"
            ) from None


def _told(job: Job, post: Post, crew: Crew, plan: MessagePlan, began: float) -> tuple[Outcome, Values, Values]:
    origin = crew.part.origin
    rows = [
        (origin[index], worker, start - began, end - began)
        for worker, records in enumerate(crew.records)
        for index, start, end in records
        if plan.places[origin[index]] == job.rank
    ]
    failures = [*crew.failures, *([post.failure] if post.failure else [])]
    failure = min(failures, key=lambda failure: failure[0]) if failures else None
    stays: Values = {}
    returns: Values = {}
    if not failures and not post.stopped:
        for handle, rank in plan.final_places.items():
            if rank == job.rank and handle.name not in plan.graph.temporary:
                (stays if handle.name in job.stay else returns)[handle] = crew.program.store[handle]
    outcome = Outcome(
        tasks=np.array(rows).reshape(-1, 4),
        sent=[(number, nbytes, start - began) for number, nbytes, start in post.sent],
        received=[(number, end - began) for number, end in post.received],
        failure=None if failure is None else (failure[0], freeze(failure[1])),
        announced=False,
        values=pickle.dumps(crew.program.replaced) if crew.program.replaced else b"",
    )
    return outcome, returns, stays


def told_of(result: tuple[Outcome, Values, Values]) -> tuple[Outcome, Values]:
    """What the caller wants to know of a rank; the rest stays."""
    return result[:2]


def pick(result: Any, handle: Handle) -> Any:
    """One tile of what a rank or a group of tasks returned. WorkerDied if Dask ran a rank again, which cannot be."""
    if not isinstance(result, tuple):
        return result[handle]
    outcome, _, stays = result
    if outcome.failure is not None:
        raise thaw(outcome.failure[1])
    return stays[handle]
