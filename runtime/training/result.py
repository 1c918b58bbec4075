"""What a training has to tell: tables, plots, times and memory."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from tilewright.door import upstairs
from tilewright.host.files import write_text
from tilewright.runs.run import Run
from tilewright.training.closed_form_head import Head
from tilewright.training.fallback import Event
from tilewright.training.state import Log, State
from tilewright.training.step import Marks
from tilewright.units import seconds

__all__ = ["Epoch", "Result", "Text", "grid"]

_LOADER = ("load", "augment", "transfer")
_COMPUTE = (
    "forward",
    "forward_loss",
    "backward",
    "backward_input",
    "backward_weight",
    "unscale",
    "unscale_shared",
    "judge",
    "apply",
    "apply_shared",
    "update",
)
_EXCHANGE = ("bucket", "blank", "pack", "add", "unpack")
_BESIDE = ("record", "snapshot", "evaluate", "tally", "save")


class Text(str):
    """Text that a notebook and a prompt show as it is."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def grid(rows: Sequence[Sequence[str]], title: str) -> Text:
    """A table in plain text; the first row is its head, the first column stands left."""
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    width = max(sum(widths) + 2 * (len(widths) - 1), len(title))
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]
    return Text("\n".join(["=" * width, title, "=" * width, lines[0], "-" * width, *lines[1:], "=" * width]))


@dataclass(frozen=True)
class Epoch:
    """One pass over the training set. Losses are means over images of steps not skipped; accuracies are fractions."""

    number: int
    loss: float
    accuracy: float
    test_loss: float | None
    test_accuracy: float | None
    seconds: float
    """What its steps took in this call; 0 where an earlier call took them all."""
    skipped: int
    precision: str
    """The precision of its last step."""


@dataclass
class Result:
    """How a training went. ``print(result)`` shows its table.

    Examples
    --------
    >>> from tilewright import training
    >>> train, test = training.data.synthetic(8, test=4)
    >>> result = training.fit(training.models.MLP(3072, (4,)), train, test, epochs=2, batch_size=4, device="cpu")
    >>> len(result.losses), result.skipped_steps, result.events
    (4, 0, [])
    """

    precision: str
    """What was asked for."""
    log: Log
    """A row a step and an evaluation, and the changes of precision: what a checkpoint keeps."""
    runs: list[tuple[Run, Marks]]
    """The runs of this call; a resumed training has fewer steps in them than in its log."""
    per_epoch: int
    """Steps of an epoch."""
    epochs: int
    """How many were asked for."""
    resumed: int
    """The step that this call began with; 0 unless it resumed."""
    facts: dict[str, Any]
    """Device, versions and settings that decide about time and bits, by name."""
    state: State
    """Everything that a checkpoint holds, at the end."""
    model: Any
    """The trained model; None in a `Comparison`."""
    head: Head | None = None
    """The closed-form head, if one was asked for."""

    @property
    def run(self) -> Run:
        """The last run: trace, report, bounds. RuntimeError if there was nothing left to do."""
        if not self.runs:
            raise RuntimeError("the checkpoint was already at the last step: nothing ran")
        return self.runs[-1][0]

    @property
    def steps(self) -> list[dict[str, Any]]:
        """One row a step: loss, correct, count, precision, scale, skipped, norm, factor, updates."""
        return self.log.steps

    @property
    def events(self) -> list[Event]:
        """Changes of precision."""
        return self.log.events

    @property
    def fallbacks(self) -> int:
        """Changes to a safer precision."""
        return sum(event.fell for event in self.log.events)

    @property
    def skipped_steps(self) -> int:
        """Steps whose gradients were not finite, and which changed nothing."""
        return sum(row["skipped"] for row in self.log.steps)

    @property
    def test_accuracy(self) -> float:
        """The share of right answers after the last epoch; NaN without a test set."""
        return self.log.evaluations[-1]["test_accuracy"] if self.log.evaluations else math.nan

    @property
    def average(self) -> dict[str, Any]:
        """Averages of the parameters, by name, if ``ema`` asked for them. Buffers are the model's own."""
        return self.state.average

    @property
    def head_gain(self) -> float | None:
        """Test accuracy of the closed-form head less that of the network; None without one."""
        return None if self.head is None else self.head.test_accuracy - self.test_accuracy

    @property
    def losses(self) -> list[float]:
        """By step."""
        return [row["loss"] for row in self.log.steps]

    # ------------------------------------------------------------ time

    @cached_property
    def step_seconds(self) -> dict[int, float]:
        """By step of this call: from the end of the step before to its own, loading included."""
        seconds: dict[int, float] = {}
        for run, marks in self.runs:
            records = {record.task: record for record in run.trace.records}
            first = next(r.start for r in run.trace.records if run.graph.tasks[r.task].op.name == "load")
            for step, task in sorted(marks.done.items()):
                seconds[step] = max(records[task].end - first, 0.0)
                first = records[task].end
        return seconds

    def percentile(self, q: float) -> float:
        """Seconds of a step that ``q`` percent of the steps do not exceed; the first one, which warms up, left out."""
        times = list(self.step_seconds.values())
        return float(np.percentile(times[1:] or times, q)) if times else math.nan

    @cached_property
    def table_of_epochs(self) -> list[Epoch]:
        """One row an epoch."""
        rows = []
        tests = {row["epoch"]: row for row in self.log.evaluations}
        for number in sorted({row["epoch"] for row in self.log.steps}):
            own = [row for row in self.log.steps if row["epoch"] == number]
            seen = sum(row["count"] for row in own)
            test = tests.get(number, {})
            rows.append(
                Epoch(
                    number + 1,
                    _mean(own),
                    sum(r["correct"] for r in own) / seen,
                    test.get("test_loss"),
                    test.get("test_accuracy"),
                    sum(self.step_seconds.get(r["step"], 0.0) for r in own),
                    sum(r["skipped"] for r in own),
                    own[-1]["precision"],
                )
            )
        return rows

    @property
    def seconds(self) -> float:
        """What all steps of this call took, without evaluation where that overlaps."""
        return sum(self.step_seconds.values())

    @property
    def images_per_second(self) -> float:
        """Images of this call's steps over `seconds`; 0 where it took none."""
        images = sum(row["count"] for row in self.log.steps if row["step"] in self.step_seconds)
        return images / self.seconds if self.seconds else 0.0

    def _spent(self, names: Iterable[str]) -> float:
        wanted = set(names)
        return sum(seconds for run, _ in self.runs for op, (_, seconds) in run.trace.by_op().items() if op in wanted)

    @property
    def loader_seconds(self) -> float:
        """In load, augment and transfer tasks, of all workers together."""
        return self._spent(_LOADER)

    @property
    def compute_seconds(self) -> float:
        """In forward and backward passes and optimizers, of all workers together."""
        return self._spent(_COMPUTE)

    def _hidden(self, names: Sequence[str], under: Sequence[str], messages: bool) -> float | None:
        """Which share of the time in some tasks, and messages, passed while others ran; None if there were none."""
        hidden = total = 0.0
        for run, _ in self.runs:
            tasks = run.graph.tasks
            covers = _union((r.start, r.end) for r in run.trace.records if tasks[r.task].op.name in under)
            spans = [(r.start, r.end) for r in run.trace.records if tasks[r.task].op.name in names]
            if messages:
                spans += [(m.start, m.end) for m in run.trace.messages if m.handle.name.startswith("sum")]
            total += sum(end - start for start, end in spans)
            hidden += sum(_covered(covers, start, end) for start, end in spans)
        return hidden / total if total else None

    @property
    def overlap(self) -> float | None:
        """Share of the all-reduce, tasks and messages, that passed while some backward pass ran; None without one."""
        return self._hidden(_EXCHANGE, ("backward", "backward_input", "backward_weight"), True)

    @property
    def beside(self) -> float | None:
        """Share of evaluation, records and checkpoints that passed while training went on: stall time removed."""
        return self._hidden(_BESIDE, (*_LOADER, *_COMPUTE), False)

    # ------------------------------------------------------------ memory

    @property
    def peak_memory(self) -> int:
        """Bytes at the fullest moment beyond those in use before, on the device or resident in the process."""
        return self.log.used

    # ------------------------------------------------------------ showing

    def summary(self) -> dict[str, Any]:
        """The numbers as plain values, for JSON; what is not known is None."""
        return {
            "precision": self.precision, "final_precision": self.steps[-1]["precision"] if self.steps else None,
            "test_accuracy": _known(self.test_accuracy), "skipped_steps": self.skipped_steps,
            "fallbacks": self.fallbacks, "events": [str(event) for event in self.events], "steps": len(self.steps),
            "final_loss": _known(self.losses[-1]) if self.steps else None, "seconds": self.seconds,
            "step_seconds_p50": _known(self.percentile(50)), "step_seconds_p95": _known(self.percentile(95)),
            "images_per_second": self.images_per_second, "loader_seconds": self.loader_seconds,
            "compute_seconds": self.compute_seconds, "overlap": self.overlap, "beside": self.beside,
            "head": None if self.head is None else {
                "kind": self.head.kind, "test_accuracy": _known(self.head.test_accuracy),
                "gain": _known(self.head_gain or 0.0),
            },
            "peak_memory": self.peak_memory, "resumed": self.resumed, "facts": self.facts,
        }  # fmt: skip

    def table(self) -> Text:
        """Epoch by epoch, then times, memory and changes of precision."""
        rows = [["epoch", "precision", "loss", "train", "test", "time", "skipped"]]
        rows += [
            [
                str(e.number),
                e.precision,
                f"{e.loss:.4f}",
                f"{e.accuracy:.2%}",
                "-" if e.test_accuracy is None else f"{e.test_accuracy:.2%}",
                f"{e.seconds:.2f} s" if e.seconds else "before",
                str(e.skipped),
            ]
            for e in self.table_of_epochs
        ]
        text = [str(grid(rows, f"Training in {self.precision} on {self.facts['device']}"))]
        text.append(
            f"{self.images_per_second:.0f} images/s; a step takes {seconds(self.percentile(50))} (p50), "
            f"{seconds(self.percentile(95))} (p95); loading {seconds(self.loader_seconds)}, computing "
            f"{seconds(self.compute_seconds)}; peak memory {self.peak_memory / 1e6:.1f} MB"
            if self.runs
            else "nothing was left to do: the checkpoint is at the last step"
        )
        spoilt = [row["step"] for row in self.steps if not (row["skipped"] or math.isfinite(row["loss"]))]
        if spoilt:
            text.append(f"the loss of {len(spoilt)} steps was not finite, from step {spoilt[0]} on; try a smaller lr")
        if self.overlap is not None:
            text.append(f"{self.overlap:.0%} of the all-reduce passed under backward passes")
        if self.head is not None and self.head.problem:
            text.append(f"no closed-form head ({self.head.kind}): {self.head.problem}")
        elif self.head is not None:
            text.append(
                f"closed-form head ({self.head.kind}): {self.head.test_accuracy:.2%} on the test set, "
                f"{100 * (self.head_gain or 0):+.2f} points"
            )
        text += [f"changed precision at {event}" for event in self.events]
        return Text("\n".join(text))

    def plot(self, path: str | Path) -> None:
        """Write a figure: loss, accuracy, time per epoch, loss scale with skips; changes of precision marked."""
        upstairs("plot.training:figure")({self.precision: self}, path)

    def report(self, path: str | Path) -> None:
        """Write table, figure and the last run, if there was one, as one HTML page that opens offline."""
        write_text(path, upstairs("plot.training:page")({self.precision: self}, str(self.table())))

    def __str__(self) -> str:
        return str(self.table())

    def __repr__(self) -> str:
        return (
            f"Result({self.precision!r}, {len(self.steps)} steps, test_accuracy={self.test_accuracy:.4f}, "
            f"skipped_steps={self.skipped_steps}, fallbacks={self.fallbacks})"
        )


def _mean(rows: list[dict[str, Any]]) -> float:
    """Mean loss of the steps that were used; of all if none was."""
    used = [row for row in rows if not row["skipped"]] or rows
    return float(sum(row["loss"] * row["count"] for row in used) / sum(row["count"] for row in used))


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _union(spans: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """Disjoint intervals that cover the same time, in order."""
    merged: list[tuple[float, float]] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(merged[-1][1], end)
        else:
            merged.append((start, end))
    return merged


def _covered(union: list[tuple[float, float]], start: float, end: float) -> float:
    """How much of an interval lies in a union of disjoint ones."""
    total = 0.0
    at = max(bisect_left(union, (start, start)) - 1, 0)
    while at < len(union) and union[at][0] < end:
        total += max(min(union[at][1], end) - max(union[at][0], start), 0.0)
        at += 1
    return total
