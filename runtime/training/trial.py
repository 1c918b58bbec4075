"""What is tried before any work, on copies of a model and a few images: what no look at the code can tell.

What a model cannot take at all is left to the training, whose error names the task and the layer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from tilewright.training import models, randomness
from tilewright.training.contents import duplicate
from tilewright.training.losses import known, parts_of
from tilewright.training.randomness import Stream
from tilewright.training.state import Tape

__all__ = ["alone", "composes", "loss_problem"]

_PLAIN = (
    nn.Linear,
    nn.modules.conv._ConvNd,
    nn.modules.batchnorm._BatchNorm,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.Flatten,
    nn.modules.pooling._MaxPoolNd,
    nn.modules.pooling._AvgPoolNd,
    nn.modules.pooling._AdaptiveAvgPoolNd,
    nn.Identity,
    nn.modules.dropout._DropoutNd,
    nn.Sigmoid,
    nn.Tanh,
    nn.GELU,
)


def composes(model: nn.Module, where: Sequence[int], images: torch.Tensor) -> str:
    """Why the segments that ``where`` cuts do not do what the model does; empty if they do.

    Plain layers of torch need no trial. Two copies of the model, two forward passes of a few images otherwise.
    """
    says = callable(getattr(type(model), "segments", None))
    if (not says or type(model) in _TRUSTED) and all(map(_plain, models.group(model, where))):
        return ""
    try:
        with Stream(torch.device("cpu"), 0), torch.enable_grad():
            expected = duplicate(model)(images)
    except Exception:
        return ""  # the training will say it, of the task that it happens in
    finally:
        randomness.leave()
    x = images
    try:
        with Stream(torch.device("cpu"), 0), torch.enable_grad():
            for k, part in enumerate(models.group(duplicate(model), where)):
                x = part(Tape().begin(x) if k else x)
                if not isinstance(x, torch.Tensor):
                    return f"segment {k} gives no tensor, but {type(x).__name__}"
    except Exception as error:
        return f"one of them raises {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    finally:
        randomness.leave()
    same = isinstance(expected, torch.Tensor) and torch.equal(expected.nan_to_num(), x.nan_to_num())
    return "" if same else "applied one after the other they give other outputs than the model"


def _plain(module: nn.Module) -> bool:
    """Whether a tensor goes in and a tensor comes out, and none is changed in place at the beginning."""
    if randomness.hooked(module):
        return False
    if type(module) is nn.Sequential:
        return all(map(_plain, module._modules.values()))
    known = type(module).__module__.startswith("torch.nn.modules.")
    return type(module) in _TRUSTED or (known and isinstance(module, (*_PLAIN, nn.ReLU)))


_TRUSTED = (models.SimpleResNet, models.ResNet18, models.MLP, models.BasicBlock, models._Block, models._Residual)


def alone(model: nn.Module, image: torch.Tensor) -> bool:
    """Whether batch norm refuses a batch of this one image."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training]
    if not norms:
        return False
    try:
        with Stream(torch.device("cpu"), 0), torch.no_grad():
            duplicate(model)(image)
    except ValueError as error:
        return "more than 1 value per channel" in str(error)
    except Exception:
        return False
    finally:
        randomness.leave()
    return False


def loss_problem(model: nn.Module, loss: Any, images: torch.Tensor, labels: torch.Tensor, micro: int) -> str:
    """Why a loss that is no loss of torch's will not do; empty if it will.

    It has to be one number. Where a batch is taken in ``micro`` parts it has to be a mean over images: losses of two
    unequal parts, weighted by their shares of the images, add up to the loss of the whole.
    """
    if all(map(known, parts_of(loss))):
        return ""
    try:
        with Stream(torch.device("cpu"), 0) as stream, torch.no_grad():
            outputs = duplicate(model).eval()(images)
            found = []
            cut = max(1, len(images) // 3)
            for part in (slice(None), slice(0, cut), slice(cut, None)):
                stream.keyed = True
                stream.at(0)
                found.append(loss(outputs[part], labels[part]))
    except Exception:
        return ""
    finally:
        randomness.leave()
    if not isinstance(found[0], torch.Tensor) or found[0].ndim:
        what = f"a tensor of shape {tuple(found[0].shape)}" if isinstance(found[0], torch.Tensor) else repr(found[0])
        return f"loss must give one number, the mean over a batch, as a tensor; it gives {what}"
    whole, first, second = map(float, found)
    parts = (first * cut + second * (len(images) - cut)) / len(images)
    if micro == 1 or not math.isfinite(whole) or abs(whole - parts) <= 1e-4 * max(abs(whole), abs(parts), 1e-6):
        return ""
    return (
        f"loss is no mean over images (that of {len(images)} images is {whole:.4g}, and {parts:.4g} put together from "
        f"two parts), so a batch in {micro} parts would have another one: pass accumulate=1 and workers=1, or one of "
        f"torch's losses, whose class weights, ignore_index and reduction are known"
    )
