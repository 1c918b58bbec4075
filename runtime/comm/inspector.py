"""The inspector: what each rank has, needs and sends, found once for many products.

Rank p owns the rows I_p. Its *ghosts* S_p = {j not in I_p : a_ij != 0 for some i in I_p} are what it receives: one
message from each rank that owns some of them, each x_j at most once. Its rows split into A = A_local + A_remote,
entries whose column it owns and the others; only rows that have remote entries are in A_remote.

Every sum has one order: a row's local entries by column, then its remote entries by column. It depends on who owns
what, and on nothing else: not on the engine, nor on how many steps are done at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import scipy.sparse as sparse

from tilewright.arguments import check_structure, dense
from tilewright.comm.neighbours import Requests
from tilewright.comm.partition import Csr, Partition

__all__ = ["Block", "Piece", "as_csr", "check_dtype", "gather_rows", "inspect", "mapped"]


@dataclass
class Block:
    """Rows of a matrix in local numbers."""

    indptr: np.ndarray
    indices: np.ndarray
    values: np.ndarray
    columns: int

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.indptr) - 1, self.columns

    @classmethod
    def of(cls, indptr: np.ndarray, indices: np.ndarray, values: np.ndarray, columns: int) -> Block:
        """With 32-bit indices where all numbers fit, as they nearly always do on one rank: half the bytes."""
        fits = max(columns, len(indices)) <= np.iinfo(np.int32).max
        index = np.int32 if fits else np.int64
        return cls(indptr.astype(index, copy=False), indices.astype(index, copy=False), values, columns)

    def cast(self, dtype: Any) -> Block:
        """With values of another dtype."""
        return replace(self, values=self.values.astype(dtype))


@dataclass
class Piece:
    """One rank's part of a matrix."""

    rank: int
    rows: Any
    """Its rows in the whole vector y: a slice, or indices, ascending."""
    columns: Any
    """Its own part of the whole vector x."""
    size: tuple[int, int]
    """How many rows and columns it owns."""
    local: Block
    """All its rows, the columns it owns."""
    boundary: np.ndarray
    """Numbers of its rows that have remote entries."""
    remote: Block
    """Those rows; columns are numbers of ghosts."""
    ghosts: np.ndarray
    """Whole-matrix numbers of its ghosts, by owner, then ascending."""
    sources: dict[int, tuple[int, int]]
    """By rank that owns some of them: from which ghost to which. Ascending."""
    wanted: Requests = field(default_factory=dict)
    """By rank that needs some of mine: the numbers of these among my columns. Discovered, see `take_requests`."""

    @property
    def requests(self) -> Requests:
        """By rank, the ghosts to ask it for, in numbers of the whole matrix."""
        return {q: self.ghosts[a:b] for q, (a, b) in self.sources.items()}

    def cast(self, dtype: Any) -> Piece:
        """With values of another dtype."""
        return replace(self, local=self.local.cast(dtype), remote=self.remote.cast(dtype))

    def take_requests(self, asked: Requests) -> None:
        """Remember who wants which of my columns, given in numbers of the whole matrix."""
        if isinstance(self.columns, slice):
            self.wanted = {q: columns - self.columns.start for q, columns in asked.items()}
        else:
            self.wanted = {q: np.searchsorted(self.columns, columns) for q, columns in asked.items()}


def inspect(A: Csr, rows: Partition, columns: Partition, rank: int) -> Piece:
    """One rank's piece of A; nothing of other ranks' rows is looked at. O(entries of the rank), no O(n) memory.

    ``A`` is canonical: column indices sorted in each row, none twice.
    """
    place = rows.place(rank)
    if isinstance(place, slice):
        first, last = A.indptr[place.start], A.indptr[place.stop]
        indptr = A.indptr[place.start : place.stop + 1] - first
        indices, values = A.indices[first:last], A.data[first:last]
    else:
        mine = A[place]
        indptr, indices, values = mine.indptr, mine.indices, mine.data
    owner = columns.owner[indices]
    local = owner == rank
    before = np.concatenate([[0], np.cumsum(local)])  # how many entries before this one are local
    indptr_local = before[indptr]
    indptr_remote = indptr - indptr_local
    position = columns.position
    remote = ~local
    foreign, whose = indices[remote], owner[remote]
    ghosts, number = np.unique(foreign, return_inverse=True)
    owners = columns.owner[ghosts]
    order = np.argsort(owners, kind="stable")
    renumber = np.empty_like(order)
    renumber[order] = np.arange(len(order))
    ghosts, owners = ghosts[order].astype(np.int64), owners[order]
    starts = np.searchsorted(owners, np.unique(whose), "left")
    ends = np.searchsorted(owners, np.unique(whose), "right")
    counts = np.diff(indptr_remote)
    boundary = np.flatnonzero(counts)
    rows_own, columns_own = int(rows.sizes[rank]), int(columns.sizes[rank])
    return Piece(
        rank=rank,
        rows=place,
        columns=columns.place(rank),
        size=(rows_own, columns_own),
        local=Block.of(indptr_local, position[indices[local]], np.ascontiguousarray(values[local]), columns_own),
        boundary=boundary,
        remote=Block.of(
            np.concatenate([[0], np.cumsum(counts[boundary])]), renumber[number], values[remote], len(ghosts)
        ),
        ghosts=ghosts,
        sources={int(q): (int(a), int(b)) for q, a, b in zip(np.unique(whose), starts, ends, strict=True)},
    )


def gather_rows(A: Csr, wanted: np.ndarray, columns: Partition) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(indptr, whole-matrix columns, values) of some rows, each in the order in which its owner sums it.

    The rows and columns of A belong to one partition. Entries whose column has the owner of the row stand first.
    """
    picked = sparse.csr_array(A[wanted])
    row = np.repeat(np.arange(len(wanted)), np.diff(picked.indptr))
    foreign = columns.owner[picked.indices] != columns.owner[wanted][row]
    order = np.lexsort((picked.indices, foreign, row))
    return picked.indptr, picked.indices[order], picked.data[order]


def mapped(value: Any, function: Callable[[np.ndarray], np.ndarray]) -> Any:
    """A piece, block, dict, list or tuple with ``function`` applied to each array in it, however deep."""
    if isinstance(value, np.ndarray):
        return function(value)
    if isinstance(value, dict):
        return {key: mapped(item, function) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(mapped(item, function) for item in value)
    if hasattr(value, "__dataclass_fields__"):
        return type(value)(**{name: mapped(getattr(value, name), function) for name in value.__dataclass_fields__})
    return value


def check_dtype(dtype: np.dtype) -> None:
    """TypeError for a dtype without a product."""
    if dtype.char not in "?bBhHiIlLqQfdgFDG":
        raise TypeError(
            f"there is no sparse product for {dtype}; convert to float32, float64 or another dtype of SciPy's"
        )


def as_csr(A: Any) -> Csr:
    """A as canonical rows, columns sorted and duplicates added: a snapshot, which shares no memory with A."""
    given = A
    if not sparse.issparse(A):
        A = dense(A, "A")
        if A.dtype.kind not in "biufc":
            raise TypeError(
                f"SparseOperator needs a sparse matrix or a 2-D array of numbers, not "
                f"{type(given).__name__} of {A.dtype}"
            )
        check_dtype(A.dtype)
    if A.ndim != 2:
        raise ValueError(f"SparseOperator needs a matrix, not an array of shape {A.shape}")
    check_structure(A)
    converted = sparse.csr_array(A)
    if getattr(A, "format", "") in ("lil", "dok"):  # rows in Python, made by hand
        check_structure(converted)
    if not converted.data.dtype.isnative:
        converted = converted.astype(converted.dtype.newbyteorder("="))
    if _shares(converted, given):
        converted = converted.copy()
    if not converted.has_canonical_format:
        converted.sum_duplicates()
    return converted


def _shares(converted: Csr, given: Any) -> bool:
    """Whether the conversion to rows took over an array of the caller's matrix."""
    theirs: list[np.ndarray] = []
    for value in vars(given).values() if hasattr(given, "__dict__") else ():
        theirs += [item for item in (value if isinstance(value, tuple) else (value,)) if isinstance(item, np.ndarray)]
    ours = converted.data, converted.indices, converted.indptr
    return any(np.may_share_memory(mine, yours) for mine in ours for yours in theirs)
