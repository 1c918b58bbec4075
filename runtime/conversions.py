"""A pass over a graph of tile kernels: conversions between precisions become tasks.

The algorithm says nothing about precision. Given the format of each tile, this pass puts a task before the first
reader of a tile version that wants it in another form; its result is shared by all readers of that version, and where
tiles travel, the narrow copy does: it is made where the tile is, so a message is as long as its readers need. A rank
that needs one tile in two forms gets one message and makes the narrower form itself: rule 5 of `tilewright.messages`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING

from tilewright.graph import Access, Handle, Op, R, Task, TaskGraph, Use, W
from tilewright.linalg import ops
from tilewright.precision import Format, PrecisionMap

if TYPE_CHECKING:
    from tilewright.engine import Run

__all__ = ["Conversions", "copy_name", "count", "with_conversions"]

_CONVERSIONS = {ops.convert, ops.split, ops.tf32}
_NAMES = {op.name for op in _CONVERSIONS}
_PRODUCTS = {ops.gemm, ops.syrk}
_KERNELS = _PRODUCTS | {ops.potrf, ops.trsm}


def copy_name(name: str, form: str) -> str:
    """The family of the copies of matrix ``name`` in ``form``: ``A:bfloat16``."""
    return f"{name}:{form}"


def with_conversions(
    graph: TaskGraph, precision: PrecisionMap, routes: Callable[[str], str], *, matrix: str = "A"
) -> TaskGraph:
    """The same tasks, each potrf, trsm, syrk and gemm on ``matrix`` reading its operands in the right form.

    A task computes in the format f of the tile it writes. Products want operands in ``f.storage`` (two BF16 parts for
    bf16x3, rounded FP32 for tf32), trsm wants its triangle in ``f.accumulate``. ``routes(form)`` names the route for
    operands in a narrow form: `tilewright.kernels.products`.
    """
    g = TaskGraph(graph.name)
    wanted = {task.index: form for task in graph if (form := _form_read(task, precision, matrix))}
    forms = _forms_of_versions(graph, wanted, matrix)
    writer: dict[Handle, int] = {}
    copies: dict[Handle, dict[str, Handle]] = {}  # of the current version of each tile, by form

    def read(handle: Handle, form: str) -> Handle:
        """The handle that has this tile in a form, after a conversion if none has it yet."""
        mine = precision[handle.index[0], handle.index[1]].accumulate
        if form == mine:
            return handle
        known = copies.setdefault(handle, {})
        if form not in known:
            #   an FP64 tile that is read in FP32 as well: the other forms come from that copy, so that it can travel
            other = len(forms[handle, writer.get(handle, -1)]) > 1 or form in ("bfloat16x2", "tf32")
            source = read(handle, "float32") if other and form not in ("float32", "float64") else handle
            op = {"bfloat16x2": ops.split, "tf32": ops.tf32, "float64": ops.widen}.get(form, ops.convert)
            known[form] = Handle(copy_name(handle.name, form), handle.index)
            g.insert(op, R(source), W(known[form]))
            g.temporary.add(known[form].name)
        return known[form]

    for task in graph:
        op, uses = task.op, task.uses
        if task.index in wanted:
            f = precision[uses[-1].handle.index[0], uses[-1].handle.index[1]]
            uses = tuple(R(read(use.handle, wanted[task.index])) if _is_operand(use, matrix) else use for use in uses)
            if f.storage not in ("float64", "float32"):
                op = _routed(op, f"{f.storage}/{routes(f.storage)}")
        g.insert(op, *uses, *task.params, on=task.on, priority=task.priority)
        for handle in task.writes:
            copies.pop(handle, None)
            writer[handle] = task.index
    return g


def _is_operand(use: Use, matrix: str) -> bool:
    return use.access is Access.READ and use.handle.name == matrix


def _form_read(task: Task, precision: PrecisionMap, matrix: str) -> str:
    """The form in which a task wants the tiles it reads; empty for tasks that are no kernels on this matrix."""
    if task.op not in _KERNELS or task.uses[-1].handle.name != matrix:
        return ""
    f = precision[task.uses[-1].handle.index[0], task.uses[-1].handle.index[1]]
    return operand_form(f) if task.op in _PRODUCTS else f.accumulate


def _forms_of_versions(graph: TaskGraph, wanted: dict[int, str], matrix: str) -> dict[tuple[Handle, int], set[str]]:
    """All forms in which each version of a tile is read; a version is named by the task that wrote it."""
    writer: dict[Handle, int] = {}
    forms: dict[tuple[Handle, int], set[str]] = {}
    for task in graph:
        for use in task.uses:
            if task.index in wanted and _is_operand(use, matrix):
                forms.setdefault((use.handle, writer.get(use.handle, -1)), set()).add(wanted[task.index])
        for handle in task.writes:
            writer[handle] = task.index
    return forms


def operand_form(f: Format) -> str:
    """What products with this format read."""
    return "tf32" if f.name == "tf32" else f.storage


@cache
def _routed(op: Op, source: str) -> Op:
    return replace(op, source=source)


# ------------------------------------------------------------------ counting


@dataclass(frozen=True)
class Conversions:
    """What the conversions of a run did. Bytes are those of tiles."""

    count: int
    """Tasks: one for each tile version and form."""
    reads: int
    """How often a copy was read."""
    bytes: int
    """Size of all copies."""
    saved: int
    """Bytes that readers did not have to read, as the copies were smaller than the tiles; negative if larger."""
    sent_saved: int
    """Of messages: bytes that did not have to be sent."""

    def __str__(self) -> str:
        text = f"{self.count} tiles, {self.bytes / 1e6:.4g} MB, each read {self.reads / max(self.count, 1):.1f} times"
        text += f"; {_less(self.saved)} to read"
        return text + (f", {_less(self.sent_saved)} to send" if self.sent_saved else "")


def _less(nbytes: int) -> str:
    return f"{abs(nbytes) / 1e6:.4g} MB {'less' if nbytes >= 0 else 'more'}"


def count(run: Run) -> Conversions | None:
    """The conversions of a run; None if it had none, or no data to count bytes of."""
    made: dict[Handle, tuple[int, int]] = {}  # copy -> bytes of it, bytes saved by reading it
    conversions = reads = size = saved = 0
    for task in run.graph:
        if task.op.name in _NAMES and task.uses[-1].handle.name in run.graph.temporary:
            source, target = (run.store[use.handle] for use in task.uses)
            if source is None or target is None:  # a simulated run
                return None
            conversions += 1
            size += target.nbytes
            made[task.uses[-1].handle] = target.nbytes, source.nbytes - target.nbytes
            continue
        for use in task.uses:
            if use.handle in made and use.access is Access.READ:
                reads += 1
                saved += made[use.handle][1]
    if not conversions:
        return None
    sent = sum(made[m.handle][1] for m in run.trace.messages if m.handle in made)
    return Conversions(conversions, reads, size, saved, sent)
