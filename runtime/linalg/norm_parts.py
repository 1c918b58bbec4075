"""Norms from what tasks found of each tile, with `tilewright.ops.gauge` or `squares`."""

from __future__ import annotations

from typing import Any

import numpy as np

from tilewright.scalars import shown

__all__ = ["check_order", "norm_from"]

_ORDERS = (None, "fro", 1, -1, np.inf, -np.inf, 2, -2, "nuc")


def check_order(given: Any, name: str) -> None:
    """ValueError for what is none of NumPy's orders."""
    if given is not None and (type(given) not in (int, float, str) or given not in _ORDERS[1:]):
        raise ValueError(f"{name} must be one of {', '.join(map(repr, _ORDERS))}, not {shown(given)}")


def norm_from(parts: dict[Any, np.ndarray], shape: tuple[int, int], nb: int, ord: Any) -> np.float64:
    """The norm of a matrix in tiles of ``nb`` rows, from its parts by tile index."""
    if ord in (None, "fro"):
        return np.float64(_frobenius(parts))
    if 0 in shape:
        raise ValueError(f"the {ord}-norm of an empty matrix is not defined")
    rows, along = abs(ord) != 1, np.zeros(shape[0 if abs(ord) != 1 else 1])
    for (i, j), found in parts.items():
        width = min(nb, shape[1] - j * nb)
        part, first = (found[0, 1 + width :], i * nb) if rows else (found[0, 1 : 1 + width], j * nb)
        along[first : first + len(part)] += part
    return np.float64(along.max() if ord > 0 else along.min())


def _frobenius(parts: dict[Any, np.ndarray]) -> float:
    tops = np.array([found[0, 0] for found in parts.values()])
    top = tops.max(initial=0.0)
    if not top or not np.isfinite(top):
        return float(top)
    return float(top * np.sqrt(sum(found[0, 1] * (found[0, 0] / top) ** 2 for found in parts.values())))
