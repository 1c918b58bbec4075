"""Tiles from worker to worker: one stream for each ordered pair of ranks, over Dask's own comms.

Every Dask worker has an `Inbox`, which takes streams from other workers, and during a run a `DaskCourier`, which is the
courier of that run's team. All of a courier's state belongs to the worker's event loop; worker threads only hand over
tasks. Streams carry::

    hello    a rank is ready, or why it is not; its clock and its probe
    grant    the receiver has room for a message and its place is free, and says whether it sees the sender's memory
    tile     a message, sent once it is granted and its value is there; or where it is, if the receiver sees that
    ack      the receiver has it: the sender may change its own
    failed   a task failed somewhere: start no other
    bye      nothing more will come; ``heard``, or the end of the stream, answers it

Grants go out in order of first need, while the copies held stay within a window of bytes; the first one needed is
granted whatever the window says, so some task can always go on. A stream that closes before its ``bye`` is a rank that
died.

What the receiver reads in the sender's memory is a version that nobody overwrites; of others it gets a copy.
"""

from __future__ import annotations

import asyncio
import heapq
import pickle
import socket
from collections import deque
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tilewright.backends.execution.buffers import layout, view
from tilewright.backends.execution.torch_state import TorchState
from tilewright.backends.ranks import lending
from tilewright.backends.ranks.segments import Mappings
from tilewright.errors import WorkerDied
from tilewright.graph import Handle, Task
from tilewright.kernels.choice import Choice
from tilewright.passes.messages import RECEIVE, SEND, Message, MessagePlan
from tilewright.passes.one_rank import OneRank

if TYPE_CHECKING:
    from distributed import Worker

    from tilewright.backends.ranks.workers import Team

__all__ = ["Cancelled", "Share", "Inbox", "DaskCourier", "blank", "own", "pack"]

LATE = 5.0  # seconds more than its own limit that a rank leaves to others
LOOK = 0.5  # seconds between two looks whether the run is still wanted


class Cancelled(RuntimeError):  # noqa: N818 - it says what happened
    """The caller does not want this run any more."""


class Share(NamedTuple):
    """One rank's share of a run, beside its data."""

    run: str
    key: Any
    """The key of the Dask task that is this rank."""
    rank: int
    addresses: tuple[str, ...]
    contents: bytes
    """Pickled (graph, order, families, outlines), read where an error can be reported."""
    program: str
    """Under which the worker keeps that and the plan, for more runs; empty if there is only this one."""
    scheduler: bytes
    """Pickled, as policies have state."""
    workers: int
    window: int
    blas: Choice
    timeout: float
    """Seconds to wait until all ranks have begun."""
    tells: bool
    """Whether to tell progress,"""
    rows: bool
    """and with it which tasks ran when."""
    caller: tuple[str, int]
    """Host and process of the caller: what tasks print in it needs no telling."""
    path: tuple[str, ...]
    """``sys.path`` of a caller on this host; functions are found there."""
    stay: tuple[str, ...]
    """Names of handles whose final values stay on the workers."""
    seen: bool
    """Whether the caller sees the memory of this rank."""
    torch_state: TorchState
    """Autocast and the like where the run was submitted."""


class Inbox:
    """Takes streams for the runs of one Dask worker."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.couriers: dict[str, DaskCourier] = {}
        self.over: deque[str] = deque(maxlen=1000)
        """Runs that have ended here."""
        worker.handlers["tilewright"] = self.stream

    async def stream(self, comm: Any, run: str, rank: int, timeout: float) -> None:
        """Read what another rank sends, until it closes."""
        deadline = perf_counter() + timeout + LATE
        while run not in self.couriers:
            if perf_counter() > deadline or run in self.over:
                await comm.close()
                return
            await asyncio.sleep(0.005)
        await self.couriers[run].read(comm, rank)


class DaskCourier:
    """The courier of one rank. `meet` and `part` are awaited on the event loop; `hand` is for any thread."""

    def __init__(self, inbox: Inbox, share: Share) -> None:
        self.inbox = inbox
        self.worker = inbox.worker
        self.share = share
        self.loop: asyncio.AbstractEventLoop = self.worker.loop.asyncio_loop
        self.team: Team | None = None
        self.failure: tuple[int, BaseException] | None = None
        """What went wrong that is no task's fault."""
        self.stopped = False
        """Some rank failed or ended."""
        self.sent: list[tuple[Message, int, float]] = []
        """Message, bytes, start."""
        self.received: list[tuple[Message, float]] = []
        """Message, end."""
        self._peers = [rank for rank in range(len(share.addresses)) if rank != share.rank]
        self._outbox: dict[int, asyncio.Queue[Any]] = {}
        self._comms: dict[int, Any] = {}
        self._helpers: list[asyncio.Task[None]] = []
        self._clocks: dict[int, tuple[str, float]] = {}
        self._quiet: set[int] = set()  # ranks whose bye came, or that are gone
        self._heard: set[int] = set()  # ranks that have our bye, or are gone
        self._change = asyncio.Event()
        #   messages by the other rank and the tag
        self._ready: dict[tuple[int, int], Task] = {}  # sends
        self._granted: dict[tuple[int, int], bool] = {}  # by others, to us: whether they see our memory
        self._unacknowledged: dict[tuple[int, int], tuple[Task, Any]] = {}  # and what has to live until then
        self._seen: set[int] = set()  # ranks whose memory we see
        self._wanted: list[tuple[int, int, Task]] = []  # receives that are ready and not granted; a heap
        self._handed: deque[Task] = deque()  # by other threads, for the event loop
        self._due: list[tuple[int, int]] = []  # keys of what is expected, and of some that has come; a heap
        self._expected: dict[tuple[int, int], Task] = {}  # granted by us
        self._awaited: set[int] = set()  # the indices of these
        self._held = 0
        self._homes: dict[Handle, Any] = {}

    # ------------------------------------------------------------ for the rank's thread

    def hand(self, task: Task) -> None:
        """Take a task that is ready."""
        self._handed.append(task)
        if len(self._handed) == 1:  # else somebody has asked for a look that is still to come
            self.loop.call_soon_threadsafe(self._take_all)

    def attach(self, team: Team, plan: MessagePlan | OneRank, orders: dict[str, str]) -> None:
        """Work for this team; ``orders`` are those of matrices by name."""
        self.team, self.plan, self.orders = team, plan, orders
        self.store = team.program.store
        team.attach(self)

    # ------------------------------------------------------------ beginning and end

    async def meet(self, problem: BaseException | None) -> float:
        """Connect to all ranks and wait for them. Returns the moment that this rank calls 0.

        Sets `failure` if some rank does not come, or says that it cannot run.
        """
        self.inbox.couriers[self.share.run] = self
        now = perf_counter()
        mine = socket.gethostname(), now
        self._clocks[self.share.rank] = mine
        deadline = now + self.share.timeout
        for rank in self._peers:
            self._outbox[rank] = asyncio.Queue()
        await asyncio.gather(*map(self._connect, self._peers))
        self._tell_all({"kind": "hello", "clock": mine, "ready": problem is None, "probe": lending.probe()})
        if problem is not None:
            self._fail(-1, problem)
        self._helpers.append(asyncio.create_task(self._watch()))
        while not self.stopped and len(self._clocks) < len(self.share.addresses):
            if not await self._changed(deadline - perf_counter()):
                absent = [self.share.addresses[rank] for rank in self._peers if rank not in self._clocks]
                self._fail(
                    -1,
                    TimeoutError(
                        f"{', '.join(absent)} did not begin its part of the run within {self.share.timeout:g} s: "
                        f"busy with other tasks? timeout= waits longer"
                    ),
                )
        return max(clock for host, clock in self._clocks.values() if host == mine[0])

    async def part(self) -> None:
        """Say good-bye, and wait until every rank has said so."""
        team = self.team
        if team is not None and team.failures:
            self._stop()
        self._tell_all({"kind": "bye"})
        while not all(rank in self._quiet and rank in self._heard for rank in self._peers if rank in self._clocks):
            await self._changed(None)
        self.inbox.couriers.pop(self.share.run, None)
        self.inbox.over.append(self.share.run)
        for helper in self._helpers:
            helper.cancel()
        await asyncio.gather(*self._helpers, return_exceptions=True)
        for rank, comm in self._comms.items():
            await comm.close()
            self.worker.rpc.reuse(self.share.addresses[rank], comm)

    async def _connect(self, rank: int) -> None:
        try:
            comm = await self.worker.rpc.connect(self.share.addresses[rank])
            await comm.write(
                {
                    "op": "tilewright",
                    "reply": False,
                    "run": self.share.run,
                    "rank": self.share.rank,
                    "timeout": self.share.timeout,
                }
            )
        except OSError as error:
            self._lost(rank, str(error))
            return
        self._comms[rank] = comm
        self._helpers += [asyncio.create_task(self._write(rank, comm)), asyncio.create_task(self._notice(rank, comm))]

    async def _changed(self, limit: float | None) -> bool:
        """Wait until something changed; False if the limit in seconds passed first."""
        try:
            await asyncio.wait_for(self._change.wait(), None if limit is None else max(limit, 0.0))
        except TimeoutError:
            return False
        self._change.clear()
        return True

    async def _watch(self) -> None:
        """Stop when the Dask task that we are was cancelled."""
        while True:
            await asyncio.sleep(LOOK)
            state = self.worker.state.tasks.get(self.share.key)
            if state is None or state.state in ("cancelled", "resumed", "released"):
                self._fail(-1, Cancelled("the run was cancelled"))
                return

    # ------------------------------------------------------------ streams

    async def _write(self, rank: int, comm: Any) -> None:
        outbox = self._outbox[rank]
        try:
            while True:
                words = [await outbox.get()]
                while not outbox.empty():
                    words.append(outbox.get_nowait())
                await comm.write(words)
        except OSError as error:
            self._lost(rank, str(error))

    async def _notice(self, rank: int, comm: Any) -> None:
        """Nobody answers on a stream of ours, so what can be read is its end."""
        try:
            await comm.read()
        except OSError as error:
            self._lost(rank, str(error))

    def _tell(self, rank: int, **words: Any) -> None:
        if rank in self._outbox:
            self._outbox[rank].put_nowait(words)

    def _tell_all(self, words: dict[str, Any]) -> None:
        for rank in self._peers:
            self._tell(rank, **words)

    async def read(self, comm: Any, rank: int) -> None:
        """Do what another rank says, until it closes the stream."""
        try:
            while True:
                for words in await comm.read():
                    self._listen(rank, **words)
        except OSError as error:
            self._lost(rank, str(error))
        except Exception as error:  # a value that cannot be read here
            self._fail(len(self.team.part.origin) if self.team else -1, error)
            comm.abort()

    def _listen(self, rank: int, kind: str, **words: Any) -> None:
        if kind == "tile":
            self._arrive(rank, **words)
        elif kind == "ack":
            self._complete(self._unacknowledged.pop((rank, words["tag"]), (None,))[0])
        elif kind == "grant":
            pair = rank, words["tag"]
            if pair in self._ready:
                self._send(self._ready.pop(pair), words["sees"])
            else:
                self._granted[pair] = words["sees"]
        elif kind == "hello":
            host, clock = words["clock"]
            self._clocks[rank] = host, clock
            if lending.sees(words["probe"]):
                self._seen.add(rank)
            if not words["ready"]:
                self._stop()
        elif kind == "failed":
            self._stop()
        elif kind == "bye":
            self._quiet.add(rank)
            self._tell(rank, kind="heard")
        elif kind == "heard":
            self._heard.add(rank)
        if kind not in ("tile", "ack", "grant"):
            self._change.set()

    def _lost(self, rank: int, why: str) -> None:
        """A stream closed: nothing comes from that rank, nobody hears us there. After its bye that is in order."""
        if rank not in self._quiet:
            self._fail(1 << 62, WorkerDied(self.share.addresses[rank], f"its connection closed during a run ({why})"))
        self._quiet.add(rank)
        self._heard.add(rank)
        self._change.set()

    def _fail(self, number: int, error: BaseException) -> None:
        if self.failure is None:
            self.failure = number, error
        self._stop()

    def _stop(self) -> None:
        """Start no task any more, here or elsewhere."""
        if not self.stopped:
            self.stopped = True
            self._tell_all({"kind": "failed"})
            if self.team is not None:
                self.team.stop()
        self._change.set()

    # ------------------------------------------------------------ messages

    def _take_all(self) -> None:
        wanted = False
        while self._handed:
            try:
                wanted |= self._take(self._handed[0])
            except Exception as error:
                self._fail(-1, error)
            self._handed.popleft()  # not before: until then whoever hands something need not ask for another look
        if wanted:
            self._grant()

    def _take(self, task: Task) -> bool:
        """Do what a task asks for. True if there may be more to grant."""
        message: Message = task.params[0]
        if task.op is SEND:
            pair = message.destination, message.tag
            if pair in self._granted:
                self._send(task, self._granted.pop(pair))
            else:
                self._ready[pair] = task
        elif task.op is RECEIVE:
            heapq.heappush(self._wanted, (message.reader, task.index, task))
            return True
        else:
            home = self._home(message.handle)
            self._held -= _size(home)
            self.store[message.handle] = home
            self._complete(task)
            return True
        return False

    def _grant(self) -> None:
        """Let come what there is room for, the first needed first."""
        while self._wanted:
            key = self._wanted[0][:2]
            while self._due and self._due[0][1] not in self._awaited:
                heapq.heappop(self._due)
            first = self._due[0] if self._due else None
            message: Message = self._wanted[0][2].params[0]
            size = _size(self._home(message.handle))
            if self._held + size > self.share.window and first is not None and first < key:
                return
            task = heapq.heappop(self._wanted)[2]
            self._held += size
            self._expected[message.source, message.tag] = task
            self._awaited.add(task.index)
            heapq.heappush(self._due, key)
            self._tell(message.source, kind="grant", tag=message.tag, sees=message.source in self._seen)

    def _send(self, task: Task, sees: bool) -> None:
        from distributed.protocol import Serialized, serialize

        message: Message = task.params[0]
        pair = message.destination, message.tag
        value = self.store[message.handle]
        start = perf_counter()
        lasts = (message.handle, message.version) in self.plan.lasting
        if sees and (lent := lending.lend(value, copy=not lasts)) is not None:
            place, array = lent
            self._unacknowledged[pair] = task, array
            self.sent.append((message, place.nbytes, start))
            self._tell(message.destination, kind="tile", tag=message.tag, place=pickle.dumps(place))
            return
        if value is None or lending.small(value):
            content = pickle.dumps(pack(value), pickle.HIGHEST_PROTOCOL)
            self._unacknowledged[pair] = task, None
            self.sent.append((message, len(content) if value is None else value.nbytes, start))
            self._tell(message.destination, kind="tile", tag=message.tag, small=content)
            return
        try:
            packed = own(value) if self.worker.address.startswith("inproc://") else pack(value)
            header, frames = serialize(packed, on_error="raise")
        except Exception as error:
            assert self.team is not None
            self.team.fail(task, 0, error)
            self._stop()
            return
        self._unacknowledged[pair] = task, None
        self.sent.append((message, sum(memoryview(frame).nbytes for frame in frames), start))
        self._tell(message.destination, kind="tile", tag=message.tag, value=Serialized(header, frames))

    def _arrive(self, rank: int, tag: int, value: Any = None, place: bytes = b"", small: bytes = b"") -> None:
        task = self._expected.pop((rank, tag), None)
        if task is None or self.stopped:
            return
        self._awaited.discard(task.index)
        if place:
            value = Mappings().array(pickle.loads(place))  # its own, gone with the last array in it
        if small:
            value = pickle.loads(small)
        handle = task.params[0].handle
        self.store[handle] = own(value, copy=False, order=self.orders.get(handle.name), read=True)
        self.received.append((task.params[0], perf_counter()))
        self._tell(rank, kind="ack", tag=tag)
        self._complete(task)
        self._grant()

    def _complete(self, task: Task | None) -> None:
        if task is not None and not self.stopped:
            assert self.team is not None
            self.team.arrived(task)

    def _home(self, handle: Handle) -> Any:
        """Where the values of a handle live on this rank while none is here."""
        return self._homes.setdefault(handle, self.store[handle])


def _size(value: Any) -> int:
    return value.nbytes if isinstance(value, np.ndarray) else 0


def pack(value: Any) -> Any:
    """A value with its elements side by side, in the order they had."""
    if isinstance(value, np.ndarray) and not (value.flags.c_contiguous or value.flags.f_contiguous):
        return value.copy(order=layout(value))
    return value


def own(value: Any, *, copy: bool = True, order: str | None = None, read: bool = False) -> Any:
    """A value that a task may change; without ``copy`` it is the same one where that is fit for BLAS.

    ``order`` is that of the matrix a tile belongs to: kernels, and so bits, depend on it. Where a tile is only ``read``
    another order will do, as long as it is clear which one it is.
    """
    if isinstance(value, np.ndarray) and view(value) is not None:
        order = order or layout(value)
        fit = value.flags.aligned and value.flags.writeable and (read or layout(value) == order)
        if copy or not fit or _ambiguous(value, order):
            value, source = blank(value.shape, value.dtype, order), value
            value[...] = source
        return value
    if not copy and (read or not isinstance(value, np.ndarray) or value.flags.writeable):
        return value
    from copy import deepcopy

    return deepcopy(value)


def blank(shape: tuple[int, ...], dtype: Any, order: str) -> np.ndarray:
    """Zeros in an order that shows: one row in F order has room for two, or it would look like C order."""
    if order == "F" and len(shape) == 2 and shape[0] == 1:
        return np.zeros((2, shape[1]), dtype, "F")[:1]
    return np.zeros(shape, dtype, "F" if order == "F" else "C")


def _ambiguous(value: np.ndarray, order: str) -> bool:
    return (
        order == "F"
        and value.ndim == 2
        and value.shape[0] == 1 < value.shape[1]
        and (value.strides[1] == value.itemsize)
    )
