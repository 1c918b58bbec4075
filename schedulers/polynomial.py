"""parsec and chameleon: priorities of two Cholesky codes as polynomials in the tile indices, larger is sooner.

With nt tiles a side, step k, and tile row m > column n > k:

===========  ==================  =====================================  ==================  =======================================
policy       potrf(k)            trsm(m,k)                              syrk(m,k)           gemm(m,n,k)
===========  ==================  =====================================  ==================  =======================================
parsec       (nt-k)^3            (nt-m)^3 + 3 (m-k) (2nt-k-m-1)         (nt-m)^3 + 3 (m-k)  (nt-m)^3 + 3 (m-n) (2nt-m-n-3) + 6 (m-k)
chameleon    2nt - 2k            2nt - 2k - m                           2nt - 2k - m        2nt - 2k - n - m
===========  ==================  =====================================  ==================  =======================================

A copy into a tile counts as the first task on that tile. The formulas are those of DPLASMA's ``zpotrf_L.jdf`` and
Chameleon's ``pzpotrf.c``; they know Cholesky only. Other tasks run after those, in program order, so on another
graph the policy is `eager` in disguise; ``fits`` tells.
"""  # noqa: E501 - a table

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from tilewright.graph import Task, TaskGraph
from tilewright.machine import Machine
from tilewright.schedulers.ranked import Ranked

__all__ = ["Chameleon", "Parsec", "Polynomial"]

Formula = Callable[[int, int, int, int], int]  # (nt, m, n, k) -> priority


class Polynomial(Ranked):
    """Base class: `priorities` has a formula for each op."""

    priorities: ClassVar[dict[str, Formula]] = {}

    def keys(self, graph: TaskGraph, machine: Machine) -> list[float]:
        places = [cholesky_place(task) for task in graph.tasks]
        nt = 1 + max((place[1] for place in places if place), default=0)
        keys: list[float] = []
        for place in places:
            if place is None:
                keys.append(1.0)  # after all others, whose keys are not positive
            else:
                op, m, n, k = place
                keys.append(-self.priorities[op](nt, m, n, k))
        return keys

    @staticmethod
    def fits(graph: TaskGraph) -> bool:
        """Whether the formulas mean anything for this graph."""
        return all(cholesky_place(task) or task.op.name in ("zero", "tril") for task in graph.tasks)


class Parsec(Polynomial):
    """DPLASMA's cubic priorities."""

    priorities: ClassVar[dict[str, Formula]] = {
        "potrf": lambda nt, m, n, k: (nt - k) ** 3,
        "trsm": lambda nt, m, n, k: (nt - m) ** 3 + 3 * (m - k) * (2 * nt - k - m - 1),
        "syrk": lambda nt, m, n, k: (nt - m) ** 3 + 3 * (m - k),
        "gemm": lambda nt, m, n, k: (nt - m) ** 3 + 3 * (m - n) * (2 * nt - m - n - 3) + 6 * (m - k),
    }


class Chameleon(Polynomial):
    """Chameleon's linear priorities."""

    priorities: ClassVar[dict[str, Formula]] = {
        "potrf": lambda nt, m, n, k: 2 * nt - 2 * k,
        "trsm": lambda nt, m, n, k: 2 * nt - 2 * k - m,
        "syrk": lambda nt, m, n, k: 2 * nt - 2 * k - m,
        "gemm": lambda nt, m, n, k: 2 * nt - 2 * k - n - m,
    }


def cholesky_place(task: Task) -> tuple[str, int, int, int] | None:
    """(op, m, n, k) of a task of a tiled Cholesky factorisation, None for any other."""
    op, indices = task.op.name, [use.handle.index for use in task.uses]
    try:
        if op == "gemm":
            (m, k), (n, k2), tile = indices
            if k == k2 < n < m and tile == (m, n):
                return op, m, n, k
        elif op == "syrk":
            (m, k), tile = indices
            if k < m and tile == (m, m):
                return op, m, m, k
        elif op == "trsm":
            (k, k2), (m, n) = indices
            if k == k2 == n < m:
                return op, m, k, k
        elif op == "potrf":
            ((k, k2),) = indices
            if k == k2:
                return op, k, k, k
        elif op == "copy":
            _, (m, n) = indices
            if m >= n:
                return ("potrf" if m == 0 else "trsm" if n == 0 else "syrk" if m == n else "gemm"), m, n, 0
    except ValueError:
        pass  # indices of another shape
    return None
