"""Who owns what of a dense matrix and its vectors on r x c ranks, what a product costs there, and the best grid.

Rank q = i c + j has block (i, j) of A. The part of x that belongs to block column j is cut into r pieces, piece i on
rank (i, j); the part of y of block row i is cut into c pieces, piece j on rank (i, j).

The lecture is V. Eijkhout's *Parallel scalability*.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt
from typing import NamedTuple

from tilewright.comm.cost import MACHINE, Round, rounds, seconds
from tilewright.comm.schedule import cut
from tilewright.host.cores import cores
from tilewright.machine import Machine
from tilewright.scalars import choice, positive, shown
from tilewright.scalars import ranks as rank_count

__all__ = ["LAYOUTS", "Grid", "Range", "best_grid", "grid_of", "length", "matvec_cost", "piece"]

LAYOUTS = ("rows", "columns", "grid")

Range = tuple[int, int]
"""[start, stop)."""


class Grid(NamedTuple):
    """An m x n matrix on r x c ranks.

    Examples
    --------
    >>> from tilewright.comm.grid import Grid
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
        return piece(self.columns(j), self.r, i)

    def y_piece(self, q: int) -> Range:
        """What rank q has of the product A x, and of a vector that A^T is multiplied by."""
        i, j = self.place(q)
        return piece(self.rows(i), self.c, j)

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


def length(interval: Range) -> int:
    """The length of [start, stop)."""
    return interval[1] - interval[0]


def piece(whole: Range, parts: int, part: int) -> Range:
    """The part of an interval that place `part` of `parts` holds; the first parts are the longer ones."""
    offsets = cut(whole[1] - whole[0], parts)
    return whole[0] + offsets[part], whole[0] + offsets[part + 1]


def grid_of(layout: str, ranks: int | None, grid: Sequence[int] | None, shape: tuple[int, int]) -> Grid:
    """The grid that a user means.

    Raises
    ------
    ValueError
        Unknown layout, fewer than one rank, a grid of other than ``ranks`` ranks, or one that is not two positive
        integers, or one given for a layout that is not a grid.
    TypeError
        One of them is of another kind.
    """
    choice(layout, "layout", LAYOUTS)
    if ranks is not None:
        ranks = rank_count(ranks)
    if grid is None:
        p = cores() if ranks is None else ranks
        r, c = {"rows": (p, 1), "columns": (1, p), "grid": best_grid(p, max(shape))}[layout]
        return Grid(*shape, r, c)
    if layout != "grid":
        raise ValueError(f"grid={shown(grid)} goes with layout='grid', not with {layout!r}")
    try:
        r, c = (positive(side, "a side of the grid") for side in grid)
    except (TypeError, ValueError) as error:
        raise type(error)(f"grid must be two positive integers (r, c), not {shown(grid)}") from None
    if ranks is not None and r * c != ranks:
        raise ValueError(f"a grid of {r} x {c} has {r * c} ranks, not {ranks}")
    rank_count(r * c, "ranks of the grid")
    return Grid(*shape, r, c)


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
    >>> from tilewright.comm.grid import best_grid
    >>> best_grid(16, 1 << 14, tw.Machine(alpha=1e-6, beta=1e-9, gamma=1e-11)), best_grid(7, 1000)
    ((4, 4), (7, 1))
    """
    machine = machine or MACHINE
    sides = [d for low in range(1, isqrt(p) + 1) if p % low == 0 for d in {low, p // low}]
    return min(((r, p // r) for r in sorted(sides, reverse=True)), key=lambda g: matvec_cost(p, n, machine, grid=g))
