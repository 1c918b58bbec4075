"""A run as text: what `print(run)` shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tilewright.engine import Run

__all__ = ["text"]


def text(run: Run) -> str:
    """The run in a dozen lines: time, rate, bounds, idle share, and a table of ops."""
    lower = run.bounds
    lines = [
        f"{run.graph.name}: {len(run.graph)} tasks on {place(run)}, backend {run.backend}, scheduler {run.scheduler}",
        f"  makespan       {seconds(run.makespan)}" + (f"   {run.gflops:.4g} GFLOP/s" if run.flops else ""),
        f"  lower bounds   {seconds(lower.area)} area, {seconds(lower.critical_path)} critical path",
        f"  efficiency     {run.efficiency:.1%} of the lower bound, workers idle {run.idle:.1%}",
        *_messages(run),
        *_conversions(run),
        "  op            tasks       total        mean   share",
    ]
    busy = float(run.trace.busy.sum()) or 1.0
    for op, (count, total) in run.trace.by_op().items():
        lines.append(f"  {op:<10} {count:>8}  {seconds(total):>10}  {seconds(total / count):>10}  {total / busy:>6.1%}")
    return "\n".join(lines)


def _messages(run: Run) -> list[str]:
    if run.trace.ranks == 1:
        return []
    return [
        f"  messages       {run.messages} on {run.trace.ranks} ranks, {run.bytes / 1e6:.4g} MB, "
        f"{run.trace.overlap:.1%} of their time under computation"
    ]


def _conversions(run: Run) -> list[str]:
    return [] if run.conversions is None else [f"  conversions    {run.conversions}"]


def place(run: Run) -> str:
    """``1 worker``, ``4 ranks of 2 workers``."""
    count = run.trace.workers
    workers = f"{count} {'worker' if count == 1 else 'workers'}"
    return workers if run.trace.ranks == 1 else f"{run.trace.ranks} ranks of {workers}"


def seconds(value: float) -> str:
    """A time for people: ``1.23 s``, ``4.56 ms``, ``7.89 us``."""
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if value >= scale:
            return f"{value / scale:.3g} {unit}"
    return f"{value / 1e-9:.3g} ns"
