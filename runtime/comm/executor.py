"""The executor: sparse products on the ranks of MPI, on data that stays there. Imported on ranks only.

A rank keeps its piece of the matrix in its own memory, and for each kind of product the buffers and persistent requests
of its exchange. A product starts its receives and sends, multiplies the local block while they travel, waits, and adds
the remote part. Functions here that take a ``token`` are called by all ranks of a pool together, see `Pool.call`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from time import perf_counter, sleep
from typing import Any

import numpy as np
from mpi4py import MPI

from tilewright.comm import mpi_endpoint
from tilewright.comm.cg import Report, length
from tilewright.comm.cg import solve as solve_together
from tilewright.comm.closure import Closure
from tilewright.comm.inspector import Piece, mapped
from tilewright.comm.neighbours import discover
from tilewright.comm.products import finish, multiply_transposed, recur
from tilewright.comm.products import multiply as multiply_local
from tilewright.host.cores import cores
from tilewright.kernels import csr, diagonals
from tilewright.kernels.diagonals import Diagonals

__all__ = ["RankOperator", "create", "drop", "multiply", "plan", "powers", "repeat", "solve", "solve_part",
           "time_products"]  # fmt: skip

TAG = 1 << 13  # below it are the tags of runs, above it those of discoveries
SPIN = 5e-3  # seconds of testing without a break, where every rank has a core


class Lines:
    """Persistent sends and receives between fixed buffers."""

    def __init__(self, comm: MPI.Intracomm, sends: Iterable[tuple[int, np.ndarray]],
                 receives: Iterable[tuple[int, np.ndarray]], *, tag: int, synchronous: bool) -> None:  # fmt: skip
        post = comm.Ssend_init if synchronous else comm.Send_init
        self.sends: list[Any] = [post([_bytes(buffer), MPI.BYTE], to, tag) for to, buffer in sends]
        self.receives: list[Any] = [
            comm.Recv_init([_bytes(buffer), MPI.BYTE], source, tag) for source, buffer in receives
        ]
        self.polite = comm.size > cores()

    def listen(self) -> None:
        if self.receives:
            MPI.Prequest.Startall(self.receives)

    def send(self) -> None:
        if self.sends:
            MPI.Prequest.Startall(self.sends)

    def wait(self, requests: list[Any]) -> None:
        """Until all are through; ranks that share cores give theirs away between two looks."""
        if not requests or MPI.Request.Testall(requests):
            return
        deadline = perf_counter() + SPIN
        while not MPI.Request.Testall(requests):
            if self.polite:
                sleep(0)
            if perf_counter() > deadline:
                sleep(50e-6)

    def free(self) -> None:
        for request in self.sends + self.receives:
            request.Free()


class Product:
    """y := A x and y := A^T x for one dtype and one number of vectors."""

    def __init__(self, comm: MPI.Intracomm, piece: Piece, form: Diagonals | None, trailing: tuple[int, ...],
                 synchronous: bool) -> None:  # fmt: skip
        self.piece, self.form = piece, form
        dtype = piece.local.values.dtype
        self.ghosts = np.empty((len(piece.ghosts), *trailing), dtype)
        self.asked = np.concatenate([*piece.wanted.values(), np.zeros(0, np.int64)]).astype(np.int64)
        self.outgoing = np.empty((len(self.asked), *trailing), dtype)
        self.edge = np.empty((len(piece.boundary), *trailing), dtype)
        mine = [(q, self.ghosts[a:b]) for q, (a, b) in piece.sources.items()]
        ends = np.cumsum([0, *map(len, piece.wanted.values())]).tolist()
        self.returned = [
            (places, self.outgoing[a:b]) for places, a, b in zip(piece.wanted.values(), ends, ends[1:], strict=False)
        ]
        theirs = [(q, buffer) for q, (_, buffer) in zip(piece.wanted, self.returned, strict=True)]
        self.forward = Lines(comm, theirs, mine, tag=TAG, synchronous=synchronous)
        self.backward = Lines(comm, mine, theirs, tag=TAG + 1, synchronous=synchronous)

    def multiply(self, x: np.ndarray, y: np.ndarray) -> None:
        """y := A x, for the parts of x and y that this rank owns."""
        piece, lines = self.piece, self.forward
        lines.listen()
        if lines.sends:
            np.take(x, self.asked, axis=0, out=self.outgoing, mode="clip")
            lines.send()
        multiply_local(piece.local, self.form, x, y)
        if lines.receives:
            lines.wait(lines.receives)
            np.take(y, piece.boundary, axis=0, out=self.edge, mode="clip")
            csr.multiply_add(piece.remote.indptr, piece.remote.indices, piece.remote.values, self.ghosts, self.edge)
            y[piece.boundary] = self.edge
        lines.wait(lines.sends)

    def multiply_transposed(self, x: np.ndarray, y: np.ndarray) -> None:
        """y := A^T x: what others own of the result goes to them and is added there, in the order of the ranks."""
        piece, lines = self.piece, self.backward
        lines.listen()
        if lines.sends:
            np.take(x, piece.boundary, axis=0, out=self.edge, mode="clip")
            self.ghosts.fill(0)
            csr.transposed_multiply_add(
                piece.remote.indptr, piece.remote.indices, piece.remote.values, self.edge, self.ghosts
            )
            lines.send()
        multiply_transposed(piece.local, self.form, x, y)
        lines.wait(lines.receives)
        for places, part in self.returned:
            y[places] += part
        lines.wait(lines.sends)

    def free(self) -> None:
        self.forward.free()
        self.backward.free()


class Blocked:
    """s products with one exchange."""

    def __init__(self, comm: MPI.Intracomm, piece: Piece, form: Diagonals | None, plan: Closure,
                 trailing: tuple[int, ...], synchronous: bool) -> None:  # fmt: skip
        self.piece, self.form, self.plan = piece, form, plan
        dtype = piece.local.values.dtype
        self.levels = [np.zeros((plan.size, *trailing), dtype) for _ in range(plan.steps + 1)]
        self.out = {q: np.empty((places.shape[1], *trailing), dtype) for q, places in plan.wanted.items()}
        self.come = {q: np.empty((places.shape[1], *trailing), dtype) for q, places in plan.sources.items()}
        self.lines = Lines(comm, self.out.items(), self.come.items(), tag=TAG + 2, synchronous=synchronous)
        self.packing = [_by_level(places, self.out[q]) for q, places in plan.wanted.items()]
        self.unpacking = [_by_level(places, self.come[q]) for q, places in plan.sources.items()]

    def multiply(self, x: np.ndarray, coefficients: np.ndarray | None = None) -> list[np.ndarray]:
        """Levels 0 to s, this rank's part; views that the next call changes."""
        plan, levels, lines = self.plan, self.levels, self.lines
        lines.listen()
        levels[0][: plan.own] = x
        top = plan.top
        for k in range(1, top + 1):
            self._inner(k, coefficients)
        for parts in self.packing:
            for k, places, part in parts:
                np.take(levels[k], places, axis=0, out=part, mode="clip")
        lines.send()
        for k in range(top + 1, plan.steps + 1):
            self._inner(k, coefficients)
        lines.wait(lines.receives)
        for parts in self.unpacking:
            for k, places, part in parts:
                levels[k][places] = part
        for k, level in enumerate(plan.levels, start=1):
            if len(level.rows):
                block = level.block
                finish(block.indptr, block.indices, block.values, level.rows, k, coefficients, levels[k - 1],
                       levels[k - 2] if k > 1 else None, levels[k])  # fmt: skip
        lines.wait(lines.sends)
        return [level[: plan.own] for level in levels]

    def _inner(self, k: int, coefficients: np.ndarray | None) -> None:
        first, last = self.plan.levels[k - 1].inner
        if last > first:
            levels, own = self.levels, self.plan.own
            y = levels[k][first:last]
            multiply_local(self.piece.local, self.form, levels[k - 1][:own], y, first)
            recur(y, coefficients, k, levels[k - 1][first:last], levels[k - 2][first:last] if k > 1 else None)

    def free(self) -> None:
        self.lines.free()


def _bytes(buffer: np.ndarray) -> np.ndarray:
    return buffer.reshape(-1).view(np.uint8)


def _by_level(places: np.ndarray, buffer: np.ndarray) -> list[tuple[int, np.ndarray, np.ndarray]]:
    """(level, places, part of the buffer) for each level; levels ascend in a message."""
    level, place = places
    found = []
    for k in np.unique(level).tolist():
        first, last = np.searchsorted(level, [k, k + 1])
        found.append((k, place[first:last], buffer[first:last]))
    return found


class RankOperator:
    """One rank's part of an operator, ready for products of any dtype and number of vectors."""

    def __init__(self, comm: MPI.Intracomm, piece: Piece, discovery: str, synchronous: bool) -> None:
        self.comm = comm
        self.synchronous = synchronous
        end = mpi_endpoint.endpoint(comm)
        piece.take_requests(mpi_endpoint.drive(discover(end, piece.requests, discovery, synchronous)))
        self.piece = piece
        self._end, self._discovery = end, discovery
        self._pieces: dict[np.dtype, Piece] = {}
        self._forms: dict[np.dtype, Diagonals | None] = {}
        self._products: dict[Any, Product] = {}
        self._blocked: dict[Any, Blocked] = {}
        self._plans: dict[Any, Closure] = {}
        self._as(piece.local.values.dtype)

    def _as(self, dtype: np.dtype) -> tuple[Piece, Diagonals | None]:
        """The piece with values of a dtype, and its local block by diagonals if that is the better form."""
        if dtype not in self._pieces:
            same = dtype == self.piece.local.values.dtype
            piece = self._pieces[dtype] = self.piece if same else self.piece.cast(dtype)
            local = piece.local
            self._forms[dtype] = diagonals.find(local.indptr, local.indices, local.values, local.columns)
        return self._pieces[dtype], self._forms[dtype]

    def product(self, dtype: Any, trailing: tuple[int, ...] = ()) -> Product:
        key = np.dtype(dtype), trailing
        if key not in self._products:
            self._products[key] = Product(self.comm, *self._as(key[0]), trailing, self.synchronous)
        return self._products[key]

    def knows(self, name: Any) -> bool:
        return name in self._plans

    def learn(self, name: Any, closure: Closure) -> None:
        """Take part in the discovery of a plan for several products at once."""
        asked = mpi_endpoint.drive(discover(self._end, closure.requests, self._discovery, self.synchronous))
        mine = self.piece.rows
        closure.take_requests(asked, np.arange(mine.start, mine.stop) if isinstance(mine, slice) else mine)
        self._plans[name] = closure

    def blocked(self, name: Any, dtype: Any, trailing: tuple[int, ...] = ()) -> Blocked:
        key = name, np.dtype(dtype), trailing
        if key not in self._blocked:
            closure = self._plans[name]
            if key[1] != self.piece.local.values.dtype:
                closure = closure.cast(key[1])
            self._blocked[key] = Blocked(self.comm, *self._as(key[1]), closure, trailing, self.synchronous)
        return self._blocked[key]

    def free(self) -> None:
        for product in self._products.values():
            product.free()
        for blocked in self._blocked.values():
            blocked.free()


# ------------------------------------------------------------------ calls of a pool

_operators: dict[int, RankOperator] = {}


def create(comm: MPI.Intracomm, token: int, pieces: Sequence[Piece], discovery: str, synchronous: bool,
           dead: Sequence[int]) -> list[int]:  # fmt: skip
    """Keep this rank's piece, in memory of its own, and discover. Returns the ranks that ask this one."""
    drop(comm, dead)
    piece = mapped(pieces[comm.rank], np.array)
    _operators[token] = operator = RankOperator(comm, piece, discovery, synchronous)
    return list(operator.piece.wanted)


def drop(comm: MPI.Intracomm, dead: Sequence[int]) -> None:
    """Forget operators that nobody uses any more."""
    for token in dead:
        operator = _operators.pop(token, None)
        if operator is not None:
            operator.free()


def kept(comm: MPI.Intracomm) -> int:
    """How many operators this rank keeps."""
    return len(_operators)


def multiply(comm: MPI.Intracomm, token: int, x: np.ndarray, y: np.ndarray, transposed: bool) -> None:
    """y := A x or A^T x; x and y are whole vectors in memory that all ranks share."""
    operator = _operators[token]
    product, piece = operator.product(x.dtype, x.shape[1:]), operator.piece
    to, source = (piece.columns, piece.rows) if transposed else (piece.rows, piece.columns)
    method = product.multiply_transposed if transposed else product.multiply
    _through(method, x, source, y, to)


def _through(
    method: Callable[[np.ndarray, np.ndarray], None], x: np.ndarray, source: Any, y: np.ndarray, to: Any
) -> None:
    """Call with this rank's parts; a part that is a slice is used where it is."""
    if isinstance(to, slice):
        method(x[source], y[to])
    else:
        part = np.empty((len(to), *y.shape[1:]), y.dtype)
        method(x[source], part)
        y[to] = part


def repeat(comm: MPI.Intracomm, token: int, x: np.ndarray, y: np.ndarray, times: int) -> None:
    """y := A^times x, with nothing between the products."""
    operator = _operators[token]
    product, piece = operator.product(x.dtype, x.shape[1:]), operator.piece
    here = np.array(x[piece.columns])
    there = np.empty_like(here)
    for _ in range(times):
        product.multiply(here, there)
        here, there = there, here
    y[piece.rows] = here


def plan(comm: MPI.Intracomm, token: int, name: Any, closures: Sequence[Closure]) -> None:
    """Learn the sets of s products with one exchange."""
    _operators[token].learn(name, mapped(closures[comm.rank], np.array))


def powers(comm: MPI.Intracomm, token: int, blocks: Sequence[Any], coefficients: np.ndarray | None, x: np.ndarray,
           levels: np.ndarray) -> None:  # fmt: skip
    """levels[k] := A^k x. ``blocks`` has the name of a plan for each block, or None for one separate product."""
    operator = _operators[token]
    rows = operator.piece.rows
    here = np.array(x[rows])
    levels[0][rows] = here
    k = 0
    for name in blocks:
        if name is None:
            there = np.empty_like(here)
            operator.product(x.dtype, x.shape[1:]).multiply(here, there)
            made = [there]
        else:
            made = operator.blocked(name, x.dtype, x.shape[1:]).multiply(here, coefficients)[1:]
        for part in made:
            k += 1
            levels[k][rows] = part
        here = made[-1]


def time_products(comm: MPI.Intracomm, token: int, dtype: str, times: int, name: Any, steps: int) -> list[float]:
    """Seconds of each of ``times`` rounds of ``steps`` products on vectors that stay on the ranks, from barrier to end.

    ``name`` is a plan for all steps together, or None for separate products. One more round comes first and is not
    counted: it writes to new memory.
    """
    operator = _operators[token]
    piece = operator.piece
    x, y = np.ones(piece.size[1], dtype), np.empty(piece.size[0], dtype)
    product = operator.product(dtype)
    blocked = None if name is None else operator.blocked(name, dtype)
    seconds = []
    for _ in range(times + 1):
        comm.Barrier()
        start = perf_counter()
        if blocked is not None:
            blocked.multiply(x)
        else:
            here, there = x, y
            for _ in range(steps):
                product.multiply(here, there)
                here, there = there, here
        seconds.append(perf_counter() - start)
        x[:], y[:] = 1, 0
    return seconds[1:]


class _Part:
    """What `cg.solve` needs, on one rank."""

    def __init__(self, operator: RankOperator, dtype: np.dtype, method: str) -> None:
        self.operator, self.dtype, self.method = operator, dtype, method
        self.single = operator.product(dtype)

    def product(self, v: np.ndarray) -> np.ndarray:
        result = np.empty_like(v)
        product = self.single if v.dtype == self.dtype else self.operator.product(v.dtype)
        product.multiply(v, result)
        return result

    def basis(self, v: np.ndarray, s: int, coefficients: np.ndarray) -> np.ndarray:
        return np.array(self.operator.blocked((s, self.method, True), self.dtype, (2,)).multiply(v, coefficients))

    def gram(self, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        mine = np.asarray(u.conj().T @ v, order="C")
        parts = np.empty((self.operator.comm.size, *mine.shape), mine.dtype)
        self.operator.comm.Allgather([_bytes(mine), MPI.BYTE], [_bytes(parts), MPI.BYTE])
        return np.add.reduce(parts)  # in the order of the ranks, so that every run has the same bits

    def lengths(self, v: np.ndarray) -> list[tuple[float, int]]:
        return self.operator.comm.allgather(length(v))


def solve_part(operator: RankOperator, b: np.ndarray, x: np.ndarray, options: Mapping[str, Any]) -> Report:
    """Conjugate gradients on this rank's part of b and x; x is changed."""
    return solve_together(_Part(operator, b.dtype, options["method"]), b, x, options)


def solve(comm: MPI.Intracomm, token: int, b: np.ndarray, x: np.ndarray, options: Mapping[str, Any]) -> Report:
    """`solve_part` with whole vectors in memory that all ranks share."""
    operator = _operators[token]
    rows = operator.piece.rows
    mine = np.array(x[rows])
    report = solve_part(operator, np.array(b[rows]), mine, options)
    x[rows] = mine
    return report
