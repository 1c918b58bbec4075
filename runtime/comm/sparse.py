"""Sparse matrix-vector products on several ranks: find the structure once, multiply many times.

``SparseOperator`` is the inspector and the executor of the lecture's sparse part as one
`scipy.sparse.linalg.LinearOperator`. See `tilewright.comm.inspector` for what a rank has and needs, `neighbours` for
how ranks learn who needs something of them, `closure` for several products with one exchange, `products` for the
graphs. The lecture is V. Eijkhout's *Parallel scalability*.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tilewright.arguments import like
from tilewright.backends import named
from tilewright.comm.closure import METHODS, Closure
from tilewright.comm.executor import Executor
from tilewright.comm.inspector import as_csr, check_dtype
from tilewright.comm.neighbours import chosen
from tilewright.comm.operator import Operator, all_finite, default_ranks, place
from tilewright.comm.operator import count as _count
from tilewright.comm.partition import Exchange, by_rows, exchange, positions
from tilewright.comm.partition import partition as find_partition
from tilewright.comm.structure import Plan, SparseStructure
from tilewright.keywords import strict
from tilewright.machine import Machine
from tilewright.scalars import flag, positive

if TYPE_CHECKING:
    from tilewright.backends.mpi.pool import Pool
    from tilewright.comm.inspector import Piece
    from tilewright.graph import TaskGraph
    from tilewright.kinds import Matrix, Sparse
    from tilewright.runs.run import Run

__all__ = ["SparseOperator"]

_MIDDLING = 32  # binary exponent


@strict
class SparseOperator(Operator):
    """A sparse matrix whose rows live on ranks.

    ``op @ x``, ``op.T @ x``, ``op.H @ x`` take and return whole vectors, (n,) or (n, k) for k at once. SciPy's solvers
    take the operator as it is.

    Parameters
    ----------
    A
        (m, n) sparse matrix in any format, or a 2-D array; converted to canonical CSR, not changed, and copied: changed
        afterwards it changes nothing. Any dtype that SciPy multiplies, 32- or 64-bit indices. Products have the dtype
        `np.result_type` of A and x.
    ranks
        How many; by default those of the pool or the communicator, else one per core. They may be more than rows.
    partition
        Who owns which row: ``"rows"`` (equal blocks), ``"bisection"``, ``"metis"``, a `Partition` or n owners.
        Variables belong to the owner of their row; columns of a matrix that is not square to equal blocks.
    discovery
        How ranks find out who needs something of them: ``"auto"``, ``"reduce-scatter"``, ``"nbx"``, ``"alltoall"``.
    backend
        ``"mpi"``: the rows stay on the ranks of a pool, or, under ``mpiexec``, of a communicator; the call is then
        collective and all ranks pass the same A and x. Other engines run the same products as task graphs in this
        process.
    coordinates
        (n, d) positions of the variables, for ``"bisection"``.
    check_finite
        Refuse NaN and infinity in A and x.
    synchronous
        Let each send wait for its receive; finds deadlocks.
    workers, pool, comm
        Options of the engine: `tilewright.run`, `tilewright.backends.mpi.engine`.

    Raises
    ------
    ValueError
        A is no matrix or has a NaN or infinity; partition, discovery, backend or ranks that there are not; a partition
        other than ``"rows"`` for a matrix that is not square.
    TypeError
        A has no numbers, or numbers SciPy has no product for.
    ImportError
        ``"metis"`` without pymetis, ``"mpi"`` without mpi4py.

    Notes
    -----
    Set-up takes O(entries log entries) once. A product sends one message per pair of ranks where one needs something of
    the other, each x_j at most once in it, and takes O(entries / ranks) on each.

    Memory: the matrix twice, here for plans that are made later and in pieces on the ranks; the pieces again in each
    further dtype that products have.

    See `tilewright.comm.operator.Operator` for threads, copies and pickles.

    The order of each row's sum depends on the partition alone (own columns first): all engines, and `powers` by any
    method, give the same bits. Lecture: "MPI implementation", rows S1 to S9.

    Examples
    --------
    >>> import numpy as np, scipy.sparse as sp, tilewright as tw
    >>> A = sp.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(6, 6))
    >>> op = tw.SparseOperator(A, ranks=3, backend="serial")
    >>> op @ np.arange(6.0)
    array([-1.,  0.,  0.,  0.,  0.,  6.])
    >>> op.exchange.words, op.exchange.messages
    (4, 4)
    """

    def __init__(
        self,
        A: Sparse | Matrix,
        *,
        ranks: int | None = None,
        partition: Any = "rows",
        discovery: str = "auto",
        backend: str | None = None,
        coordinates: np.ndarray | None = None,
        check_finite: bool = True,
        synchronous: bool = False,
        workers: int | None = None,
        pool: Pool | None = None,
        comm: Any = None,
    ) -> None:
        matrix = as_csr(A)
        self.check_finite = flag(check_finite, "check_finite")
        if check_finite:
            _check_values(matrix)
        ranks, pool, comm = place(backend, ranks, pool, comm)
        ranks = default_ranks(ranks)
        chosen(discovery, ranks)
        synchronous = flag(synchronous, "synchronous")
        workers = None if workers is None else positive(workers, "workers")
        if coordinates is not None:
            coordinates = positions(coordinates, matrix.shape[0])
        rows = find_partition(matrix, ranks, partition, coordinates)
        columns = rows if matrix.shape[0] == matrix.shape[1] else by_rows(matrix.shape[1], ranks)
        self._kept: SparseStructure | None = SparseStructure(matrix, rows, columns)
        self._entries = int(matrix.nnz)
        self.partition = rows
        """Who owns which row."""
        self.ranks = ranks
        self.backend = named(backend)
        self._settings = {
            "ranks": ranks,
            "partition": rows,
            "discovery": discovery,
            "backend": self.backend,
            "workers": workers,
            "check_finite": check_finite,
            "synchronous": synchronous,
        }
        self._begin(matrix.dtype, matrix.shape)
        self._live: Executor | None = self._executor(discovery, synchronous, workers, pool, comm)

    @property
    def executor(self) -> Executor:
        """How products run. RuntimeError after `close`."""
        executor = self._live
        if executor is None:
            raise self._gone()
        return executor

    @property
    def structure(self) -> SparseStructure:
        """The matrix, who owns it, and the plans for it. RuntimeError after `close`."""
        structure = self._kept
        if structure is None:
            raise self._gone()
        return structure

    def _executor(self, discovery: str, synchronous: bool, workers: int | None, pool: Any, comm: Any) -> Executor:
        line = None
        if comm is not None:
            from tilewright.backends.mpi.part import agreement, wires

            line = wires(comm).data
            with agreement(line) as facts:
                A, rows = self.structure.A, self.structure.rows
                facts["matrix"] = f"{A.shape} {A.dtype} with {A.nnz} entries (checksum {_checksum(A)})"
                facts["partition"] = f"{rows.name} (checksum {_checksum(rows)})"
                facts["discovery"] = discovery
        return Executor(self.structure, discovery, self.backend, workers, synchronous, pool, line)

    # ------------------------------------------------------------ products

    def multiply(self, x: Matrix, out: np.ndarray | None = None, *, transposed: bool = False) -> np.ndarray:
        """A x, or A^T x.

        Parameters
        ----------
        x
            (n,) or (n, k) numbers; (m,) or (m, k) if transposed.
        out
            Where to put the result, if given: C-ordered, of the result's shape and dtype. With ``backend="mpi"``,
            vectors made by `vector` are read and written where they are.

        Raises
        ------
        ValueError
            x or ``out`` has another shape or dtype, or x has a NaN or infinity.
        TypeError
            x has no numbers.
        """
        vector = self._checked(x, 0 if transposed else 1)
        if out is not None:
            shape = (self.shape[1 if transposed else 0], *vector.shape[1:])
            if not isinstance(out, np.ndarray):
                raise TypeError(f"out must be a NumPy array, not a {type(out).__name__}")
            if out.shape != shape or out.dtype != vector.dtype or not out.flags.c_contiguous:
                raise ValueError(
                    f"out must be a C-ordered array of shape {shape} and dtype {vector.dtype}, "
                    f"not {out.dtype} of shape {out.shape}"
                )
            if not out.flags.writeable:
                raise ValueError("out is read-only")
            return self.executor.product(vector, transposed, out)
        result: np.ndarray = like(self.executor.product(vector, transposed, None), x)
        return result

    def _product(self, x: np.ndarray, transposed: bool) -> np.ndarray:
        return self.executor.product(x, transposed)

    def repeat(self, x: Matrix, times: int) -> np.ndarray:
        """A^times x, with no discovery and, on ranks, nothing else between the products. A is square."""
        self._check_square("repeat")
        result: np.ndarray = like(self.executor.repeat(self._checked(x, 1), _count("times", times, 0)), x)
        return result

    def powers(self, x: Matrix, s: int, method: str = "halo", block: int | None = None) -> np.ndarray:
        """[x, A x, ..., A^s x], exchanging once for several products.

        Parameters
        ----------
        x
            (n,) or (n, k).
        s
            How many products.
        method
            ``"separate"``: an exchange for each product. ``"halo"``: one, of everything within reach; some components
            of others are computed again. ``"two-stage"``: one, of what others could compute without any; about half as
            many are computed again. See `tilewright.comm.closure`.
        block
            Products per exchange; s by default. About sqrt(alpha / gamma) is best, see `block_size`.

        Returns
        -------
        (s + 1, n) or (s + 1, n, k) array. All methods and blocks give the same bits.

        Raises
        ------
        ValueError
            An unknown method, s or block below 1, a matrix that is not square, or as `multiply`.

        Notes
        -----
        Inner components are computed while the messages travel, in both methods. Lecture: rows L0 to L5.
        """
        vector = self._checked(x, 1)
        levels: np.ndarray = like(self.executor.powers(vector, self._blocks(s, method, block), None), x)
        return levels

    def _blocks(self, s: int, method: str, block: int | None) -> list[Plan | None]:
        """What each exchange serves."""
        self._check_square("powers")
        s = _count("s", s, 1)
        block = s if block is None else min(_count("block", block, 1), s)
        if method not in METHODS:
            raise ValueError(f"unknown method {method!r}; known: {', '.join(METHODS)}")
        if method == "separate":
            return [None] * s
        full, rest = divmod(s, block)
        plans: list[Plan | None] = [(block, method, False)] * full
        return plans + [(rest, method, False)] * bool(rest)

    def _product_dtype(self, dtype: np.dtype) -> np.dtype:
        promoted = np.result_type(self.dtype, dtype)
        check_dtype(promoted)
        return promoted

    def _check_square(self, what: str) -> None:
        if self.shape[0] != self.shape[1]:
            raise ValueError(f"{what} needs a square matrix, not {self.shape[0]} x {self.shape[1]}")

    def check_hermitian(self) -> None:
        """ValueError if A is not Hermitian to rounding. Looked at once."""
        if not hasattr(self, "_hermitian"):
            A = self.structure.A
            A = A.astype(np.float64) if A.dtype.kind in "biu" else A
            difference = abs(A - A.conj().T)
            allowed = max(1e-8, 16 * float(np.finfo(A.dtype).eps))  # a float32 matrix has rounding errors of its own
            self._hermitian = bool(not difference.nnz or difference.max() <= allowed * abs(A).max())
        if not self._hermitian:
            raise ValueError("conjugate gradients need a Hermitian matrix, and A differs from its conjugate transpose")

    @property
    def scale(self) -> int:
        """e for entries of A near 2^e; 0 unless they are so large or so small that sums of products need care."""
        values = self.structure.A.data
        top = float(np.abs(values).max(initial=0)) if values.dtype.kind in "fc" else 0.0
        exponent = int(np.frexp(top)[1]) if top and np.isfinite(top) else 0
        return exponent if abs(exponent) > _MIDDLING else 0

    def vector(self, k: int | None = None, dtype: Any = None) -> np.ndarray:
        """Zeros of shape (n,) or (n, k); with a pool they lie in memory that the ranks read and write in place."""
        shape = (self.shape[1],) if k is None else (self.shape[1], k)
        return self.executor.vector(shape, self.dtype if dtype is None else dtype)

    # ------------------------------------------------------------ graphs

    @property
    def exchange(self) -> Exchange:
        """Words and messages of one product."""
        return exchange(self.structure.A, self.structure.rows, self.structure.columns)

    def run(
        self,
        x: Matrix,
        s: int = 1,
        method: str = "separate",
        *,
        block: int | None = None,
        transposed: bool = False,
        **options: Any,
    ) -> tuple[np.ndarray, Run]:
        """The products as a run of their task graph.

        ``options`` are those of `tilewright.run`, ``backend`` among them. Returns ((s + 1, n) levels, the run): what
        ran when, messages, idle times.
        """
        kind: Any = "transposed" if transposed else tuple(self._blocks(s, method, block))
        return self.executor.run(self._checked(x, 0 if transposed else 1), kind, **options)

    def simulate(
        self,
        machine: Machine,
        s: int = 1,
        method: str = "separate",
        *,
        block: int | None = None,
        transposed: bool = False,
        overlap: bool = True,
    ) -> Run:
        """Predict the run of the same graph on a machine with these ranks, messages included. Nothing is computed.

        ``overlap=False`` lets each rank wait for its messages before it computes, as the lecture's formulas do.
        """
        kind: Any = "transposed" if transposed else tuple(self._blocks(s, method, block))
        return self.executor.simulate(machine, kind, self.dtype, overlap=overlap)

    def graph(
        self, s: int = 1, method: str = "separate", *, block: int | None = None, transposed: bool = False
    ) -> TaskGraph:
        """The task graph of s products, without its data."""
        return self.assembly(s, method, block=block, transposed=transposed).graph

    def assembly(
        self, s: int = 1, method: str = "separate", *, block: int | None = None, transposed: bool = False
    ) -> Any:
        """The task graph of s products with its buffers, and where x and its products lie in them."""
        kind: Any = "transposed" if transposed else tuple(self._blocks(s, method, block))
        return self.executor.graph(kind, self.dtype, ())

    def closures(self, s: int, method: str = "halo") -> list[Closure]:
        """By rank, the sets of s products with one exchange: words, messages, redundant components."""
        self._check_square("closures")
        if method not in METHODS[1:]:
            raise ValueError(f"unknown method {method!r}; known: {', '.join(METHODS[1:])}")
        return self.executor.plan((_count("s", s, 1), method, False))

    @property
    def pieces(self) -> list[Piece]:
        """By rank, what it has, needs and sends."""
        return self.executor.pieces

    def __repr__(self) -> str:
        state = ", closed" * self._closed
        return (
            f"SparseOperator({self.shape[0]} x {self.shape[1]}, {self._entries} entries, {self.dtype}, "
            f"ranks={self.ranks}, partition={self.partition.name!r}, backend={self.backend!r}{state})"
        )

    # ------------------------------------------------------------ life

    def _free(self) -> None:
        executor, self._live = self._live, None
        self._kept = None
        if executor is not None:
            executor.close()

    def _rebuild(self) -> tuple[Any, dict[str, Any]]:
        return self.structure.A, self._settings


# ------------------------------------------------------------------ checks


def _check_values(A: Any) -> None:
    if A.dtype.kind in "fc" and not all_finite(A.data):
        bad = int(np.flatnonzero(~np.isfinite(A.data))[0])
        row = int(np.searchsorted(A.indptr, bad, "right")) - 1
        raise ValueError(f"A[{row}, {A.indices[bad]}] is {A.data[bad]}; check_finite=False skips this check")


def _checksum(thing: Any) -> int:
    import zlib

    if hasattr(thing, "owner"):
        return zlib.crc32(thing.owner.tobytes())
    total = 0
    for array in (thing.indptr, thing.indices, thing.data):
        total = zlib.crc32(array.tobytes(), total)
    return total
