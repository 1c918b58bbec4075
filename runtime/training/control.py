"""The part of a training's state that decides: precision, loss scale and counters."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from tilewright.training import precision as precisions
from tilewright.training.devices import target_device
from tilewright.training.fallback import LADDER, Fallback
from tilewright.training.scaler import LossScaler

__all__ = ["Control", "check_precision", "first_control"]

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
            "precision": self.precision,
            "scaler": self.scaler.state_dict(),
            "limits": {name: getattr(self.scaler, name) for name in _LIMITS},
            "updates": self.updates,
            "taken": dict(self.taken),
            "skipped": self.skipped,
            "fallback": self.fallback.state_dict() if self.fallback else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.precision = state["precision"]
        self.updates, self.taken, self.skipped = state["updates"], dict(state["taken"]), state["skipped"]
        self.fallback = Fallback.from_state(state["fallback"]) if state["fallback"] else None
        for name, value in state["limits"].items():
            setattr(self.scaler, name, value)
        self.scaler.load_state_dict(state["scaler"])


def first_control(
    wanted: str, model: nn.Module, device: torch.device, loss: Any, scaler: LossScaler | None, fallback: Fallback | str
) -> Control:
    """Where a training starts: its precision, the loss scale, and the ladder if it is adaptive."""
    scaler = replace(scaler) if scaler is not None else LossScaler()
    if wanted != "adaptive":
        precisions.check(wanted, device)
        precisions.check_model(model, loss, wanted)
        scaler.enabled = scaler.enabled and wanted == "fp16"
        return Control(wanted, scaler)
    plan = fallback if isinstance(fallback, Fallback) else Fallback(mode=fallback)
    rungs = precisions.ladder(plan.ladder, device)
    if plan.ladder == LADDER:  # nobody said which rungs
        rungs = tuple(rung for rung in rungs if precisions.pays(rung, device))
    if not rungs:
        raise ValueError(f"{device} has none of the precisions {', '.join(plan.ladder)}")
    plan = Fallback.from_state(plan.state_dict() | {"ladder": rungs})
    precisions.check_model(model, loss, plan.precision)
    scaler.enabled = plan.precision == "fp16"
    return Control(plan.precision, scaler, plan)


def check_precision(wanted: str, model: nn.Module, **options: Any) -> None:
    """ValueError, as `fit` would raise it with these options, if the model cannot be trained in a precision."""
    first_control(
        wanted,
        model,
        target_device(options.get("device")),
        options.get("loss"),
        None,
        options.get("fallback", "robust"),
    )
