"""Products with compressed sparse rows: y += A x and y += A^T x, for every dtype, without the GIL.

SciPy's compiled loops do the work: they accumulate into a given y, in the order in which a row's entries are stored,
starting from what y holds. So a row that is summed in two calls, first some entries, then the others, has the bits
of one call. MKL's sparse product, as torch exports it, was not faster on a 5-point stencil and sums in another order.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.sparse import _sparsetools

__all__ = ["bytes_moved", "multiply_add", "transposed_multiply_add"]

_sparse: Any = _sparsetools


def multiply_add(indptr: np.ndarray, indices: np.ndarray, values: np.ndarray, x: np.ndarray, y: np.ndarray) -> None:
    """y := y + A x.

    Parameters
    ----------
    indptr, indices, values
        Rows of A: row i has the entries from ``indptr[i]`` to ``indptr[i + 1]``; ``indptr`` may be a slice of that of a
        larger matrix. One integer type for both, int32 or int64.
    x, y
        Vectors, or C-ordered (n, k) and (m, k) for k vectors at once, of the dtype of ``values``. Each vector gets the
        bits that it would get alone.
    """
    rows = len(indptr) - 1
    if x.ndim == 1:
        _sparse.csr_matvec(rows, len(x), indptr, indices, values, x, y)
    else:
        _sparse.csr_matvecs(rows, len(x), x.shape[1], indptr, indices, values, x.reshape(-1), y.reshape(-1))


def transposed_multiply_add(
    indptr: np.ndarray, indices: np.ndarray, values: np.ndarray, x: np.ndarray, y: np.ndarray
) -> None:
    """y := y + A^T x, with A by rows as in `multiply_add`; x has a row for each row of A, y one for each column."""
    rows = len(indptr) - 1
    if x.ndim == 1:
        _sparse.csc_matvec(len(y), rows, indptr, indices, values, x, y)
    else:
        _sparse.csc_matvecs(len(y), rows, x.shape[1], indptr, indices, values, x.reshape(-1), y.reshape(-1))


def bytes_moved(rows: int, columns: int, entries: int, dtype: Any, index: Any = np.int32) -> int:
    """Bytes that y := A x has to move at least: A once, x once in, y once out."""
    item, key = np.dtype(dtype).itemsize, np.dtype(index).itemsize
    return entries * (item + key) + (rows + 1) * key + (rows + columns) * item
