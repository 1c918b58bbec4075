"""Data sets and loaders of torch, read into memory once."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.utils import data as torch_data

from tilewright.training.data.dataset import Dataset

__all__ = ["taken", "two"]


def two(train: Any, test: Any, batch_size: int | None) -> tuple[Any, Any, int]:
    """(train, test, batch size) with data sets and loaders of torch as `Dataset`, and everything else as it is.

    Both have the classes of either. The batch size is that of a loader if none is given, else 64.

    Raises
    ------
    TypeError, ValueError
        As `taken`; or a loader has another batch size than the one given.
    """
    own = train.batch_size if isinstance(train, torch_data.DataLoader) else None
    if own is not None and batch_size not in (None, own):
        raise ValueError(f"batch_size is {batch_size}, and the loader that train is has {own}; leave out one of them")
    found = [taken(part, name) for part, name in ((train, "train"), (test, "test"))]
    if all(isinstance(part, Dataset) for part in found) and (train is not found[0] or test is not found[1]):
        classes = max(part.classes for part in found)
        found = [Dataset(part.images, part.labels, classes, part.name, part.recipe, part.source) for part in found]
    return found[0], found[1], (own or 64) if batch_size is None else batch_size


def taken(given: Any, name: str) -> Any:
    """A torch data set of pairs (x, y), or a loader of one, as a `Dataset`; anything else as it is.

    x is a tensor or array of float32 or int64, the same shape for all, that a model gets as it is; y a class from 0. A
    data set is read once, so what it does at random would be done once.

    Raises
    ------
    TypeError
        It is no data set with a length, or its items are no such pairs.
    ValueError
        An item differs from one reading to the next. Or a loader does something else than to take batches of a data
        set: for training in random order, none left out.
    """
    if isinstance(given, torch_data.DataLoader):
        _check_loader(given, name)
        given = given.dataset
    if isinstance(given, torch_data.IterableDataset):
        raise TypeError(f"{name} is an IterableDataset, which has no order to repeat; pass one with a length and items")
    if not isinstance(given, torch_data.Dataset):
        return given
    if isinstance(given, torch_data.TensorDataset) and len(given.tensors) == 2:
        images, labels = (tensor.detach().cpu().numpy() for tensor in given.tensors)
    else:
        images, labels = _read(given, name)
    if images.dtype not in (np.float32, np.int64):
        raise TypeError(f"{name} has inputs of {images.dtype}; they must be float32 or int64")
    if labels.dtype.kind not in "iu" or labels.ndim != 1:
        raise TypeError(
            f"{name} has labels of {labels.dtype}, {labels.shape[1:]} each; they must be classes: integers from 0"
        )
    labels = labels.astype(np.int64)
    if len(labels) and labels.min() < 0:
        raise ValueError(f"{name} has the label {labels.min()}; classes are integers from 0")
    kind = type(given).__name__
    return Dataset(images, labels, int(labels.max(initial=0)) + 1, name=kind, source=f"torch, {kind}")


def _check_loader(loader: Any, name: str) -> None:
    reason = ""
    if loader.batch_size is None or type(loader.batch_sampler) is not torch_data.BatchSampler:
        reason = "it has a batch_sampler"
    elif loader.collate_fn is not torch_data.default_collate:
        reason = "it has a collate_fn"
    elif type(loader.sampler) not in (torch_data.RandomSampler, torch_data.SequentialSampler):
        reason = f"it has a {type(loader.sampler).__name__}"
    elif name == "train" and type(loader.sampler) is torch_data.SequentialSampler:
        reason = "it does not shuffle"
    elif type(loader.sampler) is torch_data.RandomSampler and (
        loader.sampler.replacement or loader.sampler.num_samples != len(loader.dataset)
    ):
        reason = "its sampler takes some items often and others not"
    elif loader.drop_last and len(loader.dataset) % loader.batch_size:
        reason = "it drops the last batch"
    if reason:
        raise ValueError(
            f"{name} is a DataLoader that fit would not follow: {reason}. fit takes each item once an epoch"
            + (", in an order that seed= shuffles" if name == "train" else "")
            + f": pass {name}.dataset, and batch_size="
        )


def _read(data: Any, name: str) -> tuple[np.ndarray, np.ndarray]:
    """All items, stacked."""
    count = len(data)
    if not count:
        raise ValueError(f"{name} is an empty data set")
    items = []
    for k in range(count):
        item = data[k]
        if not isinstance(item, tuple | list) or len(item) != 2:
            raise TypeError(f"{name}: items must be pairs (x, y), not {type(item).__name__}")
        items.append((_array(item[0], name), _array(item[1], name)))
        if items[k][0].shape != items[0][0].shape:
            raise TypeError(
                f"{name}: inputs have shapes {items[0][0].shape} and {items[k][0].shape}; they must be equal"
            )
    again = [_array(part, name) for part in data[0]]
    if not all(np.array_equal(one, other) for one, other in zip(items[0], again, strict=True)):
        raise ValueError(
            f"{name}: its first item differs from one reading to the next; fit reads a data set once. Crops and flips "
            f"that are drawn anew are in training.data.Dataset(images, labels).with_recipe(pad=2, flip=True)"
        )
    return np.stack([x for x, _ in items]), np.stack([y for _, y in items])


def _array(value: Any, name: str) -> np.ndarray:
    if isinstance(value, torch.Tensor):
        return np.asarray(value.detach().cpu().numpy())
    if isinstance(value, np.ndarray | np.generic | int | float) and not isinstance(value, bool):
        return np.asarray(value)
    raise TypeError(f"{name}: items must be tensors, arrays or numbers, not {type(value).__name__}; transform them")
