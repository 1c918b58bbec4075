"""Who owns which row of a sparse matrix, and how many words that makes ranks exchange.

A rank that owns variable i owns its connections, so the whole matrix row: every partition of a sparse matrix is one of
rows. What it costs is in the *ghosts* of a rank, the variables that its rows need and others own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sparse

from tilewright.arguments import numeric
from tilewright.extras import brings

__all__ = [
    "PARTITIONS",
    "Exchange",
    "Partition",
    "by_rows",
    "exchange",
    "metis",
    "nested_bisection",
    "partition",
    "patches",
    "slabs",
]

Csr = Any
"""A `scipy.sparse.csr_array` or ``csr_matrix``."""


@dataclass(frozen=True, eq=False)
class Partition:
    """The owner of each of n variables.

    Examples
    --------
    >>> from tilewright.comm.partition import by_rows
    >>> part = by_rows(7, 3)
    >>> part.owner, part.rows(1)
    (array([0, 0, 0, 1, 1, 2, 2], dtype=int32), array([3, 4]))
    """

    owner: np.ndarray
    """(n,) ranks."""
    ranks: int
    name: str = "given"

    def __len__(self) -> int:
        return len(self.owner)

    @cached_property
    def contiguous(self) -> bool:
        """Whether the variables of each rank are neighbours, those of rank 0 first."""
        return bool((self.owner[1:] >= self.owner[:-1]).all())

    @cached_property
    def sizes(self) -> np.ndarray:
        """(ranks,) how many variables each rank owns."""
        return np.bincount(self.owner, minlength=self.ranks)

    @cached_property
    def offsets(self) -> np.ndarray:
        """(ranks + 1,) where the variables of each rank begin in the order rank by rank."""
        return np.concatenate([[0], np.cumsum(self.sizes)])

    @cached_property
    def _order(self) -> np.ndarray:
        return np.arange(len(self)) if self.contiguous else np.argsort(self.owner, kind="stable")

    def rows(self, rank: int) -> np.ndarray:
        """The variables of a rank, ascending."""
        return self._order[self.offsets[rank] : self.offsets[rank + 1]]

    def place(self, rank: int) -> Any:
        """The same as an index of a whole vector: a slice where that is possible, so that it copies nothing."""
        return slice(*self.offsets[rank : rank + 2].tolist()) if self.contiguous else self.rows(rank)

    @cached_property
    def position(self) -> np.ndarray:
        """(n,) number of each variable among those of its owner."""
        position = np.empty(len(self), np.int64)
        position[self._order] = np.arange(len(self)) - np.repeat(self.offsets[:-1], self.sizes)
        return position


# ------------------------------------------------------------------ what a partition costs


class Exchange(NamedTuple):
    """What one product exchanges."""

    words: int
    """Ghosts of all ranks: each travels once to each rank that needs it."""
    messages: int
    """Pairs of ranks where one needs something of the other."""
    most_words: int
    """Ghosts of the rank that has most."""
    most_messages: int
    """Messages to the rank that gets most."""
    most_entries: int
    """Matrix entries of the rank that has most."""
    imbalance: float
    """``most_entries`` over the mean."""


def exchange(A: Csr, rows: Partition, columns: Partition | None = None) -> Exchange:
    """Count the words and messages of y := A x. O(entries log entries)."""
    A = sparse.csr_array(A)
    columns = columns or rows
    ranks = rows.ranks
    here = np.repeat(rows.owner, np.diff(A.indptr)).astype(np.int64)
    there = columns.owner[A.indices]
    foreign = here != there
    pairs = np.unique(here[foreign] * A.shape[1] + A.indices[foreign])  # (rank, ghost)
    rank, ghost = np.divmod(pairs, max(A.shape[1], 1))
    messages = np.unique(rank * ranks + columns.owner[ghost])
    entries = np.bincount(here, minlength=ranks)
    return Exchange(
        len(pairs),
        len(messages),
        int(np.bincount(rank, minlength=ranks).max(initial=0)),
        int(np.bincount(messages // ranks, minlength=ranks).max(initial=0)),
        int(entries.max(initial=0)),
        float(entries.max(initial=0) * ranks / max(A.nnz, 1)),
    )


# ------------------------------------------------------------------ partitions


def by_rows(n: int, ranks: int) -> Partition:
    """Blocks of consecutive variables, as equal as they can be. On a grid numbered line by line these are slabs."""
    return Partition((np.arange(n, dtype=np.int64) * ranks // max(n, 1)).astype(np.int32), ranks, "rows")


def slabs(shape: Sequence[int], ranks: int) -> Partition:
    """A grid of ``shape``, numbered line by line, in ``ranks`` slabs along its first dimension."""
    return patches(shape, (ranks,) + (1,) * (len(shape) - 1), name="slabs")


def patches(shape: Sequence[int], grid: Sequence[int], name: str = "patches") -> Partition:
    """A grid of ``shape``, numbered line by line, in ``grid`` boxes: n x n points in r x c patches.

    Examples
    --------
    >>> from tilewright.comm.partition import patches
    >>> patches((4, 4), (2, 2)).owner.reshape(4, 4)
    array([[0, 0, 1, 1],
           [0, 0, 1, 1],
           [2, 2, 3, 3],
           [2, 2, 3, 3]], dtype=int32)
    """
    if len(shape) != len(grid):
        raise ValueError(f"a grid of {len(shape)} dimensions cannot be cut into {'x'.join(map(str, grid))} boxes")
    if min((*shape, *grid), default=0) < 1:
        raise ValueError(f"extents must be positive, not {tuple(shape)} in {tuple(grid)} boxes")
    owner = np.zeros(tuple(shape), np.int32)
    for axis, (n, boxes) in enumerate(zip(shape, grid, strict=True)):
        along = (np.arange(n) * boxes // n).reshape([-1 if a == axis else 1 for a in range(len(shape))])
        owner = owner * boxes + along.astype(np.int32)
    return Partition(owner.reshape(-1), int(np.prod(grid)), name)


def positions(coordinates: Any, n: int) -> np.ndarray:
    """(n, d) finite real numbers, d at least 1. TypeError or ValueError for anything else."""
    given = numeric(coordinates, "coordinates")
    if given.dtype.kind == "c":
        raise TypeError(f"coordinates must be real, not {given.dtype}")
    if given.ndim != 2 or len(given) != n or not given.shape[1]:
        raise ValueError(f"coordinates must be {n} points, of shape ({n}, d), not {given.shape}")
    if not np.isfinite(given).all():
        raise ValueError("coordinates have a NaN or an infinity")
    return given.astype(float)


def nested_bisection(A: Csr, ranks: int, coordinates: np.ndarray | None = None) -> Partition:
    """Cut in two along the longest direction, then each half again, until there are ``ranks`` parts [1]_.

    With ``coordinates`` (n, d) the longest direction is that of the widest box side. Without, it is that of a
    breadth-first order of the part's graph from a far end (reverse Cuthill-McKee), which follows its diameter. Parts
    differ by at most one variable at each cut; any number of ranks.

    .. [1] M. J. Berger, S. H. Bokhari, A partitioning strategy for nonuniform problems on multiprocessors, IEEE Trans.
       Computers C-36 (1987); A. George, J. W. H. Liu, Computer solution of large sparse positive definite systems
       (1981), for the orders.
    """
    graph = _symmetric_pattern(A)
    owner = np.empty(graph.shape[0], np.int32)
    if coordinates is not None:
        coordinates = positions(coordinates, len(owner))
    todo: list[tuple[Any, int, int]] = [(np.arange(len(owner)), 0, ranks)]
    while todo:
        members, first, count = todo.pop()
        if count == 1 or not len(members):
            owner[members] = first
            continue
        order: Any
        if coordinates is None:
            from scipy.sparse.csgraph import reverse_cuthill_mckee

            order = reverse_cuthill_mckee(graph[members][:, members], symmetric_mode=True)
        else:
            box = coordinates[members]
            widest = int(np.argmax(np.ptp(box, axis=0)))
            order = np.argsort(box[:, widest], kind="stable")
        left = count // 2
        cut = len(members) * left // count
        members = members[order]
        todo += [(np.sort(members[:cut]), first, left), (np.sort(members[cut:]), first + left, count - left)]
    return Partition(owner, ranks, "bisection")


def metis(A: Csr, ranks: int) -> Partition:
    """METIS's k-way partition of the graph of A + A^T, rows weighted by their entries [2]_.

    ImportError without pymetis. With as many ranks as rows or more, and for an empty graph, it is `by_rows`.

    .. [2] G. Karypis, V. Kumar, A fast and high quality multilevel scheme for partitioning irregular graphs, SIAM J.
       Sci. Comput. 20 (1998).
    """
    try:
        import pymetis
    except ImportError:
        raise ImportError(f"partition 'metis' needs pymetis; {brings('metis')}") from None
    graph = _symmetric_pattern(A)
    n = graph.shape[0]
    if ranks >= n or ranks == 1 or not graph.nnz:
        return Partition(by_rows(n, ranks).owner, ranks, "metis")
    weights = np.maximum(np.diff(sparse.csr_array(A).indptr), 1)
    options = pymetis.Options(seed=1)
    adjacency = pymetis.CSRAdjacency(graph.indptr.tolist(), graph.indices.tolist())
    _, membership = pymetis.part_graph(ranks, adjacency, vweights=weights.tolist(), options=options)
    return Partition(np.asarray(membership, np.int32), ranks, "metis")


def _symmetric_pattern(A: Csr) -> Csr:
    """The graph of A + A^T without loops."""
    A = sparse.csr_array(A)
    if A.shape[0] != A.shape[1]:
        raise ValueError(
            f"only square matrices have a graph to cut; this one is {A.shape[0]} x {A.shape[1]}, use 'rows'"
        )
    ones = sparse.csr_array((np.ones(A.nnz, np.int8), A.indices, A.indptr), shape=A.shape)
    both = (ones + ones.T).tocoo()
    off = both.row != both.col
    pattern = sparse.csr_array((both.data[off], (both.row[off], both.col[off])), shape=A.shape)
    pattern.data[:] = 1
    return pattern


PARTITIONS = ("rows", "bisection", "metis")
"""Names that `partition` knows."""


def partition(A: Csr, ranks: int, rule: Any = "rows", coordinates: np.ndarray | None = None) -> Partition:
    """What users pass as ``partition=``: a name of `PARTITIONS`, a `Partition`, or n owners.

    Raises
    ------
    ValueError
        Unknown name; owners that are not one rank per row.
    ImportError
        ``"metis"`` without pymetis.
    """
    n = A.shape[0]
    if isinstance(rule, str):
        if rule == "rows":
            return by_rows(n, ranks)
        if rule == "bisection":
            return nested_bisection(A, ranks, coordinates)
        if rule == "metis":
            return metis(A, ranks)
        raise ValueError(f"unknown partition {rule!r}; known: {', '.join(PARTITIONS)}, or the owner of each row")
    if isinstance(rule, Partition):
        if len(rule) != n:
            raise ValueError(f"the partition is of {len(rule)} rows, but the matrix has {n}")
        if rule.ranks != ranks:
            raise ValueError(f"the partition is for {rule.ranks} ranks, but there are {ranks}")
        return Partition(rule.owner.copy(), rule.ranks, rule.name)  # the caller may change his
    owner = np.asarray(rule)
    if owner.shape != (n,) or owner.dtype.kind not in "iu":
        raise ValueError(
            f"partition must be one of {', '.join(PARTITIONS)} or {n} integers, the owner of each row, "
            f"not {owner.dtype} of shape {owner.shape}"
        )
    if n and not (owner.min() >= 0 and owner.max() < ranks):
        raise ValueError(f"owners of rows must be ranks from 0 to {ranks - 1}, not {owner.min()} to {owner.max()}")
    return Partition(owner.astype(np.int32), ranks)
