"""A pass over a graph of tile kernels: conversions between precisions become tasks.

The algorithm says nothing about precision. Given the format of each tile, this pass puts a task before the first
reader of a tile version that wants it in another form; its result is shared by all readers of that version, and where
tiles travel, the narrow copy does: it is made where the tile is, so a message is as long as its readers need. A rank
that needs one tile in two forms gets one message and makes the narrower form itself: rule 5 of
`tilewright.passes.messages`.

Where products of narrow operands are computed by widening them (`tilewright.kernels.products`), another task widens the
narrow copy, once, on each rank that reads it. So storage and messages stay at 16 bits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from tilewright import ops
from tilewright.graph import Access, Handle, Layout, Op, R, Task, TaskGraph, Use, W
from tilewright.kernels import products
from tilewright.precision import Format, PrecisionMap, find_format
from tilewright.tiles import Store

if TYPE_CHECKING:
    from tilewright.runs.run import Run

__all__ = ["Conversions", "copy_name", "copy_outline", "count", "with_conversions", "with_copies"]

_NAMES = {ops.convert.name, ops.split.name, ops.tf32.name}

Formats = Callable[[Handle], Format | None]

_WIDE = ":wide"
"""Ends the form of a narrow copy that is widened: ``A:bfloat16:wide``."""


def copy_name(name: str, form: str) -> str:
    """The family of the copies of matrix ``name`` in ``form``: ``A:bfloat16``."""
    return f"{name}:{form}"


def copy_outline(handle: Handle, shape: tuple[int, ...]) -> tuple[tuple[int, ...], str]:
    """Shape and dtype of a copy of a tile of this shape."""
    form = handle.name.partition(":")[2]
    narrow = form.removesuffix(_WIDE)
    if narrow != form:
        return ((3, *shape) if narrow == "bfloat16x2" else shape), "float32"
    dtype = {"bfloat16": "uint16", "bfloat16x2": "uint16", "tf32": "float32"}.get(form, form)
    return ((2, *shape) if form == "bfloat16x2" else shape), dtype


def with_conversions(
    graph: TaskGraph,
    precision: str | PrecisionMap | Mapping[str, str | PrecisionMap],
    routes: Callable[[str], str] | None = None,
    *,
    matrix: str = "A",
    wide: bool = True,
) -> TaskGraph:
    """The same tasks, each op that says so (`Op.operands`) reading its operands in the right form.

    A task computes in the format f of the tile it writes, which is stored in ``f.accumulate``. Products (``"storage"``)
    want operands in ``f.storage`` (two BF16 parts for bf16x3, rounded FP32 for tf32), trsm (``"accumulate"``) wants its
    triangle in ``f.accumulate``. What a task writes is never converted.

    Parameters
    ----------
    graph
        Of any algorithm; it is not changed.
    precision
        The format of every tile: one name for all, or a name or `PrecisionMap` for each matrix. A `PrecisionMap` alone
        is that of ``matrix``. Tiles of a matrix that is not named are left as they are, and so are tasks that write
        them.
    routes
        The route for kernels with operands in a narrow form: see `tilewright.kernels.products`. By default the best of
        this machine. A Python function gets the operands in 16 bits and computes as it likes.
    wide
        Where the route is ``widen``, let a task widen each operand once. Without, the kernel does it in each product.

    Returns
    -------
    graph : TaskGraph
        With one more task for each tile version and form, before its first reader. A run needs room for the copies:
        `with_copies`.

    Notes
    -----
    O(accesses). See `docs/precision.md` for a product of one's own.
    """
    rule, made = _formats(precision, matrix), {name for name in graph.temporary if ":" in name}

    def format_of(handle: Handle) -> Format | None:
        return None if handle.name in made else rule(handle)  # a copy of an earlier pass is what its reader wants

    routes = routes or (lambda form: products.route(form).name)
    g = graph.empty_like()
    wanted = {task.index: f for task in graph if (f := _format_computed_in(task, format_of))}
    forms = _forms_of_versions(graph, wanted, format_of)
    writer: dict[Handle, int] = {}
    copies: dict[Handle, dict[str, Handle]] = {}  # of the current version of each tile, by form

    def read(use: Use, form: str) -> Use:
        """The use of this tile in a form, after a conversion if none has made it yet."""
        handle = use.handle
        mine = format_of(handle)
        if use.access is not Access.READ or mine is None or form == mine.accumulate:
            return use
        known = copies.setdefault(handle, {})
        if form not in known:
            source = R(made_of(use, form).handle)
            known[form] = Handle(copy_name(handle.name, form), handle.index)
            g.insert(_maker(form), source, W(known[form]))
            g.temporary.add(known[form].name)
        return R(known[form])

    def made_of(use: Use, form: str) -> Use:
        """What a form is made of. If an FP64 tile is read in FP32 as well, of that copy, so that it can travel."""
        if form.endswith(_WIDE):
            return read(use, form.removesuffix(_WIDE))
        several = len(forms[use.handle, writer.get(use.handle, -1)]) > 1 or form in ("bfloat16x2", "tf32")
        return read(use, "float32") if several and form not in ("float32", "float64") else use

    for task in graph:
        op, uses = task.op, task.uses
        if f := wanted.get(task.index):
            form = _form_read(op, f)
            if op.function is None and f.storage not in ("float64", "float32"):
                route = routes(f.storage)
                form += _WIDE if wide and route == "widen" and op.operands == "storage" else ""
                op = _routed(op, f"{f.storage}/{route}")
            uses = tuple(read(use, form) for use in uses)
        g.insert_again(task, op, uses)
        for handle in task.writes:
            copies.pop(handle, None)
            writer[handle] = task.index
    if graph.layout is not None:
        g.layout = _layout(graph.layout, g.temporary - graph.temporary)
    return g


def _layout(layout: Layout, copied: set[str]) -> Layout:
    """Copies are where their tiles are."""

    def tile(handle: Handle) -> Handle:
        return Handle(handle.name.partition(":")[0], handle.index) if handle.name in copied else handle

    def shape(handle: Handle) -> tuple[int, ...]:
        of_tile = layout.shape(tile(handle))
        return copy_outline(handle, of_tile)[0] if handle.name in copied else of_tile

    return Layout(layout.ranks, lambda handle: layout.owner(tile(handle)), shape)


def with_copies(graph: TaskGraph, data: Mapping[Any, Any]) -> dict[Any, Any]:
    """The data of a run, with room for the copies that `with_conversions` put into the graph.

    KeyError if a tile has no array that would say how large its copy is.
    """
    store = Store(data)
    found: dict[Any, Any] = dict(data)
    for handle in graph.written:
        name, _, form = handle.name.partition(":")
        if not form or handle.name not in graph.temporary:
            continue
        tile = store[Handle(name, handle.index)]
        if tile is None:
            raise KeyError(f"the data has no array for {Handle(name, handle.index)}, so there is no room for {handle}")
        shape, dtype = copy_outline(handle, tile.shape)
        found.setdefault(handle.name, {})[handle.index] = np.empty(shape, dtype)
    return found


def _formats(precision: str | PrecisionMap | Mapping[str, str | PrecisionMap], matrix: str) -> Formats:
    """The format of a tile; None where nobody said one."""
    if isinstance(precision, str):
        single = find_format(precision)
        return lambda handle: single
    named = {matrix: precision} if isinstance(precision, PrecisionMap) else precision
    rules = {name: rule if isinstance(rule, PrecisionMap) else find_format(rule) for name, rule in named.items()}

    def format_of(handle: Handle) -> Format | None:
        rule = rules.get(handle.name)
        return rule[handle.index[0], handle.index[1]] if isinstance(rule, PrecisionMap) else rule

    return format_of


def _format_computed_in(task: Task, format_of: Formats) -> Format | None:
    """That of the tile it writes; None for tasks whose operands stay as they are."""
    if not task.op.operands or not (written := task.writes):
        return None
    return format_of(written[0])


def _form_read(op: Op, f: Format) -> str:
    """The form in which an op that computes in a format wants its operands."""
    return operand_form(f) if op.operands == "storage" else f.accumulate


def _forms_of_versions(
    graph: TaskGraph, wanted: dict[int, Format], format_of: Formats
) -> dict[tuple[Handle, int], set[str]]:
    """All forms in which each version of a tile is read; a version is named by the task that wrote it."""
    writer: dict[Handle, int] = {}
    forms: dict[tuple[Handle, int], set[str]] = {}
    for task in graph:
        if f := wanted.get(task.index):
            for use in task.uses:
                if use.access is Access.READ and format_of(use.handle):
                    forms.setdefault((use.handle, writer.get(use.handle, -1)), set()).add(_form_read(task.op, f))
        for handle in task.writes:
            writer[handle] = task.index
    return forms


def operand_form(f: Format) -> str:
    """What products with this format read."""
    return "tf32" if f.name == "tf32" else f.storage


def _maker(form: str) -> Op:
    """The op that makes a form."""
    if form == "float64" or form.endswith(_WIDE):
        return ops.widen
    return {"bfloat16x2": ops.split, "tf32": ops.tf32}.get(form, ops.convert)


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
    """Bytes that readers did not have to read, as the copies were smaller than the tiles; negative if larger. Those
    that were widened again count as what they are."""
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
            before = made[task.uses[0].handle][1] if task.uses[1].handle.name.endswith(_WIDE) else 0
            made[task.uses[1].handle] = target.nbytes, before + source.nbytes - target.nbytes
            continue
        for use in task.uses:
            if use.handle in made and use.access is Access.READ:
                reads += 1
                saved += made[use.handle][1]
    if not conversions:
        return None
    sent = sum(made[m.handle][1] for m in run.trace.messages if m.handle in made)
    return Conversions(conversions, reads, size, saved, sent)
