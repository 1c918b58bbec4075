"""simulate: predict a run on a machine that need not exist, by `tilewright.backends.execution.simulation`."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from inspect import signature
from math import inf, log, sqrt
from numbers import Real
from operator import index as as_integer
from typing import TYPE_CHECKING, Any

from tilewright.backends.execution.simulation import Home, Simulation
from tilewright.distribution import Distribution, owners
from tilewright.errors import MissingDataError
from tilewright.graph import Handle, Task, TaskGraph
from tilewright.machine import Machine, check_plan
from tilewright.runs.progress import reports
from tilewright.scalars import choice, whole
from tilewright.schedulers import Policy, claimed
from tilewright.schedulers import policy as find_policy
from tilewright.tiles import Store

if TYPE_CHECKING:
    from tilewright.runs.run import Run

__all__ = ["BROADCASTS", "simulate"]

OPTIONS = ("owner", "broadcast", "noise", "seed")
"""Of `tilewright.run` with ``backend="simulate"``."""

Owner = Callable[..., int] | Mapping[Any, Any]
Noise = float | Callable[[random.Random, Task, float], float]


def _binomial(position: int, count: int) -> list[int]:
    """Children of a position in a binomial tree on 0..count-1: the early positions get it early and serve most."""
    step = 1 << position.bit_length()  # position + 2^j for all 2^j > position
    children = []
    while position + step < count:
        children.append(position + step)
        step <<= 1
    return children


#             tree         children of a position; 0 is the source, the others are readers in program order
BROADCASTS: dict[str, Callable[[int, int], Sequence[int]]] = {
    "binomial": _binomial,
    "chain":    lambda position, count: range(position + 1, min(position + 2, count)),
    "star":     lambda position, count: range(1, count) if position == 0 else (),
}  # fmt: skip


def simulate(
    graph: TaskGraph,
    machine: Machine | None = None,
    *,
    scheduler: str | Policy = "critical-path",
    owner: Owner | None = None,
    data: Mapping[str, Any] | Mapping[Handle, Any] | None = None,
    broadcast: str = "binomial",
    noise: Noise = 0.0,
    seed: int = 0,
    progress: bool | Callable[[int], object] = False,
) -> Run:
    """Predict a run of ``graph`` on ``machine``. Nothing is computed.

    Parameters
    ----------
    graph
        The tasks. It is frozen, as by any run.
    machine
        Ranks, workers and costs; by default `Machine()`, one worker on which a task takes `Op.weight` seconds.
    scheduler
        One of `SCHEDULERS`, such as ``"heft"`` or ``"lookahead(2)"``, or an object with three methods.
    owner
        The rank where a handle lives, by default that of the graph's layout, where it has one. As for ``mpi`` a
        `Distribution`, a function of tile indices (i, j), or a dict of such rules by handle name; or a function of
        one argument, the handle. A task runs on rank ``on``, or where the first handle it writes lives, or for a
        task that writes nothing the first it reads.
    data
        As in `tilewright.run`, for the shapes only: costs and messages then follow them, ragged tiles too.
    broadcast
        How a version reaches several ranks, with ``owner``: one of `BROADCASTS`.
    noise
        Relative standard deviation of a task's duration (log-normal, mean 1), or a function
        ``noise(generator, task, seconds) -> seconds``.
    seed
        For the noise. The same arguments give the same run, bit by bit.
    progress
        As in `tilewright.run`; the bar shows simulated tasks per second.

    Returns
    -------
    Run
        With ``backend="simulate"``: trace, messages, bounds and idle times in virtual seconds.

    Raises
    ------
    ValueError
        ``owner`` names a rank that the machine does not have; the policy places tasks on ranks itself
        (``heft``, ``peft``) and ``owner`` is given or the graph has a layout; an unknown scheduler or broadcast.
    SchedulerError
        The policy keeps ready tasks back, hands one out twice or gives one that is not ready.
    KeyError
        The machine has durations but none for some op, and no gamma.

    Notes
    -----
    O(tasks + edges + messages) events, each O(log workers) on top of the policy.

    Examples
    --------
    >>> import tilewright as tw
    >>> run = tw.simulate(tw.cholesky_graph(nt=16), tw.Machine(workers=8))
    >>> run.makespan, run.bounds.lower                    # units of nb^3/3 flops
    (526.0, 512.0)
    """
    from tilewright.runs.run import Run

    check_plan(graph, machine)
    machine = machine or Machine()
    policy = find_policy(scheduler)
    choice(broadcast, "broadcast", BROADCASTS)
    whole(seed, "seed")
    store = Store({} if data is None else data)
    layout = graph.layout
    machine = known_shapes(graph, machine, data, owner is not None)
    if layout is not None and owner is None:
        owner = layout.owner
        if machine.ranks == 1:  # nobody said how many
            machine = machine.replace(ranks=layout.ranks)
    home = None if owner is None else _checked(owner, machine.ranks)
    graph.frozen = True
    with claimed(policy), reports(progress, graph.name, len(graph)) as report:
        simulation = Simulation(graph, machine, policy, home, BROADCASTS[broadcast], noise_of(noise, seed))
        simulation.run(report)
    name = scheduler if isinstance(scheduler, str) else type(policy).__name__
    return Run(graph, simulation.trace(), "simulate", name, machine.size, store, machine)


def _checked(owner: Owner, ranks: int) -> Home:
    """``owner`` by handle, with a memory; ValueError for a rank that the machine does not have."""
    known: dict[Handle, int] = {}
    rule: Home = owner if _takes_handles(owner) else owners(owner, ranks)  # type: ignore[assignment]

    def checked(handle: Handle) -> int:
        rank = known.get(handle)
        if rank is None:
            rank = known[handle] = as_integer(rule(handle))
            if not 0 <= rank < ranks:
                raise ValueError(f"owner puts {handle} on rank {rank}, but the machine has ranks 0..{ranks - 1}")
        return rank

    return checked


def _takes_handles(owner: Owner) -> bool:
    """Whether this is a function of one argument; `Distribution` and dicts are not, nor is ``lambda i, j: ...``."""
    if isinstance(owner, Distribution | Mapping) or not callable(owner):
        return False
    try:
        signature(owner).bind(None)
    except TypeError:
        return False
    except ValueError:  # a builtin that does not say, such as a dict's __getitem__
        return True
    return True


def known_shapes(graph: TaskGraph, machine: Machine, data: Any = None, placed: bool = False) -> Machine:
    """The machine with the shapes of the data, or where there is none those of the graph's layout.

    ``placed``: a call that names its own owners has no use for the layout's.
    """
    if machine.shape is not None:
        return machine
    if data is not None:
        return machine.replace(shape=_shapes(graph, Store(data)))
    known = graph.layout.shape if graph.layout is not None and not placed else None
    if graph.rooms:
        tile = machine.tile_size, machine.tile_size

        def shape(handle: Handle) -> tuple[int, ...]:
            room = graph.rooms.get(handle.name)
            return room.of(handle)[0] if room is not None else tile if known is None else known(handle)

        return machine.replace(shape=cache(shape))
    return machine if known is None else machine.replace(shape=known)


def _shapes(graph: TaskGraph, store: Store) -> Callable[[Handle], tuple[int, ...]]:
    def shape(handle: Handle) -> tuple[int, ...]:
        buffer = store[handle]
        if buffer is None and handle.name in graph.rooms:
            return graph.rooms[handle.name].of(handle)[0]
        if buffer is None:
            raise MissingDataError(f"the data has no buffer for {handle}, so its size is unknown")
        return tuple(getattr(buffer, "shape", (1,)))

    return shape


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
