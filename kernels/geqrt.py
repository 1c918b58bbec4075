"""geqrt and unmqr: the QR factorisation of a tile, and its reflections applied to another [LAPACK ?geqrt, ?gemqrt].

Tiles lie by columns; T is described in `tilewright.kernels.householder`. The vectors stay below the diagonal of the
tile, R on and above it. Where others are to read the vectors while R is changed further, `geqrt` gives a copy of the
tile as well, *turned*: as the transpose, for it lies in a room of its own, and rooms lie by rows.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tilewright.kernels import householder
from tilewright.kernels.blas import Library, load
from tilewright.kernels.columns import column_ld
from tilewright.kernels.householder import by_columns, corner, put_back, turned
from tilewright.kernels.layout import address, by_reference
from tilewright.kernels.scratch import room
from tilewright.kernels.tile_op import TileOp

__all__ = ["GEQRT", "UNMQR", "flops_geqrt", "flops_unmqr", "routine", "transposed"]

Shape = tuple[int, ...]


def flops_geqrt(a: Shape, t: Shape = (), v: Shape = ()) -> float:
    """4 m n k - 2 (m + n) k^2 + 4/3 k^3 with k = min(m, n): 2 m n^2 - 2/3 n^3 for m >= n."""
    m, n = a
    k = min(m, n)
    return 4.0 * m * n * k - 2 * (m + n) * k**2 + 4 * k**3 / 3


def flops_unmqr(v: Shape, t: Shape, c: Shape) -> float:
    """4 m n k - 2 n k^2 for k reflections of m rows, C (m, n)."""
    (m, n), k = c, min(v)
    return 4.0 * m * n * k - 2.0 * n * k**2


def transposed(letter: str, flag: str) -> bytes:
    """The flag of LAPACK for Q^H ("C") or Q ("N"): real routines know no "C"."""
    return b"N" if flag == "N" else b"C" if letter in "cz" else b"T"


def routine(library: Library, name: str) -> Callable[..., Any] | None:
    """LAPACK's from that library, or from SciPy where it has none: MKL as torch has it exports no QR of tiles."""
    return library.symbol(name) or load("openblas").symbol(name)


def build_geqrt(library: Library, letter: str) -> Callable[..., None] | None:
    """The kernel for LAPACK type ``letter`` in "sdcz", or None if neither the library nor SciPy has ?geqrt.

    ``v``, if it is given, is (n, m).
    """
    call = routine(library, f"{letter}geqrt")
    if call is None:
        return None

    def geqrt(a: np.ndarray, t: np.ndarray, v: np.ndarray | None = None) -> None:
        m, n = a.shape
        used = corner(t, min(m, n))
        ib = len(used)
        tile, triangles = by_columns(a, "a"), by_columns(used, "t")
        if ib:
            info = ctypes.c_int(0)
            work = room("geqrt", (ib * n,), a.dtype)
            call(
                by_reference(m),
                by_reference(n),
                by_reference(ib),
                address(tile),
                by_reference(column_ld(tile)),
                address(triangles),
                by_reference(column_ld(triangles)),
                address(work),
                ctypes.byref(info),
            )
        if v is not None:
            np.copyto(v.T, tile)
        put_back(tile, a)
        put_back(triangles, used)

    return geqrt


def build_unmqr(library: Library, letter: str) -> Callable[..., None] | None:
    """C := Q^H C, or with ``flag`` "N" Q C. ``turn`` says that V is the turned copy of `geqrt`."""
    call = routine(library, f"{letter}gemqrt")
    if call is None:
        return None

    def unmqr(v: np.ndarray, t: np.ndarray, c: np.ndarray, flag: str = "C", turn: bool = False) -> None:
        v = v.T if turn else v
        (m, n), k = c.shape, min(v.shape)
        used = corner(t, k)
        ib = len(used)
        if len(v) != m:
            raise ValueError(f"unmqr: V {v.shape} and C {c.shape} do not fit Q C")
        if not (k and n):
            return
        vectors, triangles, tile = by_columns(v, "v"), by_columns(used, "t"), by_columns(c, "c")
        info = ctypes.c_int(0)
        work = room("unmqr", (n * ib,), c.dtype)
        call(
            b"L",
            transposed(letter, flag),
            by_reference(m),
            by_reference(n),
            by_reference(k),
            by_reference(ib),
            address(vectors),
            by_reference(column_ld(vectors)),
            address(triangles),
            by_reference(column_ld(triangles)),
            address(tile),
            by_reference(column_ld(tile)),
            address(work),
            ctypes.byref(info),
        )
        put_back(tile, c)

    return unmqr


_Spec = Iterator[tuple[bool, tuple[int, ...], str]]


def _block(k: int) -> int:
    """Reflections of a block in probes: several blocks, the last of them smaller."""
    return min(k, max(8, k // 4))


def _factored(m: int, n: int, k: int) -> _Spec:
    yield from ((True, (m, n), ""), (True, (_block(min(m, n)), min(m, n)), ""), (True, (m, n), ""))


def _applied(m: int, n: int, k: int) -> _Spec:
    r = min(m, k)
    yield from ((False, (m, r), ""), (False, (_block(r), r), ""), (True, (m, n), ""))


GEQRT = TileOp(
    "geqrt",
    build_geqrt,
    householder.geqrt,
    flops_geqrt,
    ("geqrt", "geqrt"),
    "gemm",
    operands=_factored,
    written=3,
    by_columns=True,
    arguments=lambda a, t, v: (a, t, turned(v)),
)
UNMQR = TileOp(
    "unmqr",
    build_unmqr,
    householder.unmqr,
    flops_unmqr,
    ("gemqrt", "gemqrt"),
    "gemm",
    operands=_applied,
    by_columns=True,
    adjoint=((_applied, ("N",)),),
)
