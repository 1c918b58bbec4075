"""Singular values and singular vectors: the calls."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, TypeVar, Unpack, overload

import numpy as np

from tilewright.arguments import like
from tilewright.graph import Handle
from tilewright.linalg.call import Call
from tilewright.linalg.svd_graph import svd_graph, values_graph
from tilewright.linalg.tuning import band_width, svd_plan
from tilewright.runs.progress import ProgressOption
from tilewright.scalars import flag, whole
from tilewright.schedulers import Policy
from tilewright.tiles import TiledMatrix

if TYPE_CHECKING:
    from tilewright.kinds import ArrayLike, CheckedOptions, K, Matrix, ValuesOptions
    from tilewright.runs.run import Run

__all__ = ["SVD", "columns_like", "place_for", "svd", "svdvals"]

V = TypeVar("V")
"""The kind of the matrix, and of its vectors."""


class SVD(NamedTuple, Generic[V]):
    """What `numpy.linalg.svd` returns: A = U diag(S) Vh."""

    U: V
    S: np.ndarray
    Vh: V


@overload
def svd(
    a: K, full_matrices: bool = True, *, return_run: Literal[False] = False, **options: Unpack[CheckedOptions]
) -> SVD[K]: ...
@overload
def svd(
    a: K, full_matrices: bool = True, *, return_run: Literal[True], **options: Unpack[CheckedOptions]
) -> tuple[K, np.ndarray, K, Run]: ...
@overload
def svd(
    a: ArrayLike, full_matrices: bool = True, *, return_run: Literal[False] = False, **options: Unpack[CheckedOptions]
) -> SVD[np.ndarray]: ...
@overload
def svd(
    a: ArrayLike, full_matrices: bool = True, *, return_run: Literal[True], **options: Unpack[CheckedOptions]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, Run]: ...
def svd(
    a: Any,
    full_matrices: bool = True,
    *,
    check_finite: bool = True,
    tile_size: int | None = None,
    backend: str | None = None,
    scheduler: str | Policy = "critical-path",
    workers: int | None = None,
    return_run: bool = False,
    progress: ProgressOption = False,
    **options: Any,
) -> Any:
    """Singular value decomposition A = U diag(s) V^H.

    Parameters
    ----------
    a : (m, n) array_like, torch tensor, TiledMatrix or dask.array
        float32, float64, complex64 or complex128; integers become float64. Any memory order and shape.
    full_matrices
        U is m x m and V^H is n x n; else m x k and k x n with k = min(m, n).
    check_finite
        Look for NaN and infinities.
    tile_size
        Rows and columns of a tile; chosen by default.
    backend, scheduler, workers, options
        See `tilewright.run`. A dask.array is worked on by ``dask`` unless another backend is named, which gathers it.
    return_run
        Also return the `Run`.
    progress
        Draw a progress bar on standard error; ``"page"`` or a function as in `tilewright.run`.

    Returns
    -------
    U, S, Vh
        Singular values descend. Vectors are of the kind of ``a``. Unpack them, or use the names of the fields.
    run : Run
        Only with ``return_run``.

    Raises
    ------
    ValueError
        ``a`` is not 2-D or has NaN or infinities; a number is wrong.
    TypeError
        The dtype is not one of the four and not an integer.
    numpy.linalg.LinAlgError
        LAPACK did not find all singular values, such as for NaN without ``check_finite``.

    Notes
    -----
    A matrix with more than 5/3 times as many rows as columns is factored by tiles first, Q R, and R is decomposed; wide
    ones are turned. The SVD of the square that is left is LAPACK's ?gesdd in one task, which hence has min(m, n)^2
    words on one worker: about 22 n^3 flops, of which the tiles' part for m x n is 4 m n^2. For the values alone
    `svdvals` is faster, for the largest `svd_lowrank`.

    Examples
    --------
    >>> import numpy as np, tilewright as tw
    >>> U, s, Vh = tw.svd(np.array([[3.0, 0.0], [0.0, 4.0]]))
    >>> s
    array([4., 3.])
    """
    full, check_finite = flag(full_matrices, "full_matrices"), flag(check_finite, "check_finite")
    call = Call(
        svd,
        a,
        options,
        backend=backend,
        scheduler=scheduler,
        workers=workers,
        progress=progress,
        return_run=return_run,
        chunks=True,
    )
    with call.agreement() as facts:
        matrix = call.matrix()
        nb = call.tile_size(tile_size, matrix, lambda k, workers: svd_plan(k, workers)[0])
        source = matrix.source(nb)
        facts.update(shape=source.shape, dtype=str(matrix.dtype), tile_size=nb, full_matrices=full)
    m, n = matrix.shape
    k = min(m, n)
    left, right = ((m, m), (n, n)) if full else ((m, k), (k, n))
    U, Vh = place_for(call, matrix, left, nb), place_for(call, matrix, right, nb)
    if k == 0:
        for place in (U, Vh):
            if not call.chunked:
                place.to_numpy()[...] = np.eye(*place.shape)
        s: Any = np.zeros(0, matrix.dtype.char.lower())
    else:
        graph = svd_graph((max(m, n), k), nb, min(nb, 128), str(matrix.dtype), m < n, full, check_finite)
        record = call.run(graph, {"S": source, "U": U, "V": Vh}, first=matrix.check_finite if check_finite else None)
        s = record.store[Handle("s")]
    found = call.result(columns_like(call, matrix, U), s, columns_like(call, matrix, Vh))
    return found if call.return_run else SVD(*found)


@overload
def svdvals(a: Matrix, *, return_run: Literal[False] = False, **options: Unpack[ValuesOptions]) -> np.ndarray: ...
@overload
def svdvals(a: Matrix, *, return_run: Literal[True], **options: Unpack[ValuesOptions]) -> tuple[np.ndarray, Run]: ...
def svdvals(
    a: Any,
    *,
    check_finite: bool = True,
    tile_size: int | None = None,
    band: int | None = None,
    backend: str | None = None,
    scheduler: str | Policy = "critical-path",
    workers: int | None = None,
    return_run: bool = False,
    progress: ProgressOption = False,
    **options: Any,
) -> Any:
    """Singular values, descending, in two stages [1]_.

    Parameters
    ----------
    a, check_finite, tile_size, backend, scheduler, workers, return_run, progress, options
        See `svd`.
    band
        How many diagonals the band between the stages has above its own, up to the tile size: the largest divisor of
        that up to this is taken. Chosen with the tile size; bits depend on both.

    Returns
    -------
    s : (min(m, n),) array
        Real. With ``return_run`` the `Run` as well.

    Raises
    ------
    ValueError, TypeError, numpy.linalg.LinAlgError
        As `svd`.

    Notes
    -----
    By tiles to a band of b + 1 diagonals, 8/3 n^3 flops (2 m n^2 + 2 n^3 where m is large, with Q R first). Rotations
    make the band bidiagonal in about 8 n^2 b flops, in one task. Nothing is squared: errors are a small multiple of the
    roundoff times the largest singular value, for small ones as for large ones.

    References
    ----------
    .. [1] G. Golub and W. Kahan, Calculating the singular values and pseudo-inverse of a matrix, SINUM 2 (1965); A.
       Haidar, P. Luszczek, J. Kurzak and J. Dongarra, An improved parallel singular value algorithm and its
       implementation for multicore hardware, SC13.

    Examples
    --------
    >>> import numpy as np, tilewright as tw
    >>> tw.svdvals(np.array([[3.0, 0.0], [0.0, 4.0]])).round(12)
    array([4., 3.])
    """
    check_finite = flag(check_finite, "check_finite")
    call = Call(
        svdvals,
        a,
        options,
        backend=backend,
        scheduler=scheduler,
        workers=workers,
        progress=progress,
        return_run=return_run,
        chunks=True,
    )
    with call.agreement() as facts:
        matrix = call.matrix()
        nb = call.tile_size(tile_size, matrix, lambda k, workers: svd_plan(k, workers)[0])
        width = svd_plan(min(matrix.shape), call.count(), nb)[1] if band is None else whole(band, "band", 1)
        if width > nb:
            raise ValueError(f"band={width} is wider than the tiles, of {nb} rows")
        width = band_width(min(matrix.shape), nb, width)
        source = matrix.source(nb)
        facts.update(shape=source.shape, dtype=str(matrix.dtype), tile_size=nb, band=width)
    m, n = matrix.shape
    k = min(m, n)
    if k == 0:
        return call.result(np.zeros(0, matrix.dtype.char.lower()))
    graph = values_graph((max(m, n), k), nb, width, str(matrix.dtype), m < n, check_finite)
    record = call.run(graph, {"S": source}, first=matrix.check_finite if check_finite else None)
    return call.result(record.store[Handle("s")])


def place_for(call: Call, matrix: Any, shape: tuple[int, int], nb: int) -> Any:
    """Memory for a result of another shape, where the matrix lies."""
    if call.chunked:
        from tilewright.backends.dask.remote import RemoteTiles

        return RemoteTiles(shape, nb, matrix.dtype, order="F")
    return TiledMatrix.view(np.empty(shape, matrix.dtype, "F"), nb)


def columns_like(call: Call, matrix: Any, target: Any) -> Any:
    """That result in the kind that the matrix was."""
    if call.chunked:
        return matrix.made(target)
    return target if matrix.tiled else like(target.to_numpy(), matrix.given)
