"""Who will ask me? Three protocols that tell each rank which ranks want something of it.

For a sparse product a rank knows what it needs of others (its ghosts), but nobody told the others: receives are easy,
sends are hard, and without structural symmetry they do not follow from the receives. Each protocol takes the requests
of this rank, ``{rank asked: its request}``, and returns those to it, ``{rank that asks: its request}``.

================  ==========================================================  ==========================================
name              how                                                         cost beside the requests themselves
================  ==========================================================  ==========================================
reduce-scatter    the p x p matrix C, C_ij = 1 if i asks j, is summed over    ceil(log2 p) alpha + (p-1)/p p (beta +
                  i; j gets its column sum s_j: it has to receive s_j         gamma); O(p) memory on each rank
                  requests, from anybody
nbx               synchronous sends; when all of mine are received I enter    (ceil(log2 p) + neighbours) alpha; memory
                  a non-blocking barrier; when that completes everybody's     O(neighbours) [1]_
                  are, so nothing more can come
alltoall          each rank tells each how many words it asks for             (p-1) (alpha + beta); O(p) memory
================  ==========================================================  ==========================================

A protocol is a generator over an `Endpoint` that yields where it has nothing to do, so that one program runs over MPI
(`tilewright.comm.mpi_endpoint`) and, for tests and for engines in one process, over `tilewright.comm.simulated`.

Each call has a tag of its own. In nbx a rank may leave the barrier, start the next call and send, while another rank
has not noticed the end of the first: with one tag that rank would take the request for one of the first call.

.. [1] T. Hoefler, C. Siebert, A. Lumsdaine, Scalable communication protocols for dynamic sparse data exchange,
   PPoPP 2010.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from tilewright.scalars import choice

if TYPE_CHECKING:
    from tilewright.machine import Machine

__all__ = ["AUTO", "DISCOVERIES", "Endpoint", "Pending", "Requests", "chosen", "cost", "discover"]

Requests = dict[int, np.ndarray]
"""By rank, int64 indices."""

Steps = Generator[None, None, Requests]

AUTO = 1024
"""Up to so many ranks "auto" is reduce-scatter, above it is nbx, as in PETSc."""


class Pending(Protocol):
    """Something under way."""

    value: Any
    """What a collective returns, when it is done."""

    def test(self) -> bool:
        """Whether it is done. Never waits."""


class Endpoint(Protocol):
    """One rank of a communicator. No method waits."""

    @property
    def rank(self) -> int: ...

    @property
    def size(self) -> int: ...

    def fresh_tag(self) -> int:
        """A tag that no earlier call used, the same on all ranks, which all take theirs in one order."""

    def send(self, data: np.ndarray, to: int, tag: int, synchronous: bool = False) -> Pending:
        """Send int64 words; synchronous: done means received. ``data`` stays alive until then."""

    def take(self, tag: int) -> tuple[int, np.ndarray] | None:
        """(source, words) of a message that has come, or None."""

    def barrier(self) -> Pending:
        """Done when all ranks have called it."""

    def reduce_scatter(self, words: np.ndarray) -> Pending:
        """Each rank has ``size`` words; the sum of all ranks' words at my place."""

    def alltoall(self, words: np.ndarray) -> Pending:
        """Each rank has ``size`` words; what every rank has at my place."""


def reduce_scatter(end: Endpoint, requests: Mapping[int, np.ndarray], synchronous: bool = False) -> Steps:
    """Count first, then receive that many."""
    asks = np.zeros(end.size, np.int64)
    asks[list(requests)] = 1
    tag = end.fresh_tag()
    total = end.reduce_scatter(asks)
    while not total.test():
        yield
    return (yield from _receive(end, requests, tag, int(total.value), synchronous))


def alltoall(end: Endpoint, requests: Mapping[int, np.ndarray], synchronous: bool = False) -> Steps:
    """Everybody tells everybody."""
    words = np.zeros(end.size, np.int64)
    words[list(requests)] = [len(data) for data in requests.values()]
    tag = end.fresh_tag()
    told = end.alltoall(words)
    while not told.test():
        yield
    return (yield from _receive(end, requests, tag, int(np.count_nonzero(told.value)), synchronous))


def nbx(end: Endpoint, requests: Mapping[int, np.ndarray], synchronous: bool = True) -> Steps:
    """Termination detection by a non-blocking barrier. Sends are always synchronous: that is the point."""
    tag = end.fresh_tag()
    sends = [end.send(data, to, tag, synchronous=True) for to, data in requests.items()]
    asked: Requests = {}
    barrier: Pending | None = None
    while True:
        message = end.take(tag)
        if message is not None:
            asked[message[0]] = message[1]
            continue
        if barrier is None:
            if all(send.test() for send in sends):
                barrier = end.barrier()
        elif barrier.test():
            return dict(sorted(asked.items()))
        yield


def _receive(end: Endpoint, requests: Mapping[int, np.ndarray], tag: int, count: int, synchronous: bool) -> Steps:
    """Send the requests and receive ``count``."""
    sends = [end.send(data, to, tag, synchronous) for to, data in requests.items()]
    asked: Requests = {}
    while len(asked) < count or not all(send.test() for send in sends):
        message = end.take(tag)
        if message is None:
            yield
        else:
            asked[message[0]] = message[1]
    return dict(sorted(asked.items()))


DISCOVERIES: dict[str, Callable[..., Steps]] = {"reduce-scatter": reduce_scatter, "nbx": nbx, "alltoall": alltoall}


def chosen(discovery: str, ranks: int) -> str:
    """The protocol that "auto" means. ValueError for an unknown name, TypeError for none."""
    if isinstance(discovery, str) and discovery == "reduce_scatter":  # as the function is called
        return "reduce-scatter"
    if choice(discovery, "discovery", ("auto", *DISCOVERIES)) == "auto":
        return "reduce-scatter" if ranks <= AUTO else "nbx"
    return discovery


def discover(
    end: Endpoint, requests: Mapping[int, np.ndarray], discovery: str = "auto", synchronous: bool = False
) -> Steps:
    """Who asks this rank, and for what. Collective; requests are int64 indices, none of them empty.

    Parameters
    ----------
    end
        This rank's end of a communicator.
    requests
        By rank, what this rank wants of it; itself is not among them.
    discovery
        A name of `DISCOVERIES`, or ``"auto"``.
    synchronous
        Let each send wait for its receive.

    Raises
    ------
    ValueError
        An unknown discovery, a request to a rank that there is not or to oneself, or an empty one.
    """
    for to, data in requests.items():
        if not 0 <= to < end.size or to == end.rank:
            raise ValueError(f"rank {end.rank} cannot ask rank {to} of {end.size}")
        if not len(data):
            raise ValueError(f"rank {end.rank} asks rank {to} for nothing")
    return DISCOVERIES[chosen(discovery, end.size)](end, requests, synchronous)


def cost(discovery: str, p: int, neighbours: int, machine: Machine) -> float:
    """Seconds of a discovery on p ranks that each ask ``neighbours`` others, the requests themselves not counted.

    The rows of the table above: lecture, "Reduce-scatter" and "DTD algorithms".
    """
    rounds = (p - 1).bit_length()
    name = chosen(discovery, p)
    if name == "reduce-scatter":
        return rounds * machine.alpha + (p - 1) * (machine.beta + (machine.gamma or 0.0))
    if name == "nbx":
        return (rounds + neighbours) * machine.alpha
    return (p - 1) * (machine.alpha + machine.beta)
