"""The inverse of a triangular matrix: the loop, and the call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Unpack, overload

from tilewright.graph import RW, Handles, R, TaskGraph
from tilewright.linalg.call import Call
from tilewright.linalg.triangle import on_triangle
from tilewright.linalg.tuning import cholesky_tile_size
from tilewright.ops import gemml, trsml, trsmr, trtri
from tilewright.runs.progress import ProgressOption
from tilewright.scalars import flag
from tilewright.schedulers import Policy

if TYPE_CHECKING:
    import numpy as np

    from tilewright.kinds import ArrayLike, K, TriInverseOptions
    from tilewright.runs.run import Run

__all__ = ["invert", "tri_inverse"]


def invert(g: TaskGraph, A: Handles, nt: int, unit: bool = False) -> None:
    """Insert A := A^-1 for the lower triangle, in place [1]_; with ``unit`` the diagonal counts as ones.

    After step k the leading k + 1 rows of tiles are their inverse, and those below hold -A_ij times it.

    .. [1] PLASMA pdtrtri.
    """
    for k in range(nt):
        for i in range(k + 1, nt):
            g.insert(trsmr, R(A[k, k]), RW(A[i, k]), True, unit)  # A_ik := A_ik A_kk^-1
            for j in range(k):
                g.insert(gemml, R(A[i, k]), R(A[k, j]), RW(A[i, j]))  # A_ij := A_ij - A_ik A_kj
        for j in range(k):
            g.insert(trsml, R(A[k, k]), RW(A[k, j]), False, True, unit, -1.0)  # A_kj := -A_kk^-1 A_kj
        g.insert(trtri, RW(A[k, k]), unit)  # A_kk := A_kk^-1


@overload
def tri_inverse(a: K, *, return_run: Literal[False] = False, **options: Unpack[TriInverseOptions]) -> K: ...
@overload
def tri_inverse(a: K, *, return_run: Literal[True], **options: Unpack[TriInverseOptions]) -> tuple[K, Run]: ...
@overload
def tri_inverse(
    a: ArrayLike, *, return_run: Literal[False] = False, **options: Unpack[TriInverseOptions]
) -> np.ndarray: ...
@overload
def tri_inverse(
    a: ArrayLike, *, return_run: Literal[True], **options: Unpack[TriInverseOptions]
) -> tuple[np.ndarray, Run]: ...
def tri_inverse(
    a: Any,
    *,
    lower: bool = True,
    unit_diagonal: bool = False,
    tile_size: int | None = None,
    backend: str | None = None,
    scheduler: str | Policy = "critical-path",
    workers: int | None = None,
    overwrite_a: bool = False,
    check_finite: bool = True,
    return_run: bool = False,
    progress: ProgressOption = False,
    **options: Any,
) -> Any:
    """The inverse of a triangular matrix [1]_. To solve a system, a solve with it is cheaper and more accurate.

    Parameters
    ----------
    a : (n, n) array_like, torch tensor, TiledMatrix or dask.array
        float32, float64, complex64 or complex128; integers become float64. Any memory order. Only the triangle
        named by ``lower`` is referenced. A tensor on another device than the CPU stays there.
    lower
        Whether it is the lower triangle, or the upper one.
    unit_diagonal
        The diagonal counts as ones and is not referenced; that of the inverse is ones.
    tile_size
        Rows and columns of a tile; by default that of `tiled_cholesky`, on a device the whole matrix.
    backend, scheduler, workers, options
        See `tilewright.run`. A dask.array is inverted by ``dask`` unless another backend is named, which gathers it.
    overwrite_a
        Let the inverse take the place of ``a``.
    check_finite
        Look for NaN and infinities.
    return_run
        Also return the `Run`.
    progress
        Draw a progress bar on standard error; ``"page"`` or a function as in `tilewright.run`.

    Returns
    -------
    inverse
        A matrix of the kind and dtype of ``a``; the other triangle is exactly zero.
    run : Run
        Only with ``return_run``.

    Raises
    ------
    numpy.linalg.LinAlgError
        A number on the diagonal is exactly zero; the message has the place of the first, LAPACK's info less one. Before
        any task runs, but for a dask.array.
    ValueError, TypeError
        As in `tiled_cholesky`.

    Notes
    -----
    n^3/3 flops (four times that for complex) in nt (nt+1) (nt+2) / 6 tasks, n^2 words beside ``a``. The bits depend on
    the matrix, the tile size and the BLAS in use, not on engine, scheduler and workers.

    References
    ----------
    .. [1] LAPACK ?trtri.

    Examples
    --------
    >>> import numpy as np, tilewright as tw
    >>> tw.tri_inverse(np.array([[2.0, 0.0], [1.0, 4.0]]))
    array([[ 0.5  ,  0.   ],
           [-0.125,  0.25 ]])
    """
    lower, unit = flag(lower, "lower"), flag(unit_diagonal, "unit_diagonal")
    overwrite_a, check_finite = flag(overwrite_a, "overwrite_a"), flag(check_finite, "check_finite")
    call = Call(
        tri_inverse,
        a,
        options,
        backend=backend,
        scheduler=scheduler,
        workers=workers,
        progress=progress,
        return_run=return_run,
        chunks=True,
    )
    return on_triangle(
        call, invert, lower=lower, overwrite=overwrite_a, tile_size=tile_size, rule=cholesky_tile_size, rest=(unit,),
        check_finite=check_finite, check="before", width=lambda nt: nt * (nt + 1) // 2,
        first=None if unit else lambda matrix: matrix.check_diagonal("the matrix a"),
    )  # fmt: skip
