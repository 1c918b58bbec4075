"""Tasks of a step that make its batch: load, augment, transfer."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from tilewright.comm.schedule import cut
from tilewright.training.data.augment import crop_and_flip, normalise, order
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
    """The images of places ``first`` to ``last`` of the epoch's order that fall to part ``part`` of ``parts``."""
    start, stop = cut(last - first, parts)[part : part + 2] if parts > 1 else (0, last - first)
    wanted = order(len(images), setup.seed, epoch)[first + start : first + stop]
    return wanted, images[wanted], labels[wanted]


def augment(setup: Setup, batch: tuple[Any, ...], epoch: int) -> tuple[np.ndarray, np.ndarray]:
    """Crop, flip and normalise."""
    index, images, labels = batch
    images = crop_and_flip(images, index, setup.recipe, setup.seed, epoch)
    return normalise(images, setup.recipe), labels


def transfer(setup: Setup, _x: Any, _y: Any, batch: tuple[np.ndarray, np.ndarray], micro: int) -> tuple[Any, ...]:
    """To the device, cut into micro-batches: (inputs, labels, None for the host's copy)."""
    images, labels = (torch.from_numpy(part) for part in batch)
    if setup.target.type != "cpu":
        images = images.pin_memory().to(setup.target, non_blocking=True)
        labels = labels.pin_memory().to(setup.target, non_blocking=True)
    if setup.channels_last:
        images = images.to(memory_format=torch.channels_last)
    if micro == 1:
        return (images,), (labels,), None
    return torch.tensor_split(images, micro), torch.tensor_split(labels, micro), None
