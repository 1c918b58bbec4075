"""trtri: T := T^-1, the inverse of a lower triangular tile [LAPACK ?trtri].

torch's MKL has no ?trtri. There the triangle is split in two: [T11 0; T21 T22]^-1 has -T22^-1 T21 T11^-1 below, by two
?trsm, until ``SPLIT`` rows are left, whose inverse is a ?trsm on the identity.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator

import numpy as np

from tilewright.kernels import reference, trsml, trsmr
from tilewright.kernels.blas import Library
from tilewright.kernels.layout import address, by_reference, by_rows, kernel_ld
from tilewright.kernels.tile_op import TileOp

__all__ = ["TILE_OP", "build", "flops"]

Shape = tuple[int, int]
Kernel = Callable[..., int]

SPLIT = 32


def flops(t: Shape) -> float:
    """n^3/3, the leading term."""
    return t[0] ** 3 / 3


def build(library: Library, letter: str) -> Kernel | None:
    """The kernel for LAPACK type ``letter`` in "sdcz": ?trtri if the library has it, else by ?trsm.

    Only the lower triangle is referenced, and with ``unit`` not its diagonal, which counts as ones and becomes ones.
    Returns LAPACK's info: 0, or i > 0 if the i-th number on the diagonal is exactly zero; the tile is as it was then.
    """
    call = library.symbol(f"{letter}trtri")
    if call is None:
        return _by_trsm(library, letter)

    def trtri(t: np.ndarray, unit: bool = False) -> int:
        n = _order(t)
        if not n:
            return 0
        ldt = kernel_ld(t)
        if not ldt:
            return int(by_rows(lambda t: trtri(t, unit), t))
        info = ctypes.c_int(0)
        # (T^T)^-1 is the transposed inverse, and T^T is upper on what LAPACK sees of a row-major tile
        call(b"U", b"U" if unit else b"N", by_reference(n), address(t), by_reference(ldt), ctypes.byref(info))
        if unit:
            np.fill_diagonal(t, 1)
        return info.value

    return trtri


def _by_trsm(library: Library, letter: str) -> Kernel | None:
    left, right = trsml.build(library, letter), trsmr.build(library, letter)
    if left is None or right is None:
        return None

    def split(t: np.ndarray, unit: bool) -> None:
        n = len(t)
        if n <= SPLIT:
            inverse = np.eye(n, dtype=t.dtype)
            left(t, inverse, False, True, unit)
            np.copyto(t, inverse, where=np.tri(n, dtype=bool))
            return
        h = -(-n // (2 * SPLIT)) * SPLIT
        left(t[h:, h:], t[h:, :h], False, True, unit, -1.0)  # T21 := -T22^-1 T21
        right(t[:h, :h], t[h:, :h], True, unit)  # T21 := T21 T11^-1
        split(t[:h, :h], unit)
        split(t[h:, h:], unit)

    def trtri(t: np.ndarray, unit: bool = False) -> int:
        _order(t)
        if not unit and len(zeros := np.flatnonzero(t.diagonal() == 0)):
            return int(zeros[0]) + 1
        by_rows(lambda t: split(t, unit), t)
        return 0

    return trtri


def _order(t: np.ndarray) -> int:
    if t.shape[0] != t.shape[1]:
        raise ValueError(f"trtri: T {t.shape} is not square")
    return len(t)


def _operands(m: int, n: int, k: int) -> Iterator[tuple[bool, tuple[int, ...], str]]:
    yield True, (m, m), "triangle"


TILE_OP = TileOp("trtri", build, reference.trtri, flops, ("trtri", "trtri"), substitute="trsm", operands=_operands)
