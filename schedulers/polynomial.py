"""parsec and chameleon: priorities of two libraries as polynomials in the tile indices, larger is sooner.

With nt tile columns, step k, and tile row m and column n:

===========  ==================  =====================================  ==================  =======================================
Cholesky     potrf(k)            trsm(m,k)                              syrk(m,k)           gemm(m,n,k)
===========  ==================  =====================================  ==================  =======================================
parsec       (nt-k)^3            (nt-m)^3 + 3 (m-k) (2nt-k-m-1)         (nt-m)^3 + 3 (m-k)  (nt-m)^3 + 3 (m-n) (2nt-m-n-3) + 6 (m-k)
chameleon    2nt - 2k            2nt - 2k - m                           2nt - 2k - m        2nt - 2k - n - m
===========  ==================  =====================================  ==================  =======================================

=========================  ==========================  ==========================  ==========================  ====================
LU                         panel, or diagonal tile k   row k of column n           column k of row m           product (m,n,k)
=========================  ==========================  ==========================  ==========================  ====================
parsec, whole column       nt - k - 1                  nt - n - 1                                              nt - n - 1
chameleon, whole column    nt                          nt - n                                                  nt - n
chameleon, no pivoting     2nt - 2k                    2nt - 2k - n                2nt - 2k - m                2nt - 2k - n - m
=========================  ==========================  ==========================  ==========================  ====================

Exchanges in finished columns have 0, all tasks of a recursive panel count as the panel, an update of a whole block column as
a product. A copy into a tile counts as the first task on that tile. The formulas are those of DPLASMA's ``zpotrf_L.jdf`` and
``zgetrf_1d.jdf``, whose LU without pivoting has no priorities, and of Chameleon's ``pzpotrf.c``, ``pzgetrf.c`` and
``pzgetrf_nopiv.c``. Other tasks run after those, in program order, so on another graph, such as a tournament's, the policy
is `eager` in disguise; ``fits`` tells.
"""  # noqa: E501 - tables

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, NamedTuple

from tilewright.graph import Task, TaskGraph
from tilewright.machine import Machine
from tilewright.schedulers.ranked import Ranked

__all__ = ["Chameleon", "Parsec", "Place", "Polynomial"]

Formula = Callable[[int, int, int, int], int]  # (nt, m, n, k) -> priority


class Place(NamedTuple):
    """What a task does in which step on which tile."""

    what: str
    m: int
    n: int
    k: int


class Polynomial(Ranked):
    """Base class: `priorities` has, for each algorithm, a formula for each thing that its tasks do."""

    priorities: ClassVar[dict[str, dict[str, Formula]]] = {}

    def keys(self, graph: TaskGraph, machine: Machine) -> list[float]:
        name = algorithm(graph)
        formulas = self.priorities.get(name, {})
        places = [_placed(name, task) for task in graph.tasks]
        nt = 1 + max((place.m if name == "cholesky" else place.n for place in places if place), default=0)
        last = 1.0  # after all others, whose keys are not positive
        return [
            last
            if place is None or place.what not in formulas
            else -formulas[place.what](nt, place.m, place.n, place.k)
            for place in places
        ]

    @classmethod
    def fits(cls, graph: TaskGraph) -> bool:
        """Whether the formulas mean anything for this graph."""
        name = algorithm(graph)
        if name not in cls.priorities:
            return not graph.tasks
        return all(_placed(name, task) or task.op.name in _BESIDE for task in graph.tasks)


_BESIDE = ("zero", "tril", "diag")
"""Ops of calls around these algorithms, which nobody waits for."""


class Parsec(Polynomial):
    """DPLASMA's priorities."""

    priorities: ClassVar[dict[str, dict[str, Formula]]] = {
        "cholesky": {
            "potrf": lambda nt, m, n, k: (nt - k) ** 3,
            "trsm": lambda nt, m, n, k: (nt - m) ** 3 + 3 * (m - k) * (2 * nt - k - m - 1),
            "syrk": lambda nt, m, n, k: (nt - m) ** 3 + 3 * (m - k),
            "gemm": lambda nt, m, n, k: (nt - m) ** 3 + 3 * (m - n) * (2 * nt - m - n - 3) + 6 * (m - k),
        },
        "lu": {
            "panel": lambda nt, m, n, k: nt - k - 1,
            "row": lambda nt, m, n, k: nt - n - 1,
            "product": lambda nt, m, n, k: nt - n - 1,
            "swap": lambda nt, m, n, k: 0,
        },
    }


class Chameleon(Polynomial):
    """Chameleon's priorities."""

    priorities: ClassVar[dict[str, dict[str, Formula]]] = {
        "cholesky": {
            "potrf": lambda nt, m, n, k: 2 * nt - 2 * k,
            "trsm": lambda nt, m, n, k: 2 * nt - 2 * k - m,
            "syrk": lambda nt, m, n, k: 2 * nt - 2 * k - m,
            "gemm": lambda nt, m, n, k: 2 * nt - 2 * k - n - m,
        },
        "lu": {
            "panel": lambda nt, m, n, k: nt,
            "row": lambda nt, m, n, k: nt - n,
            "product": lambda nt, m, n, k: nt - n,
            "swap": lambda nt, m, n, k: 0,
        },
        "lu without pivoting": {
            "panel": lambda nt, m, n, k: 2 * nt - 2 * k,
            "row": lambda nt, m, n, k: 2 * nt - 2 * k - n,
            "column": lambda nt, m, n, k: 2 * nt - 2 * k - m,
            "product": lambda nt, m, n, k: 2 * nt - 2 * k - n - m,
        },
    }


def algorithm(graph: TaskGraph) -> str:
    """By the op of the first panel."""
    first = {"potrf": "cholesky", "getrf": "lu", "getrf2": "lu", "getrfn": "lu without pivoting"}
    return next((first[task.op.name] for task in graph.tasks if task.op.name in first), "")


def _placed(name: str, task: Task) -> Place | None:
    """The place of a task in the algorithm of that name; None where it has none, or handles with other indices."""
    try:
        return PLACES[name](task) if name else None
    except (ValueError, IndexError):
        return None


def cholesky_place(task: Task) -> Place | None:
    """The place of a task of a tiled Cholesky factorisation, None for any other."""
    op, indices = task.op.name, [use.handle.index for use in task.uses]
    if op == "gemm":
        (m, k), (n, k2), tile = indices
        if k == k2 < n < m and tile == (m, n):
            return Place(op, m, n, k)
    elif op == "syrk":
        (m, k), tile = indices
        if k < m and tile == (m, m):
            return Place(op, m, m, k)
    elif op == "trsm":
        (k, k2), (m, n) = indices
        if k == k2 == n < m:
            return Place(op, m, k, k)
    elif op == "potrf":
        ((k, k2),) = indices
        if k == k2:
            return Place(op, k, k, k)
    elif op == "copy":
        _, (m, n) = indices
        if m >= n:
            what = "potrf" if m == 0 else "trsm" if n == 0 else "syrk" if m == n else "gemm"
            return Place(what, m, n, 0)
    return None


def lu_place(task: Task) -> Place | None:
    """The place of a task of a tiled LU factorisation with pivots from whole columns, None for any other."""
    op, index = task.op.name, task.uses[-1].handle.index
    if op in ("getrf", "getrf2"):
        return Place("panel", index[0], index[0], index[0])
    if op in ("trsm2", "gemm2"):
        return Place("panel", index[0], index[1], index[1])
    if op in ("swptrsm", "swpgemm"):
        (k,) = task.uses[0].handle.index
        return Place("row" if op == "swptrsm" else "product", k, index[1], k)
    if op == "gemmn":
        (m, n), (k, _) = index, task.uses[1].handle.index
        return Place("product", m, n, k)
    if op == "swap" and len(index) == 2:
        return Place("swap", index[0], index[1], index[1])
    if op == "gauge":
        m, n = task.uses[0].handle.index
        return Place("row" if n else "panel", m, n, 0)
    return None


def plain_place(task: Task) -> Place | None:
    """The place of a task of a tiled LU factorisation without pivoting, None for any other."""
    op, index = task.op.name, task.uses[-1].handle.index
    if op in ("getrfn", "trsmn", "trsmu", "gemmn"):
        m, n = index
        what = {"getrfn": "panel", "trsmn": "row", "trsmu": "column", "gemmn": "product"}[op]
        return Place(what, m, n, task.uses[1].handle.index[0] if op == "gemmn" else min(m, n))
    if op == "gauge":
        m, n = task.uses[0].handle.index
        return Place("product" if m and n else "column" if m else "row" if n else "panel", m, n, 0)
    return None


PLACES: dict[str, Callable[[Task], Place | None]] = {
    "cholesky": cholesky_place,
    "lu": lu_place,
    "lu without pivoting": plain_place,
}
