"""Row exchanges of a pivoted factorisation: sequential swaps, as LAPACK's ?laswp applies them.

Swap t exchanges row t with row ``piv[t]``, counted from 0 and from the first row of the strip. They move numbers and
compute nothing, so it does not matter for bits who carries them out.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from tilewright.kernels import blas
from tilewright.kernels.columns import column_ld, joined, tops
from tilewright.kernels.layout import address, by_reference

__all__ = [
    "by_tile",
    "moved",
    "one_after_the_other",
    "permutation",
    "sequence",
    "swap",
    "swap_columns",
    "swap_rows",
    "take",
    "trade",
]

_LETTERS = {"f": "s", "d": "d", "F": "c", "D": "z"}


def swap(pivots: Sequence[np.ndarray], tiles: Sequence[np.ndarray], backwards: bool = False) -> None:
    """Apply the swaps of several panels to a block column.

    The t-th vector counts rows from the t-th tile on. ``backwards`` undoes what the same call without it did.

    Where the tiles are one array and each but the last has as many swaps as rows, all are one call, which carries them
    out column by column, in a cache.
    """
    pivots, starts = pivots[: len(tiles)], tops(tiles)[: len(pivots)]
    whole = joined(tiles) if len(pivots) else None
    ends = zip(pivots, starts, starts[1:], strict=False)
    if whole is not None and all(len(piv) == below - top for piv, top, below in ends):
        _in_array(one_after_the_other(pivots, tiles), whole, backwards)
        return
    steps = list(enumerate(pivots))
    for first, piv in reversed(steps) if backwards else steps:
        swap_rows(piv, tiles[first:], backwards)


def one_after_the_other(pivots: np.ndarray | Sequence[np.ndarray], tiles: Sequence[Any]) -> np.ndarray:
    """The swaps of panels of which each but the last has one for each row of its tile, counted from the first tile."""
    if isinstance(pivots, np.ndarray):
        return pivots
    return np.concatenate([piv + np.int32(top) for piv, top in zip(pivots, tops(tiles), strict=False)])


def swap_columns(pivots: Sequence[np.ndarray], tiles: Sequence[np.ndarray], backwards: bool = False) -> None:
    """The same with the columns of a block row; by columns in one array, they move as a whole [LAPACK ?lapmt]."""
    turned = [tile.T for tile in tiles]
    whole = joined(turned)
    letter = _LETTERS.get(tiles[0].dtype.char, "")
    lapmt = _inner(f"{letter}lapmt") if letter and whole is not None and column_ld(whole.T) else None
    if lapmt is None or whole is None:
        swap(pivots, turned, backwards)
        return
    order = np.arange(len(whole), dtype=np.int32)
    swap(
        pivots, [order[top : top + len(tile), None] for top, tile in zip(tops(turned), turned, strict=True)], backwards
    )
    order += 1
    lapmt(
        by_reference(1),  # column order[j] goes to j
        by_reference(whole.shape[1]),
        by_reference(len(whole)),
        address(whole),
        by_reference(column_ld(whole.T)),
        address(order),
    )


def swap_rows(piv: np.ndarray, tiles: Sequence[np.ndarray], backwards: bool = False) -> None:
    """Apply one panel's swaps to the strip of these tiles."""
    whole = joined(tiles)
    if whole is not None:
        _in_array(piv, whole, backwards)
        return
    targets, sources = moved(piv, backwards)
    starts = np.array(tops(tiles))
    rows = np.empty((len(sources), tiles[0].shape[1]), tiles[0].dtype)
    for i, places, local in by_tile(sources, starts):
        rows[places] = tiles[i][local]
    for i, places, local in by_tile(targets, starts):
        tiles[i][local] = rows[places]


def by_tile(rows: np.ndarray, starts: np.ndarray) -> Any:
    """(tile, which of ``rows`` it has, where in it)."""
    owner = np.searchsorted(starts, rows, side="right") - 1
    for i in np.unique(owner):
        places = np.flatnonzero(owner == i)
        yield int(i), places, rows[places] - starts[i]


def _in_array(piv: np.ndarray, a: np.ndarray, backwards: bool) -> None:
    letter = _LETTERS.get(a.dtype.char, "")
    laswp = _inner(f"{letter}laswp") if letter else None
    ld = column_ld(a)
    if laswp is None or not ld:
        targets, sources = moved(piv, backwards)
        a[targets] = a[sources]
        return
    k = len(piv)
    if k and np.maximum.reduce(piv.view(np.uint32)) >= len(a):  # LAPACK believes it
        row = piv[piv.view(np.uint32).argmax()]
        raise ValueError(f"row exchanges of a matrix of {len(a)} rows go to row {row}: pivots are damaged")
    one_based = piv + np.int32(1)
    laswp(
        by_reference(a.shape[1]),
        address(a),
        by_reference(ld),
        by_reference(1),
        by_reference(k),
        address(one_based),
        by_reference(-1 if backwards else 1),
    )


@cache
def _inner(routine: str) -> Any:
    """SciPy's: MKL as torch has it exports none that moves rows or columns."""
    return blas.load("openblas").symbol(routine)


def moved(piv: np.ndarray, backwards: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """(targets, sources): these swaps put row ``sources[t]`` at ``targets[t]``; rows that stay are left out."""
    place: dict[int, int] = {}  # row -> which row is there now
    swaps = list(enumerate(piv.tolist()))
    for row, other in reversed(swaps) if backwards else swaps:
        if row != other:
            place[row], place[other] = place.get(other, other), place.get(row, row)
    found = [(row, source) for row, source in place.items() if row != source]
    pairs = np.array(found, np.intp).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1]


def permutation(piv: np.ndarray, rows: int) -> np.ndarray:
    """The rows in the order in which the swaps leave them: ``a[permutation(piv, len(a))]`` is P A."""
    order = np.arange(rows)
    targets, sources = moved(piv)
    order[targets] = sources
    return order


def sequence(chosen: np.ndarray) -> np.ndarray:
    """Swaps that put row ``chosen[t]`` at t, int32: those of a search that took these rows in this order."""
    place: dict[int, int] = {}  # row -> which row is there now
    where: dict[int, int] = {}  # row -> where it is now
    piv = np.empty(len(chosen), np.int32)
    for t, row in enumerate(chosen.tolist()):
        here = where.get(row, row)
        piv[t] = here
        other = place.get(t, t)
        place[here], where[other] = other, here
        place[t], where[row] = row, t
    return piv


def trade(piv: np.ndarray, top: np.ndarray, tiles: Sequence[np.ndarray], up: np.ndarray, places: Sequence[int]) -> None:
    """What a rank does for the exchanges in a block column whose first tile, ``top``, another rank has.

    Its ``tiles`` are those at these places of the strip, counted from ``top``, all but the last as tall as that. Row t
    of ``up`` gets the row of them that goes to row t of ``top``; rows of ``top`` go to where the swaps want them. No
    row goes from below ``top`` to below ``top``.
    """
    n = len(top)
    targets, sources = moved(piv)
    for tile, place in zip(tiles, places, strict=True):
        rise, fall = (_within(rows, place, n, tile) for rows in (sources, targets))
        up[targets[rise]] = tile[sources[rise] - place * n]
        tile[targets[fall] - place * n] = top[sources[fall]]


def take(
    piv: np.ndarray, ups: Sequence[np.ndarray], tiles: Sequence[np.ndarray], places: Sequence[Sequence[int]]
) -> None:
    """What the rank of the first tile does: exchanges among its own ``tiles``, and rows from others.

    ``places`` has those of its tiles, then those of the tiles that each of ``ups`` comes from.
    """
    n = len(tiles[0])
    old = tiles[0].copy()
    targets, sources = moved(piv)
    stay = (targets < n) & (sources < n)
    tiles[0][targets[stay]] = old[sources[stay]]
    for tile, place in zip(tiles[1:], places[0][1:], strict=True):
        rise, fall = (_within(rows, place, n, tile) for rows in (sources, targets))
        tiles[0][targets[rise]] = tile[sources[rise] - place * n]
        tile[targets[fall] - place * n] = old[sources[fall]]
    for up, there in zip(ups, places[1:], strict=True):
        rise = np.isin(sources // n, there) & (sources >= n)
        tiles[0][targets[rise]] = up[targets[rise]]


def _within(rows: np.ndarray, place: int, n: int, tile: np.ndarray) -> np.ndarray:
    return (rows >= place * n) & (rows < place * n + len(tile))
