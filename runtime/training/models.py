"""Models that are lists of segments: the notebook's SimpleResNet, ResNet-18 for 32 x 32 images, a small MLP.

The notebook is *Lab 2.1.4: Mixed Precision Training - Speed Up with AMP*.

A *segment* is a module; a model is the composition of its segments, applied one after the other. Segments share their
parameters with the model, so nothing is copied: they only say where a training step may be cut.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from tilewright.training.randomness import hooked

__all__ = [
    "MLP",
    "MODELS",
    "BasicBlock",
    "ResNet18",
    "SimpleResNet",
    "build",
    "cuts",
    "group",
    "indivisible",
    "segments",
]


class SimpleResNet(nn.Module):  # type: ignore[misc]  # torch has no types here
    """The notebook's SimpleResNet: a 3 x 3 stem and four layers of two blocks, 64 to 512 channels.

    As printed there, it has no residual additions and no ReLU after a block. With ``residual`` each block adds its
    input, subsampled and padded with zero channels where the shape changes [1]_, and a ReLU follows: the parameters
    are the same 11,000,138.

    Input (N, channels, H, W), output (N, classes).

    .. [1] K. He et al., Deep residual learning for image recognition, CVPR 2016: shortcut option A.

    Parameters
    ----------
    classes
        Numbers of an output.
    residual
        With the additions.
    channels
        Those of an image.
    width
        Channels of the stem; the layers have 1, 2, 4 and 8 times as many.

    Examples
    --------
    >>> from tilewright import training
    >>> model = training.models.SimpleResNet(width=4)
    >>> sum(parameter.numel() for parameter in model.parameters())
    43838
    """

    def __init__(self, classes: int = 10, *, residual: bool = False, channels: int = 3, width: int = 64) -> None:
        super().__init__()
        self.residual = residual
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = self._layer(width, width, 1)
        self.layer2 = self._layer(width, 2 * width, 2)
        self.layer3 = self._layer(2 * width, 4 * width, 2)
        self.layer4 = self._layer(4 * width, 8 * width, 2)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(8 * width, classes)

    def _layer(self, before: int, after: int, stride: int) -> nn.Sequential:
        kind = _Residual if self.residual else _Block
        return nn.Sequential(kind(before, after, stride), kind(after, after, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.relu(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(self.avgpool(x), 1))

    def segments(self) -> list[nn.Module]:
        """Stem, four layers, head."""
        stem = nn.Sequential(self.conv1, self.bn1, nn.ReLU())
        head = nn.Sequential(self.avgpool, nn.Flatten(), self.fc)
        return [stem, self.layer1, self.layer2, self.layer3, self.layer4, head]


class _Block(nn.Sequential):  # type: ignore[misc]
    """Convolution, norm, ReLU, convolution, norm."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__(
            nn.Conv2d(before, after, 3, stride, 1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(inplace=True),
            nn.Conv2d(after, after, 3, 1, 1, bias=False),
            nn.BatchNorm2d(after),
        )


class _Residual(_Block):
    """relu(block(x) + x), x subsampled and padded with channels of zeros where the block changes the shape."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__(before, after, stride)
        self.stride = stride
        self.more = after - before

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.more))
        return functional.relu(super().forward(x) + shortcut)


class BasicBlock(nn.Module):  # type: ignore[misc]
    """relu(block(x) + shortcut(x)); the shortcut is a 1 x 1 convolution where the shape changes: option B.

    Input (N, before, H, W), output (N, after, H / stride, W / stride), rounded up.

    Parameters
    ----------
    before, after
        Channels of input and output.
    stride
        That of the first convolution and of the shortcut.

    Examples
    --------
    >>> import torch
    >>> from tilewright import training
    >>> training.models.BasicBlock(4, 8, 2)(torch.zeros(1, 4, 6, 6)).shape
    torch.Size([1, 8, 3, 3])
    """

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.block = _Block(before, after, stride)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or before != after:
            self.shortcut = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.relu(self.block(x) + self.shortcut(x))


class ResNet18(nn.Module):  # type: ignore[misc]
    """ResNet-18 with a 3 x 3 stem and no pooling before the first block, for 32 x 32 images: 11,173,962 parameters.

    Input (N, channels, 32, 32), output (N, classes).

    Parameters
    ----------
    classes
        Numbers of an output.
    channels
        Those of an image.
    width
        Channels of the stem; the four layers have 1, 2, 4 and 8 times as many.

    Examples
    --------
    >>> from tilewright import training
    >>> model = training.models.ResNet18(width=4)
    >>> sum(parameter.numel() for parameter in model.parameters()), len(model.segments())
    (44622, 6)
    """

    def __init__(self, classes: int = 10, *, channels: int = 3, width: int = 64) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        before, layers = width, []
        for after, stride in ((width, 1), (2 * width, 2), (4 * width, 2), (8 * width, 2)):
            layers.append(nn.Sequential(BasicBlock(before, after, stride), BasicBlock(after, after, 1)))
            before = after
        self.layers = nn.ModuleList(layers)
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d((1, 1)), nn.Flatten(), nn.Linear(before, classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for segment in self.segments():
            x = segment(x)
        return x

    def segments(self) -> list[nn.Module]:
        """Stem, four layers, head."""
        return [self.stem, *self.layers, self.head]


class MLP(nn.Sequential):  # type: ignore[misc]
    """Linear layers with ReLU between them. Input (N, ...) with ``inputs`` values each, output (N, classes).

    Parameters
    ----------
    inputs
        Numbers of an input.
    hidden
        Width of each layer before the last; none is one linear layer.
    classes
        Numbers of an output.

    Examples
    --------
    >>> from tilewright import training
    >>> model = training.models.MLP(64, hidden=(32,), classes=10)
    >>> sum(parameter.numel() for parameter in model.parameters())
    2410
    """

    def __init__(self, inputs: int = 64, hidden: Sequence[int] = (128, 128), classes: int = 10) -> None:
        sizes = [inputs, *hidden]
        layers: list[nn.Module] = [
            nn.Sequential(*([nn.Flatten()] if k == 0 else []), nn.Linear(before, after), nn.ReLU())
            for k, (before, after) in enumerate(pairwise(sizes))
        ]
        last = nn.Linear(sizes[-1], classes)
        super().__init__(*layers, last if hidden else nn.Sequential(nn.Flatten(), last))


MODELS: dict[str, Callable[..., nn.Module]] = {"simple-resnet": SimpleResNet, "resnet18": ResNet18, "mlp": MLP}
"""Models by the names that the command line knows."""


def build(name: str, shape: tuple[int, ...], classes: int = 10, **options: Any) -> nn.Module:
    """A model by name.

    Parameters
    ----------
    name
        One of `MODELS`.
    shape
        (channels, height, width) of an image.
    classes
        Numbers of an output.
    options
        Further keywords of the model's class.

    Raises
    ------
    ValueError
        An unknown name.

    Examples
    --------
    >>> from tilewright import training
    >>> training.models.build("mlp", (1, 8, 8), hidden=(32,))[0][1]
    Linear(in_features=64, out_features=32, bias=True)
    """
    if name not in MODELS:
        raise ValueError(f"unknown model {name!r}; known: {', '.join(MODELS)}")
    if name == "mlp":
        return MLP(shape[0] * shape[1] * shape[2], classes=classes, **options)
    return MODELS[name](classes, channels=shape[0], **options)


def segments(model: nn.Module) -> list[nn.Module]:
    """The segments of a model: what its ``segments()`` returns, the children of an `nn.Sequential`, or itself.

    Children without parameters join the one before: an activation may change its input in place. So do neighbours that
    share a parameter or a buffer, and all between them. A model that is not the composition of such parts, see
    `indivisible`, is one segment.

    Parameters
    ----------
    model
        Any module.

    Examples
    --------
    >>> from torch import nn
    >>> from tilewright import training
    >>> len(training.models.segments(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))))
    2
    """
    parts = [] if indivisible(model) else _parts(model)
    groups: list[list[nn.Module]] = []
    together = _together(parts)
    for k, child in enumerate(parts):
        if groups and together[k]:
            groups[-1].append(child)
        else:
            groups.append([child])
    return [parts[0] if len(parts) == 1 else nn.Sequential(*parts) for parts in groups] or [model]


def indivisible(model: nn.Module) -> str:
    """Why a model is one segment; empty if it may have several.

    Only what is plainly a composition is cut: `nn.Sequential` with its own forward pass, or a class that says so by a
    method ``segments``. Hooks of the model itself, and parameters and buffers outside of its parts, are of the whole.

    Parameters
    ----------
    model
        Any module.

    Examples
    --------
    >>> from torch import nn
    >>> from tilewright import training
    >>> training.models.indivisible(nn.LSTM(4, 4))
    'it is no nn.Sequential, and its class has no method segments()'
    """
    says = callable(getattr(type(model), "segments", None))
    if not says and not isinstance(model, nn.Sequential):
        return "it is no nn.Sequential, and its class has no method segments()"
    if not says and (
        type(model).forward is not nn.Sequential.forward
        or type(model).__call__ is not nn.Module.__call__
        or "parametrizations" in model._modules
    ):
        return "it has a forward pass of its own"
    if "forward" in vars(model):
        return "its forward pass has been replaced"
    if hooked(model):
        return "it has hooks around its passes"
    parts = _parts(model)
    if not all(isinstance(part, nn.Module) for part in parts):
        return "its segments are not all modules"
    inside = {id(t) for part in parts for t in (*part.parameters(), *part.buffers())}
    outside = [name for name, t in (*model.named_parameters(), *model.named_buffers()) if id(t) not in inside]
    return f"{outside[0]} belongs to none of its parts" if outside else ""


def _parts(model: nn.Module) -> list[nn.Module]:
    """What the model is a composition of. A module that stands twice in a `nn.Sequential` is applied twice."""
    if callable(getattr(type(model), "segments", None)):
        return list(model.segments())
    return [child for child in model._modules.values() if child is not None]


def _together(parts: list[nn.Module]) -> list[bool]:
    """For each part, whether it has to be in one segment with the part before."""
    found = [False] * len(parts)
    first: dict[int, int] = {}
    with_parameters = False
    for k, part in enumerate(parts):
        has = any(True for _ in part.parameters())
        found[k] = k > 0 and (not has or not with_parameters)
        with_parameters = with_parameters or has
        for tensor in (*part.parameters(), *part.buffers()):
            begin = first.setdefault(id(tensor), k)
            found[begin + 1 : k + 1] = [True] * (k - begin)
    return found


def cuts(model: nn.Module, count: int | None = None, least: int = 0) -> tuple[int, ...]:
    """Where to join the segments of a model: the first segment of each group, and the end.

    Parameters
    ----------
    model
        Any module.
    count
        How many groups; ValueError if the model has fewer segments, with the reason if it is `indivisible`.
    least
        Without ``count``: neighbours are joined until a group has so many parameters.

    Examples
    --------
    >>> from tilewright import training
    >>> training.models.cuts(training.models.ResNet18(width=4), count=3)
    (0, 2, 4, 6)
    """
    parts = segments(model)
    if count is not None:
        if not 1 <= count <= len(parts):
            reason = indivisible(model)
            raise ValueError(
                f"the model can be cut into 1 to {len(parts)} segments, not {count}" + (f": {reason}" if reason else "")
            )
        return tuple(k * len(parts) // count for k in range(count + 1))
    found, size = [0], 0
    for k, part in enumerate(parts):
        if size >= least and k:
            found.append(k)
            size = 0
        size += sum(p.numel() for p in part.parameters())
    if size < least and len(found) > 1:
        found.pop()
    return *found, len(parts)


def group(model: nn.Module, where: Sequence[int]) -> list[nn.Module]:
    """The segments of a model, joined as `cuts` says; a single one is the model itself, with its own forward pass.

    Parameters
    ----------
    model
        Any module.
    where
        What `cuts` returns.

    Examples
    --------
    >>> from tilewright import training
    >>> model = training.models.ResNet18(width=4)
    >>> [len(group) for group in training.models.group(model, training.models.cuts(model, count=3))]
    [2, 2, 2]
    """
    if len(where) == 2:
        return [model]
    parts = segments(model)
    return [parts[a] if b == a + 1 else nn.Sequential(*parts[a:b]) for a, b in pairwise(where)]
