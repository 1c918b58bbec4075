"""A graph that is bound to its buffers once and runs many times: `Prepared`, and how that is in one process.

Engines of one process with one worker lay the tasks out as a line: their order is settled, so a run is one call a task
and a repetition is a loop around them. With several workers a repetition is a run of the engine on the same program.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from time import perf_counter
from typing import Any

import numpy as np

from tilewright.backends.execution.buffers import view
from tilewright.backends.execution.engine import Engine, blame
from tilewright.backends.execution.line import run_line
from tilewright.backends.execution.program import Program
from tilewright.errors import MissingDataError
from tilewright.graph import Handle, Task, TaskGraph
from tilewright.kernels.threads import limits, task_threads
from tilewright.runs.run import Run
from tilewright.runs.trace import Trace
from tilewright.scalars import instance, whole
from tilewright.schedulers import Policy, claimed
from tilewright.schedulers import policy as find_policy
from tilewright.tiles import Store

__all__ = ["Here", "Prepared", "check_carry", "check_given", "lasting"]

Carry = Mapping[Handle, Handle]
"""{y: x}: what y is after a repetition, x is before the next one."""


class Prepared(ABC):
    """A graph that is ready to run on its data. Made by `tilewright.prepare` and `Resident.prepare`.

    Fill ``inputs``, call it, read ``outputs``; their arrays stay the same from call to call. So it is for one thread at
    a time, and a call during another one is refused: prepare the graph once for each thread. It can be neither pickled
    nor copied.

    Attributes
    ----------
    graph
        What it runs.
    inputs, outputs
        Arrays by handle. In one process they are those that were given, where some were given.

    Examples
    --------
    >>> import numpy as np, tilewright as tw
    >>> def double(x):
    ...     x *= 2
    >>> g = tw.TaskGraph()
    >>> g.insert(double, tw.RW(g.handle("x")))
    double(x)
    >>> with_data = tw.prepare(g, {"x": np.ones(2)}, outputs=["x"], backend="serial")
    >>> with_data.repeat(3)
    3
    >>> with_data.outputs[g.handle("x")].tolist()
    [8.0, 8.0]
    """

    inputs: dict[Handle, Any]
    outputs: dict[Handle, Any]
    ranks = 1
    """How many ranks run it."""
    messages = 0
    """Between ranks, in all runs so far."""
    bytes = 0
    """In those messages."""

    def __init__(self, graph: TaskGraph, backend: str) -> None:
        self.graph, self.backend = graph, backend
        self._busy = threading.Lock()
        self._closed = False

    def __call__(self) -> None:
        """Run once.

        Raises
        ------
        Exception
            Whatever a task raises, with a note that names the task.
        RankDied
            A rank ended.
        RuntimeError
            During another call; after `close`.
        """
        with self._alone():
            self._repeat(1, None)

    def repeat(self, times: int, *, until: Handle | None = None) -> int:
        """Run ``times`` times where the tasks run, with no word to this process in between.

        Parameters
        ----------
        times
            How often, at most.
        until
            A handle that tasks write: after a repetition in which some number of it is not zero there is no other one.

        Returns
        -------
        int
            How many repetitions there were.

        Raises
        ------
        ValueError
            ``times`` is negative, no task writes ``until``, or it is a room that is not kept.
        Exception
            As a call. Ranks hear of a task that failed elsewhere within 64 repetitions, with ``until`` within one.

        Notes
        -----
        Where the graph was prepared with ``carry={y: x}``, x has the value of y after each repetition. If the two live
        on one rank that costs nothing, as their buffers change places, and one copy at the end.
        """
        times = whole(times, "times", 0)
        if until is not None:
            instance(until, "until", Handle, "a handle, such as graph.handle('done')")
            if until not in set(self.graph.written):
                raise ValueError(f"until={until}, but no task of graph {self.graph.name!r} writes it")
            if not lasting(self.graph, until) and until not in self.inputs and until not in self.outputs:
                raise ValueError(
                    f"until={until}, a room that is given back after its last reader; declare it with keep=True"
                )
        with self._alone():
            return self._repeat(times, until)

    def traced(self) -> Trace:
        """Run once and return what happened when."""
        with self._alone():
            return self._traced()

    def run(self) -> Run:
        """Run once and return the `Run`; its values are those of inputs and outputs."""
        trace = self.traced()
        store = Store({**self.inputs, **self.outputs})
        return Run(self.graph, trace, self.backend, "prepared", trace.ranks * trace.workers, store)

    def timed(self, rounds: int, times: int = 1) -> list[list[float]]:
        """By rank, the seconds of each of ``rounds`` rounds of ``times`` repetitions with the same inputs.

        A round begins with a barrier. One more round comes first and is not counted: it writes to new memory.
        """
        rounds, times = whole(rounds, "rounds", 0), whole(times, "times", 0)
        with self._alone():
            return self._timed(rounds + 1, times)

    def close(self) -> None:
        """Free what it keeps, now; otherwise that goes with this object."""
        self._closed = True
        self._free()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        if not self._busy.acquire(blocking=False):
            raise RuntimeError(
                "this Prepared is running in another thread, on the one set of inputs and outputs that it has; prepare "
                "the graph once for each thread"
            )
        try:
            if self._closed:
                raise RuntimeError(f"graph {self.graph.name!r} was prepared, and closed since; prepare it again")
            yield
        finally:
            self._busy.release()

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("a prepared graph can be neither pickled nor copied; prepare it again where it is needed")

    @abstractmethod
    def _repeat(self, times: int, until: Handle | None) -> int:
        """Run at most so often; how often it was."""

    @abstractmethod
    def _traced(self) -> Trace:
        """Run once and tell."""

    @abstractmethod
    def _timed(self, rounds: int, times: int) -> list[list[float]]:
        """Seconds of all rounds but the first."""

    @abstractmethod
    def _free(self) -> None:
        """Give back what is kept."""


# ------------------------------------------------------------------ one process


class Here(Prepared):
    """On an engine that has its workers, or hands the data out, from this process.

    Parameters
    ----------
    engine
        Where the tasks run.
    store
        A buffer for each handle that tasks read first or are given a place for; tasks change them in place.
    scheduler, workers, threads_per_task
        As for `tilewright.run`.
    """

    def __init__(
        self,
        engine: Engine,
        graph: TaskGraph,
        store: Store,
        *,
        scheduler: str | Policy,
        workers: int | None,
        inputs: Iterable[Handle],
        outputs: Iterable[Handle],
        carry: Carry,
        threads_per_task: int = 1,
    ) -> None:
        super().__init__(graph, engine.name)
        self._engine, self._scheduler, self._workers = engine, scheduler, workers
        with engine.agreement():
            program = engine.bind(graph, store)
            assert isinstance(program, Program)
            self._program = program
            program.threads_per_task = threads_per_task
            program.prepared = True
        named = dict.fromkeys([*graph.handles_used, *inputs, *outputs])
        self._homes = {handle: store[handle] for handle in named if handle not in store.outlines}
        self._carry = dict(carry)
        check_carry(graph, self._carry, self._homes.get)
        self._exchanged = {a: self._homes[b] for pair in self._carry.items() for a, b in (pair, pair[::-1])}
        self._turned = False
        """Whether x and y are in each other's place at the moment."""
        self.inputs = {handle: self._homes[handle] for handle in inputs}
        self.outputs = {handle: self._homes[handle] for handle in outputs}
        self._order = self._line()

    def _line(self) -> list[Task] | None:
        """The tasks in the order of one worker, if there is one and its policy knows that order beforehand."""
        engine, graph = self._engine, self.graph
        if self._program.streams is not None:
            return None
        if not engine.in_order and engine.workers(self._workers, max(len(graph), 1)) > 1:
            return None
        policy = find_policy(self._scheduler)
        with claimed(policy):
            policy.prepare(graph, engine.machine_of(1))
            return engine.order(graph, policy)

    def _repeat(self, times: int, until: Handle | None) -> int:
        with self._entered():
            return self._loop(times, until)

    def _loop(self, times: int, until: Handle | None) -> int:
        store = self._program.store
        done = 0
        try:
            while done < times:
                self._once()
                done += 1
                for y, x in self._carry.items():
                    store[x], store[y] = store[y], store[x]
                self._turned = not self._turned
                if until is not None and np.any(_numbers_of(store[self._carry.get(until, until)])):
                    break
        finally:
            self._settle(done)
        return done

    def _settle(self, done: int) -> None:
        """After repetitions: x and y both have what y is, in their own places again."""
        homes = self._homes
        for y, x in self._carry.items() if done else ():
            source, target = (homes[y], homes[x]) if self._turned else (homes[x], homes[y])
            np.copyto(target, source)
            self._program.store.update({x: homes[x], y: homes[y]})
        self._turned = False

    @contextmanager
    def _entered(self) -> Iterator[None]:
        program = self._program
        if self._order is None:
            yield
            return
        with limits(program.uses_functions), task_threads(program.threads_per_task):
            yield

    def _once(self) -> None:
        program = self._program
        if self._order is None:
            self._execute()
        else:
            program.begin()
            call, tasks = program.call, iter(self._order)
            task: Task | None = None
            try:
                for task in tasks:
                    call(task)
            except BaseException as error:
                if task is not None:
                    blame(error, task, task.index, f"backend={self.backend}, worker=0")
                raise
        if program.replaced:
            self._put_back()

    def _execute(self) -> Trace:
        trace = self._engine.execute(self._program, self._scheduler, self._workers, None)
        self.messages += len(trace.messages)
        self.bytes += sum(message.nbytes for message in trace.messages)
        if not self._engine.in_process:  # what came back may be another object than what went there
            program, places = self._program, self._places
            program.replaced.update(h for h in self.graph.results if program.store[h] is not places.get(h))
        return trace

    @property
    def _places(self) -> dict[Handle, Any]:
        """Where each handle lives at the moment."""
        return {**self._homes, **self._exchanged} if self._turned else self._homes

    def _put_back(self) -> None:
        """Put new values that functions returned where their handles live, for the next run."""
        program, places = self._program, self._places
        moved = [(h, places[h], program.store[h]) for h in program.replaced if places.get(h) is not None]
        apart = len(moved) < 2  # else a value may lie where another one goes, as after an exchange
        values = [value if apart or view(value) is None else deepcopy(value) for _, _, value in moved]
        for (handle, place, _), value in zip(moved, values, strict=True):
            if view(place) is None:
                continue  # no memory: the next run has the new value
            if np.shape(value) != place.shape:
                writer = next(t for t in reversed(self.graph.tasks) if handle in t.writes)
                raise ValueError(f"{writer} returned shape {np.shape(value)} where {tuple(place.shape)} lives")
            if isinstance(place, np.ndarray):
                np.copyto(place, value)
            else:
                place.copy_(value)
            program.store[handle] = place
        program.replaced.clear()

    def _traced(self) -> Trace:
        program = self._program
        if self._order is None:
            trace = self._execute()
            if program.replaced:
                self._put_back()
            return trace
        with self._entered():
            records = run_line(program, self._order, self.backend, None)
        if program.replaced:
            self._put_back()
        return Trace(self.graph, 1, records)

    def _timed(self, rounds: int, times: int) -> list[list[float]]:
        first = {handle: np.array(value) for handle, value in self.inputs.items() if isinstance(value, np.ndarray)}
        seconds = []
        for _ in range(rounds):
            for handle, value in first.items():
                np.copyto(self.inputs[handle], value)
            start = perf_counter()
            self._repeat(times, None)
            seconds.append(perf_counter() - start)
        return [seconds[1:]]

    def _free(self) -> None:
        self._program.store.clear()
        self._homes.clear()


def _numbers_of(value: Any) -> Any:
    array = view(value)
    return value if array is None else array


# ------------------------------------------------------------------ checks


def lasting(graph: TaskGraph, handle: Handle) -> bool:
    """Whether a handle has a value between two runs: it is no room, or one that is kept."""
    room = graph.rooms.get(handle.name)
    return room is None or room.keep


def check_given(graph: TaskGraph, known: Iterable[Handle]) -> None:
    """MissingDataError for a handle that the graph reads first and nobody gives."""
    there = set(known)
    missing = [handle for handle in graph.inputs if handle not in there]
    if missing:
        raise MissingDataError(f"the graph reads {missing[0]}, which is neither kept on the ranks nor an input")


def check_carry(graph: TaskGraph, carry: Carry, buffer: Callable[[Handle], Any]) -> None:
    """Refuse a ``carry`` that is none: of handles that the graph has not, or of two that are not alike.

    Raises
    ------
    TypeError
        It is no dict of handles.
    ValueError
        No task writes y or none uses x, their shapes or dtypes differ, or a handle stands in it twice.
    """
    instance(carry, "carry", Mapping, "a dict of handles, {what it is now: what it is next}")
    written, used = set(graph.written), set(graph.handles_used)
    for y, x in carry.items():
        for handle in (y, x):
            instance(handle, "each of carry", Handle, "a Handle, such as graph.handle('x')")
        if y not in written or x not in used:
            raise ValueError(
                f"carry={{{y}: {x}}}: " + (f"no task writes {y}" if y not in written else f"no task uses {x}")
            )
        here, there = buffer(y), buffer(x)
        kinds = [(getattr(b, "shape", None), str(getattr(b, "dtype", ""))) for b in (here, there)]
        if not isinstance(here, np.ndarray) or not isinstance(there, np.ndarray) or kinds[0] != kinds[1]:
            raise ValueError(
                f"carry={{{y}: {x}}}: both have to be arrays of one shape and dtype, not {kinds[0]} and {kinds[1]}"
            )
    names = [*carry, *carry.values()]
    if len(set(names)) < len(names):
        raise ValueError(f"carry names {next(n for n in names if names.count(n) > 1)} twice")
