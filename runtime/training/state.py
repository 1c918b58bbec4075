"""What a training carries from step to step, and how it looks on its way to disk or to another process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from tilewright.training.compiled import compiled
from tilewright.training.fallback import Event, Fallback
from tilewright.training.losses import GradientPenalty
from tilewright.training.optimizers import Optimizers
from tilewright.training.scaler import LossScaler

__all__ = ["GENERATOR", "Control", "Grads", "Log", "Setup", "Stage", "State", "Tape", "Verdict"]

GENERATOR = threading.Lock()
"""Of torch's random generator, which all threads share."""

Grads = list[torch.Tensor | None]
"""By parameter; None for one that is not trained, or had no part in the loss."""


@dataclass(frozen=True)
class Setup:
    """What stays the same in a training. It travels to every worker once."""

    loss: Callable[..., torch.Tensor]
    """Of (outputs, labels), the mean over the batch."""
    optimizer: Optimizers
    schedule: Callable[[int], float] | None
    """The factor of the learning rate after so many updates; skipped steps do not count."""
    recipe: Any
    device: str
    seed: int
    batch: int
    """Images of a step, of all replicas and micro-batches together."""
    cuts: tuple[int, ...]
    """Of the model, into segments: see `tilewright.training.models.cuts`."""
    clip_norm: float | None = None
    penalty: GradientPenalty | None = None
    ema: float | None = None
    """Decay of an average of the parameters over the steps; None keeps none."""
    checks: bool = False
    """Whether gradients are looked at before they are used: steps that are not finite are skipped."""
    channels_last: bool = False
    progress: bool = False
    log: str | None = None
    board: str | None = None
    """An event file of TensorBoard."""
    compiler: str | None = None
    """The backend of torch.compile; None compiles nothing."""
    checkpoint: str | None = None
    past: Log = field(default_factory=lambda: Log())
    """What happened before this graph."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What a checkpoint has to have in common with the training that resumes it."""

    @cached_property
    def target(self) -> torch.device:
        return torch.device(self.device)


_LIMITS = ("enabled", "hysteresis", "min_scale", "max_scale", "overflows", "start")
"""What a `LossScaler` has beyond the state of torch's."""


@dataclass
class Control:
    """Precision, loss scale and counters: the part of the state that decides. Every place has an equal copy."""

    precision: str
    scaler: LossScaler
    fallback: Fallback | None = None
    updates: int = 0
    """Steps so far that no optimizer skipped."""
    taken: dict[str, int] = field(default_factory=dict)
    """Steps that each optimizer has taken: what schedules go by."""
    skipped: int = 0
    good: Any = None
    """Parameters and optimizer state of some step that was finite; for a fall to a safer precision."""

    def state_dict(self) -> dict[str, Any]:
        return {
            "precision": self.precision, "scaler": self.scaler.state_dict(),
            "limits": {name: getattr(self.scaler, name) for name in _LIMITS}, "updates": self.updates,
            "taken": dict(self.taken), "skipped": self.skipped,
            "fallback": self.fallback.state_dict() if self.fallback else None,
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.precision = state["precision"]
        self.updates, self.taken, self.skipped = state["updates"], dict(state["taken"]), state["skipped"]
        self.fallback = Fallback.from_state(state["fallback"]) if state["fallback"] else None
        for name, value in state["limits"].items():
            setattr(self.scaler, name, value)
        self.scaler.load_state_dict(state["scaler"])


class Stage:
    """One segment of one replica: its module, the optimizers of its parameters, and its buffers as they were.

    ``names`` are those that the whole model has for the parameters and buffers.
    """

    def __init__(
        self, module: nn.Module, names: dict[int, str], optimizers: Optimizers, compiler: str | None = None,
        ema: float | None = None,
    ) -> None:  # fmt: skip
        self.module = module
        self.ema = ema
        self.average: list[torch.Tensor] = []
        self.compiled = compiled(module, compiler) if compiler is not None else None
        self.names = [names[id(p)] for p in module.parameters()]
        self.buffer_names = [names[id(b)] for b in module.buffers()]
        self.parameters = list(module.parameters())
        self.trained = [p for p in self.parameters if p.requires_grad]
        self.buffers = list(module.buffers())
        self.optimizers = optimizers.make(self.names, self.parameters)
        self.owners = [optimizers.owner(name) for name in self.names]
        self.rates = {name: [group["lr"] for group in own.param_groups] for name, own in self.optimizers.items()}
        self.saved: list[torch.Tensor] | None = None
        self.random = any(isinstance(m, nn.modules.dropout._DropoutNd) for m in module.modules())

    @staticmethod
    def words(module: nn.Module) -> int:
        """Numbers in a bucket: the gradients of a segment, one after the other, then one a parameter.

        That one is how many replicas have a gradient of it.
        """
        return sum(p.numel() + 1 for p in module.parameters() if p.requires_grad)

    def opened(self, bucket: np.ndarray) -> tuple[list[torch.Tensor], torch.Tensor]:
        """(views of the gradients in a bucket, strided as their parameters are, the counts behind them)."""
        wanted = self.trained
        flat = torch.from_numpy(bucket)
        *parts, counts = flat.split([*(p.numel() for p in wanted), len(wanted)])
        return [
            part.as_strided(p.shape, p.stride(), part.storage_offset()) for part, p in zip(parts, wanted, strict=True)
        ], counts

    def save_buffers(self) -> None:
        """Keep a copy of the buffers, such as the statistics of batch norm, for `restore_buffers`."""
        self.saved = [b.clone() for b in self.buffers]

    def restore_buffers(self) -> None:
        if self.saved is not None:
            for buffer, old in zip(self.buffers, self.saved, strict=True):
                buffer.copy_(old)

    def step(self, grads: list[torch.Tensor | None], verdict: Verdict) -> None:
        """One step of each optimizer that is not to skip it. Without gradients nothing happens."""
        for name, optimizer in self.optimizers.items():
            mine = [k for k, owner in enumerate(self.owners) if owner == name]
            own = [(self.parameters[k], grads[k]) for k in mine]
            if name in verdict.skipping or all(grad is None for _, grad in own):
                continue
            for group, rate in zip(optimizer.param_groups, self.rates[name], strict=True):
                group["lr"] = rate * verdict.factors[name]
            for parameter, grad in own:
                parameter.grad = grad
            optimizer.step()
            for parameter, _ in own:
                parameter.grad = None
            if self.ema is not None:
                for k in mine:  # average := ema average + (1 - ema) parameter
                    self.average[k].lerp_(self.parameters[k].detach(), 1 - self.ema)

    def averages(self) -> dict[str, torch.Tensor]:
        """Copies of the averages of the parameters, by name; empty without."""
        return (
            {name: value.clone() for name, value in zip(self.names, self.average, strict=True)} if self.average else {}
        )

    def tensors(self) -> dict[str, torch.Tensor]:
        """Copies of parameters and buffers, by the names of the whole model."""
        pairs = [*zip(self.names, self.parameters, strict=True), *zip(self.buffer_names, self.buffers, strict=True)]
        return {name: tensor.detach().clone() for name, tensor in pairs}

    def optimizer_state(self) -> dict[str, dict[str, Any]]:
        """Copies of the optimizers' state, by parameter."""
        return {
            name: {key: v.clone() if isinstance(v, torch.Tensor) else v for key, v in own.state[p].items()}
            for name, p, own in self._owned()
            if p in own.state
        }

    def _owned(self) -> Iterable[tuple[str, nn.Parameter, Any]]:
        """(name, parameter, its optimizer) of those that are trained."""
        for name, parameter, owner in zip(self.names, self.parameters, self.owners, strict=True):
            if parameter.requires_grad and owner is not None:
                yield name, parameter, self.optimizers[owner]

    def load(
        self, tensors: dict[str, torch.Tensor], optimizer: dict[str, dict[str, Any]],
        average: dict[str, torch.Tensor] | None = None,
    ) -> None:  # fmt: skip
        """The inverse of `tensors`, `optimizer_state` and `averages`, which without it begin with the parameters."""
        with torch.no_grad():
            for name, tensor in zip(
                [*self.names, *self.buffer_names], [*self.parameters, *self.buffers], strict=True
            ):  # fmt: skip
                if name in tensors:
                    tensor.copy_(tensors[name])
        if self.ema is not None:
            known = average or {}
            self.average = [
                known[name].to(p.device, copy=True) if name in known else p.detach().clone()
                for name, p in zip(self.names, self.parameters, strict=True)
            ]
        for name, parameter, own in self._owned():
            if name in optimizer:
                there = any(group.get("fused") or group.get("capturable") for group in own.param_groups)
                own.state[parameter] = {
                    key: _like(v, parameter, there) if isinstance(v, torch.Tensor) else v
                    for key, v in optimizer[name].items()
                }


def _like(value: torch.Tensor, parameter: torch.Tensor, counters_there: bool) -> torch.Tensor:
    """A copy of an optimizer's tensor where it belongs; counters of steps only if kernels count, as in torch."""
    return value.clone() if value.ndim == 0 and not counters_there else value.to(parameter.device, copy=True)


class Tape:
    """What the backward pass of one segment and micro-batch needs. Empty when it has been used."""

    __slots__ = ("dy", "x", "y")

    def __init__(self, x: torch.Tensor | None, y: torch.Tensor) -> None:
        self.x: torch.Tensor | None = x
        """The input, a leaf; None if no gradient of it is wanted."""
        self.y: torch.Tensor | None = y
        """The output; of the last segment the loss, scaled."""
        self.dy: torch.Tensor | None = None
        """The gradient of the output, kept between the two halves of a split backward pass."""


class Verdict(NamedTuple):
    """What all workers know about a step before anyone uses its gradients. Found by every place for itself."""

    found_inf: bool
    """Some gradient was not finite. The maximum over all buckets, each the sum over all workers."""
    skipping: tuple[str, ...]
    """The optimizers that own such a gradient, and leave out this step."""
    loss: float
    parts: dict[str, float]
    """What it is made of, if it has several parts or a penalty."""
    correct: int
    images: int
    norm: float | None
    """2-norm of all gradients, unscaled and before clipping; of several optimizers, of those that do not skip."""
    clip: float
    """What the gradients are multiplied by."""
    precision: str
    scale: float
    factors: dict[str, float]
    """Of the learning rate of each optimizer."""


@dataclass
class Log:
    """What happened, in order: one row a step, one row an evaluation, changes of precision."""

    steps: list[dict[str, Any]] = field(default_factory=list)
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    memory: tuple[int, int] = (0, 0)
    """Bytes in use by the process of the first place: at the beginning, and at the fullest moment."""

    @property
    def used(self) -> int:
        """Bytes at the fullest moment beyond those in use before."""
        return max(self.memory[1] - self.memory[0], 0)

    def and_then(self, other: Log) -> Log:
        """Both, this one first."""
        fullest = max(self.memory[1], other.memory[1])
        return Log(
            self.steps + other.steps, self.evaluations + other.evaluations, self.events + other.events,
            (self.memory[0] or other.memory[0], fullest),
        )  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        return {
            "steps": self.steps, "evaluations": self.evaluations, "events": [list(event) for event in self.events],
        }  # fmt: skip

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Log:
        return cls(state["steps"], state["evaluations"], [Event(*event) for event in state["events"]])


@dataclass
class State:
    """Everything that a training needs to go on: what a checkpoint holds."""

    step: int
    """The next step."""
    tensors: dict[str, torch.Tensor]
    """Parameters and buffers, by name."""
    optimizer: dict[str, dict[str, Any]]
    control: dict[str, Any]
    random: torch.Tensor
    """State of torch's own generator, for user code that draws from it."""
    average: dict[str, torch.Tensor] = field(default_factory=dict)
    """Averages of the parameters, by name."""

    @classmethod
    def of(cls, model: nn.Module, control: Control) -> State:
        """Before the first step."""
        return cls(0, _copies(model.state_dict().items()), {}, control.state_dict(), torch.get_rng_state())


def _copies(items: Iterable[tuple[str, Any]]) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in items}
