"""Order, crops and flips that depend on (seed, epoch, index) alone.

Each random number is a hash of its key: a counter-based generator [1]_. So it does not matter which worker draws it,
when, or what was drawn before; a resumed run draws what an uninterrupted one would have drawn.

.. [1] J. Salmon et al., Parallel random numbers: as easy as 1, 2, 3, SC'11. The hash is splitmix64's: G. Steele et
   al., Fast splittable pseudorandom number generators, OOPSLA 2014.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch

from tilewright.training.data.dataset import Recipe

__all__ = ["bits", "crop_and_flip", "normalise", "order"]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_ORDER, _CROP = 1, 2  # what the numbers are for


def bits(index: np.ndarray, *key: int) -> np.ndarray:
    """64 random bits for each index, shape of ``index``: splitmix64 of the key's words and the index."""
    state = np.zeros((), dtype=np.uint64)
    for word in key:
        state = _mix(state ^ np.uint64(word % 2**64))
    return _mix(state ^ _mix(index.astype(np.uint64)))


def _mix(z: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # arithmetic modulo 2^64
        z = z + _GOLDEN
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: np.ndarray = z ^ (z >> np.uint64(31))
    return mixed


@lru_cache(maxsize=4)
def order(n: int, seed: int, epoch: int) -> np.ndarray:
    """The order of n images in an epoch: sorted by their random bits. Read-only; O(n log n) once an epoch."""
    permutation = np.argsort(bits(np.arange(n), seed, epoch, _ORDER), kind="stable")
    permutation.setflags(write=False)
    return permutation


def crop_and_flip(images: np.ndarray, index: np.ndarray, recipe: Recipe, seed: int, epoch: int) -> np.ndarray:
    """Images (n, c, h, w) shifted by up to ``pad`` pixels, zeros coming in, and half of them mirrored.

    ``index`` names each image in its data set. One gather for the whole batch.
    """
    if not recipe.pad and not recipe.flip:
        return images
    n, _, height, width = images.shape
    random = bits(index, seed, epoch, _CROP)
    choices = np.uint64(2 * recipe.pad + 1)
    down, right = (random >> np.uint64(8)) % choices, (random >> np.uint64(32)) % choices
    rows = np.arange(height) + down.astype(np.int64)[:, None]  # rows of the padded image
    columns = np.arange(width) + right.astype(np.int64)[:, None]
    if recipe.flip:
        mirrored = (random & np.uint64(1)).astype(bool)
        columns[mirrored] = columns[mirrored, ::-1]
    if recipe.pad:
        images = np.pad(images, ((0, 0), (0, 0), (recipe.pad,) * 2, (recipe.pad,) * 2))
    picked: np.ndarray = images[np.arange(n)[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    return np.ascontiguousarray(picked.transpose(0, 3, 1, 2))


def normalise(images: np.ndarray, recipe: Recipe) -> np.ndarray:
    """(images / 255 - mean) / std in float32, by channel; what is no uint8 is taken as it is.

    In memory of torch, which begins at a multiple of 64 bytes, as NumPy's does not.
    """
    made: np.ndarray = torch.empty(images.shape, dtype=_DTYPES[images.dtype]).numpy()
    if images.dtype != np.uint8:
        made[...] = images
        return made
    scale, shift = _line(recipe)
    np.multiply(images, scale, out=made, dtype=np.float32)
    made -= shift
    return made


_DTYPES = {np.dtype(np.uint8): torch.float32, np.dtype(np.float32): torch.float32, np.dtype(np.int64): torch.int64}


@lru_cache(maxsize=16)
def _line(recipe: Recipe) -> tuple[np.ndarray, np.ndarray]:
    """1 / (255 std) and mean / std by channel."""
    scale = np.array([1 / (255 * s) for s in recipe.std], dtype=np.float32)[:, None, None]
    shift = np.array([m / s for m, s in zip(recipe.mean, recipe.std, strict=True)], dtype=np.float32)[:, None, None]
    return scale, shift
