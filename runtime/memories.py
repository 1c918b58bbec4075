"""Workers of two kinds in one run: CPU cores, and accelerators that compute in memories of their own.

The data of the run lies in the memory of the host, node 0; accelerator g has node g + 1. A handle may have a copy in
each, and a set says which of them are valid, as in a coherent cache: who reads brings a copy, who writes makes the
others invalid. So a tile crosses the bus once per version and direction, however many tasks read it. What an
accelerator has no kernel for, its worker runs on the host. The engine knows nothing of this: it calls `Memories.call`.

An accelerator may return from a call before the work is done (`torch.cuda`). Its calls are done in order; *marks* say
how far it is, and whoever needs a value in another memory waits for the mark of its writer.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from time import perf_counter
from typing import Any, Protocol, runtime_checkable

import numpy as np

from tilewright.graph import Access, Handle, Task
from tilewright.kernels import table, tensors
from tilewright.program import Program
from tilewright.trace import MessageRecord, Trace

__all__ = ["ACCELERATION", "Accelerator", "Memories", "TorchAccelerator", "accelerator"]

ACCELERATION = {"gemm": 20.0, "syrk": 20.0, "trsm": 10.0, "potrf": 2.0}
"""How much faster than a core policies take an accelerator to be, unless a `Machine` says it: a guess."""

HOST = 0


@runtime_checkable
class Accelerator(Protocol):
    """A memory, and kernels that work in it. Its methods are called by its own worker, but for `fetch` and `wait`."""

    device: str
    """Of its rows in the kernel table."""
    ops: frozenset[str]
    """What it runs, where the table has a row for the dtypes."""
    capacity: float
    """Bytes of copies that fit."""

    def room(self, like: np.ndarray) -> Any:
        """A buffer for a copy of an array, with unknown contents."""

    def bring(self, source: np.ndarray, room: Any) -> None:
        """Copy from the host, after all calls so far."""

    def fetch(self, room: Any, target: np.ndarray, after: Any) -> None:
        """Copy to the host, after a mark; done on return. From any thread."""

    def entered(self) -> AbstractContextManager[Any]:
        """A block whose calls are for this accelerator."""

    def mark(self) -> Any:
        """After all calls so far."""

    def wait(self, mark: Any) -> None:
        """Until the accelerator has passed a mark. From any thread."""

    def seconds(self, mark: Any) -> float:
        """When it passed a mark, on the clock of `time.perf_counter`; after `finish`."""

    def finish(self) -> None:
        """Wait for all calls."""


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
        accelerator = self.accelerators[g]
        self._make_room(g, task)
        with accelerator.entered():
            rooms = [self._bring(g, handle, access) for handle, access in task.uses]
            begin = accelerator.mark()
            info = kernel(*rooms, *task.params)
            end = accelerator.mark()
        self._marks[task.index] = accelerator, begin, end
        for handle in task.writes:
            copies = self._copies[handle]
            copies.valid, copies.written, copies.writer = {g + 1}, end, task.index
        if info:
            explain = task.op.explain
            raise explain(task, self.program.store, info) if explain else RuntimeError(f"{task}: info {info}")

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
            names = tuple(table.dtype_name(program.store[use.handle]) for use in task.uses)
            key = task.op, names
            if key not in known:
                known[key] = _kernel(task, names, accelerator)
            kernel = known[key]
        found.append(kernel)
    return found


def _kernel(task: Task, names: tuple[str, ...], accelerator: Accelerator) -> Callable[..., Any] | None:
    *operands, target = names
    form, routed, _ = task.op.source.partition("/")
    source = f"{form}/tensor" if routed else task.op.source
    storage = operands[0] if operands else target
    try:
        return table.lookup(task.op.name, accelerator.device, storage, target, source).function
    except KeyError:
        return None


# ------------------------------------------------------------------ torch


def accelerator(device: str | Accelerator) -> Accelerator:
    """The accelerator of that name: ``cuda``, ``cuda:1``, or ``cpu`` for torch on the CPU, in memory of its own.

    Raises
    ------
    ImportError, RuntimeError
        There is no torch, or no such device.
    TypeError
        Neither a name nor an `Accelerator`.
    """
    if isinstance(device, str):
        return TorchAccelerator(device)
    if not isinstance(device, Accelerator) or isinstance(device, type):
        raise TypeError(f"a device is a name such as 'cuda' or an Accelerator, not {device!r}")
    return device


class TorchAccelerator:
    """A torch device. On CUDA all calls go to one stream, and copies to the host to another one.

    Parameters
    ----------
    name
        Such as ``"cuda:0"``.
    capacity
        Bytes of copies; by default nine tenths of what is free on the device.
    """

    ops = frozenset({"potrf", "trsm", "syrk", "gemm", "convert", "split"})

    def __init__(self, name: str, capacity: float | None = None) -> None:
        try:
            import torch
        except ImportError:
            raise ImportError("devices= needs torch, which is not installed; pip install torch brings it") from None
        self.torch = torch
        self.place = torch.device(name)
        self.cuda = self.place.type == "cuda"
        if self.cuda and not torch.cuda.is_available():
            raise RuntimeError(f"torch {torch.__version__} sees no CUDA device here; leave out devices={name!r}")
        if not self.cuda and self.place.type != "cpu":
            raise RuntimeError(f"the kernel table has no rows for {name}, only for cuda and cpu")
        self.device = "cuda" if self.cuda else "torch"
        self.capacity = float("inf") if capacity is None else capacity
        if self.cuda:
            if capacity is None:
                self.capacity = 0.9 * torch.cuda.mem_get_info(self.place)[0]
            self._stream = torch.cuda.Stream(self.place)
            self._homeward = torch.cuda.Stream(self.place)
            self._zero = self.mark()
            self._zero.synchronize()
            self._began = perf_counter()

    def room(self, like: np.ndarray) -> Any:
        return self.torch.empty(like.shape, dtype=_torch_dtype(self.torch, like.dtype), device=self.place)

    def bring(self, source: np.ndarray, room: Any) -> None:
        room.copy_(_as_tensor(self.torch, source), non_blocking=True)

    def fetch(self, room: Any, target: np.ndarray, after: Any) -> None:
        if not self.cuda:
            np.copyto(target, _as_array(room, target.dtype))
            return
        with self.torch.cuda.stream(self._homeward):
            self._homeward.wait_event(after)
            np.copyto(target, _as_array(room.to("cpu"), target.dtype))  # a copy to the host waits for its stream

    def entered(self) -> AbstractContextManager[Any]:
        return self._entered() if self.cuda else nullcontext()

    @contextmanager
    def _entered(self) -> Iterator[None]:
        with self.torch.cuda.stream(self._stream):
            yield

    def mark(self) -> Any:
        if not self.cuda:
            return perf_counter()
        event = self.torch.cuda.Event(enable_timing=True)
        self._stream.record_event(event)
        return event

    def wait(self, mark: Any) -> None:
        if self.cuda:
            mark.synchronize()

    def seconds(self, mark: Any) -> float:
        return self._began + self._zero.elapsed_time(mark) * 1e-3 if self.cuda else float(mark)

    def finish(self) -> None:
        if self.cuda:
            self._stream.synchronize()
            self._homeward.synchronize()

    def switches(self) -> AbstractContextManager[dict[str, Any]]:
        """A block in which sums are FP32, and what is set for that: `tilewright.kernels.tensors.exact_sums`."""
        return tensors.exact_sums()


def _torch_dtype(torch: Any, dtype: np.dtype) -> Any:
    return torch.bfloat16 if dtype == np.uint16 else getattr(torch, str(dtype))


def _as_tensor(torch: Any, array: np.ndarray) -> Any:
    """The memory of an array as a tensor, BF16 for uint16; of a copy where torch cannot take it."""
    if not array.flags.writeable or any(stride < 0 for stride in array.strides):
        array = array.copy()
    if array.dtype == np.uint16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def _as_array(tensor: Any, dtype: np.dtype) -> np.ndarray:
    if dtype == np.uint16:
        import torch

        tensor = tensor.view(torch.int16)
    array: np.ndarray = tensor.numpy()
    return array.view(dtype)
