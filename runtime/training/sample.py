"""A few steps of a training as a graph and its data, for those who look at graphs: a perceptron on random images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from tilewright.graph import TaskGraph
from tilewright.training import models
from tilewright.training.control import first_control
from tilewright.training.data.dataset import Dataset
from tilewright.training.optimizers import optimizers
from tilewright.training.state import Setup, Stage, State
from tilewright.training.step import Division, Span, training_graph

__all__ = ["sample"]

_SIDE, _CLASSES, _BATCH = 8, 10, 32


def sample(replicas: int, steps: int, seed: int) -> tuple[TaskGraph, Callable[[], dict[str, Any]]]:
    """The graph of so many steps of 32 images, shared by these replicas, and what makes its data.

    Torch's generator is as before.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Flatten(), nn.Linear(_SIDE * _SIDE, 64), nn.ReLU(), nn.Linear(64, _CLASSES))
        images = torch.randint(0, 256, (steps * _BATCH, 1, _SIDE, _SIDE), dtype=torch.uint8)
        labels = torch.randint(0, _CLASSES, (steps * _BATCH,))
    train = Dataset(images.numpy(), labels.numpy(), _CLASSES, "random")
    where = models.cuts(model, 2)
    parts = models.group(model, where)
    words = tuple(map(Stage.words, parts)) if replicas > 1 else ()
    division = Division(replicas, 1, len(parts), words=words)
    graph, _ = training_graph(division, Span(0, steps, len(labels), _BATCH))
    loss = nn.CrossEntropyLoss()
    control = first_control("fp32", model, torch.device("cpu"), loss, None, "")
    state = State.of(model, control)
    setup = Setup(
        loss=loss,
        optimizer=optimizers("sgd", 0.1),
        schedule=None,
        recipe=train.recipe,
        device="cpu",
        seed=seed,
        batch=_BATCH,
        cuts=where,
        keyed=replicas > 1,
    )

    def data() -> dict[str, Any]:
        values = {"model": model, "state": state, "setup": setup, "images": train.images, "targets": train.labels}
        return {name: [value] * replicas for name, value in values.items()}

    return graph, data
