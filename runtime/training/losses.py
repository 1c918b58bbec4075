"""Losses with several parts, losses of a batch in parts, and a penalty on gradients.

A batch that is cut into micro-batches has the loss of the whole batch, as the sum of what its parts count for: for a
mean over images that is each part's share of the images; for a mean with class weights w, or without an ignored class,
the share of sum_i w[label_i]; for a sum it is 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn

from tilewright.keywords import strict
from tilewright.scalars import choice, real

__all__ = ["GradientPenalty", "Losses", "Whole", "counted", "known", "parts_of", "plain_mean", "refuse", "share_of"]

Loss = Callable[[Any, torch.Tensor], torch.Tensor]
"""A function of (outputs, labels) that gives a mean over the batch."""


@dataclass(frozen=True)
class Losses:
    """Several losses of the same outputs, added with weights; the log has each of them by its name.

    Their sum is scaled once, so they share the loss scale, and the gradients are those of torch's recipe, in which
    each is scaled and differentiated by itself.

    Parameters
    ----------
    parts
        By name, a function of (outputs, labels) and its weight.

    Raises
    ------
    ValueError
        There is no part.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from tilewright.training import Losses
    >>> loss = Losses({"entropy": (nn.CrossEntropyLoss(), 1.0), "margin": (nn.MultiMarginLoss(), 0.1)})
    >>> total, parts = loss.by_name(torch.zeros(1, 2), torch.tensor([0]))
    >>> {name: round(part.item(), 3) for name, part in parts.items()}, round(total.item(), 3)
    ({'entropy': 0.693, 'margin': 0.5}, 0.743)
    """

    parts: Mapping[str, tuple[Loss, float]]

    def __post_init__(self) -> None:
        if not self.parts:
            raise ValueError("a loss of several parts needs at least one")

    def __call__(self, outputs: Any, labels: torch.Tensor) -> torch.Tensor:
        return self.by_name(outputs, labels)[0]

    def by_name(self, outputs: Any, labels: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """(the weighted sum, each part without its weight)."""
        return self.added({name: loss(outputs, labels) for name, (loss, _) in self.parts.items()})

    def added(self, found: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The same of parts that are known."""
        weighted = [weight * found[name] for name, (_, weight) in self.parts.items()]
        return torch.stack(weighted).sum(), {name: value.detach() for name, value in found.items()}


class Whole(NamedTuple):
    """The labels of a replica's micro-batches, and of the whole batch that they belong to."""

    parts: tuple[torch.Tensor, ...]
    batch: torch.Tensor | None = None
    """None where a replica's micro-batch is the batch, or all of a batch count the same."""

    def loss(
        self, loss: Any, outputs: torch.Tensor, target: torch.Tensor, count: int
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor], float | None]:
        """(the loss of a micro-batch of a batch of ``count``, its parts by name, what it counts for in the batch's).

        None is its share of the images. Parts of `Losses` that count otherwise are multiplied here, and their sum
        counts for 1.
        """
        if not isinstance(loss, Losses):
            share = self.share(loss, target, count)
            if share == 0.0:  # nothing here counts, and a mean of nothing is not a number
                return outputs.sum() * 0.0, {}, share
            return loss(outputs, target), {}, share
        shares = {name: self.share(part, target, count) for name, (part, _) in loss.parts.items()}
        if set(shares.values()) == {None}:
            return (*loss.by_name(outputs, target), None)
        found = {}
        for name, (part, _) in loss.parts.items():
            share = shares[name]
            share = len(target) / count if share is None else share
            found[name] = part(outputs, target) * share if share else outputs.sum() * 0.0
        return (*loss.added(found), 1.0)

    def share(self, loss: Any, target: torch.Tensor, count: int) -> float | None:
        """What a micro-batch counts for in the loss of its batch; None for its share of the images."""
        if len(target) == count or plain_mean(loss):
            return None
        if loss.reduction == "sum":
            return 1.0
        assert self.batch is not None
        all_ = counted(loss, self.batch)
        return counted(loss, target) / all_ if all_ else None


def known(loss: Any) -> bool:
    """Whether it is one of torch's own losses, whose reduction is what it says."""
    kind = type(loss)
    return isinstance(loss, nn.modules.loss._Loss) and kind.__module__ == "torch.nn.modules.loss"


def plain_mean(loss: Any) -> bool:
    """Whether all images count the same: a mean over them, or what is taken for one."""
    if not known(loss):
        return True
    weighs = isinstance(loss, nn.CrossEntropyLoss | nn.NLLLoss) and (loss.weight is not None or loss.ignore_index >= 0)
    return bool(loss.reduction != "sum" and not weighs)


def counted(loss: Any, labels: torch.Tensor) -> float:
    """What a mean divides by: the sum of the weights of the labels that are not ignored. O(n)."""
    used = labels[labels != loss.ignore_index]
    return float(len(used) if loss.weight is None else loss.weight.to(used.device)[used].sum())


def share_of(loss: Any, outputs: torch.Tensor, labels: torch.Tensor) -> tuple[float, float]:
    """(loss of a part of a data set, times what it counts for; what it counts for).

    The sum of the first over all parts, divided by the sum of the second, is the loss of the whole; where a loss is a
    sum over images it is the mean over images. `Losses` count by images.
    """
    if isinstance(loss, Losses) or plain_mean(loss):
        return float(loss(outputs, labels)) * len(labels), float(len(labels))
    if loss.reduction == "sum":
        return float(loss(outputs, labels)), float(len(labels))
    counts = counted(loss, labels)
    return (float(loss(outputs, labels)) * counts if counts else 0.0), counts


def parts_of(loss: Any) -> list[Any]:
    """The losses that a loss is made of."""
    return [part for part, _ in loss.parts.values()] if isinstance(loss, Losses) else [loss]


def refuse(loss: Any, penalty: GradientPenalty | None, micro: int) -> None:
    """Refuse, before any work, what is no loss for batches in ``micro`` parts.

    Raises
    ------
    TypeError
        It cannot be called.
    ValueError
        It is no single number; or a penalty needs a mean over images, and it is none.
    """
    for part in parts_of(loss):
        if not callable(part) or isinstance(part, type):
            raise TypeError(f"loss must be a function of (outputs, labels), as nn.CrossEntropyLoss() is, not {part!r}")
        reduction = getattr(part, "reduction", "mean")
        if reduction not in ("mean", "sum", "batchmean"):
            raise ValueError(f"loss must be one number for a batch: pass reduction='mean' or 'sum', not {reduction!r}")
        if penalty is not None and not plain_mean(part) and (penalty.of == "inputs" or micro > 1):
            raise ValueError(
                "a gradient penalty takes a loss that is a mean over images, without class weights, ignore_index "
                "or reduction='sum', or it would weigh the images otherwise"
            )


@strict
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

    Parameters
    ----------
    weight
        What the penalty is multiplied by; above 0.
    of
        ``"weights"`` or ``"inputs"``.
    target
        The norm that costs nothing, at least 0.

    Raises
    ------
    ValueError
        A weight that is not above 0, a negative target, or another ``of``.
    TypeError
        One of them is no number, or no string.

    Examples
    --------
    >>> import torch
    >>> from tilewright import training
    >>> w = torch.tensor([3.0, 4.0], requires_grad=True)
    >>> penalty = training.GradientPenalty(0.5, target=1.0)
    >>> penalty(w.square().sum() / 2, [w], scale=1024.0).item()     # the gradient is w, of norm 5: 0.5 (5 - 1)^2
    8.0
    """

    weight: float
    of: str = "weights"
    target: float = 0.0

    def __post_init__(self) -> None:
        real(self.weight, "weight", 0, above=True)
        real(self.target, "target", 0)
        choice(self.of, "of", ("weights", "inputs"))

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
