"""The calls that factor a positive definite matrix: `tiled_cholesky`, and `mixed_factor` for use under refinement."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Unpack, overload

from tilewright.graph import TaskGraph
from tilewright.linalg.call import Call
from tilewright.linalg.cholesky import bottom_level, cholesky
from tilewright.linalg.gpu import device_factor, factor_on_device
from tilewright.linalg.matrix import is_device_tensor
from tilewright.linalg.mixed import MixedProblem
from tilewright.linalg.mixed_factor import MixedFactor, default_shift, shifted
from tilewright.linalg.one_tile import factor_one_tile
from tilewright.linalg.outofcore import Outside, cholesky_by_slabs
from tilewright.linalg.ranks_outside import cholesky_on_ranks
from tilewright.linalg.triangle import on_triangle, triangle_graph, turned_graph
from tilewright.linalg.tuning import cholesky_tile_size
from tilewright.precision import PrecisionMap
from tilewright.runs.progress import ProgressOption
from tilewright.scalars import flag
from tilewright.schedulers import Policy

if TYPE_CHECKING:
    import numpy as np

    from tilewright.kinds import ArrayLike, CholeskyOptions, K, Matrix, OnDisk, Out, Stored
    from tilewright.runs.run import Run

__all__ = ["mixed_factor", "tiled_cholesky"]


@overload
def tiled_cholesky(
    a: K, *, out: None = None, return_run: Literal[False] = False, **options: Unpack[CholeskyOptions]
) -> K: ...
@overload
def tiled_cholesky(
    a: K, *, out: None = None, return_run: Literal[True], **options: Unpack[CholeskyOptions]
) -> tuple[K, Run]: ...
@overload
def tiled_cholesky(
    a: ArrayLike, *, out: None = None, return_run: Literal[False] = False, **options: Unpack[CholeskyOptions]
) -> np.ndarray: ...
@overload
def tiled_cholesky(
    a: ArrayLike, *, out: None = None, return_run: Literal[True], **options: Unpack[CholeskyOptions]
) -> tuple[np.ndarray, Run]: ...
@overload
def tiled_cholesky(
    a: Matrix | Stored, *, out: Out, return_run: Literal[False] = False, **options: Unpack[CholeskyOptions]
) -> OnDisk: ...
@overload
def tiled_cholesky(
    a: Matrix | Stored, *, out: Out, return_run: Literal[True], **options: Unpack[CholeskyOptions]
) -> tuple[OnDisk, Run]: ...
@overload
def tiled_cholesky(
    a: Matrix | Stored, *, out: Out | None, return_run: bool = False, **options: Unpack[CholeskyOptions]
) -> Any: ...
def tiled_cholesky(
    a: Any,
    *,
    lower: bool = True,
    tile_size: int | None = None,
    backend: str | None = None,
    scheduler: str | Policy = "critical-path",
    workers: int | None = None,
    overwrite_a: bool = False,
    check_finite: bool = True,
    return_run: bool = False,
    progress: ProgressOption = False,
    precision: str | PrecisionMap | None = None,
    route: str | None = None,
    emulate: bool = False,
    out: Any = None,
    memory: int | str | None = None,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    every: float = 0.0,
    overwrite_out: bool = False,
    restart: int = 0,
    **options: Any,
) -> Any:
    """Cholesky factor of a symmetric or Hermitian positive definite matrix, A = L L^H or A = U^H U.

    Parameters
    ----------
    a : (n, n) array_like, torch tensor, TiledMatrix or dask.array; or a matrix on a disk
        The latter is a path that ends in .npy, .zarr, .h5 or .hdf5, an array of zarr or h5py, or a `TileFunction`; it
        needs ``out``, see docs/outofcore.md.
        A tensor on another device than the CPU stays there (float32 and float64; backends serial and threads).
        float32, float64, complex64 or complex128; integers become float64. Any memory order. Only the triangle
        named by ``lower`` is referenced, plus the rest of the diagonal tiles, whose values do not matter.
    lower
        Factor the lower triangle into L, or the upper one into U.
    tile_size
        Rows and columns of a tile, nb. By default chosen from n and the number of workers.
    backend, scheduler, workers
        See `tilewright.run`. A dask.array is factored by ``dask`` unless another backend is named, which gathers it.
    overwrite_a
        Let the factor take the place of ``a``. Saves the memory of one matrix, and time; in a matrix whose columns are
        contiguous (rows, with ``lower=False``) the triangle is turned before and after, which costs some of that time.
    check_finite
        Look for NaN and infinities first. Without it they give NaN in the factor, or NotPositiveDefiniteError. With
        ``precision`` it is always done, while tiles are converted.
    return_run
        Also return the `Run`, with its trace, rate and bounds.
    progress
        Draw a progress bar on standard error; ``"page"`` or a function as in `tilewright.run`.
    precision
        ``"fp64"``, ``"fp32"``, ``"tf32"``, ``"bf16x3"``, ``"bf16"``, ``"fp16"`` or a `PrecisionMap`: products have
        operands in that format, sums and tiles stay in FP32 (FP64 for ``"fp64"``). None computes in the dtype of ``a``.
        See `docs/precision.md`; `MixedFactor` has what refinement needs.
    route
        How products with 16-bit operands are computed: ``"cblas"``, ``"mkldnn"``, ``"widen"``, ``"autocast"`` or
        ``"reference"``; ``"widen"`` or ``"autocast"`` on a GPU. By default the fastest of those that round least: see
        `tilewright.kernels.products.route`.
    emulate
        Has no effect: such products need no instructions of their own.
    out
        Where the factor goes: a path that ends in .npy, .zarr, .h5 or .hdf5 and is made, or a memory map or an array of
        zarr or h5py to fill. No more than ``memory`` of it is in memory at a time (backends serial, threads and mpi).
    memory
        Bytes, or a text such as ``"2GB"``, by which the process may grow, on ranks each of them. With ``out`` by
        default half of what the system has; a call in core is refused if its result takes more.
    checkpoint
        A folder for what is finished, block column by block column; a run that was killed goes on from it. In core on
        every engine; the ranks of several computers have to see the same folder.
    resume
        Go on from what the checkpoint has, if there is something: the same bits as without a break.
    every
        Seconds between two entries of the checkpoint at least; 0 is after each block column. Not on Dask.
    restart
        In core, on ranks and on Dask: how often the call begins again from its checkpoint by itself, on other
        processes, when one dies.
    overwrite_out
        Whether a file at ``out`` may be replaced.
    options
        Those of the backend, such as ``grid=(P, Q)``; see `tilewright.run`.

    Returns
    -------
    factor
        Has the kind and dtype of ``a``; the other triangle is exactly zero. A new array has contiguous rows, with
        ``lower=False`` contiguous columns. With ``precision``: float64 if some
        tile is FP64, else float32, and never in place of ``a``.
        For a dask.array: with its chunks, computed when the call returns, its tiles on the workers that made them.
        With ``out``: a read-only memory map of the file, or the array of zarr or h5py.
    run : Run
        Only with ``return_run``.

    Raises
    ------
    NotPositiveDefiniteError
        A `numpy.linalg.LinAlgError`; ``.order`` is LAPACK's info: the order of the first leading minor that is
        not positive definite. With ``overwrite_a`` the matrix is spoilt by then.
    ValueError
        ``a`` is not 2-D or not square, has NaN or infinities, is read-only with ``overwrite_a``; the tile size
        or number of workers is not positive; the backend or scheduler is unknown. Before any task runs.
    TypeError
        The dtype is not one of the four and not an integer; or complex, with ``precision``. Before any task runs.
    OverflowError
        With ``precision``: a number of the factor does not fit FP32.
    MemoryError
        ``memory`` is too little; the message has the least that would do. Before any task runs.
    FileExistsError
        There is a file at ``out``, or a checkpoint, and nobody said that it may be replaced or gone on from.
    CheckpointError
        The checkpoint is of another matrix, tile size or BLAS, or its files were changed. A ValueError.
    OSError
        A file cannot be read or written; or another run writes it.
    RankDied, WorkerDied
        A rank or a Dask worker died; the same call goes on from its checkpoint with ``resume=True``.

    Notes
    -----
    n^3/3 flops (four times that for complex), n^2 words beside ``a``. The bits of the factor depend on the matrix,
    the tile size and the BLAS in use (`tilewright.kernels.current`), and on nothing else: not on the engine,
    the scheduler or the number of workers.

    Examples
    --------
    >>> import numpy as np, tilewright as tw
    >>> A = np.array([[4.0, 2.0], [2.0, 5.0]])
    >>> tw.tiled_cholesky(A)
    array([[2., 0.],
           [1., 2.]])
    """
    plain = return_run is False and progress is False and emulate is False and not options
    plain = plain and out is memory is checkpoint is None and resume is overwrite_out is False
    plain = plain and type(every) is float and every == 0.0 and type(restart) is int and not restart
    if plain and tile_size is None and precision is None and route is None:
        small = factor_one_tile(a, lower, overwrite_a, check_finite, backend, scheduler, workers, _one_tile_graph)
        if small is not None:
            return small
    lower, overwrite_a = flag(lower, "lower"), flag(overwrite_a, "overwrite_a")
    check_finite = flag(check_finite, "check_finite")
    flag(emulate, "emulate")
    if precision is None and route is not None:
        raise ValueError(f"route={route!r} is for products with 16-bit operands; say which, such as precision='bf16'")
    outside = Outside(out, memory, checkpoint, resume, every, overwrite_out, restart)
    call = Call(
        tiled_cholesky,
        a,
        options,
        backend=backend,
        scheduler=scheduler,
        workers=workers,
        progress=progress,
        return_run=return_run,
        chunks=True,
    )
    if outside.used(a):
        outside.refuse("tiled_cholesky", precision=precision, overwrite_a=overwrite_a)
        if call.engine.on_ranks:
            return cholesky_on_ranks(call, outside, a, lower=lower, tile_size=tile_size, check_finite=check_finite)
        return cholesky_by_slabs(
            call, outside, a, lower=lower, tile_size=tile_size, rule=cholesky_tile_size, check_finite=check_finite
        )
    outside.check_fits(call, None if overwrite_a else a, "the factor")
    outside.keep(call, a)
    if call.on_device:
        if route is not None:
            raise ValueError(f"route={route!r} chooses kernels of the CPU; on {a.device} torch has one way")
        factor, _, _, call.record = device_factor(
            a,
            precision,
            lower=lower,
            tile_size=tile_size,
            workers=workers,
            scheduler=scheduler,
            backend=call.engine.name,
            route=route,
        )
        return call.result(factor)
    if precision is not None:
        return MixedProblem(call, precision, tile_size, route, lower=lower, overwrite=overwrite_a, finish=True).whole()
    return on_triangle(
        call,
        cholesky,
        lower=lower,
        overwrite=overwrite_a,
        tile_size=tile_size,
        rule=cholesky_tile_size,
        check_finite=check_finite,
        check="behind",
        width=_updates,
        levels=bottom_level,
    )


def _updates(nt: int) -> int:
    """In one step of the loop, so more workers are of no use."""
    return nt * (nt - 1) // 2


def _one_tile_graph(turned: bool) -> TaskGraph:
    """In place, by columns if ``turned``."""
    return turned_graph(cholesky, 1) if turned else triangle_graph(cholesky, 1, True, "", True, (), bottom_level)


def mixed_factor(
    a: Any,
    precision: str | PrecisionMap,
    *,
    tile_size: int | None = None,
    workers: int | None = None,
    scheduler: str | Policy = "critical-path",
    backend: str | None = None,
    shift: float | None = None,
    route: str | None = None,
    emulate: bool = False,
    norms: bool = False,
    in_tiles: bool = False,
    progress: ProgressOption = False,
    **options: Any,
) -> MixedFactor:
    """Scale, shift, convert and factor a symmetric positive definite matrix in low or mixed precision.

    Parameters
    ----------
    a : (n, n) array_like
        float64 or float32; the lower triangle is read.
    precision
        A name of `tilewright.precision.FORMATS`, or the format of every tile.
    tile_size
        Rows and columns of a tile. By default that of the `PrecisionMap`, or chosen.
    workers, scheduler, backend, options
        See `tilewright.run`.
    shift
        Added to the unit diagonal of D A D. None: 2 u of the least exact format for 16 bits, TF32 and bf16x3, nothing
        for FP32 and FP64; doubled on breakdown, up to three times.
    route
        How products with 16-bit operands are computed: `tilewright.kernels.products.route`.
    emulate
        Has no effect: such products need no instructions of their own.
    norms
        Also add up |a_ij| along the rows, while A is read. Not for FP64, which reads A only to copy it.
    in_tiles
        Leave L in ``tiles``, each in memory of its own: tasks are faster than on tiles of one array. ``L`` is then made
        when somebody asks for it. Only without FP64, and where tasks write into memory of this process.
    progress
        See `tilewright.run`.

    Raises
    ------
    NotPositiveDefiniteError
        Breakdown, also with the last shift; ``.order`` is the global order of the leading minor. It says that A is not
        positive definite only for precision ``"fp64"``.
    OverflowError
        A number does not fit FP32 after scaling, or a tile of the factor does not fit FP16. For a positive definite
        matrix that cannot happen.
    ValueError
        The lower triangle has a NaN or an infinity; or a wrong argument, or a route that cannot be used here.

    Notes
    -----
    n^3/3 flops. Scaling, conversion and factorisation are one graph of tile tasks. The bits depend on the matrix, the
    tile size, the shift, the route and the library behind it; not on engine, policy and workers.
    """
    if is_device_tensor(a):
        return factor_on_device(a, precision, tile_size, workers, scheduler, backend, shift, route)
    call = Call(mixed_factor, a, options, backend=backend, scheduler=scheduler, workers=workers, progress=progress)
    problem = MixedProblem(call, precision, tile_size, route, finish=False, norms=norms, in_tiles=in_tiles)
    found, attempts = shifted(problem.factor, shift, default_shift(problem.precision))
    return problem.gathered(replace(found, attempts=attempts))
