"""A run as text: what `print(run)` shows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

from tilewright.units import nbytes, seconds

if TYPE_CHECKING:
    from tilewright.runs.run import Run

__all__ = ["IDLE", "memory", "place", "plain", "shown", "text", "units"]

IDLE = {
    "startup": "start-up", "dependencies": "dependencies", "communication": "communication",
    "overhead": "engine or policy", "tail": "tail",
}  # fmt: skip
"""The parts of `tilewright.runs.idle.Idle`, for people."""


def text(run: Run) -> str:
    """The run in a dozen lines: time, rate, bounds, where the workers' time went, and a table of ops."""
    lower, time = run.bounds, units(run)[1]
    work = lower.area if lower.work is None else lower.work
    lines = [
        shown(
            f"{run.graph.name}: {len(run.graph)} tasks on {place(run)}, backend {run.backend}, "
            f"scheduler {run.scheduler}"
        ),
        f"  makespan       {time(run.makespan)}" + (f"   {run.gflops:.4g} GFLOP/s" if run.flops else ""),
        f"  lower bounds   {time(lower.area)} area, {time(lower.critical_path)} critical path",
        f"  efficiency     {run.efficiency:.1%} of the lower bound, workers idle {run.idle:.1%}",
        *_idle(run),
        f"  work           {time(work)}, width {run.width}, speed-up at most {lower.speedup_limit:.4g}",
        *([f"  memory         {memory(run)}"] if run.memory or run.planned else []),
        *_messages(run),
        *_disk(run),
        *_submitted(run),
        *_products(run),
        *_conversions(run),
        *_kernels(run),
        *[f"  note           {note}" for note in run.notes],
        "  op            tasks       total        mean   share",
    ]
    busy = float(run.trace.busy.sum()) or 1.0
    for name, (count, total) in run.trace.by_op().items():
        op = shown(name)
        lines.append(f"  {op:<10} {count:>8}  {time(total):>10}  {time(total / count):>10}  {total / busy:>6.1%}")
    return "\n".join(lines)


def _idle(run: Run) -> list[str]:
    """The parts that matter, as shares of the idle time."""
    split = run.idle_split
    parts = [(name, getattr(split, field) / split.total) for field, name in IDLE.items() if split.total > 0]
    shown = ", ".join(f"{name} {share:.0%}" for name, share in parts if share >= 0.005)
    return [f"  idle time      {shown}"] if shown else []


def _messages(run: Run) -> list[str]:
    if run.trace.ranks == 1:
        return _transfers(run)
    return [
        f"  messages       {run.messages} on {run.trace.ranks} ranks, {nbytes(run.bytes)}, "
        f"{run.trace.overlap:.1%} of their time under computation"
    ]


def _transfers(run: Run) -> list[str]:
    """What crossed between the memories of one rank."""
    sent = Counter(message.memories[0] == 0 for message in run.trace.messages)
    size = sum(m.nbytes for m in run.trace.messages if m.memories[0] == 0)
    if not sent:
        return []
    return [f"  transfers      {sent[True]} to accelerators, {nbytes(size)}, and {sent[False]} back, "
            f"{nbytes(run.bytes - size)}"]  # fmt: skip


_OPERANDS = {"bfloat16": "BF16", "float16": "FP16", "bfloat16x2": "two BF16 parts"}
_ROUTES = {
    "autocast": "under torch.autocast, each product rounded to 16 bits, sums of them in FP32",
    "widen": "widened to FP32, products and sums in FP32", "tensor": "by torch, sums in FP32",
}  # fmt: skip


def _products(run: Run) -> list[str]:
    """How products with 16-bit operands were computed."""
    sources = sorted({task.op.source for task in run.graph if task.op.source.partition("/")[0] in _OPERANDS})
    lines = []
    for source in sources:
        form, _, route = source.partition("/")
        lines.append(f"  products       {_OPERANDS[form]}, {route}: {_ROUTES.get(route, 'sums in FP32')}")
    return lines


def _conversions(run: Run) -> list[str]:
    return [] if run.conversions is None else [f"  conversions    {run.conversions}"]


def _kernels(run: Run) -> list[str]:
    """Libraries and routes, each with its ops; all ops in few words."""
    ops: dict[str, list[str]] = {}
    for op, source in run.kernels.items():
        ops.setdefault(source, []).append(op)
    listed = [source if len(ops) == 1 else f"{source} ({', '.join(names)})" for source, names in ops.items()]
    return [f"  kernels        {', '.join(listed)}"] if listed else []


def _disk(run: Run) -> list[str]:
    facts = run.trace.facts
    if "written" not in facts:
        return []
    slabs = f"{facts['slabs']:.0f} slabs of up to {facts['width']:.0f} block columns"
    return [f"  disk           {nbytes(facts['read'])} read, {nbytes(facts['written'])} written, {slabs}"]


def _submitted(run: Run) -> list[str]:
    facts = run.trace.facts
    if "submitted" not in facts:
        return []
    groups = f" in {facts['groups']:.0f} groups" if "groups" in facts else ""
    return [
        f"  engine         {facts['submitted']:.0f} Dask tasks for {len(run.graph)}{groups}, "
        f"scheduler busy {facts['scheduler']:.1%} of the time",
        f"  data           {nbytes(facts['inputs'])} to the workers, {nbytes(facts['results'])} back",
    ]


def shown(name: str) -> str:
    """A name with signs for control characters, which neither terminals nor XML shall see; line breaks and tabs stay.

    >>> shown("a\\x07b")
    'a\u2407b'
    """
    return name.translate(_SIGNS)


_SIGNS: dict[int, int | str] = {
    **{code: 0x2400 + code for code in range(32) if chr(code) not in "\t\n\r"}, 0x7F: "\u2421",
    **dict.fromkeys([*range(0x80, 0xA0), *range(0xD800, 0xE000), 0xFFFE, 0xFFFF], "\ufffd"),
}  # fmt: skip


def place(run: Run) -> str:
    """``1 worker``, ``4 ranks of 2 workers``."""
    count = run.trace.workers
    workers = f"{count} {'worker' if count == 1 else 'workers'}"
    return workers if run.trace.ranks == 1 else f"{run.trace.ranks} ranks of {workers}"


def units(run: Run) -> tuple[str, Callable[[float], str]]:
    """``s`` and `seconds`; or no unit and plain numbers for a machine that counts in task weights."""
    machine = run.machine
    weights = run.trace.virtual and machine is not None and machine.gamma is None and not machine.durations
    return ("", plain) if weights else ("s", seconds)


def plain(value: float) -> str:
    """A number without unit: ``136``, ``103,776``."""
    return f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.5g}"


def memory(run: Run) -> str:
    """The most that a rank holds, and of which; computed from the trace it is an upper bound."""
    if run.planned is not None:
        measured = "not measured" if run.measured is None else f"{nbytes(run.measured)} measured at the peak"
        return f"{nbytes(run.planned)} planned, {measured}"
    if run.measured is not None:
        return nbytes(run.memory) + (" on the first rank, measured" if run.trace.ranks > 1 else ", measured")
    where = " on the fullest rank" if run.trace.ranks > 1 else ""
    return f"at most {nbytes(run.memory)} of data{where}, that of the caller included"
