"""Graphs of tile QR factorisations: the loops."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, NamedTuple

from tilewright.arguments import LAPACK
from tilewright.builder import graph_builder
from tilewright.distribution import BlockCyclic
from tilewright.graph import RW, Handle, Handles, Layout, Op, R, TaskGraph, W
from tilewright.keywords import strict
from tilewright.linalg.qr_panels import TilePanels, groups, qr_panels
from tilewright.linalg.trees import PANEL, Elimination, Tree, column, eliminations, heads, is_loop, normal
from tilewright.ops import (
    copy,
    geqrt,
    identity,
    signs,
    times_columns,
    times_rows,
    triu,
    tsmqr,
    tsqrt,
    ttmqr,
    ttqrt,
    unmqr,
    zero,
)
from tilewright.scalars import choice, positive, whole

__all__ = ["QRPlan", "Reflections", "insert_qr", "qr_graph", "task_count"]

_MOST_TASKS = 10**9

Flag = Literal["C", "N"]


class QRPlan(NamedTuple):
    """How a matrix is factored: all that its bits depend on."""

    m: int
    n: int
    height: int
    """Rows of a tile."""
    width: int
    """Columns of a tile."""
    ib: int
    """Reflections that kernels apply at a time."""
    tree: Tree
    ranks: int
    """Over which tile rows are dealt out."""
    dtype: str
    grid: tuple[int, int] | None = None
    """The P x Q ranks among which the graph itself deals out tiles; None leaves that to the engine."""
    across: int = 1
    """Tile columns that the reflections of a panel are applied to at a time, at most."""
    gathered: bool = False
    """Whether whole groups of tile columns go to one rank each, as ``owner=`` or the engine says where tiles live."""

    @property
    def mt(self) -> int:
        return -(-self.m // self.height)

    @property
    def nt(self) -> int:
        return -(-self.n // self.width)

    @property
    def panels(self) -> int:
        return min(self.mt, self.nt)

    @property
    def tasks(self) -> float:
        """About how many a factorisation has."""
        return self.panels * (self.nt / 2 if self.tree == PANEL else self.mt * self.nt / 3)

    def steps(self) -> list[list[Elimination]]:
        """By column, its eliminations."""
        return by_column(eliminations(self.tree, self.mt, self.nt, self.ranks), self.panels)

    def columns_of(self, g: TaskGraph) -> Columns:
        """The eliminations, as `qr_tiles` takes them."""
        return columns_of(g, self.tree, self.mt, self.nt, self.ranks)

    def rows(self, i: int) -> int:
        """Rows of a tile in tile row i."""
        return min(self.height, self.m - i * self.height)

    def columns(self, j: int) -> int:
        """Columns of a tile in tile column j."""
        return min(self.width, self.n - j * self.width)


def layout_of(plan: QRPlan, *_: Any) -> Layout | None:
    """Where the tiles of a graph live, if the plan says so."""
    if plan.grid is None:
        return None
    if plan.tree == PANEL:
        ranks = plan.grid[0] * plan.grid[1]

        def column(handle: Handle) -> int:
            at = handle.index[0] if handle.name in ("D", "diagonal") else handle.index[1]
            turn, place = divmod(at // plan.across, ranks)  # an update writes whole groups
            return ranks - 1 - place if turn % 2 else place  # there and back, as later groups have more to do

        return Layout(ranks, column, lambda handle: ())
    owner = BlockCyclic(*plan.grid)
    return Layout(owner.ranks, lambda handle: owner(*(*handle.index, 0, 0)[:2]), lambda handle: (), owner)


def by_column(steps: tuple[Elimination, ...], columns: int) -> list[list[Elimination]]:
    found: list[list[Elimination]] = [[] for _ in range(columns)]
    for step in steps:
        found[step.column].append(step)
    return found


class Columns(NamedTuple):
    """The tree of a matrix, column by column."""

    heads: Callable[[int], Iterable[int]]
    """The rows whose tiles become triangles of their own."""
    steps: Callable[[int], Iterable[Elimination]]


def columns_of(g: TaskGraph, tree: Tree, mt: int, nt: int, ranks: int) -> Columns:
    """As loops where the tree is one, else from the list of its eliminations."""
    if is_loop(tree):
        return Columns(lambda k: heads(g, tree, k, mt, ranks), lambda k: column(g, tree, k, mt, ranks))
    steps = by_column(eliminations(tree, mt, nt, ranks), min(mt, nt))
    return Columns(lambda k: _heads(k, mt, steps[k]), lambda k: steps[k])


def _heads(k: int, mt: int, steps: list[Elimination]) -> Iterator[int]:
    """The rows whose tiles become triangles of their own in column k."""
    whole = {step.row for step in steps if step.kind == "TS"}
    return (i for i in range(k, mt) if i not in whole)


class Reflections(NamedTuple):
    """Where the reflections of a factorisation are: vectors in A, triangles in T, of eliminations in S."""

    A: Handles
    T: Handles
    S: Handles
    corner: Handles | None = None
    """Where the vectors of a panel stand in A with their ones and zeros: its R on the diagonal. Else that is in A."""

    @classmethod
    def rooms(cls, g: TaskGraph, plan: QRPlan | None, A: Handles, *, alone: bool = False) -> Reflections:
        """With rooms for T and S where sizes are known; ``alone`` lets panels have rooms for R."""
        if plan is None:
            return cls(A, g.handles("T"), g.handles("S"))
        if plan.tree == PANEL:
            T = g.handles("T", shape=lambda i, k: (reflections(plan, k, k),) * 2, dtype=plan.dtype)
            if not alone:
                return cls(A, T, g.handles("S"))

            def corner(i: int, k: int) -> tuple[int, int]:
                return reflections(plan, k, k), plan.columns(k)

            return cls(A, T, g.handles("S"), g.handles("corner", shape=corner, dtype=plan.dtype))

        def triangles(i: int, k: int) -> tuple[int, int]:
            return min(plan.ib, reflections(plan, i, k)), reflections(plan, i, k)

        def eliminated(i: int, k: int) -> tuple[int, int]:
            return min(plan.ib, plan.columns(k)), plan.columns(k)

        return cls(
            A, g.handles("T", shape=triangles, dtype=plan.dtype), g.handles("S", shape=eliminated, dtype=plan.dtype)
        )

    @classmethod
    def given(cls, g: TaskGraph, plan: QRPlan) -> Reflections:
        """Those of a factor, for all of which there is data."""
        corner = g.handles("corner") if plan.tree == PANEL else None
        return cls(g.handles("A"), g.handles("T"), g.handles("S"), corner)

    def diagonal(self, k: int) -> Handle:
        """The tile that has R on the diagonal."""
        return self.A[k, k] if self.corner is None else self.corner[0, k]


def reflections(plan: QRPlan, i: int, k: int) -> int:
    """How many tile (i, k) has, or the panel from it on."""
    rows = plan.m - i * plan.height if plan.tree == PANEL else plan.rows(i)
    return min(rows, plan.columns(k))


def qr_tiles(g: TaskGraph, H: Reflections, V: Handles, mt: int, nt: int, tree: Columns) -> None:
    """Insert the tile QR factorisation by a tree [1]_, [2]_.

    The vectors of a triangle are copied to V, of which the updates beside it read: so they run beside the eliminations,
    which change R.

    .. [1] A. Buttari, J. Langou, J. Kurzak, J. Dongarra, Parallel tiled QR factorization for multicore architectures,
       Concurrency and Computation 20 (2008).
    .. [2] J. Dongarra et al., Hierarchical QR factorization algorithms for multi-core clusters, Parallel Computing 39
       (2013).
    """
    for k in g.range(min(mt, nt - 1)):
        _eliminate(g, H, V, k, nt, tree)
    if 0 < nt <= mt:  # nothing is beside the last column
        _eliminate(g, H, None, nt - 1, nt, tree)


def _eliminate(g: TaskGraph, H: Reflections, V: Handles | None, k: int, nt: int, tree: Columns) -> None:
    """Insert what makes column k triangular, and what that does to the columns beside it."""
    A, T, S, _ = H
    for i in tree.heads(k):
        if V is None:
            g.insert(geqrt, RW(A[i, k]), W(T[i, k]))
            continue
        g.insert(geqrt, RW(A[i, k]), W(T[i, k]), W(V[i, k]))  # A_ik = Q_ik R_ik
        for j in g.range(k + 1, nt):
            g.insert(unmqr, R(V[i, k]), R(T[i, k]), RW(A[i, j]), "C", True)  # A_ij := Q_ik^H A_ij
    for step in tree.steps(k):
        made, done = _kernels(step)
        b, i = step.by, step.row
        g.insert(made, RW(A[b, k]), RW(A[i, k]), W(S[i, k]), on=A[i, k])  # (R_bk, A_ik) = Q (R_bk, 0)
        for j in () if V is None else g.range(k + 1, nt):
            g.insert(done, R(A[i, k]), R(S[i, k]), RW(A[b, j]), RW(A[i, j]), on=A[i, j])


def _kernels(step: Elimination) -> tuple[Op, Op]:
    return (tsqrt, tsmqr) if step.kind == "TS" else (ttqrt, ttmqr)


def apply(
    g: TaskGraph,
    H: Reflections,
    X: Handles,
    plan: QRPlan,
    columns: int,
    flag: Flag = "C",
    first: Callable[[int], int] = lambda k: 0,
) -> None:
    """Insert X := Q^H X, or with ``flag`` "N" Q X, on so many columns of tiles, of step k from ``first(k)`` on."""
    A, T, S, corner = H
    mt = plan.mt
    panels = TilePanels(g, A, T, mt, plan.nt, plan.across, corner, plan.gathered)
    steps = [] if plan.tree == PANEL else plan.steps()
    for k in range(plan.panels) if flag == "C" else reversed(range(plan.panels)):
        if plan.tree == PANEL:
            for beside in groups(first(k), columns, plan.across):
                panels.apply(k, X, beside, flag)
            continue
        for c in range(first(k), columns):
            if flag == "C":
                for i in _heads(k, mt, steps[k]):
                    g.insert(unmqr, R(A[i, k]), R(T[i, k]), RW(X[i, c]))
            for step in steps[k] if flag == "C" else reversed(steps[k]):
                _, done = _kernels(step)
                b, i = step.by, step.row
                g.insert(done, R(A[i, k]), R(S[i, k]), RW(X[b, c]), RW(X[i, c]), flag, on=X[i, c])
            if flag == "N":
                for i in _heads(k, mt, steps[k]):
                    g.insert(unmqr, R(A[i, k]), R(T[i, k]), RW(X[i, c]), flag)


def explicit(g: TaskGraph, H: Reflections, Q: Handles, plan: QRPlan, columns: int) -> None:
    """Insert Q := Q I for so many columns: in step k those from k on, as the others are still zero there."""
    across = -(-columns // plan.width)
    for i in range(plan.mt):
        for c in range(across):
            g.insert(identity if i * plan.height == c * plan.width else zero, W(Q[i, c]))
    apply(g, H, Q, plan, across, "N", first=lambda k: k)


def upper(g: TaskGraph, H: Reflections, U: Handles, plan: QRPlan) -> None:
    """Insert U := R, (min(m, n), n), with zeros below the diagonal."""
    for i in g.range(plan.panels):
        for j in g.range(i):
            g.insert(zero, W(U[i, j]))
        g.insert(triu, R(H.diagonal(i)), W(U[i, i]))
        for j in g.range(i + 1, plan.nt):
            g.insert(triu, R(H.A[i, j]), W(U[i, j]), False)


def upper_in_place(g: TaskGraph, H: Reflections, plan: QRPlan) -> None:
    """Insert A := R, (m, n), with zeros below the diagonal, when nobody reads the reflections any more."""
    for k in g.range(plan.panels):
        g.insert(triu, R(H.diagonal(k)), W(H.A[k, k]))
    for j in g.range(plan.nt):
        for i in g.range(j + 1, plan.mt):
            g.insert(zero, W(H.A[i, j]))


def make_positive(g: TaskGraph, H: Reflections, U: Handles, Q: Handles | None, plan: QRPlan) -> None:
    """Insert R := D R and Q := Q D with the signs D of the diagonal of R."""
    D = g.handles("D", shape=lambda k, _: (reflections(plan, k, k), 1), dtype="float64")
    for k in g.range(plan.panels):
        g.insert(signs, R(H.diagonal(k)), W(D[k, 0]))
        for j in g.range(k, plan.nt):
            g.insert(times_rows, R(D[k, 0]), RW(U[k, j]))
        if Q is not None:
            for i in g.range(plan.mt):
                g.insert(times_columns, R(D[k, 0]), RW(Q[i, k]))


def fill(g: TaskGraph, A: Handles, plan: QRPlan, check: bool) -> None:
    """Insert A := S, looking for NaN and infinities."""
    S = g.handles("source")
    for j in g.range(plan.nt):
        for i in g.range(plan.mt):
            g.insert(copy, R(S[i, j]), W(A[i, j]), *["all"] * check)


def insert_qr(g: TaskGraph, H: Reflections, plan: QRPlan) -> None:
    """Insert the factorisation of a plan."""
    if plan.tree == PANEL:
        qr_panels(TilePanels(g, H.A, H.T, plan.mt, plan.nt, plan.across, H.corner, plan.gathered))
        return
    V = g.handles("V", shape=lambda i, k: (plan.columns(k), plan.rows(i)), dtype=plan.dtype)
    qr_tiles(g, H, V, plan.mt, plan.nt, plan.columns_of(g))


def task_count(mt: int, nt: int, tree: Tree) -> int:
    """About how many tasks `qr_graph` has; for the flat tree exactly."""
    t = min(mt, nt)
    beside = sum(nt - 1 - k for k in range(t))
    if tree == PANEL:
        return t + beside
    eliminated = sum(mt - 1 - k for k in range(t))
    updates = sum((mt - 1 - k) * (nt - 1 - k) for k in range(t))
    return t + beside + (eliminated + updates) * (1 if tree == "flat" else 2)


@strict
def qr_graph(
    mt: int,
    nt: int,
    tree: Any = "greedy",
    *,
    ranks: int = 1,
    shape: tuple[int, int] | None = None,
    tile_size: int | None = None,
    ib: int | None = None,
    dtype: str = "float64",
) -> TaskGraph:
    """The task graph of the QR factorisation of mt x nt tiles, handles ``A[i,j]``, ``T[i,k]``, ``S[i,k]``, ``V[i,k]``.

    Parameters
    ----------
    mt, nt
        Tile rows and columns.
    tree
        ``"panel"``: a block column is one task. ``"flat"``, ``"flat-tt"``, ``"binary"``, ``"greedy"``, ``"fibonacci"``,
        ``("hierarchical", a, low, high)``, or a list of eliminations: see `tilewright.linalg.trees.eliminations`.
    ranks
        Over which tile rows are dealt out, for hierarchical trees.
    shape, tile_size, dtype
        Those of the matrix: then a run finds the memory of all but A itself.
    ib
        Reflections that kernels apply at a time; chosen by default.

    Returns
    -------
    graph
        After a run R is on and above the diagonal of A, the vectors below. In units of nb^3/3 flops the work is
        6 mt nt^2 - 2 nt^3 for every tree, mt >= nt. The critical path, for p = mt, q = nt:

        ========  ==========  ================  =====================
        tree      p = q       p > q > 1         q = 1
        ========  ==========  ================  =====================
        flat      30 p - 34   12 p + 18 q - 32  6 p - 2
        flat-tt   22 p - 24   6 p + 16 q - 22   2 p + 2
        binary                                  4 + 2 ceil(log2(p))
        greedy                                  4 + 2 ceil(log2(p))
        ========  ==========  ================  =====================

        At most 22 q + 6 ceil(log2(p)) for greedy, 22 q + 6 ceil(sqrt(2 p)) for Fibonacci.

    Raises
    ------
    ValueError
        An unknown tree, one that does not make the tiles triangular, a negative number, a shape that has other tiles,
        or more than 10^9 tasks.
    TypeError
        ``mt`` or ``nt`` is not an integer.

    Examples
    --------
    >>> from tilewright import qr_graph
    >>> [(len(g), g.critical_path().length) for g in (qr_graph(16, 4, tree) for tree in ("flat", "binary", "greedy"))]
    [(150, 232.0), (290, 114.0), (290, 86.0)]
    """
    for name, extent in (("mt", mt), ("nt", nt)):
        if whole(extent, name) < 0:
            raise ValueError(f"{name} must not be negative, got {extent}")
    tree = normal(tree)
    ranks, ib = positive(ranks, "ranks"), None if ib is None else positive(ib, "ib")
    choice(dtype, "dtype", LAPACK)
    if (shape is None) != (tile_size is None):
        raise ValueError("shape and tile_size say together how large the tiles are; give both or neither")
    if (count := task_count(mt, nt, tree)) > _MOST_TASKS:
        raise ValueError(f"mt={mt}, nt={nt} make {count} tasks, more than a graph can hold; take larger tiles")
    if tile_size is None or shape is None:
        return _outline(mt, nt, tree, ranks)
    nb = positive(tile_size, "tile_size")
    if not isinstance(shape, tuple | list) or len(shape) != 2:
        raise TypeError(f"shape must be two numbers, (rows, columns), not {shape!r}")
    m, n = (whole(extent, "an extent of shape", 0) for extent in shape)
    if (-(-m // nb), -(-n // nb)) != (mt, nt):
        raise ValueError(f"shape {m} x {n} in tiles of tile_size={nb} is not {mt} x {nt} tiles")
    return _sized(QRPlan(m, n, nb, nb, inner_block(nb) if ib is None else ib, tree, ranks, dtype))


def inner_block(nb: int) -> int:
    """Reflections that kernels apply at a time in tiles of nb columns: 64 from 512 on, 32 at 256.

    Xeon and EPYC, OpenBLAS: tsmqr of tiles of 512 runs at 39 GFLOP/s a core with 64, 34 with 32; tsqrt of 256 at 19 and
    25.
    """
    return max(min(nb, 8), min(64, nb // 8))


def _name(mt: int, nt: int, tree: Tree) -> str:
    word = tree if isinstance(tree, str) else "-".join(map(str, tree)) if tree[:1] == ("hierarchical",) else "given"
    return f"qr mt={mt} nt={nt} {word}"


@graph_builder(
    lambda mt, nt, tree, ranks: _name(mt, nt, tree),
    extents=lambda mt, nt, tree, ranks: {"A": (mt, nt)},
    tasks=lambda mt, nt, tree, ranks: min(mt, nt) * (nt / 2 if tree == PANEL else mt * nt / 3),
)
def _outline(g: TaskGraph, mt: int, nt: int, tree: Tree, ranks: int) -> None:
    H = Reflections.rooms(g, None, g.handles("A"))
    if tree == PANEL:
        qr_panels(TilePanels(g, H.A, H.T, mt, nt))
    else:
        qr_tiles(g, H, g.handles("V"), mt, nt, columns_of(g, tree, mt, nt, ranks))


@graph_builder(
    lambda plan: _name(plan.mt, plan.nt, plan.tree),
    extents=lambda plan: {"A": (plan.mt, plan.nt)},
    tasks=lambda plan: plan.tasks,
)
def _sized(g: TaskGraph, plan: QRPlan) -> None:
    insert_qr(g, Reflections.rooms(g, plan, g.handles("A")), plan)
