"""Tasks that end a step: the verdict on it, the optimizers, the loss scale and the precision of the next step."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from tilewright.training import precision
from tilewright.training.control import Control
from tilewright.training.gradients import Flags, summed
from tilewright.training.state import Grads, Setup, Stage, StepVerdict

__all__ = ["apply", "apply_shared", "judge", "update"]


def judge(control: Control, setup: Setup, found: list[Flags], scores: list[Any], _: Any) -> StepVerdict:
    """What to do with the step: from the flags of every bucket, if gradients are looked at, and from all scores."""
    flags = [(name, *flag) for part in found for name, flag in part.items()]
    count = sum([n for _, _, n, *_ in scores])
    if all(share is None for *_, share in scores):  # a mean over images
        loss = sum([float(value) * n for value, _, n, *_ in scores]) / count
        parts = {key: sum([float(own[key]) * n for _, _, n, own, _ in scores]) / count for key in scores[0][3]}
    else:
        loss = sum([float(value) * (n / count if share is None else share) for value, _, n, _, share in scores])
        parts = {key: sum([float(own[key]) for *_, own, _ in scores]) for key in scores[0][3]}
    infinite = sorted({name for name, bad, _ in flags if bad})
    used = [
        squares for name, _, squares in flags if len(infinite) == len(setup.optimizer.names) or name not in infinite
    ]
    norm = math.sqrt(sum(used)) if flags else None
    clip = 1.0
    if setup.clip_norm is not None and norm is not None and math.isfinite(norm):
        clip = min(1.0, setup.clip_norm / (norm + 1e-6))
    factors = {
        name: setup.schedule(control.taken.get(name, 0)) if setup.schedule else 1.0 for name in setup.optimizer.names
    }
    skipping = tuple(infinite) if setup.checks else ()
    return StepVerdict(
        bool(skipping),
        skipping,
        loss,
        parts,
        sum([int(c) for _, c, *_ in scores]),
        count,
        norm,
        clip,
        control.precision,
        control.scaler.factor,
        factors,
    )


def apply(stage: Stage, buffers: Any, verdict: StepVerdict, grads: Grads) -> tuple[Any, ...]:
    """(stage, buffers, None for the gradients): a step of the optimizers that do not skip it.

    If one does, the buffers are again what they were before the forward pass, which has seen what is not finite.
    """
    if verdict.found_inf:
        stage.restore_buffers()
    if verdict.clip != 1.0:
        grads = [None if g is None else g * verdict.clip for g in grads]
    stage.step(grads, verdict)
    return stage, buffers, None


def apply_shared(stage: Stage, buffers: Any, verdict: StepVerdict, flat: np.ndarray) -> tuple[Any, ...]:
    """(stage, buffers, bucket): as `apply`, of the sum over all replicas."""
    grads = [None if g is None else g.to(p.device) for g, p in zip(summed(stage, flat), stage.parameters, strict=True)]
    return *apply(stage, buffers, verdict, grads)[:2], flat


_GOOD = 100  # steps between two copies of a state that was good


def update(control: Control, verdict: StepVerdict, setup: Setup, stages: list[Stage], step: int) -> Any:
    """The loss scale, the counters and the precision of the next step; (control, stages) if that may change them."""
    if verdict.found_inf:
        control.skipped += 1
    else:
        control.updates += 1
    for name in setup.optimizer.names:
        control.taken[name] = control.taken.get(name, 0) + (name not in verdict.skipping)
    control.scaler.update(verdict.found_inf)
    if control.fallback is None:
        return (control, *stages) if stages else control
    event = control.fallback.observe(
        step, found_inf=verdict.found_inf, scale=control.scaler.factor, loss_finite=math.isfinite(verdict.loss)
    )
    if event is not None:
        control.precision = event.after
        control.scaler.enabled = event.after == "fp16"
        if not event.fell:
            control.scaler.restart()
        precision.set_tf32(event.after == "tf32", setup.target.type)
        if control.good is not None and not all(bool(torch.isfinite(p).all()) for s in stages for p in s.parameters):
            for stage, (tensors, optimizer) in zip(stages, control.good, strict=True):
                stage.load(tensors, optimizer)
    elif control.good is None or (control.updates % _GOOD == 0 and not verdict.found_inf):
        control.good = [(stage.tensors(), stage.optimizer_state()) for stage in stages]
    return (control, *stages) if stages else control
