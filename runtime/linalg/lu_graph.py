"""Graphs of tiled LU factorisations: the loops."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from tilewright.graph import RW, Handles, R, Task, TaskGraph, W
from tilewright.ops import gemmn, getrf, getrfn, swap, swpgemm, swptrsm, trsmn, trsmr
from tilewright.scalars import choice, whole

__all__ = ["PIVOTING", "UPDATES", "bottom_level", "lu_graph", "lu_partial", "lu_plain", "task_count"]

PIVOTING = ("partial", "none")
UPDATES = ("tile", "column")

_MOST_TASKS = 10**9


def lu_partial(g: TaskGraph, A: Handles, piv: Handles, mt: int, nt: int, update: str = "tile") -> None:
    """Insert the right-looking tiled LU factorisation with partial pivoting, in place [1]_, [2]_.

    The pivot of a column may be any row below, so a panel is one task over all tiles of its block column. Rows of
    finished block columns are exchanged last, all at once: nobody waits for them.

    .. [1] J. Kurzak et al., Achieving numerical accuracy and high performance using recursive tile LU factorization
       with partial pivoting, Concurrency and Computation 26 (2014).
    .. [2] LAPACK ?getrf.
    """
    for k in range(min(mt, nt)):
        panel = range(k, mt)
        g.insert(getrf(mt - k), [RW(A[i, k]) for i in panel], W(piv[k]))  # P A_k = L_k U_kk
        for j in range(k + 1, nt):
            column = [RW(A[i, j]) for i in panel]
            if update == "column":
                g.insert(swpgemm(mt - k), R(piv[k]), [R(A[i, k]) for i in panel], column)
                continue
            g.insert(swptrsm, R(piv[k]), R(A[k, k]), column)  # A_j := P A_j, A_kj := L_kk^-1 A_kj
            for i in range(k + 1, mt):
                g.insert(gemmn, R(A[i, k]), R(A[k, j]), RW(A[i, j]))  # A_ij := A_ij - A_ik A_kj
    last = min(mt, nt)
    for j in range(last - 1):
        g.insert(swap, [R(piv[k]) for k in range(j + 1, last)], [RW(A[i, j]) for i in range(j + 1, mt)])


def lu_plain(g: TaskGraph, A: Handles, mt: int, nt: int) -> None:
    """Insert the right-looking tiled LU factorisation without pivoting, in place."""
    for k in range(min(mt, nt)):
        g.insert(getrfn, RW(A[k, k]))  # A_kk = L_kk U_kk
        for j in range(k + 1, nt):
            g.insert(trsmn, R(A[k, k]), RW(A[k, j]))  # A_kj := L_kk^-1 A_kj
        for i in range(k + 1, mt):
            g.insert(trsmr, R(A[k, k]), RW(A[i, k]))  # A_ik := A_ik U_kk^-1
        for i in range(k + 1, mt):
            for j in range(k + 1, nt):
                g.insert(gemmn, R(A[i, k]), R(A[k, j]), RW(A[i, j]))  # A_ij := A_ij - A_ik A_kj


def task_count(mt: int, nt: int, pivoting: str = "partial", update: str = "tile") -> int:
    """How many tasks `lu_graph` has."""
    t = min(mt, nt)
    beside = sum(nt - 1 - k for k in range(t))
    below = sum(mt - 1 - k for k in range(t))
    products = sum((mt - 1 - k) * (nt - 1 - k) for k in range(t))
    if pivoting == "none":
        return t + beside + below + products
    return t + beside + (products if update == "tile" else 0) + max(t - 1, 0)


def lu_graph(
    mt: int,
    nt: int,
    pivoting: str = "partial",
    update: str = "tile",
    *,
    shape: tuple[int, int] | None = None,
    tile_size: int | None = None,
) -> TaskGraph:
    """The task graph of the LU factorisation of mt x nt tiles, handles ``A[i,j]`` and pivots ``piv[k]``.

    Parameters
    ----------
    mt, nt
        Tile rows and columns.
    pivoting
        ``"partial"``: over the whole column, one task a panel. ``"none"``: in diagonal tiles without exchanges.
    update
        ``"tile"``: one task for the row exchanges and the substitution of a block column, one for each product;
        ``"column"``: one task for all of them. Bits depend on it.
    shape, tile_size
        Of the matrix: then a run finds the memory of ``piv[k]``, int32, itself: the swaps of panel k, counted from
        its first row, from 0.

    Returns
    -------
    graph
        For mt = nt, in units of nb^3/3 flops, the work is 2 nt^3. With partial pivoting nt panels, nt (nt-1)/2
        substitutions, nt (nt-1) (2 nt-1)/6 products and nt - 1 exchanges at the end, and a critical path of
        3 nt (nt+1)/2 - nt + 9 (nt-1); without pivoting nt + nt (nt-1) + nt (nt-1) (2 nt-1)/6 tasks and 11 nt - 9.

    Raises
    ------
    ValueError
        An unknown name, a negative number, a shape that has other tiles, or more than 10^9 tasks.
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
    if (count := task_count(mt, nt, pivoting, update)) > _MOST_TASKS:
        raise ValueError(f"mt={mt}, nt={nt} make {count} tasks, more than a graph can hold; take larger tiles")
    g = TaskGraph(f"lu mt={mt} nt={nt} {pivoting}")
    A = g.handles("A")
    if pivoting == "none":
        lu_plain(g, A, mt, nt)
    else:
        lu_partial(g, A, pivots(g, shape, tile_size), mt, nt, update)
    g.extents = {"A": (mt, nt)}
    g.closed_form = lambda task: bottom_level(task, mt, nt, pivoting, update)
    g.recipe = _lu_graph, (mt, nt, pivoting, update, shape, tile_size)
    return g


def _lu_graph(mt: int, nt: int, pivoting: str, update: str, shape: Any, tile_size: Any) -> TaskGraph:
    return lu_graph(mt, nt, pivoting, update, shape=shape, tile_size=tile_size)


def pivots(g: TaskGraph, shape: tuple[int, int] | None, tile_size: int | None) -> Handles:
    """Handles ``piv[k]``, with a room each where the sizes are known."""
    if shape is None or tile_size is None:
        return g.handles("piv")
    m, n, nb = *shape, tile_size
    return g.handles("piv", shape=lambda k: (min(m - k * nb, n - k * nb, nb),), dtype="int32", keep=True)


@lru_cache(maxsize=64)
def _panel_levels(mt: int, nt: int, pivoting: str, update: str) -> list[float]:
    """P(k): bottom levels of the panels, or of the diagonal tiles."""
    t = min(mt, nt)
    levels = [0.0] * (t + 1)
    for k in reversed(range(t)):
        below, beside = k + 1 < mt, k + 1 < nt
        own = 2 if pivoting == "none" else 3 * (mt - k) - 1
        wide = 6 * (mt - k) - 3 if update == "column" and pivoting != "none" else 9 if below else 3
        if pivoting == "none" and below != beside:
            wide = 3
        follows = wide if beside or (below and pivoting == "none") else 0
        levels[k] = own + follows + levels[k + 1]
    return levels


def bottom_level(task: Task, mt: int, nt: int, pivoting: str = "partial", update: str = "tile") -> float:
    """Length of the longest path from a task of `lu_graph` to the end, in units of nb^3/3 flops. O(1).

    A block column j waits for its updates one after the other, and then its panel goes on. With weights getrf(k) =
    3 (mt-k) - 1, swptrsm = 3, gemmn = 6, t = min(mt, nt) and P(t) = 0::

        P(k)          3 (mt-k) - 1 + 9 + P(k+1)        2 + 9 + P(k+1) without pivoting
        swptrsm(k,j)  9 (j-k) + P(j)                   9 (t-k) - 6 for j >= t
        gemmn(i,j,k)  3 less than that                 6 (q-k) + what tile (i,j) begins with in step q = min(i,j)

    Exchanges at the end lead nowhere and count 0; looking at a tile counts as the first task on it.
    """
    P = _panel_levels(mt, nt, pivoting, update)
    t = min(mt, nt)
    name = task.op.name
    if name in ("swap", "diag"):
        return 0
    if name == "getrf":
        return P[task.uses[-1].handle.index[0]]
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
    """Of the first task of step k on block column j."""
    last = min(j, t)
    if update == "column":
        steps = last - k
        return steps * (6 * mt - 3) - 3 * (last * (last - 1) - k * (k - 1)) + (P[j] if j < t else 0)
    return 9 * (j - k) + P[j] if j < t else 9 * (t - k) - 6


def _first_level(i: int, j: int, k: int, mt: int, t: int, P: list[float], pivoting: str, update: str) -> float:
    """Of the first task of step k on tile (i, j)."""
    if pivoting != "none":
        return P[j] if k == j else _column_level(k, j, mt, t, P, update)
    q, r = min(i, j), max(i, j)
    own = P[q] if i == j else 9 * (r - q) + P[r] if r < t else 9 * (t - q) - 6
    return 6 * (q - k) + own
