"""The graph of a dense matrix-vector product on a grid of ranks, and that of a step of the power iteration.

Rank q = i c + j of an r x c grid has block (i, j) of A. The part of x that belongs to block column j is cut into r
pieces, piece i on rank (i, j); the part of y of block row i is cut into c pieces, piece j on rank (i, j). Then::

    y = A x:    allgather x_j in column j,   y_ij = A_ij x_j,     reduce-scatter y_i in row i
    y = A^T x:  allgather x_i in row i,      y_ij = A_ij^T x_i,   reduce-scatter y_j in column j

One column of ranks (c = 1) is the division by block rows, with nothing to reduce; one row (r = 1) that by block
columns, with nothing to gather. The result of A x lies as A^T wants it, so A^T A x moves nothing in between; for A A x
rank (i, j) exchanges its piece with rank (j, i) of a square grid.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import ceil, floor
from typing import Any, NamedTuple

import numpy as np

from tilewright.builder import graph_builder
from tilewright.comm.collectives import PACK, UNPACK, Homes, lay
from tilewright.comm.grid import Grid, Range, length, piece
from tilewright.comm.schedule import schedule
from tilewright.graph import RW, Handle, Op, R, TaskGraph, W
from tilewright.kernels.gemv import gemv
from tilewright.keywords import strict
from tilewright.scalars import flag, whole

__all__ = ["Moments", "matvec_graph", "power_graph"]


def product(a: np.ndarray, x: np.ndarray, y: np.ndarray | None) -> np.ndarray | None:
    """y := A x; a new vector where there is none yet. A may have a narrower dtype than x."""
    target = np.empty(len(a), x.dtype) if y is None else y
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


class Moments(NamedTuple):
    """x^H y and y^H y, of one rank or added up over ranks.

    y^H y is in three sums, so that none overflows or underflows [1]_: of |y_i|^2 for |y_i| of middling size, of
    |S y_i|^2 for large ones and of |s y_i|^2 for small ones, with powers of two S and s.

    .. [1] J. Blue, A portable Fortran program to find the Euclidean norm of a vector, TOMS 4 (1978).
    """

    product: Any
    large: Any
    middle: Any
    small: Any

    @classmethod
    def of(cls, x: np.ndarray, y: np.ndarray) -> Moments:
        with np.errstate(all="ignore"):
            product, square = np.vdot(x, y), np.vdot(y, y).real
            info = np.finfo(y.dtype)
            if info.tiny / info.eps**2 <= square < np.inf or not y.any():  # what vanished from this sum is too small
                return cls(product, 0, square, 0)
            low, high, shrink, grow = _thresholds(info)
            size = np.abs(y)
            parts = size[size > high] * shrink, size[~((size < low) | (size > high))], size[size < low] * grow
            return cls(product, *(np.vdot(part, part) for part in parts))

    @property
    def norm(self) -> Any:
        """||y||."""
        large, middle, small = (np.sqrt(np.asarray(part).real) for part in self[1:])
        with np.errstate(all="ignore"):
            _, _, shrink, grow = _thresholds(np.finfo(large.dtype))
            return np.hypot(np.hypot(large / shrink, middle), small / grow)


def _thresholds(info: np.finfo) -> tuple[float, float, float, float]:
    """What is small, what is large, and by what these are multiplied."""
    least, most, digits = int(info.minexp) + 1, int(info.maxexp), int(info.nmant) + 1
    kind = info.dtype.type
    return tuple(
        kind(2.0) ** e
        for e in (ceil((least - 1) / 2), floor((most - digits + 1) / 2),
                  -ceil((most + digits - 1) / 2), -floor((least - digits) / 2))
    )  # type: ignore[return-value] # fmt: skip


def moments(x: np.ndarray, y: np.ndarray, sums: np.ndarray | None) -> np.ndarray | None:
    """sums := the moments of x and y, this rank's terms."""
    terms = np.array(Moments.of(x, y), y.dtype)
    if sums is None:
        return terms
    sums[...] = terms
    return None


def normalise(sums: np.ndarray, y: np.ndarray, x: np.ndarray) -> None:
    """x := y / ||y||; where y = 0, x is an eigenvector and stays."""
    norm = Moments(*sums).norm
    if norm != 0:
        with np.errstate(all="ignore"):  # infinities are looked for at the end
            np.divide(y, norm, out=x)


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

    def __init__(self, graph: TaskGraph, grid: Grid, dtype: str) -> None:
        self.graph = graph
        self.rooms = Homes()
        self.grid = grid
        self.dtype = dtype
        self.scratch = 0
        self.A = self.graph.handles("A")
        for q in range(grid.ranks):
            i, j = grid.place(q)
            self.rooms.note(self.A[q], q, length(grid.rows(i)), length(grid.columns(j)))

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

    def product(
        self, x: Callable[[int], Handle], y: Callable[[int], Handle], *, transposed: bool = False, overlap: bool = False
    ) -> None:
        """y := A x, or A^T x: allgather in one direction of the grid, reduce-scatter in the other."""
        grid, graph, A = self.grid, self.graph, self.A
        columns = [[grid.rank(i, j) for i in range(grid.r)] for j in range(grid.c)]
        rows = [[grid.rank(i, j) for j in range(grid.c)] for i in range(grid.r)]
        gathered, reduced = (rows, columns) if transposed else (columns, rows)

        def height(q: int) -> int:
            return length(grid.rows(q // grid.c))

        def width(q: int) -> int:
            return length(grid.columns(q % grid.c))

        wide, tall = (height, width) if transposed else (width, height)
        parts, terms = len(gathered[0]), len(reduced[0])
        whole = x if parts == 1 else self.temporary(wide)
        z = y if terms == 1 else self.temporary(tall)

        def own(place: int, q: int) -> Range:
            return piece((0, wide(q)), parts, place)

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
            lay(
                graph,
                self.rooms,
                schedule("reduce_scatter", "exchange", terms, tall(group[0])),
                group,
                z,
                self.messages(),
            )
            for place, q in enumerate(group):
                graph.insert(PACK, R(z(q)), W(y(q)), (piece((0, tall(q)), terms, place),))

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

    def finish(self) -> None:
        self.graph.layout = self.rooms.layout(self.grid.ranks)


@strict
def matvec_graph(grid: Grid, *, transposed: bool = False, overlap: bool = False, dtype: str = "float64") -> TaskGraph:
    """The graph of y = A x, or A^T x: blocks A[q], pieces x[q] and y[q] on rank q.

    Parameters
    ----------
    grid
        (m, n, r, c): an m x n matrix on r x c ranks, a `tilewright.comm.grid.Grid`.
    transposed
        Multiply by the transpose.
    overlap
        Multiply by a rank's own piece of x while the others travel.
    dtype
        That of matrix, vectors and messages.

    Returns
    -------
    A graph with a layout; its data are ``{"A": [...], "x": [...]}`` by rank, and it makes ``y``.

    Raises
    ------
    ValueError, TypeError
        An extent is no number of at least 0, a number of ranks none of at least 1; a dtype that is none of numbers.

    Examples
    --------
    >>> import tilewright as tw
    >>> graph = tw.comm.matvec_graph((64, 64, 2, 2))
    >>> tw.simulate(graph, tw.Machine(alpha=1e-6, beta=1e-9, gamma=1e-9)).messages
    8
    """
    if isinstance(grid, str | bytes | Mapping) or not isinstance(grid, Sequence) or len(grid) != 4:
        raise TypeError(f"grid must be (m, n, r, c), an m x n matrix on r x c ranks, not {grid!r}")
    sizes = [
        whole(size, f"{name} of grid", least) for size, name, least in zip(grid, "mnrc", (0, 0, 1, 1), strict=True)
    ]
    if not isinstance(dtype, str | type | np.dtype):
        raise TypeError(f"dtype must name a dtype, not {dtype!r}")
    try:
        kind = np.dtype(dtype)
    except TypeError as error:
        raise TypeError(f"dtype must name a dtype, not {dtype!r}") from error
    if kind.kind not in "fc":
        raise ValueError(f"dtype must be one of real or complex numbers, not {dtype!r}")
    return _matvec_graph(Grid(*sizes), flag(transposed, "transposed"), flag(overlap, "overlap"), str(kind))


def _named(grid: Grid, transposed: bool, *_: object) -> str:
    return f"matvec on {grid.r} x {grid.c} ranks{', transposed' if transposed else ''}"


@graph_builder(_named)
def _matvec_graph(g: TaskGraph, grid: Grid, transposed: bool, overlap: bool, dtype: str) -> None:
    program = _Program(g, grid, dtype)
    x_of, y_of = (grid.y_piece, grid.x_piece) if transposed else (grid.x_piece, grid.y_piece)
    x = program.vector("x", lambda q: length(x_of(q)))
    y = program.vector("y", lambda q: length(y_of(q)))
    program.product(x, y, transposed=transposed, overlap=overlap)
    program.finish()


@graph_builder("power iteration on {grid.r} x {grid.c} ranks")
def power_graph(g: TaskGraph, grid: Grid, dtype: str) -> None:
    """One step of the power iteration: x := A x / ||A x||, and s := the `Moments` of x and A x."""
    program = _Program(g, grid, dtype)
    x = program.vector("x", lambda q: length(grid.x_piece(q)))
    s = program.vector("s", lambda q: len(Moments._fields))
    y = program.temporary(lambda q: length(grid.y_piece(q)))
    w = program.temporary(lambda q: length(grid.x_piece(q)))
    program.product(x, y)
    program.turn(y, w)
    everyone = range(grid.ranks)
    for q in everyone:
        program.graph.insert(MOMENTS, R(x(q)), R(w(q)), W(s(q)))
    total = schedule("allreduce", "tree", grid.ranks, len(Moments._fields))
    lay(program.graph, program.rooms, total, everyone, s, program.messages())
    for q in everyone:
        program.graph.insert(NORMALISE, R(s(q)), R(w(q)), RW(x(q)))
    program.finish()
