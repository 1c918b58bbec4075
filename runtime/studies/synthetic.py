"""Graphs of the textbooks of scheduling, with real work in their tasks: a stencil, a tree, random layers."""

from __future__ import annotations

import random
from functools import lru_cache, partial
from typing import Any

import numpy as np

from tilewright.builder import graph_builder
from tilewright.graph import RW, Op, R, TaskGraph, W
from tilewright.scalars import positive, whole

__all__ = ["random_graph", "stencil_graph", "tree_graph"]

Shape = tuple[int, ...]

# ------------------------------------------------------------------ stencil


def jacobi(new: np.ndarray, old: np.ndarray, neighbours: list[np.ndarray], sides: str) -> None:
    """new := a quarter of the sum of old's neighbours; beyond the blocks ``neighbours`` on these ``sides`` it is 0."""
    new[...] = 0
    new[1:] += old[:-1]
    new[:-1] += old[1:]
    new[:, 1:] += old[:, :-1]
    new[:, :-1] += old[:, 1:]
    edges: dict[str, tuple[Any, Any]] = {
        "n": (np.s_[0], np.s_[-1]),
        "s": (np.s_[-1], np.s_[0]),
        "w": (np.s_[:, 0], np.s_[:, -1]),
        "e": (np.s_[:, -1], np.s_[:, 0]),
    }
    for block, side in zip(neighbours, sides, strict=True):
        mine, its = edges[side]
        new[mine] += block[its]
    new /= 4


def _jacobi_flops(new: Shape, old: Shape, neighbours: list[Shape]) -> float:
    return 5.0 * new[0] * new[1]


JACOBI = Op("jacobi", jacobi, flops=_jacobi_flops, in_place=True)


@graph_builder("stencil of {nt} x {nt} blocks, {steps} steps")
def stencil_graph(g: TaskGraph, nt: int, steps: int) -> None:
    """Jacobi's iteration on a five-point stencil, handles ``u[i,j]`` and ``v[i,j]`` in turns.

    ``steps`` nt^2 tasks, each of which reads a block and those beside it. The critical path has ``steps`` tasks.
    """
    positive(nt, "nt")
    positive(steps, "steps")
    old, new = g.handles("u"), g.handles("v")
    for _ in range(steps):
        for i in range(nt):
            for j in range(nt):
                around = {"n": (i - 1, j), "s": (i + 1, j), "w": (i, j - 1), "e": (i, j + 1)}
                there = {side: place for side, place in around.items() if min(place) >= 0 and max(place) < nt}
                beside = [R(old[place]) for place in there.values()]
                g.insert(JACOBI, W(new[i, j]), R(old[i, j]), beside, "".join(there))
        old, new = new, old


# ------------------------------------------------------------------ tree


def square(x: np.ndarray) -> None:
    """x := x^2."""
    np.multiply(x, x, out=x)


def add(x: np.ndarray, y: np.ndarray) -> None:
    """x += y."""
    x += y


def _words(x: Shape, *rest: Shape) -> float:
    return float(x[0])


SQUARE = Op("square", square, flops=_words, in_place=True)
ADD = Op("add", add, flops=_words, in_place=True)


@graph_builder("tree of {leaves} leaves")
def tree_graph(g: TaskGraph, leaves: int) -> None:
    """The sum of squares along a binary tree, handles ``x[k]``: ``leaves`` squares, then leaves - 1 sums.

    The critical path has 1 + ceil(log2 leaves) tasks; the sum is in ``x[0]``.
    """
    positive(leaves, "leaves")
    x = g.handles("x")
    for k in range(leaves):
        g.insert(SQUARE, RW(x[k]))
    stride = 1
    while stride < leaves:
        for k in range(0, leaves - stride, 2 * stride):
            g.insert(ADD, RW(x[k]), R(x[k + stride]))
        stride *= 2


# ------------------------------------------------------------------ random


def churn(x: np.ndarray, sources: list[np.ndarray], times: int) -> None:
    """x := the cosine, ``times`` times over, of the sum of the sources."""
    x[...] = sum(sources) if sources else 0
    for _ in range(times):
        np.cos(x, out=x)


def _churn_flops(times: int, x: Shape, sources: list[Shape]) -> float:
    return 20.0 * times * x[0]


@lru_cache(maxsize=64)
def _churn(times: int) -> Op:
    """One op for each length of task."""
    return Op(f"work{times}", churn, weight=times, flops=partial(_churn_flops, times), in_place=True)


@graph_builder("random graph, seed {seed}")
def random_graph(g: TaskGraph, layers: int, width: int, seed: int) -> None:
    """Layers of 1 to 2 ``width`` tasks of weight 1 to 10, each of which reads up to three tasks of the two before.

    Handles ``x[t]``, one a task. The same seed makes the same graph everywhere.
    """
    positive(layers, "layers")
    positive(width, "width")
    generator = random.Random(whole(seed, "seed"))
    x = g.handles("x")
    count, before, last = 0, [], []  # type: int, list[int], list[int]
    for _ in range(layers):
        near = before + last
        layer = list(range(count, count + generator.randint(1, 2 * width)))
        for t in layer:
            sources = sorted(generator.sample(near, min(len(near), generator.randint(1, 3))))
            times = generator.randint(1, 10)
            g.insert(_churn(times), W(x[t]), [R(x[s]) for s in sources], times)
        count, before, last = count + len(layer), last, layer


def blocks(graph: TaskGraph, size: Shape, seed: int) -> dict[str, Any]:
    """Data of these graphs: a random block of that size for each handle."""
    generator = np.random.default_rng(seed)
    data: dict[str, Any] = {}
    for handle in graph.handles_used:
        data[handle] = generator.random(size)  # type: ignore[index]
    return data
