"""A matrix of one tile, factored in the calling thread without a graph: where LAPACK takes microseconds.

What comes out is what the graph of one tile gives, bit for bit: the same kernel, on one thread, on the same layout.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from math import isfinite
from typing import Any

import numpy as np

from tilewright.backends import COMPUTING, engine_class, named
from tilewright.backends.execution.engine import blame
from tilewright.graph import TaskGraph
from tilewright.kernels import move, table
from tilewright.kernels.layout import row_ld
from tilewright.kernels.threads import one_call
from tilewright.linalg.tuning import ONE_TILE
from tilewright.schedulers import SCHEDULERS
from tilewright.tiles import Store, TiledMatrix

__all__ = ["factor_one_tile"]

#         dtype.char -> name in the kernel table
_NAMES = {"f": "float32", "d": "float64", "F": "complex64", "D": "complex128"}

_BLOCK = 64  # rows of a block on the diagonal that is copied through a mask


def factor_one_tile(
    a: Any,
    lower: Any,
    overwrite: Any,
    check_finite: Any,
    backend: Any,
    scheduler: Any,
    workers: Any,
    graph: Callable[[bool], TaskGraph],
) -> np.ndarray | None:
    """The Cholesky factor of a plain array with no more than `ONE_TILE` rows; O(n^3), and microseconds beyond LAPACK.

    ``graph`` gives that of one tile in place, for a tile by columns if told so; an error names its task.

    Returns
    -------
    None where there is more to do than to factor, or something to say about the arguments or the numbers. ``a`` is
    as it was then, and the call goes the long way.

    Raises
    ------
    NotPositiveDefiniteError
        In place only: there is no long way then, as ``a`` is spoilt.
    """
    if type(a) is not np.ndarray or a.ndim != 2 or type(overwrite) is not bool or type(check_finite) is not bool:
        return None
    if backend is not None and not _here(backend):
        return None
    n, name = len(a), _NAMES.get(a.dtype.char)
    if not 0 < n <= ONE_TILE or a.shape[1] != n or name is None or not a.dtype.isnative:
        return None
    flags = a.flags
    if overwrite and not (flags.writeable and (flags.c_contiguous or flags.f_contiguous)):
        return None
    plain = type(scheduler) is str and scheduler in SCHEDULERS and (workers is None or type(workers) is int)
    if not plain or (workers is not None and workers < 1) or type(lower) is not bool:
        return None
    source = a if lower else a.T
    if overwrite:
        if check_finite and move.finite(source, "lower"):
            return None
        target = source
    else:
        target = np.zeros((n, n), a.dtype)
        _copy_lower(source, target)
    potrf = table.plain("potrf", name)
    with one_call(potrf.source):
        info = potrf.function(target)
    if overwrite:
        if info:
            _explain(graph(not row_ld(target)), target, info, named(backend))
        move.tril(target)
        return a
    # A row's last element has the squares of all others in it: one that is not finite makes the diagonal so
    if info or (check_finite and not isfinite(abs(np.add.reduce(target.diagonal())))):
        return None
    return target if lower else target.T


def _copy_lower(source: np.ndarray, target: np.ndarray) -> None:
    """The lower triangle, onto zeros."""
    n = len(source)
    if n <= _BLOCK:
        np.copyto(target, source, where=_lower(n))
        return
    h = n // 2
    _copy_lower(source[:h, :h], target[:h, :h])
    target[h:, :h] = source[h:, :h]
    _copy_lower(source[h:, h:], target[h:, h:])


@cache
def _lower(n: int) -> np.ndarray:
    return np.tri(n, dtype=bool)


def _explain(graph: TaskGraph, target: np.ndarray, info: int, backend: str) -> None:
    """Raise what an engine raises when the kernel of potrf returns ``info``."""
    task = next(task for task in graph.tasks if task.op.name == "potrf")
    assert task.op.explain is not None
    error = task.op.explain(task, Store({"A": TiledMatrix.view(target, len(target))}), info)
    blame(error, task, task.index, f"backend={backend}, worker=0")
    raise error


def _here(backend: Any) -> bool:
    """Whether an engine of that name computes on the arrays of this process."""
    return type(backend) is str and backend in COMPUTING and engine_class(backend).in_process
