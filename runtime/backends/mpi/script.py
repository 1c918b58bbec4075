"""A script: one rank's part of a graph, laid out as straight-line code that runs many times.

The general engine looks at every task again in every run: a frontier, a policy, a courier thread, new requests. Where
one graph runs thousands of times on data that stays, all of that can be settled once:

- The part runs in program order in one thread. All ranks follow the same program and no send blocks, so each receive
  that a task waits for was sent by a task further up in that program: there is no circle to wait in.
- Each message has a persistent request and a buffer of its own. All receives start first, so a message goes straight
  where it belongs; a task waits for those that it reads, just before it runs, and the tasks before it overlap them.
- A buffer that is on its way is written again only when MPI is done with it.

If a task fails, the tasks after it are left out, but all messages still go, so that no rank waits for ever.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import perf_counter, sleep
from typing import Any, NamedTuple

import numpy as np
from mpi4py import MPI

from tilewright.backends.execution.engine import blame
from tilewright.backends.execution.nested import in_task
from tilewright.backends.execution.program import Program
from tilewright.backends.mpi.courier import LONGEST, SHORTEST, calm
from tilewright.graph import Access, Handle, Task
from tilewright.host.cores import cores
from tilewright.passes.messages import RECEIVE, SEND, Message, MessagePlan
from tilewright.tiles import Store

__all__ = ["Script", "Told"]

_SPIN = 2e-3  # seconds of testing without sleeping, where every rank has a core


class Told(NamedTuple):
    """What a rank tells of one run of its script; times are of the host's monotonic clock."""

    failure: tuple[int, Any] | None
    """Index of the task that failed, and what it raised, frozen before it travels."""
    tasks: list[tuple[int, float, float]]
    """Index, start, end of each task, if a trace was asked for."""
    sent: list[tuple[int, int, float]]
    """Number in the plan, bytes and start of each message that this rank sent."""
    received: list[tuple[int, float]]
    """Number in the plan and end of each message that this rank waited for."""


class _Step(NamedTuple):
    task: Task
    origin: int
    waits: list[int]
    """Numbers of the requests that have to be through before the task runs."""
    run: Callable[..., Any] | None
    buffers: list[Any]
    written: list[Any]
    starts: list[int]
    """Numbers of the sends that may start after it."""


class Script:
    """See the module.

    Parameters
    ----------
    comm
        The communicator of the messages; every rank of it makes the same script.
    plan
        The plan of the whole graph.
    stays
        By handle, the buffers that stay on this rank from run to run.
    box
        By handle, the buffers of inputs and outputs. After a run they have the final values that this rank makes or
        gets.
    outline
        Shape and dtype of other handles, for which there will be buffers.
    shared
        Whether ``box`` is the same memory on all ranks; see `MessagePlan.rooms`.
    synchronous
        Let each send wait for its receive.

    Raises
    ------
    ValueError
        The owner of what stays here is another rank, or its last value is made on another: the next run would miss it.
    """

    def __init__(self, comm: MPI.Intracomm, plan: MessagePlan, stays: Mapping[Handle, Any],
                 box: Mapping[Handle, Any], *, outline: Callable[[Handle], tuple[tuple[int, ...], Any]],
                 synchronous: bool, shared: bool) -> None:  # fmt: skip
        self.comm = comm
        self.rank = comm.rank
        self.plan = plan
        self.polite = comm.size > cores()
        self._data = {**stays, **box}
        self._outline, self._synchronous = outline, synchronous
        self.requests: list[MPI.Prequest] = []
        self.messages: list[int] = []
        """Number in the plan of each request's message."""
        self.receives: list[int] = []
        self.steps: list[_Step] = []
        self.ends: list[tuple[Any, Any]] = []
        """(buffer with a final value, buffer it has to be in)."""
        places = plan.final_places
        self.fence = shared and any(handle in places and plan.keepers[handle] != places[handle] for handle in box)
        """Whether some final value goes where another rank reads until its end."""
        self._check(stays)
        self._compile(set(box) if shared else set())

    def _check(self, stays: Mapping[Handle, Any]) -> None:
        plan, places = self.plan, self.plan.final_places
        for handle in stays:
            if handle in plan.graph.inputs and plan.owner(handle) != self.rank:
                raise ValueError(f"{handle} is kept on rank {self.rank}, but the graph's layout looks for it on "
                                 f"{plan.owner(handle)}")  # fmt: skip
            if places.get(handle, self.rank) != self.rank:
                raise ValueError(f"{handle} stays on rank {self.rank}, but the last task that writes it runs on "
                                 f"{places[handle]}; let it run there, with on=")  # fmt: skip

    def _compile(self, shared: set[Handle]) -> None:
        part = self.plan.part(self.rank)
        store = Store({})
        for handle in part.graph.handles_used:
            value = self._data.get(handle)
            store[handle] = self._empty(handle) if value is None else value
        if shared:
            for handle in shared.intersection(self.plan.rooms(self.rank, "shared")):
                store[handle] = self._empty(handle)
        program = Program(part.graph, store)
        self.uses_functions = program.uses_functions
        current = dict(store)
        held: dict[Handle, int] = {}  # the task that made what is in ``current``
        arriving: dict[int, int] = {}  # by buffer: the receive that fills it
        leaving: dict[int, list[int]] = {}  # by buffer: sends since it was written
        numbers = self.plan.numbers
        for task, origin in zip(part.graph.tasks, part.origin, strict=True):
            if task.op.external:
                message: Message = task.params[0]
                if task.op is RECEIVE:
                    buffer = self._empty(message.handle)
                    arriving[id(buffer)] = self._request(self.comm.Recv_init, buffer, message.source, message, numbers)
                    self.receives.append(arriving[id(buffer)])
                    current[message.handle] = buffer
                    held[message.handle] = message.writer
                elif task.op is SEND:
                    buffer = current[message.handle]
                    post = self.comm.Ssend_init if self._synchronous else self.comm.Send_init
                    request = self._request(post, buffer, message.destination, message, numbers)
                    leaving.setdefault(id(buffer), []).append(request)
                    due = arriving.pop(id(buffer), None)
                    self.steps.append(_Step(task, origin, [] if due is None else [due], None, [buffer], [], [request]))
                else:
                    current[message.handle] = store[message.handle]
                    held.pop(message.handle, None)
                continue
            waits = []
            buffers, written = [], []
            for handle, access in task.uses:
                buffer = current[handle]
                buffers.append(buffer)
                due = arriving.pop(id(buffer), None)
                if due is not None:
                    waits.append(due)
                if access is not Access.READ:
                    held[handle] = origin
                    written.append(buffer)
                    waits += leaving.pop(id(buffer), [])
            self.steps.append(_Step(task, origin, waits, program.function(task), buffers, written, []))
        last = {handle: task.index for task in self.plan.graph.tasks for handle in task.writes}
        for handle in self._data.keys() & last.keys():
            if held.get(handle) == last[handle] and current[handle] is not self._data[handle]:
                self.ends.append((current[handle], self._data[handle]))

    def _empty(self, handle: Handle) -> np.ndarray:
        like = self._data.get(handle)
        if isinstance(like, np.ndarray):
            return np.empty(like.shape, like.dtype)
        return np.zeros(*self._outline(handle))

    def _request(self, make: Callable[..., Any], buffer: Any, other: int, message: Message,
                 numbers: Mapping[tuple[int, int, int], int]) -> int:  # fmt: skip
        if not isinstance(buffer, np.ndarray) or not buffer.flags.c_contiguous:
            raise TypeError(f"{message.handle} travels, so it must be a contiguous array")
        self.requests.append(make([buffer.reshape(-1).view(np.uint8), MPI.BYTE], other, message.tag))
        self.messages.append(numbers[message.source, message.destination, message.tag])
        return len(self.requests) - 1

    # ------------------------------------------------------------ running

    def run(self, traced: bool = False) -> Told:
        """Run once. Collective: every rank runs its own at the same time."""
        with in_task("mpi"):
            return self._run(traced)

    def _run(self, traced: bool) -> Told:
        told = Told(None, [], [], [])
        failure: tuple[int, BaseException] | None = None
        requests = self.requests
        for number in self.receives:
            requests[number].Start()
        for step in self.steps:
            if step.waits:
                self._wait(step.waits, told if traced else None)
            if step.run is None:
                for number in step.starts:
                    if traced:
                        told.sent.append((self.messages[number], step.buffers[0].nbytes, perf_counter()))
                    requests[number].Start()
                continue
            if failure is not None:
                continue
            start = perf_counter() if traced else 0.0
            try:
                result = step.run(*step.buffers, *step.task.params)
                if result is not None:
                    _put(step, result)
            except BaseException as error:
                failure = step.origin, error
                blame(error, step.task, step.origin, f"backend=mpi, rank={self.rank}")
            if traced and self.plan.places[step.origin] == self.rank:
                told.tasks.append((step.origin, start, perf_counter()))
        self._wait(range(len(requests)), None)
        if traced:  # results that no task here reads
            known = {number for number, _ in told.received}
            late = [self.messages[number] for number in self.receives]
            told.received.extend((number, perf_counter()) for number in late if number not in known)
        if self.fence:
            calm(self.comm.Ibarrier())
        for source, target in self.ends:
            np.copyto(target, source)
        return told._replace(failure=failure)

    def _wait(self, numbers: Any, told: Told | None) -> None:
        """Until all of these requests are through; asleep between two looks where ranks share cores."""
        pending = [self.requests[number] for number in numbers]
        if not MPI.Request.Testall(pending):
            deadline = perf_counter() + (0.0 if self.polite else _SPIN)
            pause = SHORTEST
            while not MPI.Request.Testall(pending):
                if perf_counter() > deadline:
                    sleep(pause)
                    pause = min(2 * pause, LONGEST)
        if told is not None:
            now = perf_counter()
            sources = set(self.receives)
            told.received.extend((self.messages[number], now) for number in numbers if number in sources)

    def free(self) -> None:
        """Give the requests back. The script cannot run any more."""
        for request in self.requests:
            request.Free()
        self.requests.clear()
        self.steps.clear()


def _put(step: _Step, result: Any) -> None:
    """A function returned new values: they go where what it wrote lives."""
    if step.task.op.function is None:
        if result:
            raise RuntimeError(f"{step.task}: info {result}")
        return
    values = (result,) if len(step.written) == 1 else result
    if not isinstance(values, tuple) or len(values) != len(step.written):
        names = ", ".join(map(str, step.task.writes))
        raise TypeError(f"{step.task} must return None or {len(step.written)} values, for {names}")
    if len(values) > 1:  # such as two buffers in each other's place
        values = tuple(np.array(value) for value in values)
    for buffer, value in zip(step.written, values, strict=True):
        if isinstance(buffer, np.ndarray) and np.shape(value) != buffer.shape:
            raise ValueError(f"{step.task} returned shape {np.shape(value)} where {buffer.shape} lives")
        np.copyto(buffer, value)
