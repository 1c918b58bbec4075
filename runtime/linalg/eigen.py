"""Eigenvalues and eigenvectors of Hermitian matrices: the calls."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, Unpack, overload

import numpy as np

from tilewright.arguments import dense
from tilewright.graph import Handle
from tilewright.kernels import bulge
from tilewright.linalg.call import Call
from tilewright.linalg.eigen_graph import eigen_graph, piece
from tilewright.linalg.svd import V, columns_like, place_for
from tilewright.linalg.tuning import band_width, eigen_plan
from tilewright.runs.progress import ProgressOption
from tilewright.scalars import flag, whole
from tilewright.schedulers import Policy

if TYPE_CHECKING:
    from tilewright.kinds import ArrayLike, EigenOptions, K, Matrix
    from tilewright.runs.run import Run

__all__ = ["Eigh", "eigh", "eigvalsh"]


class Eigh(NamedTuple, Generic[V]):
    """What `numpy.linalg.eigh` returns: A = V diag(w) V^H."""

    eigenvalues: np.ndarray
    eigenvectors: V


@overload
def eigh(a: K, *, return_run: Literal[False] = False, **options: Unpack[EigenOptions]) -> Eigh[K]: ...
@overload
def eigh(a: K, *, return_run: Literal[True], **options: Unpack[EigenOptions]) -> tuple[np.ndarray, K, Run]: ...
@overload
def eigh(a: ArrayLike, *, return_run: Literal[False] = False, **options: Unpack[EigenOptions]) -> Eigh[np.ndarray]: ...
@overload
def eigh(
    a: ArrayLike, *, return_run: Literal[True], **options: Unpack[EigenOptions]
) -> tuple[np.ndarray, np.ndarray, Run]: ...
def eigh(
    a: Any,
    *,
    lower: bool = True,
    subset_by_index: Any = None,
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
    """Eigenvalues and eigenvectors of a Hermitian matrix, in two stages [1]_.

    Parameters
    ----------
    a : (n, n) array_like, torch tensor, TiledMatrix or dask.array
        float32, float64, complex64 or complex128; integers become float64. Only the triangle named by ``lower`` is
        referenced, of the diagonal the real parts.
    lower
        Whether it is the lower triangle, or the upper one.
    subset_by_index : (int, int), optional
        The first and the last eigenvalue wanted, counted from 0 in ascending order, as in `scipy.linalg.eigh`.
    check_finite
        Look for NaN and infinities.
    tile_size
        Rows and columns of a tile, nb; chosen by default.
    band
        Half-width of the band between the stages, up to nb: the largest divisor of nb up to this is taken. Chosen with
        the tile size; bits depend on both. By default a matrix of one tile and up to 1024 rows is reduced in one stage
        and one task, and a note of the run says so.
    backend, scheduler, workers, options
        See `tilewright.run`. A dask.array is worked on by ``dask`` unless another backend is named, which gathers it.
    return_run
        Also return the `Run`.
    progress
        Draw a progress bar on standard error; ``"page"`` or a function as in `tilewright.run`.

    Returns
    -------
    eigenvalues : (k,) array
        Real, ascending.
    eigenvectors : (n, k)
        In columns, of the kind of ``a``. Unpack the pair, or use the names of the fields.
    run : Run
        Only with ``return_run``.

    Raises
    ------
    ValueError
        ``a`` is not square or has NaN or infinities; a number is wrong; the subset is none of 0 to n - 1.
    TypeError
        The dtype is not one of the four and not an integer.
    numpy.linalg.LinAlgError
        LAPACK found no eigenvalues of the tridiagonal matrix, such as for NaN without ``check_finite``.

    Notes
    -----
    4/3 n^3 + 6 n^2 b flops for a band of half-width b, the tridiagonal problem on one worker, and 2 n^2 k for each of
    the two ways back (four times that for complex numbers); about 5 n^2 words with all vectors, 2 n^2 without. Matrices
    near underflow and overflow are scaled. The bits depend on the matrix, tile size, band and the LAPACK in use, not on
    engine, scheduler and workers.

    References
    ----------
    .. [1] A. Haidar, H. Ltaief and J. Dongarra, Parallel reduction to condensed forms for symmetric eigenvalue problems
       using aggregated fine-grained and memory-aware kernels, SC11.

    Examples
    --------
    >>> import numpy as np, tilewright as tw
    >>> w, V = tw.eigh(np.array([[2.0, 1.0], [1.0, 2.0]]))
    >>> w.round(12)
    array([1., 3.])
    """
    call = Call(
        eigh,
        a,
        options,
        backend=backend,
        scheduler=scheduler,
        workers=workers,
        progress=progress,
        return_run=return_run,
        chunks=True,
    )
    w, vectors = _solved(call, lower, subset_by_index, check_finite, tile_size, band, True)
    found = call.result(w, vectors)
    return found if call.return_run else Eigh(*found)


@overload
def eigvalsh(a: Matrix, *, return_run: Literal[False] = False, **options: Unpack[EigenOptions]) -> np.ndarray: ...
@overload
def eigvalsh(a: Matrix, *, return_run: Literal[True], **options: Unpack[EigenOptions]) -> tuple[np.ndarray, Run]: ...
def eigvalsh(
    a: Any,
    *,
    lower: bool = True,
    subset_by_index: Any = None,
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
    """Eigenvalues of a Hermitian matrix, ascending: `eigh` without the ways back.

    Parameters
    ----------
    a, lower, subset_by_index, check_finite, tile_size, band, backend, scheduler, workers, return_run, progress, options
        See `eigh`.

    Returns
    -------
    eigenvalues : (k,) array
        Real. With ``return_run`` the `Run` as well.

    Raises
    ------
    ValueError, TypeError, numpy.linalg.LinAlgError
        As `eigh`.

    Examples
    --------
    >>> import numpy as np, tilewright as tw
    >>> tw.eigvalsh(np.array([[2.0, 1.0], [1.0, 2.0]])).round(12)
    array([1., 3.])
    """
    call = Call(
        eigvalsh,
        a,
        options,
        backend=backend,
        scheduler=scheduler,
        workers=workers,
        progress=progress,
        return_run=return_run,
        chunks=True,
    )
    w, _ = _solved(call, lower, subset_by_index, check_finite, tile_size, band, False)
    return call.result(w)


def _solved(
    call: Call, lower: Any, subset: Any, check_finite: Any, tile_size: int | None, band: int | None, vectors: bool
) -> tuple[Any, Any]:
    """Eigenvalues and, if wanted, eigenvectors in the kind that was given."""
    lower, check_finite = flag(lower, "lower"), flag(check_finite, "check_finite")
    if call.on_device:
        dense(call.a, "the matrix a")  # which says why not
    with call.agreement() as facts:
        matrix = call.triangle(lower=lower)
        n = matrix.n
        low, high = _checked_subset(subset, n)
        nb = call.tile_size(tile_size, matrix, lambda n, workers: eigen_plan(n, workers, vectors)[0])
        width = eigen_plan(n, call.count(), vectors, nb)[1] if band is None else whole(band, "band", 1)
        if width > nb:
            raise ValueError(f"band={width} is wider than the tiles, of {nb} rows")
        width = width and band_width(n, nb, width)
        source = matrix.source(nb)
        facts.update(
            shape=source.shape, dtype=str(matrix.dtype), tile_size=nb, lower=lower, band=width, low=low, high=high
        )
    target = place_for(call, matrix, (n, high - low), nb) if vectors else None
    if high == low:
        return np.zeros(0, _real(matrix.dtype)), vectors and columns_like(call, matrix, target)
    graph = eigen_graph(n, nb, width, str(matrix.dtype), low, high, vectors, not lower, check_finite)
    data: dict[str, Any] = {"S": source, "Z": target} if vectors else {"S": source}
    if call.here and width and vectors:
        data["band"] = bulge.pieces(n, width, piece(n, width), matrix.dtype)
    record = call.run(graph, data, first=matrix.check_finite if check_finite else None)
    if not width:
        call.note(f"one stage: {n} x {n} in one task of LAPACK; band= makes it two")
    return record.store[Handle("w")], vectors and columns_like(call, matrix, target)


def _real(dtype: np.dtype) -> np.dtype:
    return np.dtype(dtype.char.lower())


def _checked_subset(subset: Any, n: int) -> tuple[int, int]:
    """First eigenvalue and one behind the last."""
    if subset is None:
        return 0, n
    if not isinstance(subset, tuple | list | np.ndarray) or len(subset) != 2:
        raise TypeError(f"subset_by_index must be two numbers, (first, last), not {subset!r}")
    low, high = (whole(place, "a number of subset_by_index") for place in subset)
    if not 0 <= low <= high < n:
        raise ValueError(f"subset_by_index=({low}, {high}) is no part of the eigenvalues 0 to {n - 1}, first and last")
    return low, high + 1
