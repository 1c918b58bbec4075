"""getrf: the factorisation of a panel, P A = L U with L unit lower and |l_ij| <= 1 [LAPACK ?getrf].

The panel is the strip of a block column, by columns. **Subnormal pivots**: OpenBLAS 0.3.30 returns a wrong U with info
0 where a pivot is subnormal, MKL 2024.2 a wrong one in single precision where other rows follow. LAPACK's own ?getrf2,
a recursion on halves of the columns, divides by such pivots. Where a library has it inside it is taken: as fast on tall
panels, and in place. Else there is a copy of the panel, a quarter of its time, and one with a pivot below the smallest
normal number is factored again, by `recursive`.

**Threshold pivoting** with tau < 1 takes the diagonal where it is at least tau times as large as the largest entry of
the column; else the largest of the first tile of the strip where that is; else the largest. So |l_ij| <= 1/tau, and
what is exchanged stays within one tile, which is on one rank, wherever that is good enough. No LAPACK has it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from tilewright.kernels import reference, tensor_algebra
from tilewright.kernels.blas import Library
from tilewright.kernels.columns import Calls, calls, column_ld, columns_of, no_exchange, on_strip, smallest_normal
from tilewright.kernels.layout import address, by_reference
from tilewright.kernels.swaps import swap_rows
from tilewright.kernels.tile_op import TileOp

__all__ = ["PLAIN", "TILE_OP", "build", "build_plain", "dividing", "flops", "flops_plain", "magnitude", "recursive"]

Shape = tuple[int, ...]

_NARROW = 16  # columns that are factored by rank-1 updates


def flops(tiles: Sequence[Shape], piv: Shape = ()) -> float:
    """m n^2 - n^3/3 for m >= n, and the same with m and n exchanged."""
    m, n = sum(tile[0] for tile in tiles), tiles[0][1]
    return float(max(m, n) * min(m, n) ** 2 - min(m, n) ** 3 / 3)


def flops_plain(a: Shape) -> float:
    return flops([a])


def build(library: Library, letter: str) -> Callable[[Sequence[np.ndarray], np.ndarray], None] | None:
    """The kernel for LAPACK type ``letter`` in "sdcz", or None if the library lacks ?getrf.

    ``piv`` gets the swaps, min(m, n) of them, counted from the first row of the strip, from 0. A pivot that is exactly
    zero ends nothing: it stays on the diagonal of U. ``threshold`` is tau of threshold pivoting; 1 is LAPACK's choice.
    """
    call, with_ = library.symbol(f"{letter}getrf"), calls(library, letter)
    if call is None or with_ is None:
        return None
    blas = with_
    divides = dividing(library, letter)
    call = divides or call

    def lapack(a: np.ndarray, piv: np.ndarray) -> None:
        info = ctypes.c_int(0)
        call(
            by_reference(a.shape[0]),
            by_reference(a.shape[1]),
            address(a),
            by_reference(column_ld(a)),
            address(piv),
            ctypes.byref(info),
        )
        np.subtract(piv, 1, out=piv)

    def factor(a: np.ndarray, piv: np.ndarray, near: int, threshold: float) -> None:
        if threshold < 1:
            recursive(a, piv, blas, near, threshold)
            return
        if divides is not None:
            lapack(a, piv)
            return
        before = a.copy(order="F")
        lapack(a, piv)
        if (magnitude(a.diagonal()) < smallest_normal(a.dtype)).any():
            np.copyto(a, before)
            recursive(a, piv, blas)

    def getrf(tiles: Sequence[np.ndarray], piv: np.ndarray, threshold: float = 1.0) -> None:
        rows = sum(map(len, tiles))
        if piv.shape != (min(rows, tiles[0].shape[1]),) or piv.dtype != np.int32 or not piv.flags.c_contiguous:
            raise ValueError(
                f"getrf: {rows} x {tiles[0].shape[1]} numbers need {min(rows, tiles[0].shape[1])} pivots "
                f"of int32, not {piv.shape} of {piv.dtype}"
            )
        on_strip(lambda strip: factor(strip, piv, len(tiles[0]), threshold), tiles)

    return getrf


def dividing(library: Library, letter: str) -> Callable[..., None] | None:
    """The library's ?getrf2, where it has one inside that can take the place of ?getrf; bits depend on it."""
    routine = library.inner(f"{letter}getrf2") if library.version.startswith("openblas") else None
    return routine if routine is not None and _keeps_rows(routine, letter) else None


def _keeps_rows(routine: Callable[..., None], letter: str) -> bool:
    """Whether ?getrf2 finds pivots among the rows also where all are NaN, which ?iamax may answer with row 0."""
    memory = np.full(16, np.nan, "fdFD"["sdcz".index(letter)])
    piv = np.zeros(2, np.int32)
    extent = by_reference(3), by_reference(2), address(memory[4:]), by_reference(3)
    routine(*extent, address(piv), ctypes.byref(ctypes.c_int(0)))
    return bool(((piv > (0, 1)) & (piv <= 3)).all())


def build_plain(library: Library, letter: str) -> Callable[[np.ndarray], None] | None:
    """A = L U without pivoting, in place; no LAPACK has it. A pivot that is exactly zero divides nothing."""
    with_ = calls(library, letter)
    if with_ is None:
        return None
    blas = with_

    def getrfn(a: np.ndarray) -> None:
        tile = columns_of(a)
        recursive(tile, None, blas)
        if tile is not a:
            np.copyto(a, tile)

    return getrfn


def magnitude(x: np.ndarray) -> np.ndarray:
    """|x|, or |Re x| + |Im x| of complex numbers: what pivots are compared by [LAPACK i?amax]."""
    return np.abs(x.real) + np.abs(x.imag) if x.dtype.kind == "c" else np.abs(x)


def chosen(size: np.ndarray, near: int, threshold: float) -> int:
    """The pivot among candidates of these magnitudes, of which ``near`` are in the first tile; the module says how.

    Where the bound underflows to zero, as among subnormal numbers, it is the largest.
    """
    largest = int(np.argmax(size))
    if threshold < 1:
        enough = threshold * size[largest]
        for place in (0, int(np.argmax(size[:near])) if near > 1 else 0):
            if size[place] >= enough > 0:
                return place
    return largest


def recursive(a: np.ndarray, piv: np.ndarray | None, blas: Calls, near: int = 0, threshold: float = 1.0) -> None:
    """P A = L U of a matrix by columns, or A = L U without ``piv``: halves of columns, then single ones [1]_.

    With ``threshold`` below 1 pivots are `chosen`, ``near`` rows being in the first tile.

    .. [1] S. Toledo, Locality of reference in LU decomposition with partial pivoting, SIMAX 18 (1997); LAPACK ?getrf2.
    """
    m, n = a.shape
    k = min(m, n)
    if k <= _NARROW:
        with np.errstate(all="ignore"):
            _narrow(a[:, :k], piv, near, threshold)
        h = k
    else:
        h = k // 2
        recursive(a[:, :h], None if piv is None else piv[:h], blas, near, threshold)
    if h == n:
        return
    right = a[:, h:]
    if piv is not None:
        swap_rows(piv[:h], [right])
    blas.left(a[:h, :h], right[:h], b"L", b"N", b"U")
    if h == m:
        return
    blas.gemm(a[h:, :h], right[:h], right[h:])
    if h == k:
        return
    recursive(right[h:], None if piv is None else piv[h:], blas, near - h, threshold)
    if piv is not None:
        swap_rows(piv[h:], [a[h:, :h]])
        piv[h:] += h


def _narrow(a: np.ndarray, piv: np.ndarray | None, near: int, threshold: float) -> None:
    """Column by column, in NumPy."""
    for j in range(a.shape[1]):
        if piv is not None:
            p = piv[j] = j + chosen(magnitude(a[j:, j]), near - j, threshold)
            if p != j:
                a[[j, p]] = a[[p, j]]
        if a[j, j] != 0:
            _divide(a[j + 1 :, j], a[j, j])
        a[j + 1 :, j + 1 :] -= a[j + 1 :, j, None] * a[j, j + 1 :]


def _divide(column: np.ndarray, pivot: np.generic) -> None:
    """Divide, scaled where the reciprocal of a complex pivot, which NumPy forms on the way, would overflow."""
    information = np.finfo(column.dtype)
    if column.dtype.kind == "c" and magnitude(np.asarray(pivot)) < information.tiny / information.eps:
        scale = column.real.dtype.type(2.0 ** (-information.minexp // 2))
        column *= scale
        pivot = pivot * scale
    column /= pivot


def _panel(m: int, n: int, k: int) -> Iterator[tuple[bool, tuple[int, ...], str]]:
    yield True, (m + k, n), ""


def _diagonal_tile(m: int, n: int, k: int) -> Iterator[tuple[bool, tuple[int, ...], str]]:
    yield True, (m, m), "triangle"


TILE_OP = TileOp(
    "getrf",
    build,
    reference.getrf,
    flops,
    ("getrf", "getrf"),
    named=(True, False),
    operands=_panel,
    adjoint=((_panel, (0.5,)),),
    by_columns=True,
    arguments=lambda a: ([a], no_exchange(a)),
    tensor=tensor_algebra.getrf,
)
PLAIN = TileOp(
    "getrfn",
    build_plain,
    reference.getrfn,
    flops_plain,
    operands=_diagonal_tile,
    by_columns=True,
    tensor=tensor_algebra.getrfn,
)
