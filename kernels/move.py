"""copy, zero, tril: tiles moved and cleared. Any dtype; NumPy releases the GIL while it copies."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

__all__ = ["copy", "tril", "zero"]


def copy(source: np.ndarray, target: np.ndarray) -> None:
    """target := source."""
    np.copyto(target, source)


def zero(target: np.ndarray) -> None:
    """target := 0."""
    target.fill(0)


def tril(target: np.ndarray) -> None:
    """Set what is above the diagonal to exact zeros, block by block so that most of it is a plain fill."""
    n = min(target.shape)
    if n <= 64:
        np.copyto(target, 0, where=_above(target.shape))
        return
    h = n // 2
    tril(target[:h, :h])
    target[:h, h:] = 0
    tril(target[h:, h:])


@lru_cache(maxsize=256)
def _above(shape: tuple[int, int]) -> np.ndarray:
    return ~np.tri(*shape, dtype=bool)
