"""Trees of a tile QR factorisation: in which order, and by which other row, the tiles of a column become zero.

A tree is data: a list of `Elimination`, column after column. `eliminations` makes one, `check` looks at any such list,
no matter who made it, and `picture` prints it. Two kinds of elimination, of tile (i, k) by tile (b, k) with b < i:

====  =====================================================================================================
TS    the tile is still whole, and one task eliminates it under the triangle above: tsqrt, 6 units of nb^3/3
TT    both are triangles already (geqrt, 4 units each), and one is eliminated under the other: ttqrt, 2 units
====  =====================================================================================================

TS has fewer tasks and faster kernels, TT does more at a time: the total work is the same [1]_.

.. [1] H. Bouwmeester, M. Jacquelin, J. Langou, Y. Robert, Tiled QR factorization algorithms, SC11 (2011).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any, Literal, NamedTuple

from tilewright.graph import TaskGraph
from tilewright.scalars import choice, positive, shown, whole

__all__ = [
    "PANEL",
    "TREES",
    "Elimination",
    "Tree",
    "check",
    "column",
    "eliminations",
    "heads",
    "is_loop",
    "normal",
    "picture",
]

TREES = ("flat", "flat-tt", "binary", "greedy", "fibonacci")
"""Names of trees of tiles. Of hierarchical ones, which have parts of these, see `eliminations`."""

PANEL = "panel"
"""The name of the factorisation without a tree: a block column is one task."""

_HIERARCHICAL = "hierarchical"
_EARLIEST = "earliest"
_DOMAINS = ("rolling", "fixed")


class Elimination(NamedTuple):
    """Tile (row, column) becomes zero under tile (by, column)."""

    column: int
    row: int
    by: int
    kind: Literal["TS", "TT"]

    def __str__(self) -> str:
        return f"column {self.column}: {self.row} by {self.by} ({self.kind})"


Tree = str | tuple[Any, ...]
"""A name of `TREES`; ("hierarchical", a, low, high[, domains]); or a tuple of `Elimination`."""


def normal(tree: Any) -> Tree:
    """The tree as a name or a tuple, which can be keys of a cache.

    Raises
    ------
    ValueError
        An unknown name, or a hierarchy that is none.
    TypeError
        Neither a name, nor a tuple or list.
    """
    if isinstance(tree, str):
        if tree == _HIERARCHICAL:
            return normal((_HIERARCHICAL, 4, "greedy", "binary"))
        choice(tree, "tree", (PANEL, *TREES, _HIERARCHICAL))
        return tree
    if not isinstance(tree, tuple | list):
        raise TypeError(f"tree is a name, ('hierarchical', a, low, high), or a list of eliminations, not {tree!r}")
    if not len(tree) or tree[0] != _HIERARCHICAL:
        return tuple(_elimination(step) for step in tree)
    if len(tree) not in (4, 5):
        raise ValueError(
            f"a hierarchical tree is ('hierarchical', a, low, high), such as "
            f"('hierarchical', 4, 'greedy', 'binary'), not {tuple(tree)!r}"
        )
    _, a, low, high, *domains = tree
    lists = tuple(_ON_LISTS)
    kind = choice(domains[0], "domains of a tree", _DOMAINS) if domains else "rolling"
    return (
        _HIERARCHICAL,
        positive(a, "a, the tiles of a domain,"),
        choice(low, "low tree", (*lists, _EARLIEST)),
        choice(high, "high tree", lists),
        kind,
    )


def _elimination(step: Any) -> Elimination:
    try:
        column, row, by, kind = step
    except (TypeError, ValueError):
        raise TypeError(f"tree: an elimination is (column, row, by, kind), not {shown(step)}") from None
    column, row, by = (whole(x, f"a number of the elimination {step!r}", 0) for x in (column, row, by))
    kinds: dict[str, Literal["TS", "TT"]] = {"TS": "TS", "TT": "TT"}
    return Elimination(column, row, by, kinds[choice(kind, "kind of an elimination", kinds)])


@lru_cache(maxsize=64)
def eliminations(tree: Tree, mt: int, nt: int, ranks: int = 1) -> tuple[Elimination, ...]:
    """The eliminations that make mt x nt tiles upper triangular, column after column.

    Parameters
    ----------
    tree
        ``"flat"``: each tile by that of the diagonal, one after the other, TS. ``"flat-tt"``: the same, TT.
        ``"binary"``: neighbours, then neighbours of those left. ``"greedy"``: in each step as many tiles of all columns
        as can be, from the bottom [1]_. ``"fibonacci"``: in step t as many of a column as t, t - 1, ... [2]_.
        ``("hierarchical", a, low, high)``: in each rank domains of ``a`` tiles, flat and TS inside, what is left of
        them by the tree ``low`` ("flat", "binary", "greedy", "fibonacci", or "earliest": always the two that are ready
        first), and what is left of the ranks by ``high``.
        Domains are counted from the first row of the column; with a fifth word ``"fixed"`` from row 0.
        Or the eliminations themselves.
    ranks
        Over which tile rows are dealt out in turn: for hierarchical trees.

    Raises
    ------
    ValueError
        The eliminations given do not make the tiles triangular: `check` says why.

    References
    ----------
    .. [1] M. Cosnard, J.-M. Muller, Y. Robert, Parallel QR decomposition of a rectangular matrix, Numer. Math. 48
       (1986).
    .. [2] J. Modi and M. Clarke, An alternative Givens ordering, Numer. Math. 43 (1984).

    Examples
    --------
    >>> [str(step) for step in eliminations("binary", 4, 1)]
    ['column 0: 1 by 0 (TT)', 'column 0: 3 by 2 (TT)', 'column 0: 2 by 0 (TT)']
    """
    if not isinstance(tree, str):
        if tree and tree[0] == _HIERARCHICAL:
            _, a, low, high, domains = tree
            return tuple(_hierarchical(mt, nt, a, low, high, domains, ranks))
        check(tree, mt, nt)
        return tree
    if tree == "greedy":
        return _greedy(mt, nt)
    kind: Literal["TS", "TT"] = "TS" if tree == "flat" else "TT"
    pairs = _ON_LISTS[tree.removesuffix("-tt")]
    return tuple(Elimination(k, k + row, k + by, kind) for k in range(min(mt, nt)) for row, by in pairs(mt - k))


# ------------------------------------------------------------------ as loops


def is_loop(tree: Tree) -> bool:
    """Whether `column` has the eliminations of a tree: those that bounds and steps of loops describe."""
    if isinstance(tree, str):
        return tree in ("flat", "flat-tt", "binary")
    return tree[:1] == (_HIERARCHICAL,) and set(tree[2:4]) <= {"flat", "binary"} and tree[4] == "rolling"


def heads(g: TaskGraph, tree: Tree, k: int, mt: int, ranks: int = 1) -> Iterator[int]:
    """The rows of column k whose tiles become triangles of their own, by ``g.range``, of a tree that `is_loop`."""
    if tree == "flat":
        yield k
    elif isinstance(tree, str):
        yield from g.range(k, mt)
    else:
        for first in g.range(k, mt, tree[1] * ranks):
            yield from g.range(first, g.least(first + ranks, mt))


def column(g: TaskGraph, tree: Tree, k: int, mt: int, ranks: int = 1) -> Iterator[Elimination]:
    """The eliminations of column k, as `eliminations` has them, by ``g.range``, of a tree that `is_loop`."""
    if isinstance(tree, str):
        kind: Literal["TS", "TT"] = "TS" if tree == "flat" else "TT"
        yield from _pairs(g, tree.removesuffix("-tt"), kind, k, k, (mt,), 1, mt)
        return
    _, a, low, high, _ = tree
    for first in g.range(k, g.least(k + ranks, mt)):  # of each rank
        for head in g.range(first, mt, a * ranks):
            yield from _pairs(g, "flat", "TS", k, head, (head + a * ranks, mt), ranks, a)
        yield from _pairs(g, low, "TT", k, first, (mt,), a * ranks, -(-mt // (a * ranks)))
    yield from _pairs(g, high, "TT", k, k, (k + ranks, mt), 1, min(ranks, mt))


def _pairs(
    g: TaskGraph,
    name: str,
    kind: Literal["TS", "TT"],
    k: int,
    first: int,
    stops: tuple[int, ...],
    stride: int,
    most: int,
) -> Iterator[Elimination]:
    """Of rows first, first + stride, ... before all of ``stops``, no more than ``most``: flat or binary."""
    if name == "flat":
        for row in g.range(first + stride, g.least(*stops), stride):
            yield Elimination(k, row, first, kind)
        return
    step = stride
    while step < most * stride:
        for by in g.range(first, g.least(*(stop - step for stop in stops)), 2 * step):
            yield Elimination(k, by + step, by, kind)
        step *= 2


def _flat(count: int) -> Iterator[tuple[int, int]]:
    return ((row, 0) for row in range(1, count))


def _binary(count: int) -> Iterator[tuple[int, int]]:
    step = 1
    while step < count:
        yield from ((row, row - step) for row in range(step, count, 2 * step))
        step *= 2


def _halves(count: int) -> Iterator[tuple[int, int]]:
    """The lower half by the upper one, as long as there are two."""
    while count > 1:
        gone = count // 2
        yield from ((row, row - gone) for row in range(count - gone, count))
        count -= gone


def _fibonacci(count: int) -> Iterator[tuple[int, int]]:
    """Rows 1, 2-3, 4-6, 7-10, ...: the y rows of group y by the y rows above them, the last group first."""
    y = 1
    while y * (y + 1) // 2 < count - 1:
        y += 1
    for size in range(y, 0, -1):
        first = size * (size - 1) // 2 + 1
        yield from ((row, row - size) for row in range(first, min(first + size, count)))


_ON_LISTS: dict[str, Callable[[int], Iterator[tuple[int, int]]]] = {
    "flat": _flat,
    "binary": _binary,
    "greedy": _halves,
    "fibonacci": _fibonacci,
}
"""(row, by) of one column, counted in a list of rows."""


def _greedy(mt: int, nt: int) -> tuple[Elimination, ...]:
    """In each step and column, half of the rows that are there and not zero, by the rows above them."""
    last = min(mt, nt)
    zero = [0] * last  # rows of the column that are zero, from the bottom
    found: list[list[Elimination]] = [[] for _ in range(last)]
    while any(zero[k] < mt - 1 - k for k in range(last)):
        for k in reversed(range(last)):
            there = mt if k == 0 else zero[k - 1]  # rows that the column before is done with
            gone = (there - zero[k]) // 2
            for row in range(mt - zero[k] - gone, mt - zero[k]):
                found[k].append(Elimination(k, row, row - gone, "TT"))
            zero[k] += gone
    return tuple(step for column in found for step in column)


def _hierarchical(mt: int, nt: int, a: int, low: str, high: str, domains: str, ranks: int) -> Iterator[Elimination]:
    clock = _Clock(mt, nt) if low == _EARLIEST else None
    for k in range(min(mt, nt)):
        tops = []
        for rank in range(min(ranks, mt - k)):
            rows = range(k + rank, mt, ranks)
            steps: list[Elimination] = []
            heads: list[int] = []
            domain = -1
            for place, row in enumerate(rows):
                here = (row // ranks if domains == "fixed" else place) // a
                if here != domain:
                    domain = here
                    heads.append(row)
                else:
                    steps.append(Elimination(k, row, heads[-1], "TS"))
            if clock is None:
                steps += [Elimination(k, heads[row], heads[by], "TT") for row, by in _ON_LISTS[low](len(heads))]
            else:
                steps = list(clock.column(k, heads, steps))
            yield from steps
            tops.append(heads[0])
        last = [Elimination(k, tops[row], tops[by], "TT") for row, by in _ON_LISTS[high](len(tops))]
        yield from last if clock is None else map(clock.eliminate, last)


class _Clock:
    """When tiles are ready if nobody waits for a worker, in units of nb^3/3 flops."""

    def __init__(self, mt: int, nt: int) -> None:
        self.ready = [[0] * nt for _ in range(mt)]

    def column(self, k: int, heads: list[int], inside: list[Elimination]) -> Iterator[Elimination]:
        """Eliminations inside domains, then of the two heads that are ready first, and so on."""
        for head in heads:
            row = self.ready[head]
            row[k] += 4
            for j in range(k + 1, len(row)):
                row[j] = max(row[j], row[k]) + 6
        yield from map(self.eliminate, inside)
        alive = list(heads)
        while len(alive) > 1:
            by, gone = sorted(sorted(alive, key=lambda row: (self.ready[row][k], row))[:2])
            alive.remove(gone)
            yield self.eliminate(Elimination(k, gone, by, "TT"))

    def eliminate(self, step: Elimination) -> Elimination:
        k, kernel, update = step.column, *((6, 12) if step.kind == "TS" else (2, 6))
        above, below = self.ready[step.by], self.ready[step.row]
        above[k] = below[k] = done = max(above[k], below[k]) + kernel
        for j in range(k + 1, len(above)):
            above[j] = below[j] = max(above[j], below[j], done) + update
        return step


def check(steps: Sequence[Elimination], mt: int, nt: int) -> None:
    """ValueError unless these eliminations, in this order, make mt x nt tiles upper triangular.

    In each column every tile below the diagonal is eliminated once, by a row above it that is not zero there yet; a
    tile that is eliminated whole (TS) eliminated none before. Columns come one after the other. O(eliminations).
    """
    last = min(mt, nt)
    gone: set[int] = set()
    used: set[int] = set()
    column = 0
    for step in steps:
        if step.column < column:
            raise ValueError(f"{step}: the tree has column {column} before it")
        while column < step.column:
            _check_column(column, gone, mt, last)
            gone, used, column = set(), set(), column + 1
        if not step.column < last or not step.column <= step.by < step.row < mt:
            raise ValueError(f"{step}: a tile is eliminated by one above it, from the diagonal on, of {mt} x {nt}")
        if step.row in gone:
            raise ValueError(f"{step}: it is eliminated already")
        if step.by in gone:
            raise ValueError(f"{step}: row {step.by} is eliminated there already")
        if step.kind == "TS" and step.row in used:
            raise ValueError(f"{step}: row {step.row} is a triangle, as it eliminated others; its kind is TT")
        gone.add(step.row)
        used.add(step.by)
    for k in range(column, last):
        _check_column(k, gone if k == column else set(), mt, last)


def _check_column(k: int, gone: set[int], mt: int, last: int) -> None:
    missing = [row for row in range(k + 1, mt) if row not in gone]
    if missing:
        more = f", and {len(missing) - 1} more of that column" if len(missing) > 1 else ""
        raise ValueError(f"the tree leaves tile ({missing[0]}, {k}) as it is{more}")


def picture(steps: Sequence[Elimination], mt: int, nt: int) -> str:
    """Who eliminates each tile, one tile row a line: ``3`` by row 3 as a triangle, ``3*`` by row 3 as a whole tile.

    Examples
    --------
    >>> print(picture(eliminations(("hierarchical", 2, "binary", "flat", "rolling"), 5, 2), 5, 2))
     .  .
    0*  .
     0 1*
    2*  1
     0 3*
    """
    cells = {(step.row, step.column): f"{step.by}*" if step.kind == "TS" else f"{step.by}" for step in steps}
    lines = [[cells.get((i, k), ".") for k in range(min(mt, nt))] for i in range(mt)]
    width = max((len(cell) for line in lines for cell in line), default=0)
    return "\n".join(" ".join(cell.rjust(width) for cell in line) for line in lines)
