"""How the products of a `SparseOperator` run: as task graphs on an engine, on a pool of ranks, or as one of its ranks.

All three compute the same sums in the same order, so they give the same bits.
"""

from __future__ import annotations

import itertools
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from tilewright.comm.closure import Closure, closure, depths
from tilewright.comm.inspector import Piece, inspect, mapped
from tilewright.comm.neighbours import discover
from tilewright.comm.partition import Csr, Partition
from tilewright.comm.products import Assembly, blocked_graph, product_graph, transposed_graph
from tilewright.comm.simulated import SimulatedComm
from tilewright.graph import Handle
from tilewright.host.cores import cores

if TYPE_CHECKING:
    from tilewright.backends.mpi.pool import Pool
    from tilewright.machine import Machine
    from tilewright.runs.run import Run

__all__ = ["Driver", "GraphDriver", "PoolDriver", "RankDriver", "Structure", "plans_of"]

Plan = tuple[int, str, bool]
"""Steps, method, recurrence."""


def plans_of(options: Mapping[str, Any]) -> list[Plan]:
    """The plans that s-step conjugate gradients may use: s, and its halves to fall back on."""
    found = []
    s = options["s"]
    while s > 1:
        found.append((s, options["method"], True))
        s //= 2
    return found


class Structure:
    """A matrix, who owns it, and the plans for it: what the inspector knows, whatever runs the products."""

    def __init__(self, A: Csr, rows: Partition, columns: Partition) -> None:
        self.A, self.rows, self.columns = A, rows, columns
        self.ranks = rows.ranks
        self._depths = np.zeros(0, np.int64), 0

    def piece(self, rank: int) -> Piece:
        return inspect(self.A, self.rows, self.columns, rank)

    def closure(self, piece: Piece, plan: Plan) -> Closure:
        steps, method, recurrence = plan
        depth, known = self._depths
        if known < steps:
            self._depths = depth, _ = depths(self.A, self.rows, steps), steps
        return closure(self.A, self.rows, piece, steps, method, depth, recurrence=recurrence)


class Driver(ABC):
    """What a `SparseOperator` asks for. x and the results are whole vectors, (n,) or (n, k)."""

    structure: Structure

    @abstractmethod
    def product(self, x: np.ndarray, transposed: bool, out: np.ndarray | None = None) -> np.ndarray:
        """A x or A^T x, in ``out`` if there is one."""

    @abstractmethod
    def powers(self, x: np.ndarray, blocks: Sequence[Plan | None], coefficients: np.ndarray | None) -> np.ndarray:
        """(s + 1, n): x and the levels after it. A block is a plan, or None for one product with its own exchange."""

    def repeat(self, x: np.ndarray, times: int) -> np.ndarray:
        for _ in range(times):
            x = self.product(x, False)
        return x

    def vector(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """Zeros, where products need not copy them."""
        return np.zeros(shape, dtype)

    @abstractmethod
    def close(self) -> None:
        """Free the parts of the matrix, after the product that is going on."""


# ------------------------------------------------------------------ task graphs


class GraphDriver(Driver):
    """Every product is a run of a task graph. Each graph is built once, with its buffers."""

    def __init__(
        self, structure: Structure, discovery: str, backend: str, workers: int | None, synchronous: bool
    ) -> None:
        self.structure = structure
        self.backend, self.workers = backend, workers
        self.discovery, self.synchronous = discovery, synchronous
        self.pieces = [structure.piece(rank) for rank in range(structure.ranks)]
        self.discovered = self._discover([piece.requests for piece in self.pieces])
        """The communicator of the discovery: its messages, words and collectives."""
        for piece, asked in zip(self.pieces, self._asked, strict=True):
            piece.take_requests(asked)
        self._graphs: dict[Any, Assembly] = {}
        self._plans: dict[Plan, list[Closure]] = {}
        self._cast: dict[np.dtype, list[Piece]] = {}
        self._lock = threading.RLock()

    def close(self) -> None:
        with self._lock:
            self._graphs.clear()
            self._plans.clear()
            self._cast.clear()
            self.pieces.clear()

    def _discover(self, requests: list[Any]) -> SimulatedComm:
        comm = SimulatedComm(self.structure.ranks)
        self._asked = comm.run(lambda end: discover(end, requests[end.rank], self.discovery, self.synchronous))
        return comm

    def plan(self, plan: Plan) -> list[Closure]:
        """The closures of all ranks, each asked for what it sends."""
        with self._lock:
            if plan not in self._plans:
                closures = [self.structure.closure(piece, plan) for piece in self.pieces]
                self._discover([mine.requests for mine in closures])
                for rank, mine in enumerate(closures):
                    mine.take_requests(self._asked[rank], self.structure.rows.rows(rank))
                self._plans[plan] = closures
            return self._plans[plan]

    def graph(self, kind: Any, dtype: Any, trailing: tuple[int, ...], *, overlap: bool = True,
              coefficients: np.ndarray | None = None) -> Assembly:  # fmt: skip
        """The graph of a transposed product ("transposed") or of blocks, with buffers."""
        key = kind, np.dtype(dtype), trailing, overlap, coefficients is not None
        with self._lock:
            if key not in self._graphs:
                pieces = self._pieces(key[1])
                if kind == "transposed":
                    self._graphs[key] = transposed_graph(pieces, dtype, trailing)
                elif all(plan is None for plan in kind):
                    self._graphs[key] = product_graph(pieces, dtype, len(kind), trailing, overlap=overlap)
                else:
                    plans = [[mine.cast(dtype) for mine in self.plan(plan)] for plan in kind]
                    self._graphs[key] = blocked_graph(
                        pieces, plans, dtype, trailing, coefficients=coefficients, overlap=overlap
                    )
            return self._graphs[key]

    def _pieces(self, dtype: np.dtype) -> list[Piece]:
        if dtype == self.structure.A.dtype:
            return self.pieces
        if dtype not in self._cast:
            self._cast[dtype] = [piece.cast(dtype) for piece in self.pieces]
        return self._cast[dtype]

    def run(
        self, x: np.ndarray, kind: Any, coefficients: np.ndarray | None = None, **options: Any
    ) -> tuple[np.ndarray, Run]:
        """(levels, the run)."""
        with self._lock:
            work, done = self._execute(x, kind, coefficients, options)
            rows = self.structure.columns if kind == "transposed" else self.structure.rows
            levels = np.empty((len(work.outputs), len(rows), *x.shape[1:]), x.dtype)
            for level in range(len(work.outputs)):
                if level or len(rows) == len(x):
                    _collect(work, level, done, levels[level])
        return levels, done

    def _execute(
        self, x: np.ndarray, kind: Any, coefficients: np.ndarray | None, options: dict[str, Any]
    ) -> tuple[Assembly, Run]:
        """Run the graph on x; what it computed stays in its buffers."""
        from tilewright.engine import run

        work = self.graph(kind, x.dtype, x.shape[1:], coefficients=coefficients)
        if coefficients is not None:
            for rank in range(work.ranks):
                work.data[Handle("c", (rank,))][...] = coefficients
        for handle, place, size in work.outputs[0]:
            _copy(x[place], work.data[handle][:size])
        options = {"backend": self.backend, "workers": self.workers, "scheduler": "prio", **options}
        if options["backend"] in ("mpi", "dask"):
            there = options["pool"].ranks if options.get("pool") else options["workers"] or min(work.ranks, cores())
            options["workers"] = there
            options.setdefault("owner", {handle: rank % there for handle, rank in work.owner.items()})
        if options["backend"] == "mpi":
            options.setdefault("synchronous", self.synchronous)
        return work, run(work.graph, work.data, **options)

    def simulate(self, machine: Machine, kind: Any, dtype: Any, *, overlap: bool) -> Run:
        from tilewright.engine import simulate

        work = self.graph(kind, dtype, (), overlap=overlap)
        machine = machine.replace(ranks=work.ranks)
        return simulate(work.graph, machine, scheduler="prio", owner=work.owner.__getitem__, data=work.data)

    def product(self, x: np.ndarray, transposed: bool, out: np.ndarray | None = None) -> np.ndarray:
        with self._lock:
            work, done = self._execute(x, "transposed" if transposed else (None,), None, {})
            if out is None:
                out = np.empty((self.structure.A.shape[1 if transposed else 0], *x.shape[1:]), x.dtype)
            _collect(work, 1, done, out)
        return out

    def powers(self, x: np.ndarray, blocks: Sequence[Plan | None], coefficients: np.ndarray | None) -> np.ndarray:
        return self.run(x, tuple(blocks), coefficients)[0]


def _collect(work: Assembly, level: int, done: Run, target: np.ndarray) -> None:
    """All ranks' parts of a level, in its place of a whole vector."""
    for handle, place, size in work.outputs[level]:
        if isinstance(place, slice):
            _copy(done[handle][:size], target[place])
        else:
            target[place] = done[handle][:size]


# ------------------------------------------------------------------ a pool of ranks

RANKS = "tilewright.comm.executor:"
"""Where the functions are that ranks call; this process must not import it, as it loads MPI."""

_tokens = itertools.count()
_dead: weakref.WeakKeyDictionary[Pool, list[int]] = weakref.WeakKeyDictionary()


class PoolDriver(Driver):
    """The matrix stays on the ranks of a pool; vectors go through memory that they share."""

    def __init__(self, structure: Structure, discovery: str, synchronous: bool, pool: Pool | None) -> None:
        self.structure = structure
        self.discovery, self.synchronous = discovery, synchronous
        self._given = pool
        self.pool: Pool | None = None
        self.asked_by: list[list[int]] = []
        """By rank, the ranks that ask it for something."""
        self._vectors: dict[Any, np.ndarray] = {}
        self._lock = threading.RLock()
        self._ready()

    def _ready(self) -> Pool:
        """The pool, with the matrix on its ranks."""
        from tilewright.backends.mpi import pool as pools

        if self.pool is not None and (not self.pool.closed or self._given is not None):
            return self.pool
        pool = self._given or pools.default(self.structure.ranks)
        self.token = next(_tokens)
        self._known: set[Plan] = set()
        self._vectors.clear()
        self.pieces = [self.structure.piece(rank) for rank in range(self.structure.ranks)]
        with self._lock:
            dead = _dead.setdefault(pool, [])
            gone, dead[:] = list(dead), []
            self.asked_by = pool.call(
                RANKS + "create", self.token, _in_segment(self.pieces), self.discovery, self.synchronous, gone
            )
        self.pool = pool
        self._end = weakref.finalize(self, dead.append, self.token)
        return pool

    def close(self) -> None:
        with self._lock:
            self._vectors.clear()
            if self._end.detach() and self.pool is not None and not self.pool.closed:
                self.pool.call(RANKS + "drop", [self.token])

    def vector(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        from tilewright.backends.ranks.segments import Segment

        with self._lock:
            pool = self._ready()
        dtype = np.dtype(dtype)
        segment = Segment.create(max(int(np.prod(shape)) * dtype.itemsize, 1))
        pool.segments.add(segment)
        return segment.array(0, shape, dtype, "C")

    def _held(self, role: str, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """A vector in shared memory, the same one each time."""
        key = role, shape, np.dtype(dtype)
        if key not in self._vectors:
            for other in [other for other in self._vectors if other[0] == role]:
                del self._vectors[other]
            self._vectors[key] = self.vector(shape, dtype)
        return self._vectors[key]

    def _reachable(self, pool: Pool, array: np.ndarray | None) -> bool:
        from tilewright.backends.ranks.segments import segment_of

        return array is not None and array.flags.c_contiguous and segment_of(array) in pool.segments

    def product(self, x: np.ndarray, transposed: bool, out: np.ndarray | None = None) -> np.ndarray:
        with self._lock:
            pool = self._ready()
            if not self._reachable(pool, x):
                given, x = x, self._held("x", x.shape, x.dtype)
                _copy(given, x)
            length = self.structure.A.shape[1 if transposed else 0]
            if out is not None and self._reachable(pool, out) and not np.may_share_memory(out, x):
                pool.call(RANKS + "multiply", self.token, x, out, transposed)
                return out
            y = self._held("y", (length, *x.shape[1:]), x.dtype)
            pool.call(RANKS + "multiply", self.token, x, y, transposed)
            result = np.empty_like(y) if out is None else out
            _copy(y, result)
            return result

    def repeat(self, x: np.ndarray, times: int) -> np.ndarray:
        with self._lock:
            pool = self._ready()
            here, there = self._held("x", x.shape, x.dtype), self._held("y", x.shape, x.dtype)
            _copy(x, here)
            pool.call(RANKS + "repeat", self.token, here, there, times)
            return there.copy()

    def learn(self, plan: Plan) -> None:
        """Have the ranks know a plan."""
        pool = self._ready()
        if plan not in self._known:
            closures = [self.structure.closure(piece, plan) for piece in self.pieces]
            pool.call(RANKS + "plan", self.token, plan, _in_segment(closures))
            self._known.add(plan)

    def powers(self, x: np.ndarray, blocks: Sequence[Plan | None], coefficients: np.ndarray | None) -> np.ndarray:
        with self._lock:
            pool = self._ready()
            for plan in blocks:
                if plan is not None:
                    self.learn(plan)
            steps = sum(1 if plan is None else plan[0] for plan in blocks)
            here = self._held("x", x.shape, x.dtype)
            levels = self._held("levels", (steps + 1, *x.shape), x.dtype)
            _copy(x, here)
            pool.call(RANKS + "powers", self.token, list(blocks), coefficients, here, levels)
            result = np.empty_like(levels)
            _copy(levels, result)
            return result

    def time_products(self, dtype: Any, times: int, steps: int = 1, plan: Plan | None = None) -> list[list[float]]:
        """By rank, seconds of each of ``times`` rounds of ``steps`` products on vectors that stay there."""
        with self._lock:
            pool = self._ready()
            if plan is not None:
                self.learn(plan)
            return pool.call(RANKS + "time_products", self.token, np.dtype(dtype).str, times, plan, steps)

    def solve(self, b: np.ndarray, x: np.ndarray, options: dict[str, Any]) -> Any:
        """Conjugate gradients on the ranks: x is changed in place, the report returned."""
        with self._lock:
            pool = self._ready()
            for plan in plans_of(options):
                self.learn(plan)
            right, guess = self._held("x", b.shape, b.dtype), self._held("y", x.shape, x.dtype)
            right[...], guess[...] = b, x
            report = pool.call(RANKS + "solve", self.token, right, guess, options)[0]
            x[...] = guess
            return report


def _in_segment(value: Any) -> Any:
    """Copies of all arrays in ``value`` in one segment, which is freed with them."""
    from tilewright.backends.ranks.segments import Segment, placer, room

    arrays: list[np.ndarray] = []

    def note(array: np.ndarray) -> np.ndarray:
        arrays.append(array)
        return array

    mapped(value, note)
    place = placer(Segment.create(room(arrays)))

    def put(array: np.ndarray) -> np.ndarray:
        copy = place(array)
        np.copyto(copy, array)
        return copy

    return mapped(value, put)


def _copy(source: np.ndarray, target: np.ndarray) -> None:
    """target := source, on all cores if it is large."""
    parts = cores() if source.nbytes > 1 << 22 else 1
    if parts == 1:
        np.copyto(target, source)
        return
    cuts = np.linspace(0, source.shape[-1 if source.ndim == 2 and len(source) < parts else 0], parts + 1).astype(int)
    with ThreadPoolExecutor(parts) as copiers:
        if source.ndim == 2 and len(source) < parts:
            list(copiers.map(lambda a, b: np.copyto(target[:, a:b], source[:, a:b]), cuts, cuts[1:]))
        else:
            list(copiers.map(lambda a, b: np.copyto(target[a:b], source[a:b]), cuts, cuts[1:]))


# ------------------------------------------------------------------ one of the ranks of mpiexec


class RankDriver(Driver):
    """A collective operator: every rank has the whole matrix and whole vectors, and multiplies its own rows."""

    def __init__(self, structure: Structure, discovery: str, synchronous: bool, comm: Any) -> None:
        from tilewright.comm.executor import RankOperator

        self.structure = structure
        self.comm = comm
        self.operator = RankOperator(comm, structure.piece(comm.rank), discovery, synchronous)

    def close(self) -> None:
        self.operator.free()

    def product(self, x: np.ndarray, transposed: bool, out: np.ndarray | None = None) -> np.ndarray:
        product, piece = self.operator.product(x.dtype, x.shape[1:]), self.operator.piece
        source = piece.rows if transposed else piece.columns
        partition = self.structure.columns if transposed else self.structure.rows
        mine = np.empty((int(partition.sizes[self.comm.rank]), *x.shape[1:]), x.dtype)
        method = product.multiply_transposed if transposed else product.multiply
        method(np.ascontiguousarray(x[source]), mine)
        whole = self._whole(mine, partition)
        if out is None:
            return whole
        out[...] = whole
        return out

    def powers(self, x: np.ndarray, blocks: Sequence[Plan | None], coefficients: np.ndarray | None) -> np.ndarray:
        piece, rows = self.operator.piece, self.structure.rows
        here = np.ascontiguousarray(x[piece.rows])
        levels = [x]
        for plan in blocks:
            if plan is None:
                there = np.empty_like(here)
                self.operator.product(x.dtype, x.shape[1:]).multiply(here, there)
                made = [there]
            else:
                if not self.operator.knows(plan):
                    self.operator.learn(plan, self.structure.closure(piece, plan))
                made = self.operator.blocked(plan, x.dtype, x.shape[1:]).multiply(here, coefficients)[1:]
            levels += [self._whole(np.ascontiguousarray(part), rows) for part in made]
            here = made[-1].copy()
        return np.stack(levels)

    def solve(self, b: np.ndarray, x: np.ndarray, options: dict[str, Any]) -> Any:
        from tilewright.comm.executor import solve_part

        piece = self.operator.piece
        for plan in plans_of(options):
            if not self.operator.knows(plan):
                self.operator.learn(plan, self.structure.closure(piece, plan))
        mine = np.array(x[piece.rows])
        report = solve_part(self.operator, np.array(b[piece.rows]), mine, options)
        x[...] = self._whole(mine, self.structure.rows)
        return report

    def _whole(self, mine: np.ndarray, partition: Partition) -> np.ndarray:
        """All ranks' parts as one vector."""
        from mpi4py import MPI

        width = int(np.prod(mine.shape[1:])) * mine.itemsize
        sizes = partition.sizes * width
        gathered = np.empty((len(partition), *mine.shape[1:]), mine.dtype)
        target: Any = [gathered.reshape(-1).view(np.uint8), sizes, partition.offsets[:-1] * width, MPI.BYTE]
        self.comm.Allgatherv([mine.reshape(-1).view(np.uint8), MPI.BYTE], target)
        if partition.contiguous:
            return gathered
        whole = np.empty_like(gathered)
        whole[np.concatenate([partition.rows(rank) for rank in range(partition.ranks)])] = gathered
        return whole
