"""Tasks of a step on one segment and one micro-batch: forward and backward passes."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import torch

from tilewright.training import compiled, precision
from tilewright.training.control import Control
from tilewright.training.losses import Whole
from tilewright.training.state import Grads, Setup, Stage, Tape

__all__ = ["backward", "backward_input", "backward_weight", "forward", "forward_loss"]


def forward(
    stage: Stage,
    control: Control,
    setup: Setup,
    x: Any,
    buffers: Any,
    _y: Any,
    _tape: Any,
    m: int,
    key: tuple[int, ...],
) -> tuple[Any, ...]:
    """(buffers, output, tape). Autocast surrounds this alone."""
    tape = Tape()
    with stage.stream if stage.draws else _NOTHING:
        x, tape.y = _through(stage, control, setup, x, m, key, tape)
    if not isinstance(tape.y, torch.Tensor):
        raise TypeError(f"a segment gave {type(tape.y).__name__} to the next one, not a tensor; pass segments=1")
    return buffers, _apart(tape.y.detach(), [x]), tape


def forward_loss(
    stage: Stage,
    control: Control,
    setup: Setup,
    x: Any,
    buffers: Any,
    labels: Whole,
    _score: Any,
    _tape: Any,
    m: int,
    key: tuple[int, ...],
    count: int,
) -> tuple[Any, ...]:
    """(buffers, (loss, correct, images, parts, share), tape) of the last segment: the loss in FP32, scaled on the tape.

    ``share`` is what the loss counts for in that of the whole batch of ``count`` images.
    """
    tape, target = Tape(), labels.parts[m]
    with stage.stream if stage.draws or setup.loss_draws else _NOTHING:
        x, y = _through(stage, control, setup, x, m, key, tape)
        if not isinstance(y, torch.Tensor):
            raise TypeError(
                f"the model gives {type(y).__name__}, and a loss takes one tensor: wrap the model in a module that "
                f"returns it"
            )
        if y.dtype in (torch.float16, torch.bfloat16):
            y = y.float()
        loss, parts, share = _loss(setup.loss, y, target, labels, count)
    if loss.ndim != 0:
        raise ValueError(f"loss must be a number, the mean over a batch; it has shape {tuple(loss.shape)}")
    if not loss.requires_grad:
        raise RuntimeError("the loss depends on no parameter that is trained: nothing would ever change")
    correct = (y.argmax(1) == target).sum() if y.ndim == 2 and target.ndim == 1 else torch.zeros(())
    score = (_own(loss), correct, len(target), {name: _own(part) for name, part in parts.items()}, share)
    if setup.penalty is not None:
        of = [x] if setup.penalty.of == "inputs" else stage.trained
        extra = setup.penalty(loss, of, control.scaler.factor)
        loss, score = loss + extra, (score[0], correct, len(target), {**score[3], "penalty": _own(extra)}, share)
    if share is not None:
        loss = loss * share
    elif len(target) != count:
        loss = loss / (count / len(target))
    if control.scaler.enabled:
        loss = loss * control.scaler.factor
    tape.y = loss
    return buffers, score, tape


def _own(number: torch.Tensor) -> torch.Tensor:
    """A copy without a history: a loss of the user's may give one that it keeps, or part of what it was given."""
    return number.detach().clone()


def _loss(
    loss: Any, y: Any, target: torch.Tensor, labels: Whole, count: int
) -> tuple[torch.Tensor, dict[str, torch.Tensor], float | None]:
    try:
        return labels.loss(loss, y, target, count)
    except IndexError as error:
        error.add_note(f"outputs have shape {tuple(y.shape)}, and the largest label is {int(target.max())}")
        raise


def _through(
    stage: Stage, control: Control, setup: Setup, x: Any, m: int, key: tuple[int, ...], tape: Tape
) -> tuple[Any, ...]:
    """(input, output); of micro-batch m of the batch, whose gradient nobody wants, the input has no history."""
    x = x[m] if isinstance(x, tuple) else tape.begin(x, stage.compiled is not None)
    if setup.penalty is not None and setup.penalty.of == "inputs":
        x.requires_grad_()
    if setup.checks and m == 0:
        stage.save_buffers()
    if stage.draws or setup.loss_draws:
        stage.stream.at(*key)
    try:
        with precision.autocast(control.precision, setup.target.type):
            if stage.compiled is None:
                y = stage.module(x)
            else:
                with compiled.settings():
                    y = stage.compiled(x)
    except RuntimeError as error:
        _explain(error, x, control.precision)
        raise
    return x, y


_NOTHING = contextlib.nullcontext()


def _explain(error: RuntimeError, x: torch.Tensor, precision: str) -> None:
    error.add_note(f"the segment got {str(x.dtype).removeprefix('torch.')} of shape {tuple(x.shape)}")
    if precision in ("fp16", "bf16") and "dtype" in str(error):
        error.add_note(
            f"under {precision} autocast layers return 16-bit tensors, and what the model made itself is float32; "
            f"where the two meet, cast one: source.to(destination.dtype)"
        )


def backward(
    stage: Stage, grads: Grads | None, dy_behind: list[Any], _x: list[Any], _dx: list[Any], tape: Tape, first: bool
) -> tuple[Any, ...]:
    """(gradients, dy, x, dx, tape), both halves at once. dy and x are given up: None where there is one."""
    inputs = stage.trained if tape.leaf is None else [tape.leaf, *stage.trained]
    dy = dy_behind[0] if dy_behind else None
    y = None if dy_behind and dy is None else tape.y  # the segment behind had no use for y
    found = _backward(stage, y, dy, inputs, None if first else grads)
    dx = [] if tape.leaf is None else [None, _apart(tape.gradient(), found)]
    tape.clear()
    return found, *[None] * len(dy_behind), *dx, tape


def _apart(value: torch.Tensor | None, others: Sequence[torch.Tensor | None]) -> torch.Tensor | None:
    """A tensor in memory of its own: an output may be part of an input, and one gradient that of two tensors."""
    if value is None or value.layout is not torch.strided:
        return value
    place = value.untyped_storage().data_ptr()
    strided = (other for other in others if isinstance(other, torch.Tensor) and other.layout is torch.strided)
    return value.clone() if any(other.untyped_storage().data_ptr() == place for other in strided) else value


def backward_input(
    stage: Stage, dy_behind: list[Any], _x: list[Any], _dx: list[Any], tape: Tape
) -> tuple[Any, ...] | Tape:
    """(dy, x, dx, tape): the half that the segment before waits for."""
    tape.dy = dy_behind[0] if dy_behind else None
    if dy_behind and tape.dy is None:
        tape.y = None
    dx: list[Any] = []
    if tape.x is not None:
        y = tape.y
        found: Sequence[torch.Tensor | None] = [None]
        if y is not None:
            with stage.stream if stage.draws_again else _NOTHING:
                found = torch.autograd.grad(y, tape.x, tape.dy, retain_graph=True, allow_unused=True)
        dx = [None, found[0]]
    made = *[None] * len(dy_behind), *dx, tape
    return made if len(made) > 1 else tape


def backward_weight(stage: Stage, grads: Grads | None, tape: Tape, first: bool) -> tuple[Any, ...]:
    """(gradients, tape): the half that only the optimizer waits for."""
    found = _backward(stage, tape.y, tape.dy, stage.trained, None if first else grads)
    tape.clear()
    return found, tape


def _backward(
    stage: Stage, y: torch.Tensor | None, dy: torch.Tensor | None, inputs: Sequence[torch.Tensor], grads: Grads | None
) -> Grads:
    """Gradients by parameter, summed over micro-batches in their order; None for one without a part in the loss."""
    if not inputs or y is None or not y.requires_grad:
        return [None] * len(stage.parameters) if grads is None else grads
    with stage.stream if stage.draws_again else _NOTHING:
        return stage.backward(y, dy, inputs, grads or [])
