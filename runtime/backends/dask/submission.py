"""What mode ``tasks`` submits: the coarsened graph as a graph of Dask's, what its tasks cost, and which come first."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tilewright.backends.dask.client import Ranks
from tilewright.backends.dask.group import Common, GroupWork, TaskCall, run_group
from tilewright.backends.dask.remote import RemoteTiles
from tilewright.backends.dask.resident import families_of, outlines_of
from tilewright.backends.execution.program import Program
from tilewright.backends.ranks.pickling import code
from tilewright.graph import Handle, TaskGraph
from tilewright.machine import Machine
from tilewright.passes.coarsen import Coarse, Overheads
from tilewright.passes.frontier import Frontier
from tilewright.passes.versions import Dataflow
from tilewright.rooms import Room
from tilewright.runs.run import is_complex
from tilewright.schedulers import Policy
from tilewright.schedulers import policy as find_policy
from tilewright.tiles import Store

__all__ = ["Submission", "priorities", "seconds", "submission"]

RATE = 50e9  # flops per second of one core where nobody measured
BANDWIDTH = 2e9  # bytes per second of a task that only moves


def seconds(program: Program, machine: Machine | None, overheads: Overheads) -> list[float]:
    """Expected seconds of every task; of a function without a flop formula as much as a Dask task costs."""
    if machine is not None:
        return machine.costs(program.graph)
    found = []
    for task in program.graph:
        tiles = [program.store[use.handle] for use in task.uses]
        shapes = [_shape(program, use.handle) for use in task.uses]
        if task.op.flops is not None and None not in shapes:
            complexity = 4 if any(map(is_complex, tiles)) else 1
            found.append(task.op.flops(*task.arguments(shapes)) * complexity / RATE)
        elif task.op.function is None:
            found.append(tiles[-1].nbytes / BANDWIDTH)
        else:
            found.append(overheads.task)
    return found


def _shape(program: Program, handle: Handle) -> tuple[int, ...] | None:
    """The shape of a handle's data, or by the graph's layout where a task makes it; None where nobody knows."""
    value, layout = program.store[handle], program.graph.layout
    if value is None:
        return None if layout is None else layout.shape(handle)
    return getattr(value, "shape", None)


def priorities(graph: TaskGraph, scheduler: str | Policy, machine: Machine) -> list[int]:
    """By task, larger sooner: the reverse of the order in which one worker would get the tasks from the policy."""
    policy = find_policy(scheduler)
    policy.prepare(graph, machine.replace(workers=1, ranks=1, gpus=0))
    frontier = Frontier(graph)
    for task in frontier.start():
        policy.push(task)
    rank = [0] * len(graph)
    left = len(graph)
    while left:
        task_or_none = policy.pop(0)
        if task_or_none is None:
            break
        rank[task_or_none.index] = left
        left -= 1
        for ready in frontier.done(task_or_none):
            policy.push(ready, 0)
    return rank


@dataclass
class Submission:
    """A Dask graph for a coarsened graph; nothing in it is data."""

    run: str
    tasks: dict[Any, Any] = field(default_factory=dict)
    workers: dict[Any, list[str]] = field(default_factory=dict)
    priority: dict[Any, int] = field(default_factory=dict)
    keys: list[Any] = field(default_factory=list)
    """Keys of the groups."""
    outputs: list[tuple[Handle, ...]] = field(default_factory=list)
    """The handles whose values each group returns."""
    final: dict[Handle, int] = field(default_factory=dict)
    """By handle that is written: the group that makes its final value."""
    wanted: list[int] = field(default_factory=list)
    """Groups to wait for: those with final values, and those that nobody reads."""

    def initial(self, handle: Handle) -> Any:
        """The key of a handle's data."""
        return (f"data-{self.run}", str(handle))


def submission(
    run: str, program: Program, coarse: Coarse, ranks: Ranks, rank: list[int], common: Common
) -> tuple[Submission, list[Handle]]:
    """The Dask graph, and the handles whose data it reads."""
    from dask._task_spec import Task, TaskRef

    graph, store = program.graph, program.store
    flow = Dataflow(graph)
    group_of = {t: g for g, group in enumerate(coarse.groups) for t in group.tasks}
    families, outlines = families_of(store), outlines_of(program)
    sent = Submission(run)
    reads: list[dict[tuple[Handle, int], None]] = []  # by group: handle and the group that makes it, or -1
    outputs: list[dict[Handle, None]] = [{} for _ in coarse.groups]
    for g, group in enumerate(coarse.groups):
        needs: dict[tuple[Handle, int], None] = {}
        for t in group.tasks:
            for version in flow.reads[t]:
                writer, handle = flow.writer[version], flow.handle[version]
                source = group_of[writer] if writer >= 0 else -1
                if source != g:
                    needs[handle, source] = None
                    if source >= 0:
                        outputs[source][handle] = None
        reads.append(needs)
    last: dict[Handle, int] = {}
    for task in graph:
        for handle in task.writes:
            last[handle] = group_of[task.index]
    last = {handle: g for handle, g in last.items() if handle.name not in graph.temporary}
    for handle, g in last.items():
        outputs[g][handle] = None
    sent.final = last
    data: dict[Handle, None] = {}
    for g, group in enumerate(coarse.groups):
        tasks = [graph.tasks[t] for t in group.tasks]
        calls = tuple(TaskCall(task.index, task.op, tuple(task.arguments(task.uses)), task.params) for task in tasks)
        needs = reads[g]
        written_first = {h for t in group.tasks for h in graph.tasks[t].writes} - {h for h, _ in needs}
        rooms = {h: room for h in written_first - outlines.keys() if (room := _room(graph, store, h)) is not None}
        for handle in written_first - rooms.keys():  # what is no array has to be given to who changes it
            if handle.name not in families and handle not in outlines and store[handle] is not None:
                needs[handle, -1] = None
        names = {handle.name for task in tasks for handle, _ in task.uses}
        corner = {Handle(name, (0, 0)) for name in names}
        sent.outputs.append(tuple(outputs[g]))
        work = GroupWork(
            common,
            group.place,
            group.tasks[0],
            code(calls),
            tuple((handle, source >= 0 and len(outputs[source]) > 1) for handle, source in needs),
            tuple(outputs[g]),
            {name: families[name] for name in names if name in families},
            {handle: outlines[handle] for handle in written_first | corner if handle in outlines},
            rooms,
        )
        first, end = graph.tasks[group.tasks[0]], graph.tasks[group.tasks[-1]]
        named = next((t for t in reversed(group.tasks) if graph.tasks[t].op.flops is not None), group.tasks[-1])
        label = end.label if len(group.tasks) == 1 else f"{first.label}..{end.label}"
        key = (f"{graph.tasks[named].op.name}-{run}", label, g)
        sent.keys.append(key)
        arguments = []
        for handle, source in needs:
            if source >= 0:
                arguments.append(TaskRef(sent.keys[source]))
                continue
            family = store.families.get(handle.name)
            if isinstance(family, RemoteTiles):
                piece = family.pieces[handle.index[0], handle.index[1]]
                if piece.handle is not None:
                    sent.tasks.setdefault(sent.initial(handle), piece.node(sent.initial(handle)))
                    arguments.append(TaskRef(sent.initial(handle)))
                else:
                    arguments.append(TaskRef(piece.future.key))
            else:
                data[handle] = None
                arguments.append(TaskRef(sent.initial(handle)))
        sent.tasks[key] = Task(key, run_group, work, *arguments)
        sent.workers[key] = [ranks.addresses[group.place]]
        sent.priority[key] = max(rank[t] for t in group.tasks)
    read = {source for needs in reads for _, source in needs}
    sent.wanted = sorted(set(last.values()) | {g for g in range(len(coarse)) if g not in read})
    return sent, list(data)


def _room(graph: TaskGraph, store: Store, handle: Handle) -> Room | None:
    """The room of a handle that begins as zeros where a group writes it first; None if it is none."""
    room = graph.rooms.get(handle.name)
    if room is None or handle in graph.inputs:
        return None
    if handle in store.outlines:
        return room.settled([handle])
    value = store[handle]  # kept, a tensor: an array would be an outline
    return room._replace(shape=tuple(value.shape), dtype=value.dtype, like="") if room.keep else None
