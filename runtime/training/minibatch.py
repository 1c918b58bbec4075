"""Tasks of a step that make its batch: load, augment, transfer."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from tilewright.comm.schedule import cut
from tilewright.training.data.augment import crop_and_flip, normalise, order
from tilewright.training.losses import Whole
from tilewright.training.state import Setup

__all__ = ["augment", "load", "transfer"]


def load(
    images: np.ndarray,
    labels: np.ndarray,
    setup: Setup,
    _: Any,
    epoch: int,
    first: int,
    last: int,
    part: int,
    parts: int,
) -> tuple[Any, ...]:
    """The images of places ``first`` to ``last`` of the epoch's order that fall to part ``part`` of ``parts``.

    With their labels, and those of the whole batch if the loss does not count all of them the same.
    """
    start, stop = cut(last - first, parts)[part : part + 2] if parts > 1 else (0, last - first)
    whole = order(len(images), setup.seed, epoch)[first:last]
    wanted = whole[start:stop]
    return wanted, images[wanted], labels[wanted], labels[whole] if setup.weighs else None


def augment(setup: Setup, batch: tuple[Any, ...], epoch: int) -> tuple[Any, ...]:
    """Crop, flip and normalise."""
    index, images, labels, whole = batch
    images = crop_and_flip(images, index, setup.recipe, setup.seed, epoch)
    return normalise(images, setup.recipe), labels, whole


def transfer(setup: Setup, _x: Any, _y: Any, batch: tuple[Any, ...], micro: int) -> tuple[Any, ...]:
    """Move a batch to the device, cut into micro-batches: (inputs, labels, None for the host's copy).

    Each begins where torch begins its own tensors: products of some libraries have other bits elsewhere.
    """
    images, labels = (torch.from_numpy(part) for part in batch[:2])
    whole = None if batch[2] is None else torch.from_numpy(batch[2]).to(setup.target)
    if setup.target.type != "cpu":
        images = images.pin_memory().to(setup.target, non_blocking=True)
        labels = labels.pin_memory().to(setup.target, non_blocking=True)
    if setup.channels_last and images.ndim == 4:
        images = images.to(memory_format=torch.channels_last)
    if micro == 1:
        return (images,), Whole((labels,), whole), None
    parts = torch.tensor_split(images, micro)
    if setup.target.type == "cpu":
        parts = tuple(part.clone(memory_format=torch.preserve_format) for part in parts)
    return parts, Whole(torch.tensor_split(labels, micro), whole), None
