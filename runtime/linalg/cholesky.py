"""Tiled Cholesky factorisation A = L L^H: the loop, and its graph. The call is `tilewright.linalg.factor`."""

from __future__ import annotations

from tilewright.builder import graph_builder
from tilewright.graph import RW, Handles, R, Task, TaskGraph
from tilewright.ops import gemm, potrf, syrk, trsm
from tilewright.scalars import whole

__all__ = ["bottom_level", "cholesky", "cholesky_graph"]

_MOST_TASKS = 10**9


def cholesky(g: TaskGraph, A: Handles, nt: int) -> None:
    """Insert the right-looking tiled Cholesky factorisation of the lower triangle, in place [1]_, [2]_.

    .. [1] A. Buttari et al., A class of parallel tiled linear algebra algorithms for multicore architectures,
       Parallel Computing 35 (2009), algorithm 1.
    .. [2] LAPACK ?potrf.
    """
    for k in g.range(nt):
        g.insert(potrf, RW(A[k, k]))  # A_kk := chol(A_kk)
        for i in g.range(k + 1, nt):
            g.insert(trsm, R(A[k, k]), RW(A[i, k]))  # A_ik := A_ik L_kk^-H
        for i in g.range(k + 1, nt):
            g.insert(syrk, R(A[i, k]), RW(A[i, i]))  # A_ii := A_ii - A_ik A_ik^H
            for j in g.range(k + 1, i):
                g.insert(gemm, R(A[i, k]), R(A[j, k]), RW(A[i, j]))  # A_ij := A_ij - A_ik A_jk^H


def bottom_level(task: Task, nt: int) -> float:
    """Length of the longest path from a task of `cholesky_graph` to the end, in units of nb^3/3 flops. O(1).

    With weights 1, 3, 3, 6 and t = nt::

        potrf(k)      9 (t-k) - 10                  1 in the last step
        trsm(i,k)     9 (t-k) - 11
        gemm(i,j,k)   6 (j-k) + 9 (t-j) - 11
        syrk(i,k)     3 (i-k) + 9 (t-i) - 10        3 (i-k) + 1 in the last row

    A copy into a tile counts as the first task on that tile; clearing one leads nowhere and counts 0.
    """
    name = task.op.name
    if name == "gemm":
        (i, j), (_, k) = task.uses[2].handle.index, task.uses[0].handle.index
    elif name in ("zero", "tril"):
        return 0
    elif name == "syrk":
        i, k = task.uses[0].handle.index
        j = i
    elif name == "copy":
        (i, j), k = task.uses[1].handle.index, 0
        name = "potrf" if i == 0 else "trsm" if j == 0 else "syrk" if i == j else "gemm"
    else:
        i, k = task.uses[-1].handle.index
        j = k
    if name == "potrf":
        return 9 * (nt - k) - 10 if k < nt - 1 else 1
    if name == "trsm":
        return 9 * (nt - k) - 11
    if name == "gemm":
        return 6 * (j - k) + 9 * (nt - j) - 11
    return 3 * (i - k) + (9 * (nt - i) - 10 if i < nt - 1 else 1)


@graph_builder(
    "cholesky nt={nt}",
    levels=bottom_level,
    extents=lambda nt: {"A": (nt, nt)},
    tasks=lambda nt: nt * (nt + 1) * (nt + 2) / 6,
)
def cholesky_graph(g: TaskGraph, nt: int) -> None:
    """The task graph of the Cholesky factorisation of nt x nt tiles, handles ``A[i,j]``.

    It has nt (nt+1) (nt+2) / 6 tasks. With weights 1, 3, 3, 6 for potrf, trsm, syrk, gemm (units of nb^3/3 flops)
    its work is nt^3 and its critical path 9 nt - 10 (1 for nt = 1); counted in tasks the path is 3 nt - 2.

    Parameters
    ----------
    nt
        Tile rows.

    Returns
    -------
    graph : TaskGraph

    Raises
    ------
    ValueError
        ``nt`` is negative, or there would be more than 10^9 tasks.
    TypeError
        ``nt`` is not an integer.

    Examples
    --------
    >>> from tilewright import cholesky_graph
    >>> g = cholesky_graph(nt=4)
    >>> len(g), g.tasks[2], g.tasks[-1]
    (20, trsm(2,0), potrf(3))
    """
    if whole(nt, "nt") < 0:
        raise ValueError(f"nt must not be negative, got {nt}")
    if (count := nt * (nt + 1) * (nt + 2) // 6) > _MOST_TASKS:
        raise ValueError(f"nt={nt} makes {count} tasks, more than a graph can hold; take larger tiles")
    cholesky(g, g.handles("A"), nt)
