"""Schedules of collectives: in which round who sends which blocks to whom. Data only; nothing runs here.

A vector of n words is cut into p blocks, as equal as can be, the longer ones first; block b belongs to rank b. In one
round a rank sends at most one message and receives at most one: the lecture's model. Ranks are counted from the root.

The lecture is V. Eijkhout's *Parallel scalability*.

With L = ceil(log2 p), "exchange" is the lecture's bidirectional exchange where p is a power of two, and otherwise
Bruck's circulant pattern [1]_ or, for sums, its reverse [2]_: L rounds and exactly p - 1 blocks a rank for every p.

.. [1] J. Bruck et al., Efficient algorithms for all-to-all communications in multiport message-passing systems,
   IEEE TPDS 8 (1997).
.. [2] J. L. Traff, Optimal, non-pipelined reduce-scatter and allreduce algorithms, 2024.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from tilewright.door import upstairs
from tilewright.keywords import strict
from tilewright.scalars import ranks as rank_count
from tilewright.scalars import whole

__all__ = ["ALGORITHMS", "Schedule", "Transfer", "ceil_log2", "cut", "schedule"]


class Transfer(NamedTuple):
    """One message."""

    source: int
    target: int
    pieces: tuple[tuple[int, int], ...]
    """Ranges of words [low, high) that it carries, one or two of them."""
    add: bool
    """Whether the target adds what it gets to what it has."""

    @property
    def words(self) -> int:
        return sum(high - low for low, high in self.pieces)


Blocks = Callable[[int, int], tuple[tuple[int, int], ...]]
Rounds = Iterator[list[Transfer]]
_SHOWN = 64  # ranks whose rounds a notebook shows


@dataclass(frozen=True)
class Schedule:
    """The rounds of one collective."""

    operation: str
    algorithm: str
    ranks: int
    n: int
    make: Callable[[int, Blocks], Rounds]

    def __iter__(self) -> Rounds:
        """The rounds, each a list of messages. A ring of 1024 ranks has a million: they are made as they are asked."""
        offsets = cut(self.n, self.ranks)
        single = [((low, high),) for low, high in pairwise(offsets)]

        def blocks(first: int, count: int) -> tuple[tuple[int, int], ...]:
            """The words of ``count`` blocks from ``first`` on, around the end."""
            first %= self.ranks
            if count == 1:
                return single[first]
            last = first + count
            if last <= self.ranks:
                return ((offsets[first], offsets[last]),)
            return (offsets[first], self.n), (0, offsets[last - self.ranks])

        return self.make(self.ranks, blocks)

    def _repr_html_(self) -> str:
        """What a notebook shows: the table of `table`, of up to 64 ranks."""
        said = f"{self.operation} by {self.algorithm} of {self.n:,} words on {self.ranks:,} ranks"
        return str(upstairs("plot.cards:text")(f"{said}\n{self.table()}" if self.ranks <= _SHOWN else said))

    def table(self) -> str:
        """Who sends what in each round, one line a rank, as the lecture draws it.

        Examples
        --------
        >>> from tilewright.comm.schedule import schedule
        >>> print(schedule("broadcast", "tree", 4, 4).table())
             t = 0       t = 1
        p_0  0:4 -> p_1  0:4 -> p_2
        p_1              0:4 -> p_3
        p_2
        p_3
        """
        columns = []
        for time, transfers in enumerate(self):
            column = [""] * self.ranks
            for source, target, pieces, add in transfers:
                what = ",".join(f"{low}:{high}" for low, high in pieces)
                column[source] = f"{what} {'+' if add else '-'}> p_{target}"
            columns.append([f"t = {time}", *column])
        names = ["", *(f"p_{rank}" for rank in range(self.ranks))]
        widths = [max(map(len, column)) for column in (names, *columns)]
        rows = zip(names, *columns, strict=True)
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
        )


def ceil_log2(p: int) -> int:
    """The rounds in which one rank can reach p."""
    return (p - 1).bit_length()


def cut(n: int, parts: int) -> list[int]:
    """Where the parts of n words begin, and the end: the first n mod ``parts`` have one word more.

    Examples
    --------
    >>> from tilewright.comm.schedule import cut
    >>> cut(10, 4)
    [0, 3, 6, 8, 10]
    """
    size, longer = divmod(n, parts)
    return [part * size + min(part, longer) for part in range(parts + 1)]


# ------------------------------------------------------------------ the lecture's patterns


def _broadcast_tree(p: int, blocks: Blocks) -> Rounds:
    """In round t ranks 0..2^t - 1 send to those 2^t further on."""
    for t in range(ceil_log2(p)):
        yield [Transfer(r, r + 2**t, blocks(0, p), False) for r in range(min(2**t, p - 2**t))]


def _reduce_tree(p: int, blocks: Blocks) -> Rounds:
    """In round t every second of the 2^t-th ranks left sends to the one before: sums of 2, 4, 8, ... neighbours."""
    for t in range(ceil_log2(p)):
        yield [Transfer(r, r - 2**t, blocks(0, p), True) for r in range(2**t, p, 2 ** (t + 1))]


def _scatter_linear(p: int, blocks: Blocks) -> Rounds:
    for r in range(1, p):
        yield [Transfer(0, r, blocks(r, 1), False)]


def _scatter_tree(p: int, blocks: Blocks) -> Rounds:
    """Who has blocks low..high - 1 sends the upper half to its first rank."""
    ranges = [(0, p)]
    while any(high - low > 1 for low, high in ranges):
        transfers, parts = [], []
        for low, high in ranges:
            middle = high - (high - low) // 2
            if middle < high:
                transfers.append(Transfer(low, middle, blocks(middle, high - middle), False))
                parts.append((middle, high))
            parts.append((low, middle))
        yield transfers
        ranges = parts


def _reversed(rounds: Rounds) -> Rounds:
    """The same messages the other way round, from the last to the first."""
    for transfers in reversed(list(rounds)):
        yield [Transfer(target, source, pieces, add) for source, target, pieces, add in transfers]


def _gather_linear(p: int, blocks: Blocks) -> Rounds:
    for r in range(1, p):
        yield [Transfer(r, 0, blocks(r, 1), False)]


def _gather_tree(p: int, blocks: Blocks) -> Rounds:
    return _reversed(_scatter_tree(p, blocks))


def _allgather_ring(p: int, blocks: Blocks) -> Rounds:
    """The bucket algorithm: in round t rank r hands on block r - t."""
    for t in range(p - 1):
        yield [Transfer(r, (r + 1) % p, blocks(r - t, 1), False) for r in range(p)]


def _allgather_exchange(p: int, blocks: Blocks) -> Rounds:
    """Distances 1, 2, 4, ...: what a rank has doubles."""
    for t in range(ceil_log2(p)):
        d = 2**t
        if p & (p - 1) == 0:
            yield [Transfer(r, r ^ d, blocks(r & -d, d), False) for r in range(p)]
        else:
            yield [Transfer(r, (r - d) % p, blocks(r, min(d, p - d)), False) for r in range(p)]


def _reduce_scatter_exchange(p: int, blocks: Blocks) -> Rounds:
    """Distances ..., 4, 2, 1: what a rank is responsible for halves."""
    for t in reversed(range(ceil_log2(p))):
        d = 2**t
        if p & (p - 1) == 0:
            yield [Transfer(r, r ^ d, blocks((r ^ d) & -d, d), True) for r in range(p)]
        else:
            yield [Transfer(r, (r + d) % p, blocks(r + d, min(d, p - d)), True) for r in range(p)]


def _reduce_scatter_ring(p: int, blocks: Blocks) -> Rounds:
    """The bucket of block b starts at rank b + 1 and gathers terms until it is home."""
    for t in range(p - 1):
        yield [Transfer(r, (r + 1) % p, blocks(r - t - 1, 1), True) for r in range(p)]


def _reduce_chain(p: int, blocks: Blocks) -> Rounds:
    """A pipeline: in round t rank r hands on block t - r with its term: sums from left to right, at rank p - 1."""
    for t in range(2 * p - 2):
        yield [Transfer(r, r + 1, blocks(t - r, 1), True) for r in range(p - 1) if 0 <= t - r < p]


def _broadcast_back(p: int, blocks: Blocks) -> Rounds:
    """The same pipeline from rank p - 1 to rank 0."""
    for t in range(2 * p - 2):
        yield [Transfer(p - 1 - r, p - 2 - r, blocks(t - r, 1), False) for r in range(p - 1) if 0 <= t - r < p]


def _then(*parts: Callable[[int, Blocks], Rounds]) -> Callable[[int, Blocks], Rounds]:
    def rounds(p: int, blocks: Blocks) -> Rounds:
        for part in parts:
            yield from part(p, blocks)

    return rounds


ALGORITHMS: dict[str, dict[str, Callable[[int, Blocks], Rounds]]] = {
    "broadcast": {
        "tree": _broadcast_tree,
        "scatter-allgather": _then(_scatter_tree, _allgather_ring),
        "linear-scatter-allgather": _then(_scatter_linear, _allgather_ring),
    },
    "reduce": {"tree": _reduce_tree, "scatter-gather": _then(_reduce_scatter_ring, _gather_tree)},
    "scatter": {"tree": _scatter_tree, "linear": _scatter_linear},
    "gather": {"tree": _gather_tree, "linear": _gather_linear},
    "allgather": {
        "exchange": _allgather_exchange,
        "ring": _allgather_ring,
        "gather-broadcast": _then(_gather_tree, _broadcast_tree),
    },
    "reduce_scatter": {"exchange": _reduce_scatter_exchange, "ring": _reduce_scatter_ring},
    "allreduce": {
        "exchange": _then(_reduce_scatter_exchange, _allgather_exchange),
        "ring": _then(_reduce_scatter_ring, _allgather_ring),
        "tree": _then(_reduce_tree, _broadcast_tree),
        "chain": _then(_reduce_chain, _broadcast_back),
    },
}
"""Algorithms by operation; the first of each is the one for short vectors."""


@strict
def schedule(operation: str, algorithm: str, ranks: int, n: int) -> Schedule:
    """The schedule of an operation on ``ranks`` ranks and vectors of n words.

    Parameters
    ----------
    operation, algorithm
        A collective by the name of its function, and one of its algorithms.
    ranks, n
        How many ranks, and words of the vector.

    Returns
    -------
    schedule : Schedule
        Rounds of messages; ``print(schedule.table())`` draws them.

    Raises
    ------
    ValueError
        Unknown operation or algorithm; fewer than one rank; n below 0.
    TypeError
        ``ranks`` or n is not an integer.

    Examples
    --------
    >>> import tilewright as tw
    >>> print(tw.comm.schedule("broadcast", "tree", 4, 8).table().splitlines()[1])     # who sends what to whom
    p_0  0:8 -> p_1  0:8 -> p_2
    """
    operation = named(operation)
    known = algorithms(operation)
    if not isinstance(algorithm, str) or algorithm not in known:
        raise ValueError(f"{operation} has no algorithm {algorithm!r}; known: {', '.join(known)}, auto")
    ranks, n = rank_count(ranks), whole(n, "n", 0)
    return Schedule(operation, algorithm, ranks, n, known[algorithm])


def named(operation: str) -> str:
    """The operation of that name, which is its function's; "reduce-scatter", as the literature has it, will do too.

    ValueError lists the operations there are.
    """
    found = operation.replace("-", "_") if isinstance(operation, str) else None
    if found not in ALGORITHMS:
        raise ValueError(f"unknown collective {operation!r}; known: {', '.join(ALGORITHMS)}. It is the operation")
    return found


def algorithms(operation: str) -> dict[str, Callable[[int, Blocks], Rounds]]:
    """The algorithms of an operation. ValueError lists the operations there are."""
    return ALGORITHMS[named(operation)]
