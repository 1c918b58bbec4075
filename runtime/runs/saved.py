"""A run as a JSON file: the graph, the trace and the machine, without data.

What comes back can be printed, drawn, reported and compared; its store is empty, so flops and memory are those that
were saved.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tilewright import ops as tile_ops
from tilewright.document import either, fields, integer, lists, maybe, number, one_of, read, row, rows, text
from tilewright.graph import Access, Handle, Op, Task, TaskGraph, Use
from tilewright.host.files import write_text
from tilewright.machine import Machine
from tilewright.runs.footprint import nbytes_of
from tilewright.runs.idle import CAUSES
from tilewright.runs.run import Run
from tilewright.runs.text import unit_name
from tilewright.runs.trace import MessageRecord, TaskRecord, Trace
from tilewright.tiles import Store

__all__ = ["document", "load", "save"]

FORMAT = 2


def save(run: Run, path: str | Path) -> None:
    """Write a run. About 150 bytes per task."""
    write_text(path, document(run))


def document(run: Run) -> str:
    """A run as the text of one JSON object; ``summary`` has what people want to know of it."""
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
    found = {
        "tilewright_run": FORMAT,
        "name": run.graph.name,
        "backend": run.backend,
        "scheduler": run.scheduler,
        "workers": run.trace.workers,
        "ranks": run.trace.ranks,
        "virtual": int(run.trace.virtual),
        "machine": json.loads(run.machine.to_json()) if run.machine is not None else None,
        "memory": run.measured,
        "failed": -1 if run.failed is None else run.failed.index,
        "failure": None if run.trace.failure is None else list(run.trace.failure),
        "summary": _summary(run),
        "kernels": [list(item) for item in run.kernels.items()],
        "handles": [[handle.name, list(handle.index)] for handle in handles],
        "bytes": [nbytes_of(run, handle) for handle in handles],
        "ops": [[op.name, op.weight] for op in ops],
        "inputs": [handles[handle] for handle in run.graph.inputs],
        "tasks": tasks,
        "flops": [run.task_flops(task) for task in run.graph],
        "records": [list(record) for record in run.trace.records],
        "messages": [[m.source, m.destination, handles[m.handle], *m[3:]] for m in run.trace.messages],
    }
    return json.dumps(found, separators=(",", ":"))


def _summary(run: Run) -> dict[str, Any]:
    return {
        "makespan": run.makespan,
        "unit": unit_name(run),
        "efficiency": run.efficiency,
        "of_bound": run.of_bound,
        "gflops": run.gflops,
        "area": run.bounds.area,
        "critical_path": run.bounds.critical_path,
        "idle": {cause: getattr(run.idle_split, cause) for cause in CAUSES},
        "messages": run.messages,
        "verdict": str(run.verdict),
    }


def load(path: str | Path) -> Run:
    """Read a run that `save` wrote.

    Raises
    ------
    ValueError
        The file is no saved run, or of another format.
    """
    try:
        document = read(path)
        version = document["tilewright_run"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no saved run; Run.save writes one") from error
    if version != FORMAT:
        raise ValueError(f"{path} has format {version}, this tilewright reads format {FORMAT}")
    try:
        return _run(document)
    except ValueError as error:
        raise ValueError(f"{path} is damaged, or was not written by Run.save: {error}") from error


_MOST = 1 << 20  # workers of all ranks; each has a lane


def _run(document: dict[str, Any]) -> SavedRun:
    """The run that a document tells of. ValueError that names what cannot be so."""
    anything, size = lambda value, place: value, integer(0)
    found = fields(document, "the run", {
        "tilewright_run": anything, "name": text, "backend": text, "scheduler": text, "workers": integer(1, _MOST),
        "ranks": integer(1, _MOST), "machine": maybe(lambda value, place: Machine.from_fields(value)),
        "memory": maybe(size), "kernels": rows(text, text),
        "handles": rows(text, lists(either(integer(-(2**62)), text))), "bytes": lists(size),
        "ops": rows(text, number(0)), "inputs": anything, "tasks": anything, "flops": anything, "records": anything,
        "messages": anything, "virtual": integer(0, 1), "summary": anything, "failed": integer(-1), "failure": anything,
    }, optional=["memory", "kernels", "virtual", "summary", "failed", "failure"])  # fmt: skip
    workers, ranks = found["workers"], found["ranks"]
    if workers * ranks > _MOST:
        raise ValueError(f"it has {ranks} ranks of {workers} workers, more than the {_MOST} that a run may have")
    handles = [Handle(name, tuple(index)) for name, index in found["handles"]]
    if len(set(handles)) != len(handles):
        raise ValueError("it names a handle twice")
    ops = [_op(name, weight) for name, weight in found["ops"]]
    graph = _graph(found, handles, ops)
    count, reference = len(graph), integer(0, len(handles) - 1)
    if len(found["bytes"]) != len(handles):
        raise ValueError(f"it has sizes of {len(found['bytes'])} handles, not of {len(handles)}")
    flops = lists(number(0), count)(found["flops"], "the run.flops")
    memory, rank, time = integer(0, workers), integer(0, ranks - 1), number(0)
    records = [
        TaskRecord(*record)
        for record in rows(integer(0, count - 1), integer(0, workers - 1), time, time, rank)(
            found["records"], "the run.records"
        )
    ]
    if len({record.task for record in records}) != len(records):
        raise ValueError("a task ran twice")
    messages = [
        MessageRecord(source, to, handles[handle], *rest)
        for source, to, handle, *rest in rows(
            rank, rank, reference, size, time, time, integer(-1, count - 1), row(memory, memory)
        )(found["messages"], "the run.messages")
    ]
    if any(record.end < record.start for record in records) or any(m.end < m.start for m in messages):
        raise ValueError("a task or a message ends before it starts")
    trace = Trace(graph, workers, records, ranks=ranks, messages=messages)
    trace.virtual = bool(found.get("virtual"))
    failed = found.get("failed", -1)
    if failed >= count:
        raise ValueError(f"task {failed} failed, of {count} tasks")
    if found.get("failure") is not None:
        rule = row(integer(0, count - 1), integer(0, workers - 1), time, time, rank)
        trace.failure = TaskRecord(*rule(found["failure"], "the run.failure"))
    machine = found["machine"]
    if machine is not None and len(machine.kinds) > 1 and machine.size != ranks * workers:
        raise ValueError(f"its machine has {machine.size} workers, the run {ranks * workers}")
    store = Store({handle: _Size(nbytes) for handle, nbytes in zip(handles, found["bytes"], strict=True)})
    run = SavedRun(
        graph,
        trace,
        found["backend"],
        found["scheduler"],
        ranks * workers,
        store,
        machine,
        measured=found.get("memory"),
        kernels=dict(found.get("kernels") or ()),
        failed=graph.tasks[failed] if failed >= 0 else None,
    )
    run.__dict__["_flops"] = flops
    return run


def _graph(found: dict[str, Any], handles: list[Handle], ops: list[Op]) -> TaskGraph:
    reference = integer(0, len(handles) - 1)
    use = row(reference, one_of(*(access.value for access in Access)))
    rules = rows(integer(0, len(ops) - 1), lists(use), lists(integer(0)), number())
    graph = TaskGraph(found["name"])
    for op, uses, predecessors, priority in rules(found["tasks"], "the run.tasks"):
        index = len(graph.tasks)
        if any(after >= index for after in predecessors) or sorted(set(predecessors)) != predecessors:
            raise ValueError(f"task {index} waits for {predecessors}, which are no tasks before it in ascending order")
        accesses = tuple([Use(handles[handle], Access(access)) for handle, access in uses])
        task = Task(index, ops[op], accesses, (), tuple(predecessors), None, priority)
        try:
            assert task.label
        except (IndexError, ValueError, TypeError) as error:
            raise ValueError(f"task {index} does not use what a {ops[op].name} uses") from error
        graph.tasks.append(task)
    graph.inputs = {handles[place]: None for place in lists(reference)(found["inputs"], "the run.inputs")}
    if not set(graph.inputs) <= {use.handle for task in graph.tasks for use in task.uses}:
        raise ValueError("it has inputs that no task uses")
    graph.frozen = True
    return graph


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


def _op(name: str, weight: float) -> Op:
    """The tile op of that name, whose tasks have the labels users know; else an op that is only a name."""
    known = getattr(tile_ops, name, None)
    return known if isinstance(known, Op) and known.weight == weight else Op(name, weight=weight)
