"""What a training carries from step to step, and how it looks on its way to disk or to another process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from tilewright.training.compiled import compiled
from tilewright.training.contents import Contents, dense, duplicate
from tilewright.training.control import Control
from tilewright.training.fallback import Event
from tilewright.training.losses import GradientPenalty, parts_of, plain_mean
from tilewright.training.optimizers import Optimizers
from tilewright.training.randomness import Stream, may_draw, may_recompute

__all__ = ["Exam", "Grads", "Log", "Setup", "Stage", "State", "Tape", "StepVerdict"]

Grads = list[torch.Tensor | None]
"""By parameter; None for one that is not trained, or had no part in the loss."""


@dataclass(frozen=True)
class Setup:
    """What stays the same in a training. It travels to every worker once."""

    loss: Callable[..., torch.Tensor]
    """A function of (outputs, labels)."""
    optimizer: Optimizers
    schedule: Callable[[int], float] | None
    """The factor of the learning rate after so many updates; skipped steps do not count."""
    recipe: Any
    device: str
    seed: int
    batch: int
    """Images of a step, of all replicas and micro-batches together."""
    cuts: tuple[int, ...]
    """Where the model is cut into segments: see `tilewright.training.models.cuts`."""
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
    in_place: bool = False
    """Whether the models that a graph gets are for it to change, and no two replicas have the same one."""
    keyed: bool = True
    """Whether each micro-batch and segment has random numbers of its own: see `tilewright.training.randomness`."""
    head: bool = False
    """Whether a closed-form head follows, for which a copy of the model is kept."""
    checkpoint: str | None = None
    past: Log = field(default_factory=lambda: Log())
    """What happened before this graph."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What a checkpoint has to have in common with the training that resumes it."""

    @cached_property
    def weighs(self) -> bool:
        """Whether images of a batch count differently in its loss."""
        return not all(map(plain_mean, parts_of(self.loss)))

    @cached_property
    def loss_draws(self) -> bool:
        """Whether the loss may draw random numbers."""
        return may_draw(*parts_of(self.loss))

    @cached_property
    def target(self) -> torch.device:
        return torch.device(self.device)


class Stage:
    """One segment of one replica: its module, the optimizers of its parameters, and its buffers as they were.

    ``contents`` has the names of the whole model for what is in it, ``stream`` the replica's random numbers.
    """

    def __init__(
        self,
        module: nn.Module,
        contents: Contents,
        optimizers: Optimizers,
        stream: Stream,
        compiler: str | None = None,
        ema: float | None = None,
    ) -> None:
        self.module = module
        self.contents = contents
        self.stream = stream
        self.ema = ema
        self.average: list[torch.Tensor] = []
        self.compiled = compiled(module, compiler) if compiler is not None else None
        self.names = list(contents.parameters)
        self.parameters = list(contents.parameters.values())
        self.trained = [p for p in self.parameters if p.requires_grad]
        self.strides = [_strides(p) for p in self.trained]
        self.optimizers = optimizers.make(self.names, self.parameters)
        self.owners = [optimizers.owner(name) for name in self.names]
        self.rates = {name: [group["lr"] for group in own.param_groups] for name, own in self.optimizers.items()}
        self.saved: list[tuple[dict[str, Any], str, torch.Tensor, torch.Tensor]] = []
        self.draws = may_draw(module)
        self.draws_again = may_recompute(module)
        for parameter in self.parameters:
            parameter.grad = None

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
            part.as_strided(p.shape, strides, part.storage_offset())
            for part, p, strides in zip(parts, wanted, self.strides, strict=True)
        ], counts

    def backward(self, y: torch.Tensor, dy: torch.Tensor | None, inputs: Sequence[torch.Tensor], grads: Grads) -> Grads:
        """Gradients of ``inputs``, and of the parameters among them added to ``grads``: all by torch's own rules.

        A gradient of torch may have any strides, overlap itself, be the gradient of two parameters, or belong to whom
        computed it. What accumulates it into ``.grad`` copies where it has to, and calls the hooks that wait for that.
        """
        for parameter, grad in zip(self.parameters, grads, strict=False):
            parameter.grad = grad
        torch.autograd.backward(y, dy, inputs=inputs)
        found = []
        for parameter in self.parameters:
            found.append(parameter.grad)
            parameter.grad = None
        return found

    def save_buffers(self) -> None:
        """Keep a copy of the buffers, such as the statistics of batch norm, for `restore_buffers`."""
        self.saved = [
            (m._buffers, key, buffer, buffer.clone())
            for _, m in self.contents.homes
            for key, buffer in m._buffers.items()
            if buffer is not None
        ]

    def restore_buffers(self) -> None:
        with torch.no_grad():
            for home, key, buffer, old in self.saved:
                home[key] = buffer
                buffer.copy_(old)

    def step(self, grads: list[torch.Tensor | None], verdict: StepVerdict) -> None:
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
        return self.contents.tensors()

    def for_evaluation(self, buffers: dict[str, torch.Tensor]) -> nn.Module:
        """A copy of the module with other buffers, and with the averages of its parameters if there are any."""
        made = duplicate(self.module).eval()
        twin = self.contents.twin({id(m): n for m, n in zip(self.module.modules(), made.modules(), strict=True)})
        twin.load(buffers | self.averages())
        return made

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
        self,
        tensors: dict[str, torch.Tensor],
        optimizer: dict[str, dict[str, Any]],
        average: dict[str, torch.Tensor] | None = None,
        extra: dict[str, Any] | None = None,
    ) -> None:
        """The inverse of `tensors`, `optimizer_state` and `averages`, which without it begin with the parameters."""
        self.contents.load(tensors, extra)
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


def _strides(parameter: torch.Tensor) -> tuple[int, ...]:
    """The strides of its gradient: its own, if it has no holes; else row by row, as in torch."""
    return tuple((parameter if dense(parameter) else torch.empty(parameter.shape, device="meta")).stride())


class Tape:
    """What the backward pass of one segment and micro-batch needs. Empty when it has been used."""

    __slots__ = ("dx", "dy", "leaf", "x", "y")

    def __init__(self) -> None:
        self.leaf: torch.Tensor | None = None
        """Where the history of the input begins; None if no gradient of it is wanted."""
        self.x: torch.Tensor | None = None
        """The input."""
        self.y: torch.Tensor | None = None
        """The output; of the last segment the loss, scaled."""
        self.dx: torch.Tensor | None = None
        """The gradient of the input, as whatever computed it left it."""
        self.dy: torch.Tensor | None = None
        """The gradient of the output, kept between the two halves of a split backward pass."""

    def begin(self, x: torch.Tensor, plain: bool = False) -> torch.Tensor:
        """The input for a segment whose gradient the segment before waits for; ``plain`` for one that is compiled.

        A compiler takes nothing with a history, and chooses the layout of gradients itself.
        """
        self.leaf = x.detach().requires_grad_()
        self.x = self.leaf if plain else _Boundary.apply(self.leaf, self)
        return self.x

    def gradient(self) -> torch.Tensor | None:
        """The gradient of the input, after a backward pass."""
        return self.leaf.grad if self.x is self.leaf and self.leaf is not None else self.dx

    def clear(self) -> None:
        self.leaf = self.x = self.y = self.dx = self.dy = None


class _Boundary(torch.autograd.Function):  # type: ignore[misc]  # torch has no types here
    """Between two segments: leaves the gradient on the tape as it comes, where accumulating would change its layout."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, tape: Tape) -> torch.Tensor:
        ctx.tape = tape
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, dx: torch.Tensor) -> tuple[None, None]:
        ctx.tape.dx = dx
        return None, None


class StepVerdict(NamedTuple):
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
    """What the learning rate of each optimizer is multiplied by."""


@dataclass
class Log:
    """What happened, in order: one row a step, one row an evaluation, changes of precision."""

    steps: list[dict[str, Any]] = field(default_factory=list)
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    memory: tuple[int, int] = (0, 0)
    """Bytes in use by the process of the first place: at the beginning, and at the fullest moment."""
    unwritten: dict[str, str] = field(default_factory=dict)
    """Files that rows were to be added to and could not be, and why; the rest of them is not written."""

    @property
    def used(self) -> int:
        """Bytes at the fullest moment beyond those in use before."""
        return max(self.memory[1] - self.memory[0], 0)

    def and_then(self, other: Log) -> Log:
        """Both, this one first."""
        fullest = max(self.memory[1], other.memory[1])
        return Log(
            self.steps + other.steps,
            self.evaluations + other.evaluations,
            self.events + other.events,
            (self.memory[0] or other.memory[0], fullest),
            self.unwritten | other.unwritten,
        )

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps, "evaluations": self.evaluations, "events": [list(event) for event in self.events]}

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
    random: dict[str, torch.Tensor] = field(default_factory=dict)
    """By generator, where the stream of random numbers is; empty before the first step."""
    average: dict[str, torch.Tensor] = field(default_factory=dict)
    """Averages of the parameters, by name."""
    extra: dict[str, Any] = field(default_factory=dict)
    """By module, what its ``get_extra_state`` gave."""

    @classmethod
    def of(cls, model: nn.Module, control: Control) -> State:
        """The state before the first step."""
        contents = Contents(model)
        return cls(0, contents.tensors(), {}, control.state_dict(), extra=contents.extra())


@dataclass
class Exam:
    """A model for evaluation, as it was after a step."""

    parts: list[nn.Module]
    """Applied one after the other."""
    precision: str
    step: int
    draws: bool
    """Whether a pass may draw random numbers."""
