"""Data and prepared graphs on the ranks of a pool, as the process of the user holds them."""

from __future__ import annotations

import itertools
import sys
import weakref
from collections.abc import Callable, Mapping
from time import perf_counter
from typing import Any

import numpy as np

from tilewright.backends.execution.torch_state import TorchState, capture
from tilewright.backends.mpi import pool as pools
from tilewright.backends.mpi.connection import Go, Keep, Prepare
from tilewright.backends.mpi.pool import Pool
from tilewright.backends.ranks import pickling, segments
from tilewright.backends.ranks.outcome import Order, planned, thaw
from tilewright.backends.ranks.resident import Prepared, check_given
from tilewright.graph import Handle, Layout, TaskGraph
from tilewright.kernels import choice
from tilewright.passes.messages import MessagePlan
from tilewright.runs.trace import MessageRecord, TaskRecord, Trace

__all__ = ["PoolHome", "checked", "trace_of"]

_keys = itertools.count()


class PoolHome:
    """Data on the ranks of a pool, each rank's part in memory of its own."""

    def __init__(self, data: Mapping[Handle, Any], ranks: int, owner: Callable[[Handle], int], pool: Pool | None,
                 synchronous: bool) -> None:  # fmt: skip
        self.pool = pool or pools.active() or pools.default(ranks)
        if self.pool.ranks != ranks:
            raise ValueError(f"the data is for {ranks} ranks, but the pool has {self.pool.ranks}")
        self.synchronous = synchronous
        self.handles = frozenset(data)
        self.outlines = {
            handle: (value.shape, value.dtype) for handle, value in data.items() if hasattr(value, "dtype")
        }
        self.key = next(_keys)
        parts: list[dict[Handle, Any]] = [{} for _ in range(ranks)]
        for handle, value in data.items():
            parts[owner(handle)][handle] = value
        # The segment lives until the ranks have copied from it.
        size = segments.room([array for part in parts for array in segments.arrays_in(part)])
        place = segments.placer(segments.Segment.create(size))

        def moved(array: np.ndarray) -> np.ndarray:
            target = place(array)
            if target is not array:
                np.copyto(target, array)
            return target

        checked(self.pool.ask([Keep(self.key, pickling.dumps(segments.like(part, moved))) for part in parts]))
        self._end = weakref.finalize(self, self.pool.forget, self.key)

    def prepare(self, graph: TaskGraph, layout: Layout, inputs: list[Handle], outputs: list[Handle],
                dtype: np.dtype) -> Prepared:  # fmt: skip
        return _PoolPrepared(self, graph, layout, inputs, outputs, dtype)

    def close(self) -> None:
        self._end()


class _PoolPrepared(Prepared):
    def __init__(self, home: PoolHome, graph: TaskGraph, layout: Layout, inputs: list[Handle], outputs: list[Handle],
                 dtype: np.dtype) -> None:  # fmt: skip
        super().__init__()
        check_given(graph, home.handles | set(inputs))
        self.graph, self.home, self.pool = graph, home, home.pool
        hollow = {handle: np.empty(layout.shape(handle), dtype) for handle in [*inputs, *outputs]}
        place = segments.placer(segments.Segment.create(segments.room(list(hollow.values()))))
        box = {handle: place(array) for handle, array in hollow.items()}
        self.inputs = {handle: box[handle] for handle in inputs}
        self.outputs = {handle: box[handle] for handle in outputs}
        outlines = {h: (layout.shape(h), dtype) for h in graph.handles_used if h not in box and h not in home.handles}
        outlines |= home.outlines
        self._order: Order = tuple(map(layout.owner, graph.handles_used)), None, ()
        key = next(_keys)
        contents = pickling.dumps((graph, self._order, box, home.key, outlines, home.synchronous))
        request = Prepare(key, contents, choice.choice(), sys.path)
        checked(self.pool.ask([request] * self.pool.ranks))
        self._key = key
        self._go = [Go(key, False)] * self.pool.ranks
        self._end = weakref.finalize(self, self.pool.forget, key)

    def _requests(self, traced: bool) -> list[Go]:
        torch_state = capture()
        if not traced and torch_state == TorchState():
            return self._go
        return [Go(self._key, traced, torch_state)] * self.pool.ranks

    def _run(self) -> None:
        checked(self.pool.ask(self._requests(False)))

    def _run_traced(self) -> Trace:
        began = perf_counter()
        tolds = checked(self.pool.ask(self._requests(True)))
        return trace_of(self.graph, planned(self.graph, self.pool.ranks, self._order), began, tolds)


def checked(answers: list[Any]) -> list[Any]:
    """The answers of all ranks; raises what the first task that failed raised, or what all ranks refused."""
    frozen = next((answer for answer in answers if isinstance(answer, bytes)), None)
    if frozen is not None:
        raise thaw(frozen)
    failures = [told.failure for told in answers if told is not None and told.failure is not None]
    if failures:
        raise thaw(min(failures)[1])
    return answers


def trace_of(graph: TaskGraph, plan: MessagePlan, began: float, tolds: list[Any]) -> Trace:
    """One trace of what the scripts of all ranks told."""
    records = [
        TaskRecord(index, 0, start - began, end - began, rank)
        for rank, told in enumerate(tolds)
        for index, start, end in told.tasks
    ]
    ends = {number: end for told in tolds for number, end in told.received}
    messages = [
        MessageRecord(m.source, m.destination, m.handle, nbytes, start - began, ends[number] - began, m.writer)
        for told in tolds
        for number, nbytes, start in told.sent
        for m in (plan.messages[number],)
    ]
    return Trace(graph, 1, records, ranks=len(tolds), messages=messages)
