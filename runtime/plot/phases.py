"""A training as people think of it: which step, which replica or pipeline place, which phase each task belongs to."""

from __future__ import annotations

from itertools import pairwise
from statistics import median
from typing import NamedTuple

from tilewright.graph import TaskGraph
from tilewright.runs.trace import Trace

__all__ = ["PHASES", "Phase", "phases", "warm_up"]

_OF = {
    "set-up": ("open", "open_log"),
    "load": ("load", "augment", "transfer"),
    "forward": ("forward", "forward_loss"),
    "backward": ("backward", "backward_input", "backward_weight"),
    "update": ("unscale", "unscale_shared", "judge", "apply", "apply_shared", "update", "record"),
    "test and save": ("snapshot", "exam", "evaluate", "tally", "save", "finish", "release"),
}
_OTHERS = "reduce"  # buckets and what an all-reduce is made of, which go by other names
PHASES = ("set-up", "load", "forward", "backward", "reduce", "update", "test and save")
"""In the order of a step."""
_PHASE = {op: phase for phase, ops in _OF.items() for op in ops}


class Phase(NamedTuple):
    """Where a task belongs."""

    step: int
    """From 0 in this graph; set-up is with the first."""
    place: int
    phase: str

    def __str__(self) -> str:
        return f"{self.phase}, step {self.step}, place {self.place}"


def phases(graph: TaskGraph) -> list[Phase] | None:
    """The phase of each task of a training, by index; None for a graph that is none. O(tasks).

    Steps stand one after the other in program order, and each begins with a batch that is loaded.
    """
    ops = {task.op.name for task in graph.tasks}
    if not {"load", "forward_loss", "update", "record"} <= ops or graph.layout is None:
        return None
    found, step, recorded = [], 0, False
    for task in graph.tasks:
        name = task.op.name
        if name == "load" and recorded:
            step, recorded = step + 1, False
        recorded = recorded or name == "record"
        place = task.on if isinstance(task.on, int) else graph.layout.owner((*task.writes, *task.reads)[0])
        found.append(Phase(step, place, _PHASE.get(name, _OTHERS)))
    return found


def warm_up(trace: Trace, found: list[Phase]) -> float:
    """When the second step of a training begins, if the first takes more than twice as long as half of the others.

    0 otherwise: then there is nothing to leave out.
    """
    ends: dict[int, float] = {}
    for record in trace.records:
        step, _, phase = found[record.task]
        if phase == "update":
            ends[step] = max(ends.get(step, 0.0), record.end)
    if len(ends) < 3:
        return 0.0
    times = [ends[step] for step in sorted(ends)]
    others = [later - sooner for sooner, later in pairwise(times)]
    return times[0] if times[0] > 2 * median(others) else 0.0
