"""On a Dask worker: one group of tasks, as a pure function of the versions it reads."""

from __future__ import annotations

import pickle
import socket
import sys
import threading
import time
from typing import Any, NamedTuple

from tilewright.backends.dask.courier import blank, own
from tilewright.backends.dask.rank import TOPIC, Teller, outline_family
from tilewright.backends.execution.engine import blame
from tilewright.backends.execution.nested import in_task
from tilewright.backends.execution.program import Program
from tilewright.backends.execution.torch_state import TorchState
from tilewright.backends.ranks.outcome import freeze
from tilewright.backends.ranks.output import Say, telling
from tilewright.graph import Handle, Op, TaskGraph
from tilewright.kernels import choice
from tilewright.kernels.choice import Choice
from tilewright.kernels.threads import limits, one_thread
from tilewright.rooms import Outline, Room, zeros_for
from tilewright.tiles import Store

__all__ = ["TaskCall", "Common", "TaskFailed", "GroupWork", "run_group", "transfers"]


TEXT = 1000  # characters of an exception's text in Dask's logs


class TaskFailed(Exception):  # noqa: N818 - it says what happened
    """A task of the group failed; the caller gets what it raised."""

    def __init__(self, number: int, text: str, frozen: bytes) -> None:
        super().__init__(number, text, frozen)
        self.number = number
        self.frozen = frozen

    def __str__(self) -> str:
        return str(self.args[1])


class TaskCall(NamedTuple):
    """One task."""

    number: int
    op: Op
    args: tuple[Any, ...]
    """Its accesses, of a group a list."""
    params: tuple[Any, ...]


class Common(NamedTuple):
    """What the groups of a run have in common."""

    run: str
    blas: Choice
    path: tuple[str, ...]
    """``sys.path`` of a caller on this host; functions are found there."""
    torch_state: TorchState
    """Autocast and the like where the run was submitted."""
    caller: tuple[str, int]
    """Host and process of the caller: what tasks print in it needs no telling."""


class GroupWork(NamedTuple):
    """One group."""

    common: Common
    rank: int
    """Where it was meant to run."""
    first: int
    """The number of its first task."""
    calls: bytes
    """Its `TaskCall`s, pickled: a worker says what it cannot read, where Dask would lose the scheduler and hang."""
    inputs: tuple[tuple[Handle, bool], ...]
    """For each value passed: its handle, and whether it stands in a dict of several."""
    outputs: tuple[Handle, ...]
    """Handles whose values are wanted; a dict of them unless it is one."""
    families: dict[str, tuple[tuple[int, int], int, int, str, str]]
    """Shape, tile size, dtype, order of the tiled matrices here."""
    outlines: dict[Handle, tuple[tuple[int, ...], str]]
    """Shape and dtype of arrays that are written first, or say where a tile stands."""
    rooms: dict[Handle, Room]
    """Rooms of what else is written first."""


def run_group(work: GroupWork, *values: Any) -> Any:
    """Run the tasks on copies of what they change; return what is wanted of it. Ends early if nobody waits any more.

    `TaskFailed` stands for what a task raised, also SystemExit. It has no context: Dask would send that along, and what
    cannot be pickled in it would turn all of it into text.
    """
    from distributed import get_worker

    worker = get_worker()
    teller = Teller(worker, work.common.run, work.rank, work.common.caller)
    with in_task("dask"):
        value, failed = _run_group(work, values, worker, teller.say)
    if failed is not None:
        raise failed
    return value


def _run_group(work: GroupWork, values: tuple[Any, ...], worker: Any, say: Say | None) -> tuple[Any, TaskFailed | None]:
    from distributed import Reschedule

    key = worker.get_current_task()
    common = work.common
    sys.path.extend(entry for entry in common.path if entry not in sys.path)
    number = work.first
    records: list[tuple[int, float, float]] = []
    try:
        choice.adopt(common.blas)
        calls: tuple[TaskCall, ...] = pickle.loads(work.calls)
        graph = TaskGraph()
        for call in calls:
            graph.insert(call.op, *call.args, *call.params)
        store = _store(work, graph, values)
        program = Program(graph, store)
        with limits(program.uses_functions), one_thread(), common.torch_state.entered(), telling(say):
            for task, call in zip(graph, calls, strict=True):
                if worker.state.tasks[key].state == "cancelled":
                    raise Reschedule  # that is no failure if Dask wants the task again by then
                number = call.number
                start = time.time()
                try:
                    program.call(task)
                except BaseException as error:
                    blame(error, task, number, f"backend=dask, worker={worker.address}, rank={work.rank}")
                    raise
                records.append((number, start, time.time()))
    except Reschedule:
        raise
    except (Exception, SystemExit) as error:
        worker.log_event(TOPIC, {"run": common.run, "failed": number})
        return None, TaskFailed(number, f"{type(error).__name__}: {error}"[:TEXT], freeze(error))
    tale = {
        "run": common.run,
        "rank": work.rank,
        "address": worker.address,
        "host": socket.gethostname(),
        "thread": threading.get_ident(),
        "delay": worker.scheduler_delay,
        "records": records,
        "replaced": [(handle.name, handle.index) for handle in program.replaced],
    }
    worker.log_event(TOPIC, tale)
    if len(work.outputs) == 1:
        return store[work.outputs[0]], None
    return {handle: store[handle] for handle in work.outputs}, None


def _store(work: GroupWork, graph: TaskGraph, values: tuple[Any, ...]) -> Store:
    store = Store({name: outline_family(*what) for name, what in work.families.items()})
    for handle, (shape, dtype) in work.outlines.items():
        store[handle] = Outline.of(shape, dtype)
    written = set(graph.written)
    for (handle, several), value in zip(work.inputs, values, strict=True):
        tile = value[handle] if several else value
        order = work.families[handle.name][-1] if handle.name in work.families else None
        store[handle] = own(tile, copy=handle in written, order=order, read=handle not in written)
    for handle in written:
        place = store[handle]
        if isinstance(place, Outline):
            order = work.families[handle.name][-1] if handle.name in work.families else "C"
            store[handle] = blank(place.shape, place.dtype, order)
    for handle, room in work.rooms.items():
        store[handle] = zeros_for(room.outline(handle, lambda other: store[other].shape))
    return store


def transfers(since: float, mark: str, dask_worker: Any = None) -> list[tuple[str, Any, int, float, float]]:
    """(from, key, bytes, start, stop) of what this worker got of a run's values. Runs on the event loop."""
    delay = dask_worker.scheduler_delay
    return [
        (entry["who"], key, nbytes, entry["start"] - delay, entry["stop"] - delay)
        for entry in dask_worker.transfer_incoming_log
        if entry["stop"] - delay >= since
        for key, nbytes in entry["keys"].items()
        if mark in str(key)
    ]
