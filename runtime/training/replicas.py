"""Tasks on a replica as a whole: made before the first step, copied, written, handed back and released."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from tilewright.training import checkpoint, models, precision, randomness, usage
from tilewright.training.contents import Buffers, Contents, duplicate
from tilewright.training.control import Control
from tilewright.training.randomness import Stream
from tilewright.training.scaler import LossScaler
from tilewright.training.state import Exam, Log, Setup, Stage, State

__all__ = ["exam", "finish", "open_stages", "release", "replica", "save", "snapshot"]


def replica(model: nn.Module, setup: Setup) -> nn.Module:
    """A copy of a model on the device of a training, in its memory format."""
    made = duplicate(model).to(setup.target)
    return made.to(memory_format=torch.channels_last) if setup.channels_last else made


def open_stages(
    model: nn.Module,
    state: State,
    setup: Setup,
    _log: list[Log],
    _stages: list[Any],
    _buffers: list[Any],
    _control: Any,
    _examiner: Any,
    mine: tuple[int, ...],
) -> tuple[Any, ...]:
    """The stages of these numbers of a replica, their buffers, the control, a model for a head or None."""
    own = model if setup.in_place else replica(model, setup)
    stream = Stream(setup.target, setup.seed, setup.keyed)
    parts = models.group(own, setup.cuts)
    stages = [
        Stage(parts[s], Contents(parts[s], own), setup.optimizer, stream, setup.compiler, setup.ema) for s in mine
    ]
    for stage in stages:
        stage.load(state.tensors, state.optimizer, state.average, state.extra)
    stream.resume(state.random)
    control = Control("fp32", LossScaler())
    control.load_state_dict(state.control)
    precision.set_tf32(control.precision == "tf32", setup.target.type)
    examiner = duplicate(own).eval() if setup.head else None
    return *stages, *(Buffers(stage.contents) for stage in stages), control, examiner


def snapshot(control: Control, stages: list[Stage], buffers: list[Buffers], _: Any, step: int) -> State:
    """A copy of everything after a step: the stages, and their buffers as replica 0 has them."""
    state = State(step, {}, {}, control.state_dict(), stages[0].stream.state())
    for stage, own in zip(stages, buffers, strict=True):
        state.tensors |= stage.tensors() | own.now()
        state.average |= stage.averages()
        state.extra |= stage.contents.extra()
        state.optimizer |= stage.optimizer_state()
    return state


def exam(control: Control, stages: list[Stage], buffers: list[Buffers], _: Any, step: int) -> Exam:
    """Copies of the stages after a step, with their buffers as replica 0 has them, for evaluation beside training."""
    copies = [stage.for_evaluation(own.now()) for stage, own in zip(stages, buffers, strict=True)]
    return Exam(copies, control.precision, step, any(stage.draws for stage in stages))


def save(state: State, log: Log, setup: Setup, _: Any) -> tuple[None, int]:
    """Write the checkpoint: (None for the state, its step)."""
    checkpoint.write(str(setup.checkpoint), state, setup.past.and_then(log), setup.facts)
    return None, state.step


def finish(setup: Setup, state: State, log: Log) -> tuple[State, Log]:
    """State and log as the caller gets them: on the CPU, with the memory at its fullest."""
    state.tensors = {name: tensor.cpu() for name, tensor in state.tensors.items()}
    state.average = {name: tensor.cpu() for name, tensor in state.average.items()}
    state.optimizer = {
        name: {key: value.cpu() if isinstance(value, torch.Tensor) else value for key, value in own.items()}
        for name, own in state.optimizer.items()
    }
    log.memory = log.memory[0], usage.peak(setup.target)
    return state, log


def release(values: list[Any]) -> tuple[None, ...]:
    """None for every handle: nothing of a training stays behind on its workers."""
    randomness.leave()
    return (None,) * len(values)
