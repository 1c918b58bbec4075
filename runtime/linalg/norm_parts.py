"""Norms from what tasks found of each tile, with `tilewright.ops.gauge` or `squares`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from tilewright.graph import Handle, R, TaskGraph, W
from tilewright.ops import gauge, squares
from tilewright.scalars import shown

__all__ = ["Gauged", "check_order", "insert_size", "norm_from"]

Place = tuple[int, ...]

_ORDERS = (None, "fro", 1, -1, np.inf, -np.inf, 2, -2, "nuc")


def check_order(given: Any, name: str) -> None:
    """ValueError for what is none of NumPy's orders."""
    if given is not None and (type(given) not in (int, float, str) or given not in _ORDERS[1:]):
        raise ValueError(f"{name} must be one of {', '.join(map(repr, _ORDERS))}, not {shown(given)}")


def insert_size(g: TaskGraph, tile: Handle, sizes: Handle, frobenius: bool) -> None:
    """Insert what a norm needs of a tile: `squares` of it, or `gauge`."""
    if frobenius:
        g.insert(squares, R(tile), W(sizes))
    else:
        g.insert(gauge, R(tile), W(sizes), [], False)


class Gauged(NamedTuple):
    """Sizes of an m x n matrix; all are NaN where an entry is."""

    largest: float
    """The largest |a_ij|."""
    columns: np.ndarray
    """(n,) sums of |a_ij| along each column."""
    rows: np.ndarray
    """(m,) along each row."""

    @classmethod
    def of(cls, parts: Mapping[Place, np.ndarray | None], shape: tuple[int, int], nb: int) -> Gauged:
        """From a (1, 1 + columns + rows) array for each tile of ``nb`` rows; None for one that another rank has."""
        rows, columns, largest = np.zeros(shape[0]), np.zeros(shape[1]), 0.0
        for (i, j), sizes in parts.items():
            if sizes is None:
                continue
            width = min(nb, shape[1] - j * nb)
            along, down = sizes[0, 1 : 1 + width], sizes[0, 1 + width :]
            largest = float(np.maximum(largest, sizes[0, 0]))  # not max, which may lose a NaN
            columns[j * nb : j * nb + width] += along
            rows[i * nb : i * nb + len(down)] += down
        return cls(largest, columns, rows)


def norm_from(parts: Mapping[Place, np.ndarray], shape: tuple[int, int], nb: int, ord: Any) -> np.float64:
    """The norm of a matrix in tiles of ``nb`` rows, from its parts by tile index."""
    if ord in (None, "fro"):
        return np.float64(_frobenius(parts))
    if 0 in shape:
        raise ValueError(f"the {ord}-norm of an empty matrix is not defined")
    sizes = Gauged.of(parts, shape, nb)
    along = sizes.columns if abs(ord) == 1 else sizes.rows
    return np.float64(along.max() if ord > 0 else along.min())


def _frobenius(parts: Mapping[Place, np.ndarray]) -> float:
    tops = np.array([found[0, 0] for found in parts.values()])
    top = tops.max(initial=0.0)
    if not top or not np.isfinite(top):
        return float(top)
    return float(top * np.sqrt(sum(found[0, 1] * (found[0, 0] / top) ** 2 for found in parts.values())))
