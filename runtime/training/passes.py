"""Tasks of a step on one segment and one micro-batch: forward and backward passes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from tilewright.training import compiled, precision
from tilewright.training.data.augment import bits
from tilewright.training.losses import Losses
from tilewright.training.state import GENERATOR, Control, Grads, Setup, Stage, Tape

__all__ = ["backward", "backward_input", "backward_weight", "forward", "forward_loss"]


def forward(
    stage: Stage, control: Control, setup: Setup, x: Any, buffers: Any, _y: Any, _tape: Any, m: int,
    key: tuple[int, ...],
) -> tuple[Any, ...]:  # fmt: skip
    """(buffers, output, tape). Autocast surrounds this alone."""
    x, y, tape = _through(stage, control, setup, x, m, key)
    return buffers, y.detach(), Tape(tape, y)


def forward_loss(
    stage: Stage, control: Control, setup: Setup, x: Any, buffers: Any, labels: Any, _score: Any, _tape: Any, m: int,
    key: tuple[int, ...], count: int,
) -> tuple[Any, ...]:  # fmt: skip
    """(buffers, (loss, correct, images, parts), tape) of the last segment: the loss in FP32, scaled on the tape."""
    x, y, tape = _through(stage, control, setup, x, m, key)
    target = labels[m]
    if y.dtype in (torch.float16, torch.bfloat16):
        y = y.float()
    loss, parts = _loss(setup.loss, y, target)
    correct = (y.argmax(1) == target).sum() if y.ndim == 2 and target.ndim == 1 else torch.zeros(())
    score = (loss.detach(), correct, len(target), parts)
    if setup.penalty is not None:
        of = [x] if setup.penalty.of == "inputs" else stage.trained
        extra = setup.penalty(loss, of, control.scaler.factor)
        loss, score = loss + extra, (*score[:3], {**parts, "penalty": extra.detach()})
    if len(target) != count:
        loss = loss / (count / len(target))
    if control.scaler.enabled:
        loss = loss * control.scaler.factor
    return buffers, score, Tape(tape, loss)


def _loss(loss: Any, y: Any, target: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """(the loss, its parts by name if it has any)."""
    try:
        return loss.by_name(y, target) if isinstance(loss, Losses) else (loss(y, target), {})
    except IndexError as error:
        error.add_note(f"outputs have shape {tuple(y.shape)}, and the largest label is {int(target.max())}")
        raise


def _through(stage: Stage, control: Control, setup: Setup, x: Any, m: int, key: tuple[int, ...]) -> tuple[Any, ...]:
    """(input, output, the input as a leaf); of micro-batch m of the batch, whose gradient nobody wants, no leaf."""
    whole = isinstance(x, tuple)
    x = x[m] if whole else x.detach().requires_grad_()
    if setup.penalty is not None and setup.penalty.of == "inputs":
        x.requires_grad_()
    if setup.checks and m == 0 and stage.buffers:
        stage.save_buffers()
    seeded = _seeded(setup, key) if stage.random else _NOTHING
    try:
        with seeded, precision.autocast(control.precision, setup.target.type):
            if stage.compiled is None:
                y = stage.module(x)
            else:
                with compiled.settings():
                    y = stage.compiled(x)
    except RuntimeError as error:
        _explain(error, x, control.precision)
        raise
    return x, y, None if whole else x


_NOTHING = contextlib.nullcontext()


def _explain(error: RuntimeError, x: torch.Tensor, precision: str) -> None:
    error.add_note(f"the segment got {str(x.dtype).removeprefix('torch.')} of shape {tuple(x.shape)}")
    if precision in ("fp16", "bf16") and "dtype" in str(error):
        error.add_note(
            f"under {precision} autocast layers return 16-bit tensors, and what the model made itself is float32; "
            f"where the two meet, cast one: source.to(destination.dtype)"
        )


@contextlib.contextmanager
def _seeded(setup: Setup, key: tuple[int, ...]) -> Iterator[None]:
    """Seed torch's generator by (seed, step, micro-batch, segment): dropout does not depend on who runs it, or when."""
    seed = int(bits(np.zeros((), dtype=np.uint64), setup.seed, *key)) % 2**63
    devices = [] if setup.target.type == "cpu" else [setup.target]
    with GENERATOR, torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        yield


def backward(stage: Stage, grads: Grads | None, *rest: Any) -> tuple[Any, ...]:
    """(gradients, dy, x, dx, tape), both halves at once. dy and x are given up: None where there is one."""
    *boundary, tape, have, first = rest
    inputs = stage.trained if tape.x is None else [tape.x, *stage.trained]
    found = list(_gradients(tape.y, inputs, boundary[0] if have else None))
    dx = [] if tape.x is None else [None, found.pop(0)]
    tape.x = tape.y = None
    return _add(None if first else grads, _spread(stage, found)), *([None] if have else []), *dx, tape


def backward_input(stage: Stage, *rest: Any) -> tuple[Any, ...] | Tape:
    """(dy, x, dx, tape): the half that the segment before waits for."""
    *boundary, tape, have = rest
    tape.dy = boundary[0] if have else None
    dx = [] if tape.x is None else [None, _gradients(tape.y, [tape.x], tape.dy, retain=True)[0]]
    made = *([None] if have else []), *dx, tape
    return made if len(made) > 1 else tape


def backward_weight(stage: Stage, grads: Grads | None, tape: Tape, first: bool) -> tuple[Any, ...]:
    """(gradients, tape): the half that only the optimizer waits for."""
    found = list(_gradients(tape.y, stage.trained, tape.dy))
    tape.x = tape.y = tape.dy = None
    return _add(None if first else grads, _spread(stage, found)), tape


def _gradients(y: Any, inputs: list[Any], dy: Any, retain: bool = False) -> tuple[Any, ...]:
    """`torch.autograd.grad`; None for all inputs if none of them had a part in y."""
    if not inputs or not y.requires_grad:
        return (None,) * len(inputs)
    found: tuple[Any, ...] = torch.autograd.grad(y, inputs, dy, retain_graph=retain, allow_unused=True)
    return found


def _spread(stage: Stage, found: list[Any]) -> Grads:
    """Gradients by parameter, None for those that are not trained."""
    if len(found) == len(stage.parameters):
        return found
    left = iter(found)
    return [next(left) if p.requires_grad else None for p in stage.parameters]


def _add(grads: Grads | None, more: Grads) -> Grads:
    """Sum over micro-batches, in their order, as torch accumulates."""
    if grads is None:
        return more
    return [b if a is None else a if b is None else a.add_(b) for a, b in zip(grads, more, strict=True)]
