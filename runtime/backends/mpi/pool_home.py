"""Data and prepared graphs on the ranks of a pool, as the process of the user holds them."""

from __future__ import annotations

import pickle
import sys
import weakref
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter
from typing import Any

import numpy as np

from tilewright.backends.execution.buffers import memory
from tilewright.backends.execution.prepared import Prepared
from tilewright.backends.execution.torch_state import capture
from tilewright.backends.mpi import pool as pools
from tilewright.backends.mpi.connection import Go, Keep, Prepare
from tilewright.backends.mpi.pool import Pool
from tilewright.backends.ranks import pickling, segments
from tilewright.backends.ranks.home import Home, PlacedGraph
from tilewright.backends.ranks.outcome import Order, planned, thaw
from tilewright.graph import Handle
from tilewright.kernels import choice
from tilewright.passes.messages import MessagePlan
from tilewright.runs.trace import MessageRecord, TaskRecord, Trace

__all__ = ["PoolHome", "checked", "trace_of"]


class PoolHome(Home):
    """Data on the ranks of a pool, each rank's part in memory of its own."""

    def __init__(
        self,
        data: Mapping[Handle, Any],
        ranks: int,
        owner: Callable[[Handle], int],
        pool: Pool | None,
        synchronous: bool,
    ) -> None:
        self.pool = pool or pools.active() or pools.default(ranks)
        if self.pool.ranks != ranks:
            raise ValueError(f"the data is for {ranks} ranks, but the pool has {self.pool.ranks}")
        self.synchronous = synchronous
        self.keys: list[int] = []
        self._ends: list[Any] = []
        super().__init__(data, ranks, owner)

    def keep(self, data: Mapping[Handle, Any]) -> None:
        super().keep(data)
        if data:
            key, end = _keep(self, self.pool, data, self.owner)
            self.keys.append(key)
            self._ends.append(end)

    def prepare(self, bound: PlacedGraph) -> Prepared:
        return _PoolPrepared(self, bound)

    def call(self, function: str, prepared: Sequence[Any], *arguments: Any) -> list[Any]:
        keys = [step.key for step in prepared]
        return self.pool.call("tilewright.backends.mpi.kept:on_scripts", function, keys, arguments)

    def close(self) -> None:
        for end in self._ends:
            end()


def _keep(holder: Any, pool: Pool, data: Mapping[Handle, Any], owner: Callable[[Handle], int]) -> tuple[int, Any]:
    """Give each rank its part, until ``holder`` goes: (key, what ends it)."""
    key = next(pools.keys)
    parts: list[dict[Handle, Any]] = [{} for _ in range(pool.ranks)]
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

    checked(pool.ask([Keep(key, pickling.dumps(segments.like(part, moved))) for part in parts]))
    return key, weakref.finalize(holder, pool.forget, key)


class _PoolPrepared(Prepared):
    def __init__(self, home: PoolHome, bound: PlacedGraph) -> None:
        super().__init__(bound.graph, "mpi")
        graph, pool = bound.graph, home.pool
        self.home, self.pool, self.ranks = home, pool, pool.ranks
        kept = list(home.keys)
        if bound.data:
            kept.append(_keep(self, pool, bound.data, bound.owner)[0])
        given = {handle: bound.buffer(handle) for handle in dict.fromkeys([*bound.inputs, *bound.outputs])}
        self._segment = segments.Segment.create(segments.room(segments.arrays_in(given)))
        place = segments.placer(self._segment)
        box = {handle: segments.like(value, place) for handle, value in given.items()}
        for handle, value in box.items():
            if value is not given[handle]:
                np.copyto(memory(value), memory(given[handle]))
        self.inputs = {handle: box[handle] for handle in bound.inputs}
        self.outputs = {handle: box[handle] for handle in bound.outputs}
        outlines = {handle: bound.outline(handle) for handle in graph.handles_used if handle not in box}
        self._order: Order = tuple(map(bound.owner, graph.handles_used)), None, ()
        self.key = next(pools.keys)
        options = {"synchronous": home.synchronous, "inputs": bound.inputs, "carry": bound.carry}
        contents = pickling.dumps((graph, self._order, box, kept, outlines, options))
        request = Prepare(self.key, contents, choice.choice(), sys.path)
        checked(pool.ask([request] * pool.ranks))
        self._plan = planned(graph, pool.ranks, self._order)
        self._traffic = bound.traffic(self._plan)
        self._go = [pickle.dumps(Go(self.key))] * pool.ranks
        self._end = weakref.finalize(self, pool.forget, self.key)

    def _ask(self, go: Go) -> list[Any]:
        go = go._replace(torch_state=capture())
        plain = go == Go(self.key)
        return checked(self.pool.ask(self._go if plain else [pickle.dumps(go)] * self.pool.ranks))

    def _repeat(self, times: int, until: Handle | None) -> int:
        answers = self._ask(Go(self.key, times, until))
        done: int = answers[0]
        self.messages += done * self._traffic[0]
        self.bytes += done * self._traffic[1]
        return done

    def _traced(self) -> Trace:
        began = perf_counter()
        tolds = self._ask(Go(self.key, traced=True))
        return trace_of(self.graph, self._plan, began, tolds)

    def _timed(self, rounds: int, times: int) -> list[list[float]]:
        return [told.seconds for told in self._ask(Go(self.key, times, rounds=rounds))]

    def _free(self) -> None:
        self._end()


def checked(answers: list[Any]) -> list[Any]:
    """The answers of all ranks; raises what the first task that failed raised, or what all ranks refused."""
    frozen = next((answer for answer in answers if isinstance(answer, bytes)), None)
    if frozen is not None:
        raise thaw(frozen)
    failures = [told.failure for told in answers if getattr(told, "failure", None) is not None]
    if failures:
        raise thaw(min(failures).error)
    return answers


def trace_of(graph: Any, plan: MessagePlan, began: float, tolds: list[Any]) -> Trace:
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
