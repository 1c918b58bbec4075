"""Closures of the halo: what a rank needs to make s products after one exchange, by reach in the graph of A.

Write (i, k) for component i of A^k x. It depends on (j, k-1) for all j with a_ij != 0. A rank has the components it
owns at level 0 and wants its own at levels 1 to s. Three ways to exchange:

=============  ====================================================  =======================================
method         exchanged                                             3-point stencil, a side of a block of b
=============  ====================================================  =======================================
separate       ghosts of each level, s times                         b messages, b words, 0 redundant points
halo           everything within s hops, at level 0; what is not     1 message, b words, b (b-1) / 2
               mine between that and me is computed again
two-stage      each rank first computes what it can without any      1 message, b words, floor(b^2 / 4)
               message: (i, k) is *inner* if it depends on own
               components only. What others have as inner they
               send, at the level where it is needed
=============  ====================================================  =======================================

In both, inner components need no message, so they are computed while it travels. Sets come from the pattern of A
alone: no structural symmetry, no geometry [1]_.

.. [1] J. Demmel, M. Hoemmen, M. Mohiyuddin, K. Yelick, Avoiding communication in sparse matrix computations, IPDPS
   2008: algorithms PA0, PA1 and PA2. Lecture: "Optimization of multiple products", "Latency hiding", "Communication
   minimizing".
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from tilewright.comm.inspector import Block, Piece, gather_rows
from tilewright.comm.neighbours import Requests
from tilewright.comm.partition import Csr, Partition
from tilewright.kernels import csr

__all__ = ["METHODS", "Closure", "Level", "closure", "depths"]

METHODS = ("separate", "halo", "two-stage")


@dataclass
class Level:
    """What a rank computes of level k, in numbers of its extended vector: own components, then those of others."""

    inner: tuple[int, int]
    """From which own row to which all inner ones lie. The few others between them are swept along and computed again
    in `rows`: a sweep that skips them would be slower."""
    rows: np.ndarray
    """Rows to compute when the message is in: own ones that are not inner, then redundant ones of others."""
    block: Block
    """These rows of A; columns are places of the extended vector."""
    redundant: int
    """How many of `rows` others own."""


@dataclass
class Closure:
    """One rank's part of s products with one exchange."""

    rank: int
    own: int
    """How many components it owns."""
    n: int
    """Order of the whole matrix."""
    outside: np.ndarray
    """Whole-matrix numbers of the components of others that it holds at some level, ascending."""
    levels: list[Level]
    """Levels 1 to s."""
    sources: dict[int, np.ndarray]
    """By rank that sends: (2, words), level and place in the extended vector."""
    wanted: dict[int, np.ndarray] = field(default_factory=dict)
    """By rank that asks: (2, words), level and place among my own. Discovered, see `take_requests`."""

    def cast(self, dtype: Any) -> Closure:
        """With values of another dtype."""
        return replace(self, levels=[replace(level, block=level.block.cast(dtype)) for level in self.levels])

    @property
    def steps(self) -> int:
        return len(self.levels)

    @property
    def size(self) -> int:
        """Components of the extended vector."""
        return self.own + len(self.outside)

    @property
    def words(self) -> int:
        """Words it receives."""
        return sum(places.shape[1] for places in self.sources.values())

    @property
    def messages(self) -> int:
        """Messages it receives."""
        return len(self.sources)

    @property
    def redundant(self) -> int:
        """Components of others that it computes, over all levels."""
        return sum(level.redundant for level in self.levels)

    @property
    def top(self) -> int:
        """The highest level that it sends something of."""
        return max((int(places[0].max()) for places in self.wanted.values()), default=0)

    @property
    def requests(self) -> Requests:
        """By rank, what to ask it for: level n + component."""
        numbers = np.concatenate([np.full(self.own, -1), self.outside])
        return {q: level * self.n + numbers[place] for q, (level, place) in self.sources.items()}

    def take_requests(self, asked: Requests, mine: np.ndarray) -> None:
        """Remember who wants what of ``mine``, my components in ascending order."""
        for q, codes in asked.items():
            level, component = np.divmod(codes, max(self.n, 1))
            self.wanted[q] = np.stack([level, np.searchsorted(mine, component)])


def depths(A: Csr, partition: Partition, s: int) -> np.ndarray:
    """(n,) for each row the highest level k <= s at which it is inner: (i, k) depends on components of its owner only.

    A row with a remote column has depth 0, so only level 0 of it is inner. O(s entries).
    """
    row = np.repeat(partition.owner, np.diff(A.indptr))
    foreign = row != partition.owner[A.indices]
    pattern = np.ones(A.nnz, bool)
    outer = np.zeros(A.shape[0], bool)
    csr.multiply_add(A.indptr, np.arange(A.nnz, dtype=A.indptr.dtype), pattern, foreign, outer)
    depth = np.where(outer, 0, min(s, 1)).astype(np.int64)
    for k in range(2, s + 1):
        csr.multiply_add(A.indptr, A.indices, pattern, outer.copy(), outer)
        depth[~outer] = k
    return depth


def closure(
    A: Csr, partition: Partition, piece: Piece, s: int, method: str, depth: np.ndarray, *, recurrence: bool = False
) -> Closure:
    """The sets of one rank for s products with one exchange.

    Parameters
    ----------
    A, partition
        A square matrix, canonical, and who owns its rows and columns.
    piece
        The rank's piece of it.
    s
        How many products, at least 1.
    method
        ``"halo"`` or ``"two-stage"``.
    depth
        The depth of every row: `depths` for s or more.
    recurrence
        Level k also needs component i itself of levels k-1 and k-2, as polynomials other than powers do.
    """
    me = piece.rank
    mine = partition.rows(me)
    own = len(mine)
    owner = partition.owner
    needed: list[np.ndarray] = [piece.ghosts] * s + [np.zeros(0, np.int64)]  # by level, of others
    computed: list[np.ndarray] = [np.zeros(0, np.int64)] * (s + 2)
    received: list[np.ndarray] = [np.zeros(0, np.int64)] * (s + 1)
    for k in range(s, -1, -1):
        reach = [needed[k]]
        if recurrence and k < s:
            reach += [computed[k + 1], computed[k + 2]]
        if k < s:
            columns = A[computed[k + 1]].indices
            reach.append(columns[owner[columns] != me])
        here = np.unique(np.concatenate(reach).astype(np.int64))
        inner = depth[here] >= k if method == "two-stage" else np.full(len(here), k == 0)
        received[k], computed[k] = here[inner], here[~inner]
    outside = np.unique(np.concatenate(received + computed))
    place = piece.columns

    def extended(components: np.ndarray) -> np.ndarray:
        """Places in the extended vector."""
        inside = components - place.start if isinstance(place, slice) else np.searchsorted(mine, components)
        return np.where(owner[components] == me, inside, own + np.searchsorted(outside, components))

    levels = []
    my_depth = depth[mine]
    for k in range(1, s + 1):
        inner_rows = np.flatnonzero(my_depth >= k)
        late = np.concatenate([mine[my_depth < k], computed[k]])
        indptr, columns, values = gather_rows(A, late, partition)
        levels.append(
            Level(
                (int(inner_rows[0]), int(inner_rows[-1]) + 1) if len(inner_rows) else (0, 0),
                extended(late),
                Block.of(indptr, extended(columns), values, own + len(outside)),
                len(computed[k]),
            )
        )
    level = np.repeat(np.arange(s + 1), [len(part) for part in received])
    components = np.concatenate(received)
    whose = owner[components]
    places = own + np.searchsorted(outside, components)
    sources = {int(q): np.stack([level[whose == q], places[whose == q]]) for q in np.unique(whose)}
    return Closure(me, own, A.shape[0], outside, levels, sources)
