"""Tasks of a step on gradients: into the buckets that replicas sum, out of them, and off the loss scale."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from tilewright.training.control import Control
from tilewright.training.scaler import LossScaler
from tilewright.training.state import Grads, Stage

__all__ = ["Flags", "blank", "bucket", "summed", "unscale", "unscale_shared"]


def bucket(stage: Stage, grads: Grads, flat: np.ndarray) -> None:
    """Copy gradients into a bucket and give them up. Missing ones count as zeros."""
    parts, counts = stage.opened(flat)
    mine = [g for g, p in zip(grads, stage.parameters, strict=True) if p.requires_grad]
    for part, g in zip(parts, mine, strict=True):
        if g is None:
            part.zero_()
        else:
            part.copy_(g)
    counts.copy_(torch.tensor([float(g is not None) for g in mine]))
    grads.clear()


def blank(flat: np.ndarray) -> None:
    """The bucket of a replica that had no image in this step."""
    flat.fill(0.0)


def summed(stage: Stage, flat: np.ndarray) -> Grads:
    """The gradients in a bucket, by parameter; None for one that no replica has."""
    parts, counts = stage.opened(flat)
    left = iter([part if count else None for part, count in zip(parts, counts.tolist(), strict=True)])
    return [next(left) if p.requires_grad else None for p in stage.parameters]


Flags = dict[str, tuple[bool, float]]
"""By optimizer: is one of its gradients not finite, and the sum of the squares of all."""


def unscale(stage: Stage, control: Control, grads: Grads, _: Any) -> tuple[Grads, Flags]:
    """(gradients divided by the loss scale, their flags). Once a step, before anything uses them."""
    flags: Flags = {}
    for name in stage.optimizers:
        found = [g for g, owner in zip(grads, stage.owners, strict=True) if g is not None and owner == name]
        flags[name] = _unscaled(found, control.scaler)
    return grads, flags


def unscale_shared(stage: Stage, control: Control, flat: np.ndarray, _: Any) -> tuple[np.ndarray, Flags]:
    """As `unscale`, of the sum over all replicas: (bucket, its flags), the same on all of them."""
    return flat, unscale(stage, control, summed(stage, flat), None)[1]


def _unscaled(found: list[torch.Tensor], scaler: LossScaler) -> tuple[bool, float]:
    """Divide by the scale, in place: (not finite?, sum of squares)."""
    if not found:
        return False, 0.0
    if scaler.enabled:
        torch._foreach_mul_(found, 1.0 / scaler.factor if scaler.factor else math.inf)
    squares = float(torch.stack(torch._foreach_norm(found)).double().square().sum())
    return not math.isfinite(squares) and not all(bool(torch.isfinite(g).all()) for g in found), squares
