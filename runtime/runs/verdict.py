"""One sentence on a run: what limits it, and what would help.

It looks at the bounds, at where idle time went (`tilewright.runs.idle`), and at the chain that set the makespan.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tilewright.units import seconds

if TYPE_CHECKING:
    from tilewright.runs.run import Run

__all__ = ["LIMITS", "Verdict", "judge"]

LIMITS = {
    "nothing": "no task ran",
    "failure": "a task failed",
    "work": "the workers are busy",
    "critical path": "the longest chain of tasks takes nearly as long",
    "start-up": "workers got their first task late in a short run",
    "messages": "the chain that set the makespan waits for messages",
    "engine": "handing out tasks takes long beside running them",
    "distribution": "some ranks have no tasks while they queue on others",
    "policy": "the order of tasks leaves workers without any",
    "width": "the graph has too few tasks at a time",
}
"""What may limit a run."""

_BUSY = 0.9  # share of the workers' time in tasks from which only more workers can help
_LONG = 0.85  # critical path over makespan from which no policy and no workers can
_MUCH = 0.2  # share of the chain from which messages, or the engine, are what to look at
_GAP = 1.05  # makespan over the lower bound up to which no other policy can help much


@dataclass(frozen=True, slots=True)
class Verdict:
    """What limits a run, and what would help; ``str`` is one sentence."""

    limit: str
    """One of `LIMITS`."""
    sentence: str

    def __str__(self) -> str:
        return self.sentence


def judge(run: Run) -> Verdict:
    """The verdict on a run: the first of these that holds.

    - *work*: workers are in tasks for 90 % of their time.
    - *critical path*: it is 85 % of the makespan.
    - *start-up*: most idle time was that of workers that had no task yet, though one was ready.
    - *messages*, *engine*: they are 20 % of the chain that set the makespan, and more than the other one.
    - *distribution*: most idle time was that of ranks without ready tasks while tasks queued on others.
    - *policy*: that chain waited for busy workers, or ready tasks were kept back, though the makespan without the
      start-up is more than 5 % over the lower bound.
    - *width*: none of these; no task was ready.
    """
    if run.failed is not None:
        return Verdict("failure", f"{run.failed.label} failed; {len(run.trace):,} of {len(run.graph):,} tasks ran.")
    makespan, lower, workers = run.makespan, run.bounds, run.workers
    if not makespan:
        return Verdict("nothing", "No task took any time.")
    most = lower.speedup_limit
    if run.efficiency >= _BUSY:
        return Verdict("work", f"{_workers(workers)} busy {run.efficiency:.0%} of the time: {_more(most, workers)}.")
    if lower.critical_path >= _LONG * makespan:
        return Verdict(
            "critical path",
            f"The critical path is {lower.critical_path / makespan:.0%} of the makespan: more workers "
            "cannot help, nor another policy; smaller tiles or a shorter chain would.",
        )
    chain, idle, available = run.chain, run.idle_split, makespan * workers
    if idle.startup > 0.5 * idle.total:
        return Verdict(
            "start-up",
            f"For {idle.startup / available:.0%} of the workers' time, most of what was idle, they waited for their "
            f"first task though some were ready: the run of {seconds(makespan)} is short, and in a longer one its "
            "start would matter less.",
        )
    messages, between = chain.messages / makespan, chain.between / makespan
    if messages >= max(_MUCH, between):
        return Verdict(
            "messages",
            f"Messages are {messages:.0%} of the chain that set the makespan: fewer messages, another "
            "distribution or a faster network would help, more workers would not.",
        )
    if between >= _MUCH and not run.trace.virtual:
        return Verdict(
            "engine",
            f"The engine is {between:.0%} of the chain that set the makespan, as tasks take only "
            f"{seconds(float(run.trace.busy.sum()) / len(run.trace))} on average: larger tiles would help.",
        )
    if idle.data > 0.5 * idle.total or idle.data >= _MUCH * available:
        return Verdict(
            "distribution",
            f"For {idle.data / available:.0%} of the workers' time their rank had no task while tasks "
            "queued on others: another distribution would help.",
        )
    begun = makespan - idle.startup / workers  # no policy begins sooner
    waited = chain.count("worker") > 0 or idle.overhead > 0.5 * idle.total
    if lower.lower * _GAP < begun and waited:
        saved = (begun - lower.lower) / makespan
        return Verdict(
            "policy",
            f"Tasks on the chain that set the makespan waited for busy workers, and workers were idle for "
            f"{run.idle:.0%} of the time: another policy may save up to {saved:.0%}; {_more(most, workers)}.",
        )
    narrow = (idle.no_task + idle.tail) / available
    return Verdict(
        "width",
        f"No task was ready for {narrow:.0%} of the workers' time: the graph is too narrow for "
        f"{_count(workers)}; smaller tiles would help, or fewer workers do as well.",
    )


def _count(workers: int) -> str:
    return f"{workers:,} {'worker' if workers == 1 else 'workers'}"


def _workers(workers: int) -> str:
    return "The worker is" if workers == 1 else "The workers are"


def _more(most: float, workers: int) -> str:
    """What more workers would do, given that no number makes it more than ``most`` times as fast as one."""
    if most <= 1.1 * workers:
        return f"more workers would help little, as the work is only {most:.3g} critical paths"
    return f"more workers would help (up to {most:.3g} times the speed of one)"
