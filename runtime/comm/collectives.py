"""Collectives as task graphs: one vector on each rank, copies and sums between them.

x[r] is the vector of n words on rank r. In a round, a *pack* task on the sender copies the blocks that travel into one
message handle, so that one round is one message; an *unpack* or *add* task on the receiver puts them where they belong.
Nothing else is written down: that the message travels is inferred, as everywhere. The order of all sums is fixed
by the schedule, so results are the same bits in every run, on every engine.

=============== ============================================== ==================================================
operation       before                                         after
=============== ============================================== ==================================================
broadcast       x[root] is the vector                          all x are
scatter         x[root] is the vector                          block r of x[r] is that of the vector
gather          block r of x[r] is given                       x[root] has all blocks
allgather       block r of x[r] is given                       all x have all blocks
reduce          every x[r] is a term                           x[root] is the sum
reduce_scatter  every x[r] is a term                           block r of x[r] is that of the sum
allreduce       every x[r] is a term                           all x are the sum
=============== ============================================== ==================================================

Other parts of x are scratch. Block r is words ``cut(n, p)[r]`` to ``cut(n, p)[r + 1]``; with a root the blocks are
counted from it: rank (root + b) mod p has block b.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from numbers import Integral

import numpy as np

from tilewright.builder import graph_builder
from tilewright.comm.cost import best
from tilewright.comm.schedule import Schedule, algorithms, schedule
from tilewright.graph import RW, Handle, Layout, Op, R, TaskGraph, W
from tilewright.keywords import strict
from tilewright.machine import A_MACHINE, Machine
from tilewright.scalars import instance

__all__ = [
    "ADD",
    "PACK",
    "UNPACK",
    "Homes",
    "allgather",
    "allreduce",
    "broadcast",
    "gather",
    "lay",
    "reduce",
    "reduce_scatter",
    "scatter",
]

Pieces = tuple[tuple[int, int], ...]


def pack(x: np.ndarray, message: np.ndarray | None, pieces: Pieces) -> np.ndarray | None:
    """message := the pieces of x, one after the other; a new array where there is none yet."""
    parts = [x[low:high] for low, high in pieces]
    if message is None:
        return np.concatenate(parts)
    np.concatenate(parts, out=message)
    return None


def unpack(message: np.ndarray, x: np.ndarray, pieces: Pieces) -> None:
    """The pieces of x := message."""
    start = 0
    for low, high in pieces:
        x[low:high] = message[start : start + high - low]
        start += high - low


def add(message: np.ndarray, x: np.ndarray, pieces: Pieces) -> None:
    """The pieces of x += message."""
    start = 0
    for low, high in pieces:
        x[low:high] += message[start : start + high - low]
        start += high - low


def _free(*shapes: tuple[int, ...]) -> float:
    return 0.0


def _sums(message: tuple[int, ...], x: tuple[int, ...]) -> float:
    return float(message[0])


PACK = Op("pack", pack, weight=0, flops=_free, in_place=True)
UNPACK = Op("unpack", unpack, weight=0, flops=_free, in_place=True)
ADD = Op("add", add, weight=0, flops=_sums, in_place=True)


class Homes:
    """Where the handles of a graph live and how large they are, noted while the graph is built."""

    def __init__(self) -> None:
        self.rank: dict[Handle, int] = {}
        self.size: dict[Handle, tuple[int, ...]] = {}

    def note(self, handle: Handle, rank: int, *shape: int) -> Handle:
        self.rank[handle] = rank
        self.size[handle] = shape
        return handle

    def layout(self, ranks: int) -> Layout:
        return Layout(ranks, self.rank.__getitem__, self.size.__getitem__)


def lay(
    graph: TaskGraph,
    rooms: Homes,
    plan: Schedule,
    ranks: Sequence[int],
    x: Callable[[int], Handle],
    name: str,
    meanwhile: Callable[[], None] | None = None,
) -> None:
    """Append the tasks of a collective among some ranks of a graph.

    Parameters
    ----------
    graph, rooms
        The graph, and where its handles live.
    plan
        Whose rank q is rank ``ranks[q]`` of the machine.
    x
        The vector on a rank of the machine.
    name
        The name of the message handles: name[round, source, target].
    meanwhile
        Appends tasks that need none of this; they come when the first messages are on their way.
    """
    messages = graph.handles(name)
    for time, transfers in enumerate(plan):
        travelling = []
        for transfer in transfers:
            source, target = ranks[transfer.source], ranks[transfer.target]
            message = rooms.note(messages[time, source, target], source, transfer.words)
            graph.insert(PACK, R(x(source)), W(message), transfer.pieces)
            travelling.append((message, x(target), transfer))
        if meanwhile is not None and time == 0:
            meanwhile()
        for message, there, transfer in travelling:
            graph.insert(ADD if transfer.add else UNPACK, R(message), RW(there), transfer.pieces)


def _collective(
    operation: str, ranks: int, n: int, algorithm: str, root: int = 0, machine: Machine | None = None
) -> TaskGraph:
    if machine is not None:
        instance(machine, "machine", Machine, A_MACHINE)
    if isinstance(algorithm, str) and algorithm == "auto":
        schedule(operation, next(iter(algorithms(operation))), ranks, n)  # for its checks
        algorithm = best(operation, ranks, n, machine)
    schedule(operation, algorithm, ranks, n)  # for its checks
    if isinstance(root, bool) or not isinstance(root, Integral) or not 0 <= root < ranks:
        raise ValueError(f"root must be one of the ranks 0 to {ranks - 1}, not {root!r}")
    return _collective_graph(operation, ranks, n, algorithm, root)


@graph_builder("{operation}, {algorithm}, {ranks} ranks")
def _collective_graph(graph: TaskGraph, operation: str, ranks: int, n: int, algorithm: str, root: int) -> None:
    plan = schedule(operation, algorithm, ranks, n)
    rooms = Homes()
    x = graph.handles("x")
    for r in range(ranks):
        rooms.note(x[r], r, n)
    lay(graph, rooms, plan, [(root + q) % ranks for q in range(ranks)], x.__getitem__, "m")
    graph.layout = rooms.layout(ranks)
    graph.temporary = {"m"}


@strict
def broadcast(
    ranks: int, n: int, algorithm: str = "auto", *, root: int = 0, machine: Machine | None = None
) -> TaskGraph:
    """The vector of one rank to all.

    Parameters
    ----------
    ranks, n
        How many ranks, and words of the vector; any numbers.
    algorithm
        ``"tree"``, ``"scatter-allgather"``, ``"linear-scatter-allgather"``, or ``"auto"``: the cheapest for
        ``machine``. See `tilewright.comm.cost` for the table of algorithms and costs.
    root
        The rank that has the vector.
    machine
        What "auto" plans with; by default two ranks of one host.

    Returns
    -------
    A graph over the handles x[0] to x[ranks - 1], with a layout: see the table of `tilewright.comm.collectives`.

    Raises
    ------
    ValueError
        Unknown algorithm, ``ranks`` below 1, n below 0, no such root.
    TypeError
        ``ranks`` or n is not an integer.

    Examples
    --------
    >>> import numpy as np, tilewright as tw
    >>> g = tw.comm.broadcast(ranks=3, n=2, algorithm="tree")
    >>> run = tw.run(g, {"x": [np.array([1.0, 2.0]), np.zeros(2), np.zeros(2)]}, backend="serial")
    >>> run.store[tw.Handle("x", (2,))]
    array([1., 2.])
    """
    return _collective("broadcast", ranks, n, algorithm, root, machine)


@strict
def reduce(ranks: int, n: int, algorithm: str = "auto", *, root: int = 0, machine: Machine | None = None) -> TaskGraph:
    """The sum of all ranks' vectors on one rank.

    ``algorithm`` is one of ``"tree"``, ``"scatter-gather"``, or "auto". The rest is as in `broadcast`.

    Parameters
    ----------
    ranks, n, algorithm, root, machine
        As of `broadcast`, but for the names of algorithms.

    Returns
    -------
    graph : TaskGraph
        With a layout.

    Raises
    ------
    ValueError, TypeError
        As of `broadcast`.

    Examples
    --------
    >>> import numpy as np, tilewright as tw
    >>> g = tw.comm.reduce(ranks=3, n=1, algorithm="tree")
    >>> run = tw.run(g, {"x": [np.array([1.0]), np.array([2.0]), np.array([4.0])]}, backend="serial")
    >>> run.store[tw.Handle("x", (0,))]
    array([7.])
    """
    return _collective("reduce", ranks, n, algorithm, root, machine)


@strict
def scatter(ranks: int, n: int, algorithm: str = "auto", *, root: int = 0, machine: Machine | None = None) -> TaskGraph:
    """Block r of one rank's vector to rank r.

    ``algorithm`` is one of ``"tree"``, ``"linear"``, or "auto". The rest is as in `broadcast`.

    Parameters
    ----------
    ranks, n, algorithm, root, machine
        As of `broadcast`, but for the names of algorithms.

    Returns
    -------
    graph : TaskGraph
        With a layout.

    Raises
    ------
    ValueError, TypeError
        As of `broadcast`.

    Examples
    --------
    >>> import tilewright as tw
    >>> g = tw.comm.scatter(ranks=4, n=8, algorithm="tree")
    >>> tw.simulate(g, tw.Machine(alpha=1.0, beta=0.5)).makespan       # 2 rounds, 4 + 2 words
    5.0
    """
    return _collective("scatter", ranks, n, algorithm, root, machine)


@strict
def gather(ranks: int, n: int, algorithm: str = "auto", *, root: int = 0, machine: Machine | None = None) -> TaskGraph:
    """Block r of every rank r to one rank.

    ``algorithm`` is one of ``"tree"``, ``"linear"``, or "auto". The rest is as in `broadcast`.

    Parameters
    ----------
    ranks, n, algorithm, root, machine
        As of `broadcast`, but for the names of algorithms.

    Returns
    -------
    graph : TaskGraph
        With a layout.

    Raises
    ------
    ValueError, TypeError
        As of `broadcast`.

    Examples
    --------
    >>> import tilewright as tw
    >>> g = tw.comm.gather(ranks=4, n=8, algorithm="tree")
    >>> tw.simulate(g, tw.Machine(alpha=1.0, beta=0.5)).makespan       # 2 rounds, 2 + 4 words
    5.0
    """
    return _collective("gather", ranks, n, algorithm, root, machine)


@strict
def allgather(ranks: int, n: int, algorithm: str = "auto", *, machine: Machine | None = None) -> TaskGraph:
    """Block r of every rank r to all ranks.

    ``algorithm`` is one of ``"exchange"``, ``"ring"``, ``"gather-broadcast"``, "auto". The rest is as in `broadcast`.

    Parameters
    ----------
    ranks, n, algorithm, machine
        As of `broadcast`, but for the names of algorithms.

    Returns
    -------
    graph : TaskGraph
        With a layout.

    Raises
    ------
    ValueError, TypeError
        As of `broadcast`.

    Examples
    --------
    >>> import tilewright as tw
    >>> g = tw.comm.allgather(ranks=4, n=8, algorithm="ring")
    >>> tw.simulate(g, tw.Machine(alpha=1.0, beta=0.5)).makespan       # 3 rounds of 2 words
    6.0
    """
    return _collective("allgather", ranks, n, algorithm, 0, machine)


@strict
def reduce_scatter(ranks: int, n: int, algorithm: str = "auto", *, machine: Machine | None = None) -> TaskGraph:
    """Block r of the sum of all ranks' vectors on rank r.

    ``algorithm`` is one of ``"exchange"``, ``"ring"``, or "auto". The rest is as in `broadcast`.

    Parameters
    ----------
    ranks, n, algorithm, machine
        As of `broadcast`, but for the names of algorithms.

    Returns
    -------
    graph : TaskGraph
        With a layout.

    Raises
    ------
    ValueError, TypeError
        As of `broadcast`.

    Examples
    --------
    >>> import tilewright as tw
    >>> g = tw.comm.reduce_scatter(ranks=4, n=8, algorithm="ring")
    >>> tw.simulate(g, tw.Machine(alpha=1.0, beta=0.5, gamma=0.0)).makespan       # 3 rounds of 2 words
    6.0
    """
    return _collective("reduce_scatter", ranks, n, algorithm, 0, machine)


@strict
def allreduce(ranks: int, n: int, algorithm: str = "auto", *, machine: Machine | None = None) -> TaskGraph:
    """The sum of all ranks' vectors on all ranks.

    ``algorithm`` is one of ``"exchange"``, ``"ring"``, ``"tree"``, or "auto". The rest is as in `broadcast`.

    Parameters
    ----------
    ranks, n, algorithm, machine
        As of `broadcast`, but for the names of algorithms.

    Returns
    -------
    graph : TaskGraph
        With a layout.

    Raises
    ------
    ValueError, TypeError
        As of `broadcast`.

    Examples
    --------
    >>> import numpy as np, tilewright as tw
    >>> g = tw.comm.allreduce(ranks=3, n=1, algorithm="ring")
    >>> run = tw.run(g, {"x": [np.array([1.0]), np.array([2.0]), np.array([4.0])]}, backend="serial")
    >>> [float(run.store[tw.Handle("x", (r,))][0]) for r in range(3)]
    [7.0, 7.0, 7.0]
    """
    return _collective("allreduce", ranks, n, algorithm, 0, machine)
