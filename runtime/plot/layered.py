"""A layered drawing of a task graph: who stands where, and which way each edge goes.

The four steps of Sugiyama, Tagawa and Toda [1]_:

1. layer: longest distance from the sources, so that every edge points down. For Cholesky, step k is the three
   layers potrf(k); trsm(.,k); syrk and gemm(.,.,k);
2. waypoints: an edge over several layers passes through a point in each, so that no edge runs through a task;
3. order in each layer: a task goes to the barycentre of its neighbours, down and up again, and the order with the
   fewest crossings is kept;
4. place: each layer as near to its neighbours as its order and the gaps allow, by least squares.

.. [1] K. Sugiyama, S. Tagawa, M. Toda, Methods for visual understanding of hierarchical system structures,
   IEEE Trans. SMC 11 (1981).
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

__all__ = ["HEIGHT", "Box", "Drawing", "Point", "layered", "layers", "width_of"]

Point = tuple[float, float]

HEIGHT = 26.0  # height of a task, in pixels as all lengths here
_GAP = 14.0  # between neighbours in a layer
_LANE = 8.0  # that an edge takes of a layer it passes
_LONG = 12  # layers; a longer edge gets no waypoints, or a graph of long edges would be mostly waypoints
_ROUNDS = 12  # rounds of ordering
_SMOOTHING = 24  # rounds of placing


class Vertex(Protocol):
    """What is placed: a task, or what stands for several. Vertices come after their predecessors."""

    @property
    def index(self) -> int: ...

    @property
    def label(self) -> str: ...

    @property
    def predecessors(self) -> Sequence[int]: ...


@dataclass(frozen=True, slots=True)
class Box:
    """The rectangle of a task; x and y are its centre, y grows downwards."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class Drawing:
    """Where everything goes, in pixels from the upper left corner."""

    width: float
    height: float
    boxes: dict[int, Box]
    """By task index."""
    edges: dict[tuple[int, int], list[Point]]
    """By (task, its successor): points of cubic Bezier curves, 1 + 3 m of them."""


def width_of(label: str) -> float:
    """Pixels that a label of 12-pixel text needs, with its margin."""
    return max(40.0, 6.8 * len(label) + 14)


def layers(graph: Iterable[Vertex]) -> list[int]:
    """For each task its longest distance from a task that waits for nothing, in edges. O(tasks + edges)."""
    level: list[int] = []
    for task in graph:
        level.append(max((level[p] for p in task.predecessors), default=-1) + 1)
    return level


def layered(graph: Iterable[Vertex], rows_of: Sequence[int] | None = None) -> Drawing:
    """Lay out a graph top down. About 1 ms per task, and the same result every time.

    ``rows_of`` says in which row each vertex stands, from 0; edges go to rows below. By default those of `layers`.
    """
    graph = list(graph)
    level = layers(graph) if rows_of is None else list(rows_of)
    widths = [width_of(task.label) for task in graph]
    rows: list[list[int]] = [[] for _ in range(max(level, default=-1) + 1)]
    for task in graph:
        rows[level[task.index]].append(task.index)
    above: list[list[int]] = [[] for _ in graph]
    below: list[list[int]] = [[] for _ in graph]
    routes: dict[tuple[int, int], list[int]] = {}
    for task in graph:
        for p in task.predecessors:
            routes[p, task.index] = _route(p, task.index, level, rows, widths, above, below)
    _order(rows, above, below)
    x = _place(rows, widths, above, below, first_waypoint=len(graph))
    y = _heights(rows, below, x)
    left = min((x[v] - widths[v] / 2 for row in rows for v in row), default=0.0)
    right = max((x[v] + widths[v] / 2 for row in rows for v in row), default=0.0)
    boxes = {t: Box(x[t] - left, y[level[t]], widths[t], HEIGHT) for t in range(len(graph))}
    edges = {edge: _curve([(x[v] - left, y[level[v]]) for v in route]) for edge, route in routes.items()}
    return Drawing(right - left, y[-1] + HEIGHT / 2 if y else 0.0, boxes, edges)


def _route(
    start: int,
    end: int,
    level: list[int],
    rows: list[list[int]],
    widths: list[float],
    above: list[list[int]],
    below: list[list[int]],
) -> list[int]:
    """The edge as a chain of vertices, one per layer: its two tasks and new waypoints between them."""
    route = [start]
    if level[end] - level[start] <= _LONG:
        for layer in range(level[start] + 1, level[end]):
            route.append(len(level))
            level.append(layer)
            widths.append(_LANE)
            rows[layer].append(route[-1])
            above.append([])
            below.append([])
    route.append(end)
    for upper, lower in pairwise(route):
        if level[lower] - level[upper] == 1:
            below[upper].append(lower)
            above[lower].append(upper)
    return route


# ------------------------------------------------------------------ order


def _order(rows: list[list[int]], above: list[list[int]], below: list[list[int]]) -> None:
    """Permute each row in place so that few edges cross."""
    best, fewest = [list(row) for row in rows], _crossings(rows, below)
    for sweep in range(_ROUNDS):
        if sweep % 2 == 0:
            for upper, row in pairwise(rows):
                _by_barycentre(row, upper, above)
        else:
            for row, lower in zip(rows[-2::-1], rows[:0:-1], strict=True):
                _by_barycentre(row, lower, below)
        crossings = _crossings(rows, below)
        if crossings < fewest:
            best, fewest = [list(row) for row in rows], crossings
    for row, order in zip(rows, best, strict=True):
        row[:] = order


def _by_barycentre(row: list[int], fixed: list[int], neighbours: list[list[int]]) -> None:
    """Sort a row by the mean place of its neighbours in the fixed row; who has none keeps its own place."""
    place = {v: k / len(fixed) for k, v in enumerate(fixed)}
    now = {v: k / len(row) for k, v in enumerate(row)}
    centre = {v: sum(place[u] for u in neighbours[v]) / len(neighbours[v]) if neighbours[v] else now[v] for v in row}
    row.sort(key=lambda v: (centre[v], now[v]))


def _crossings(rows: list[list[int]], below: list[list[int]]) -> int:
    """How many pairs of edges between neighbouring layers cross: inversions of the lower ends."""
    crossings = 0
    for upper, lower in pairwise(rows):
        position = {v: k for k, v in enumerate(lower)}
        seen: list[int] = []
        for v in upper:
            ends = sorted(position[u] for u in below[v])
            crossings += sum(len(seen) - bisect_right(seen, end) for end in ends)
            for end in ends:
                insort(seen, end)
    return crossings


# ------------------------------------------------------------------ place


def _place(
    rows: list[list[int]], widths: list[float], above: list[list[int]], below: list[list[int]], first_waypoint: int
) -> list[float]:
    """x of every vertex: rows follow their neighbours above, then below, a few times."""
    x = [0.0] * len(widths)
    for row in rows:
        offsets = _offsets(row, widths)
        for v, offset in zip(row, offsets, strict=True):
            x[v] = offset - (offsets[-1] if offsets else 0.0) / 2
    for sweep in range(_SMOOTHING):
        down = sweep % 2 == 0
        for row in rows if down else rows[::-1]:
            wanted, weights = [], []
            middle = sum(x[v] for v in row) / max(len(row), 1)  # where a vertex goes that has no edges at all
            for v in row:
                near = above[v] if down else below[v]
                other = below[v] if down else above[v]
                pull = near or other
                wanted.append(sum(x[u] for u in pull) / len(pull) if pull else middle)
                # A waypoint insists: a long edge should be straight.
                weights.append((4.0 if v >= first_waypoint else 1.0) if near else 0.1)
            for v, at in zip(row, _spread(wanted, weights, _offsets(row, widths)), strict=True):
                x[v] = at
    return x


def _offsets(row: Sequence[int], widths: list[float]) -> list[float]:
    """Least x of each vertex after the first, when the row is packed."""
    offsets = [0.0] * len(row)
    for k in range(1, len(row)):
        offsets[k] = offsets[k - 1] + (widths[row[k - 1]] + widths[row[k]]) / 2 + _GAP
    return offsets


def _spread(wanted: list[float], weights: list[float], offsets: list[float]) -> list[float]:
    """The x nearest to ``wanted`` in weighted least squares with x[k+1] - x[k] >= offsets[k+1] - offsets[k].

    With y = x - offsets this is isotonic regression, solved by pooling neighbours that are out of order. O(row).
    """
    blocks: list[tuple[float, float, int]] = []  # mean of y, weight, members
    for x, weight, offset in zip(wanted, weights, offsets, strict=True):
        mean, members = x - offset, 1
        while blocks and blocks[-1][0] > mean:
            other, other_weight, count = blocks.pop()
            mean = (mean * weight + other * other_weight) / (weight + other_weight)
            weight += other_weight
            members += count
        blocks.append((mean, weight, members))
    ys = [mean for mean, _, members in blocks for _ in range(members)]
    return [y + offset for y, offset in zip(ys, offsets, strict=True)]


def _heights(rows: list[list[int]], below: list[list[int]], x: list[float]) -> list[float]:
    """y of each layer; where edges go far sideways the next layer is further down, or they would be flat."""
    y = [HEIGHT / 2]
    for row in rows[:-1]:
        reach = max((abs(x[u] - x[v]) for v in row for u in below[v]), default=0.0)
        y.append(y[-1] + HEIGHT + min(max(34.0, reach / 7), 190.0))
    return y if rows else []


def _curve(points: list[Point]) -> list[Point]:
    """Cubic curves through the points, upright at each; the first and last on the rims of their boxes."""
    (x0, y0), (xn, yn) = points[0], points[-1]
    stops = [(x0, y0 + HEIGHT / 2), *points[1:-1], (xn, yn - HEIGHT / 2)]
    curve = stops[:1]
    for (xa, ya), (xb, yb) in pairwise(stops):
        middle = (ya + yb) / 2
        curve += [(xa, middle), (xb, middle), (xb, yb)]
    return curve
