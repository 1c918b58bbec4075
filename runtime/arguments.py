"""Checks of what users pass."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["choice", "dense", "positive"]


def positive(value: Any, what: str) -> int:
    """A positive integer. TypeError or ValueError that names ``what`` if it is none.

    >>> positive(np.int64(3), "workers")
    3
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{what} must be an integer, not {value!r}")
    if value < 1:
        raise ValueError(f"{what} must be at least 1, not {value}")
    return int(value)


def choice(value: Any, what: str, kind: type, named: str) -> Any:
    """``value`` if it is None or of a kind; TypeError that says what ``what`` is.

    >>> choice(3, "pool", dict, "a dict")
    Traceback (most recent call last):
        ...
    TypeError: pool must be a dict, not 3
    """
    if value is not None and not isinstance(value, kind):
        raise TypeError(f"{what} must be {named}, not {value!r}")
    return value


def dense(value: Any, what: str) -> np.ndarray:
    """``value`` as an array, as `numpy.asarray` makes it. ``what`` names it in messages.

    Raises
    ------
    TypeError
        It is sparse, or a pair as `scipy.linalg.cho_factor` returns.
    ValueError
        It is a masked array, and some entries are masked.

    Examples
    --------
    >>> import numpy as np
    >>> dense([[1, 2]], "A")
    array([[1, 2]])
    >>> dense(np.ma.masked_less([1.0, 2.0], 2.0), "b")
    Traceback (most recent call last):
        ...
    ValueError: b has 1 masked entries; say what they are with .filled(value)
    """
    if hasattr(value, "toarray") and hasattr(value, "nnz"):
        kind = type(value).__name__
        raise TypeError(f"{what} is sparse, a {kind}; pass its .toarray(), or use tw.SparseOperator and tw.cg")
    if isinstance(value, tuple) and len(value) == 2 and np.ndim(value[1]) == 0 and hasattr(value[0], "shape"):
        raise TypeError(f"{what} is a pair (c, lower), as of scipy.linalg.cho_factor; pass c itself and lower=lower")
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        count = int(np.ma.getmaskarray(value).sum())
        raise ValueError(f"{what} has {count} masked entries; say what they are with .filled(value)")
    return np.asarray(value)
