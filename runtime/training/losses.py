"""Losses of several parts, and a penalty on gradients: second derivatives under autocast and a loss scale."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

__all__ = ["GradientPenalty", "Losses"]

Loss = Callable[[Any, torch.Tensor], torch.Tensor]
"""Of (outputs, labels), a mean over the batch."""


@dataclass(frozen=True)
class Losses:
    """Several losses of the same outputs, added with weights; the log has each of them by its name.

    Their sum is scaled once, so they share the loss scale, and the gradients are those of torch's recipe, in which
    each is scaled and differentiated by itself.

    Examples
    --------
    >>> from torch import nn
    >>> from tilewright.training import Losses
    >>> loss = Losses({"entropy": (nn.CrossEntropyLoss(), 1.0), "margin": (nn.MultiMarginLoss(), 0.1)})
    """

    parts: Mapping[str, tuple[Loss, float]]

    def __post_init__(self) -> None:
        if not self.parts:
            raise ValueError("a loss of several parts needs at least one")

    def __call__(self, outputs: Any, labels: torch.Tensor) -> torch.Tensor:
        return self.by_name(outputs, labels)[0]

    def by_name(self, outputs: Any, labels: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """(the weighted sum, each part without its weight)."""
        found = {name: loss(outputs, labels) for name, (loss, _) in self.parts.items()}
        weighted = [weight * found[name] for name, (_, weight) in self.parts.items()]
        return torch.stack(weighted).sum(), {name: value.detach() for name, value in found.items()}


@dataclass(frozen=True)
class GradientPenalty:
    """weight (|g| - target)^2 of the gradient g of the loss, added to the loss [1]_ [2]_.

    ``of="weights"``: g is the gradient of the parameters, |g| its 2-norm. ``of="inputs"``: there is one g an image,
    and the penalty is the mean over the batch.

    Mixed precision: g is taken of the scaled loss, so that FP16 does not lose it, and unscaled in FP32 before it
    enters the penalty, which is scaled with the loss once more. A scale that is too large makes g, and so the step, not
    finite: it is skipped, as any other.

    .. [1] H. Drucker, Y. LeCun, Improving generalization performance using double backpropagation, 1992.
    .. [2] I. Gulrajani et al., Improved training of Wasserstein GANs, NeurIPS 2017.

    Raises
    ------
    ValueError
        A weight that is not above 0, a negative target, or another ``of``.
    """

    weight: float
    of: str = "weights"
    target: float = 0.0

    def __post_init__(self) -> None:
        if not self.weight > 0 or self.target < 0:
            raise ValueError(f"weight must be above 0 and target at least 0, not {self.weight} and {self.target}")
        if self.of not in ("weights", "inputs"):
            raise ValueError(f"of must be 'weights' or 'inputs', not {self.of!r}")

    def __call__(self, loss: torch.Tensor, tensors: Sequence[torch.Tensor], scale: float) -> torch.Tensor:
        """The penalty, a scalar in FP32 that can be differentiated, for the loss's gradients of ``tensors``.

        One forward and one backward pass are kept for the second: twice the memory and time of a step, or more.
        """
        found = torch.autograd.grad(loss * scale, tensors, create_graph=True, allow_unused=True)
        grads = [g.float() / scale for g in found if g is not None]
        if not grads:
            return torch.zeros((), device=loss.device)
        if self.of == "inputs":
            rows = len(grads[0])  # the loss is a mean: g of one image is as many times as large
            norms = torch.linalg.vector_norm(grads[0].flatten(1), dim=1) * rows
        else:
            norms = torch.linalg.vector_norm(torch.cat([g.flatten() for g in grads]))
        return self.weight * (norms - self.target).square().mean()
