"""What a training asks of a model, its data, its loss and its engine: all is refused before any work."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tilewright.backends import engine_class
from tilewright.scalars import plain
from tilewright.training import models, trial
from tilewright.training.closed_form_head import least_noise
from tilewright.training.compiled import BACKEND
from tilewright.training.compiled import problem as compiler_problem
from tilewright.training.data import Dataset
from tilewright.training.data.augment import normalise
from tilewright.training.losses import GradientPenalty
from tilewright.training.randomness import hooked
from tilewright.training.step import split

__all__ = [
    "check_data",
    "check_engine",
    "check_file",
    "check_head",
    "check_model",
    "check_noise",
    "check_on_images",
    "check_parts",
    "compiler",
    "cuts",
    "one_segment",
]

LEAST = 1 << 16
"""Fewest parameters of a segment without a pipeline: the tasks of a smaller one would cost more than its work."""


def check_engine(backend: Any) -> None:
    """ValueError for an engine that is none, or computes nothing."""
    if engine_class(backend).virtual:
        raise ValueError(
            f"backend {backend!r} computes nothing, so nothing would be trained; "
            "tw.simulate(training.step.training_graph(...)[0], machine) tells how long a training would take"
        )


def check_data(model: Any, train: Any, test: Any) -> None:
    """ValueError or TypeError, before any work, if something is no model, no data, or data of another kind."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch module, not {model if isinstance(model, type) else type(model)}")
    if not any(p.requires_grad for p in model.parameters()):
        raise ValueError("there is nothing to train: the model has no parameter that requires a gradient")
    for name, data in (("train", train), ("test", test)):
        if data is None and name == "test":
            continue
        if not isinstance(data, Dataset):
            raise TypeError(
                f"{name} must be a tilewright.training.data.Dataset(images, labels), not {type(data)}; a torch data "
                f"set of pairs (x, y), or a DataLoader of one, will do"
            )
        if not len(data):
            raise ValueError(f"{name} is an empty data set" + ("; leave it out" if name == "test" else ""))
    if test is not None and (test.shape, test.classes) != (train.shape, train.classes):
        raise ValueError(
            f"train has images of shape {train.shape} in {train.classes} classes, test of shape {test.shape} in "
            f"{test.classes}"
        )


def check_parts(batch: int, workers: int, accumulate: int) -> None:
    """ValueError if there are more micro-batches in a step than images."""
    if workers > batch:
        raise ValueError(f"workers={workers} share batches of {batch} images: pass fewer, or a larger batch_size")
    if workers * accumulate > batch:
        raise ValueError(
            f"accumulate={accumulate} cuts {batch} images of workers={workers} into {workers * accumulate} parts, and "
            f"each needs an image: pass a smaller accumulate, or a larger batch_size"
        )


def check_model(model: nn.Module, backend: str, workers: int) -> None:
    """ValueError, before any work, if parameters have no values yet, or what cannot be copied has to be."""
    lazy = [
        name
        for name, m in model.named_modules()
        if isinstance(m, nn.modules.lazy.LazyModuleMixin) and m.has_uninitialized_params()
    ]
    if lazy:
        raise ValueError(
            f"layer {lazy[0]!r} is lazy and has no parameters yet: call the model once on some images first"
        )
    tensors = [*model.named_parameters(), *model.named_buffers()]
    empty = [name for name, tensor in tensors if tensor.is_meta]
    if empty:
        raise ValueError(
            f"{empty[0]} is on the meta device and has no values: model.to_empty(device='cpu'), then set or load them"
        )
    hooks = [name for name, p in model.named_parameters() if p._backward_hooks]
    if hooks and not engine_class(backend).in_process:
        raise ValueError(f"parameter {hooks[0]} has hooks, which do not reach other processes; use backend='threads'")
    scripted = [name for name, m in model.named_modules() if isinstance(m, torch.jit.ScriptModule)]
    if scripted and (workers > 1 or not engine_class(backend).in_process):
        what = f"layer {scripted[0]!r}" if scripted[0] else "the model"
        raise ValueError(
            f"{what} is compiled by torch.jit and has no copies for workers={workers} on backend={backend!r}: "
            "pass the module that it was made of, or train with workers=1 on backend='threads'"
        )


def check_file(path: str | Path) -> None:
    """ValueError, before any work, if lines cannot be appended to a file."""
    try:
        with Path(path).open("a", encoding="utf-8"):
            pass
    except OSError as error:
        raise ValueError(f"cannot write the log {path}: {error.strerror}") from error


def check_head(test: Dataset | None, parts: list[nn.Module]) -> None:
    """ValueError if there is nothing that a closed-form head could be solved from, or measured on."""
    if test is None:
        raise ValueError("a closed-form head is measured on a test set; pass one")
    if len(parts) < 2:
        raise ValueError("a closed-form head takes the place of the last segment; this model has only one")


def check_noise(noise: Any, n: int) -> None:
    """ValueError if a kernel matrix of ``n`` images may have no Cholesky factor."""
    if not (
        isinstance(plain(noise), int | float)
        and not isinstance(noise, bool)
        and math.isfinite(noise)
        and noise >= least_noise(n)
    ):
        raise ValueError(
            f"head_noise must be a finite number from {least_noise(n):.1e} for {n} images, below "
            f"which their kernel matrix may have no Cholesky factor in float64, not {noise!r}"
        )


def one_segment(segments: int | None, pipeline: str | None) -> int:
    """The number of segments for a gradient penalty, 1. ValueError if more are asked for."""
    if pipeline is not None or segments not in (None, 1):
        raise ValueError(
            "a gradient penalty differentiates through the whole model twice: it takes one segment and no pipeline"
        )
    return 1


def compiler(
    wanted: bool | str, device: torch.device, pipeline: str | None, penalty: GradientPenalty | None
) -> str | None:
    """The backend of torch.compile. ValueError if there is something that it cannot do."""
    if not wanted:
        return None
    name = BACKEND if wanted is True else wanted
    reason = compiler_problem(name, device)
    if not reason and penalty is not None:
        reason = "a compiled backward pass cannot be differentiated again, which a gradient penalty does"
    if not reason and pipeline == "zero-bubble":
        reason = "a compiled backward pass cannot be split, which zero-bubble does; use 1f1b"
    if reason:
        raise ValueError(f"compile={wanted!r}: {reason}")
    return name


def cuts(model: nn.Module, train: Dataset, segments: int | None, pipeline: str | None) -> tuple[int, ...]:
    """Where the model is cut. ValueError if that is asked for, and its parts do not do what it does."""
    where = models.cuts(model, segments, 0 if pipeline is not None else LEAST)
    if len(where) == 2:
        return where
    asked = segments is not None or pipeline is not None
    problem = "" if asked else "hooks see each pass" if any(map(hooked, model.modules())) else ""
    problem = problem or trial.composes(model, where, _images(model, train, 2))
    if problem and asked:
        raise ValueError(f"the model cannot be cut into {len(where) - 1} segments: {problem}; pass segments=1")
    return (0, where[-1]) if problem else where


def check_on_images(model: nn.Module, train: Dataset, batch: int, workers: int, accumulate: int, loss: Any) -> None:
    """ValueError for what only a few images can tell: batch norm of one image, a loss that is no mean."""
    last = len(train) % batch or batch
    small = [
        n
        for n in {min(batch, len(train)), last}
        if 1 in [size for part in split(n, workers) for size in split(part, accumulate)]
    ]
    if small and trial.alone(model, _images(model, train, 1)):
        of = "the last batch of an epoch" if small[0] == last and last < batch else "a batch"
        raise ValueError(
            f"{of} has {small[0]} image{'s' * (small[0] > 1)}, and a worker gets a single one at a time, of which "
            f"batch norm cannot take a variance: choose another batch_size ({len(train)} images are "
            f"{len(train) // batch} times {batch} and {len(train) % batch})"
        )
    few = _images(model, train, 8)
    labels = torch.from_numpy(train.labels[:8]).to(few.device)
    problem = trial.loss_problem(model, loss, few, labels, workers * accumulate)
    if problem:
        raise ValueError(problem)


def _images(model: nn.Module, data: Dataset, count: int) -> torch.Tensor:
    """Some images as a model gets them, where it is."""
    return torch.from_numpy(normalise(data.images[:count], data.recipe)).to(next(model.parameters()).device)
