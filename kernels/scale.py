"""Powers of two: they change no bit of a number that neither overflows nor underflows."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["scaled"]


def scaled(x: np.ndarray, exponent: Any) -> np.ndarray:
    """x 2^exponent, also where the power itself has no number; x itself for 0.

    Parameters
    ----------
    x
        (n,) or (n, m), real or complex.
    exponent
        An integer, or (m,) of them, one for each column.

    Examples
    --------
    >>> scaled(np.array([3.0 + 1.0j]), 2)
    array([12.+4.j])
    """
    if not np.any(exponent):
        return x
    with np.errstate(over="ignore", under="ignore"):
        if x.dtype.kind != "c":
            return np.asarray(np.ldexp(x, exponent))
        parts = np.ascontiguousarray(x).view(x.real.dtype)
        return np.asarray(np.ldexp(parts, np.repeat(exponent, 2) if np.ndim(exponent) else exponent)).view(x.dtype)
