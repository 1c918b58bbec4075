"""On a Dask worker: one rank's part of a graph, run by the threads engine's workers."""

from __future__ import annotations

import asyncio
import os
import pickle
import socket
import sys
import threading
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tilewright.backends.dask import serializers
from tilewright.backends.dask.courier import DaskCourier, Inbox, Share, blank, own
from tilewright.backends.execution.program import Program
from tilewright.backends.ranks import lending, segments
from tilewright.backends.ranks.outcome import Outcome, failed_at, freeze, ran, travelled
from tilewright.backends.ranks.output import telling
from tilewright.backends.ranks.segments import Mappings, Reference
from tilewright.backends.ranks.workers import Team
from tilewright.errors import WorkerDied
from tilewright.graph import Handle, TaskGraph
from tilewright.host.garbage import uncollected
from tilewright.host.memory import Peak
from tilewright.kernels import choice
from tilewright.kernels.threads import limits
from tilewright.machine import Machine
from tilewright.passes.listed import Listed, ListedPlan
from tilewright.passes.messages import MessagePlan
from tilewright.passes.one_rank import OneRank
from tilewright.rooms import Outline
from tilewright.schedulers import policy as find_policy
from tilewright.tiles import Store, TiledMatrix

if TYPE_CHECKING:
    from distributed import Worker

__all__ = [
    "TOPIC",
    "RankResult",
    "Teller",
    "Values",
    "adopt",
    "here",
    "lent_of",
    "inbox",
    "pick",
    "pick_transposed",
    "run_part",
    "told_of",
]

Values = dict[Handle, Any]


class RankResult(NamedTuple):
    """What the Dask task that is a rank returns."""

    outcome: Outcome
    returns: Values
    """Final values for the caller; where they are, if it sees this process' memory."""
    lent: Values
    """Those arrays."""
    stays: Values
    """Final values that stay on the workers."""


PLANS = 8  # of prepared graphs, the last of which a worker keeps

PAUSE = 0.2  # seconds before a part that came to the wrong worker tries again

TOPIC = "tilewright"
"""The topic of Dask events under which workers tell how a run goes on."""


def inbox(worker: Worker | None = None) -> Inbox:
    """The inbox of a Dask worker, opened on first use; by default of the worker this runs on."""
    from distributed import get_worker

    serializers.install()
    worker = worker or get_worker()
    found = worker.extensions.get("tilewright")
    if found is None:
        found = worker.extensions["tilewright"] = Inbox(worker)
    return found


def here() -> tuple[str, int]:
    """This host and process."""
    return socket.gethostname(), os.getpid()


class Teller:
    """Passes on what tasks print on a worker, unless this is the process of who called."""

    def __init__(self, worker: Worker, run: str, rank: int, caller: tuple[str, int]) -> None:
        self._worker, self._run, self._rank = worker, run, rank
        self.say = None if here() == tuple(caller) else self._say
        self.count = 0
        self._lock = threading.Lock()

    def _say(self, text: str, error: bool) -> None:
        with self._lock:
            self.count += 1
        self._worker.log_event(TOPIC, {"run": self._run, "rank": self._rank, "said": text, "error": error})


def run_part(share: Share, handles: list[Handle], parcel: Values, *tiles: Any) -> RankResult:
    """Run one rank's share. Its data are ``parcel``, and ``tiles`` by ``handles``, which are not changed.

    A `Reference` in the parcel is an array in the caller's memory, lent to this run.
    """
    from distributed import Reschedule, get_worker, secede

    worker = get_worker()
    if worker.address != share.addresses[share.rank]:
        if _answers(worker, share.addresses[share.rank]):  # it is only busy, and Dask wanted to help
            time.sleep(PAUSE)
            raise Reschedule
        gone = WorkerDied(share.addresses[share.rank], f"rank {share.rank} of a run cannot go on at {worker.address}")
        return RankResult(_nothing(gone), {}, {}, {})
    secede()  # ranks of two runs that begin at the same time must not wait for each other
    teller = Teller(worker, share.run, share.rank, share.caller)
    with telling(teller.say):
        result = _run_part(worker, share, handles, parcel, *tiles)
    return result._replace(outcome=result.outcome._replace(said=teller.count))


def _run_part(worker: Worker, share: Share, handles: list[Handle], parcel: Values, *tiles: Any) -> RankResult:
    grown = Peak()
    courier = DaskCourier(inbox(worker), share)
    problem: BaseException | None = None
    try:
        borrowed = _borrowed(parcel)
        with uncollected(), share.torch_state.entered():  # the team takes it into its threads
            team, plan, orders = _team(share, parcel | borrowed, dict(zip(handles, tiles, strict=True)))
    except BaseException as error:
        problem = error

    def on_loop(coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, courier.loop).result()

    began = on_loop(courier.meet(problem))
    if problem is None and not courier.stopped:
        team.began = began
        courier.attach(team, plan, orders)
        report = None
        if share.tells:
            report = _Progress(worker, share)
        if courier.stopped:  # between the two lines above
            team.stop()
        with limits(team.program.uses_functions):
            if share.workers == 1 and report is None:
                team.work(0)
            else:
                team.on_threads(report)
    on_loop(courier.part())
    if problem is not None:
        return RankResult(_nothing(problem), {}, {}, {})
    places = {handle: value for handle, value in parcel.items() if isinstance(value, Reference)}
    unmoved = {handle: place for handle, place in places.items() if team.program.store[handle] is borrowed[handle]}
    told = _told(share, courier, team, plan, began, unmoved)
    return told._replace(outcome=told.outcome._replace(grown=grown.bytes()))


class _Progress:
    """How far a rank is, told to the caller."""

    def __init__(self, worker: Worker, share: Share) -> None:
        self._worker, self._share = worker, share
        self._rows: list[list[float]] = []
        if share.rows:
            self.ran = lambda rows: self._rows.extend(rows.tolist())

    def __call__(self, done: int) -> None:
        rows, self._rows = self._rows, []
        self._worker.log_event(TOPIC, {"run": self._share.run, "rank": self._share.rank, "done": done, "rows": rows})


def _borrowed(parcel: Values) -> Values:
    """The arrays that are lent."""
    caller = Mappings()
    return {handle: caller.array(place) for handle, place in parcel.items() if isinstance(place, Reference)}


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
    return Outcome(np.empty((0, 4)), **travelled([], [], 0.0), failure=(-1, freeze(error)), announced=False, values=b"")


def _team(share: Share, parcel: Values, tiles: Values) -> tuple[Team, MessagePlan | OneRank, dict[str, str]]:
    sys.path.extend(entry for entry in share.path if entry not in sys.path)
    choice.adopt(share.blas)
    graph, families, outlines, plan = _planned(share)
    part = plan.part(share.rank)
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
    came = {name for name, room in graph.rooms.items() if not room.keep}  # the program sees to those
    _provide([handle for handle in plan.rooms(share.rank, "none") if handle.name not in came], store, orders)
    policy = find_policy(pickle.loads(share.scheduler))
    policy.prepare(part.graph, Machine(workers=share.workers))
    team = Team(Program(part.graph, store), policy, share.workers, part, share.rank, "dask")
    return team, plan, orders


_plans: OrderedDict[tuple[str, int, int], Any] = OrderedDict()
_plans_lock = threading.Lock()


def _planned(share: Share) -> tuple[TaskGraph | Listed, dict[str, Any], dict[Handle, Any], MessagePlan | OneRank]:
    """Graph, families, outlines and plan of a share: those of a run before, if its program is prepared."""
    key = share.program, len(share.addresses), share.rank
    with _plans_lock:
        if key in _plans:
            _plans.move_to_end(key)
            found: tuple[Any, Any, Any, Any] = _plans[key]
            return found
    graph, order, families, outlines = pickle.loads(share.contents)
    owner, start, collect = order
    count = len(share.addresses)
    plan: MessagePlan | OneRank
    if isinstance(graph, Listed):
        plan = ListedPlan(graph, count, share.rank, owner)
    else:
        by_handle = dict(zip(graph.handles_used, owner, strict=True))
        plan = MessagePlan(graph, count, by_handle, start=start, collect=collect)
    if share.program:
        with _plans_lock:
            _plans[key] = graph, families, outlines, plan
            while len(_plans) > PLANS:
                _plans.popitem(last=False)
    return graph, families, outlines, plan


def outline_family(shape: tuple[int, int], tile_size: int, height: int, dtype: str, order: str) -> TiledMatrix:
    """A tiled matrix of which only the shape is here."""
    return TiledMatrix(shape, tile_size, dtype, Outline.of(shape, dtype), packed=False, height=height)


def _provide(rooms: list[Handle], store: Store, orders: dict[str, Any]) -> None:
    """Zeros for those rooms that are arrays this rank was not given, all in one arena that others can read."""
    missing: dict[Handle, np.ndarray] = {h: store[h] for h in rooms if isinstance(store[h], Outline)}
    step = {handle: -(-outline.nbytes // 64) * 64 for handle, outline in missing.items()}
    arena = lending.zeros(sum(step.values()) + 64)
    start = -arena.ctypes.data % 64
    for handle, outline in missing.items():
        if outline.ndim == 2 and outline.shape[0] == 1:
            store[handle] = blank(outline.shape, outline.dtype, orders.get(handle.name, "C"))
            continue
        raw = arena[start : start + outline.nbytes].view(outline.dtype)
        store[handle] = raw.reshape(outline.shape, order=orders.get(handle.name, "C"))
        start += step[handle]


def _told(
    share: Share, courier: DaskCourier, team: Team, plan: MessagePlan | OneRank, began: float, unmoved: Values
) -> RankResult:
    failures = [*team.failures, *([courier.failure] if courier.failure else [])]
    failure = min(failures, key=lambda failure: failure[0]) if failures else None
    stays: Values = {}
    returns: Values = {}
    lent: Values = {}
    if not failures and not courier.stopped:
        for handle in plan.made_by(share.rank):
            value = team.program.store[handle]
            if handle.name in share.stay:
                stays[handle] = value
            elif handle in unmoved:
                returns[handle] = unmoved[handle]
            elif share.seen and isinstance(value, np.ndarray) and (place := segments.reference(value)) is not None:
                returns[handle], lent[handle] = place, value
            else:
                returns[handle] = value
    outcome = Outcome(
        tasks=ran(team, plan, began),
        **travelled(courier.sent, courier.received, began),
        failure=None if failure is None else (failure[0], freeze(failure[1])),
        failed_at=None if failure is None else failed_at(team, failure[0], began),
        announced=False,
        values=pickle.dumps(team.program.replaced) if team.program.replaced else b"",
    )
    return RankResult(outcome, returns, lent, stays)


def told_of(result: RankResult) -> tuple[Outcome, Values]:
    """What the caller wants to know of a rank; the rest stays."""
    return result.outcome, result.returns


def lent_of(result: RankResult) -> Values:
    """What the caller could not read in place after all."""
    return result.lent


def pick(values: Values, handle: Handle) -> Any:
    """One tile of what a group of tasks returned."""
    return values[handle]


def pick_transposed(values: Any, handle: Handle | None) -> Any:
    """The same, transposed; of a group that returned one value, that."""
    return (values if handle is None else values[handle]).T


Adopted = list[tuple[Handle, Any, bool]]
"""Handle, the key that its value gets, whether the value is to be transposed."""


def adopt(
    parts: list[Any], stays: Adopted, zeros: dict[Any, tuple[tuple[int, ...], str]], first: str, dask_worker: Any = None
) -> dict[Any, int]:
    """Make keys of their own of values that stay; bytes by key. Runs on the event loop.

    ``parts`` are the keys of the ranks' results, of which one is here; ``zeros`` has shape and dtype of tiles of zeros,
    which the worker ``first`` has.
    """
    part = next((key for key in parts if key in dask_worker.data), None)
    here = {} if part is None else dask_worker.data[part].stays
    data = {key: here[handle].T if transposed else here[handle] for handle, key, transposed in stays if handle in here}
    if dask_worker.address == first:
        data |= {key: np.broadcast_to(np.zeros((), dtype), shape) for key, (shape, dtype) in zeros.items()}
    sizes: dict[Any, int] = dask_worker.update_data(data)["nbytes"]
    return sizes
