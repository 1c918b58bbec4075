"""Norms and condition numbers of matrices, from what tile tasks find."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Unpack, overload

import numpy as np

from tilewright.arguments import entered, numbers
from tilewright.builder import graph_builder
from tilewright.errors import SingularMatrixError
from tilewright.graph import TaskGraph
from tilewright.linalg.call import Call
from tilewright.linalg.lu import handed_on
from tilewright.linalg.norm_parts import check_order, insert_size, norm_from
from tilewright.linalg.stacks import inv
from tilewright.linalg.tuning import lu_plan
from tilewright.schedulers import Policy

if TYPE_CHECKING:
    from tilewright.kinds import CondOptions, Matrix, Plain
    from tilewright.runs.run import Run

__all__ = ["cond", "norm"]


@graph_builder("norm {shape[0]} x {shape[1]} tile_size={nb}", cache=32)
def _norm_graph(g: TaskGraph, shape: tuple[int, int], nb: int, frobenius: bool) -> None:
    """What tiles contribute: handles ``A[i,j]``, ``M[i,j]``."""
    (m, n), mt, nt = shape, -(-shape[0] // nb), -(-shape[1] // nb)
    sizes = lambda i, j: (1, 1 + min(nb, n - j * nb) + min(nb, m - i * nb))  # noqa: E731
    A, M = g.handles("A"), g.handles("M", shape=(1, 2) if frobenius else sizes, dtype="float64", keep=True)
    for j in range(nt):
        for i in range(mt):
            insert_size(g, A[i, j], M[i, j], frobenius)


@overload
def norm(
    a: Matrix, ord: float | str | None = None, *, return_run: Literal[False] = False, **options: Unpack[Plain]
) -> np.float64: ...
@overload
def norm(
    a: Matrix, ord: float | str | None = None, *, return_run: Literal[True], **options: Unpack[Plain]
) -> tuple[np.float64, Run]: ...
def norm(
    a: Any,
    ord: Any = None,
    *,
    tile_size: int | None = None,
    backend: str | None = None,
    scheduler: str | Policy = "critical-path",
    workers: int | None = None,
    return_run: bool = False,
    **options: Any,
) -> Any:
    """The norm of a matrix, as `numpy.linalg.norm`; float64.

    Parameters
    ----------
    a : (m, n) array_like, torch tensor, TiledMatrix or dask.array
    ord
        None or ``"fro"``: Frobenius. 1, -1: largest, smallest column sum. `numpy.inf`, ``-numpy.inf``: of rows. 2, -2
        and ``"nuc"``, which need singular values, are NumPy's, in this process.
    tile_size, backend, scheduler, workers, options
        See `lu_factor`.
    return_run
        Also return the `Run`.

    Notes
    -----
    O(m n); NaN if there is one. The Frobenius norm neither overflows nor underflows on the way.

    Examples
    --------
    >>> import numpy as np, tilewright as tw
    >>> float(tw.norm(np.array([[3.0, 0.0], [-4.0, 0.0]]))), float(tw.norm(np.array([[3.0, 0.0], [-4.0, 0.0]]), 1))
    (5.0, 7.0)
    """
    check_order(ord, "ord")
    if ord in (2, -2, "nuc"):
        if return_run:
            raise ValueError(f"ord={ord!r} is computed by NumPy: there is no run to return")
        return np.float64(np.linalg.norm(numbers(a, "the matrix a"), ord))
    call = Call(
        norm, a, options, backend=backend, scheduler=scheduler, workers=workers, return_run=return_run, chunks=True
    )
    with call.agreement() as facts:
        matrix = call.by_columns()
        A = matrix.source(call.tile_size(tile_size, matrix, lambda k, workers: lu_plan(k, workers, True)[0]))
        facts.update(shape=A.shape, dtype=str(matrix.dtype), tile_size=A.tile_size)
    record = call.run(_norm_graph(A.shape, A.tile_size, ord in (None, "fro")), {"A": A})
    parts = {place: found for (_, place), found in (record["M"] if len(A) else {}).items() if found is not None}
    return call.result(norm_from(parts, A.shape, A.tile_size, ord))


def cond(a: Matrix, p: float | str | None = None, **how: Unpack[CondOptions]) -> np.float64:
    """The condition number ||A|| ||A^-1||, as `numpy.linalg.cond`; inf if A is singular.

    With ``p`` None, 2 or -2 it is NumPy's, from singular values; with 1, -1, `numpy.inf`, ``-numpy.inf`` and "fro" from
    `norm` and `inv`, which take ``how``: 2 n^3 flops. For an estimate see ``lu_factor(a).rcond()``.

    Parameters
    ----------
    a : (n, n) array_like, torch tensor or TiledMatrix
        With ``p`` None, 2 or -2 any (m, n).
    p
        None, 1, -1, 2, -2, `numpy.inf`, ``-numpy.inf`` or ``"fro"``.
    how
        Keywords of `inv` and `norm`.

    Returns
    -------
    cond : float

    Raises
    ------
    numpy.linalg.LinAlgError
        The matrix has no entries, or is not square where it has to be inverted.
    ValueError, TypeError
        Another p, or a keyword that `inv` does not take.

    Examples
    --------
    >>> import numpy as np, tilewright as tw
    >>> float(tw.cond(np.diag([1.0, 4.0]), 1))
    4.0
    """
    handed_on(cond, inv, how)
    check_order(p, "p")
    if p in (None, 2, -2):
        return np.linalg.cond(numbers(a, "the matrix a"), p)
    matrix: Any = entered(a, "the matrix a")
    shape = np.shape(matrix)
    if 0 in shape:
        raise np.linalg.LinAlgError("cond is not defined for a matrix a without entries")
    plain: Any = {name: value for name, value in how.items() if name not in _OF_INV}
    size = np.float64(np.nan) if len({*shape}) > 1 else norm(matrix, p, **plain)  # before it is overwritten
    try:
        inverse = inv(matrix, **how)
    except SingularMatrixError:
        return np.float64(np.inf)
    return size * norm(inverse, p, **plain)


_OF_INV = ("overwrite_a", "check_finite", "pivoting", "threshold")
"""Keywords of `inv` that `norm` does not have."""
