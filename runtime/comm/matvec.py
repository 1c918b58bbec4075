"""Dense matrix-vector products on ranks, as users call them: an operator whose blocks stay on the ranks, and one call.

The division is by block rows, block columns or the lecture's two-dimensional grid (V. Eijkhout, *Parallel
scalability*): `grid`; the graphs: `matvec_graph`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Unpack, overload

import numpy as np

from tilewright.arguments import dense, like, numbers
from tilewright.backends import named
from tilewright.comm.grid import grid_of
from tilewright.comm.matvec_graph import Moments, matvec_graph, power_graph
from tilewright.comm.operator import Operator, check_finite, count, place
from tilewright.graph import Handle, TaskGraph
from tilewright.kernels.scale import scaled
from tilewright.keywords import strict
from tilewright.resident import Prepared, Resident
from tilewright.runs.trace import Trace
from tilewright.scalars import flag

if TYPE_CHECKING:
    from tilewright.backends.mpi.pool import Pool
    from tilewright.kinds import Matrix, MatvecOptions, T
    from tilewright.machine import Machine
    from tilewright.runs.run import Run

__all__ = ["DenseOperator", "matvec"]


@strict
class DenseOperator(Operator):
    """A dense matrix whose blocks stay on the ranks between products; SciPy's solvers take it.

    Parameters
    ----------
    A : (m, n) array_like
        What `tilewright.arguments.numbers` takes: float32, float64, complex64 or complex128; integers become float64.
        Read once; changed afterwards it changes nothing.
    layout
        ``"rows"``, ``"columns"`` or ``"grid"``.
    ranks
        How many ranks; by default as many as ``grid`` has, those of the pool or the communicator, or one a core.
    grid
        (r, c), with ``layout="grid"``; by default the cheapest, see `grid.best_grid`.
    backend
        One of `BACKENDS`; by default the blocks stay in this process. With ``"mpi"`` they lie on the ranks of a pool
        or, under ``mpiexec``, of a communicator; the call is then collective, and all ranks pass the same A and x.
    overlap
        Multiply by a rank's own piece of x while the others travel. The sum then has another order.
    check_finite
        Refuse NaN and infinity in A and x.
    synchronous
        MPI: let each send wait for its receive.
    copy
        False: engines of this process may work on A itself, so it must not change.
    pool, comm
        MPI: the `tilewright.backends.mpi.Pool` or the communicator; by default the pool of the ``with`` block or one
        that is kept, and under ``mpiexec`` all ranks.

    Raises
    ------
    TypeError
        A has a dtype that is none of the four and no integer; an option that there is not.
    ValueError
        A is not two-dimensional or not finite; the grid does not fit the ranks, or ``ranks`` those that there are.

    Notes
    -----
    A product takes 2 m n / p flops a rank and the messages of `grid.matvec_cost`. The same bits for every engine. It
    has NumPy's dtype: a float32 matrix and a float64 vector make a float64 one, for which each rank converts its block
    in strips, so the matrix is kept once. Memory: one copy of A, on the ranks; in one process without a copy if
    ``copy=False``.

    See `tilewright.comm.operator.Operator` for threads, copies and pickles.

    Examples
    --------
    >>> import numpy as np, tilewright as tw
    >>> op = tw.DenseOperator(np.arange(6.0).reshape(2, 3), layout="grid", grid=(2, 2), backend="serial")
    >>> op @ np.ones(3), op.T @ np.ones(2)
    (array([ 3., 12.]), array([3., 5., 7.]))
    """

    def __init__(
        self,
        A: Matrix,
        layout: str = "rows",
        ranks: int | None = None,
        *,
        grid: Sequence[int] | None = None,
        backend: str | None = None,
        overlap: bool = False,
        check_finite: bool = True,
        synchronous: bool = False,
        copy: bool = True,
        pool: Pool | None = None,
        comm: Any = None,
    ) -> None:
        matrix = _matrix(A)
        self.check_finite = flag(check_finite, "check_finite")
        synchronous, copy = flag(synchronous, "synchronous"), flag(copy, "copy")
        if self.check_finite:
            _check_finite(matrix, "A")
        if grid is not None or ranks is not None:
            ranks = grid_of(layout, ranks, grid, matrix.shape).ranks  # what is wrong with them comes first
        there, pool, comm = place(backend, ranks, pool, comm)
        self.grid = grid_of(layout, there, grid, matrix.shape)
        self.ranks = self.grid.ranks
        self.layout, self.backend, self.overlap = layout, named(backend), flag(overlap, "overlap")
        self._begin(matrix.dtype, matrix.shape)
        copies = self.on_ranks and comm is None  # a pool's ranks do
        take = np.array if copy and not copies else np.asarray
        blocks = {
            Handle("A", (q,)): take(matrix[slice(*self.grid.rows(i)), slice(*self.grid.columns(j))], order="C")
            for q in range(self.grid.ranks)
            for i, j in (self.grid.place(q),)
        }
        if self.on_ranks and pool is None and comm is None:
            from tilewright.backends.mpi import pool as pools

            pool = pools.default(self.ranks)  # not that of the block around, which has another size
        self._resident = Resident(
            blocks,
            ranks=self.ranks,
            owner=_owner,
            backend=backend,
            pool=pool,
            comm=comm,
            copy=False,
            synchronous=synchronous,
        )
        self._blocks = {} if self.on_ranks else blocks
        self._steps: dict[Any, Prepared] = {}

    # ------------------------------------------------------------ products

    def _product_dtype(self, dtype: np.dtype) -> np.dtype:
        numbers(np.empty(0, dtype), "x")
        return np.result_type(self.dtype, dtype)

    def _product(self, x: np.ndarray, transposed: bool) -> np.ndarray:
        if x.dtype.kind == "c" and self.dtype.kind != "c":  # two real products cost half of a complex one
            real, imaginary = (self._product(np.ascontiguousarray(part), transposed) for part in (x.real, x.imag))
            return real + x.dtype.type(1j) * imaginary
        grid = self.grid
        y = np.empty((grid.n if transposed else grid.m, *x.shape[1:]), x.dtype)
        with self._lock:
            self._open()
            step = self._step(transposed, x.dtype)
            for source, target in [(x, y)] if x.ndim == 1 else zip(x.T, y.T, strict=True):
                self._one(step, source, target, transposed)
        return y

    def _one(self, step: Prepared, x: np.ndarray, y: np.ndarray, transposed: bool) -> None:
        """y := A x or A^T x for one vector."""
        grid = self.grid
        x_of, y_of = (grid.y_piece, grid.x_piece) if transposed else (grid.x_piece, grid.y_piece)
        for handle, piece in step.inputs.items():
            piece[...] = x[slice(*x_of(handle.index[0]))]
        step()
        for handle, piece in step.outputs.items():
            y[slice(*y_of(handle.index[0]))] = piece

    def _step(self, transposed: bool, dtype: np.dtype) -> Prepared:
        key = transposed, dtype
        if key not in self._steps:
            graph = matvec_graph(self.grid, transposed=transposed, overlap=self.overlap, dtype=str(dtype))
            self._steps[key] = self._prepare(graph, ["x"], ["y"], dtype)
        return self._steps[key]

    def _prepare(self, graph: TaskGraph, inputs: Sequence[str], outputs: Sequence[str], dtype: np.dtype) -> Prepared:
        everyone = range(self.grid.ranks)
        return self._resident.prepare(
            graph,
            inputs=[Handle(name, (q,)) for name in inputs for q in everyone],
            outputs=[Handle(name, (q,)) for name in outputs for q in everyone],
            dtype=dtype,
        )

    def traced(self, x: Matrix, *, transposed: bool = False) -> tuple[Any, Trace]:
        """A product with one vector and what happened when; of a real matrix and a complex x, that of the real part."""
        vector = self._checked(x, 0 if transposed else 1)
        if vector.ndim != 1:
            raise ValueError(f"a traced product has one vector, not x of shape {vector.shape}")
        kind = vector.real.dtype if self.dtype.kind != "c" else vector.dtype
        with self._lock:
            y = self._product(vector, transposed)
            return like(y, x), self._step(transposed, kind).traced()

    def graph(self, *, transposed: bool = False, dtype: Any = None) -> TaskGraph:
        """The task graph of a product with one vector, with its layout and without data. See `matvec_graph`."""
        kind = str(np.result_type(self.dtype) if dtype is None else np.dtype(dtype))
        return matvec_graph(self.grid, transposed=transposed, overlap=self.overlap, dtype=kind)

    def simulate(self, machine: Machine, *, transposed: bool = False, scheduler: str = "critical-path") -> Run:
        """Predict a product on a machine with these ranks, messages included. Nothing is computed."""
        from tilewright.engine import simulate

        return simulate(self.graph(transposed=transposed), machine.replace(ranks=self.ranks), scheduler=scheduler)

    def power_iteration(self, steps: int, x: Matrix | None = None) -> tuple[complex | float, Any]:
        """``steps`` steps of the power iteration; the vector stays in pieces on the ranks between them.

        Parameters
        ----------
        steps
            At least 1.
        x : (n,) array_like
            Where to start; by default all ones. A complex one makes a complex iteration, also of a real matrix.

        Returns
        -------
        (the last Rayleigh quotient, the normalised vector)
            Where A x = 0 that is 0 and x: an eigenvalue and its vector.

        Raises
        ------
        ValueError
            The matrix is not square, ``steps`` is below 1, or x has not n entries or is zero.
        OverflowError
            ||A x|| of a vector of length 1 does not fit the dtype.

        Notes
        -----
        Lengths neither overflow nor underflow on the way: squares of large and of small numbers are added up apart,
        scaled [1]_.

        .. [1] J. Blue, A portable Fortran program to find the Euclidean norm of a vector, TOMS 4 (1978).
        """
        grid = self.grid
        if grid.m != grid.n:
            raise ValueError(f"a power iteration needs a square matrix, not {grid.m} x {grid.n}")
        steps = count("steps", steps, 1)
        start = self._start(x)
        with self._lock:
            self._open()
            key = "power", start.dtype
            if key not in self._steps:
                graph = power_graph(grid, str(start.dtype))
                self._steps[key] = self._prepare(graph, ["x"], ["x", "s"], start.dtype)
            step = self._steps[key]
            for handle, piece in step.inputs.items():
                piece[...] = start[slice(*grid.x_piece(handle.index[0]))]
            step.repeat(steps)
            vector = np.empty(grid.n, start.dtype)
            for handle, piece in step.outputs.items():
                if handle.name == "x":
                    vector[slice(*grid.x_piece(handle.index[0]))] = piece
            sums = Moments(*step.outputs[Handle("s", (0,))])
            quotient, norm = sums.product, sums.norm
        if self.check_finite and not np.isfinite(norm):
            raise OverflowError(f"the length of A x is beyond the range of {start.dtype}; scale the matrix")
        return (complex(quotient) if start.dtype.kind == "c" else float(quotient.real)), like(vector, x)

    def _start(self, x: Any) -> np.ndarray:
        """The vector of length 1 in the direction of x, in the dtype of the products with x."""
        n = self.grid.n
        start = np.ones(n, self.dtype) if x is None else numbers(x, "x")
        if start.shape != (n,):
            raise ValueError(f"x has shape {start.shape}, but A has {n} columns")
        check_finite(start, "x")
        start = start.astype(np.result_type(self.dtype, start.dtype))
        top = float(np.abs(start).max(initial=0))
        if not top:
            raise ValueError("a power iteration cannot start from zero")
        start = scaled(start, -int(np.frexp(top)[1]))
        return start / np.linalg.norm(start)

    # ------------------------------------------------------------ life

    def _free(self) -> None:
        self._steps.clear()
        self._blocks.clear()
        self._resident.close()

    def _rebuild(self) -> tuple[Any, dict[str, Any]]:
        grid = self.grid
        matrix = np.empty(self.shape, self.dtype)
        for handle, block in self._blocks.items():
            i, j = grid.place(handle.index[0])
            matrix[slice(*grid.rows(i)), slice(*grid.columns(j))] = block
        return matrix, {
            "layout": "grid",
            "grid": (grid.r, grid.c),
            "backend": self.backend,
            "overlap": self.overlap,
            "check_finite": self.check_finite,
            "copy": False,
        }

    def picture(self) -> str:
        """Who has what: see `Grid.picture`."""
        return self.grid.picture()


@overload
def matvec(A: T, x: Matrix, **options: Unpack[MatvecOptions]) -> T: ...
@overload
def matvec(A: Matrix, x: T, **options: Unpack[MatvecOptions]) -> T: ...
@overload
def matvec(A: Matrix, x: Matrix, **options: Unpack[MatvecOptions]) -> np.ndarray: ...
@strict
def matvec(
    A: Any,
    x: Any,
    *,
    backend: str | None = None,
    layout: str = "rows",
    ranks: int | None = None,
    grid: Sequence[int] | None = None,
    overlap: bool = False,
    check_finite: bool = True,
    synchronous: bool = False,
    pool: Pool | None = None,
    comm: Any = None,
) -> Any:
    """y = A x on ranks.

    For more than one product with one matrix make a `DenseOperator`, which distributes A once.

    Parameters
    ----------
    A : (m, n) array_like or torch tensor
    x : (n,) or (n, 1) array_like or torch tensor
    backend, layout, ranks, grid, overlap, check_finite, synchronous, pool, comm
        As for `DenseOperator`.

    Returns
    -------
    (m,) array, or (m, 1) where x is (n, 1)
        In NumPy's dtype for A x, float64 for integers; a tensor if A or x is one.

    Raises
    ------
    TypeError
        A or x is not numeric, sparse, or a dask.array; an option that there is not.
    ValueError
        Shapes that do not fit, NaN or infinity, a grid that does not fit the ranks.

    Examples
    --------
    >>> import numpy as np, tilewright as tw
    >>> tw.matvec(np.eye(3), np.arange(3.0), layout="grid", grid=(2, 2))
    array([0., 1., 2.])
    """
    matrix, vector = dense(A, "A"), dense(x, "x")
    for array, name in ((matrix, "A"), (vector, "x")):
        numbers(array[:0] if array.ndim else array, name)  # for what it refuses
    kind = np.empty(0, np.result_type(matrix.dtype, vector.dtype)).real.dtype
    if matrix.dtype.kind in "biu" and kind.kind == "f":
        matrix = matrix.astype(kind)
    matrix = _matrix(matrix)
    if vector.shape not in ((matrix.shape[1],), (matrix.shape[1], 1)):
        raise ValueError(f"x has shape {vector.shape}, but A has {matrix.shape[1]} columns")
    operator = DenseOperator(
        matrix,
        layout,
        ranks,
        grid=grid,
        backend=backend,
        overlap=overlap,
        check_finite=check_finite,
        synchronous=synchronous,
        copy=False,
        pool=pool,
        comm=comm,
    )
    with operator:
        return like(operator @ vector, A, x)


def _owner(handle: Handle) -> int:
    return handle.index[0]


def _matrix(A: Any) -> np.ndarray:
    matrix = numbers(A, "A")
    if matrix.ndim != 2:
        raise ValueError(f"A must have two dimensions, not shape {matrix.shape}")
    return matrix


_check_finite = check_finite  # calls have an argument of this name
