"""What travels between ranks along the edges of a graph that says where its data lives."""

from __future__ import annotations

from typing import NamedTuple

from tilewright.graph import TaskGraph
from tilewright.plot.colouring import rank_of
from tilewright.plot.layered import Point

__all__ = ["MOST", "Travel", "middle", "travels"]

MOST = 40
"""Edges whose words are written beside them; of more, words would cover the picture."""


class Travel(NamedTuple):
    """One edge between ranks."""

    what: str
    """The handles: what is written beside the edge, as neighbours leave room for no more."""
    words: str
    """``x[0] (4 x 4), rank 0 to 1``: what stands under the pointer."""


def travels(graph: TaskGraph) -> dict[tuple[int, int], Travel]:
    """By (writer, reader), the edges between ranks; none of a graph without layout."""
    layout = graph.layout
    if layout is None:
        return {}
    ranks = [rank_of(task, layout) for task in graph.tasks]
    found = {}
    for task in graph.tasks:
        for p in task.predecessors:
            moved = [handle for handle in graph.tasks[p].writes if handle in task.reads]
            if moved and ranks[p] != ranks[task.index]:
                sized = ", ".join(str(handle) + _sized(layout.shape(handle)) for handle in moved)
                words = f"{sized}, rank {ranks[p]} to {ranks[task.index]}"
                found[p, task.index] = Travel(", ".join(map(str, moved)), words)
    return found


def _sized(shape: tuple[int, ...]) -> str:
    """`` (4 x 4)``; nothing where nobody knows."""
    return f" ({' x '.join(map(str, shape))})" if shape else ""


def middle(points: list[Point]) -> Point:
    """Half the way along an edge, which is a row of Bezier curves."""
    curves = (len(points) - 1) // 3
    a, b, c, d = points[3 * (curves // 2) :][:4] if curves % 2 else [points[3 * (curves // 2)]] * 4
    x, y = ((p + 3 * q + 3 * r + s) / 8 for p, q, r, s in zip(a, b, c, d, strict=True))
    return x, y
