"""Data sets: small ones from packages, CIFAR-10 from disk in five forms, synthetic ones in the same forms."""

from __future__ import annotations

from tilewright.training.data.cifar10 import FORMS, cifar10
from tilewright.training.data.dataset import CIFAR10_MEAN, CIFAR10_STD, CIFAR10_TRUE_STD, Dataset, Recipe
from tilewright.training.data.small import digits, mnist5k
from tilewright.training.data.synthetic import synthetic, write_cifar10

__all__ = [
    "CIFAR10_MEAN",
    "CIFAR10_STD",
    "CIFAR10_TRUE_STD",
    "FORMS",
    "Dataset",
    "Recipe",
    "cifar10",
    "digits",
    "load",
    "mnist5k",
    "synthetic",
    "write_cifar10",
]


def load(name: str) -> tuple[Dataset, Dataset]:
    """(train, test) by the name that the command line knows: digits, mnist5k, cifar10:PATH, synthetic or synthetic:N.

    Parameters
    ----------
    name
        One of these.

    Raises
    ------
    ValueError
        Another name.

    Examples
    --------
    >>> from tilewright import training
    >>> train, test = training.data.load("synthetic:50")
    >>> len(train), len(test)
    (50, 10)
    """
    kind, _, rest = name.partition(":")
    if kind == "digits" and not rest:
        return digits()
    if kind == "mnist5k" and not rest:
        return mnist5k()
    if kind == "cifar10" and rest:
        return cifar10(rest)
    if kind == "synthetic" and (not rest or rest.isdigit()):
        return synthetic(int(rest or 2000))
    raise ValueError(f"unknown data {name!r}; known: digits, mnist5k, cifar10:PATH, synthetic, synthetic:N")
