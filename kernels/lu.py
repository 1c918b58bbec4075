"""The updates of an LU factorisation, on tiles by columns: products, substitutions, and both with row exchanges."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from tilewright.kernels import reference, tensor_algebra
from tilewright.kernels.blas import Library
from tilewright.kernels.columns import calls, columns_of, no_exchange, on_strip, smallest_normal
from tilewright.kernels.getrf import magnitude
from tilewright.kernels.swaps import one_after_the_other, swap_rows
from tilewright.kernels.tile_op import TileOp

__all__ = [
    "GEMMN",
    "SWPGEMM",
    "SWPTRSM",
    "TRSMN",
    "TRSMU",
    "flops_gemmn",
    "flops_swpgemm",
    "flops_swptrsm",
    "flops_trsmn",
    "flops_trsmu",
]

Shape = tuple[int, ...]

_ROWS = 1024  # of a product in one call of MKL, which packs all rows of A, in memory that each thread keeps


def flops_gemmn(a: Shape, b: Shape, c: Shape) -> float:
    """2 m n k for op(A) (m, k), B (k, n), C (m, n)."""
    return 2.0 * c[0] * c[1] * b[0]


def flops_trsmn(t: Shape, x: Shape) -> float:
    """k^2 n for T (k, k), X (k, n)."""
    return float(x[0] ** 2 * x[1])


def flops_trsmu(u: Shape, a: Shape) -> float:
    """m k^2 for U (k, k), A (m, k)."""
    return float(a[0] * a[1] ** 2)


def flops_swptrsm(piv: Shape, l: Shape, tiles: Sequence[Shape]) -> float:  # noqa: E741
    """k^2 n: the exchanges are none."""
    return float(piv[0] ** 2 * tiles[0][1])


def flops_swpgemm(piv: Shape | Sequence[Shape], panel: Sequence[Shape], tiles: Sequence[Shape]) -> float:
    """k^2 n + 2 (m - k) k n; of several panels k is the number of all their pivots."""
    m, n = sum(tile[0] for tile in tiles), tiles[0][1]
    k = sum(part if isinstance(part, int) else part[0] for part in piv)
    return float(k**2 * n + 2 * (m - k) * k * n)


def build_gemmn(library: Library, letter: str) -> Callable[..., None] | None:
    """C := C - op(A) B; ``flag`` "N", "T" or "C"."""
    blas = calls(library, letter)
    if blas is None:
        return None
    multiply = blas.gemm

    def gemmn(a: np.ndarray, b: np.ndarray, c: np.ndarray, flag: str = "N") -> None:
        p, k = a.shape if flag == "N" else a.shape[::-1]
        if c.shape != (p, b.shape[1]) or len(b) != k:
            raise ValueError(f"gemmn: A {a.shape}, B {b.shape} and C {c.shape} do not fit C - A B (flag {flag})")
        target = columns_of(c)
        multiply(columns_of(a), columns_of(b), target, flag.encode())
        if target is not c:
            np.copyto(c, target)

    return gemmn


def build_trsmn(library: Library, letter: str) -> Callable[..., None] | None:
    """X := op(T)^-1 X with the lower triangle of T, whose diagonal counts as ones, or the upper one, whose does not.

    ``part`` is "L" or "U", ``flag`` "N", "T" or "C". Libraries may form 1/t_ii: with a subnormal one on the diagonal,
    where that overflows, unknowns are found one after the other by division.
    """
    blas = calls(library, letter)
    if blas is None:
        return None
    left = blas.left

    def trsmn(t: np.ndarray, x: np.ndarray, part: str = "L", flag: str = "N") -> None:
        k = len(x)
        if min(t.shape) < k:
            raise ValueError(f"trsmn: T {t.shape} and X {x.shape} do not fit T^-1 X")
        t = columns_of(t[:k, :k])
        target = columns_of(x)
        if part == "U" and _overflows(t.diagonal()):
            _by_division(t, target, flag)
        else:
            left(t, target, part.encode(), flag.encode(), b"U" if part == "L" else b"N")
        if target is not x:
            np.copyto(x, target)

    return trsmn


def build_trsmu(library: Library, letter: str) -> Callable[..., None] | None:
    """A := A U^-1 with the upper triangle of the tile on the diagonal."""
    blas = calls(library, letter)
    if blas is None:
        return None
    right = blas.right

    def trsmu(u: np.ndarray, a: np.ndarray) -> None:
        k = a.shape[1]
        if min(u.shape) < k:
            raise ValueError(f"trsmu: U {u.shape} and A {a.shape} do not fit A U^-1")
        u = columns_of(u[:k, :k])
        if _overflows(u.diagonal()):
            turned = a.T.copy(order="F")
            _by_division(u, turned, "T")
            a[...] = turned.T
            return
        target = columns_of(a)
        right(u, target, b"U", b"N", b"N")
        if target is not a:
            np.copyto(a, target)

    return trsmu


def _overflows(diagonal: np.ndarray) -> bool:
    found = magnitude(diagonal)
    return bool(((found < smallest_normal(diagonal.dtype)) & (found > 0)).any())


def _by_division(u: np.ndarray, x: np.ndarray, flag: str) -> None:
    """X := op(U)^-1 X, U upper, row by row in NumPy."""
    t = u if flag == "N" else u.T if flag == "T" else u.conj().T
    n = len(u)
    scale = t.real.dtype.type(2.0 ** (-np.finfo(t.dtype).minexp // 2))
    with np.errstate(all="ignore"):
        for i in reversed(range(n)) if flag == "N" else range(n):
            others = slice(i + 1, n) if flag == "N" else slice(0, i)
            x[i] -= t[i, others] @ x[others]
            if t.dtype.kind == "c" and 0 < magnitude(t[i, i]) < smallest_normal(t.dtype) * 4:
                x[i] = x[i] / (t[i, i] * scale) * scale  # NumPy forms 1/t on the way
            else:
                x[i] /= t[i, i]


def build_swptrsm(library: Library, letter: str) -> Callable[..., None] | None:
    """The rows of a block column exchanged as the panel's were, then the first tile: A_k := L_kk^-1 A_k."""
    blas = calls(library, letter)
    if blas is None:
        return None
    left = blas.left

    def swptrsm(piv: np.ndarray, l: np.ndarray, tiles: Sequence[np.ndarray]) -> None:  # noqa: E741
        swap_rows(piv, tiles)
        k = len(piv)
        target = columns_of(tiles[0])
        if len(target) != k:
            raise ValueError(f"swptrsm: {k} pivots for a tile of {len(target)} rows")
        left(columns_of(l[:, :k]), target, b"L", b"N", b"U")
        if target is not tiles[0]:
            np.copyto(tiles[0], target)

    return swptrsm


def build_swpgemm(
    library: Library, letter: str, substitute: Callable[..., None] | None = None
) -> Callable[..., None] | None:
    """`swptrsm` and all products of a block column: A_i := A_i - L_ik A_k, in a few large calls of the library.

    Of several panels at a time ``piv`` has a vector each, as `swap`, and ``panel`` their tiles, row by row.
    ``substitute`` is the `trsmn` to use, by default the library's: those fast in products may be slow there.
    """
    blas, own = calls(library, letter), build_trsmn(library, letter)
    if blas is None or own is None:
        return None
    solve = substitute or own
    at_once = sys.maxsize if library.name == "openblas" else _ROWS

    def swpgemm(
        piv: np.ndarray | Sequence[np.ndarray], panel: Sequence[np.ndarray], tiles: Sequence[np.ndarray]
    ) -> None:
        together = 1 if isinstance(piv, np.ndarray) else len(piv)
        rows = one_after_the_other(piv, tiles)
        k = len(rows)

        def update(l: np.ndarray, a: np.ndarray) -> None:  # noqa: E741
            swap_rows(rows, [a])
            solve(l[:k, :k], a[:k], "L")
            for top in range(k, len(a), at_once):
                blas.gemm(l[top : top + at_once, :k], a[:k], a[top : top + at_once])

        on_strip(lambda below: on_strip(lambda a: update(below, a), tiles), panel, together, written=False)

    return swpgemm


_Spec = Iterator[tuple[bool, tuple[int, ...], str]]


def _product(m: int, n: int, k: int) -> _Spec:
    yield from ((False, (m, k), ""), (False, (k, n), ""), (True, (m, n), ""))


def _transposed_product(m: int, n: int, k: int) -> _Spec:
    yield from ((False, (k, m), ""), (False, (k, n), ""), (True, (m, n), ""))


def _substitution(m: int, n: int, k: int) -> _Spec:
    yield from ((False, (m, m), "triangle"), (True, (m, n), ""))


def _from_the_right(m: int, n: int, k: int) -> _Spec:
    yield from ((False, (n, n), "triangle"), (True, (m, n), ""))


def _block_column(m: int, n: int, k: int) -> _Spec:
    yield from ((False, (m + k, m), "triangle"), (True, (m + k, n), ""))


GEMMN = TileOp(
    "gemmn",
    build_gemmn,
    reference.gemmn,
    flops_gemmn,
    operands=_product,
    by_columns=True,
    adjoint=((_transposed_product, ("T",)),),
    tensor=tensor_algebra.gemmn,
)
TRSMN = TileOp(
    "trsmn",
    build_trsmn,
    reference.trsmn,
    flops_trsmn,
    ("trsm", "trsm"),
    operands=_substitution,
    by_columns=True,
    adjoint=tuple((_substitution, how) for how in (("L", "T"), ("U", "N"), ("U", "T"))),
    tensor=tensor_algebra.trsmn,
)
TRSMU = TileOp(
    "trsmu",
    build_trsmu,
    reference.trsmu,
    flops_trsmu,
    ("trsm", "trsm"),
    operands=_from_the_right,
    by_columns=True,
    tensor=tensor_algebra.trsmu,
)
SWPTRSM = TileOp(
    "swptrsm",
    build_swptrsm,
    reference.swptrsm,
    flops_swptrsm,
    ("trsm", "trsm"),
    named=(False, True, True),
    operands=_substitution,
    by_columns=True,
    arguments=lambda t, a: (no_exchange(t), t, [a]),
    tensor=tensor_algebra.swptrsm,
)
SWPGEMM = TileOp(
    "swpgemm",
    build_swpgemm,
    reference.swpgemm,
    flops_swpgemm,
    named=(False, True, True),
    beside="trsmn",
    operands=_block_column,
    by_columns=True,
    arguments=lambda t, a: (no_exchange(t), [t], [a]),
    tensor=tensor_algebra.swpgemm,
)
