"""Graphs of tiled LU factorisations: the loops."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from tilewright.arguments import LAPACK
from tilewright.builder import graph_builder
from tilewright.graph import RW, Handles, R, Task, TaskGraph, W
from tilewright.keywords import strict
from tilewright.linalg.butterfly import insert_butterflies, meetings
from tilewright.ops import (
    crown,
    elect,
    elect_last,
    gemm2,
    gemmn,
    getrf,
    getrf2,
    getrfn,
    match,
    match_last,
    swap,
    swpgemm,
    swptrsm,
    take,
    trade,
    trsm2,
    trsmn,
    trsmu,
)
from tilewright.scalars import choice, positive, real, whole

__all__ = [
    "COLUMN",
    "ENTRANTS",
    "LEAVES",
    "PANELS",
    "PIVOTING",
    "THRESHOLD",
    "UPDATES",
    "about",
    "bottom_level",
    "checked_threshold",
    "lu_graph",
    "lu_partial",
    "lu_plain",
    "task_count",
]

PIVOTING = ("partial", "threshold", "tournament", "none", "butterfly")
COLUMN = ("partial", "threshold")
"""Those that look for each pivot in the whole column, by `getrf`."""
UPDATES = ("tile", "column")
PANELS = ("single", "recursive")
ENTRANTS = 4
"""Tiles whose candidates one task of a tournament chooses, in one process."""
LEAVES = 4
"""Leaves of a recursive panel."""
THRESHOLD = 0.5
"""tau of threshold pivoting where none is given."""

_MOST_TASKS = 10**9


def lu_partial(
    g: TaskGraph,
    A: Handles,
    piv: Handles,
    mt: int,
    nt: int,
    update: str = "tile",
    panel: str = "single",
    threshold: float = 1.0,
    together: int = 1,
) -> None:
    """Insert the right-looking tiled LU factorisation with partial pivoting, in place [1]_, [2]_.

    The pivot of a column may be any row below, so a panel is one task over all tiles of its block column. Rows of
    finished block columns are exchanged last, all at once: nobody waits for them.

    With updates by column so many panels ``together`` update the block columns beyond them, in one product that goes
    through these once. Among themselves they take turns, and exchange their rows at once; the panels of the second
    group take those of the first in turn, too.

    .. [1] J. Kurzak et al., Achieving numerical accuracy and high performance using recursive tile LU factorization
       with partial pivoting, Concurrency and Computation 26 (2014).
    .. [2] LAPACK ?getrf.
    """
    share = (threshold,) if threshold < 1 else ()
    for k in g.range(min(mt, nt)) if together == 1 else range(min(mt, nt)):
        if panel == "recursive":
            _recursive_panel(g, A, piv, k, mt, share)
        else:
            getrf_k = g.value(getrf, mt - k)
            g.insert(getrf_k, [RW(A[i, k]) for i in g.range(k, mt)], W(piv[k]), *share)  # P A_k = L_k U_kk
        if together > 1:
            _update_columns(g, A, piv, mt, nt, k, together)
            continue
        for j in g.range(k + 1, nt):
            column = [RW(A[i, j]) for i in g.range(k, mt)]
            if update == "column":
                panel_k = [R(A[i, k]) for i in g.range(k, mt)]
                g.insert(g.value(swpgemm, mt - k), R(piv[k]), panel_k, column)
                continue
            g.insert(swptrsm, R(piv[k]), R(A[k, k]), column)  # A_j := P A_j, A_kj := L_kk^-1 A_kj
            for i in g.range(k + 1, mt):
                g.insert(gemmn, R(A[i, k]), R(A[k, j]), RW(A[i, j]))  # A_ij := A_ij - A_ik A_kj
    _exchange_at_the_end(g, A, piv, mt, nt, together)


def _update_columns(g: TaskGraph, A: Handles, piv: Handles, mt: int, nt: int, k: int, together: int) -> None:
    """Insert what follows panel k: the update of the panels of its group that are to come, or of all columns beyond.

    Nothing else is there to do beside the first group, so the panels of the second take its updates one at a time.
    """
    t = min(mt, nt)
    first = k - k % together
    end = min(first + together, t)
    alone = end if first else min(end + together, t)
    for j in range(first, k):
        g.insert(swap, [R(piv[k])], [RW(A[i, j]) for i in range(k, mt)], label=(j, k))
    for j in range(k + 1, alone):
        _update_column(g, A, piv, mt, [k], j)
    for j in range(alone, nt) if k == end - 1 else ():
        _update_column(g, A, piv, mt, range(first, end), j)


def _update_column(g: TaskGraph, A: Handles, piv: Handles, mt: int, panels: Sequence[int], j: int) -> None:
    """Insert A_j := P A_j, A_kj := L_kk^-1 A_kj, A_ij := A_ij - A_ik A_kj for the panels k together."""
    rows = range(panels[0], mt)
    pivots = [R(piv[k]) for k in panels]
    g.insert(
        swpgemm(len(rows), len(panels)),
        pivots if len(panels) > 1 else pivots[0],
        [R(A[i, k]) for i in rows for k in panels],
        [RW(A[i, j]) for i in rows],
    )


def _stages(of: int, first: int = 0, last: int | None = None) -> list[tuple[int, ...]]:
    """What a recursive panel does one after the other: (leaf,) factored, (first, middle, last) updated."""
    last = of if last is None else last
    if last - first == 1:
        return [(first,)]
    middle = (first + last) // 2
    return [*_stages(of, first, middle), (first, middle, last), *_stages(of, middle, last)]


def _recursive_panel(g: TaskGraph, A: Handles, piv: Handles, k: int, mt: int, share: tuple[float, ...]) -> None:
    """Insert the factorisation of panel k by halves of its columns: a task for each leaf, updates with one a tile."""
    for number, stage in enumerate(_stages(LEAVES)):
        if len(stage) == 1:
            (leaf,) = stage
            tiles = [RW(A[i, k]) for i in range(k, mt)]
            own = RW(piv[k]) if leaf else W(piv[k])
            g.insert(getrf2(mt - k, leaf, LEAVES), tiles, own, leaf, LEAVES, *share, label=(k, number))
            continue
        a, b, c = stage  # columns a to b are factored, b to c follow
        g.insert(trsm2(a, b, c, LEAVES), RW(A[k, k]), a, b, c, LEAVES, label=(k, number))
        for i in range(k + 1, mt):
            g.insert(gemm2(a, b, c, LEAVES), R(A[k, k]), RW(A[i, k]), a, b, c, LEAVES, label=(i, k, number))


def lu_across(
    g: TaskGraph,
    A: Handles,
    piv: Handles,
    up: Handles,
    mt: int,
    nt: int,
    ranks: int,
    panel: Any = None,
    threshold: float = 1.0,
) -> None:
    """Insert the same for tile rows that lie on ``ranks`` ranks in turn, as in a block-cyclic distribution.

    In each exchange a rank sends the rank of the panel's first tile what rises there, and gets what falls: two messages
    a pair of ranks and block column. ``panel(k)`` inserts another choice of pivots than `getrf` of the whole panel.
    """

    def step(k: int, alone: bool) -> None:
        if panel is None:
            share = (threshold,) if threshold < 1 else ()
            g.insert(g.value(getrf, mt - k), [RW(A[i, k]) for i in g.range(k, mt)], W(piv[k]), *share)
        else:
            panel(k, [list(range(k + r, mt, ranks)) for r in range(min(ranks, mt - k))])
        for j in g.range(k if ranks > 1 else 0):  # on one rank, columns that are finished wait for the end
            _exchange(g, A, piv, up, k, j, mt, ranks, alone)
        if panel is not None:
            _exchange(g, A, piv, up, k, k, mt, ranks, alone)
            panel(k, None)
        for j in g.range(k + 1, nt):
            _exchange(g, A, piv, up, k, j, mt, ranks, alone)
            g.insert(trsmn, R(A[k, k]), RW(A[k, j]))  # A_kj := L_kk^-1 A_kj
        for j in g.range(k + 1, nt):
            for i in g.range(k + 1, mt):
                g.insert(gemmn, R(A[i, k]), R(A[k, j]), RW(A[i, j]))  # A_ij := A_ij - A_ik A_kj

    steps = min(mt, nt)
    several = steps if ranks == 1 else min(max(mt - 1, 0), nt)  # with rows on several ranks
    for k in g.range(several):
        step(k, ranks == 1)
    for k in range(several, steps):
        step(k, True)
    if ranks == 1:
        _exchange_at_the_end(g, A, piv, mt, nt)


def _exchange_at_the_end(g: TaskGraph, A: Handles, piv: Handles, mt: int, nt: int, together: int = 1) -> None:
    last = min(mt, nt)
    for j in range(last - 1) if together > 1 else ():
        later = range(j - j % together + together, last)
        if later:
            g.insert(swap, [R(piv[k]) for k in later], [RW(A[i, j]) for i in range(later[0], mt)])
    for j in g.range(last - 1) if together == 1 else ():
        g.insert(swap, [R(piv[k]) for k in g.range(j + 1, last)], [RW(A[i, j]) for i in g.range(j + 1, mt)])


def _exchange(
    g: TaskGraph, A: Handles, piv: Handles, up: Handles, k: int, j: int, mt: int, ranks: int, alone: bool
) -> None:
    """Insert the exchanges of panel k in block column j: the rank of its first tile has rows k, k + ranks, ...; all of
    them if ``alone``."""
    if alone:
        g.insert(swap, [R(piv[k])], [RW(A[i, j]) for i in g.range(k, mt)], label=(j, k))
        return
    for first in g.range(k + 1, g.least(k + ranks, mt)):
        tiles = [RW(A[i, j]) for i in g.range(first, mt, ranks)]
        places = g.value(_places, first - k, mt - k, ranks)
        g.insert(trade, R(piv[k]), R(A[k, j]), tiles, W(up[k, j, first]), places)
    ups = [R(up[k, j, first]) for first in g.range(k + 1, g.least(k + ranks, mt))]
    mine = [RW(A[i, j]) for i in g.range(k, mt, ranks)]
    g.insert(take, R(piv[k]), ups, mine, g.value(_all_places, mt - k, ranks))


def _places(first: int, count: int, ranks: int) -> tuple[int, ...]:
    """Where a rank's tiles are in a panel of so many."""
    return tuple(range(first, count, ranks))


def _all_places(count: int, ranks: int) -> tuple[tuple[int, ...], ...]:
    return tuple(_places(r, count, ranks) for r in range(min(ranks, count)))


def tournament(
    g: TaskGraph, A: Handles, piv: Handles, rooms: tuple[Handles, Handles, Handles], leaf: int, nb: int
) -> Any:
    """Panels by tournament, for `lu_across`: candidates of ``leaf`` tiles of a rank each, matches in a binary tree."""
    C, P, D = rooms

    def panel(k: int, rows: list[list[int]] | None) -> None:
        if rows is None:
            g.insert(crown, R(D[k]), RW(A[k, k]))  # A_kk := L_kk U_kk of the rows chosen
            for i in range(k + 1, below[0]):
                g.insert(trsmu, R(A[k, k]), RW(A[i, k]))  # A_ik := A_ik U_kk^-1
            return
        below[0] = 1 + max(map(max, rows))
        sets = [group[at : at + leaf] for group in rows for at in range(0, len(group), leaf)]
        places = [tuple(i - k for i in tiles) for tiles in sets]
        reads = [[R(A[i, k]) for i in tiles] for tiles in sets]
        if len(sets) == 1:
            g.insert(elect_last(len(sets[0])), W(piv[k]), reads[0], W(D[k]), places[0], nb, on=A[k, k])
            return
        for tiles, read, place in zip(sets, reads, places, strict=True):
            at = tiles[0], k
            g.insert(elect(len(tiles)), W(P[at]), read, W(C[at]), place, nb, on=A[at])
        step, heads = 1, [(tiles[0], k) for tiles in sets]
        while 2 * step < len(heads):
            for one in range(0, len(heads) - step, 2 * step):
                a, b = heads[one], heads[one + step]
                g.insert(match, RW(P[a]), R(P[b]), R(C[b]), RW(C[a]))
            step *= 2
        a, b = heads[0], heads[step]
        g.insert(match_last, W(piv[k]), R(P[a]), R(P[b]), R(C[a]), R(C[b]), W(D[k]), on=A[k, k])

    below = [0]
    return panel


def lu_plain(g: TaskGraph, A: Handles, mt: int, nt: int) -> None:
    """Insert the right-looking tiled LU factorisation without pivoting, in place."""
    for k in g.range(min(mt, nt)):
        g.insert(getrfn, RW(A[k, k]))  # A_kk = L_kk U_kk
        for j in g.range(k + 1, nt):
            g.insert(trsmn, R(A[k, k]), RW(A[k, j]))  # A_kj := L_kk^-1 A_kj
        for i in g.range(k + 1, mt):
            g.insert(trsmu, R(A[k, k]), RW(A[i, k]))  # A_ik := A_ik U_kk^-1
        for i in g.range(k + 1, mt):
            for j in g.range(k + 1, nt):
                g.insert(gemmn, R(A[i, k]), R(A[k, j]), RW(A[i, j]))  # A_ij := A_ij - A_ik A_kj


def task_count(
    mt: int, nt: int, pivoting: str = "partial", update: str = "tile", panel: str = "single", together: int = 1
) -> int:
    """How many tasks `lu_graph` has on one rank, with tournaments of single tiles."""
    t = min(mt, nt)
    beside = sum(nt - 1 - k for k in range(t))
    below = sum(mt - 1 - k for k in range(t))
    products = sum((mt - 1 - k) * (nt - 1 - k) for k in range(t))
    if pivoting in ("none", "butterfly"):
        return t + beside + below + products + (2 * nt * meetings(nt) if pivoting == "butterfly" else 0)
    if pivoting == "tournament":
        matches = sum(2 * (mt - k) - 1 for k in range(t))
        return matches + (t + beside) + t + beside + below + products + max(t - 1, 0)
    own = t if panel == "single" else (2 * LEAVES - 1) * t + (LEAVES - 1) * below
    if together > 1 and update == "column":
        groups = [(first, min(first + together, t)) for first in range(0, t, together)]
        inside = sum((end - first) * (end - first - 1) for first, end in groups)  # as many updates as exchanges
        inside += (together - 1) * min(max(t - together, 0), together)  # updates of the second group by the first
        return own + inside + sum(nt - end + (end - first) * (end < t) for first, end in groups)
    return own + beside + (products if update == "tile" else 0) + max(t - 1, 0)


@strict
def lu_graph(
    mt: int,
    nt: int,
    pivoting: str = "partial",
    update: str = "tile",
    *,
    ranks: int = 1,
    leaf: int = 1,
    shape: tuple[int, int] | None = None,
    tile_size: int | None = None,
    dtype: str = "float64",
    panel: str = "single",
    threshold: float | None = None,
    together: int = 1,
) -> TaskGraph:
    """The task graph of the LU factorisation of mt x nt tiles, handles ``A[i,j]`` and pivots ``piv[k]``.

    Parameters
    ----------
    mt, nt
        Tile rows and columns.
    pivoting
        ``"partial"``: over the whole column. ``"threshold"``: the same, but the diagonal, or else a row of the diagonal
        tile, is taken where it is ``threshold`` times as large as the largest. ``"tournament"``: rows chosen in matches
        between tiles, as CALU does. ``"none"``: in diagonal tiles without exchanges. ``"butterfly"``: the same for
        U^T A V with random butterflies U and V, whose diagonals are handles ``W[side,level,i]``; of squares.
    update
        ``"tile"``: one task for the row exchanges and the substitution of a block column, one for each product;
        ``"column"``: one task for all of them. Bits depend on it. By tile with more ranks and with tournaments.
    ranks
        Ranks over which the tile rows of a block column are dealt out, P of a block-cyclic distribution: row exchanges
        are then two messages a pair of them, panel and block column.
    leaf
        Tiles of a rank whose candidates are chosen by one task of a tournament.
    shape, tile_size, dtype
        Those of the matrix: then a run finds the memory of ``piv[k]`` itself, int32: the swaps of panel k, counted from
        its first row, from 0. Tournaments and more than one rank need them to run.
    panel
        ``"single"``: one task a panel. ``"recursive"``: by halves of its columns down to quarters, with a task for each
        tile in the updates between them; in one process, for pivots from the whole column. Bits depend on it.
    threshold
        tau of threshold pivoting, in (0, 1]; 0.5 by default, 1 is partial pivoting.
    together
        Panels that update the block columns beyond them in one task each, with ``update="column"``; but those of the
        second group one panel at a time. Bits depend on it.

    Returns
    -------
    graph
        For mt = nt, in units of nb^3/3 flops, the work is 2 nt^3. With partial pivoting nt panels, nt (nt-1)/2
        substitutions, nt (nt-1) (2 nt-1)/6 products and nt - 1 exchanges at the end, and a critical path of
        3 nt (nt+1)/2 - nt + 9 (nt-1); without pivoting nt + nt (nt-1) + nt (nt-1) (2 nt-1)/6 tasks and 11 nt - 9. A
        tournament takes 2 + 5 ceil(log2(nt-k)) for panel k instead of 3 (nt-k) - 1, and more work; a recursive panel
        3/4 (nt-k) + 7/2, the last one 2, and 3 + 3 (nt-k) tasks more.

    Raises
    ------
    ValueError
        An unknown name, a negative number, a shape that has other tiles, or more than 10^9 tasks; butterflies for a
        matrix that is not square, a threshold or recursive panels for pivoting that has none.
    TypeError
        ``mt`` or ``nt`` is not an integer.

    Examples
    --------
    >>> from tilewright import lu_graph
    >>> g = lu_graph(8, 8)
    >>> len(g), g.critical_path().length
    (183, 163.0)
    >>> g.tasks[1], g.tasks[2], g.tasks[-1]
    (swptrsm(0,1), gemmn(1,1,0), swap(6))
    """
    for name, extent in (("mt", mt), ("nt", nt)):
        if whole(extent, name) < 0:
            raise ValueError(f"{name} must not be negative, got {extent}")
    choice(pivoting, "pivoting", PIVOTING)
    choice(update, "update", UPDATES)
    choice(panel, "panel", PANELS)
    tau = checked_threshold(threshold, pivoting)
    ranks, leaf = min(positive(ranks, "ranks"), max(mt, 1)), positive(leaf, "leaf")
    choice(dtype, "dtype", LAPACK)
    if (shape is None) != (tile_size is None):
        raise ValueError("shape and tile_size say together how large the tiles are; give both or neither")
    if tile_size is not None:
        shape, tile_size = _checked_shape(shape), positive(tile_size, "tile_size")
        if (-(-shape[0] // tile_size), -(-shape[1] // tile_size)) != (mt, nt):
            raise ValueError(
                f"shape {shape[0]} x {shape[1]} in tiles of tile_size={tile_size} is not {mt} x {nt} tiles"
            )
    if panel == "recursive" and (pivoting not in COLUMN or ranks > 1):
        raise ValueError(
            f"panel='recursive' is for pivoting {' and '.join(COLUMN)} on one rank, not for {pivoting} on {ranks}"
        )
    if positive(together, "together") > 1 and (update != "column" or pivoting not in COLUMN or ranks > 1):
        raise ValueError(f"together={together} is for update='column' and pivots of the whole column on one rank")
    if pivoting == "butterfly" and (mt != nt or (shape is not None and shape[0] != shape[1])):
        raise ValueError(f"pivoting='butterfly' is for square matrices, not for {mt} x {nt} tiles")
    t = min(mt, nt)  # updates by column are few tasks with as many uses of tiles as there are updates by tile
    count = t**2 if t > _MOST_TASKS**0.5 else task_count(mt, nt, pivoting, "tile", panel)
    if count > _MOST_TASKS:
        raise ValueError(f"mt={mt}, nt={nt} make {count} updates, more than a graph can hold; take larger tiles")
    return _lu_graph(mt, nt, pivoting, update, ranks, leaf, shape, tile_size, dtype, panel, tau, together)


def about(mt: int, nt: int, update: str) -> float:
    """How many tasks a factorisation has, but for lower terms and a factor of up to 1.5."""
    return min(mt, nt) * (mt * nt / 3 if update == "tile" else nt / 2)


def checked_threshold(threshold: Any, pivoting: str | None) -> float:
    """tau of threshold pivoting; 1 for any other, which refuse one. ``pivoting`` None is not chosen yet."""
    if threshold is None:
        return THRESHOLD if pivoting == "threshold" else 1.0
    if pivoting != "threshold":
        raise ValueError(f"threshold is for pivoting='threshold', not for pivoting={pivoting!r}")
    return float(real(threshold, "threshold", 0, 1, above=True))


def has_closed_form(pivoting: str, ranks: int, together: int = 1) -> bool:
    """Whether `bottom_level` knows these graphs."""
    return together == 1 and (pivoting in COLUMN or (ranks == 1 and pivoting == "none"))


def _checked_shape(shape: Any) -> tuple[int, int]:
    if not isinstance(shape, tuple | list) or len(shape) != 2:
        raise TypeError(f"shape must be two numbers, (rows, columns), not {shape!r}")
    rows, columns = (whole(extent, "an extent of shape", 0) for extent in shape)
    return rows, columns


@graph_builder(
    "lu mt={mt} nt={nt} {pivoting}",
    levels=lambda task, mt, nt, pivoting, update, ranks, leaf, shape, tile_size, dtype, panel, *_: bottom_level(
        task, mt, nt, pivoting, update if ranks == 1 else "tile", panel
    ),
    known=lambda mt, nt, pivoting, update, ranks, *others: has_closed_form(pivoting, ranks, others[-1]),
    extents=lambda mt, nt, *_: {"A": (mt, nt)},
    tasks=lambda mt, nt, pivoting, update, ranks, *_: about(mt, nt, update if ranks == 1 else "tile"),
)
def _lu_graph(
    g: TaskGraph,
    mt: int,
    nt: int,
    pivoting: str,
    update: str,
    ranks: int,
    leaf: int,
    shape: tuple[int, int] | None,
    tile_size: int | None,
    dtype: str,
    panel: str,
    threshold: float,
    together: int,
) -> None:
    A = g.handles("A")
    insert_lu(g, A, mt, nt, pivoting, update, ranks, leaf, shape, tile_size, dtype, panel, threshold, together)


def insert_lu(
    g: TaskGraph,
    A: Handles,
    mt: int,
    nt: int,
    pivoting: str,
    update: str,
    ranks: int = 1,
    leaf: int = 1,
    shape: tuple[int, int] | None = None,
    tile_size: int | None = None,
    dtype: str = "float64",
    panel: str = "single",
    threshold: float = 1.0,
    together: int = 1,
) -> None:
    """Insert one of these factorisations, with rooms for all but A and the butterflies where sizes are known."""
    if pivoting == "butterfly":
        W = g.handles("W")
        insert_butterflies(g, W, A, 0, mt, nt)  # A := U^T A
        insert_butterflies(g, W, A, 1, nt, mt, turned=True)  # A := A V
    if pivoting in ("none", "butterfly"):
        lu_plain(g, A, mt, nt)
        return
    piv = pivots(g, shape, tile_size)
    if pivoting in COLUMN and ranks == 1:
        lu_partial(g, A, piv, mt, nt, update, panel, threshold, together)
        return
    up, *others = _rooms(g, shape, tile_size, dtype)
    matches = tournament(g, A, piv, (others[0], others[1], others[2]), leaf, tile_size or 0)
    lu_across(g, A, piv, up, mt, nt, ranks, matches if pivoting == "tournament" else None, threshold)


def _rooms(g: TaskGraph, shape: tuple[int, int] | None, tile_size: int | None, dtype: str) -> list[Handles]:
    """Rows on their way up; candidates and their places in the strip; the factor of the rows chosen."""
    if shape is None or tile_size is None:
        return [g.handles(name) for name in ("up", "C", "P", "crown")]
    m, n, nb = *shape, tile_size

    def height(i: int) -> int:
        return min(nb, m - i * nb)

    def width(j: int) -> int:
        return min(nb, n - j * nb)

    return [
        g.handles("up", shape=lambda k, j, i: (height(k), width(j)), dtype=dtype),
        g.handles("C", shape=lambda i, k: (width(k), width(k)), dtype=dtype),
        g.handles("P", shape=lambda i, k: (width(k),), dtype="int32"),
        g.handles("crown", shape=lambda k: (min(m - k * nb, width(k)), width(k)), dtype=dtype),
    ]


def pivots(g: TaskGraph, shape: tuple[int, int] | None, tile_size: int | None) -> Handles:
    """Handles ``piv[k]``, with a room each where the sizes are known."""
    if shape is None or tile_size is None:
        return g.handles("piv")
    m, n, nb = *shape, tile_size
    return g.handles("piv", shape=lambda k: (min(m - k * nb, n - k * nb, nb),), dtype="int32", keep=True)


@lru_cache(maxsize=512)
def _rest_of_panel(tiles: int) -> tuple[float, ...]:
    """How long a recursive panel of so many tiles takes from the beginning of each of its stages, 0 at the end."""
    rest = [0.0]
    for stage in reversed(_stages(LEAVES)):
        if len(stage) == 1:
            weight = getrf2(tiles, stage[0], LEAVES).weight
        else:
            a, b, c = stage
            weight = trsm2(a, b, c, LEAVES).weight + (gemm2(a, b, c, LEAVES).weight if tiles > 1 else 0)
        rest.append(rest[-1] + weight)
    return tuple(reversed(rest))


@lru_cache(maxsize=64)
def _panel_levels(mt: int, nt: int, pivoting: str, update: str, panel: str) -> list[float]:
    """P(k): bottom levels of the panels, or of the diagonal tiles."""
    t = min(mt, nt)
    levels = [0.0] * (t + 1)
    for k in reversed(range(t)):
        below, beside = k + 1 < mt, k + 1 < nt
        own = 2 if pivoting == "none" else 3 * (mt - k) - 1 if panel == "single" else _rest_of_panel(mt - k)[0]
        wide = 6 * (mt - k) - 3 if update == "column" and pivoting != "none" else 9 if below else 3
        if pivoting == "none" and below != beside:
            wide = 3
        follows = wide if beside or (below and pivoting == "none") else 0
        levels[k] = own + follows + levels[k + 1]
    return levels


def bottom_level(
    task: Task, mt: int, nt: int, pivoting: str = "partial", update: str = "tile", panel: str = "single"
) -> float:
    """Length of the longest path from a task of `lu_graph` to the end, in units of nb^3/3 flops. O(1).

    A block column j waits for its updates one after the other, and then its panel goes on. With weights getrf(k) =
    3 (mt-k) - 1, swptrsm = 3, gemmn = 6, t = min(mt, nt) and P(t) = 0::

        P(k)          3 (mt-k) - 1 + 9 + P(k+1)        2 + 9 + P(k+1) without pivoting
        swptrsm(k,j)  9 (j-k) + P(j)                   9 (t-k) - 6 for j >= t
        gemmn(i,j,k)  3 less than that                 6 (q-k) + what tile (i,j) begins with in step q = min(i,j)

    Exchanges between ranks count as the substitution behind them, ``trsmn(k,j)``. Those of finished columns lead
    nowhere and count 0; looking at a tile counts as the first task on it. The stages of a recursive panel of m tiles
    take 3/4 m + 7/2 together, 2 if m = 1, and each leads to all that follow.
    """
    P = _panel_levels(mt, nt, pivoting, update, panel)
    t = min(mt, nt)
    name = task.op.name
    if name in ("trade", "take") or (name == "trsmn" and pivoting != "none") or (name == "swap" and task.place):
        k, j = task.uses[0].handle.index[0], task.uses[-1].handle.index[1]
        return _column_level(k, j, mt, t, P, update) if j > k else 0
    if name in ("swap", "diag"):
        return 0
    if name == "getrf":
        return P[task.uses[-1].handle.index[0]]
    if name in ("getrf2", "trsm2", "gemm2"):
        assert task.place is not None
        *_, k, stage = (int(str(part)) for part in task.place)
        rest = _rest_of_panel(mt - k)
        own = rest[stage] if name != "gemm2" else rest[stage + 1] + task.op.weight
        return P[k] - rest[0] + own
    if name == "gauge":
        i, j = task.uses[0].handle.index
        return _first_level(i, j, 0, mt, t, P, pivoting, update)
    if name in ("swptrsm", "swpgemm"):
        return _column_level(task.uses[0].handle.index[0], task.uses[-1].handle.index[1], mt, t, P, update)
    if name != "gemmn":
        i, j = task.uses[-1].handle.index
        return _first_level(i, j, min(i, j), mt, t, P, pivoting, update)
    (i, j), k = task.uses[2].handle.index, task.uses[1].handle.index[0]
    if pivoting != "none":
        return _column_level(k, j, mt, t, P, update) - 3
    return 6 + _first_level(i, j, k + 1, mt, t, P, pivoting, update)


def _column_level(k: int, j: int, mt: int, t: int, P: list[float], update: str) -> float:
    """Bottom level of the first task of step k on block column j."""
    last = min(j, t)
    if update == "column":
        steps = last - k
        return steps * (6 * mt - 3) - 3 * (last * (last - 1) - k * (k - 1)) + (P[j] if j < t else 0)
    return 9 * (j - k) + P[j] if j < t else 9 * (t - k) - 6


def _first_level(i: int, j: int, k: int, mt: int, t: int, P: list[float], pivoting: str, update: str) -> float:
    """Bottom level of the first task of step k on tile (i, j)."""
    if pivoting != "none":
        return P[j] if k == j else _column_level(k, j, mt, t, P, update)
    q, r = min(i, j), max(i, j)
    own = P[q] if i == j else 9 * (r - q) + P[r] if r < t else 9 * (t - q) - 6
    return 6 * (q - k) + own
