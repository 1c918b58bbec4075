"""Workers of two kinds in one run: CPU cores, and accelerators that compute in memories of their own.

The data of the run lies in the memory of the host, node 0; accelerator g has node g + 1. A handle may have a copy in
each, and a set says which of them are valid, as in a coherent cache: who reads brings a copy, who writes makes the
others invalid. So a tile crosses the bus once per version and direction, however many tasks read it. What an
accelerator has no kernel for, its worker runs on the host. The engine knows nothing of this: it calls `Memories.call`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any

from tilewright.backends.execution.program import Program, check_info, names_of
from tilewright.backends.gpu.accelerators import Accelerator
from tilewright.graph import Access, Handle, Task
from tilewright.kernels import table
from tilewright.runs.trace import MessageRecord, Trace

__all__ = ["Memories"]

HOST = 0


class _Copies:
    """Where a handle's value is."""

    __slots__ = ("lock", "reading", "rooms", "valid", "writer", "written")

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.valid = {HOST}
        self.rooms: dict[int, Any] = {}  # by node
        self.written: Any = None  # mark of the accelerator that wrote the value
        self.writer = -1  # index of the task that did
        self.reading: list[tuple[Accelerator, Any]] = []  # copies from the host that may be under way


class Memories:
    """The memories of one run.

    Parameters
    ----------
    program
        What runs; its store is the memory of the host.
    accelerators
        The last workers are these.
    workers
        How many workers there are in all.
    """

    def __init__(self, program: Program, accelerators: Sequence[Accelerator], workers: int) -> None:
        self.program = program
        if program.rooms is not None:
            program.rooms.forget = self._forget
        self.accelerators = list(accelerators)
        self.first = workers - len(self.accelerators)
        self.transfers: list[tuple[int, int, Handle, int, Any, Any, int]] = []
        """(from node, to node, handle, bytes, start, end, writer); times are marks of the accelerator, or seconds."""
        self._copies: dict[Handle, _Copies] = {}
        self._kernels = [_kernels(program, a) for a in self.accelerators]
        self._held: list[dict[Handle, int]] = [{} for _ in self.accelerators]  # bytes, the longest unused first
        self._begun: dict[int, float] = {}
        self._marks: dict[int, tuple[Accelerator, Any, Any]] = {}

    # ------------------------------------------------------------ tasks

    def call(self, worker: int, task: Task) -> None:
        """Run a task as worker number ``worker``."""
        g = worker - self.first
        kernel = self._kernels[g][task.index] if g >= 0 else None
        if kernel is None:
            self._on_host(task)
        else:
            self._on_accelerator(g, task, kernel)

    def _on_host(self, task: Task) -> None:
        for handle, access in task.uses:
            copies = self._copies.get(handle)
            if copies is not None:
                with copies.lock:
                    if access is not Access.WRITE:
                        self._bring_home(handle, copies)
                    if access is not Access.READ:
                        for other, mark in copies.reading:
                            other.wait(mark)
                        copies.reading.clear()
        self._begun[task.index] = perf_counter()
        self.program.call(task)
        for handle in task.writes:
            copies = self._copies.get(handle)
            if copies is not None:
                copies.valid, copies.writer = {HOST}, task.index

    def _on_accelerator(self, g: int, task: Task, kernel: Callable[..., Any]) -> None:
        accelerator, rooms = self.accelerators[g], self.program.rooms
        fresh = [] if rooms is None else rooms.enter(task)
        self._make_room(g, task)
        with accelerator.entered():
            buffers = [self._bring(g, handle, access) for handle, access in task.uses]
            for handle in fresh:  # zeros there too
                accelerator.bring(self.program.store[handle], self._copies[handle].rooms[g + 1])
            begin = accelerator.mark()
            info = kernel(*task.arguments(buffers), *task.params)
            end = accelerator.mark()
        self._marks[task.index] = accelerator, begin, end
        for handle in task.writes:
            copies = self._copies[handle]
            copies.valid, copies.written, copies.writer = {g + 1}, end, task.index
        if info:
            check_info(task, self.program.store, info)
        if rooms is not None:
            rooms.leave(task)

    # ------------------------------------------------------------ copies

    def _bring(self, g: int, handle: Handle, access: Access) -> Any:
        """The buffer of a handle in the memory of accelerator g, with its value if that is read."""
        accelerator, node, host = self.accelerators[g], g + 1, self.program.store[handle]
        copies = self._copies.setdefault(handle, _Copies())
        with copies.lock:
            room = copies.rooms.get(node)
            if room is None or tuple(room.shape) != host.shape:
                room = copies.rooms[node] = accelerator.room(host)
                copies.valid.discard(node)
            self._held[g][handle] = host.nbytes
            if access is not Access.WRITE and node not in copies.valid:
                self._bring_home(handle, copies)
                start = accelerator.mark()
                accelerator.bring(host, room)
                end = accelerator.mark()
                copies.reading.append((accelerator, end))
                copies.valid.add(node)
                self.transfers.append((HOST, node, handle, host.nbytes, start, end, copies.writer))
        return room

    def _bring_home(self, handle: Handle, copies: _Copies) -> None:
        """Make the copy of the host valid. With the lock of the handle."""
        if HOST in copies.valid:
            return
        node = min(copies.valid)
        host = self.program.store[handle]
        start = perf_counter()
        self.accelerators[node - 1].fetch(copies.rooms[node], host, copies.written)
        copies.valid.add(HOST)
        self.transfers.append((node, HOST, handle, host.nbytes, start, perf_counter(), copies.writer))

    def _make_room(self, g: int, task: Task) -> None:
        """Give up copies that were not used for longest, until those of a task fit. MemoryError if they never do."""
        held, accelerator = self._held[g], self.accelerators[g]
        mine = {handle: self.program.store[handle].nbytes for handle, _ in task.uses}
        if sum(mine.values()) > accelerator.capacity:
            raise MemoryError(
                f"{task} needs {sum(mine.values()) / 1e6:.4g} MB on {accelerator.device}, which has "
                f"{accelerator.capacity / 1e6:.4g} MB; use smaller tiles"
            )
        for handle in mine:
            held.pop(handle, None)  # they come last again
        left = sum(held.values()) + sum(mine.values()) - accelerator.capacity
        for handle in list(held):
            if left <= 0:
                break
            copies = self._copies[handle]
            with copies.lock:
                if g + 1 in copies.valid:
                    self._bring_home(handle, copies)
                    copies.valid.discard(g + 1)
                copies.rooms.pop(g + 1, None)
            left -= held.pop(handle)

    def _forget(self, handle: Handle) -> None:
        """Give up all copies of a room that nobody uses any more."""
        copies = self._copies.pop(handle, None)
        if copies is not None:
            for other, mark in copies.reading:
                other.wait(mark)
        for held in self._held:
            held.pop(handle, None)

    # ------------------------------------------------------------ the end

    def finish(self, trace: Trace) -> Trace:
        """Bring the results home; the trace with the times on the accelerators, and the transfers as messages."""
        for handle in self.program.graph.results:
            copies = self._copies.get(handle)
            if copies is not None:
                self._bring_home(handle, copies)
        self.close()
        began = trace.began

        def when(node: int, mark: Any) -> float:
            return (self.accelerators[node - 1].seconds(mark) if node else mark) - began

        records = []
        for record in trace:
            if record.task in self._marks:
                accelerator, begin, end = self._marks[record.task]
                record = record._replace(start=accelerator.seconds(begin) - began, end=accelerator.seconds(end) - began)
            elif record.task in self._begun:
                record = record._replace(start=self._begun[record.task] - began)
            records.append(record)
        messages = [
            MessageRecord(0, 0, handle, nbytes, when(target, start), when(target, end), writer, (source, target))
            for source, target, handle, nbytes, start, end, writer in self.transfers
        ]
        return Trace(trace.graph, trace.workers, records, messages=messages)

    def close(self) -> None:
        """Wait for the accelerators."""
        for accelerator in self.accelerators:
            accelerator.finish()


def _kernels(program: Program, accelerator: Accelerator) -> list[Callable[..., Any] | None]:
    """By task: what runs it there; None if it has to run on the host."""
    known: dict[Any, Callable[..., Any] | None] = {}
    found = []
    for task in program.graph:
        kernel = None
        if task.op.function is None and task.op.name in accelerator.ops and not task.op.external:
            names = names_of(task, [program.store[use.handle] for use in task.uses])
            key = task.op, tuple(names)
            if key not in known:
                known[key] = _kernel(task, names, accelerator)
            kernel = known[key]
        found.append(kernel)
    return found


def _kernel(task: Task, names: list[str], accelerator: Accelerator) -> Callable[..., Any] | None:
    form, _, routed = task.op.source.partition("/")
    source = (f"{form}/autocast" if routed == "autocast" else f"{form}/tensor") if routed else task.op.source
    try:
        return table.find(task.op.name, accelerator.device, names, source).function
    except KeyError:
        return None
