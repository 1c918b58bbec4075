"""A script: one rank's part of a graph, laid out as straight-line code that runs many times.

The general engine looks at every task again in every run: a frontier, a policy, a courier thread, new requests. Where
one graph runs thousands of times on data that stays, all of that can be settled once:

- The part runs in program order in one thread. All ranks follow the same program and no send blocks, so each receive
  that a task waits for was sent by a task further up in that program: there is no circle to wait in.
- A task is a function that has its buffers and parameters already, so that a run is one call a task.
- Each message has a persistent request and a buffer of its own. All receives start first, so a message goes straight
  where it belongs; a task waits for those that it reads, just before it runs, and the tasks before it overlap them.
- A buffer that is on its way is written again only when MPI is done with it.
- A room has one buffer for all repetitions, which is zeroed before the task that writes it first.
- A repetition begins when this rank is done with the one before: nobody waits for all.

If a task fails, the tasks after it are left out, but all messages still go, so that no rank waits for ever.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from functools import partial
from time import perf_counter, sleep
from typing import Any, NamedTuple

import numpy as np
from mpi4py import MPI

from tilewright.backends.execution.buffers import kind, memory, view, wrap
from tilewright.backends.execution.engine import blame
from tilewright.backends.execution.nested import in_task
from tilewright.backends.execution.program import Program, check_info
from tilewright.backends.mpi.courier import LONGEST
from tilewright.graph import Access, Handle, Task, TaskGraph
from tilewright.host.cores import cores
from tilewright.passes.messages import RECEIVE, SEND, Message, MessagePlan
from tilewright.rooms import outline_for, zeros_for
from tilewright.tiles import Store

__all__ = ["Failure", "Script", "Told"]

_SPIN = 5e-3  # seconds of testing without sleeping
_PAUSE = 50e-6  # seconds of the first sleep
_LOOK = 64  # repetitions between two words about failures elsewhere


class Failure(NamedTuple):
    """The first task of a rank that failed.

    Tasks after it run on other ranks with what it did not make, in this repetition and in later ones, and may fail of
    that: in this one they have higher indices, in later ones any. So the first of all ranks is the true one.
    """

    repetition: int
    number: int
    """Index of the task."""
    error: Any
    """What the task raised, frozen before it travels."""


class Told(NamedTuple):
    """What a rank tells of one run of its script; times are of the host's monotonic clock."""

    failure: Failure | None = None
    done: int = 1
    """How many repetitions there were."""
    tasks: list[tuple[int, float, float]] = []  # noqa: RUF012 - a default that nobody changes; so below
    """Index, start, end of each task, if a trace was asked for."""
    sent: list[tuple[int, int, float]] = []  # noqa: RUF012
    """Number in the plan, bytes and start of each message that this rank sent."""
    received: list[tuple[int, float]] = []  # noqa: RUF012
    """Number in the plan and end of each message that this rank waited for."""
    seconds: list[float] = []  # noqa: RUF012
    """The time of each round, if times were asked for."""


class _Step(NamedTuple):
    call: Callable[[], Any]
    task: Task | None = None
    """None for what is done also after a failure: starts of requests, and waits."""
    origin: int = -1
    buffers: tuple[Any, ...] = ()
    written: tuple[Any, ...] = ()
    requests: tuple[int, ...] = ()
    """Numbers of those that it starts, or waits for."""
    starts: bool = False


class _Phase(NamedTuple):
    """The straight-line code for one assignment of buffers to handles."""

    receives: list[Any]
    steps: list[_Step]
    calls: list[Callable[[], Any]]
    requests: list[Any]
    messages: list[int]
    """Number in the plan of each request's message."""
    arrivals: set[int]
    """Numbers of the requests that receive."""
    ends: list[tuple[np.ndarray, np.ndarray]]
    """(memory with a final value, memory it has to be in)."""
    places: dict[Handle, Any]
    """Where the value of a handle is after a run, on this rank."""


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
    inputs
        Handles of ``box`` that the caller fills.
    carry
        {y: x}: x is y in the next repetition.

    Raises
    ------
    ValueError
        The owner of what stays here is another rank, or its last value is made on another: the next run would miss it.
        Or what is carried is made on another rank than it is needed on.
    """

    def __init__(
        self,
        comm: MPI.Intracomm,
        plan: MessagePlan,
        stays: Mapping[Handle, Any],
        box: Mapping[Handle, Any],
        *,
        outline: Callable[[Handle], tuple[tuple[int, ...], Any]],
        synchronous: bool,
        shared: bool,
        inputs: Iterable[Handle] = (),
        carry: Mapping[Handle, Handle] | None = None,
    ) -> None:
        self.comm = comm
        self.rank = comm.rank
        self.plan = plan
        self.polite = comm.size > cores()
        self.uses_functions = any(task.op.function is not None for task in plan.graph.tasks)
        """Whether some op is a Python function, which may call any library."""
        self.stays, self.box = dict(stays), dict(box)
        self._shared = shared
        self._outline, self._synchronous = outline, synchronous
        self.places = places = plan.final_places
        """The rank that makes the final value of each handle that is written."""
        self.fence = shared and any(handle in places and plan.keepers[handle] != places[handle] for handle in box)
        """Whether some final value goes where another rank reads until its end."""
        self.inputs = [memory(box[handle]) for handle in inputs if plan.owner(handle) == self.rank]
        self._fresh = _first_writes(plan.graph)
        self._check(stays, carry or {})
        self._carry = {y: x for y, x in (carry or {}).items() if plan.owner(x) == self.rank}
        data = {**stays, **box}
        for handle in [*self._carry, *self._carry.values()]:
            if handle not in data:
                data[handle] = zeros_for(outline_for(*outline(handle)))
        self._data = data
        self.phases = [self._compile(data, set(box))]
        if carry:
            exchanged = {a: data[b] for pair in self._carry.items() for a, b in (pair, pair[::-1])}
            self.phases.append(self._compile({**data, **exchanged}, set(box)))

    def _check(self, stays: Mapping[Handle, Any], carry: Mapping[Handle, Handle]) -> None:
        plan, places = self.plan, self.places
        for handle in stays:
            if handle in plan.graph.inputs and plan.owner(handle) != self.rank:
                raise ValueError(
                    f"{handle} is kept on rank {self.rank}, but the graph's layout looks for it on {plan.owner(handle)}"
                )
            if places.get(handle, self.rank) != self.rank:
                raise ValueError(
                    f"{handle} stays on rank {self.rank}, but the last task that writes it runs on "
                    f"{places[handle]}; let it run there, with on="
                )
        for y, x in carry.items():
            if places[y] != plan.owner(x):
                raise ValueError(
                    f"carry={{{y}: {x}}}: the last task that writes {y} runs on rank {places[y]}, but {x} "
                    f"lives on {plan.owner(x)}; let it run there, with on="
                )

    # ------------------------------------------------------------ laying out

    def _compile(self, data: Mapping[Handle, Any], box: set[Handle]) -> _Phase:
        part = self.plan.part(self.rank)
        store = Store({})
        for handle in part.graph.handles_used:
            value = data.get(handle)
            store[handle] = self._empty(data, handle) if value is None else value
        if self._shared:
            for handle in box.intersection(self.plan.rooms(self.rank, "shared")):
                store[handle] = self._empty(data, handle)
        for handle in list(store):
            room = part.graph.rooms.get(handle.name)
            if room is not None and room.like:  # the program compares, also with what only other ranks have
                like, shape = room.likeness(handle, tuple(store[handle].shape))
                if store[like] is None:
                    store[like] = outline_for(shape, np.dtype(np.uint8))
        program = Program(part.graph, store)
        requests: list[Any] = []
        messages: list[int] = []
        receives: list[int] = []
        steps: list[_Step] = []
        current = dict(store)
        held: dict[Handle, int] = {}  # the task that made what is in ``current``
        arriving: dict[int, int] = {}  # by buffer: the receive that fills it
        leaving: dict[int, list[int]] = {}  # by buffer: sends since it was written
        numbers = self.plan.numbers

        def request(make: Callable[..., Any], buffer: Any, other: int, message: Message) -> int:
            array = view(buffer)
            if array is None or not array.flags.c_contiguous:
                raise TypeError(f"{message.handle} travels, so it must be a contiguous array")
            requests.append(make([array.reshape(-1).view(np.uint8), MPI.BYTE], other, message.tag))
            messages.append(numbers[message.source, message.destination, message.tag])
            return len(requests) - 1

        def wait_for(some: list[int]) -> None:
            if some:
                pending = [requests[number] for number in some]
                steps.append(_Step(partial(self._wait, pending), requests=tuple(some)))

        for task, origin in zip(part.graph.tasks, part.origin, strict=True):
            if task.op.external:
                message: Message = task.params[0]
                if task.op is RECEIVE:
                    buffer = self._empty(data, message.handle)
                    number = arriving[id(buffer)] = request(self.comm.Recv_init, buffer, message.source, message)
                    receives.append(number)
                    current[message.handle] = buffer
                    held[message.handle] = message.writer
                elif task.op is SEND:
                    buffer = current[message.handle]
                    post = self.comm.Ssend_init if self._synchronous else self.comm.Send_init
                    number = request(post, buffer, message.destination, message)
                    leaving.setdefault(id(buffer), []).append(number)
                    due = arriving.pop(id(buffer), None)
                    wait_for([] if due is None else [due])
                    if steps and steps[-1].starts:  # with the one before, in one call
                        some = (*steps.pop().requests, number)
                        start = partial(MPI.Prequest.Startall, [requests[n] for n in some])
                    else:
                        some, start = (number,), requests[number].Start
                    steps.append(_Step(start, buffers=(buffer,), requests=some, starts=True))
                else:
                    current[message.handle] = store[message.handle]
                    held.pop(message.handle, None)
                continue
            waits: list[int] = []
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
            wait_for(waits)
            for handle in self._fresh.get(origin, ()):
                array = memory(current[handle])
                steps.append(_Step(partial(np.copyto, array, np.zeros((), array.dtype))))
            call = partial(program.function(task), *buffers, *task.params)
            steps.append(_Step(call, task, origin, tuple(buffers), tuple(written)))
        wait_for(list(range(len(requests))))
        last = {handle: task.index for task in self.plan.graph.tasks for handle in task.writes}
        places = self.places
        ends = [
            (memory(current[handle]), memory(data[handle]))
            for handle in data.keys() & last.keys()
            if held.get(handle) == last[handle]
            and current[handle] is not data[handle]
            and not (self._shared and places[handle] != self.rank)
        ]
        return _Phase(
            [requests[number] for number in receives],
            steps,
            [step.call for step in steps],
            requests,
            messages,
            set(receives),
            ends,
            {handle: data.get(handle, value) for handle, value in current.items()},
        )

    def _empty(self, data: Mapping[Handle, Any], handle: Handle) -> Any:
        like = data.get(handle)
        array = view(like)
        if array is not None:
            return wrap(np.empty(array.shape, array.dtype), kind(like))
        return zeros_for(outline_for(*self._outline(handle)))

    # ------------------------------------------------------------ running

    def run(self) -> None:
        """Run once, on this rank's own account: what a task raises comes out here, and ranks do not hear of it."""
        failure = self._pass(self.phases[0])
        if failure is not None:
            raise failure.error

    def repeat(self, times: int, until: Handle | None = None) -> Told:
        """Run ``times`` times, or until a repetition that leaves some number of ``until`` other than zero. Collective.

        Ranks agree about ``until`` after each repetition, and now and then about whether a task failed.
        """
        with in_task("mpi"):
            return self._repeat(times, until)

    def _repeat(self, times: int, until: Handle | None) -> Told:
        phases, alone = self.phases, self.comm.size == 1
        failure: Failure | None = None
        done = 0
        while done < times:
            phase = phases[done % len(phases)]
            failed = self._pass(phase, failure is not None)
            failure = failure or (failed and failed._replace(repetition=done))
            done += 1
            if done < times and self.fence:
                self.calm(self.comm.Ibarrier())
            if until is not None:
                if self._agree(failure is not None, self._flag(phase, until)):
                    break
            elif done < times and (
                (alone and failure is not None) or (done % _LOOK == 0 and self._agree(failure is not None, False))
            ):
                break
        for y, x in self._carry.items() if done else ():  # both have what y is, in their own places
            source, target = (y, x) if done % 2 else (x, y)
            np.copyto(self._data[target], self._data[source])
        return Told(failure, done)

    def _flag(self, phase: _Phase, until: Handle) -> bool:
        """Whether this rank makes the value and finds it true."""
        return self.places[until] == self.rank and bool(np.any(memory(phase.places[until])))

    def _agree(self, *mine: bool) -> bool:
        """Whether something is true on some rank. Collective."""
        here, there = np.array([any(mine)]), np.zeros(1, bool)
        self.calm(self.comm.Iallreduce([here, MPI.C_BOOL], [there, MPI.C_BOOL], MPI.LOR))
        return bool(there[0])

    def _pass(self, phase: _Phase, passing: bool = False) -> Failure | None:
        """One run; what failed. ``passing``: messages only."""
        if phase.receives:
            MPI.Prequest.Startall(phase.receives)
        failure: Failure | None = None
        if passing:
            self._messages(phase.steps)
        else:
            calls = iter(phase.calls)
            try:
                for call in calls:
                    result = call()
                    if result is not None:
                        _put(phase.steps[_before(phase.calls, calls)], result)
            except BaseException as error:
                place = _before(phase.calls, calls)
                step = phase.steps[place]
                if step.task is None:
                    raise
                failure = Failure(0, step.origin, error)
                blame(error, step.task, step.origin, f"backend=mpi, rank={self.rank}")
                self._messages(phase.steps[place + 1 :])
        self._finish(phase)
        return failure

    def _messages(self, steps: list[_Step]) -> None:
        for step in steps:
            if step.task is None:
                step.call()

    def _finish(self, phase: _Phase) -> None:
        if self.fence:
            self.calm(self.comm.Ibarrier())
        for source, target in phase.ends:
            np.copyto(target, source)

    def traced(self) -> Told:
        """Run once and note when. Collective."""
        with in_task("mpi"):
            return self._traced(self.phases[0])

    def _traced(self, phase: _Phase) -> Told:
        told = Told(None, 1, [], [], [])
        failure: Failure | None = None
        heard: set[int] = set()
        if phase.receives:
            MPI.Prequest.Startall(phase.receives)
        for step in phase.steps:
            start = perf_counter()
            if step.task is None:
                if step.starts:
                    sizes = [self.plan.messages[phase.messages[number]].handle for number in step.requests]
                    told.sent.extend(
                        (phase.messages[number], phase.places[handle].nbytes, start)
                        for number, handle in zip(step.requests, sizes, strict=True)
                    )
                step.call()
                now = perf_counter()
                new = [number for number in step.requests if number in phase.arrivals and number not in heard]
                heard.update(new)
                told.received.extend((phase.messages[number], now) for number in new)
                continue
            if failure is not None:
                continue
            try:
                result = step.call()
                if result is not None:
                    _put(step, result)
            except BaseException as error:
                failure = Failure(0, step.origin, error)
                blame(error, step.task, step.origin, f"backend=mpi, rank={self.rank}")
            if self.plan.places[step.origin] == self.rank:
                told.tasks.append((step.origin, start, perf_counter()))
        self._finish(phase)
        return told._replace(failure=failure)

    def timed(self, rounds: int, times: int) -> Told:
        """Seconds of each round of ``times`` repetitions, all with the inputs of the first. Collective."""
        first = [value.copy() for value in self.inputs]
        seconds = []
        told = Told(None, 0)
        for _ in range(rounds):
            for place, value in zip(self.inputs, first, strict=True):
                np.copyto(place, value)
            self.calm(self.comm.Ibarrier())
            start = perf_counter()
            told = self.repeat(times)
            seconds.append(perf_counter() - start)
            if self._agree(told.failure is not None):
                break
        return told._replace(seconds=seconds[1:])

    def gather(self) -> None:
        """Bring what other ranks made of ``box`` here, where they do not share that memory. Collective."""
        places = self.places
        made = [(handle, memory(value)) for handle, value in self.box.items() if handle in places]
        if self.comm.size == 1 or not made or self._shared:
            return
        theirs: list[list[np.ndarray]] = [[] for _ in range(self.comm.size)]
        for handle, value in made:
            theirs[places[handle]].append(value)
        sizes = [sum(value.nbytes for value in values) for values in theirs]
        whole = np.empty(sum(sizes), np.uint8)
        mine = [np.ascontiguousarray(value).reshape(-1).view(np.uint8) for value in theirs[self.rank]]
        send = np.concatenate(mine) if mine else whole[:0]
        self.calm(self.comm.Iallgatherv([send, MPI.BYTE], [whole, sizes, None, MPI.BYTE]))
        start = 0
        for rank, values in enumerate(theirs):
            for value in values:
                if rank != self.rank:
                    value[...] = whole[start : start + value.nbytes].view(value.dtype).reshape(value.shape)
                start += value.nbytes

    # ------------------------------------------------------------ waiting

    def _wait(self, requests: list[Any]) -> None:
        """Until all of these are through; ranks that share cores give theirs away between two looks."""
        if not MPI.Request.Testall(requests):
            self._until(partial(MPI.Request.Testall, requests))

    def calm(self, request: MPI.Request) -> None:
        """Wait for one request, likewise."""
        if not request.Test():
            self._until(request.Test)

    def _until(self, done: Callable[[], bool]) -> None:
        deadline = perf_counter() + _SPIN
        pause = _PAUSE
        while not done():
            if self.polite:
                sleep(0)
            if perf_counter() > deadline:
                sleep(pause)
                pause = min(2 * pause, LONGEST)

    def free(self) -> None:
        """Give the requests back. The script cannot run any more."""
        for phase in self.phases:
            for request in phase.requests:
                request.Free()
        self.phases.clear()


def _first_writes(graph: TaskGraph) -> dict[int, list[Handle]]:
    """By task, the rooms that it writes before any other task does: these begin as zeros in each run."""
    found: dict[int, list[Handle]] = {}
    seen: set[Handle] = set(graph.inputs)
    for task in graph.tasks if graph.rooms else ():
        for handle in dict.fromkeys(task.writes):
            if handle.name in graph.rooms and handle not in seen:
                seen.add(handle)
                found.setdefault(task.index, []).append(handle)
    return found


def _before(calls: list[Any], rest: Any) -> int:
    """The place of what an iterator over ``calls`` gave last."""
    left: int = rest.__length_hint__()
    return len(calls) - left - 1


def _put(step: _Step, result: Any) -> None:
    """A function returned new values: they go where what it wrote lives. A kernel returned an info code."""
    task = step.task
    assert task is not None
    if task.op.function is None or task.op.explain is not None:
        check_info(task, Store(dict(zip((use.handle for use in task.uses), step.buffers, strict=True))), result)
        return
    if task.op.in_place:
        raise TypeError(f"{task} works in place, so where there is an array it has to return None")
    values = (result,) if len(step.written) == 1 else result
    if not isinstance(values, tuple) or len(values) != len(step.written):
        names = ", ".join(map(str, task.writes))
        raise TypeError(f"{task} must return None or {len(step.written)} values, for {names}")
    if len(values) > 1:  # such as two buffers in each other's place
        values = tuple(map(deepcopy, values))
    for buffer, value in zip(step.written, values, strict=True):
        if hasattr(buffer, "shape") and np.shape(value) != buffer.shape:
            raise ValueError(f"{task} returned shape {np.shape(value)} where {tuple(buffer.shape)} lives")
        if isinstance(buffer, np.ndarray):
            np.copyto(buffer, value)
        else:
            buffer.copy_(value)
