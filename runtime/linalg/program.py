"""What an expression becomes: values and steps, plain data that names a graph; and the loops behind the steps.

A program travels to other processes and is kept, as are its graphs: equal programs make one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from tilewright.builder import graph_builder
from tilewright.graph import RW, Handles, R, TaskGraph, W
from tilewright.linalg.cho_solve import substitute_back, substitute_forward
from tilewright.linalg.cholesky import cholesky
from tilewright.linalg.level3 import Operand, across, added, gemm, poinverse, rank_k, retiled, tri_multiply, tri_solve
from tilewright.linalg.lu_graph import lu_partial
from tilewright.linalg.norm_parts import insert_size
from tilewright.ops import diag, gemmn, identity, mirror, regular, rescale, swap, swapc, tril, trsmn, zero

__all__ = ["STEPS", "Ref", "Step", "Value", "program_graph", "substitute"]


class Value(NamedTuple):
    """A matrix in tiles, or what goes with one."""

    name: str
    """The name of its handles."""
    shape: tuple[int, int]
    tile_size: int
    dtype: str
    kind: str = "room"
    """``"given"``: a matrix of the caller, read or written. ``"room"``: the engine finds memory while it is needed.
    What is no matrix is a room for each tile or tile column: ``"pivots"``, ``"count"``, and results, ``"diagonal"``,
    ``"sizes"``, ``"squares"``."""
    order: str = "C"
    """The memory order of tiles, where this process has memory for all of them."""

    @property
    def mt(self) -> int:
        return across(self.shape[0], self.tile_size)

    @property
    def nt(self) -> int:
        return across(self.shape[1], self.tile_size)

    def height(self, i: int) -> int:
        return min(self.tile_size, self.shape[0] - i * self.tile_size)

    def width(self, j: int) -> int:
        return min(self.tile_size, self.shape[1] - j * self.tile_size)

    def handles(self, g: TaskGraph) -> Handles:
        """Its family in a graph, with rooms where the caller has no data."""
        if self.kind == "given":
            return g.handles(self.name)
        shape, keep = _ROOMS[self.kind]
        return g.handles(self.name, shape=lambda *index: shape(self, *index), dtype=self.dtype, keep=keep)


#   kind: (the shape of a room from the value and an index, whether it is a result)
_ROOMS: dict[str, tuple[Callable[..., tuple[int, ...]], bool]] = {
    "room": (lambda v, i, j: (v.height(i), v.width(j)), False),
    "pivots": (lambda v, k: (min(v.height(k), v.width(k)),), True),
    "count": (lambda v, k: (1,), False),
    "diagonal": (lambda v, k: (min(v.height(k), v.width(k)),), True),
    "sizes": (lambda v, i, j: (1, 1 + v.width(j) + v.height(i)), True),
    "squares": (lambda v, i, j: (1, 2), True),
}


class Ref(NamedTuple):
    """op(A): a value by its number, and what it is read as: `tilewright.linalg.level3.turned`."""

    value: int
    flag: str = "N"


class Step(NamedTuple):
    """One loop of a program."""

    name: str
    refs: tuple[Ref, ...]
    params: tuple[Any, ...] = ()


class TilesOf(NamedTuple):
    """A reference in a graph."""

    operand: Operand
    value: Value

    @property
    def handles(self) -> Handles:
        return self.operand.tiles

    @property
    def flag(self) -> str:
        return self.operand.flag

    @property
    def mt(self) -> int:
        """Tile rows of op(A)."""
        return self.value.nt if self.flag in "TC" else self.value.mt

    @property
    def nt(self) -> int:
        return self.value.mt if self.flag in "TC" else self.value.nt


@graph_builder(lambda values, steps, name: name, cache=64)
def program_graph(g: TaskGraph, values: tuple[Value, ...], steps: tuple[Step, ...], name: str) -> None:
    """All steps in one graph: what does not need each other runs side by side."""
    handles = [value.handles(g) for value in values]
    for step in steps:
        STEPS[step.name](
            g, *[TilesOf(Operand(handles[r.value], r.flag), values[r.value]) for r in step.refs], *step.params
        )


# ------------------------------------------------------------------ steps


def substitute(
    g: TaskGraph, T: Handles, X: Handles, nt: int, c: int, part: str, flag: str = "N", first: int = 0
) -> None:
    """Insert X_c := op(T)^-1 X_c with a triangle of an LU factor, for the rows from ``first`` on."""
    forward = (part == "L") == (flag == "N")
    rows = list(range(first, nt))
    for turn, k in enumerate(rows if forward else rows[::-1]):
        g.insert(trsmn, R(T[k, k]), RW(X[k, c]), part, flag)  # X_k := op(T_kk)^-1 X_k
        for i in (rows if forward else rows[::-1])[turn + 1 :]:
            tile = T[i, k] if flag == "N" else T[k, i]
            g.insert(gemmn, R(tile), R(X[k, c]), RW(X[i, c]), flag)  # X_i := X_i - op(T)_ik X_k


def _add(g: TaskGraph, x: TilesOf, y: TilesOf, alpha: complex, beta: complex) -> None:
    added(g, x.operand, y.handles, y.mt, y.nt, alpha, beta)


def _retile(g: TaskGraph, x: TilesOf, y: TilesOf) -> None:
    retiled(g, x.handles, x.value.shape, x.value.tile_size, y.handles, y.value.tile_size)


def _matmul(g: TaskGraph, a: TilesOf, b: TilesOf, c: TilesOf, alpha: complex, beta: complex) -> None:
    gemm(g, a.operand, b.operand, c.handles, c.mt, c.nt, a.nt, alpha, beta)


def _rankk(
    g: TaskGraph, a: TilesOf, c: TilesOf, uplo: str, conj: bool, alpha: complex, beta: complex, fresh: bool
) -> None:
    rank_k(g, a.operand, c.handles, c.nt, a.nt, uplo, conj, alpha, beta, fresh)


def _mirror(g: TaskGraph, a: TilesOf) -> None:
    """The upper triangle becomes that of the lower one."""
    A = a.handles
    for j in range(a.nt):
        for i in range(j, a.nt):
            g.insert(mirror, R(A[i, j]), RW(A[j, i]) if i == j else W(A[j, i]))


def _tri_solve(g: TaskGraph, t: TilesOf, x: TilesOf, side: str, uplo: str, diag: str, alpha: complex) -> None:
    tri_solve(g, t.operand, x.handles, t.nt, x.nt if side == "L" else x.mt, side, uplo, diag, alpha)


def _tri_multiply(g: TaskGraph, t: TilesOf, x: TilesOf, side: str, uplo: str, diag: str, alpha: complex) -> None:
    tri_multiply(g, t.operand, x.handles, t.nt, x.nt if side == "L" else x.mt, side, uplo, diag, alpha)


def _lu(g: TaskGraph, a: TilesOf, piv: TilesOf, count: TilesOf, must: bool) -> None:
    """P A = L U in place; ``must``: SingularMatrixError for an exact zero on the diagonal of U."""
    lu_partial(g, a.handles, piv.handles, a.mt, a.nt, "tile")
    if must:
        _regular(g, a, count, True)


def _regular(g: TaskGraph, a: TilesOf, count: TilesOf, factor: bool = False) -> None:
    """LinAlgError for an exact zero on the diagonal of a triangle; for U of an LU ``factor`` SingularMatrixError."""
    seen, nb = count.handles[0], a.value.tile_size
    for k in range(a.mt):
        g.insert(regular, R(a.handles[k, k]), RW(seen) if k else W(seen), k * nb, nb if factor else 0)


def _clear(g: TaskGraph, a: TilesOf) -> None:
    """Zeros in the tiles on the diagonal, of which one triangle is about to be written."""
    for k in range(min(a.mt, a.nt)):
        g.insert(zero, W(a.handles[k, k]))


def _lower(g: TaskGraph, a: TilesOf) -> None:
    """Zeros above the diagonal."""
    for j in range(a.nt):
        g.insert(tril, RW(a.handles[j, j]))
        for i in range(j):
            g.insert(zero, W(a.handles[i, j]))


def _scale(g: TaskGraph, a: TilesOf, beta: complex) -> None:
    for i in range(a.mt):
        for j in range(a.nt):
            g.insert(rescale, RW(a.handles[i, j]), beta)


def _lu_solve(g: TaskGraph, a: TilesOf, piv: TilesOf, x: TilesOf) -> None:
    """X := op(A)^-1 X, op of the flag of A; from the factor of A."""
    flag, nt = a.flag, a.value.nt
    for c in range(x.nt if nt else 0):
        swaps = [R(piv.handles[k]) for k in range(nt)], [RW(x.handles[i, c]) for i in range(nt)]
        if flag == "N":
            g.insert(swap, *swaps)  # X := P X
        for part in "LU" if flag == "N" else "UL":
            substitute(g, a.handles, x.handles, nt, c, part, flag)
        if flag != "N":
            g.insert(swap, *swaps, True)  # X := P^T X


def _lu_inverse(g: TaskGraph, a: TilesOf, piv: TilesOf, x: TilesOf) -> None:
    """X := U^-1 L^-1 P; block column j of L^-1 begins at row j [LAPACK ?getri]."""
    nt, X = a.nt, x.handles
    for j in range(nt):
        for i in range(nt):
            g.insert(identity if i == j else zero, W(X[i, j]))
        substitute(g, a.handles, X, nt, j, "L", first=j)
        substitute(g, a.handles, X, nt, j, "U")
    for i in range(nt):
        g.insert(swapc, [R(piv.handles[k]) for k in range(nt)], [RW(X[i, j]) for j in range(nt)], True)


def _cholesky(g: TaskGraph, a: TilesOf) -> None:
    cholesky(g, a.handles, a.nt)


def _cho_solve(g: TaskGraph, a: TilesOf, x: TilesOf) -> None:
    for c in range(x.nt if a.nt else 0):
        substitute_forward(g, a.handles, x.handles, a.nt, c, beside=False)
        substitute_back(g, a.handles, x.handles, a.nt, c, beside=False)


def _cho_inverse(g: TaskGraph, a: TilesOf) -> None:
    """The inverse on both sides of the diagonal, from the Cholesky factor, in place."""
    poinverse(g, a.handles, a.nt)
    _mirror(g, a)


def _diagonal(g: TaskGraph, a: TilesOf, d: TilesOf) -> None:
    for k in range(min(a.mt, a.nt)):
        g.insert(diag, R(a.operand[k, k]), W(d.handles[k]))


def _sizes(g: TaskGraph, a: TilesOf, m: TilesOf, frobenius: bool) -> None:
    for i in range(a.value.mt):
        for j in range(a.value.nt):
            insert_size(g, a.handles[i, j], m.handles[i, j], frobenius)


STEPS: dict[str, Callable[..., None]] = {
    "add": _add,
    "retile": _retile,
    "matmul": _matmul,
    "rankk": _rankk,
    "mirror": _mirror,
    "trsm": _tri_solve,
    "trmm": _tri_multiply,
    "lu": _lu,
    "lu_solve": _lu_solve,
    "lu_inverse": _lu_inverse,
    "cholesky": _cholesky,
    "regular": _regular,
    "scale": _scale,
    "clear": _clear,
    "lower": _lower,
    "cho_solve": _cho_solve,
    "cho_inverse": _cho_inverse,
    "diagonal": _diagonal,
    "sizes": _sizes,
}
"""By the name in a `Step`."""
