"""Tasks on a replica as a whole: made before the first step, copied, written, handed back and released."""

from __future__ import annotations

import contextlib
import copy
from typing import Any

import torch
from torch import nn

from tilewright.training import checkpoint, models, precision, usage
from tilewright.training.scaler import LossScaler
from tilewright.training.state import GENERATOR, Control, Log, Setup, Stage, State

__all__ = ["finish", "open_stages", "release", "save", "snapshot"]


def open_stages(model: nn.Module, state: State, setup: Setup, *rest: Any) -> tuple[Any, ...]:
    """The stages of a replica that the last parameter names, their buffers, the control, a model for evaluation."""
    mine: tuple[int, ...] = rest[-1]
    replica = copy.deepcopy(model).to(setup.target)
    if setup.channels_last:
        replica = replica.to(memory_format=torch.channels_last)
    replica.train()
    names = {id(t): name for name, t in (*replica.named_parameters(), *replica.named_buffers())}
    parts = models.group(replica, setup.cuts)
    stages = [Stage(parts[s], names, setup.optimizer, setup.compiler, setup.ema) for s in mine]
    for stage in stages:
        stage.load(state.tensors, state.optimizer, state.average)
    control = Control("fp32", LossScaler())
    control.load_state_dict(state.control)
    precision.set_tf32(control.precision == "tf32", setup.target.type)
    with GENERATOR, contextlib.suppress(RuntimeError):  # another version of torch has another kind of state
        torch.set_rng_state(state.random)
    examiner = copy.deepcopy(replica).eval()
    return *stages, *(stage.buffers for stage in stages), control, examiner


def snapshot(control: Control, *rest: Any) -> State:
    """A copy of everything after a step: of stages, and of their buffers as replica 0 has them."""
    *parts, _, step, optimizer = rest
    stages, buffers = parts[: len(parts) // 2], parts[len(parts) // 2 :]
    tensors: dict[str, torch.Tensor] = {}
    state: dict[str, dict[str, Any]] = {}
    average: dict[str, torch.Tensor] = {}
    for stage, own in zip(stages, buffers, strict=True):
        tensors |= stage.tensors()
        tensors |= {name: b.detach().clone() for name, b in zip(stage.buffer_names, own, strict=True)}
        average |= stage.averages()
        if optimizer:
            state |= stage.optimizer_state()
    with GENERATOR:
        random = torch.get_rng_state()
    return State(step, tensors, state, control.state_dict(), random, average)


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


def release(*values: Any) -> tuple[None, ...]:
    """None for every handle: nothing of a training stays behind on its workers."""
    return (None,) * len(values)
