"""geqrf and larfb: the QR factorisation of a panel, and its reflections applied to a block column.

The panel is the strip of a block column, by columns; one task. It is halved until 32 columns are left, which the
library factors [LAPACK ?geqrf]; all else are products of matrices [1]_. Where V^H V = G is known, T follows from one
substitution, as T^-1 + T^-H = G and so T = (I + diag(tau) triu(G, 1))^-1 diag(tau) [2]_: ?larft would go through the
panel a column at a time. T is whole, k x k.

.. [1] E. Elmroth and F. Gustavson, Applying recursion to serial and parallel QR factorization leads to better
   performance, IBM J. Res. Dev. 44 (2000).
.. [2] T. Joffrain et al., Accumulating Householder transformations, revisited, ACM TOMS 32 (2006).
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from tilewright.kernels import householder
from tilewright.kernels.blas import Library
from tilewright.kernels.columns import Calls, calls, column_ld, on_strip
from tilewright.kernels.geqrt import flops_geqrt, flops_unmqr
from tilewright.kernels.householder import by_columns, put_back
from tilewright.kernels.layout import address, by_reference
from tilewright.kernels.scratch import room
from tilewright.kernels.tile_op import TileOp

__all__ = ["GEQRF", "LARFB", "flops_geqrf", "flops_larfb"]

Shape = tuple[int, ...]
_NARROW = 32  # columns that the library factors
_WORK = 64  # numbers a column


def flops_geqrf(tiles: Sequence[Shape], t: Shape = (), r: Shape = ()) -> float:
    """Flops of all tiles as one: see `tilewright.kernels.geqrt.flops_geqrt`."""
    return flops_geqrt((sum(tile[0] for tile in tiles), tiles[0][1]))


def flops_larfb(panel: Sequence[Shape], t: Shape, tiles: Sequence[Shape]) -> float:
    """Flops of all tiles as one: see `tilewright.kernels.geqrt.flops_unmqr`."""
    across = householder.across(panel, tiles)
    m = sum(tile[0] for tile in panel)
    return flops_unmqr((m, panel[0][1]), t, (m, sum(tile[1] for tile in tiles[:across])))


class _With(NamedTuple):
    """What a panel is factored with."""

    blas: Calls
    geqrf: Callable[[np.ndarray, np.ndarray], None]


def build_geqrf(library: Library, letter: str) -> Callable[..., None] | None:
    """The kernel for LAPACK type ``letter`` in "sdcz", or None if the library lacks ?geqrf.

    With ``r``, R goes there, and V stands in the panel in full, with its ones and zeros.
    """
    call, blas = library.symbol(f"{letter}geqrf"), calls(library, letter)
    if call is None or blas is None:
        return None

    def lapack(a: np.ndarray, tau: np.ndarray) -> None:
        info = ctypes.c_int(0)
        size = max(1, a.shape[1] * _WORK)
        call(
            by_reference(a.shape[0]),
            by_reference(a.shape[1]),
            address(a),
            by_reference(column_ld(a)),
            address(tau),
            address(room("geqrf", (size,), a.dtype)),
            by_reference(size),
            ctypes.byref(info),
        )

    with_ = _With(blas, lapack)

    def geqrf(tiles: Sequence[np.ndarray], t: np.ndarray, r: np.ndarray | None = None) -> None:
        used = _whole(t, sum(map(len, tiles)), tiles[0].shape[1])
        triangle = by_columns(used, "triangle")

        def factor(strip: np.ndarray) -> None:
            _factor(strip, triangle, with_)
            if r is not None:
                householder.stand_alone(strip, r)

        on_strip(factor, tiles)
        put_back(triangle, used)

    return geqrf


def build_larfb(library: Library, letter: str) -> Callable[..., None] | None:
    """C := Q^H C, or with ``flag`` "N" Q C, with the reflections of a panel of which the top is unit lower.

    C is cut into as many rows of tiles as the panel, each of one tile or of several beside each other. ``full`` says
    that V has its ones and zeros, which saves two products of five.
    """
    blas = calls(library, letter)
    if blas is None:
        return None

    def larfb(
        panel: Sequence[np.ndarray], t: np.ndarray, tiles: Sequence[np.ndarray], flag: str = "C", full: bool = False
    ) -> None:
        rows, across = sum(map(len, panel)), householder.across(panel, tiles)
        triangle = by_columns(_whole(t, rows, panel[0].shape[1]), "triangle")
        k = len(triangle)

        def update(v: np.ndarray) -> None:
            on_strip(lambda c: _apply(v[:, :k], triangle, c, flag, blas, full), tiles, across)

        on_strip(update, panel, written=False)

    return larfb


def _whole(t: np.ndarray, m: int, n: int) -> np.ndarray:
    """T of all reflections of an m x n panel. ValueError if it is smaller."""
    k = min(m, n)
    if min(t.shape) < k:
        raise ValueError(f"T {t.shape} is too small for a panel of {m} x {n}")
    return t[:k, :k]


def _factor(a: np.ndarray, t: np.ndarray, with_: _With) -> None:
    """A = Q R with V below the diagonal, T (k, k) with zeros below its own."""
    n, k = a.shape[1], len(t)
    if k <= _NARROW:
        _leaf(a[:, :k], t, with_)
    else:
        h = (k // 2 + 7) // 8 * 8
        one, two = t[:h, :h], t[h:, h:]
        _factor(a[:, :h], one, with_)
        _apply(a[:, :h], one, a[:, h:k], "C", with_.blas)
        _factor(a[h:, h:k], two, with_)
        _corner(a, h, k, t, with_.blas)
    if n > k:
        _apply(a[:, :k], t, a[:, k:], "C", with_.blas)


def _leaf(a: np.ndarray, t: np.ndarray, with_: _With) -> None:
    k = len(t)
    if not k:
        return
    tau = room("tau", (k,), a.dtype)
    with_.geqrf(a, tau)
    top, gram = _top(a, "leaf"), _zeros("gram", k, k, a.dtype)
    with_.blas.gemm(top, top, gram, b"C")
    with_.blas.gemm(a[k:], a[k:], gram, b"C")  # -V^H V
    np.multiply(gram, -tau[:, None], out=gram)
    t[...] = 0
    t[np.diag_indices(k)] = tau
    with_.blas.left(gram, t, b"U", b"N", b"U")


def _corner(a: np.ndarray, h: int, k: int, t: np.ndarray, blas: Calls) -> None:
    """T_12 := -T_1 (V_1^H V_2) T_2."""
    second = _top(a[h:, h:k], "leaf")
    product, other = _zeros("gram", h, k - h, a.dtype), _zeros("other", h, k - h, a.dtype)
    blas.gemm(a[h:k, :h], second, product, b"C")
    blas.gemm(a[k:, :h], a[k:, h:k], product, b"C")  # -V_1^H V_2
    t[h:, :h] = 0
    t[:h, h:] = 0
    blas.gemm(product, t[h:, h:], other)  # V_1^H V_2 T_2
    blas.gemm(t[:h, :h], other, t[:h, h:])


def _apply(v: np.ndarray, t: np.ndarray, c: np.ndarray, flag: str, blas: Calls, full: bool = False) -> None:
    """C := C - V op(T) V^H C."""
    k, n = len(t), c.shape[1]
    if not (k and n):
        return
    product, update = _zeros("product", k, n, c.dtype), _zeros("update", k, n, c.dtype)
    parts = [(v, c)] if full else [(_top(v, "top"), c[:k]), (v[k:], c[k:])]
    for reflectors, rows in parts:
        blas.gemm(reflectors, rows, product, b"C")  # -V^H C
    blas.gemm(t, product, update, flag.encode())
    for reflectors, rows in parts:
        blas.gemm(reflectors, update, rows)


def _top(v: np.ndarray, slot: str) -> np.ndarray:
    """The first rows of V with its ones and zeros."""
    k = v.shape[1]
    top = room(("reflections", slot), (k, k), v.dtype).T
    np.copyto(top, v[:k])
    for j in range(k):
        top[:j, j] = 0
        top[j, j] = 1
    return top


def _zeros(slot: str, m: int, n: int, dtype: np.dtype) -> np.ndarray:
    """m x n by columns."""
    found = room(("reflections", slot), (n, m), dtype).T
    found.fill(0)
    return found


_Spec = Iterator[tuple[bool, tuple[int, ...], str]]


def _panel(m: int, n: int, k: int) -> _Spec:
    r = min(m + k, n)
    yield from ((True, (m + k, n), ""), (True, (r, r), ""), (True, (r, n), ""))


def _block_column(m: int, n: int, k: int) -> _Spec:
    yield from ((False, (m + k, m), ""), (False, (m, m), ""), (True, (m + k, n), ""))


GEQRF = TileOp(
    "geqrf",
    build_geqrf,
    householder.geqrf,
    flops_geqrf,
    ("geqrf", "geqrf"),
    operands=_panel,
    written=3,
    by_columns=True,
    arguments=lambda a, t, r=None: ([a], t) if r is None else ([a], t, r),
)
LARFB = TileOp(
    "larfb",
    build_larfb,
    householder.larfb,
    flops_larfb,
    operands=_block_column,
    by_columns=True,
    arguments=lambda v, t, c: ([v], t, [c]),
    adjoint=((_block_column, ("N",)), (_block_column, ("C", True))),
)
