"""geadd, rescale, retile, regular: entry by entry. Any dtype; no GIL.

Complex numbers are multiplied by their parts: NumPy's own product adds up in another order on some CPUs and at some
alignments, so that equal numbers would give other bits.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tilewright.kernels.move import copy

__all__ = ["geadd", "regular", "rescale", "retile"]


def geadd(x: np.ndarray, y: np.ndarray, flag: str = "N", alpha: complex = 1.0, beta: complex = 0.0) -> None:
    """Y := alpha op(X) + beta Y with op of ``flag``: X, "T" X^T, "C" X^H, "J" conj(X). With beta = 0 Y is not read.

    X of another dtype is converted.
    """
    source = x.T if flag in "TC" else x
    if source.shape != y.shape:
        raise ValueError(f"geadd: X {x.shape} and Y {y.shape} do not fit, flag {flag}")
    conj = flag in "CJ" and x.dtype.kind == "c"
    with np.errstate(all="ignore"):
        if beta == 0:
            copy(source, y)
            if conj:
                np.conjugate(y, out=y)
            rescale(y, alpha)
            return
        term = np.conjugate(source) if conj else source
        rescale(y, beta)
        if alpha == -1:
            np.subtract(y, term, out=y)
            return
        if alpha != 1:
            term = term.astype(y.dtype)
            rescale(term, alpha)
        np.add(y, term, out=y)


def rescale(y: np.ndarray, alpha: complex, part: str = "") -> None:
    """Y := alpha Y; for alpha = 0 zeros, whatever was there. Of the triangle ``part``, "L" or "U", if that is said."""
    if alpha == 1:
        return
    if part:
        whole = y.copy()
        rescale(whole, alpha)
        lower = np.tri(len(y), y.shape[1], dtype=bool)
        np.copyto(y, whole, where=lower if part == "L" else lower.T)
        return
    if alpha == 0:
        y.fill(0)
        return
    with np.errstate(all="ignore"):
        if y.dtype.kind != "c":
            np.multiply(y, y.dtype.type(alpha.real), out=y)
            return
        kind = y.real.dtype.type
        a, b = kind(alpha.real), kind(alpha.imag)
        if b == 0:
            np.multiply(y.real, a, out=y.real)
            np.multiply(y.imag, a, out=y.imag)
            return
        real, imag = y.real.copy(), y.imag.copy()
        np.subtract(a * real, b * imag, out=y.real)
        np.add(a * imag, b * real, out=y.imag)


def retile(pieces: Sequence[np.ndarray], y: np.ndarray, places: Sequence[tuple[int, int, int, int]]) -> None:
    """Y := what of other tiles lies in it. ``places``: row and column of Y in each of them, negative where it begins
    before that tile does, and rows and columns of Y up to which they reach.

    See `tilewright.linalg.level3.retiled`.
    """
    m, n = y.shape
    for piece, (row, column, last_row, last_column) in zip(pieces, places, strict=True):
        top, left = max(-row, 0), max(-column, 0)
        bottom, right = min(last_row, m), min(last_column, n)
        y[top:bottom, left:right] = piece[row + top : row + bottom, column + left : column + right]


def regular(tile: np.ndarray, count: np.ndarray, *place: int) -> int:
    """The number, from 1, of the first exact zero on the diagonal of a tile of U; 0 if there is none.

    ``count``, (1,), gets the number of tiles that were looked at: they are looked at in order. ``place`` is for the
    message.
    """
    count += 1
    zeros = np.flatnonzero(tile.diagonal() == 0)
    return int(zeros[0]) + 1 if len(zeros) else 0
