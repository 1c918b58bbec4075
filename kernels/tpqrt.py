"""tsqrt, ttqrt, tsmqr, ttmqr: two tiles below each other made one triangle, and the same done to two others.

The upper one is a triangle R already; below it stands a whole tile (TS) or another triangle (TT). LAPACK has both as
one routine for pentagons [LAPACK ?tpqrt, ?tpmqrt]. What stands below the diagonal of a triangle, vectors of an earlier
step, is neither read nor written. Tiles lie by columns; T is described in `tilewright.kernels.householder`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator

import numpy as np

from tilewright.kernels import householder
from tilewright.kernels.blas import Library
from tilewright.kernels.columns import column_ld
from tilewright.kernels.geqrt import routine, transposed
from tilewright.kernels.householder import by_columns, corner, put_back
from tilewright.kernels.layout import address, by_reference
from tilewright.kernels.scratch import room
from tilewright.kernels.tile_op import TileOp

__all__ = ["TSMQR", "TSQRT", "TTMQR", "TTQRT", "flops_tsmqr", "flops_tsqrt", "flops_ttmqr", "flops_ttqrt"]

Shape = tuple[int, ...]


def flops_tsqrt(a: Shape, b: Shape, t: Shape = ()) -> float:
    """2 m n^2 for B (m, n)."""
    return 2.0 * b[0] * b[1] ** 2


def flops_ttqrt(a: Shape, b: Shape, t: Shape = ()) -> float:
    """2/3 n^3."""
    return 2 / 3 * b[1] ** 3


def flops_tsmqr(v: Shape, t: Shape, a: Shape, b: Shape) -> float:
    """4 m n k for V (m, k), B (m, n)."""
    return 4.0 * b[0] * b[1] * v[1]


def flops_ttmqr(v: Shape, t: Shape, a: Shape, b: Shape) -> float:
    """2 k^2 n for k reflections of a triangle."""
    return 2.0 * v[1] ** 2 * b[1]


def _rows(b: np.ndarray, n: int, triangle: bool) -> np.ndarray:
    return b[:n] if triangle else b


def _build_qrt(name: str, triangle: bool) -> Callable[[Library, str], Callable[..., None] | None]:
    def build(library: Library, letter: str) -> Callable[..., None] | None:
        call = routine(library, f"{letter}tpqrt")
        if call is None:
            return None

        def qrt(a: np.ndarray, b: np.ndarray, t: np.ndarray) -> None:
            n = a.shape[1]
            if b.shape[1] != n or len(a) < n:
                raise ValueError(f"{name}: A {a.shape} and B {b.shape} do not fit")
            used = corner(t, n)
            ib = len(used)
            top, rows = a[:n], _rows(b, n, triangle)
            m = len(rows)
            if not (m and n):
                used[...] = 0
                return
            upper, lower, triangles = by_columns(top, "a"), by_columns(rows, "b"), by_columns(used, "t")
            info = ctypes.c_int(0)
            work = room("tpqrt", (ib * n,), a.dtype)
            call(
                by_reference(m),
                by_reference(n),
                by_reference(m if triangle else 0),
                by_reference(ib),
                address(upper),
                by_reference(column_ld(upper)),
                address(lower),
                by_reference(column_ld(lower)),
                address(triangles),
                by_reference(column_ld(triangles)),
                address(work),
                ctypes.byref(info),
            )
            put_back(upper, top)
            put_back(lower, rows)
            put_back(triangles, used)

        return qrt

    return build


def _build_mqr(name: str, triangle: bool) -> Callable[[Library, str], Callable[..., None] | None]:
    """(A, B) := Q^H (A, B), or with ``flag`` "N" Q (A, B), of as many rows of A as there are reflections."""

    def build(library: Library, letter: str) -> Callable[..., None] | None:
        call = routine(library, f"{letter}tpmqrt")
        if call is None:
            return None

        def mqr(v: np.ndarray, t: np.ndarray, a: np.ndarray, b: np.ndarray, flag: str = "C") -> None:
            k, n = v.shape[1], b.shape[1]
            if len(v) != len(b) or len(a) < k or a.shape[1] != n:
                raise ValueError(f"{name}: V {v.shape}, A {a.shape} and B {b.shape} do not fit")
            used = corner(t, k)
            ib = len(used)
            top, rows, below = a[:k], _rows(b, k, triangle), _rows(v, k, triangle)
            m = len(rows)
            if not (m and n and k):
                return
            vectors, triangles = by_columns(below, "v"), by_columns(used, "t")
            upper, lower = by_columns(top, "a"), by_columns(rows, "b")
            info = ctypes.c_int(0)
            work = room("tpmqrt", (n * ib,), b.dtype)
            call(
                b"L",
                transposed(letter, flag),
                by_reference(m),
                by_reference(n),
                by_reference(k),
                by_reference(m if triangle else 0),
                by_reference(ib),
                address(vectors),
                by_reference(column_ld(vectors)),
                address(triangles),
                by_reference(column_ld(triangles)),
                address(upper),
                by_reference(column_ld(upper)),
                address(lower),
                by_reference(column_ld(lower)),
                address(work),
                ctypes.byref(info),
            )
            put_back(upper, top)
            put_back(lower, rows)

        return mqr

    return build


_Spec = Iterator[tuple[bool, tuple[int, ...], str]]


def _block(k: int) -> int:
    return min(k, max(8, k // 4))


def _on_square(m: int, n: int, k: int) -> _Spec:
    yield from ((True, (n, n), "triangle"), (True, (m, n), ""), (True, (_block(n), n), ""))


def _on_triangle(m: int, n: int, k: int) -> _Spec:
    yield from ((True, (n, n), "triangle"), (True, (n, n), "triangle"), (True, (_block(n), n), ""))


def _pair(m: int, n: int, k: int) -> _Spec:
    yield from ((False, (m, k), ""), (False, (_block(k), k), ""), (True, (k, n), ""), (True, (m, n), ""))


def _triangles(m: int, n: int, k: int) -> _Spec:
    yield from ((False, (k, k), ""), (False, (_block(k), k), ""), (True, (k, n), ""), (True, (k, n), ""))


_MADE = ("tpqrt", "tpqrt")
_DONE = ("tpmqrt", "tpmqrt")
TSQRT = TileOp(
    "tsqrt",
    _build_qrt("tsqrt", False),
    householder.tsqrt,
    flops_tsqrt,
    _MADE,
    "gemm",
    operands=_on_square,
    written=3,
    by_columns=True,
)
TTQRT = TileOp(
    "ttqrt",
    _build_qrt("ttqrt", True),
    householder.ttqrt,
    flops_ttqrt,
    _MADE,
    "gemm",
    operands=_on_triangle,
    written=3,
    by_columns=True,
)
TSMQR = TileOp(
    "tsmqr",
    _build_mqr("tsmqr", False),
    householder.tsmqr,
    flops_tsmqr,
    _DONE,
    "gemm",
    operands=_pair,
    written=2,
    by_columns=True,
    adjoint=((_pair, ("N",)),),
)
TTMQR = TileOp(
    "ttmqr",
    _build_mqr("ttmqr", True),
    householder.ttmqr,
    flops_ttmqr,
    _DONE,
    "gemm",
    operands=_triangles,
    written=2,
    by_columns=True,
    adjoint=((_triangles, ("N",)),),
)
