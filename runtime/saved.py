"""A run as a JSON file: the graph, the trace and the machine, without data.

What comes back can be printed, drawn, reported and compared; its store is empty, so flops and memory are those that
were saved.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tilewright.engine import Run
from tilewright.files import write_text
from tilewright.graph import Access, Handle, Op, Task, TaskGraph, Use
from tilewright.linalg import ops as tile_ops
from tilewright.machine import Machine
from tilewright.tiles import Store
from tilewright.trace import MessageRecord, TaskRecord, Trace

__all__ = ["load", "save"]

FORMAT = 2


def save(run: Run, path: str | Path) -> None:
    """Write a run. About 150 bytes per task."""
    handles: dict[Handle, int] = {}
    ops: dict[Op, int] = {}
    tasks = [
        [
            ops.setdefault(task.op, len(ops)),
            [[handles.setdefault(use.handle, len(handles)), use.access.value] for use in task.uses],
            list(task.predecessors),
            task.priority,
        ]
        for task in run.graph
    ]
    for message in run.trace.messages:
        handles.setdefault(message.handle, len(handles))
    document = {
        "tilewright_run": FORMAT,
        "name": run.graph.name,
        "backend": run.backend,
        "scheduler": run.scheduler,
        "workers": run.trace.workers,
        "ranks": run.trace.ranks,
        "machine": json.loads(run.machine.to_json()) if run.machine is not None else None,
        "memory": run.measured,
        "handles": [[handle.name, list(handle.index)] for handle in handles],
        "bytes": [_bytes(run, handle) for handle in handles],
        "ops": [[op.name, op.weight] for op in ops],
        "inputs": [handles[handle] for handle in run.graph.inputs],
        "tasks": tasks,
        "flops": [run.task_flops(task) for task in run.graph],
        "records": [list(record) for record in run.trace.records],
        "messages": [[m.source, m.destination, handles[m.handle], *m[3:]] for m in run.trace.messages],
    }
    write_text(path, json.dumps(document, separators=(",", ":")))


def load(path: str | Path) -> Run:
    """Read a run that `save` wrote.

    Raises
    ------
    ValueError
        The file is no saved run, or of another format.
    """
    try:
        document: Any = json.loads(Path(path).read_text(encoding="utf-8"))
        version = document["tilewright_run"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no saved run; Run.save writes one") from error
    if version != FORMAT:
        raise ValueError(f"{path} has format {version}, this tilewright reads format {FORMAT}")
    handles = [Handle(name, tuple(index)) for name, index in document["handles"]]
    ops = [_op(name, weight) for name, weight in document["ops"]]
    graph = TaskGraph(document["name"])
    for op, uses, predecessors, priority in document["tasks"]:
        accesses = tuple(Use(handles[handle], Access(access)) for handle, access in uses)
        graph.tasks.append(Task(len(graph.tasks), ops[op], accesses, (), tuple(predecessors), None, priority))
    graph.inputs = {handles[handle]: None for handle in document["inputs"]}
    graph.frozen = True
    records = [TaskRecord(*record) for record in document["records"]]
    messages = [
        MessageRecord(source, to, handles[h], *rest)._replace(memories=(rest[4][0], rest[4][1]))
        for source, to, h, *rest in document["messages"]
    ]
    trace = Trace(graph, document["workers"], records, ranks=document["ranks"], messages=messages)
    machine = Machine.from_json(json.dumps(document["machine"])) if document["machine"] is not None else None
    store = Store({handle: _Size(size) for handle, size in zip(handles, document["bytes"], strict=True)})
    run = SavedRun(
        graph, trace, document["backend"], document["scheduler"], trace.ranks * trace.workers, store, machine,
        measured=document.get("memory"),
    )  # fmt: skip
    run.__dict__["_flops"] = document["flops"]
    return run


class SavedRun(Run):
    """A `Run` from disk: its values are gone, its flops are known."""

    def task_flops(self, task: Task) -> float:
        flops: list[float] = self.__dict__["_flops"]
        return flops[task.index]


class _Size:
    """What is left of a buffer: its size."""

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes

    def __repr__(self) -> str:
        return f"<{self.nbytes} bytes that were not saved>"


def _bytes(run: Run, handle: Handle) -> int:
    nbytes = getattr(run.store[handle], "nbytes", None)
    if nbytes is not None:
        return int(nbytes)
    return round(8 * run.machine.words(handle)) if run.machine is not None else 0


def _op(name: str, weight: float) -> Op:
    """The tile op of that name, whose tasks have the labels users know; else an op that is only a name."""
    known = getattr(tile_ops, name, None)
    return known if isinstance(known, Op) and known.weight == weight else Op(name, weight=weight)
