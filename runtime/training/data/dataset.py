"""Images and labels in memory, and what to do with them on the way into a model."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

__all__ = ["CIFAR10_MEAN", "CIFAR10_STD", "CIFAR10_TRUE_STD", "Dataset", "Recipe"]

CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR10_STD = (0.2023, 0.1994, 0.2010)
"""That of the notebook, *Lab 2.1.4: Mixed Precision Training - Speed Up with AMP*: the widely copied mean of the
images' own deviations."""
CIFAR10_TRUE_STD = (0.2470, 0.2435, 0.2616)
"""The deviation of all pixels of a channel."""


@dataclass(frozen=True)
class Recipe:
    """How uint8 images become what a model gets: crop, flip, scale to [0, 1], normalise.

    Parameters
    ----------
    mean, std
        Those of the pixels in [0, 1], by channel: (x / 255 - mean) / std is what a model gets.
    pad
        Zeros on each side, of which a random crop takes back as many; 0 crops nothing.
    flip
        Mirror half of the images, left to right.

    Examples
    --------
    >>> from tilewright import training
    >>> train, test = training.data.synthetic(5, test=1)
    >>> train.with_recipe(pad=2, flip=False).recipe.pad
    2
    """

    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    pad: int = 0
    flip: bool = False


@dataclass(frozen=True)
class Dataset:
    """Images (n, channels, height, width) in uint8 and labels (n,) in int64.

    Or inputs (n, ...) of any shape in float32 or int64, which a model gets as they are, without a recipe.

    Parameters
    ----------
    images : (n, channels, height, width) uint8, or (n, ...) float32 or int64
    labels : (n,) int64
        From 0 to ``classes - 1``.
    classes
        How many there are.
    name
        For tables and messages.
    recipe
        How images are prepared.
    source
        Where it came from, and which checksums were right.

    Raises
    ------
    ValueError
        Images and labels do not belong together, or a label is not from 0 to ``classes - 1``.

    Examples
    --------
    >>> import numpy as np
    >>> from tilewright import training
    >>> data = training.data.Dataset(np.zeros((3, 1, 8, 8), np.uint8), np.array([0, 1, 1]), classes=2)
    >>> len(data), data.shape, data.as_rgb().shape
    (3, (1, 8, 8), (3, 32, 32))
    """

    images: np.ndarray
    labels: np.ndarray
    classes: int = 10
    name: str = "data"
    recipe: Recipe = field(default_factory=Recipe)
    source: str = ""

    def __post_init__(self) -> None:
        raw = self.images.dtype in (np.float32, np.int64) and self.images.ndim > 0
        if not raw and (self.images.ndim != 4 or self.images.dtype != np.uint8):
            raise ValueError(
                f"{self.name}: images must be uint8 of shape (n, channels, height, width), or inputs float32 or int64, "
                f"not {self.images.dtype} of shape {self.images.shape}"
            )
        if raw and self.recipe != Recipe():
            raise ValueError(f"{self.name}: a recipe is for images in uint8; inputs in {self.images.dtype} have none")
        if self.labels.shape != self.images.shape[:1] or self.labels.dtype != np.int64:
            raise ValueError(
                f"{self.name}: {len(self.images)} images need as many int64 labels, not {self.labels.dtype} of shape "
                f"{self.labels.shape}"
            )
        if len(self.labels) and not (self.labels.min() >= 0 and self.labels.max() < self.classes):
            raise ValueError(
                f"{self.name}: labels go from {self.labels.min()} to {self.labels.max()}, not from 0 to "
                f"{self.classes - 1}"
            )

    def __len__(self) -> int:
        return len(self.images)

    @property
    def shape(self) -> tuple[int, ...]:
        """(channels, height, width), or that of an input"""
        return self.images.shape[1:]

    def with_recipe(self, **changes: object) -> Dataset:
        """The same images, prepared otherwise: ``data.with_recipe(pad=2)``."""
        return replace(self, recipe=replace(self.recipe, **changes))  # type: ignore[arg-type]

    def take(self, index: slice | np.ndarray) -> Dataset:
        """Some of the images."""
        return replace(self, images=self.images[index], labels=self.labels[index])

    def as_rgb(self, size: int = 32) -> Dataset:
        """Three channels of ``size`` x ``size``: pixels repeated as often as fits, zeros around; for models of colour.

        ValueError if the images are larger.
        """
        if self.images.dtype != np.uint8:
            raise ValueError(f"{self.name}: inputs in {self.images.dtype} are no images in uint8")
        channels, height, width = self.shape
        if channels not in (1, 3) or max(height, width) > size:
            raise ValueError(f"{self.name}: images of shape {self.shape} do not fit into (3, {size}, {size})")
        times = size // max(height, width)
        images = self.images.repeat(times, 2).repeat(times, 3)
        rows, columns = size - height * times, size - width * times
        around = ((0, 0), (0, 0), (rows // 2, rows - rows // 2), (columns // 2, columns - columns // 2))
        images = np.pad(images, around)
        if channels == 1:
            images = np.ascontiguousarray(np.broadcast_to(images, (len(images), 3, size, size)))
        recipe = self.recipe
        if len(recipe.mean) == 1:
            recipe = replace(recipe, mean=recipe.mean * 3, std=recipe.std * 3)
        return replace(self, images=images, recipe=recipe)
