"""How LAPACK sees a strip: tiles of one block column, by columns.

A factorisation by columns, as SciPy's, has its tiles in column-major order: the transposes of what
`tilewright.kernels.layout` describes, with the same rules. Other tiles are copied, so bits do not depend on the layout.

Tiles below each other that are views of one array are one matrix to LAPACK, a *strip*; tiles in memory of their own are
gathered into one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from tilewright.kernels.blas import Library
from tilewright.kernels.layout import address, by_reference, kernel_ld, row_ld, scalar
from tilewright.kernels.scratch import room

__all__ = ["Calls", "calls", "column_ld", "columns_of", "joined", "no_exchange", "on_strip", "smallest_normal", "tops"]


def column_ld(tile: np.ndarray) -> int:
    """Leading dimension of ``tile`` read column by column, or 0 if kernels cannot take it so."""
    return kernel_ld(tile.T)


def columns_of(tile: np.ndarray) -> np.ndarray:
    """The tile as kernels take it, see `column_ld`, or a copy that is so."""
    return tile if column_ld(tile) else tile.copy(order="F")


def joined(tiles: Sequence[np.ndarray], across: int = 1) -> np.ndarray | None:
    """The tiles as one array, if they lie in one so; else None.

    Below each other, or ``across`` of them beside each other in each row of tiles, row by row.
    """
    first = tiles[0]
    if len(tiles) == 1:
        return first
    step, widths = first.strides, [tile.shape[1] for tile in tiles[:across]]
    place: int = first.__array_interface__["data"][0]
    rows = columns = 0
    for number, tile in enumerate(tiles):
        column = number % across
        if tile.strides != step or tile.shape[1] != widths[column]:
            return None
        if tile.__array_interface__["data"][0] != place + rows * step[0] + columns * step[1]:
            return None
        columns += widths[column]
        if column == across - 1:
            rows, columns = rows + len(tile), 0
    return np.lib.stride_tricks.as_strided(first, (rows, sum(widths)), step)


def on_strip(
    kernel: Callable[[np.ndarray], Any], tiles: Sequence[np.ndarray], across: int = 1, *, written: bool = True
) -> Any:
    """What ``kernel`` returns for the strip of these tiles, by columns; a copy goes back into them if ``written``.

    ``across`` as for `joined`.
    """
    whole = joined(tiles, across)
    if whole is not None and column_ld(whole):
        return kernel(whole)
    lefts = tops([tile.T for tile in tiles[:across]]) * (len(tiles) // across)
    above = [top for top in tops(tiles[::across]) for _ in range(across)]
    shape = (sum(map(len, tiles[::across])), sum(tile.shape[1] for tile in tiles[:across]))
    #   a panel that is only read is gathered around the tiles that it changes
    strip = room(("strip", written), shape[::-1], tiles[0].dtype).T
    parts = [
        strip[top : top + len(tile), left : left + tile.shape[1]]
        for tile, top, left in zip(tiles, above, lefts, strict=True)
    ]
    for part, tile in zip(parts, tiles, strict=True):
        np.copyto(part, tile)
    result = kernel(strip)
    if written:
        for part, tile in zip(parts, tiles, strict=True):
            np.copyto(tile, part)
    return result


def no_exchange(tile: Any) -> Any:
    """Pivots of a tile that exchange nothing; the shape of the vector from the shape of a tile."""
    k = min(getattr(tile, "shape", tile))
    return (k,) if isinstance(tile, tuple) else np.arange(k, dtype=np.int32)


def tops(tiles: Sequence[np.ndarray]) -> list[int]:
    """The first row of each tile in their strip."""
    found, row = [], 0
    for tile in tiles:
        found.append(row)
        row += len(tile)
    return found


def smallest_normal(dtype: Any) -> float:
    """Below it numbers are subnormal, and 1/x may overflow."""
    return float(np.finfo(dtype).tiny)


class Calls(NamedTuple):
    """BLAS on matrices by columns: tiles that have a `column_ld`, and parts of those."""

    gemm: Callable[..., None]
    """gemm(A, B, C, flag): C := C - op(A) B."""
    left: Callable[..., None]
    """left(T, X, uplo, flag, diag): X := op(T)^-1 X."""
    right: Callable[..., None]
    """right(T, X, uplo, flag, diag): X := X op(T)^-1."""


def calls(library: Library, letter: str) -> Calls | None:
    """The routines for BLAS type ``letter`` in "sdcz", or None if the library lacks one."""
    gemm, trsm = library.symbol(f"{letter}gemm"), library.symbol(f"{letter}trsm")
    if gemm is None or trsm is None:
        return None
    minus_one, one = scalar(letter, -1), scalar(letter, 1)

    def ld(tile: np.ndarray) -> int:
        return row_ld(tile.T)

    def multiply(a: np.ndarray, b: np.ndarray, c: np.ndarray, flag: bytes = b"N") -> None:
        m, n = c.shape
        if not (c.size and len(b)):
            return
        gemm(
            flag,
            b"N",
            by_reference(m),
            by_reference(n),
            by_reference(len(b)),
            minus_one,
            address(a),
            by_reference(ld(a)),
            address(b),
            by_reference(ld(b)),
            one,
            address(c),
            by_reference(ld(c)),
        )

    def substitute(side: bytes) -> Callable[..., None]:
        def call(t: np.ndarray, x: np.ndarray, uplo: bytes, flag: bytes, diag: bytes) -> None:
            m, n = x.shape
            if not x.size:
                return
            trsm(
                side,
                uplo,
                flag,
                diag,
                by_reference(m),
                by_reference(n),
                one,
                address(t),
                by_reference(ld(t)),
                address(x),
                by_reference(ld(x)),
            )

        return call

    return Calls(multiply, substitute(b"L"), substitute(b"R"))
