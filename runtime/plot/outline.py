"""What a picture of a graph draws: a box a task, or of a large graph a box for all tasks of one colour in one layer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

from tilewright.graph import Task, TaskGraph
from tilewright.plot.colouring import By, colouring
from tilewright.plot.layered import layers
from tilewright.plot.travels import Travel, travels

__all__ = ["BOXES", "ROWS", "Node", "Outline", "bands", "outline"]

BOXES, ROWS = 200, 24
"""How many groups of tasks a picture has at most, where there is a way, and in how many rows: as many can be read."""


@dataclass(frozen=True, slots=True)
class Node:
    """A box."""

    index: int
    label: str
    predecessors: Sequence[int]
    tooltip: str
    weight: float
    op: str
    """The group of several tasks."""
    group: str
    """By which it has its colour."""


@dataclass(frozen=True)
class Outline:
    """The boxes of a picture, in an order in which none comes before its predecessors, and what is said above them."""

    name: str
    nodes: list[Node]
    fill: dict[str, str]
    """Colours by group."""
    counts: Counter[str]
    """Tasks by group."""
    critical: set[int]
    """Boxes of the critical path."""
    steps: set[tuple[int, int]]
    """Edges of the critical path."""
    title: str
    details: str
    """What a picture with more room says behind the title."""
    rows: list[int] | None = None
    """In which row each box stands, where boxes are groups."""
    moved: dict[tuple[int, int], Travel] = field(default_factory=dict)
    """Edges between ranks, and what travels along them; of groups none is told."""


class Bands(NamedTuple):
    """Tasks by layer and group."""

    of: list[int]
    """By task, its box."""
    keys: list[tuple[int, int]]
    """By box, its band, from 0 at the top, and its group."""
    height: int
    """Layers of a band."""

    @property
    def tall(self) -> str:
        """``one layer``, ``4 layers``."""
        return "one layer" if self.height == 1 else f"{self.height} layers"

    def where(self, box: int) -> str:
        """``layer 7``, ``layers 4 to 7``."""
        top = self.keys[box][0] * self.height
        return f"layer {top}" if self.height == 1 else f"layers {top} to {top + self.height - 1}"


def bands(depth: Sequence[int], groups: Sequence[int], most: int = BOXES) -> Bands:
    """All tasks of one group in so many neighbouring layers are one box: at most ``most`` boxes, in `ROWS` rows.

    Where one layer has more groups than that, there are as many boxes as it has groups. O(tasks log layers).
    """
    pairs = set(zip(depth, groups, strict=True))
    layers_ = max(depth, default=-1) + 1
    height = max(1, -(-layers_ // ROWS))
    while len(found := {(layer // height, group) for layer, group in pairs}) > most and height < layers_:
        height += max(1, height // 4)
    keys = sorted(found)
    place = {key: number for number, key in enumerate(keys)}
    of = [place[layer // height, group] for layer, group in zip(depth, groups, strict=True)]
    return Bands(of, keys, height)


def outline(graph: TaskGraph, by: By, limit: int | None) -> Outline:
    """What is drawn of a graph: more tasks than ``limit`` in groups, and without a limit each. O(tasks + edges).

    Raises
    ------
    ValueError
        As `tilewright.plot.colouring.colouring`.
    """
    coloured = colouring(graph, by)
    path = graph.critical_path()
    details = f"critical path {_count(len(path), 'task')}, length {path.length:g} of work {graph.work():g}"
    title = f"{graph.name}: {_count(len(graph), 'task')}, {_count(graph.edges, 'edge')}"
    tasks = [task.index for task in path.tasks]
    if limit is None or len(graph) <= limit:
        nodes = [
            Node(task.index, task.label, task.predecessors, _tooltip(task), task.op.weight, task.op.name, group)
            for task, group in zip(graph, coloured.groups, strict=True)
        ]
        return Outline(
            graph.name,
            nodes,
            coloured.fill,
            coloured.counts,
            set(tasks),
            set(pairwise(tasks)),
            title,
            details if tasks else "",
            moved=travels(graph),
        )
    number = {group: place for place, group in enumerate(coloured.fill)}
    found = bands(layers(graph), [number[group] for group in coloured.groups])
    steps = {(found.of[a], found.of[b]) for a, b in pairwise(tasks)}
    return Outline(
        graph.name,
        _boxes(graph, found, list(coloured.fill)),
        coloured.fill,
        coloured.counts,
        {found.of[task] for task in tasks},
        {(a, b) for a, b in steps if found.keys[a][0] < found.keys[b][0]},
        f"{title}; a box: all tasks of one colour in {found.tall}",
        details,
        [band for band, _ in found.keys],
    )


def _boxes(graph: TaskGraph, found: Bands, groups: Sequence[str]) -> list[Node]:
    """A node for each group of a band. Edges inside a band of several layers are not drawn: they may go both ways."""
    members: list[list[Task]] = [[] for _ in found.keys]
    before: list[set[int]] = [set() for _ in found.keys]
    for task in graph:
        box = found.of[task.index]
        members[box].append(task)
        before[box].update(found.of[p] for p in task.predecessors)
    nodes = []
    for box, ((band, group), tasks) in enumerate(zip(found.keys, members, strict=True)):
        label = tasks[0].label if len(tasks) == 1 else f"{len(tasks):,} x {groups[group]}"
        weight = sum(task.op.weight for task in tasks)
        few = ", ".join(task.label for task in tasks[:6]) + f" and {len(tasks) - 6:,} more" * (len(tasks) > 6)
        above = sorted(p for p in before[box] if found.keys[p][0] < band)
        nodes.append(
            Node(
                box,
                label,
                above,
                f"{label}\n{found.where(box)}: {few}\nweight {weight:g}",
                weight,
                groups[group],
                groups[group],
            )
        )
    return nodes


def _tooltip(task: Task) -> str:
    reads, writes = (", ".join(map(str, handles)) or "nothing" for handles in (task.reads, task.writes))
    return f"{task.label}\nreads {reads}\nwrites {writes}\nweight {task.op.weight:g}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
