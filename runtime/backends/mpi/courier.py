"""The courier: one thread per rank that makes all MPI calls while a part runs.

It carries out the engine's own tasks of a part: sends, receives and drops. It never blocks inside MPI: it tests what
is under way and sleeps between two looks, 20 us at first, until a worker hands it something. A look costs the workers
30 to 80 us of a core; so the pause grows to 4 ms while they all have tasks, and to 0.2 ms while one waits.

Receives are posted straight into buffers, in order of first need, while the copies held stay within a window of
bytes; the first one needed is posted whatever the window says, so some task can always go on. A send keeps its tile
in the local graph's hands until MPI is done with it. A tile with a stride travels from where it lies, by a datatype
that says so: one copy between two processes instead of two. The values of Python functions have no size that both
sides know; they travel pickled, on a communicator of their own where the receiver asks MPI what has come and how long
it is. One that comes before its receive is ready waits inside MPI.

A look costs what happened since the last one, not what is still to come: at most `MOST` receives are posted at a time.

If a task fails, no task starts any more, on any rank, but all messages still go, empty: every request that was posted
finds its partner and nothing has to be cancelled. Ranks are told by a notice on a communicator of its own, or by an
empty message, whichever comes first.
"""

from __future__ import annotations

import heapq
import pickle
import sys
import threading
from collections import deque
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from mpi4py import MPI

from tilewright.backends.execution.buffers import Spare, kind, layout, memory, view, wrap
from tilewright.backends.ranks.pickling import dumps
from tilewright.graph import Handle, Task
from tilewright.passes.messages import RECEIVE, SEND, Message

if TYPE_CHECKING:
    from tilewright.backends.ranks.workers import Team

__all__ = ["MpiCourier", "Wires", "calm"]

SHORTEST, LONGEST = 20e-6, 1e-3  # seconds between two looks
BUSY, STARVING = 4e-3, 2e-4  # the longest, while all workers have tasks, and while one waits
MOST = 256  # receives that are posted at a time; MPI looks at each of them whenever it is asked

_EMPTY = bytearray()


class Wires(NamedTuple):
    """The communicators of a run; nobody else uses them."""

    data: MPI.Intracomm
    notices: MPI.Intracomm
    objects: MPI.Intracomm
    """For what travels pickled."""


class Sent(NamedTuple):
    """A message that this rank sent: when it was handed to MPI, and how long it was."""

    message: Message
    nbytes: int
    start: float


class Received(NamedTuple):
    """A message that this rank received, and when."""

    message: Message
    end: float


class _UnderWay(NamedTuple):
    task: Task
    buffer: Any
    """Kept until MPI is done: the value that is sent, or the array that is received into."""


class MpiCourier:
    """See the module. ``window`` is in bytes; ``synchronous`` makes every send wait for its receive."""

    def __init__(
        self, wires: Wires, workers: Team, pickled: dict[Handle, int], spare: Spare, *, window: int, synchronous: bool
    ) -> None:
        self.wires = wires
        self.workers = workers
        self.store = workers.program.store
        self.pickled = pickled
        self.spare = spare
        self.window = window
        self.synchronous = synchronous
        self.event = threading.Event()
        self.idle = False  # the workers have ended
        self.draining = False
        self.announced = False
        self.heard = 0  # notices of failures elsewhere
        self.sent: list[Sent] = []
        self.received: list[Received] = []
        self.broken: BaseException | None = None
        self._handed: deque[Task] = deque()
        self._receives: list[tuple[int, int, Task]] = []  # ready, not posted; a heap
        self._posted: list[tuple[int, int]] = []  # under way, and some that are not any more; a heap
        self._landed: set[tuple[int, int]] = set()  # those
        self._objects: dict[tuple[int, int], Task] = {}  # receives of pickled values that are ready, by source and tag
        self._came: dict[tuple[int, int], tuple[MPI.Message, int]] = {}  # pickled values that came, not received; bytes
        self._met: list[tuple[int, int]] = []  # what is in both
        self._requests: list[MPI.Request] = []
        self._statuses: list[MPI.Status] = []
        self._under_way: list[_UnderWay] = []
        self._notices: list[MPI.Request] = []
        self._held = 0  # bytes in copies of others' tiles
        #   a function may have kept what it got, unless it works in place: that memory is not used again
        self.kept = {
            use.handle
            for task in workers.program.graph
            if task.op.function is not None and not task.op.in_place
            for use in task.uses
        }
        self._homes: dict[Handle, Any] = {}  # where the values of a handle live on this rank
        self._strided: dict[tuple[int, int, int], MPI.Datatype] = {}
        self._thread = threading.Thread(target=self._run, name="tilewright-courier", daemon=True)

    # ------------------------------------------------------------ for other threads

    def start(self) -> None:
        self._thread.start()

    def hand(self, task: Task) -> None:
        """Take a task that is ready."""
        self._handed.append(task)
        self.event.set()

    def finish(self) -> None:
        """The workers have ended; return when all messages are through on all ranks."""
        self.idle = True
        self.event.set()
        self._thread.join()
        if self.broken is not None:
            raise self.broken

    # ------------------------------------------------------------ the loop

    def _run(self) -> None:
        try:
            frontier = self.workers.frontier
            pause = SHORTEST
            while not (frontier.finished and self.idle):
                self.event.clear()
                pause = SHORTEST if self._step() else min(2 * pause, STARVING if self.workers.parked else BUSY)
                if not self._handed:
                    self.event.wait(pause)
            everywhere = self.wires.data.Ibarrier()
            pause = SHORTEST
            while not everywhere.Test():
                self._listen()
                self.event.clear()
                self.event.wait(pause)
                pause = min(2 * pause, LONGEST)
            for datatype in self._strided.values():
                datatype.Free()
        except BaseException as error:
            self.broken = error
            self.workers.stop()

    def _step(self) -> bool:
        """Do what can be done now. True if anything was."""
        self._check_failure()
        done = self._accept() + self._post() + self._test() + self._fetch_objects()
        self._listen()
        return done > 0

    def _accept(self) -> int:
        count = 0
        sends = []
        while self._handed:
            task = self._handed.popleft()
            count += 1
            if task.op is SEND:
                sends.append(task)
            elif task.op is RECEIVE:
                heapq.heappush(self._receives, (task.params[0].reader, task.index, task))
            else:
                self._drop(task)
        for task in sorted(sends, key=lambda task: task.params[0].reader):
            self._send(task)
        return count

    # ------------------------------------------------------------ sends

    def _send(self, task: Task) -> None:
        message: Message = task.params[0]
        value: Any = None
        what, nbytes = [_EMPTY, MPI.BYTE], 0
        if not self.draining and not self.workers.failures:
            try:
                value = self.store[message.handle]
                if self.is_pickled(message):
                    value = dumps((value, message.handle in self.workers.program.replaced))
                    what, nbytes = [value, MPI.BYTE], len(value)
                else:
                    array = memory(value)
                    what, nbytes = self._in_place(array) or [_packed(array), MPI.BYTE], array.nbytes
            except Exception as error:  # a value that cannot be pickled, or is not what its handle was
                self.workers.fail(task, 0, error)
        wire = self.wires.objects if self.is_pickled(message) else self.wires.data
        post = wire.Issend if self.synchronous else wire.Isend
        start = perf_counter()
        self._requests.append(post(what, message.destination, message.tag))
        self._under_way.append(_UnderWay(task, (value, what)))
        self.sent.append(Sent(message, nbytes, start))

    def _in_place(self, array: np.ndarray) -> list[Any] | None:
        """What tells MPI to take an array from where it lies, or to put it there; None if it has to be packed."""
        rows = _rows(array)
        if rows.flags.c_contiguous:
            return [rows.reshape(-1).view(np.uint8), MPI.BYTE]
        if rows.ndim != 2 or rows.strides[1] != rows.itemsize or rows.strides[0] < 0:
            return None
        count, length, stride = len(rows), rows.shape[1] * rows.itemsize, rows.strides[0]
        datatype = self._strided.get((count, length, stride))
        if datatype is None:
            datatype = MPI.BYTE.Create_hvector(count, length, stride).Commit()
            self._strided[count, length, stride] = datatype
        return [MPI.buffer.fromaddress(rows.ctypes.data, stride * (count - 1) + length), 1, datatype]

    def is_pickled(self, message: Message) -> bool:
        first = self.pickled.get(message.handle)
        return first is not None and first <= message.writer

    # ------------------------------------------------------------ receives

    def _post(self) -> int:
        """Post receives, the first needed first, as far as the window allows."""
        count = 0
        while self._receives:
            key = self._receives[0][:2]
            message: Message = self._receives[0][2].params[0]
            if self.is_pickled(message):
                pair = message.source, message.tag
                self._objects[pair] = heapq.heappop(self._receives)[2]
                if pair in self._came:
                    self._met.append(pair)
                continue
            home = memory(self._home(message.handle))
            full = self._held + home.nbytes > self.window or len(self._posted) - len(self._landed) >= MOST
            if full and self._posted and self._first_posted() < key:
                break
            task = heapq.heappop(self._receives)[2]
            #   receiving is a write: nobody here uses the place of a result any more
            there = self._in_place(home) if message.final else None
            buffer = self.spare.take(home) if there is None else home
            self._held += buffer.nbytes
            what = there or self._in_place(buffer)
            self._requests.append(self.wires.data.Irecv(what, message.source, message.tag))
            self._under_way.append(_UnderWay(task, buffer))
            heapq.heappush(self._posted, key)
            count += 1
        return count

    def _first_posted(self) -> tuple[int, int]:
        """The first needed of the receives under way; larger than any where there is none."""
        posted, landed = self._posted, self._landed
        while posted and posted[0] in landed:
            landed.discard(heapq.heappop(posted))
        return posted[0] if posted else (sys.maxsize, 0)

    def _home(self, handle: Handle) -> Any:
        return self._homes.setdefault(handle, self.store[handle])

    def _test(self) -> int:
        if not self._requests:
            return 0
        while len(self._statuses) < len(self._requests):
            self._statuses.append(MPI.Status())
        finished = MPI.Request.Testsome(self._requests, self._statuses)
        if not finished:
            return 0
        now = perf_counter()
        done = [(*self._under_way[i], self._statuses[k]) for k, i in enumerate(finished)]
        gone = set(finished)
        self._requests = [r for i, r in enumerate(self._requests) if i not in gone]
        self._under_way = [u for i, u in enumerate(self._under_way) if i not in gone]
        for task, buffer, status in done:
            if task.op is RECEIVE:
                if buffer.nbytes and not status.Get_count(MPI.BYTE):
                    self.workers.stop()  # from a rank where a task failed, whose notice may come later
                self._landed.add((task.params[0].reader, task.index))
                self.received.append(Received(task.params[0], now))
                self._take_in(task.params[0], buffer)
            self._complete(task)
        return len(done)

    def _take_in(self, message: Message, buffer: np.ndarray) -> None:
        """A tile came: a result into its place, a copy beside it."""
        home = self._home(message.handle)
        if message.final:
            self._held -= buffer.nbytes
            place = memory(home)
            if not np.may_share_memory(place, buffer) and not self.draining:
                np.copyto(place, buffer)
        self.store[message.handle] = home if message.final else wrap(buffer, kind(home))

    def _fetch_objects(self) -> int:
        """Receive pickled values that have come."""
        count = 0
        objects, came = self._objects, self._came
        status = MPI.Status()
        while (arrived := self.wires.objects.Improbe(MPI.ANY_SOURCE, MPI.ANY_TAG, status)) is not None:
            key = status.Get_source(), status.Get_tag()
            came[key] = arrived, status.Get_count(MPI.BYTE)
            if key in objects:
                self._met.append(key)
        met, self._met = self._met, []
        for key in met:
            task, (arrived, length) = objects.pop(key), came.pop(key)
            message: Message = task.params[0]
            data = bytearray(length)
            arrived.Recv([data, MPI.BYTE])
            if not data:
                self.workers.stop()
            count += 1
            self.received.append(Received(message, perf_counter()))
            try:
                self._take_in_value(message, *pickle.loads(data) if data else (None, True))
            except Exception as error:
                self.workers.fail(task, 0, error)
            self._complete(task)
        return count

    def _take_in_value(self, message: Message, value: Any, replaced: bool) -> None:
        """The value of a function came: a result into its place, unless it is a new value instead of the old one."""
        home = self._home(message.handle)
        place, array = view(home), view(value)
        if replaced:
            self.workers.program.replaced.add(message.handle)
        elif message.final and place is not None and array is not None:
            np.copyto(place, array)
            value = home
        self.store[message.handle] = value

    def _drop(self, task: Task) -> None:
        """Forget a copy that no task here reads any more."""
        message: Message = task.params[0]
        if not self.is_pickled(message):
            buffer = memory(self.store[message.handle])
            self._held -= buffer.nbytes
            if message.handle not in self.kept:
                self.spare.give(buffer)
        self.store[message.handle] = self._home(message.handle)
        self._complete(task)

    def _complete(self, task: Task) -> None:
        if self.draining:
            self._pass_by(self.workers.frontier.done(task))
        else:
            self.workers.arrived(task)

    # ------------------------------------------------------------ failures

    def _check_failure(self) -> None:
        workers = self.workers
        if workers.failures and not self.announced and not self.heard:
            self.announced = True
            self._notices = [
                self.wires.notices.Isend([_EMPTY, MPI.BYTE], rank)
                for rank in range(self.wires.notices.size)
                if rank != self.wires.notices.rank
            ]
        if self.idle and workers.stopped and not self.draining and not workers.frontier.finished:
            self.draining = True
            self._pass_by([task for task in workers.frontier.ready() if not task.op.external])

    def _pass_by(self, tasks: list[Task]) -> None:
        """Call tasks done without running them, and what that makes ready."""
        while tasks:
            task = tasks.pop()
            if task.op.external:
                self._handed.append(task)
            else:
                tasks += self.workers.frontier.done(task)

    def _listen(self) -> None:
        """Hear of failures elsewhere."""
        while self.wires.notices.Iprobe():
            self.hear()

    def hear(self) -> None:
        self.wires.notices.Recv([bytearray(), MPI.BYTE])
        self.heard += 1
        self.workers.stop()


def _rows(array: np.ndarray) -> np.ndarray:
    """The array or its transpose, whichever has its rows closer together."""
    return array.T if layout(array) == "F" else array


def _packed(array: np.ndarray) -> np.ndarray:
    packed: np.ndarray = np.array(_rows(array), order="C").reshape(-1).view(np.uint8)
    return packed


def calm(request: MPI.Request) -> None:
    """Wait for a request without keeping a core busy."""
    sleeper = threading.Event()
    pause = SHORTEST
    while not request.Test():
        sleeper.wait(pause)
        pause = min(2 * pause, LONGEST)
