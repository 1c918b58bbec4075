"""The protocol of engines: facts about them, and the steps of a call in the order in which it takes them.

An engine object is made once a call, by `tilewright.backends.find_engine`, and handed on: what its options say is read
once, and on ranks agreed upon once. A new engine is a subclass and a row in the table of `tilewright.backends`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, ClassVar, Protocol, TypeVar

import numpy as np

from tilewright.backends.execution.program import Program
from tilewright.backends.execution.rooms import provide
from tilewright.graph import Handle, Task, TaskGraph
from tilewright.keywords import hint
from tilewright.machine import Machine
from tilewright.passes.messages import MessagePlan
from tilewright.runs.trace import Trace
from tilewright.scalars import worker_count
from tilewright.schedulers import BasePolicy, Policy
from tilewright.tiles import Store

__all__ = ["Bound", "Engine", "Progress", "blame", "check_options"]
T = TypeVar("T")


class Progress(Protocol):
    """What an engine tells while it runs: how many tasks are done."""

    def __call__(self, done: int, /) -> object: ...


class Bound(Protocol):
    """A graph bound to its data: a `Program`, or less where nothing is computed."""

    graph: TaskGraph
    store: Store
    kernels: dict[str, str]
    """Where the kernels of each op come from."""


class Engine:
    """One process. Its methods are called in this order: argument, plan_with, bind, execute, result.

    `execute` runs every task of the graph once, each after its predecessors, or raises what the first failing task
    raised, with a note that names the task. It leaves no thread, process or file behind.
    """

    # Facts of all objects of a class
    name: ClassVar[str]
    options: ClassVar[tuple[str, ...]] = ()
    """Those it knows."""
    in_process: ClassVar[bool] = True
    """Whether tasks work on the arrays of this process, temporary ones too."""
    in_order: ClassVar[bool] = False
    """Whether tasks run one after another in program order, whatever the policy."""
    wide_tasks: ClassVar[bool] = False
    """Whether a task's calls into BLAS and OpenMP may use several threads."""
    virtual: ClassVar[bool] = False
    """Whether nothing is computed, and the clock is a virtual one."""
    plans: ClassVar[bool] = True
    """Whether the policy is prepared in this process."""
    on_ranks: ClassVar[bool] = False
    """Whether workers are ranks, of a pool or a communicator, on which matrices stay between calls."""
    moves_beside: ClassVar[bool] = False
    """Whether threads that read and write can stand beside those that compute."""
    writes_at_once: ClassVar[bool] = False
    """Whether a task that writes a checkpoint has to have written it when it ends, as its worker may be gone then."""

    # Facts of this object
    has_data: bool = True
    """Whether the arguments hold values here, not only shapes."""
    tells: bool = True
    """Whether this process shows how a run goes on; of several that run it together, one does."""
    leads: bool = True
    """Whether this is the process whose value `agreed` takes."""
    fixed: bool = False
    """Whether the number of workers is given by where the call is made: a pool, a launcher."""
    _sized: tuple[Machine, Machine] | None = None
    model: Machine | None = None
    """The machine as the run keeps it: what it was planned with or simulated on, if that was said."""
    switches: Mapping[str, Any] = {}
    """Process-wide settings that held while the program ran."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        check_options(self.name, options, self.options)

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Engine:
        """The engine of a call with these options. TypeError or ValueError for one it does not have, or a bad value."""
        return cls(options)

    @classmethod
    def together(cls, options: Mapping[str, Any]) -> bool:
        """Whether several processes make this call together, so that they have to refuse it together too."""
        return False

    @classmethod
    def check_place(cls, pool: Any, comm: Any) -> None:
        """TypeError for a ``pool`` or ``comm`` that is none, ValueError if the engine has no use for them."""
        if not (pool is None and comm is None):
            raise ValueError(f"pool and comm are for backend 'mpi', not {cls.name!r}")

    # The steps of a call

    def argument(self, value: Any) -> Any:
        """What to work with instead of ``value``."""
        return value

    def agreement(self, *, run_follows: bool = False) -> AbstractContextManager[dict[str, Any]]:
        """A block that all processes of the call pass together, or none. Facts noted in the dict have to be equal.

        ``run_follows``: nothing but blocks like this one stands between here and the next `execute`, which then is
        where the processes find out, all at once. A block that raises here always tells the others.
        """
        return nullcontext({})

    def plan_with(self, machine: Machine | None) -> None:
        """Set what the policy may know of the machine. ValueError if the policies run elsewhere."""
        if machine is not None and not self.plans:
            raise ValueError("machine= is for engines of one process; ranks prepare their policies themselves")
        self.machine = machine or Machine()
        self.model = None if machine is None else machine.replace(gpus=0)

    def machine_of(self, workers: int) -> Machine:
        """What a policy of this process plans for."""
        if self._sized is None or self._sized[0] is not self.machine or self._sized[1].workers != workers:
            self._sized = self.machine, self.machine.replace(workers=workers, ranks=1, gpus=0)
        return self._sized[1]

    def workers(self, workers: int | None, most: int | None = None) -> int:
        """How many workers there are in all; ``most`` are of use."""
        count = worker_count(workers)
        return count if most is None else min(count, most)

    def bind(self, graph: TaskGraph, data: Any) -> Bound:
        """The graph with its data, a `Store` or what makes one, and kernels, checked; it is frozen."""
        data = {} if data is None else data
        program = Program(graph, data if isinstance(data, Store) else Store(data))
        if not isinstance(data, Store):
            check_data(graph, data)
        graph.frozen = True
        return program

    def execute(self, program: Any, scheduler: str | Policy, workers: int | None, progress: Progress | None) -> Trace:
        """Run what `bind` made, as often as wanted."""
        raise NotImplementedError

    # Graphs that are prepared once and run often

    def order(self, graph: TaskGraph, policy: BasePolicy) -> list[Task] | None:
        """The order in which one worker gets the tasks, if this policy, which is prepared, knows it beforehand."""
        return None

    def script_ranks(self, graph: TaskGraph, workers: int | None) -> int:
        """How many ranks run a prepared graph as scripts, on data that stays with them; 0 if it runs from here."""
        return 0

    def owner_of(self, graph: TaskGraph, ranks: int) -> Callable[[Handle], int]:
        """The rank of each handle of a graph."""
        return lambda handle: 0

    def home(self, data: Mapping[Handle, Any], ranks: int, owner: Callable[[Handle], int], copy: bool) -> Any:
        """A `tilewright.backends.ranks.home.Home` for data that stays; None if that is this process."""
        return None

    def rank_count(self, workers: int | None) -> int:
        """Over how many ranks a run with so many workers deals out the tiles; 1 in one process."""
        return 1

    def hold(self, workers: int | None) -> int:
        """Over how many ranks a run with so many workers deals out tiles; later runs of this call have as many, with
        whatever number of workers."""
        return self.rank_count(workers)

    def dealt(self, graph: TaskGraph, workers: int | None) -> tuple[int, Callable[[Handle], int]]:
        """Over how many ranks a run of this graph deals out its handles, and the rank of each."""
        ranks = self.rank_count(workers)
        return ranks, self.owner_of(graph, ranks)

    def needs(self, graph: TaskGraph, store: Store, workers: int | None) -> list[int]:
        """By rank, bytes that a run is expected to take: here of what the graph makes, beside what it was given."""
        provide(graph, store)
        return [_made(graph, store)]

    def renew(self) -> None:
        """After a rank or a worker died: let the next run have others."""

    def keep(self, array: np.ndarray) -> np.ndarray:
        """The array, or a copy of it in memory from which many runs can take it without copying it each time."""
        return array

    def everywhere(self, value: Any) -> Any:
        """``value`` on every process of the call, where only one may have it; after `argument`."""
        return value

    def agreed(self, value: T) -> T:
        """``value`` of the root, or the first of the processes of the call, on all of them. Small and plain."""
        return value

    def result(self, value: Any) -> Any:
        """What to return instead of ``value``."""
        return value


def check_options(
    backend: str, options: Mapping[str, Any], known: Sequence[str], own: Sequence[str] = (), call: str = ""
) -> None:
    """TypeError that names unknown options, and what may be meant: one that is ``known``, or the call's ``own``."""
    unknown = [name for name in options if name not in known]
    if unknown:
        said = hint(unknown, [*known, *own]) or f"backend {backend!r} has {', '.join(known) or 'none'}"
        raise TypeError(f"{call}{': ' if call else ''}unknown option {', '.join(unknown)}; {said}")


def check_data(graph: TaskGraph, data: Any) -> None:
    """ValueError for data of which the graph uses nothing, or only a part where it is made for all."""
    ours = graph.layout is not None or (graph.recipe is not None and not graph.extents)
    if not isinstance(data, Mapping) or not len(graph) or ours:  # the library's own calls may give more
        return
    names = set(graph.families)
    for key, value in data.items():
        name = key.name if isinstance(key, Handle) else key
        if isinstance(name, str) and name not in names:
            raise ValueError(
                f"data has {key!s}, which graph {graph.name!r} does not use; it uses {', '.join(sorted(names))}"
            )
        extent = graph.extents.get(name) if isinstance(key, str) else None
        tiles = getattr(value, "mt", None), getattr(value, "nt", None)
        if extent is not None and None not in tiles and tiles != extent:
            raise ValueError(
                f"data: {name} has {tiles[0]} x {tiles[1]} tiles, but graph {graph.name!r} is for "
                f"{extent[0]} x {extent[1]}"
            )


def _made(graph: TaskGraph, store: Store) -> int:
    """Bytes of what tasks write first, rooms that come and go at their most in program order."""
    size = 0
    comes: set[Handle] = set()
    for handle in graph.written:
        if handle in graph.inputs:
            continue
        room = graph.rooms.get(handle.name)
        if room is not None and not room.keep:
            comes.add(handle)
        else:
            size += _nbytes(store, handle)
    return size + MessagePlan.most_in_rooms(graph, comes, partial(_nbytes, store))


def _nbytes(store: Store, handle: Handle) -> int:
    return int(getattr(store[handle], "nbytes", 0))


def blame(error: BaseException, task: Task, number: int, where: str) -> None:
    """Note on an exception which task raised it, and where."""
    writing = f", writing {', '.join(map(str, task.writes))}" if task.writes else ""
    error.add_note(f"in task {task} (number {number}){writing}; {where}")
