"""`solve` for a matrix on a disk: a factor in a file that is gone afterwards, refinement that reads both in passing."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from tilewright.backends import engine_class
from tilewright.builder import graph_builder
from tilewright.engine import run
from tilewright.errors import AccuracyError, NotPositiveDefiniteError, SingularMatrixError
from tilewright.graph import RW, R, TaskGraph
from tilewright.linalg.cho_solve import solve_graph as cholesky_solve_graph
from tilewright.linalg.factor import tiled_cholesky
from tilewright.linalg.lu import LUFactor, lu_factor
from tilewright.linalg.lu import solve_graph as lu_solve_graph
from tilewright.linalg.right_hand_side import RightHandSide
from tilewright.linalg.slab_plan import MOVERS
from tilewright.linalg.solve_info import Attempt, SolveInfo
from tilewright.linalg.streamed import streamed
from tilewright.scalars import worker_count
from tilewright.schedulers import policy as find_policy
from tilewright.schedulers.aside import Aside
from tilewright.storage.matrix import Stored, StoredTiles
from tilewright.storage.narrowed import Narrowed
from tilewright.storage.npy import open_npy
from tilewright.storage.opening import folder_of, open_source
from tilewright.storage.ops import MOVES
from tilewright.tiles import TiledMatrix
from tilewright.units import nbytes, size

__all__ = ["solve_outside"]

_STEPS = 20
_U = 2.0**-53
_DIAGONAL = 256  # rows of the tiles in which a diagonal is read
_BUFFERS = 8  # tiles of a matrix that comes by


def solve_outside(
    a: Any,
    b: Any,
    *,
    assume_a: str | None,
    lower: bool,
    precision: Any,
    fallback: bool,
    check_finite: bool,
    tile_size: int | None,
    memory: Any,
    how: dict[str, Any],
) -> tuple[Any, SolveInfo]:
    """x with A x = b to FP64 accuracy: a factor in FP32 or FP64, classical refinement.

    The factor goes to a file beside that of the matrix, or where temporary files go. One in FP32 takes half of the
    disk, a quarter of the reads beyond those of the matrix, and half of the time; where it does not exist, or steps
    with it do not converge, one in FP64 takes over. A positive definite matrix is scaled to a diagonal of about one.

    Raises
    ------
    ValueError
        Shapes that do not fit.
    TypeError
        The matrix has single precision.
    """
    from tempfile import TemporaryDirectory  # not before: it takes as long to load as half of this package

    began = perf_counter()
    limit = None if memory is None else size(memory, "memory")
    source = open_source(a)
    path: list[Attempt] = []
    try:
        n = source.shape[0]
        if source.shape != (n, n):
            raise ValueError(f"the matrix a must be square, not {n} x {source.shape[1]}")
        if source.dtype.itemsize // (2 if source.dtype.kind == "c" else 1) != 8:
            raise TypeError(f"the matrix a has dtype {source.dtype}; out of core solve takes float64 or complex128")
        columns = RightHandSide(b, n)
        if check_finite:
            columns.check_finite()
        job = _Refined(source, columns, lower, limit, how)
        folder = folder_of(a) if isinstance(a, str | Path) else None
        options = {"memory": job.left, "check_finite": check_finite, "tile_size": tile_size, **how}
        for rung, structure in _rungs(precision, assume_a):
            last = rung == "fp64" and (structure == "gen" or assume_a == "pos")
            with TemporaryDirectory(prefix=".tilewright-solve-", dir=folder) as place:
                try:
                    solver, record = job.factor(rung, structure, {"out": Path(place) / "factor.npy", **options})
                except (NotPositiveDefiniteError, SingularMatrixError, FloatingPointError) as error:
                    if last or not fallback or (isinstance(error, FloatingPointError) and rung == "fp64"):
                        raise
                    path.append(_failed(rung, structure, error))
                    continue
                factored = perf_counter()
                with solver as solution:
                    x, errors, steps = job.refine(solution, structure)
            good = not n or errors.max(initial=0) <= n * _U
            path.append(Attempt(rung, "converged" if good else "stalled", steps, "classical"))
            if good or rung == "fp64" or not fallback:
                break
    finally:
        if source is not a:
            source.close()
    info = SolveInfo(n, columns.columns.shape[1], str(job.dtype), tuple(path))
    info.structure, info.factor_run, info.backward_errors = structure, record, errors
    info.hpl_mxp_residual = info.backward_error / (n * _U) if n else 0.0
    done = perf_counter()
    info.times = {"factor": factored - began, "refine": done - factored, "total": done - began}
    if path[-1].status == "stalled":
        raise AccuracyError(
            f"the backward error is {info.backward_error:.1e}, above n u = {n * _U:.1e}, after {steps} "
            f"steps of refinement",
            info,
            columns.result(x),
        )
    return columns.result(x), info


def _rungs(precision: str, assume_a: str | None) -> list[tuple[str, str]]:
    """What is tried: precision and structure."""
    precisions = ("fp64",) if precision == "fp64" else ("fp32", "fp64")
    structures = {"pos": ("pos",), None: ("pos", "gen")}.get(assume_a, ("gen",))
    return [(rung, structure) for structure in structures for rung in precisions]


def _failed(rung: str, structure: str, error: Exception) -> Attempt:
    method = "lu" if structure == "gen" else ""
    if isinstance(error, FloatingPointError):
        return Attempt(rung, "overflow", method=method)
    order = error.order if isinstance(error, NotPositiveDefiniteError) else getattr(error, "index", -1) + 1
    return Attempt(rung, "breakdown", method=method, order=order)


class _Solver:
    """A factor in a file: ``solver(r)`` overwrites r, (n, m), by the solution."""

    def __init__(self, file: Stored, solve: Callable[[np.ndarray], np.ndarray]) -> None:
        self.file, self.solve = file, solve

    def __enter__(self) -> Callable[[np.ndarray], np.ndarray]:
        return self.solve

    def __exit__(self, *_: object) -> None:
        self.file.close()


class _Refined:
    """A system, and classical refinement with any solver."""

    def __init__(
        self, source: Stored, columns: RightHandSide, lower: bool, limit: int | None, how: dict[str, Any]
    ) -> None:
        self.source, self.lower, self.how = source, lower, how
        self.dtype = np.dtype(np.complex128 if "c" in (source.dtype.kind, columns.columns.dtype.kind) else np.float64)
        self.b = columns.columns.astype(self.dtype, order="C")
        self.scale: np.ndarray | None = None
        vectors = 6 * self.b.nbytes
        self.left = None if limit is None else limit - vectors
        if self.left is not None and self.left <= 0:
            raise MemoryError(
                f"memory={nbytes(limit or 0)} is too little: right-hand sides and solutions take {nbytes(vectors)}"
            )
        self.nb = 0

    def _run(self, graph: TaskGraph, name: str, tiles: StoredTiles, order: Any, data: dict[str, Any]) -> None:
        made, buffers = streamed(graph, name, tiles, _BUFFERS, order)
        how = dict(self.how)
        if engine_class(how.get("backend")).moves_beside:
            policy = find_policy(how["scheduler"])
            how |= {"scheduler": Aside(policy, MOVES, MOVERS), "workers": worker_count(how["workers"]) + MOVERS}
        data = {name: tiles, f"{name}:buffer": buffers, **data}
        names = {handle.name for handle in made.handles_used}
        run(made, {key: value for key, value in data.items() if key in names}, **how)

    def factor(self, rung: str, structure: str, options: dict[str, Any]) -> tuple[_Solver, Any]:
        """A factor in a file, and the run that made it."""
        matrix: Any = self.source
        path = options["out"]
        self.scale = None
        if rung == "fp32":
            if structure == "pos":
                self.scale = self._scale()
            matrix = Narrowed(matrix, self.scale)
            if matrix.tile_size and options["memory"] is not None:  # which is read as a whole, before it is rounded
                wide = MOVERS * matrix.tile_size**2 * self.source.dtype.itemsize
                options = {**options, "memory": max(options["memory"] - wide, 1)}
        if structure == "pos":
            _, record = tiled_cholesky(matrix, lower=self.lower, return_run=True, **options)
            return self.by_cholesky(path, record), record
        with warnings.catch_warnings():
            if rung == "fp32":
                warnings.simplefilter("ignore", RuntimeWarning)  # of a zero pivot, which is said otherwise
            factor, record = lu_factor(matrix, return_run=True, **options)
        factor.check_regular()
        return self.by_lu(path, factor), record

    def _scale(self) -> np.ndarray:
        """Powers of two that bring the diagonal close to one; of what is not positive, one."""
        n = self.source.shape[0]
        step = self.source.tile_size or _DIAGONAL
        diagonal = np.empty(n)
        for at in range(0, n, step):
            count = min(step, n - at)
            tile = np.empty((count, count), self.source.dtype)
            self.source.read([(at, at)], [tile])
            self.source.count(read=tile.nbytes)
            diagonal[at : at + count] = tile.diagonal().real
        usable = np.isfinite(diagonal) & (diagonal > 0)
        exponents = np.frexp(np.where(usable, diagonal, 1.0))[1]
        return np.ldexp(1.0, -(exponents // 2))

    def by_cholesky(self, path: Path, record: Any) -> _Solver:
        file = open_npy(path)
        self.nb = _tile_size(record)
        factor = StoredTiles(file if self.lower else file.T, self.nb)
        nt = -(-file.shape[0] // self.nb)
        scale = self.scale

        def solve(r: np.ndarray) -> np.ndarray:
            turned = not self.lower and file.dtype.kind == "c"  # the lower triangle of A^T is that of conj(A)
            right = r.conj() if turned else r
            X = TiledMatrix.view(np.zeros_like(right), self.nb)
            graph = cholesky_solve_graph(nt, X.nt, True, False)
            self._run(graph, "L", factor, "C", {"B": TiledMatrix.view(right, self.nb), "X": X})
            return X.to_numpy().conj() if turned else X.to_numpy()

        return _Solver(file, self._real(self._rounded(solve, file.dtype, scale)))

    def by_lu(self, path: Path, factor: LUFactor) -> _Solver:
        file = open_npy(path)
        nb = self.nb = factor.tile_size
        n = file.shape[0]
        parts = [factor.piv[k : k + nb] - np.int32(k) for k in range(0, n, nb)]

        def solve(r: np.ndarray) -> np.ndarray:
            X = TiledMatrix.view(np.empty(r.shape, r.dtype, "F"), nb)
            graph = lu_solve_graph(-(-n // nb), X.nt, 0, False)
            self._run(graph, "LU", StoredTiles(file, nb), "F", {"B": TiledMatrix.view(r, nb), "X": X, "piv": parts})
            return np.ascontiguousarray(X.to_numpy())

        return _Solver(file, self._real(self._rounded(solve, file.dtype, None)))

    def _rounded(
        self, solve: Callable[[np.ndarray], np.ndarray], dtype: np.dtype, scale: np.ndarray | None
    ) -> Callable[[np.ndarray], np.ndarray]:
        """With a factor of D A D in that dtype; right-hand sides have norm one then, as numbers may be tiny."""
        if dtype.itemsize == self.source.dtype.itemsize:
            return solve

        def narrow(r: np.ndarray) -> np.ndarray:
            d = np.ones(len(r)) if scale is None else scale
            r = r * d[:, None]
            norms = np.abs(r).max(axis=0, initial=0)
            norms[(norms == 0) | ~np.isfinite(norms)] = 1
            with np.errstate(all="ignore"):
                return solve((r / norms).astype(dtype)) * norms * d[:, None]

        return narrow

    def _real(self, solve: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
        """A real factor has real and imaginary parts as right-hand sides."""
        if self.source.dtype == self.dtype:
            return solve

        def both(r: np.ndarray) -> np.ndarray:
            parts = solve(np.concatenate([r.real, r.imag], axis=1))
            half = r.shape[1]
            return parts[:, :half] + 1j * parts[:, half:]

        return both

    def refine(self, solve: Callable[[np.ndarray], np.ndarray], structure: str) -> tuple[np.ndarray, np.ndarray, int]:
        """x, backward errors of its columns, and how many steps: until errors are n u, or do not halve any more."""
        x = solve(self.b.copy())
        n, u = len(self.b), _U
        best, errors, steps = x, np.full(self.b.shape[1], np.inf), 0
        for step in range(_STEPS + 1):
            r, norm = self._residual(x, structure)
            with np.errstate(all="ignore"):
                scale = norm * np.abs(x).max(axis=0, initial=0) + np.abs(self.b).max(axis=0, initial=0)
                size_of = np.abs(r).max(axis=0, initial=0)
                found = np.where(size_of == 0, 0.0, size_of / np.where(scale, scale, 1))
            worse = not found.max(initial=0) < errors.max(initial=0) / 2
            if found.max(initial=0) <= errors.max(initial=0):
                best, errors, steps = x, found, step
            if worse or errors.max(initial=0) <= np.sqrt(n) * u or step == _STEPS:
                break
            x = x + solve(r)
        return best, errors, steps

    def _residual(self, x: np.ndarray, structure: str) -> tuple[np.ndarray, float]:
        """b - A x, and ||A||_inf: one pass over the matrix."""
        n, nb = len(x), self.nb
        nt = -(-n // nb)
        r, sums = self.b.copy(), np.zeros((n, 1))
        matrix = self.source
        tiles = StoredTiles(matrix if structure == "gen" or self.lower else matrix.T, nb)
        turned = structure == "pos" and not self.lower
        blocks = [slice(i * nb, min(n, (i + 1) * nb)) for i in range(nt)]
        view = x.conj() if turned else x
        work = r.conj() if turned else r
        data = {
            "X": [view[rows] for rows in blocks],
            "R": [work[rows] for rows in blocks],
            "N": [sums[rows] for rows in blocks],
        }
        self._run(residual_graph(nt, structure == "pos"), "A", tiles, "C", data)
        return work.conj() if turned else work, float(sums.max(initial=0))


@graph_builder("residual nt={nt} hermitian={hermitian}", cache=8)
def residual_graph(g: TaskGraph, nt: int, hermitian: bool) -> None:
    """R := R - A X and N := N + sum_j |a_ij|, handles ``A[i,j]``, ``X[i]``, ``R[i]``, ``N[i]``.

    Of a Hermitian matrix the lower triangle is read.
    """
    A, X, r, N = (g.handles(name) for name in "AXRN")
    for i in range(nt):
        for j in range(i + 1 if hermitian else nt):
            if hermitian and i == j:
                g.insert(_subtract_diagonal, R(A[i, i]), R(X[i]), RW(r[i]), RW(N[i]))
            else:
                g.insert(_subtract, R(A[i, j]), R(X[j]), RW(r[i]), RW(N[i]))
                if hermitian:
                    g.insert(_subtract_adjoint, R(A[i, j]), R(X[i]), RW(r[j]), RW(N[j]))


def _subtract(tile: np.ndarray, x: np.ndarray, r: np.ndarray, sums: np.ndarray) -> None:
    with np.errstate(all="ignore"):
        r -= tile @ x
        sums += np.abs(tile).sum(axis=1, keepdims=True)


def _subtract_adjoint(tile: np.ndarray, x: np.ndarray, r: np.ndarray, sums: np.ndarray) -> None:
    _subtract(tile.conj().T, x, r, sums)


def _subtract_diagonal(tile: np.ndarray, x: np.ndarray, r: np.ndarray, sums: np.ndarray) -> None:
    whole = np.tril(tile) + np.tril(tile, -1).conj().T
    np.fill_diagonal(whole, tile.diagonal().real)
    _subtract(whole, x, r, sums)


def _tile_size(record: Any) -> int:
    return int(record.store.families["L"].tile_size)
