"""Tasks beside the steps that write rows: about each step, and about each evaluation."""

from __future__ import annotations

import contextlib
import json
import math
import sys
from typing import Any

import numpy as np
import torch

from tilewright.host.files import append
from tilewright.training import precision, tensorboard, usage
from tilewright.training.control import Control
from tilewright.training.data.augment import normalise
from tilewright.training.losses import share_of
from tilewright.training.randomness import Stream
from tilewright.training.state import Exam, Log, Setup, StepVerdict

__all__ = ["evaluate", "open_log", "record", "tally"]


def open_log(setup: Setup, _: Any) -> Log:
    """An empty log, and the moment from which memory is measured."""
    return Log(memory=(usage.watch(setup.target), 0), unwritten=dict(setup.past.unwritten))


def record(log: Log, verdict: StepVerdict, control: Control, setup: Setup, step: int, epoch: int) -> Log:
    """One row about a step."""
    row = {
        "step": step,
        "epoch": epoch,
        "loss": verdict.loss,
        "correct": verdict.correct,
        "count": verdict.images,
        "precision": verdict.precision,
        "scale": verdict.scale,
        "skipped": verdict.found_inf,
        "norm": verdict.norm,
        "factor": next(iter(verdict.factors.values())),
        "updates": control.updates,
    }
    row |= {"parts": verdict.parts} if verdict.parts else {}
    if len(verdict.factors) > 1:
        row |= {"skipped_by": list(verdict.skipping), "factors": verdict.factors}
    log.steps.append(row)
    _write_line(log, setup, row)
    if setup.board:
        parts = {f"loss/{name}": value for name, value in verdict.parts.items()}
        rates = {f"rate{'/' if name else ''}{name}": value for name, value in verdict.factors.items()}
        norm = {} if verdict.norm is None else {"gradient norm": verdict.norm}
        _add(
            log,
            setup.board,
            tensorboard.event(
                step,
                {
                    "loss": verdict.loss,
                    **parts,
                    **rates,
                    **norm,
                    "train accuracy": verdict.correct / verdict.images,
                    "loss scale": verdict.scale,
                    "skipped": float(verdict.found_inf),
                    "roundoff": precision.ROUNDOFF[verdict.precision],
                },
            ),
        )
    events = control.fallback.events if control.fallback else []
    if events and events[-1].step == step:
        log.events.append(events[-1])
        _write_line(log, setup, events[-1]._asdict())
        if setup.progress:
            print(f"precision: {events[-1]}", file=sys.stderr, flush=True)
    return log


def _write_line(log: Log, setup: Setup, row: dict[str, Any]) -> None:
    if setup.log:
        _add(log, setup.log, (json.dumps(row) + "\n").encode())


def _add(log: Log, path: str, data: bytes) -> None:
    """Add to a file. A full disk ends no training: the file stays as it is from then on, and the log says so."""
    if path in log.unwritten:
        return
    try:
        append(path, data)
    except OSError as error:
        log.unwritten[path] = error.strerror or str(error)


def evaluate(
    exam: Exam, images: np.ndarray, labels: np.ndarray, setup: Setup, _: Any, first: int, last: int
) -> tuple[float, int, int, float]:
    """(loss, correct, images, what the loss counts for) on part of the test set, in the precision of the training.

    With the averages of the parameters, if there are any. Random numbers, if a model draws any, are of streams that
    are not those of training.
    """
    x = torch.from_numpy(normalise(images[first:last], setup.recipe)).to(setup.target)
    y = torch.from_numpy(labels[first:last]).to(setup.target)
    if setup.channels_last and x.ndim == 4:
        x = x.to(memory_format=torch.channels_last)
    draws = exam.draws or setup.loss_draws
    stream = Stream(setup.target, setup.seed, keyed=True) if draws else None
    with torch.no_grad(), stream or contextlib.nullcontext():
        if stream is not None:
            stream.at(exam.step, -1 - first)
        with precision.autocast(exam.precision, setup.target.type):
            for part in exam.parts:
                x = part(x)
        outputs = x.float()
        loss, counts = share_of(setup.loss, outputs, y)
        correct = int((outputs.argmax(1) == y).sum()) if outputs.ndim == 2 else 0
        return loss, correct, len(y), counts


def tally(log: Log, setup: Setup, scores: list[tuple[float, int, int, float]], epoch: int) -> Log:
    """One row about an evaluation."""
    count = sum(n for _, _, n, _ in scores)
    whole = sum(counts for *_, counts in scores)
    row = {
        "epoch": epoch,
        "test_loss": sum(loss for loss, *_ in scores) / whole if whole else math.nan,
        "test_accuracy": sum(correct for _, correct, *_ in scores) / count,
    }
    log.evaluations.append(row)
    _write_line(log, setup, row)
    if setup.board:
        step = log.steps[-1]["step"] if log.steps else 0
        scores_of_row = {"test loss": row["test_loss"], "test accuracy": row["test_accuracy"]}
        _add(log, setup.board, tensorboard.event(step, scores_of_row))
    if setup.progress:
        steps = [r for r in log.steps if r["epoch"] == epoch]
        seen = max(1, sum(r["count"] for r in steps))
        print(
            f"epoch {epoch + 1} | {steps[-1]['precision'] if steps else '':<4} | "
            f"loss {sum(r['loss'] * r['count'] for r in steps) / seen:.4f} | "
            f"train {sum(r['correct'] for r in steps) / seen:.2%} | test {row['test_accuracy']:.2%} | "
            f"skipped {sum(r['skipped'] for r in steps)}",
            file=sys.stderr,
            flush=True,
        )
    return log
