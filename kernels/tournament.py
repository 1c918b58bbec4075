"""Tournament pivoting: the rows of a panel are chosen in matches between few tiles [1]_.

Each match is a factorisation with partial pivoting, whose first rows win. Winners are original rows, so a match is
decided by the numbers of the matrix. Candidates are an array of as many rows as the panel is wide, and a vector of
their places in the strip of the panel, -1 where there are fewer. The factor of the last match begins with that of its
winners.

On torch's tensors, CUDA's too, each match is torch's LU of the tiles where they are; winners move to where the graph
has its rooms, the host by default, where the matches that follow are those of arrays.

.. [1] L. Grigori, J. Demmel, H. Xiang, CALU: a communication optimal LU factorization algorithm, SIMAX 32 (2011).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tilewright.kernels import getrf, lu, reference, tensor_algebra
from tilewright.kernels.blas import Library
from tilewright.kernels.swaps import permutation, sequence
from tilewright.kernels.tile_op import TileOp

__all__ = ["CROWN", "ELECT", "ELECT_LAST", "MATCH", "MATCH_LAST"]

Shape = tuple[int, ...]
_LINE = 64


def flops_elect(places: Shape, tiles: Sequence[Shape], winners: Shape) -> float:
    return getrf.flops(tiles)


def flops_match(here: Shape, there: Shape, others: Shape, winners: Shape) -> float:
    return getrf.flops([others, winners])


def flops_match_last(piv: Shape, here: Shape, there: Shape, one: Shape, two: Shape, crown: Shape) -> float:
    return getrf.flops([one, two])


def _strip(parts: Sequence[np.ndarray]) -> np.ndarray:
    """The rows of all parts by columns, at an address that libraries take for all alike."""
    rows, columns, dtype = sum(map(len, parts)), parts[0].shape[1], parts[0].dtype
    raw = np.empty(rows * columns * dtype.itemsize + _LINE, np.uint8)
    start = -raw.ctypes.data % _LINE
    strip = raw[start : start + rows * columns * dtype.itemsize].view(dtype).reshape(columns, rows).T
    return np.concatenate(parts, out=strip)


def _places(tiles: Sequence[np.ndarray], at: Sequence[int], height: int) -> np.ndarray:
    spans = [np.arange(place * height, place * height + len(tile)) for tile, place in zip(tiles, at, strict=True)]
    return np.concatenate(spans).astype(np.int32)


def _build(play: Callable[..., None]) -> Callable[[Library, str], Callable[..., None] | None]:
    """``play(factored, ...)``, where ``factored(parts)`` gives the order of their rows and their factor."""

    def build(library: Library, letter: str) -> Callable[..., None] | None:
        factor = getrf.build(library, letter)
        return None if factor is None else _bound(play, factor)

    return build


def _bound(play: Callable[..., None], factor: Callable[..., None]) -> Callable[..., None]:
    def factored(parts: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        strip = _strip(parts)
        piv = np.zeros(min(strip.shape), np.int32)
        factor([strip], piv)
        return permutation(piv, len(strip)), strip

    return lambda *args: play(factored, *args)


def _elect(
    factored: Any, places: np.ndarray, tiles: Sequence[np.ndarray], winners: np.ndarray, at: Sequence[int], height: int
) -> None:
    """The candidates of some tiles, which are at these places of the strip, all but its last of one height."""
    order, _ = factored(tiles)
    _keep(tiles, _places(tiles, at, height), order, places, winners)


def _keep(
    parts: Sequence[np.ndarray], where: np.ndarray, order: np.ndarray, places: np.ndarray, winners: np.ndarray
) -> None:
    count = min(len(order), len(winners))
    _put(winners[:count], _stacked(parts)[order[:count]])
    places[:count], places[count:] = where[order[:count]], -1


def _stacked(parts: Sequence[Any]) -> Any:
    """The rows of all parts in a new array, or tensor."""
    return np.concatenate(parts) if isinstance(parts[0], np.ndarray) else tensor_algebra.stacked(parts)


def _put(target: Any, source: Any) -> None:
    """target := source, each an array or a tensor."""
    if isinstance(target, np.ndarray):
        target[...] = source if isinstance(source, np.ndarray) else source.cpu().numpy()
    else:
        target.copy_(tensor_algebra.as_tensor(source))


def _elect_last(
    factored: Any, piv: np.ndarray, tiles: Sequence[np.ndarray], crown: np.ndarray, at: Sequence[int], height: int
) -> None:
    """Where all of the panel is one set: its pivots, and the factor of their rows."""
    order, factor = factored(tiles)
    _crown(factor, order, _places(tiles, at, height), piv, crown)


def _crown(factor: np.ndarray, order: np.ndarray, where: np.ndarray, piv: np.ndarray, crown: np.ndarray) -> None:
    k = len(piv)
    piv[:] = sequence(where[order[:k]])
    _put(crown, factor[:k])


def _both(here: np.ndarray, there: np.ndarray, one: Any, two: Any) -> tuple[list[Any], np.ndarray]:
    counts = [int((places >= 0).sum()) for places in (here, there)]
    parts = [rows[:count] for rows, count in zip((one, two), counts, strict=True) if count]
    return parts, np.concatenate([here[: counts[0]], there[: counts[1]]])


def _match(factored: Any, here: np.ndarray, there: np.ndarray, others: np.ndarray, winners: np.ndarray) -> None:
    """The better half of two sets of candidates, in place of the second, whose places come first."""
    parts, where = _both(here, there, winners, others)
    order, _ = factored(parts)
    _keep(parts, where, order, here, winners)


def _match_last(
    factored: Any,
    piv: np.ndarray,
    here: np.ndarray,
    there: np.ndarray,
    one: np.ndarray,
    two: np.ndarray,
    crown: np.ndarray,
) -> None:
    """The last match: the pivots of the panel, and the factor of their rows."""
    parts, where = _both(here, there, one, two)
    order, factor = factored(parts)
    _crown(factor, order, where, piv, crown)


def _build_crown(library: Library, letter: str) -> Callable[..., None] | None:
    """The factor of the winners takes its place in the first tile; rows of the tile below it are divided by U."""
    divide = lu.TRSMU.build and lu.TRSMU.build(library, letter)
    return None if divide is None else lambda crown, tile: _place(divide, crown, tile)


def _place(divide: Callable[..., None], crown: np.ndarray, tile: np.ndarray) -> None:
    k = len(crown)
    tile[:k] = crown
    if len(tile) > k:
        divide(crown, tile[k:])


def _reference(play: Callable[..., None]) -> Callable[..., None]:
    return _bound(play, reference.getrf)


def _reference_crown(crown: np.ndarray, tile: np.ndarray) -> None:
    _place(reference.trsmu, crown, tile)


def _on_tensors(play: Callable[..., None]) -> Callable[..., None]:
    """``play`` with tensors, and arrays between them; vectors of places and pivots are read and written on the host."""

    def factored(parts: Sequence[Any]) -> tuple[np.ndarray, Any]:
        strip = tensor_algebra.stacked([tensor_algebra.as_tensor(part) for part in parts])
        piv = np.zeros(min(strip.shape), np.int32)
        tensor_algebra.getrf([strip], piv)
        return permutation(piv, len(strip)), strip

    def kernel(*args: Any) -> None:
        given = [_here(arg) for arg in args]
        play(factored, *given)
        for arg, here in zip(args, given, strict=True):
            if here is not arg:
                _put(arg, here)

    return kernel


def _here(value: Any) -> Any:
    """A vector on the host; anything else as it is."""
    vector = getattr(value, "ndim", 0) == 1 and not isinstance(value, np.ndarray)
    return value.cpu().numpy() if vector else value


def _tensor_crown(crown: Any, tile: Any) -> None:
    k = len(crown)
    _put(tile[:k], crown)
    if len(tile) > k:
        tensor_algebra.trsmu(tile[:k], tile[k:])


def _op(name: str, play: Callable[..., None], flops: Callable[..., float], named: tuple[bool, ...]) -> TileOp:
    return TileOp(
        name,
        _build(play),
        _reference(play),
        flops,
        ("getrf", "getrf"),
        named=named,
        by_columns=True,
        tensor=_on_tensors(play),
    )


ELECT = _op("elect", _elect, flops_elect, (False, True, True))
ELECT_LAST = _op("electl", _elect_last, flops_elect, (False, True, True))
MATCH = _op("match", _match, flops_match, (False, False, True, True))
MATCH_LAST = _op("matchl", _match_last, flops_match_last, (False, False, False, True, True, True))
CROWN = TileOp(
    "crown",
    _build_crown,
    _reference_crown,
    lambda crown, tile: 0.0,
    ("trsm", "trsm"),
    by_columns=True,
    tensor=_tensor_crown,
)
