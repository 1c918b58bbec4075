"""A run as text: what `print(run)` shows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from textwrap import wrap
from typing import TYPE_CHECKING

from tilewright.units import nbytes, seconds

if TYPE_CHECKING:
    from tilewright.graph import TaskGraph
    from tilewright.runs.run import Run

__all__ = ["IDLE", "chain_facts", "memory", "place", "plain", "shown", "text", "unit_name", "units", "weight_unit"]

IDLE = {
    "startup": "start-up",
    "no_task": "no task ready",
    "data": "waiting for data",
    "communication": "communication",
    "overhead": "engine or policy",
    "tail": "tail",
}
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
        *_wrapped("verdict", str(run.verdict)),
        f"  makespan       {time(run.makespan)}"
        + ("" if units(run)[0] else f" {unit_name(run)}")
        + (f"   {run.gflops:.4g} GFLOP/s" if run.rated else ""),
        f"  lower bounds   {time(lower.area)} area, {time(lower.critical_path)} critical path",
        f"  efficiency     {run.efficiency:.1%} = W/(p T), {run.of_bound:.1%} of the lower bound, idle {run.idle:.1%}",
        *_idle(run),
        *_chain(run),
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


def chain_facts(run: Run) -> str:
    """The chain that set the makespan, in a line: how many tasks, what they waited for, and its parts."""
    chain = run.chain
    reasons = (("dependency", "predecessor"), ("worker", "busy worker"), ("message", "message"))
    waited = [f"{count:,} for a {name}" for reason, name in reasons if (count := chain.count(reason))]
    between = "kept back" if run.trace.virtual else "engine"
    parts = (("tasks", chain.work), ("messages", chain.messages), (between, chain.between))
    shares = [f"{name} {value / run.makespan:.0%}" for name, value in parts if value >= 0.005 * run.makespan]
    tasks = f"{len(chain):,} task{'' if len(chain) == 1 else 's'} set the makespan"
    return "; ".join([tasks, *[f"waited {', '.join(waited)}"] * bool(waited), ", ".join(shares)])


def _chain(run: Run) -> list[str]:
    return _wrapped("chain", chain_facts(run)) if run.makespan else []


def _wrapped(name: str, said: str) -> list[str]:
    """A fact of one sentence, in lines of less than 100 letters."""
    first, *rest = wrap(said, 80)
    return [f"  {name:<14} {first}", *(f"{'':<17}{line}" for line in rest)]


def _messages(run: Run) -> list[str]:
    if run.trace.ranks == 1:
        return _transfers(run)
    return [
        f"  messages       {run.messages} on {run.trace.ranks} ranks, {nbytes(run.bytes)}, "
        f"{run.trace.overlap:.1%} of their time under computation"
    ]


def _transfers(run: Run) -> list[str]:
    """What crossed between the memories of one rank."""
    sockets = 1 if run.machine is None else run.machine.sockets
    kinds = Counter[str]()
    sizes = Counter[str]()
    for message in run.trace.messages:
        source, target = (memory < sockets for memory in message.memories)
        kind = "between sockets" if source and target else "to accelerators" if source else "back"
        kinds[kind] += 1
        sizes[kind] += message.nbytes
    if not kinds:
        return []
    said = [f"{kinds['between sockets']} between sockets, {nbytes(sizes['between sockets'])}"] * (
        "between sockets" in kinds
    )
    if "to accelerators" in kinds or "back" in kinds:
        there, back = "to accelerators", "back"
        said.append(f"{kinds[there]} {there}, {nbytes(sizes[there])}, and {kinds[back]} {back}, {nbytes(sizes[back])}")
    return [f"  transfers      {'; '.join(said)}"]


_OPERANDS = {"bfloat16": "BF16", "float16": "FP16", "bfloat16x2": "two BF16 parts"}
_ROUTES = {
    "autocast": "under torch.autocast, each product rounded to 16 bits, sums of them in FP32",
    "widen": "widened to FP32, products and sums in FP32",
    "tensor": "by torch, sums in FP32",
}


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
    how = f"{facts['pages']:.0f} pages" if "pages" in facts else ""
    if "slabs" in facts:
        how = f"{facts['slabs']:.0f} slabs of up to {facts['width']:.0f} block columns"
        how += f", in blocks of {facts['height']:.0f} block rows" if facts.get("height") else ""
    return [f"  disk           {nbytes(facts['read'])} read, {nbytes(facts['written'])} written, {how}"]


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
    **{code: 0x2400 + code for code in range(32) if chr(code) not in "\t\n\r"},
    0x7F: "\u2421",
    **dict.fromkeys([*range(0x80, 0xA0), *range(0xD800, 0xE000), 0xFFFE, 0xFFFF], "\ufffd"),
}


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


def unit_name(run: Run) -> str:
    """``s``, or that of `weight_unit`."""
    return units(run)[0] or weight_unit(run.graph)


def weight_unit(graph: TaskGraph) -> str:
    """In what `Op.weight` counts: tile kernels in nb^3/3 flops, other ops in what their author says.

    >>> from tilewright import cholesky_graph
    >>> weight_unit(cholesky_graph(2))
    'units of nb^3/3 flops'
    """
    weighed = [task.op for task in graph.tasks if task.op.weight]
    tiles = bool(weighed) and all(op.function is None and op.flops is not None for op in weighed)
    return "units of nb^3/3 flops" if tiles else "units of task weight"


def plain(value: float) -> str:
    """A number without unit: ``136``, ``103,776``."""
    return f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.5g}"


def memory(run: Run) -> str:
    """The most that a rank holds, and of which; computed from the trace it is an upper bound."""
    if run.planned is not None:
        measured = "not measured" if run.measured is None else f"{nbytes(run.measured)} measured at the peak"
        fullest = " on the fullest rank" if run.trace.ranks > 1 else ""
        return f"{nbytes(run.planned)} planned, {measured}{fullest}"
    if run.measured is not None:
        return nbytes(run.memory) + (" on the first rank, measured" if run.trace.ranks > 1 else ", measured")
    where = " on the fullest rank" if run.trace.ranks > 1 else ""
    return f"at most {nbytes(run.memory)} of data{where}, that of the caller included"
