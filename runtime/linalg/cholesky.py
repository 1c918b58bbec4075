"""Tiled Cholesky factorisation A = L L^H: the loop, and the call."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tilewright.arguments import is_chunked
from tilewright.backends import check_call, find_site
from tilewright.builder import graph_builder
from tilewright.engine import run
from tilewright.graph import RW, Handles, R, Task, TaskGraph, W
from tilewright.host.cores import cores
from tilewright.linalg.chunked import chunked_cholesky
from tilewright.linalg.matrix import Matrix, check_finite_lower, is_device_tensor
from tilewright.linalg.one_tile import factor_one_tile
from tilewright.linalg.tuning import cholesky_tile_size
from tilewright.ops import copy, gemm, potrf, syrk, transpose, tril, trsm, zero
from tilewright.precision import PrecisionMap
from tilewright.scalars import flag, whole
from tilewright.schedulers import Policy
from tilewright.schedulers import policy as find_policy

__all__ = ["cholesky_graph", "tiled_cholesky"]

_MOST_TASKS = 10**9


def cholesky(g: TaskGraph, A: Handles, nt: int) -> None:
    """Insert the right-looking tiled Cholesky factorisation of the lower triangle, in place [1]_, [2]_.

    .. [1] A. Buttari et al., A class of parallel tiled linear algebra algorithms for multicore architectures,
       Parallel Computing 35 (2009), algorithm 1.
    .. [2] LAPACK ?potrf.
    """
    for k in range(nt):
        g.insert(potrf, RW(A[k, k]))  # A_kk := chol(A_kk)
        for i in range(k + 1, nt):
            g.insert(trsm, R(A[k, k]), RW(A[i, k]))  # A_ik := A_ik L_kk^-H
        for i in range(k + 1, nt):
            g.insert(syrk, R(A[i, k]), RW(A[i, i]))  # A_ii := A_ii - A_ik A_ik^H
            for j in range(k + 1, i):
                g.insert(gemm, R(A[i, k]), R(A[j, k]), RW(A[i, j]))  # A_ij := A_ij - A_ik A_jk^H


def _levels(task: Task, nt: int, *_: object) -> float:
    return bottom_level(task, nt)


@graph_builder("cholesky nt={nt}", levels=_levels, extents=lambda nt: {"A": (nt, nt)})
def cholesky_graph(g: TaskGraph, nt: int) -> None:
    """The task graph of the Cholesky factorisation of nt x nt tiles, handles ``A[i,j]``.

    It has nt (nt+1) (nt+2) / 6 tasks. With weights 1, 3, 3, 6 for potrf, trsm, syrk, gemm (units of nb^3/3 flops)
    its work is nt^3 and its critical path 9 nt - 10 (1 for nt = 1); counted in tasks the path is 3 nt - 2.

    Raises
    ------
    ValueError
        ``nt`` is negative, or there would be more than 10^9 tasks.
    TypeError
        ``nt`` is not an integer.

    Examples
    --------
    >>> from tilewright import cholesky_graph
    >>> g = cholesky_graph(nt=4)
    >>> len(g), g.tasks[2], g.tasks[-1]
    (20, trsm(2,0), potrf(3))
    """
    if whole(nt, "nt") < 0:
        raise ValueError(f"nt must not be negative, got {nt}")
    if (count := nt * (nt + 1) * (nt + 2) // 6) > _MOST_TASKS:
        raise ValueError(f"nt={nt} makes {count} tasks, more than a graph can hold; take larger tiles")
    cholesky(g, g.handles("A"), nt)


def bottom_level(task: Task, nt: int) -> float:
    """Length of the longest path from a task of `cholesky_graph` to the end, in units of nb^3/3 flops. O(1).

    With weights 1, 3, 3, 6 and t = nt::

        potrf(k)      9 (t-k) - 10                  1 in the last step
        trsm(i,k)     9 (t-k) - 11
        gemm(i,j,k)   6 (j-k) + 9 (t-j) - 11
        syrk(i,k)     3 (i-k) + 9 (t-i) - 10        3 (i-k) + 1 in the last row

    A copy into a tile counts as the first task on that tile; clearing one leads nowhere and counts 0.
    """
    name = task.op.name
    if name == "gemm":
        (i, j), (_, k) = task.uses[2].handle.index, task.uses[0].handle.index
    elif name in ("zero", "tril"):
        return 0
    elif name == "syrk":
        i, k = task.uses[0].handle.index
        j = i
    elif name == "copy":
        (i, j), k = task.uses[1].handle.index, 0
        name = "potrf" if i == 0 else "trsm" if j == 0 else "syrk" if i == j else "gemm"
    else:
        i, k = task.uses[-1].handle.index
        j = k
    if name == "potrf":
        return 9 * (nt - k) - 10 if k < nt - 1 else 1
    if name == "trsm":
        return 9 * (nt - k) - 11
    if name == "gemm":
        return 6 * (j - k) + 9 * (nt - j) - 11
    return 3 * (i - k) + (9 * (nt - i) - 10 if i < nt - 1 else 1)


@graph_builder("cholesky nt={nt}", cache=32, levels=_levels)
def _call_graph(g: TaskGraph, nt: int, in_place: bool, check: bool, clear: bool) -> None:
    """The graph behind `tiled_cholesky`: fill the tiles of the result, factor, clear the other triangle.

    Copying in and clearing are tasks, so that all workers share them and they overlap with the factorisation.
    ``clear`` says that there may be anything above the diagonal tiles of the result; else they are zero already.
    ``check`` looks for NaN and infinities on the diagonal of the factor, where any in the matrix lead to one.
    """
    A, S = g.handles("A"), g.handles("S")
    if not in_place:
        for j in range(nt):
            for i in range(j, nt):
                g.insert(copy, R(S[i, j]), W(A[i, j]))
    cholesky(g, A, nt)
    for j in range(nt):
        g.insert(tril, RW(A[j, j]), *[True] * check)
        if clear:
            for i in range(j):
                g.insert(zero, W(A[i, j]))


@graph_builder("cholesky nt={nt} by columns", cache=32)
def _turned_graph(g: TaskGraph, nt: int) -> None:
    """The same in place in a matrix that lies by columns, handles ``A[i,j]`` the tiles of its transpose, by rows.

    What is to be factored lies above the diagonal there. It is turned over the diagonal, factored by rows, and turned
    back: two transposed copies of a triangle, so that bits are those of every other layout.
    """
    A = g.handles("A")
    for j in range(nt):
        g.insert(transpose, RW(A[j, j]))
        for i in range(j + 1, nt):
            g.insert(transpose, R(A[j, i]), W(A[i, j]))  # A_ij := A_ji^T
    cholesky(g, A, nt)
    for j in range(nt):
        g.insert(tril, RW(A[j, j]))
        g.insert(transpose, RW(A[j, j]))
        for i in range(j + 1, nt):
            g.insert(transpose, R(A[i, j]), W(A[j, i]))
            g.insert(zero, W(A[i, j]))


def _one_tile_graph(turned: bool) -> TaskGraph:
    """In place, by columns if ``turned``."""
    return _turned_graph(1) if turned else _call_graph(1, True, False, True)


def _too_few_tiles(nt: int, updates: int, workers: int) -> str:
    tiles = "one tile has" if nt == 1 else f"{nt} x {nt} tiles have"
    return f"{max(1, updates)} of the {workers} workers asked for: {tiles} no work for more; a smaller tile_size has"


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
    progress: bool = False,
    precision: str | PrecisionMap | None = None,
    route: str | None = None,
    emulate: bool = False,
    **options: Any,
) -> Any:
    """Cholesky factor of a symmetric or Hermitian positive definite matrix, A = L L^H or A = U^H U.

    Parameters
    ----------
    a : (n, n) array_like, torch tensor, TiledMatrix or dask.array
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
        Draw a progress bar on standard error.
    precision
        ``"fp64"``, ``"fp32"``, ``"tf32"``, ``"bf16x3"``, ``"bf16"``, ``"fp16"`` or a `PrecisionMap`: products have
        operands in that format, sums and tiles stay in FP32 (FP64 for ``"fp64"``). None computes in the dtype of ``a``.
        See `docs/precision.md`; `tilewright.linalg.mixed` has what refinement needs.
    route
        How products with 16-bit operands are computed: ``"cblas"``, ``"mkldnn"``, ``"widen"``, ``"autocast"`` or
        ``"reference"``; ``"widen"`` or ``"autocast"`` on a GPU. By default the fastest of those that round least: see
        `tilewright.kernels.products.route`.
    emulate
        Has no effect: such products need no instructions of their own.
    options
        Of the backend, such as ``grid=(P, Q)``; see `tilewright.run`.

    Returns
    -------
    factor
        Of the same kind and dtype as ``a``; the other triangle is exactly zero. A new array has contiguous rows, with
        ``lower=False`` contiguous columns. With ``precision``: float64 if some
        tile is FP64, else float32, and never in place of ``a``.
        For a dask.array: with its chunks, computed when the call returns, its tiles on the workers that made them.
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
    if plain and tile_size is None and precision is None and route is None:
        small = factor_one_tile(a, lower, overwrite_a, check_finite, backend, scheduler, workers, _one_tile_graph)
        if small is not None:
            return small
    lower, overwrite_a = flag(lower, "lower"), flag(overwrite_a, "overwrite_a")
    check_finite, return_run = flag(check_finite, "check_finite"), flag(return_run, "return_run")
    flag(emulate, "emulate")
    if precision is None and route is not None:
        raise ValueError(f"route={route!r} is for products with 16-bit operands; say which, such as precision='bf16'")
    if is_chunked(a) and backend not in (None, "dask"):
        a = a.compute()  # the caller has named an engine that needs it here
    chunked = is_chunked(a)
    check_call(tiled_cholesky, options, "dask" if chunked else "threads" if backend is None else backend)
    if chunked:
        how: dict[str, Any] = {
            "lower": lower, "tile_size": tile_size, "overwrite_a": overwrite_a, "workers": workers, "options": options,
            "scheduler": scheduler, "progress": progress,
        }  # fmt: skip
        if precision is None:
            build = lambda nt, check: _call_graph(nt, False, check, False)  # noqa: E731
            factor, record = chunked_cholesky(a, build, check_finite=check_finite, **how)
        else:
            from tilewright.linalg.chunked_mixed import chunked_mixed

            factor, record = chunked_mixed(a, precision, route=route, **how)
        return (factor, record) if return_run else factor
    backend = "threads" if backend is None else backend
    if is_device_tensor(a):
        if route is not None:
            raise ValueError(f"route={route!r} chooses kernels of the CPU; on {a.device} torch has one way")
        from tilewright.linalg.gpu import device_factor

        factor, _, _, record = device_factor(
            a, precision, lower=lower, tile_size=tile_size, workers=workers, scheduler=scheduler, backend=backend,
            route=route,
        )  # fmt: skip
        return (factor, record) if return_run else factor
    if precision is not None:
        from tilewright.linalg.mixed import mixed_cholesky

        return mixed_cholesky(
            a, precision, lower=lower, tile_size=tile_size, backend=backend, scheduler=scheduler, workers=workers,
            return_run=return_run, progress=progress, route=route, **options,
        )  # fmt: skip
    site = find_site(backend, options)
    a = site.argument(a)
    with site.agreement() as facts:
        find_policy(scheduler)
        matrix = Matrix(a, lower=lower, overwrite=overwrite_a)
        if tile_size is None:
            tile_size = matrix.tile_size or cholesky_tile_size(matrix.n, site.workers(workers))
        source = matrix.source(tile_size)
        facts.update(shape=source.shape, dtype=str(matrix.dtype), turned=matrix.turned, lower=bool(lower),
                     tile_size=int(tile_size), overwrite_a=bool(overwrite_a), workers=workers)  # fmt: skip
        if check_finite and matrix.in_place and site.has_data:
            check_finite_lower(source, cores(), lower)
    target = matrix.target(tile_size, used_again=site.here)
    updates = source.nt * (source.nt - 1) // 2  # in one step, so more workers are of no use
    if matrix.turned:
        graph = _turned_graph(source.nt)
    else:
        graph = _call_graph(source.nt, matrix.in_place, check_finite and not matrix.in_place, matrix.clear)
    data = {"A": target} if matrix.in_place else {"A": target, "S": source}
    try:
        record = run(
            graph, data, backend=backend, scheduler=scheduler, workers=site.workers(workers, max(1, updates)),
            progress=progress, **options,
        )  # fmt: skip
    except ValueError:  # NotPositiveDefiniteError is one
        with site.agreement():
            if check_finite and not matrix.in_place and site.has_data:
                check_finite_lower(source, cores(), lower)  # NaN comes before anything it causes, on every engine
        raise
    if workers is not None and workers > max(1, updates):
        record = replace(record, notes=(_too_few_tiles(source.nt, updates, workers),))
    factor = site.result(matrix.result(target))
    return (factor, record) if return_run else factor
