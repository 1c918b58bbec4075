"""The graph of a five-point stencil on a torus of n x n points, in slabs or in patches: what `domains` has formulas of.

Rank (i, j) of an r x c division has the points ``x[i,j]``; a slab is a division into r x 1. Each rank sends its border
to each neighbour, ``b[i,j,side]``, and adds ten flops a point::

    y = s0 x + s1 up(x) + s2 down(x) + s3 left(x) + s4 right(x)

A rank that is its own neighbour, as in a slab from the left and the right, sends nothing there. For any sparse matrix,
and for products that run often: `tilewright.comm.sparse`.
"""

from __future__ import annotations

from math import isqrt

import numpy as np

from tilewright.comm.domains import CUTS, FLOPS
from tilewright.comm.grid import length, piece
from tilewright.graph import Handle, Layout, Op, R, TaskGraph, W
from tilewright.scalars import choice, ranks, whole

__all__ = ["division", "stencil_graph"]

SIDES = ((-1, 0), (1, 0), (0, -1), (0, 1))
"""Up, down, left, right: where the neighbour is from whom a rank gets that side."""

_EDGES = (np.s_[-1:, :], np.s_[:1, :], np.s_[:, -1:], np.s_[:, :1])
"""What of its points that neighbour sends."""


def border(x: np.ndarray, b: np.ndarray | None, side: int) -> np.ndarray:
    """What a neighbour gets as that side of its own."""
    return x[_EDGES[side]].copy()


def stencil(
    x: np.ndarray, around: list[np.ndarray], y: np.ndarray | None, sides: tuple[int, ...], s: tuple[float, ...]
) -> np.ndarray:
    """The stencil on a rank's points; a side that is not among ``sides`` is its own opposite edge."""
    got = dict(zip(sides, around, strict=True))
    y = s[0] * x
    for side, (down, right) in enumerate(SIDES):
        edge = got.get(side, x[_EDGES[side]])
        axis = 0 if down else 1
        rest = (np.s_[:-1] if down + right < 0 else np.s_[1:],)
        inner = x[(np.s_[:],) * axis + rest]
        y += s[1 + side] * np.concatenate([edge, inner] if down + right < 0 else [inner, edge], axis)
    return y


def _free(*shapes: object) -> float:
    return 0.0


def _flops(x: tuple[int, ...], *others: object) -> float:
    return float(FLOPS * x[0] * x[1])


BORDER = Op("border", border, weight=0, flops=_free)
STENCIL = Op("stencil", stencil, flops=_flops)


def division(cut: str, p: int) -> tuple[int, int]:
    """(r, c): (p, 1) for slabs, a square for patches. ValueError for another cut, or patches of a p that is none."""
    choice(cut, "cut", CUTS)
    side = isqrt(ranks(p, "p"))
    if cut == "patch" and side * side != p:
        raise ValueError(f"p={p} is no square, so it has no square patches")
    return (p, 1) if cut == "slab" else (side, side)


def stencil_graph(cut: str, p: int, n: int, weights: tuple[float, ...] = (-4.0, 1.0, 1.0, 1.0, 1.0)) -> TaskGraph:
    """The graph of y = S x on n x n points: ``x[i,j]`` and ``y[i,j]`` on rank i c + j, in p slabs or patches.

    Parameters
    ----------
    cut
        ``"slab"`` or ``"patch"``.
    p
        Ranks; a square for patches.
    n
        Points along a side; at least one row, and column, a rank.
    weights
        s0 to s4: of a point, and of what is above it, below, left and right.

    Raises
    ------
    ValueError
        Another cut; patches on a p that is no square; more ranks in a line than points.

    Examples
    --------
    >>> import tilewright as tw
    >>> from tilewright.comm.domains import time
    >>> machine = tw.Machine(alpha=3.0, beta=0.25, gamma=0.5)
    >>> tw.simulate(stencil_graph("patch", 16, 16), machine).makespan == time("patch", 16, 16, machine)
    True
    """
    r, c = division(cut, p)
    if r > whole(n, "n", 1):
        raise ValueError(f"n={n} points along a side are too few for {r} ranks in a line")
    g = TaskGraph(f"stencil {n} x {n} on {r} x {c}")
    x, y, b = g.handles("x"), g.handles("y"), g.handles("b")
    g.temporary.add("b")
    places = [(i, j) for i in range(r) for j in range(c)]
    moves = tuple(side for side, (down, _) in enumerate(SIDES) if (r if down else c) > 1)
    for side in moves:  # all ranks send in the same direction at a time
        down, right = SIDES[side]
        for i, j in places:
            g.insert(BORDER, R(x[i, j]), W(b[(i - down) % r, (j - right) % c, side]), side, on=x[i, j])
    for i, j in places:
        g.insert(STENCIL, R(x[i, j]), [R(b[i, j, side]) for side in moves], W(y[i, j]), moves, weights)

    def owner(handle: Handle) -> int:
        i, j, *side = handle.index
        if side:  # a border lives where it is made
            down, right = SIDES[side[0]]
            i, j = (i + down) % r, (j + right) % c
        return int(i * c + j)

    heights, widths = ([length(piece((0, n), parts, k)) for k in range(parts)] for parts in (r, c))

    def shape(handle: Handle) -> tuple[int, ...]:
        i, j, *side = handle.index
        size = heights[i], widths[j]
        if not side:
            return size
        return (1, size[1]) if SIDES[side[0]][0] else (size[0], 1)

    g.layout = Layout(p, owner, shape)
    return g
