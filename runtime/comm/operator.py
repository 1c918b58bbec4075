"""What dense and sparse operators have in common: what goes in and comes out, `T` and `H`, closing, copying, where.

A `LinearOperator` of SciPy's is given NumPy arrays by SciPy's solvers, and anything by users. Here every vector goes
through `tilewright.arguments.dense`; the result has NumPy's promoted dtype, and is a tensor where a tensor came in.
"""

from __future__ import annotations

import threading
from abc import abstractmethod
from numbers import Number
from typing import Any, Self

import numpy as np
from scipy.sparse.linalg import LinearOperator

from tilewright.arguments import like, numeric
from tilewright.backends import engine_class
from tilewright.host.cores import cores
from tilewright.resident import check_home
from tilewright.scalars import ranks as rank_count
from tilewright.scalars import whole

__all__ = ["Operator", "check_finite", "count", "place"]


class Operator(LinearOperator):
    """A matrix whose parts live on ranks.

    Threads may use one operator at the same time; its products take turns. Under ``mpiexec`` products are collective,
    so all ranks make them in one order, in one thread each.

    A pickle, `copy.copy` and `copy.deepcopy` are operators of their own, with a copy of the matrix, where that lies in
    this process. An operator whose parts lie on MPI ranks raises TypeError instead.

    `close` frees the parts, and so does the end of a ``with`` block.
    """

    backend: str
    """The engine."""
    ranks: int
    """How many ranks have a part."""
    check_finite: bool
    """Whether NaN and infinity are refused."""
    dtype: np.dtype

    def _begin(self, dtype: Any, shape: tuple[int, ...]) -> None:
        start: Any = LinearOperator.__init__  # the stubs know only subclasses of one kind
        start(self, dtype=dtype, shape=shape)
        self._lock = threading.RLock()
        self._closed = False

    # ------------------------------------------------------------ products

    @abstractmethod
    def _product(self, x: np.ndarray, transposed: bool) -> np.ndarray:
        """A x or A^T x for (n,) or (n, k) contiguous x in the dtype of the product, which is that of the result."""

    @abstractmethod
    def _product_dtype(self, dtype: np.dtype) -> np.dtype:
        """The dtype of a product with a vector of this one. TypeError if there is none."""

    def _checked(self, x: Any, axis: int, product: str = "", what: str = "x") -> np.ndarray:
        """x, ``what`` in messages, as a C-ordered array of the dtype of the product."""
        array = numeric(x, what)
        if array.ndim not in (1, 2) or array.shape[0] != self.shape[axis]:
            if what != "x":
                raise ValueError(f"{what} must have shape ({self.shape[axis]},), not {array.shape}")
            name = product or ("A^T x" if axis == 0 else "A x")
            raise ValueError(
                f"{name} with a matrix of {self.shape[0]} x {self.shape[1]} needs x of shape "
                f"({self.shape[axis]},) or ({self.shape[axis]}, k), not {array.shape}"
            )
        if self.check_finite:
            check_finite(array, what)
        return np.ascontiguousarray(array, self._product_dtype(array.dtype))

    def _apply(self, x: Any, transposed: bool = False, conjugated: bool = False) -> Any:
        """A x, A^T x, conj(A) x or A^H x, of the kind of x."""
        if isinstance(x, LinearOperator | Number):
            turned: LinearOperator = self if not (transposed or conjugated) else Turned(self, transposed, conjugated)
            return LinearOperator.dot(turned, x)  # type: ignore[arg-type] # SciPy takes numbers too
        name = ("A^H x" if conjugated else "A^T x") if transposed else "A x"
        vector = self._checked(x, 0 if transposed else 1, name)
        conjugated = conjugated and self.dtype.kind == "c"
        y = self._product(vector.conj() if conjugated else vector, transposed)
        return like(y.conj() if conjugated else y, x)

    def dot(self, x: Any) -> Any:
        return self._apply(x)

    def matvec(self, x: Any) -> Any:
        return self._apply(x)

    def matmat(self, X: Any) -> Any:
        return self._apply(X)

    def rmatvec(self, x: Any) -> Any:
        return self._apply(x, True, True)

    def rmatmat(self, X: Any) -> Any:
        return self._apply(X, True, True)

    def _matvec(self, x: Any) -> Any:
        return self._apply(x)

    def _matmat(self, X: Any) -> Any:
        return self._apply(X)

    def _rmatvec(self, x: Any) -> Any:
        return self._apply(x, True, True)

    def _rmatmat(self, X: Any) -> Any:
        return self._apply(X, True, True)

    def _transpose(self) -> LinearOperator:
        return Turned(self, True, False)

    def _adjoint(self) -> LinearOperator:
        return Turned(self, True, True)

    # ------------------------------------------------------------ life

    @abstractmethod
    def _free(self) -> None:
        """Give back what is kept."""

    @abstractmethod
    def _rebuild(self) -> tuple[Any, dict[str, Any]]:
        """The matrix and the keywords that make this operator again, in this process or another."""

    @property
    def on_ranks(self) -> bool:
        """Whether the matrix lies on ranks of MPI."""
        return engine_class(self.backend).on_ranks

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def close(self) -> None:
        """Free the parts of the matrix now, after the product that is going on; otherwise they go with this object."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._free()

    def _gone(self) -> RuntimeError:
        return RuntimeError(f"what was kept on the ranks is gone since close(); make this {type(self).__name__} again")

    def _open(self) -> None:
        if self._closed:
            raise self._gone()

    def __enter__(self) -> Self:
        self._open()
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        name = type(self).__name__
        if self.on_ranks:
            raise TypeError(
                f"a {name} whose matrix lies on MPI ranks can be neither pickled nor copied; make another of the matrix"
            )
        with self._lock:
            self._open()
            return _again, (type(self), *self._rebuild())


def _again(kind: Any, matrix: Any, settings: dict[str, Any]) -> Operator:
    made: Operator = kind(matrix, **settings)
    return made


class Turned(LinearOperator):
    """A^T, A^H or conj(A) of an operator A."""

    def __init__(self, operator: Operator, transposed: bool, conjugated: bool) -> None:
        self.operator, self.transposed, self.conjugated = operator, transposed, conjugated
        start: Any = LinearOperator.__init__
        start(self, dtype=operator.dtype, shape=operator.shape[::-1] if transposed else operator.shape)

    def dot(self, x: Any) -> Any:
        return self.operator._apply(x, self.transposed, self.conjugated)

    def _back(self, x: Any) -> Any:
        return self.operator._apply(x, not self.transposed, not self.conjugated)

    matvec = matmat = _matvec = _matmat = dot  # type: ignore[assignment] # the stubs overload them
    rmatvec = rmatmat = _rmatvec = _rmatmat = _back  # type: ignore[assignment]

    def _turned(self, transposed: bool, conjugated: bool) -> LinearOperator:
        return Turned(self.operator, transposed, conjugated) if transposed or conjugated else self.operator

    def _transpose(self) -> LinearOperator:
        return self._turned(not self.transposed, self.conjugated)

    def _adjoint(self) -> LinearOperator:
        return self._turned(not self.transposed, not self.conjugated)

    def __reduce__(self) -> tuple[Any, ...]:
        return Turned, (self.operator, self.transposed, self.conjugated)


# ------------------------------------------------------------------ where


def place(backend: str | None, ranks: int | None, pool: Any, comm: Any) -> tuple[int | None, Any, Any]:
    """Where an operator lives: (ranks or None where nothing says how many, pool or None, communicator or None).

    On MPI the ranks are those of ``comm``, on the ranks of ``mpiexec`` all of them; else those of ``pool``, else of
    the ``with`` block's, if ``ranks`` does not ask for another number. Without them it is a pool that is kept between
    calls: None.

    Raises
    ------
    ValueError
        Unknown backend, ``pool`` or ``comm`` without MPI, ``ranks`` other than there are.
    TypeError
        One of them is of another kind.
    """
    check_home(backend, pool, comm)
    if ranks is not None:
        ranks = rank_count(ranks)
    if not engine_class(backend).on_ranks:
        return ranks, None, None
    from tilewright.backends.mpi.options import is_rank

    if comm is None and is_rank():
        from mpi4py import MPI

        comm = MPI.COMM_WORLD
    if comm is not None:
        if pool is not None:
            raise ValueError("this process is a rank under mpiexec; pass comm, not pool")
        return _agreed(ranks, comm.size), None, comm
    if pool is None:
        from tilewright.backends.mpi import pool as pools

        active = pools.active()
        pool = active if active is not None and ranks in (None, active.ranks) else None
    return (ranks if pool is None else _agreed(ranks, pool.ranks)), pool, None


def _agreed(ranks: int | None, there: int) -> int:
    if ranks not in (None, there):
        raise ValueError(f"ranks={ranks}, but there are {there}")
    return there


def default_ranks(ranks: int | None) -> int:
    """What nothing said: one rank a core."""
    return cores() if ranks is None else ranks


# ------------------------------------------------------------------ checks


def count(name: str, value: Any, least: int) -> int:
    """An integer of at least ``least``. TypeError or ValueError with its name."""
    return whole(value, name, least)


def check_finite(array: np.ndarray, name: str) -> None:
    """ValueError with the place of the first NaN or infinity."""
    if array.dtype.kind in "fc" and not all_finite(array):
        place = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        where = f"[{', '.join(map(str, place))}]"
        raise ValueError(
            f"{name} has NaN or infinity, first at {where}: {name}{where} is {array[place]}; "
            f"check_finite=False skips this check"
        )


def all_finite(values: np.ndarray) -> bool:
    """Whether all are finite. A sum of squares tells mostly, in one fast pass; it may also overflow."""
    flat = values.reshape(-1)
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(np.vdot(flat, flat))) or bool(np.isfinite(flat).all())
