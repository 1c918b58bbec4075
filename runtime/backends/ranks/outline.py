"""Arrays of which only shape and dtype mean something: data that lies in another process."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["Outline"]


class Outline(np.ndarray):
    """An array in no memory to speak of: all its elements are one. Its views are outlines too.

    Examples
    --------
    >>> from tilewright.backends.ranks.outline import Outline
    >>> tile = Outline.of((1000, 1000), "float64")[:10].T
    >>> tile.shape, str(tile.dtype), type(tile).__name__
    ((1000, 10), 'float64', 'Outline')
    """

    @classmethod
    def of(cls, shape: tuple[int, ...], dtype: Any) -> Outline:
        dtype = np.dtype(dtype)
        return cls(shape, dtype, np.zeros(1, dtype), 0, (0,) * len(shape))
