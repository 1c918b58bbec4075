"""Products with a matrix by its diagonals: y := A x and y := A^T x, the bits of `csr`, no column indices to read.

Where the entries of a matrix lie on few diagonals, as those of a stencil do, 8 bytes of an entry move instead of 12,
and where diagonals k and -k have the same values, one is kept for both: a symmetric matrix is read half. That pays
where ranks share the bandwidth of a memory and the matrix is not in a cache. Rows are taken in blocks that
stay in the second-level cache; in a block one diagonal after the other is multiplied and added, in the order in which
the rows' entries are stored, so each row's sum is that of `csr`. Real numbers only: NumPy fuses operations in products
of complex ones, which gives other bits.

A diagonal also has slots where the matrix has no entry. They hold zero, and zero times infinity is NaN: a product says
whether all that it computed is finite, and if not, the caller takes `csr`. Slots outside of the matrix are never read.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

__all__ = ["BLOCK", "FILL", "LEAST", "Diagonals", "find"]

BLOCK = 1 << 18
"""Bytes of y in a block: y, a product and parts of x fit a second-level cache of 1 MB and more."""
FILL = 0.75
"""Least part of the slots that are entries. A slot takes about 0.7 of the time of an entry of `csr`."""
LINE = 64
"""Bytes of a line of the cache. NumPy's products take twice as long where the result does not begin with one."""
LEAST = 1 << 21
"""Fewest entries. Smaller matrices stay in a third-level cache, where `csr` is the faster."""
_SAMPLE = 1024  # rows looked at before all are


@dataclass
class Diagonals:
    """A matrix by diagonals."""

    offsets: np.ndarray
    """Column minus row of each diagonal, ascending."""
    table: np.ndarray
    """(kept, rows): line d is a_(i, i + k) for all rows i, 0 where there is none."""
    line: np.ndarray
    """By diagonal, its line of the table."""
    mirrored: np.ndarray
    """By diagonal, whether its line is that of diagonal -k, so that a_(i, i + k) stands at i + k."""
    full: bool
    """Whether every slot inside the matrix is an entry."""

    def multiply(self, x: np.ndarray, y: np.ndarray, first: int = 0) -> bool:
        """y := A x for the rows from ``first`` on, as many as y has.

        Parameters
        ----------
        x : (columns,) array
        y : (rows,) array
            Contiguous, of the dtype of the table; shares no memory with x.

        Returns
        -------
        False if a slot without an entry may have met an infinity or a NaN; y is to be computed again then.
        """
        return self._sweep(x, y, first, transposed=False)

    def multiply_transposed(self, x: np.ndarray, y: np.ndarray) -> bool:
        """y := A^T x; x has a component for each row, y one for each column. Returns as `multiply`."""
        return self._sweep(x, y, 0, transposed=True)

    def bytes_moved(self, columns: int) -> int:
        """Bytes that y := A x has to move at least: the kept diagonals once, x once in, y once out."""
        return self.table.nbytes + (columns + self.table.shape[1]) * self.table.itemsize

    def _sweep(self, x: np.ndarray, y: np.ndarray, first: int, *, transposed: bool) -> bool:
        """y_i := sum over k of a_(i, i + k) x_(i + k), or of a_(i + k, i) x_(i + k) if ``transposed``."""
        known: list[_Term] = []
        for k, line, mirrored in zip(self.offsets.tolist(), self.line.tolist(), self.mirrored.tolist(), strict=True):
            k = -k if transposed else k
            known.append((k, k if mirrored != transposed else 0, self.table[line]))
        if transposed:
            known.reverse()
        least, most = max(0, -known[0][0]), len(x) - max(0, known[-1][0])
        size = BLOCK // y.itemsize
        term = _on_a_line(size, y.dtype)
        lead = min(_to_a_line(y) % size, len(y))
        finite = True
        with np.errstate(all="ignore"):
            for start, stop in pairwise(sorted({0, lead, *range(lead, len(y), size), len(y)})):
                part = y[start:stop]
                inside = first + start >= least and first + stop <= most
                (_inside if inside else _at_edge)(known, x, part, first + start, first + stop, term)
                finite = finite and (self.full or bool(np.isfinite(np.add.reduce(part))))
        return finite


_Term = tuple[int, int, np.ndarray]
"""(k, shift, values): x_(i + k) is multiplied by values[i + shift]."""


def _inside(terms: list[_Term], x: np.ndarray, y: np.ndarray, a: int, b: int, term: np.ndarray) -> None:
    """Rows a to b, where all diagonals have slots."""
    multiply, add = np.multiply, np.add
    term = term[: b - a]
    k, shift, values = terms[0]
    multiply(values[a + shift : b + shift], x[a + k : b + k], term)
    add(term, y.dtype.type(0), y)  # a sum starts from 0, and 0 + (-0) is not -0
    for k, shift, values in terms[1:]:
        multiply(values[a + shift : b + shift], x[a + k : b + k], term)
        add(y, term, y)


def _at_edge(terms: list[_Term], x: np.ndarray, y: np.ndarray, a: int, b: int, term: np.ndarray) -> None:
    """Rows a to b, where diagonals end."""
    y.fill(0)
    for k, shift, values in terms:
        low, high = max(a, -k), min(b, len(x) - k)
        if low < high:
            product, target = term[: high - low], y[low - a : high - a]
            np.multiply(values[low + shift : high + shift], x[low + k : high + k], product)
            np.add(target, product, target)


def _to_a_line(array: np.ndarray) -> int:
    """Components before the first that begins a line of the cache."""
    return -array.ctypes.data % LINE // array.itemsize


def _on_a_line(size: int, dtype: np.dtype) -> np.ndarray:
    """A buffer that begins with a line of the cache."""
    room = np.empty(size + LINE // dtype.itemsize, dtype)
    return room[_to_a_line(room) :][:size]


def find(
    indptr: np.ndarray, indices: np.ndarray, values: np.ndarray, columns: int, least: int | None = None
) -> Diagonals | None:
    """The diagonals of a matrix in canonical compressed rows, or None where rows are the better form.

    None if the matrix has fewer than ``least`` entries (`LEAST` by default), or they are less than `FILL` of the slots,
    or the dtype is neither float32 nor float64. O(entries) time; O(1) where some rows already show too many diagonals.

    Examples
    --------
    >>> import scipy.sparse as sp
    >>> from tilewright.kernels import diagonals
    >>> A = sp.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(5, 5), format="csr")
    >>> found = diagonals.find(A.indptr, A.indices, A.data, 5, least=0)
    >>> found.offsets.tolist(), found.full
    ([-1, 0, 1], True)
    """
    rows, entries = len(indptr) - 1, len(indices)
    if entries < max(1, LEAST if least is None else least) or values.dtype.char not in "fd":
        return None
    most = entries / (FILL * rows)
    middle = max(0, rows // 2 - _SAMPLE // 2)
    if len(np.unique(_offsets(indptr[middle : middle + _SAMPLE + 1], indices, middle))) > 2 * most + 1:
        return None
    place = _offsets(indptr, indices, 0)
    place += rows - 1
    counts = np.bincount(place, minlength=rows + columns - 1)
    there = np.flatnonzero(counts)
    offsets = there - (rows - 1)
    slots = int((np.minimum(rows, columns - offsets) - np.maximum(0, -offsets)).sum())
    if entries < FILL * slots:
        return None
    number = np.empty(len(counts), np.int64)
    number[there] = np.arange(len(there))
    table = np.empty((len(there), rows), values.dtype)  # NumPy asks for huge pages for these, not for its zeros
    table.fill(0)
    table[number[place], np.repeat(np.arange(rows), np.diff(indptr))] = values
    line, mirrored = np.arange(len(offsets)), np.zeros(len(offsets), bool)
    for d, k in enumerate(offsets.tolist()):
        other = int(np.searchsorted(offsets, -k))
        pair = rows == columns and k < 0 and other < len(offsets) and offsets[other] == -k
        if pair and np.array_equal(table[d, -k:], table[other, : rows + k]):
            line[d], mirrored[d] = other, True
    kept, line = np.unique(line, return_inverse=True)
    return Diagonals(offsets, table[kept], line, mirrored, entries == slots)


def _offsets(indptr: np.ndarray, indices: np.ndarray, first: int) -> np.ndarray:
    """Column minus row of each entry of some rows, the first of them being row ``first``."""
    row = np.repeat(np.arange(first, first + len(indptr) - 1), np.diff(indptr))
    return indices[int(indptr[0]) : int(indptr[-1])].astype(np.int64) - row
