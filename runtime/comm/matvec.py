"""Dense matrix-vector products on ranks: block rows, block columns, and the lecture's two-dimensional grid.

Rank q = i c + j of an r x c grid has block (i, j) of A. The part of x that belongs to block column j is cut into r
pieces, piece i on rank (i, j); the part of y of block row i is cut into c pieces, piece j on rank (i, j). Then::

    y = A x:    allgather x_j in column j,   y_ij = A_ij x_j,     reduce-scatter y_i in row i
    y = A^T x:  allgather x_i in row i,      y_ij = A_ij^T x_i,   reduce-scatter y_j in column j

One column of ranks (c = 1) is the division by block rows, with nothing to reduce; one row (r = 1) that by block
columns, with nothing to gather. The result of A x lies as A^T wants it, so A^T A x moves nothing in between; for A A x
rank (i, j) exchanges its piece with rank (j, i) of a square grid.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isqrt
from typing import Any, NamedTuple

import numpy as np
from scipy.sparse.linalg import LinearOperator

from tilewright.arguments import dense
from tilewright.backends import BACKENDS
from tilewright.comm.collectives import PACK, UNPACK, Rooms, lay
from tilewright.comm.cost import MACHINE, Round, rounds, seconds
from tilewright.comm.schedule import cut, schedule
from tilewright.graph import RW, Handle, Op, R, TaskGraph, W
from tilewright.kernels.gemv import gemv
from tilewright.machine import Machine, cores
from tilewright.resident import Prepared, Resident
from tilewright.trace import Trace

__all__ = ["LAYOUTS", "DenseOperator", "Grid", "best_grid", "grid_of", "matvec", "matvec_cost", "matvec_graph"]

LAYOUTS = ("rows", "columns", "grid")

Range = tuple[int, int]


# ------------------------------------------------------------------ who owns what


class Grid(NamedTuple):
    """An m x n matrix on r x c ranks.

    Examples
    --------
    >>> from tilewright.comm.matvec import Grid
    >>> grid = Grid(12, 12, 3, 4)               # the lecture's picture
    >>> grid.x_owner(4), grid.y_owner(9), grid.block_owner(9, 4)
    (5, 9, 9)
    >>> print(Grid(2, 4, 1, 2).picture().strip())
    x0     x1           x2     x3
       a0,0   a0,1   y0    a0,2   a0,3
       a1,0   a1,1         a1,2   a1,3   y1
    """

    m: int
    n: int
    r: int
    c: int

    @property
    def ranks(self) -> int:
        return self.r * self.c

    def rank(self, i: int, j: int) -> int:
        return i * self.c + j

    def place(self, q: int) -> tuple[int, int]:
        """Row and column of rank q."""
        return divmod(q, self.c)

    def rows(self, i: int) -> Range:
        """The rows of block row i."""
        offsets = cut(self.m, self.r)
        return offsets[i], offsets[i + 1]

    def columns(self, j: int) -> Range:
        """The columns of block column j."""
        offsets = cut(self.n, self.c)
        return offsets[j], offsets[j + 1]

    def x_piece(self, q: int) -> Range:
        """What rank q has of a vector that A is multiplied by."""
        i, j = self.place(q)
        return _piece(self.columns(j), self.r, i)

    def y_piece(self, q: int) -> Range:
        """What rank q has of the product A x, and of a vector that A^T is multiplied by."""
        i, j = self.place(q)
        return _piece(self.rows(i), self.c, j)

    def x_owner(self, k: int) -> int:
        """The rank that has x_k."""
        return next(q for q in range(self.ranks) if k in range(*self.x_piece(q)))

    def y_owner(self, k: int) -> int:
        """The rank that has y_k."""
        return next(q for q in range(self.ranks) if k in range(*self.y_piece(q)))

    def block_owner(self, row: int, column: int) -> int:
        """The rank that has a_(row, column)."""
        i = next(i for i in range(self.r) if row in range(*self.rows(i)))
        j = next(j for j in range(self.c) if column in range(*self.columns(j)))
        return self.rank(i, j)

    def picture(self) -> str:
        """The matrix by blocks, above each block the x and beside it the y of its rank, as the lecture draws it."""
        lines = []
        for i in range(self.r):
            above, body = [], [[] for _ in range(*self.rows(i))]  # type: list[str], list[list[str]]
            for j in range(self.c):
                q, columns = self.rank(i, j), range(*self.columns(j))
                have = [f"x{k}" for k in range(*self.x_piece(q))]
                above.append("".join(f"{(have[k] if k < len(have) else ''):>7}" for k in range(len(columns))) + " " * 6)
                for line, row in zip(body, range(*self.rows(i)), strict=True):
                    beside = f"y{row}" if row in range(*self.y_piece(q)) else ""
                    line.append("".join(f" a{row},{column}".rjust(7) for column in columns) + beside.rjust(5) + " ")
            lines += ["".join(above).rstrip(), *("".join(line).rstrip() for line in body)]
        return "\n".join(lines)


def _piece(whole: Range, parts: int, part: int) -> Range:
    offsets = cut(whole[1] - whole[0], parts)
    return whole[0] + offsets[part], whole[0] + offsets[part + 1]


def grid_of(layout: str, ranks: int | None, grid: Sequence[int] | None, shape: tuple[int, int]) -> Grid:
    """The grid that a user means.

    Raises
    ------
    ValueError
        Unknown layout, fewer than one rank, a grid of other than ``ranks`` ranks, or one that is not two positive
        integers, or one given for a layout that is not a grid.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"layout must be one of {', '.join(LAYOUTS)}, not {layout!r}")
    if ranks is not None and (isinstance(ranks, bool) or not hasattr(ranks, "__index__") or ranks < 1):
        raise ValueError(f"ranks must be a positive integer, not {ranks!r}")
    if grid is None:
        p = cores() if ranks is None else int(ranks)
        r, c = {"rows": (p, 1), "columns": (1, p), "grid": best_grid(p, max(shape))}[layout]
        return Grid(*shape, r, c)
    if layout != "grid":
        raise ValueError(f"grid={tuple(grid)} goes with layout='grid', not with {layout!r}")
    sides = tuple(grid)
    if len(sides) != 2 or any(isinstance(s, bool) or not hasattr(s, "__index__") or s < 1 for s in sides):
        raise ValueError(f"grid must be two positive integers (r, c), not {grid!r}")
    if ranks is not None and sides[0] * sides[1] != ranks:
        raise ValueError(f"a grid of {sides[0]} x {sides[1]} has {sides[0] * sides[1]} ranks, not {ranks}")
    return Grid(*shape, int(sides[0]), int(sides[1]))


# ------------------------------------------------------------------ what it costs


def matvec_cost(p: int, n: int, machine: Machine, *, grid: tuple[int, int], overlap: bool = False) -> float:
    """Seconds of one product of order n; rows D1 to D4 and D7 of the lecture.

    ::

        ceil(log2 r) alpha + (r-1) n/p beta  +  2 n^2/p gamma  +  ceil(log2 c) alpha + (c-1) n/p (beta + gamma)

    With ``overlap`` the part of the product that needs only a rank's own piece runs while the allgather does.
    A graph on the simulator takes exactly this long where p divides n (with overlap, on ranks of two workers).
    """
    r, c = grid
    rows, columns, piece = -(-n // r), -(-n // c), -(-n // p)
    gathering = list(rounds("allgather", "exchange", r, columns))
    reducing = list(rounds("reduce_scatter", "exchange", c, rows))
    if overlap and r > 1:
        local = seconds([(0, 2 * rows * piece)], machine)
        time = max(seconds(gathering, machine), local)
        return seconds([(0, 2 * rows * (columns - piece)), *reducing], machine, time)
    product: list[Round] = [(0, 2 * rows * columns)]
    return seconds([*gathering, *product, *reducing], machine)


def best_grid(p: int, n: int, machine: Machine | None = None) -> tuple[int, int]:
    """The r x c = p with the cheapest product of order n; of equals the one with more rows.

    Examples
    --------
    >>> import tilewright as tw
    >>> from tilewright.comm.matvec import best_grid
    >>> best_grid(16, 1 << 14, tw.Machine(alpha=1e-6, beta=1e-9, gamma=1e-11)), best_grid(7, 1000)
    ((4, 4), (7, 1))
    """
    machine = machine or MACHINE
    sides = [d for low in range(1, isqrt(p) + 1) if p % low == 0 for d in {low, p // low}]
    return min(((r, p // r) for r in sorted(sides, reverse=True)), key=lambda g: matvec_cost(p, n, machine, grid=g))


# ------------------------------------------------------------------ tasks


def product(a: np.ndarray, x: np.ndarray, y: np.ndarray | None) -> np.ndarray | None:
    """y := A x; a new vector where there is none yet."""
    target = np.empty(len(a), a.dtype) if y is None else y
    gemv(a, x, target)
    return target if y is None else None


def product_t(a: np.ndarray, x: np.ndarray, y: np.ndarray | None) -> np.ndarray | None:
    """y := A^T x."""
    return product(a.T, x, y)


def local(a: np.ndarray, x: np.ndarray, y: np.ndarray | None, own: Range, transposed: bool) -> np.ndarray | None:
    """y := A[:, own] x, what a rank's own piece contributes."""
    return product((a.T if transposed else a)[:, slice(*own)], x, y)


def remote(a: np.ndarray, whole: np.ndarray, x: np.ndarray, y: np.ndarray, own: Range, transposed: bool) -> None:
    """y += A[:, others] whole[others], what the pieces of the other ranks contribute."""
    a = a.T if transposed else a
    for part in (slice(0, own[0]), slice(own[1], a.shape[1])):
        gemv(a[:, part], whole[part], y, accumulate=True)


def empty(v: np.ndarray | None, size: int, dtype: str) -> np.ndarray | None:
    """v := a new vector, unless there is one."""
    return np.zeros(size, dtype) if v is None else None


def move(source: np.ndarray, target: np.ndarray, start: int) -> None:
    """target[start:] := source."""
    target[start : start + len(source)] = source


def moments(x: np.ndarray, y: np.ndarray, sums: np.ndarray | None) -> np.ndarray | None:
    """sums := (x^H y, y^H y), this rank's terms."""
    terms = np.array([np.vdot(x, y), np.vdot(y, y)])
    if sums is None:
        return terms
    sums[...] = terms
    return None


def normalise(sums: np.ndarray, y: np.ndarray, x: np.ndarray) -> None:
    """x := y / ||y||."""
    np.divide(y, np.sqrt(sums[1].real), out=x)


def _free(*shapes: tuple[int, ...]) -> float:
    return 0.0


def _gemv_flops(a: tuple[int, ...], x: tuple[int, ...], y: tuple[int, ...]) -> float:
    return 2.0 * a[0] * a[1]


def _local_flops(a: tuple[int, ...], x: tuple[int, ...], y: tuple[int, ...]) -> float:
    return 2.0 * y[0] * x[0]


def _remote_flops(a: tuple[int, ...], whole: tuple[int, ...], x: tuple[int, ...], y: tuple[int, ...]) -> float:
    return 2.0 * y[0] * (whole[0] - x[0])


GEMV = Op("gemv", product, flops=_gemv_flops)
GEMV_T = Op("gemv_t", product_t, flops=_gemv_flops)
LOCAL = Op("local", local, flops=_local_flops)
REMOTE = Op("remote", remote, flops=_remote_flops)
EMPTY = Op("empty", empty, weight=0, flops=_free)
MOVE = Op("move", move, weight=0, flops=_free)
MOMENTS = Op("moments", moments, weight=0, flops=_free)
NORMALISE = Op("normalise", normalise, weight=0, flops=_free)


class _Program:
    """Builds one graph of products on a grid."""

    def __init__(self, name: str, grid: Grid, dtype: str) -> None:
        self.graph = TaskGraph(name)
        self.rooms = Rooms()
        self.grid = grid
        self.dtype = dtype
        self.scratch = 0
        self.A = self.graph.handles("A")
        for q in range(grid.ranks):
            i, j = grid.place(q)
            self.rooms.note(self.A[q], q, _length(grid.rows(i)), _length(grid.columns(j)))

    def vector(self, name: str, size: Callable[[int], int]) -> Callable[[int], Handle]:
        """A family of handles, one a rank."""
        family = self.graph.handles(name)
        for q in range(self.grid.ranks):
            self.rooms.note(family[q], q, size(q))
        return family.__getitem__

    def temporary(self, size: Callable[[int], int]) -> Callable[[int], Handle]:
        name = f"t{self.scratch}"
        self.scratch += 1
        self.graph.temporary.add(name)
        return self.vector(name, size)

    def messages(self) -> str:
        name = f"m{self.scratch}"
        self.scratch += 1
        self.graph.temporary.add(name)
        return name

    def product(self, x: Callable[[int], Handle], y: Callable[[int], Handle], *, transposed: bool = False,
                overlap: bool = False) -> None:  # fmt: skip
        """y := A x, or A^T x: allgather in one direction of the grid, reduce-scatter in the other."""
        grid, graph, A = self.grid, self.graph, self.A
        columns = [[grid.rank(i, j) for i in range(grid.r)] for j in range(grid.c)]
        rows = [[grid.rank(i, j) for j in range(grid.c)] for i in range(grid.r)]
        gathered, reduced = (rows, columns) if transposed else (columns, rows)

        def height(q: int) -> int:
            return _length(grid.rows(q // grid.c))

        def width(q: int) -> int:
            return _length(grid.columns(q % grid.c))

        wide, tall = (height, width) if transposed else (width, height)
        parts, terms = len(gathered[0]), len(reduced[0])
        whole = x if parts == 1 else self.temporary(wide)
        z = y if terms == 1 else self.temporary(tall)

        def own(place: int, q: int) -> Range:
            return _piece((0, wide(q)), parts, place)

        for group in gathered:
            if parts == 1:
                continue
            for place, q in enumerate(group):
                graph.insert(EMPTY, W(whole(q)), wide(q), self.dtype)
                graph.insert(MOVE, R(x(q)), RW(whole(q)), own(place, q)[0])

            def meanwhile(group: list[int] = group) -> None:
                for place, q in enumerate(group):
                    graph.insert(LOCAL, R(A[q]), R(x(q)), W(z(q)), own(place, q), transposed)

            plan = schedule("allgather", "exchange", parts, wide(group[0]))
            lay(graph, self.rooms, plan, group, whole, self.messages(), meanwhile if overlap else None)
        for group in gathered:
            for place, q in enumerate(group):
                if overlap and parts > 1:
                    graph.insert(REMOTE, R(A[q]), R(whole(q)), R(x(q)), RW(z(q)), own(place, q), transposed)
                else:
                    graph.insert(GEMV_T if transposed else GEMV, R(A[q]), R(whole(q)), W(z(q)))
        for group in reduced:
            if terms == 1:
                continue
            lay(graph, self.rooms, schedule("reduce_scatter", "exchange", terms, tall(group[0])), group, z,
                self.messages())  # fmt: skip
            for place, q in enumerate(group):
                graph.insert(PACK, R(z(q)), W(y(q)), (_piece((0, tall(q)), terms, place),))

    def turn(self, y: Callable[[int], Handle], x: Callable[[int], Handle]) -> None:
        """x := y, from where A x leaves it to where A wants it: on a square grid rank (i, j) and (j, i) exchange."""
        grid, graph = self.grid, self.graph
        messages = graph.handles(self.messages())
        for target in range(grid.ranks):
            low, high = grid.x_piece(target)
            graph.insert(EMPTY, W(x(target)), high - low, self.dtype)
            for source in range(grid.ranks):
                have = grid.y_piece(source)
                start, stop = max(low, have[0]), min(high, have[1])
                if start >= stop:
                    continue
                message = self.rooms.note(messages[source, target], source, stop - start)
                graph.insert(PACK, R(y(source)), W(message), ((start - have[0], stop - have[0]),))
                graph.insert(UNPACK, R(message), RW(x(target)), ((start - low, stop - low),))

    def finish(self, *recipe: Any) -> TaskGraph:
        self.graph.layout = self.rooms.layout(self.grid.ranks)
        self.graph.recipe = recipe[0], recipe[1:]
        return self.graph


def _length(interval: Range) -> int:
    return interval[1] - interval[0]


def matvec_graph(grid: Grid, *, transposed: bool = False, overlap: bool = False, dtype: str = "float64") -> TaskGraph:
    """The graph of y = A x, or A^T x: blocks A[q], pieces x[q] and y[q] on rank q."""
    return _matvec_graph(Grid(*grid), transposed, overlap, dtype)


def _matvec_graph(grid: Grid, transposed: bool, overlap: bool, dtype: str) -> TaskGraph:
    program = _Program(f"matvec on {grid.r} x {grid.c} ranks{', transposed' if transposed else ''}", grid, dtype)
    x_of, y_of = (grid.y_piece, grid.x_piece) if transposed else (grid.x_piece, grid.y_piece)
    x = program.vector("x", lambda q: _length(x_of(q)))
    y = program.vector("y", lambda q: _length(y_of(q)))
    program.product(x, y, transposed=transposed, overlap=overlap)
    return program.finish(_matvec_graph, grid, transposed, overlap, dtype)


def _power_graph(grid: Grid, dtype: str) -> TaskGraph:
    """One step of the power iteration: x := A x / ||A x||, and s := (x^H A x, ||A x||^2)."""
    program = _Program(f"power iteration on {grid.r} x {grid.c} ranks", grid, dtype)
    x = program.vector("x", lambda q: _length(grid.x_piece(q)))
    s = program.vector("s", lambda q: 2)
    y = program.temporary(lambda q: _length(grid.y_piece(q)))
    w = program.temporary(lambda q: _length(grid.x_piece(q)))
    program.product(x, y)
    program.turn(y, w)
    everyone = range(grid.ranks)
    for q in everyone:
        program.graph.insert(MOMENTS, R(x(q)), R(w(q)), W(s(q)))
    lay(program.graph, program.rooms, schedule("allreduce", "tree", grid.ranks, 2), everyone, s, program.messages())
    for q in everyone:
        program.graph.insert(NORMALISE, R(s(q)), R(w(q)), W(x(q)))
    return program.finish(_power_graph, grid, dtype)


# ------------------------------------------------------------------ what users call


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
        (r, c), with ``layout="grid"``; by default the cheapest, see `best_grid`.
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
    A product takes 2 m n / p flops a rank and the messages of `matvec_cost`. The same bits for every engine.

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
            step = self._steps["power"] = self._prepare(_power_graph(grid, str(self.dtype)), ["x"], ["x", "s"])
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
