"""Dense matrix-vector products on ranks, as users call them: an operator whose blocks stay on the ranks, and one call.

The division is by block rows, block columns or the lecture's two-dimensional grid: `grid`; the graphs: `matvec_graph`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.sparse.linalg import LinearOperator

from tilewright.arguments import dense
from tilewright.backends import BACKENDS
from tilewright.comm.grid import grid_of
from tilewright.comm.matvec_graph import matvec_graph, power_graph
from tilewright.graph import Handle, TaskGraph
from tilewright.resident import Prepared, Resident
from tilewright.trace import Trace

__all__ = ["DenseOperator", "matvec"]


class DenseOperator(LinearOperator):
    """A dense matrix whose blocks stay on the ranks between products; SciPy's solvers take it.

    Parameters
    ----------
    A : (m, n) array
        float32, float64, complex64 or complex128; integers become float64. Read once.
    layout
        ``"rows"``, ``"columns"`` or ``"grid"``.
    ranks
        How many ranks; by default as many as ``grid`` has, or one a core.
    grid
        (r, c), with ``layout="grid"``; by default the cheapest, see `grid.best_grid`.
    backend
        One of `BACKENDS`.
    overlap
        Multiply by a rank's own piece of x while the others travel. The sum then has another order.
    synchronous
        MPI: let each send wait for its receive.
    copy
        False: engines of this process may work on A itself, so it must not change.
    options
        ``pool`` or ``comm`` of the MPI engine.

    Raises
    ------
    TypeError
        A has a dtype that is no number.
    ValueError
        A is not two-dimensional or not finite; the grid does not fit the ranks.

    Notes
    -----
    A product takes 2 m n / p flops a rank and the messages of `grid.matvec_cost`. The same bits for every engine.

    Examples
    --------
    >>> import numpy as np, tilewright as tw
    >>> op = tw.DenseOperator(np.arange(6.0).reshape(2, 3), layout="grid", grid=(2, 2), backend="serial")
    >>> op @ np.ones(3), op.T @ np.ones(2)
    (array([ 3., 12.]), array([3., 5., 7.]))
    """

    def __init__(
        self,
        A: Any,
        layout: str = "rows",
        ranks: int | None = None,
        *,
        grid: Sequence[int] | None = None,
        backend: str = "mpi",
        overlap: bool = False,
        synchronous: bool = False,
        copy: bool = True,
        **options: Any,
    ) -> None:
        if backend not in BACKENDS:
            raise ValueError(f"unknown backend {backend!r}; known: {', '.join(BACKENDS)}")
        matrix = _numbers(A, "A")
        if matrix.ndim != 2:
            raise ValueError(f"A must have two dimensions, not shape {matrix.shape}")
        _check_finite(matrix, "A")
        super().__init__(matrix.dtype, matrix.shape)  # type: ignore[call-arg] # the stubs know only subclasses
        self.grid = grid_of(layout, ranks, grid, matrix.shape)
        self.layout, self.backend, self.overlap = layout, backend, overlap
        take = np.array if copy and not _copied_by_ranks(backend) else np.asarray
        blocks = {
            Handle("A", (q,)): take(matrix[slice(*self.grid.rows(i)), slice(*self.grid.columns(j))], order="C")
            for q in range(self.grid.ranks)
            for i, j in (self.grid.place(q),)
        }
        self._resident = Resident(
            blocks, ranks=self.grid.ranks, owner=_owner, backend=backend, synchronous=synchronous, **options
        )
        self._steps: dict[Any, Prepared] = {}

    # ------------------------------------------------------------ products

    def dot(self, x: Any) -> Any:
        _check_length(x, "A x", self.shape, 1)
        return super().dot(x)

    def _transpose(self) -> LinearOperator:
        return _Turned(self, conjugated=False)

    def _adjoint(self) -> LinearOperator:
        return _Turned(self, conjugated=True)

    def _matvec(self, x: np.ndarray) -> np.ndarray:
        return self._apply(x, transposed=False)

    def _rmatvec(self, x: np.ndarray) -> np.ndarray:
        if self.dtype.kind == "c":
            return self._apply(np.conj(x), transposed=True).conj()
        return self._apply(x, transposed=True)

    def _apply(self, x: np.ndarray, *, transposed: bool) -> np.ndarray:
        x = _numbers(x, "x").reshape(-1)
        _check_finite(x, "x")
        if x.dtype.kind == "c" and self.dtype.kind != "c":
            return self._apply(x.real, transposed=transposed) + 1j * self._apply(x.imag, transposed=transposed)
        grid = self.grid
        x_of, y_of = (grid.y_piece, grid.x_piece) if transposed else (grid.x_piece, grid.y_piece)
        step = self._step(transposed)
        for handle, piece in step.inputs.items():
            piece[...] = x[slice(*x_of(handle.index[0]))]
        step()
        y = np.empty(grid.n if transposed else grid.m, self.dtype)
        for handle, piece in step.outputs.items():
            y[slice(*y_of(handle.index[0]))] = piece
        return y

    def _step(self, transposed: bool) -> Prepared:
        step = self._steps.get(transposed)
        if step is None:
            graph = matvec_graph(self.grid, transposed=transposed, overlap=self.overlap, dtype=str(self.dtype))
            step = self._steps[transposed] = self._prepare(graph, ["x"], ["y"])
        return step

    def _prepare(self, graph: TaskGraph, inputs: Sequence[str], outputs: Sequence[str]) -> Prepared:
        everyone = range(self.grid.ranks)
        return self._resident.prepare(
            graph, inputs=[Handle(name, (q,)) for name in inputs for q in everyone],
            outputs=[Handle(name, (q,)) for name in outputs for q in everyone], dtype=self.dtype,
        )  # fmt: skip

    def traced(self, x: Any, *, transposed: bool = False) -> tuple[np.ndarray, Trace]:
        """A product and what happened when."""
        y = self._apply(np.asarray(x), transposed=transposed)
        return y, self._step(transposed).traced()

    def power_iteration(self, steps: int, x: Any = None) -> tuple[complex | float, np.ndarray]:
        """``steps`` steps of the power iteration; the vector stays in pieces on the ranks between them.

        Parameters
        ----------
        steps
            At least 1.
        x : (n,) array
            Where to start; by default all ones.

        Returns
        -------
        (the last Rayleigh quotient, the normalised vector)

        Raises
        ------
        ValueError
            The matrix is not square, ``steps`` is below 1, or x has not n entries or is zero.
        """
        grid = self.grid
        if grid.m != grid.n:
            raise ValueError(f"a power iteration needs a square matrix, not {grid.m} x {grid.n}")
        if steps < 1:
            raise ValueError(f"steps must be at least 1, not {steps}")
        start = np.ones(grid.n) if x is None else _numbers(x, "x")
        if start.shape != (grid.n,):
            raise ValueError(f"x has shape {start.shape}, but A has {grid.n} columns")
        norm = np.linalg.norm(start)
        if not norm:
            raise ValueError("a power iteration cannot start from zero")
        step = self._steps.get("power")
        if step is None:
            step = self._steps["power"] = self._prepare(power_graph(grid, str(self.dtype)), ["x"], ["x", "s"])
        for handle, piece in step.inputs.items():
            piece[...] = (start / norm)[slice(*grid.x_piece(handle.index[0]))]
        for _ in range(steps):
            step()
        vector = np.empty(grid.n, self.dtype)
        for handle, piece in step.outputs.items():
            if handle.name == "x":
                vector[slice(*grid.x_piece(handle.index[0]))] = piece
        quotient = step.outputs[Handle("s", (0,))][0]
        return (complex(quotient) if self.dtype.kind == "c" else float(quotient)), vector

    def close(self) -> None:
        """Free the blocks on the ranks now; otherwise they go with this object."""
        self._steps.clear()
        self._resident.close()

    def picture(self) -> str:
        """Who has what: see `Grid.picture`."""
        return self.grid.picture()


class _Turned(LinearOperator):
    """A^T or A^H of a `DenseOperator`."""

    def __init__(self, operator: DenseOperator, *, conjugated: bool) -> None:
        self.operator, self.conjugated = operator, conjugated
        super().__init__(operator.dtype, operator.shape[::-1])  # type: ignore[call-arg] # as in DenseOperator

    def dot(self, x: Any) -> Any:
        _check_length(x, "A^H x" if self.conjugated else "A^T x", self.operator.shape, 0)
        return super().dot(x)

    def _matvec(self, x: np.ndarray) -> np.ndarray:
        return self.operator._rmatvec(x) if self.conjugated else self.operator._apply(x, transposed=True)

    def _rmatvec(self, x: np.ndarray) -> np.ndarray:
        return self.operator._matvec(x) if self.conjugated else self.operator._matvec(np.conj(x)).conj()

    def _rmatmat(self, x: np.ndarray) -> np.ndarray:
        return np.column_stack([self._rmatvec(column) for column in x.T])

    def _adjoint(self) -> LinearOperator:
        return self.operator if self.conjugated else super()._adjoint()

    def _transpose(self) -> LinearOperator:
        usual: Any = LinearOperator  # the stubs do not know the method
        turned: LinearOperator = usual._transpose(self) if self.conjugated else self.operator
        return turned


def matvec(
    A: Any,
    x: Any,
    *,
    backend: str = "threads",
    layout: str = "rows",
    ranks: int | None = None,
    grid: Sequence[int] | None = None,
    overlap: bool = False,
    **options: Any,
) -> np.ndarray:
    """y = A x on ranks, NumPy in and NumPy out.

    For more than one product with one matrix make a `DenseOperator`, which distributes A once.

    Parameters
    ----------
    A : (m, n) array
    x : (n,) or (n, 1) array
    backend, layout, ranks, grid, overlap, options
        As for `DenseOperator`.

    Returns
    -------
    (m,) array, or (m, 1) where x is (n, 1)

    Raises
    ------
    TypeError
        A or x is not numeric.
    ValueError
        Shapes that do not fit, NaN or infinity, a grid that does not fit the ranks.

    Examples
    --------
    >>> import numpy as np, tilewright as tw
    >>> tw.matvec(np.eye(3), np.arange(3.0), layout="grid", grid=(2, 2))
    array([0., 1., 2.])
    """
    matrix, vector = _numbers(A, "A"), _numbers(x, "x")
    if matrix.ndim != 2:
        raise ValueError(f"A must have two dimensions, not shape {matrix.shape}")
    if vector.shape not in ((matrix.shape[1],), (matrix.shape[1], 1)):
        raise ValueError(f"x has shape {vector.shape}, but A has {matrix.shape[1]} columns")
    operator = DenseOperator(matrix, layout, ranks, grid=grid, backend=backend, overlap=overlap, **options)
    try:
        product: np.ndarray = operator @ vector
    finally:
        operator.close()
    return product


def _copied_by_ranks(backend: str) -> bool:
    """Whether data that ranks keep is a copy anyway."""
    if backend != "mpi":
        return False
    from tilewright.backends.mpi import is_rank

    return not is_rank()


def _owner(handle: Handle) -> int:
    return handle.index[0]


def _numbers(value: Any, name: str) -> np.ndarray:
    array = dense(value, name)
    if array.dtype.kind in "bui":
        return array.astype(np.float64)
    if (
        array.dtype.kind not in "fc"
        or array.dtype.itemsize < 4
        or array.dtype.itemsize > 16
        or array.dtype == np.longdouble
    ):
        raise TypeError(f"{name} must be float32, float64, complex64 or complex128, not {array.dtype}")
    return array


def _check_length(x: Any, product: str, shape: tuple[int, ...], axis: int) -> None:
    if isinstance(x, LinearOperator) or np.isscalar(x):
        return
    found, n = np.shape(x), shape[axis]
    if len(found) not in (1, 2) or found[0] != n:
        raise ValueError(f"{product} with a matrix of {shape[0]} x {shape[1]} needs x of shape ({n},) or ({n}, k), "
                         f"not {found}")  # fmt: skip


def _check_finite(array: np.ndarray, name: str) -> None:
    with np.errstate(all="ignore"):
        suspicious = array.size and not np.isfinite(array.sum())
    if suspicious and not np.isfinite(array).all():
        where = ", ".join(map(str, np.argwhere(~np.isfinite(array))[0]))
        raise ValueError(f"{name} has NaN or infinity, first at [{where}]")
