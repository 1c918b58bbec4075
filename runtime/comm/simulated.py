"""A communicator in one process: programs of ranks are generators, a seeded scheduler runs them and delays messages.

The same seed gives the same run. A rank is advanced from one ``yield`` to the next; messages arrive after a random
number of such steps, those of one pair and tag in order, those of different pairs in any. When nothing is under way and
all ranks have looked in vain, the programs are stuck, and the error says who waits.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Generator
from typing import Any

import numpy as np

__all__ = ["Deadlock", "SimulatedComm"]


class Deadlock(RuntimeError):  # noqa: N818 - it says what happened
    """No rank can go on."""


class _Message:
    """A send under way; done when it has left (or, synchronous, when it was taken)."""

    value = None

    def __init__(self, source: int, tag: int, data: np.ndarray, due: int, synchronous: bool) -> None:
        self.source, self.tag, self.data, self.due, self.synchronous = source, tag, data, due, synchronous
        self.taken = False

    def test(self) -> bool:
        return self.taken or not self.synchronous


class _Collective:
    """The n-th collective of a communicator: done when all ranks have entered."""

    def __init__(self, size: int, kind: str) -> None:
        self.kind = kind
        self.words: list[np.ndarray | None] = [None] * size
        self.missing = size

    def enter(self, rank: int, kind: str, words: np.ndarray) -> None:
        if kind != self.kind:
            raise Deadlock(f"rank {rank} calls {kind} where others call {self.kind}")
        self.words[rank] = words
        self.missing -= 1


class _Entered:
    def __init__(self, collective: _Collective, result: Callable[[np.ndarray], Any]) -> None:
        self.collective, self.result = collective, result
        self.value: Any = None

    def test(self) -> bool:
        if self.collective.missing:
            return False
        self.value = self.result(np.array(self.collective.words))
        return True


class SimulatedEndpoint:
    """One rank of a `SimulatedComm`; an `Endpoint`."""

    def __init__(self, comm: SimulatedComm, rank: int) -> None:
        self.comm, self.rank, self.size = comm, rank, comm.size
        self.inbox: deque[_Message] = deque()
        self._tags = self._collectives = 0
        self.messages = self.words = 0
        """How many this rank sent."""

    def fresh_tag(self) -> int:
        self._tags += 1
        return self._tags

    def send(self, data: np.ndarray, to: int, tag: int, synchronous: bool = False) -> _Message:
        message = _Message(self.rank, tag, np.array(data, np.int64), self.comm.arrival(), synchronous)
        self.comm.ends[to].inbox.append(message)
        self.messages += 1
        self.words += len(message.data)
        self.comm.changed()
        return message

    def take(self, tag: int) -> tuple[int, np.ndarray] | None:
        overtaken = set()  # a later message of the same source does not pass an earlier one
        for message in self.inbox:
            if message.tag != tag or message.source in overtaken:
                continue
            if message.due <= self.comm.clock:
                self.inbox.remove(message)
                message.taken = True
                self.comm.changed()
                return message.source, message.data
            overtaken.add(message.source)
        return None

    def barrier(self) -> _Entered:
        return self._enter("barrier", np.zeros(0, np.int64), lambda words: None)

    def reduce_scatter(self, words: np.ndarray) -> _Entered:
        return self._enter("reduce_scatter", words, lambda all_words: all_words[:, self.rank].sum())

    def alltoall(self, words: np.ndarray) -> _Entered:
        return self._enter("alltoall", words, lambda all_words: all_words[:, self.rank])

    def _enter(self, kind: str, words: np.ndarray, result: Callable[[np.ndarray], Any]) -> _Entered:
        collective = self.comm.collective(self._collectives, kind)
        self._collectives += 1
        collective.enter(self.rank, kind, np.array(words, np.int64))
        self.comm.changed()
        return _Entered(collective, result)


class SimulatedComm:
    """``size`` ranks in this process.

    Parameters
    ----------
    size
        How many ranks.
    seed
        Decides the order in which ranks run, and the delays.
    delay
        Most steps that a message takes.

    Examples
    --------
    >>> import numpy as np
    >>> from tilewright.comm.neighbours import discover
    >>> from tilewright.comm.simulated import SimulatedComm
    >>> wants = [{1: np.array([7])}, {}, {1: np.array([8, 9])}]
    >>> comm = SimulatedComm(3)
    >>> comm.run(lambda end: discover(end, wants[end.rank], "nbx"))[1]
    {0: array([7]), 2: array([8, 9])}
    """

    def __init__(self, size: int, seed: int = 0, delay: int = 5) -> None:
        self.size = size
        self.random = random.Random(seed)
        self.delay = delay
        self.clock = 0
        self.ends = [SimulatedEndpoint(self, rank) for rank in range(size)]
        self._collectives: list[_Collective] = []
        self._quiet = 0

    def run(self, program: Callable[[SimulatedEndpoint], Generator[None, None, Any]]) -> list[Any]:
        """What ``program(endpoint)`` returns on each rank. `Deadlock` if it never does."""
        results: list[Any] = [None] * self.size
        live = {end.rank: program(end) for end in self.ends}
        self._quiet = 0
        while live:
            order = list(live)
            self.random.shuffle(order)
            for rank in order:
                self.clock += 1
                try:
                    next(live[rank])
                except StopIteration as end:
                    results[rank] = end.value
                    del live[rank]
                    self.changed()
            self._quiet += 1
            if self._quiet > 2 + self.delay:  # whatever was under way has arrived
                raise Deadlock(f"ranks {', '.join(map(str, sorted(live)))} of {self.size} wait for what nobody sends")
        return results

    def changed(self) -> None:
        """Something happened: no deadlock."""
        self._quiet = 0

    def arrival(self) -> int:
        return self.clock + self.random.randint(0, self.delay)

    def collective(self, number: int, kind: str) -> _Collective:
        if number == len(self._collectives):
            self._collectives.append(_Collective(self.size, kind))
        return self._collectives[number]

    @property
    def messages(self) -> int:
        """Messages of all ranks, collectives not counted."""
        return sum(end.messages for end in self.ends)

    @property
    def words(self) -> int:
        """Their words."""
        return sum(end.words for end in self.ends)

    @property
    def collectives(self) -> list[str]:
        """The collectives that were called, in order."""
        return [collective.kind for collective in self._collectives]
