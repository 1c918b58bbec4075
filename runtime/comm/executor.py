"""The executor: the products of a `SparseOperator`, as graphs that are prepared once on any engine.

Each kind of product, dtype and number of vectors has a graph of its own (`products`), prepared when it is first asked
for. On MPI the matrix stays on the ranks, all graphs of one dtype share it, and vectors go through memory that the
ranks map; in one process the buffers of the graph are those of the product. All engines compute the same sums in the
same order, so they give the same bits.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from tilewright.backends import engine_class
from tilewright.comm.cg import length, solve
from tilewright.comm.closure import Closure
from tilewright.comm.inspector import Piece
from tilewright.comm.neighbours import Requests, discover
from tilewright.comm.products import Assembly, blocked_graph, product_graph, transposed_graph
from tilewright.comm.simulated import SimulatedComm
from tilewright.comm.structure import Plan, SparseStructure, plans_of
from tilewright.graph import Handle
from tilewright.host.cores import cores
from tilewright.kernels.threads import limits
from tilewright.resident import Prepared, Resident, prepare

if TYPE_CHECKING:
    from tilewright.backends.mpi.pool import Pool
    from tilewright.machine import Machine
    from tilewright.runs.run import Run

__all__ = ["Executor"]

_IN_PLACE = 4
"""Pairs of a caller's vectors for which a product is prepared on just these."""


class Executor:
    """What a `SparseOperator` asks for. x and the results are whole vectors, (n,) or (n, k).

    With a communicator every rank has the whole matrix and whole vectors, and multiplies its own rows.
    """

    def __init__(
        self,
        structure: SparseStructure,
        discovery: str,
        backend: str,
        workers: int | None,
        synchronous: bool,
        pool: Pool | None = None,
        comm: Any = None,
    ) -> None:
        self.structure = structure
        self.backend, self.workers = backend, workers
        self.on_ranks = engine_class(backend).on_ranks
        self.discovery, self.synchronous = discovery, synchronous
        self.comm = comm
        self._given = pool
        self.pool: Pool | None = None
        self.discovered: SimulatedComm | None = None
        """The communicator of the discovery where it is none of MPI: its messages, words and collectives."""
        self._lock = threading.RLock()
        self._steps: dict[Any, _Step] = {}
        self._ready()
        self.pieces = [structure.piece(rank) for rank in range(structure.ranks)]
        for piece, asked in zip(self.pieces, self._discover([piece.requests for piece in self.pieces]), strict=True):
            piece.take_requests(asked)
        self._graphs: dict[Any, Assembly] = {}
        self._plans: dict[Plan, list[Closure]] = {}
        self._cast: dict[np.dtype, list[Piece]] = {}
        self._residents: dict[np.dtype, Resident] = {}

    def _ready(self) -> None:
        """Have ranks, where they are those of a pool: another one if it was closed that nobody gave."""
        if not self.on_ranks or self.comm is not None:
            return
        if self.pool is not None and (not self.pool.closed or self._given is not None):
            return
        from tilewright.backends.mpi import pool as pools

        self.pool = self._given or pools.default(self.structure.ranks)
        self._steps.clear()
        self._residents = {}

    def close(self) -> None:
        """Free the parts of the matrix, after the product that is going on."""
        with self._lock:
            for resident in self._residents.values():
                resident.close()
            for step in self._steps.values():
                step.prepared.close()
            self._residents.clear()
            self._steps.clear()
            self._graphs.clear()
            self._plans.clear()
            self._cast.clear()
            self.pieces.clear()

    # ------------------------------------------------------------ who wants what

    def _discover(self, requests: list[Requests]) -> list[Requests]:
        """By rank, what others ask it for."""
        if self.comm is not None:
            from tilewright.comm.mpi_endpoint import discovered

            found: list[Requests] = self.comm.allgather(
                discovered(self.comm, requests, self.discovery, self.synchronous)
            )
            return found
        if self.pool is not None:
            name = "tilewright.comm.mpi_endpoint:discovered"
            return self.pool.call(name, requests, self.discovery, self.synchronous)
        comm = SimulatedComm(self.structure.ranks)
        asked: list[Requests] = comm.run(
            lambda end: discover(end, requests[end.rank], self.discovery, self.synchronous)
        )
        self.discovered = self.discovered or comm
        return asked

    def plan(self, plan: Plan) -> list[Closure]:
        """The closures of all ranks, each asked for what it sends."""
        with self._lock:
            if plan not in self._plans:
                closures = [self.structure.closure(piece, plan) for piece in self.pieces]
                asked = self._discover([mine.requests for mine in closures])
                for rank, mine in enumerate(closures):
                    mine.take_requests(asked[rank], self.structure.rows.rows(rank))
                self._plans[plan] = closures
            return self._plans[plan]

    # ------------------------------------------------------------ graphs

    def graph(
        self,
        kind: Any,
        dtype: Any,
        trailing: tuple[int, ...],
        *,
        overlap: bool = True,
        coefficients: np.ndarray | None = None,
    ) -> Assembly:
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
        """(levels, the run) of the graph with `tilewright.run`."""
        from tilewright.engine import run

        with self._lock:
            work = self.graph(kind, x.dtype, x.shape[1:], coefficients=coefficients)
            for handle, place, size in work.outputs[0]:
                copy(x[place], work.data[handle][:size])
            done = run(work.graph, work.data, **self._options(work, options))
            rows = self.structure.columns if kind == "transposed" else self.structure.rows
            levels = np.empty((len(work.outputs), len(rows), *x.shape[1:]), x.dtype)
            for level, target in enumerate(levels):
                if level or len(rows) == len(x):
                    for handle, place, size in work.outputs[level]:
                        target[place] = done[handle][:size]
        return levels, done

    def _options(self, work: Assembly, options: dict[str, Any]) -> dict[str, Any]:
        """Where the graph runs: ranks of an engine may be fewer than those of the matrix."""
        options = {"backend": self.backend, "workers": self.workers, "scheduler": "prio", **options}
        engine = engine_class(options["backend"])
        if not engine.in_process and not engine.virtual:
            there = options["pool"].ranks if options.get("pool") else options["workers"] or min(work.ranks, cores())
            options["workers"] = there
            options.setdefault("owner", {handle: rank % there for handle, rank in work.owner.items()})
        if "synchronous" in engine.options:
            options.setdefault("synchronous", self.synchronous)
        return options

    def simulate(self, machine: Machine, kind: Any, dtype: Any, *, overlap: bool) -> Run:
        from tilewright.engine import simulate

        work = self.graph(kind, dtype, (), overlap=overlap)
        machine = machine.replace(ranks=work.ranks)
        return simulate(work.graph, machine, scheduler="prio", owner=work.owner.__getitem__, data=work.data)

    # ------------------------------------------------------------ prepared graphs

    def _step(
        self,
        kind: Any,
        dtype: Any,
        trailing: tuple[int, ...],
        *,
        carry: bool = False,
        shifted: bool = False,
        x: np.ndarray | None = None,
        y: np.ndarray | None = None,
    ) -> _Step:
        """The prepared graph of a kind of product; ``x`` and ``y`` are vectors to work on where they lie."""
        self._ready()
        place = _address(x), _address(y)
        key = kind, np.dtype(dtype), trailing, carry, shifted, place
        if key not in self._steps:
            special = [known for known in self._steps if known[-1] != (0, 0)]
            if place != (0, 0) and len(special) >= _IN_PLACE:
                self._steps.pop(special[0]).prepared.close()
            factors = np.zeros((kind[0][0], 3)) if shifted else None
            work = self.graph(kind, dtype, trailing, coefficients=factors)
            self._steps[key] = _Step(self, work, carry, x, y)
        return self._steps[key]

    def prepared(
        self,
        work: Assembly,
        data: dict[Handle, Any],
        inputs: list[Handle],
        outputs: list[Handle],
        carry: dict[Handle, Handle],
    ) -> Prepared:
        """A graph ready to run where the products do."""
        if not self.on_ranks:
            options = self._options(work, {})
            return prepare(work.graph, work.data | data, inputs=inputs, outputs=outputs, carry=carry, **options)
        fixed = {handle: value for handle, value in work.data.items() if handle.name == "A"}
        if work.dtype not in self._residents:
            self._residents[work.dtype] = Resident(
                fixed,
                ranks=work.ranks,
                owner=work.owner.__getitem__,
                backend=self.backend,
                pool=self.pool,
                comm=self.comm,
                synchronous=self.synchronous,
                copy=False,
            )
        rest = {handle: value for handle, value in work.data.items() if handle not in fixed}
        resident = self._residents[work.dtype]
        return resident.prepare(work.graph, rest | data, inputs=inputs, outputs=outputs, carry=carry, dtype=work.dtype)

    def shared(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """Zeros, where a pool's ranks reach them."""
        if self.pool is None:
            return np.zeros(shape, dtype)
        from tilewright.backends.ranks.segments import Segment

        dtype = np.dtype(dtype)
        return Segment.create(max(int(np.prod(shape)) * dtype.itemsize, 1)).array(0, shape, dtype, "C")

    def _reachable(self, array: np.ndarray | None) -> bool:
        if self.pool is None or array is None or not array.flags.c_contiguous or not array.flags.writeable:
            return False
        from tilewright.backends.ranks.segments import segment_of

        return segment_of(array) is not None

    # ------------------------------------------------------------ products

    def vector(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """Zeros, where products need not copy them."""
        with self._lock:
            self._ready()
            return self.shared(shape, dtype)

    def product(self, x: np.ndarray, transposed: bool, out: np.ndarray | None = None) -> np.ndarray:
        """A x or A^T x, in ``out`` if there is one."""
        with self._lock:
            here = x if self._reachable(x) else None
            there = out if self._reachable(out) and not np.may_share_memory(out, x) else None
            step = self._step("transposed" if transposed else (None,), x.dtype, x.shape[1:], x=here, y=there)
            step.fill(x)
            step.prepared()
            if out is None:
                out = np.empty((self.structure.A.shape[1 if transposed else 0], *x.shape[1:]), x.dtype)
            step.read(1, out)
            return out

    def powers(self, x: np.ndarray, blocks: Sequence[Plan | None], coefficients: np.ndarray | None) -> np.ndarray:
        """(s + 1, n): x and the levels after it. A block is a plan, or None for one product with its own exchange."""
        with self._lock:
            step = self._step(tuple(blocks), x.dtype, x.shape[1:], shifted=coefficients is not None)
            step.fill(x, coefficients)
            step.prepared()
            levels = np.empty((len(step.work.outputs), *x.shape), x.dtype)
            levels[0] = x
            for level in range(1, len(levels)):
                step.read(level, levels[level])
            return levels

    def repeat(self, x: np.ndarray, times: int) -> np.ndarray:
        """A^times x."""
        if not times:
            return x.copy()
        with self._lock:
            step = self._step((None,), x.dtype, x.shape[1:], carry=True)
            step.fill(x)
            step.prepared.repeat(times)
            result = np.empty_like(x)
            step.read(1, result)
            return result

    def time_products(self, dtype: Any, times: int, steps: int = 1, plan: Plan | None = None) -> list[list[float]]:
        """By rank, seconds of each of ``times`` rounds of ``steps`` products on vectors that stay there."""
        with self._lock:
            kind = (None,) if plan is None else (plan,)
            step = self._step(kind, dtype, (), carry=plan is None and steps > 1)
            step.fill(np.ones(self.structure.A.shape[1], dtype))
            return step.prepared.timed(times, steps if plan is None else 1)

    def solve(self, b: np.ndarray, x: np.ndarray, options: dict[str, Any]) -> Any:
        """Conjugate gradients where the products are: x is changed in place, the report returned."""
        with self._lock:
            if not self.on_ranks:
                return solve(_Whole(self, options["method"]), b, x, options)
            wide = np.result_type(b.dtype, np.float64)
            products = {dtype: self._step((None,), dtype, ()) for dtype in dict.fromkeys((b.dtype, wide))}
            bases = {plan[0]: self._step((plan,), b.dtype, (2,), shifted=True) for plan in plans_of(options)}
            first = products[b.dtype]
            first.fill(b)
            first.write(1, x)
            steps = [*products.values(), *bases.values()]
            kinds = [*(np.dtype(dtype).str for dtype in products), *bases]
            resident = self._residents[np.dtype(b.dtype)]
            report = resident.call("tilewright.comm.rank_cg:solve", [step.prepared for step in steps], kinds, options)
            first.read(1, x)
            return report[0]


class _Whole:
    """Whole vectors in one process; sums over parts as the ranks would make them."""

    def __init__(self, executor: Executor, method: str) -> None:
        self.executor, self.method = executor, method
        rows = executor.structure.rows
        self.parts = [rows.place(rank) for rank in range(rows.ranks)]

    def product(self, v: np.ndarray) -> np.ndarray:
        return self.executor.product(v, False)

    def basis(self, v: np.ndarray, s: int, coefficients: np.ndarray) -> np.ndarray:
        return self.executor.powers(np.ascontiguousarray(v), [(s, self.method, True)], coefficients)

    def gram(self, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        with limits(True):
            parts = [u[part].conj().T @ v[part] for part in self.parts]
        return np.add.reduce(np.array(parts))

    def lengths(self, v: np.ndarray) -> list[tuple[float, int]]:
        return [length(v[part]) for part in self.parts]


class _Step:
    """A prepared graph, and how whole vectors get into its buffers and out of them."""

    def __init__(
        self, executor: Executor, work: Assembly, carry: bool, x: np.ndarray | None, y: np.ndarray | None
    ) -> None:
        self.work = work
        first, *levels = work.outputs
        self.wholes = [self._whole(executor, first, x)]
        self.wholes += [self._whole(executor, level, y if len(levels) == 1 else None) for level in levels]
        data = {handle: array for whole in self.wholes for handle, array in whole.parts}
        inputs = [handle for handle, _, _ in first]
        self.factors = [handle for handle in work.data if handle.name == "c"]
        outputs = [handle for level in levels for handle, _, _ in level]
        carried = dict(zip(outputs, inputs, strict=True)) if carry else {}
        self.prepared = executor.prepared(work, data, [*inputs, *self.factors], outputs, carried)
        for whole in self.wholes:
            whole.bind({**self.prepared.inputs, **self.prepared.outputs})
        if executor.comm is not None:  # a rank fills in what it owns
            self.wholes[0].mine = executor.comm.rank

    def _whole(self, executor: Executor, level: list[tuple[Handle, Any, int]], given: np.ndarray | None) -> _Vector:
        data = self.work.data
        whole = all(isinstance(place, slice) and len(data[handle]) == size for handle, place, size in level)
        if not whole:
            return _Vector(level, None)
        length = sum(size for _, _, size in level)
        shape = (length, *self.work.trailing)
        return _Vector(level, executor.shared(shape, self.work.dtype) if given is None else given)

    def fill(self, x: np.ndarray, coefficients: np.ndarray | None = None) -> None:
        """Put x, and the coefficients of a recurrence, where the graph reads them."""
        self.write(0, x)
        for handle in self.factors:
            self.prepared.inputs[handle][...] = coefficients

    def write(self, level: int, x: np.ndarray) -> None:
        self.wholes[level].write(x)

    def read(self, level: int, target: np.ndarray) -> None:
        """Take a level out of it."""
        self.wholes[level].read(target)


class _Vector:
    """One level: as one array where each rank's part is a slice of it, or part by part."""

    def __init__(self, level: list[tuple[Handle, Any, int]], whole: np.ndarray | None) -> None:
        self.level, self.whole = level, whole
        self.parts = [] if whole is None else [(handle, whole[place]) for handle, place, _ in level]
        self.mine: int | None = None
        """The rank whose part is filled in; by default all are."""

    def bind(self, arrays: dict[Handle, np.ndarray]) -> None:
        """Say where the parts are."""
        self._places = [(arrays[handle][:size], place) for handle, place, size in self.level]
        if self.whole is not None and any(not np.shares_memory(a, self.whole) for a, _ in self._places if a.size):
            self.whole = None

    def write(self, x: np.ndarray) -> None:
        if self.mine is not None:
            part, place = self._places[self.mine]
            part[...] = x[place]
        elif self.whole is None:
            for part, place in self._places:
                copy(x[place], part)
        elif self.whole is not x:
            copy(x, self.whole)

    def read(self, target: np.ndarray) -> None:
        if self.whole is None:
            for part, place in self._places:
                target[place] = part
        elif self.whole is not target:
            copy(self.whole, target)


def _address(array: np.ndarray | None) -> int:
    return 0 if array is None else id(array)


def copy(source: np.ndarray, target: np.ndarray) -> None:
    """target := source, on all cores if it is large."""
    parts = cores() if source.nbytes > 1 << 22 else 1
    if parts == 1:
        np.copyto(target, source)
        return
    cuts = np.linspace(0, len(source), parts + 1).astype(int)
    with ThreadPoolExecutor(parts) as copiers:
        list(copiers.map(lambda a, b: np.copyto(target[a:b], source[a:b]), cuts, cuts[1:]))
