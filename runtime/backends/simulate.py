"""simulate: predict a run on a machine that need not exist, by `tilewright.backends.execution.simulation`.

Options, all optional:

=============  =========================================================================================
machine        the `Machine`, where the call has no argument for it; by default one worker
owner          who owns which handle, as for ``mpi``, or a function of the handle; by default the graph's
               layout says it, and without one the policy sees all ranks' workers
broadcast      along which tree a version travels, where it is not the one that engines use: see
               `tilewright.passes.messages.TREES`
noise, seed    see `tilewright.simulate`
=============  =========================================================================================
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from math import inf, log, sqrt
from numbers import Real
from operator import index as as_integer
from typing import Any

from tilewright.backends.execution.buffers import itemsize_of
from tilewright.backends.execution.engine import Engine, Progress
from tilewright.backends.execution.simulation import Simulation
from tilewright.distribution import Distribution, owner_for, owners, takes
from tilewright.errors import MissingDataError
from tilewright.graph import Handle, Task, TaskGraph
from tilewright.host.garbage import uncollected
from tilewright.machine import Machine
from tilewright.passes.messages import TREES
from tilewright.runs.trace import Trace
from tilewright.scalars import choice, optional, shown, whole
from tilewright.schedulers import Policy, claimed
from tilewright.schedulers import policy as find_policy
from tilewright.tiles import Store

__all__ = ["Simulator"]

Owner = Callable[..., int] | Mapping[Any, Any]
Noise = float | Callable[[random.Random, Task, float], float]


@dataclass
class Outlined:
    """A graph and its data, of which only the shapes count."""

    graph: TaskGraph
    store: Store
    machine: Machine
    """With those shapes, and the ranks of the graph's layout."""
    home: Mapping[Handle, int] | None
    kernels: dict[str, str]


class Simulator(Engine):
    """The machine that `plan_with` or the option ``machine`` says, on a virtual clock."""

    name = "simulate"
    options = ("machine", "owner", "broadcast", "noise", "seed")
    in_process = False
    virtual = True
    has_data = False

    def __init__(self, options: Mapping[str, Any]) -> None:
        super().__init__(options)
        self.given: Machine | None = optional(options.get("machine"), "machine", Machine, "a tw.Machine")
        self.owner: Owner | None = options.get("owner")
        self.broadcast: str | None = options.get("broadcast")
        if self.broadcast is not None:
            choice(self.broadcast, "broadcast", TREES)
        self.noise: Noise = options.get("noise", 0.0)
        self.seed: int = whole(options.get("seed", 0), "seed")

    def plan_with(self, machine: Machine | None) -> None:
        self.machine = machine or self.given or Machine()

    def workers(self, workers: int | None, most: int | None = None) -> int:
        """How many workers each rank has: as many as the machine says, or as are given."""
        machine = self.given or Machine()
        return machine.workers if workers is None else super().workers(workers)

    def bind(self, graph: TaskGraph, data: Any) -> Outlined:
        machine = known_shapes(graph, self.machine, data, self.owner is not None)
        if graph.layout is not None and self.owner is None and machine.ranks == 1:  # nobody said how many
            machine = machine.replace(ranks=graph.layout.ranks)
        owner = owner_for(graph, self.owner)
        if self.owner is None and owner is not None:
            owner = owner.__getitem__  # by handle
        home = None if owner is None else _checked(graph, owner, machine.ranks)
        graph.frozen = True
        return Outlined(graph, Store({} if data is None else data), machine, home, {})

    def execute(
        self, program: Outlined, scheduler: str | Policy, workers: int | None, progress: Progress | None
    ) -> Trace:
        graph, policy, machine = program.graph, find_policy(scheduler), program.machine
        if workers is not None:
            machine = machine.replace(workers=workers)
        self.model = machine
        with claimed(policy), uncollected():
            noisy = noise_of(self.noise, self.seed)
            simulation = Simulation(graph, machine, policy, program.home, self.broadcast, noisy)
            simulation.run(progress)
            return simulation.trace()

    def result(self, value: Any) -> Any:
        """None: nothing is computed."""


def _checked(graph: TaskGraph, owner: Owner, ranks: int) -> dict[Handle, int]:
    """The rank of each handle; ValueError for a rank that the machine does not have."""
    rule: Callable[[Handle], Any] = owner if _takes_handles(owner) else owners(owner, ranks)  # type: ignore[assignment]
    home = {}
    for handle in graph.handles_used:
        said = rule(handle)
        try:
            rank = home[handle] = as_integer(said)
        except TypeError:
            raise ValueError(f"owner of {handle} is {shown(said)}, not one of the ranks 0 to {ranks - 1}") from None
        if not 0 <= rank < ranks:
            raise ValueError(f"owner puts {handle} on rank {rank}, but the machine has ranks 0..{ranks - 1}")
    return home


def _takes_handles(owner: Owner) -> bool:
    """Whether this is a function of one argument; `Distribution` and dicts are not, nor is ``lambda i, j: ...``."""
    return not isinstance(owner, Distribution | Mapping) and callable(owner) and takes(owner, 1)


def known_shapes(graph: TaskGraph, machine: Machine, data: Any = None, placed: bool = False) -> Machine:
    """The machine with the shapes of the data, or where there is none those of the graph's layout.

    ``placed``: a call that names its own owners has no use for the layout's.
    """
    if machine.shape is not None:
        return machine
    if data is not None:
        store = Store(data)
        return machine.replace(shape=_shapes(graph, store), itemsize=_itemsizes(graph, store))
    known = graph.layout.shape if graph.layout is not None and not placed else None
    if graph.rooms:
        tile = machine.tile_size, machine.tile_size

        def shape(handle: Handle) -> tuple[int, ...]:
            room = graph.rooms.get(handle.name)
            return room.of(handle, shape)[0] if room is not None else tile if known is None else known(handle)

        return machine.replace(shape=cache(shape), itemsize=_itemsizes(graph, Store({})))
    return machine if known is None else machine.replace(shape=known)


def _shapes(graph: TaskGraph, store: Store) -> Callable[[Handle], tuple[int, ...]]:
    def shape(handle: Handle) -> tuple[int, ...]:
        buffer = store[handle]
        if buffer is None and handle.name in graph.rooms:
            return graph.rooms[handle.name].of(handle, shape)[0]
        if buffer is None:
            raise MissingDataError(f"the data has no buffer for {handle}, so its size is unknown")
        return tuple(getattr(buffer, "shape", (1,)))

    return shape


def _itemsizes(graph: TaskGraph, store: Store) -> Callable[[Handle], int]:
    """Bytes of an element of a handle: of its data, or of its room; 8 where nobody knows."""

    def itemsize(handle: Handle) -> int:
        buffer = store[handle]
        if buffer is None and handle.name in graph.rooms:
            return graph.rooms[handle.name].itemsize(handle)
        return itemsize_of(buffer)

    return itemsize


def noise_of(noise: Noise, seed: int) -> Callable[[Task, float], float] | None:
    """The function that turns an expected duration into one that happens, or None for the identity."""
    generator = random.Random(seed)
    if callable(noise):

        def noisy(task: Task, seconds: float) -> float:
            happens = noise(generator, task, seconds)
            if not isinstance(happens, Real) or not 0 <= happens < inf:
                raise ValueError(f"noise gives {happens!r} for {task}, which is no time in seconds")
            return float(happens)

        return noisy
    if isinstance(noise, bool) or not isinstance(noise, Real):
        raise TypeError(f"noise is a number or a function of (generator, task, seconds), not {noise!r}")
    if not 0 <= noise * noise < inf or noise < 0:
        raise ValueError(f"noise must not be negative, and its square not infinite, not {noise}")
    if noise == 0:
        return None
    # A log-normal of mean 1: E exp(N(mu, s^2)) = exp(mu + s^2/2), variance exp(s^2) - 1.
    s = sqrt(log(1 + noise**2))
    return lambda task, seconds: seconds * generator.lognormvariate(-s * s / 2, s)
