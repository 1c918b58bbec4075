"""One rank of an MPI communicator as an `Endpoint` of the discovery protocols. Imported on ranks only."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from time import sleep
from typing import Any, TypeVar

import numpy as np
from mpi4py import MPI

from tilewright.comm.neighbours import Requests, discover

__all__ = ["MpiEndpoint", "discovered", "drive", "endpoint"]

T = TypeVar("T")

BASE = 1 << 14  # tags below it belong to others on the same communicator
SPINS, SHORTEST, LONGEST = 200, 20e-6, 1e-3


class _Request:
    """A request with the buffers that it uses."""

    def __init__(self, request: MPI.Request, held: Any, value: Any = None) -> None:
        self.request, self.held, self._value = request, held, value
        self.value: Any = None

    def test(self) -> bool:
        if not self.request.Test():
            return False
        self.value = self._value
        return True


class MpiEndpoint:
    """See `Endpoint`."""

    def __init__(self, comm: MPI.Intracomm) -> None:
        self.comm = comm
        self.rank, self.size = comm.rank, comm.size
        limit: Any = comm.Get_attr(MPI.TAG_UB)
        self._span = limit - BASE
        self._calls = 0
        self._status = MPI.Status()

    def fresh_tag(self) -> int:
        self._calls += 1
        return BASE + self._calls % self._span

    def send(self, data: np.ndarray, to: int, tag: int, synchronous: bool = False) -> _Request:
        words = np.ascontiguousarray(data, np.int64)
        post = self.comm.Issend if synchronous else self.comm.Isend
        return _Request(post([words, MPI.INT64_T], to, tag), words)

    def take(self, tag: int) -> tuple[int, np.ndarray] | None:
        message = self.comm.Improbe(MPI.ANY_SOURCE, tag, self._status)
        if message is None:
            return None
        source = self._status.Get_source()
        words = np.empty(self._status.Get_count(MPI.INT64_T), np.int64)
        message.Recv([words, MPI.INT64_T])
        return source, words

    def barrier(self) -> _Request:
        return _Request(self.comm.Ibarrier(), None)

    def reduce_scatter(self, words: np.ndarray) -> _Request:
        given, mine = np.ascontiguousarray(words, np.int64), np.zeros((), np.int64)
        return _Request(self.comm.Ireduce_scatter_block(given, mine), (given, mine), mine)

    def alltoall(self, words: np.ndarray) -> _Request:
        given, mine = np.ascontiguousarray(words, np.int64), np.zeros(self.size, np.int64)
        return _Request(self.comm.Ialltoall(given, mine), (given, mine), mine)


_kept = MPI.Comm.Create_keyval()  # goes with the communicator: another one with its handle starts anew


def endpoint(comm: MPI.Intracomm) -> MpiEndpoint:
    """The endpoint of a communicator, always the same: it counts the calls."""
    found: Any = comm.Get_attr(_kept)
    if found is None:
        found = MpiEndpoint(comm)
        comm.Set_attr(_kept, found)
    return found


def drive(steps: Generator[None, None, T]) -> T:
    """Run a protocol to its end; after a few fruitless looks it sleeps between two."""
    fruitless, pause = 0, SHORTEST
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result
        fruitless += 1
        if fruitless > SPINS:
            sleep(pause)
            pause = min(2 * pause, LONGEST)


def discovered(comm: MPI.Intracomm, requests: Sequence[Requests], name: str, synchronous: bool) -> Requests:
    """What others ask this rank for; ``requests`` has those of each rank. Collective."""
    return drive(discover(endpoint(comm), requests[comm.rank], name, synchronous))
