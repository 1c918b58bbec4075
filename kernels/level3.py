"""Level 3 BLAS with all its flags, on tiles by rows: matmul, rankk, trmm, trsolve, and LAPACK's lauum.

BLAS sees the transpose of a tile by rows: see `tilewright.kernels.layout`. So A and B change places in a product, sides
and triangles change names, and flags stay.

torch's MKL has no ?syrk, ?herk, ?trmm and ?lauum. There they are made of products: halves of the triangle, until
``SPLIT`` rows are left.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np

from tilewright.kernels import reference, tensor_algebra
from tilewright.kernels.blas import Library
from tilewright.kernels.elements import rescale
from tilewright.kernels.layout import address, by_reference, by_rows, kernel_ld
from tilewright.kernels.tile_op import TileOp

__all__ = ["LAUUM", "MATMUL", "RANKK", "TRMM", "TRSOLVE", "flops_lauum", "flops_matmul", "flops_rankk", "flops_trmm"]

Shape = tuple[int, ...]
Kernel = Callable[..., Any]

SPLIT = 64


def flops_matmul(a: Shape, b: Shape, c: Shape) -> float:
    """2 m n k for op(A) (m, k), op(B) (k, n), C (m, n)."""
    return 2.0 * a[0] * a[1] * c[1]


def flops_rankk(a: Shape, c: Shape) -> float:
    """n^2 k for op(A) (n, k), C (n, n)."""
    return float(c[0] * a[0] * a[1])


def flops_trmm(t: Shape, x: Shape) -> float:
    """n^2 m for T (n, n) and X with m rows or columns beside it."""
    return float(t[0] * x[0] * x[1])


def flops_lauum(t: Shape) -> float:
    """n^3/3, the leading term."""
    return t[0] ** 3 / 3


@cache
def _number(letter: str, value: complex) -> Any:
    """A scalar argument of BLAS type ``letter``."""
    kind = ctypes.c_float if letter in "sc" else ctypes.c_double
    value = complex(value)
    parts = (value.real, value.imag) if letter in "cz" else (value.real,)
    return ctypes.byref((kind * len(parts))(*parts))


def _ends(a: np.ndarray, flag: str) -> tuple[int, int]:
    """The shape of op(A)."""
    m, n = a.shape
    return (m, n) if flag == "N" else (n, m)


# ------------------------------------------------------------------ products


def build_matmul(library: Library, letter: str) -> Kernel | None:
    """C := alpha op(A) op(B) + beta C; ``flags`` are two of "N", "T", "C". With beta = 0 C is not read [BLAS ?gemm]."""
    call = library.symbol(f"{letter}gemm")
    if call is None:
        return None

    def matmul(
        a: np.ndarray, b: np.ndarray, c: np.ndarray, flags: str = "NN", alpha: complex = 1.0, beta: complex = 0.0
    ) -> None:
        (m, k), (rows, n) = _ends(a, flags[0]), _ends(b, flags[1])
        if c.shape != (m, n) or rows != k:
            raise ValueError(f"matmul: A {a.shape}, B {b.shape} and C {c.shape} do not fit op(A) op(B), flags {flags}")
        if not (c.size and k):
            rescale(c, beta)
            return
        lda, ldb, ldc = kernel_ld(a), kernel_ld(b), kernel_ld(c)
        if not (lda and ldb and ldc):
            by_rows(lambda a, b, c: matmul(a, b, c, flags, alpha, beta), a, b, c)
            return
        call(  # C^T := alpha op(B)^T op(A)^T + beta C^T
            flags[1].encode(),
            flags[0].encode(),
            by_reference(n),
            by_reference(m),
            by_reference(k),
            _number(letter, alpha),
            address(b),
            by_reference(ldb),
            address(a),
            by_reference(lda),
            _number(letter, beta),
            address(c),
            by_reference(ldc),
        )

    return matmul


def build_rankk(library: Library, letter: str) -> Kernel | None:
    """C := alpha op(A) op(A)^H + beta C on a triangle of C, or with ^T where not ``conj`` [BLAS ?syrk, ?herk].

    ``flag`` "N": op(A) = A; "T" or "C": its transpose, conjugated if ``conj``. Then alpha and beta are real, and so is
    the diagonal of C. The other triangle is neither read nor written.
    """
    product = build_matmul(library, letter)
    complex_ = letter in "cz"
    symmetric = library.symbol(f"{letter}syrk")
    hermitian = library.symbol(f"{letter}herk") if complex_ else symmetric
    if product is None:
        return None
    real = {"c": "s", "z": "d"}.get(letter, letter)

    def rankk(
        a: np.ndarray,
        c: np.ndarray,
        uplo: str = "L",
        flag: str = "N",
        conj: bool = True,
        alpha: complex = 1.0,
        beta: complex = 0.0,
    ) -> None:
        n, k = _ends(a, flag)
        if c.shape != (n, n):
            raise ValueError(f"rankk: A {a.shape} and C {c.shape} do not fit op(A) op(A)^H, flag {flag}")
        if not (n and k):
            rescale(c, beta, uplo)
            return
        call = hermitian if conj else symmetric
        if call is None:
            by_rows(lambda a, c: _rankk_by_products(product, a, c, uplo, flag, conj and complex_, alpha, beta), a, c)
            return
        lda, ldc = kernel_ld(a), kernel_ld(c)
        if not (lda and ldc):
            by_rows(lambda a, c: rankk(a, c, uplo, flag, conj, alpha, beta), a, c)
            return
        of = real if conj else letter
        turned = b"N" if flag != "N" else b"C" if conj and complex_ else b"T"
        call(
            b"U" if uplo == "L" else b"L",
            turned,
            by_reference(n),
            by_reference(k),
            _number(of, alpha),
            address(a),
            by_reference(lda),
            _number(of, beta),
            address(c),
            by_reference(ldc),
        )

    return rankk


def _rankk_by_products(
    product: Kernel, a: np.ndarray, c: np.ndarray, uplo: str, flag: str, conj: bool, alpha: complex, beta: complex
) -> None:
    n = len(c)
    turned = "C" if conj else "T"
    flags = "N" + turned if flag == "N" else turned + "N"
    part = (lambda rows: a[rows]) if flag == "N" else (lambda rows: a[:, rows])
    if n <= SPLIT:
        square = c.copy()
        product(a, a, square, flags, alpha, beta)
        if conj:
            square[np.diag_indices(n)] = square.diagonal().real
        triangle = np.tri(n, dtype=bool)
        np.copyto(c, square, where=triangle if uplo == "L" else triangle.T)
        return
    h = -(-n // (2 * SPLIT)) * SPLIT
    top, below = slice(0, h), slice(h, n)
    if uplo == "L":
        product(part(below), part(top), c[below, top], flags, alpha, beta)
    else:
        product(part(top), part(below), c[top, below], flags, alpha, beta)
    for rows in (top, below):
        _rankk_by_products(product, part(rows), c[rows, rows], uplo, flag, conj, alpha, beta)


# ------------------------------------------------------------------ triangles


def build_trsolve(library: Library, letter: str) -> Kernel | None:
    """X := alpha op(T)^-1 X from the left, ``side`` "L", or alpha X op(T)^-1 from the right [BLAS ?trsm].

    Only the triangle ``uplo`` of T is referenced, and with ``diag`` "U" not its diagonal, which counts as ones.
    """
    return _triangular(library, letter, "trsolve", "trsm")


def build_trmm(library: Library, letter: str) -> Kernel | None:
    """X := alpha op(T) X from the left, ``side`` "L", or alpha X op(T) from the right [BLAS ?trmm]. T as of ?trsm."""
    found = _triangular(library, letter, "trmm", "trmm")
    product = build_matmul(library, letter)
    if found is not None or product is None:
        return found

    def trmm(
        t: np.ndarray,
        x: np.ndarray,
        side: str = "L",
        uplo: str = "L",
        flag: str = "N",
        diag: str = "N",
        alpha: complex = 1.0,
    ) -> None:
        _check_triangle("trmm", t, x, side)
        if x.size:
            by_rows(lambda t, x: _trmm_by_products(product, t, x, side, uplo, flag, diag, alpha), t, x)

    return trmm


def _triangular(library: Library, letter: str, name: str, routine: str) -> Kernel | None:
    call = library.symbol(f"{letter}{routine}")
    if call is None:
        return None

    def kernel(
        t: np.ndarray,
        x: np.ndarray,
        side: str = "L",
        uplo: str = "L",
        flag: str = "N",
        diag: str = "N",
        alpha: complex = 1.0,
    ) -> None:
        _check_triangle(name, t, x, side)
        if not x.size:
            return
        ldt, ldx = kernel_ld(t), kernel_ld(x)
        if not (ldt and ldx):
            by_rows(lambda t, x: kernel(t, x, side, uplo, flag, diag, alpha), t, x)
            return
        call(
            b"R" if side == "L" else b"L",
            b"U" if uplo == "L" else b"L",
            flag.encode(),
            diag.encode(),
            by_reference(x.shape[1]),
            by_reference(x.shape[0]),
            _number(letter, alpha),
            address(t),
            by_reference(ldt),
            address(x),
            by_reference(ldx),
        )

    return kernel


def _check_triangle(name: str, t: np.ndarray, x: np.ndarray, side: str) -> None:
    n = x.shape[0 if side == "L" else 1]
    if t.shape != (n, n):
        raise ValueError(f"{name}: T {t.shape} and X {x.shape} do not fit, side {side}")


def _trmm_by_products(
    product: Kernel, t: np.ndarray, x: np.ndarray, side: str, uplo: str, flag: str, diag: str, alpha: complex
) -> None:
    n = len(t)
    left = side == "L"
    if n <= SPLIT:
        whole = np.tril(t) if uplo == "L" else np.triu(t)
        if diag == "U":
            np.fill_diagonal(whole, 1)
        old = x.copy()
        product(whole, old, x, flag + "N", alpha, 0.0) if left else product(old, whole, x, "N" + flag, alpha, 0.0)
        return
    h = -(-n // (2 * SPLIT)) * SPLIT
    first, second = slice(0, h), slice(h, n)
    off = t[second, first] if uplo == "L" else t[first, second]
    lower = (uplo == "L") == (flag == "N")  # op(T) is
    # the part that needs the other's old numbers goes first
    order = (second, first) if lower == left else (first, second)
    for turn, here in enumerate(order):
        rows = x[here] if left else x[:, here]
        _trmm_by_products(product, t[here, here], rows, side, uplo, flag, diag, alpha)
        if not turn:
            other = x[order[1]] if left else x[:, order[1]]
            if left:
                product(off, other, rows, flag + "N", alpha, 1.0)
            else:
                product(other, off, rows, "N" + flag, alpha, 1.0)


def build_lauum(library: Library, letter: str) -> Kernel | None:
    """T := T^H T with the lower triangle of T, which becomes that of the product [LAPACK ?lauum].

    LAPACK takes the diagonal of T for real. Complex ones are made of products, which do not.
    """
    call = library.symbol(f"{letter}lauum")
    if call is None or letter in "cz":
        return _lauum_by_products(library, letter)

    def lauum(t: np.ndarray) -> None:
        n = _order(t)
        if not n:
            return
        ldt = kernel_ld(t)
        if not ldt:
            by_rows(lauum, t)
            return
        info = ctypes.c_int(0)
        call(b"U", by_reference(n), address(t), by_reference(ldt), ctypes.byref(info))  # U U^H with U = T^T

    return lauum


def _lauum_by_products(library: Library, letter: str) -> Kernel | None:
    rankk, trmm = build_rankk(library, letter), build_trmm(library, letter)
    if rankk is None or trmm is None:
        return None

    def split(t: np.ndarray) -> None:
        n = len(t)
        if n <= SPLIT:
            lower = np.tril(t)
            rankk(lower, t, "L", "C")
            return
        h = -(-n // (2 * SPLIT)) * SPLIT
        split(t[:h, :h])
        rankk(t[h:, :h], t[:h, :h], "L", "C", True, 1.0, 1.0)  # T11 := T11^H T11 + T21^H T21
        trmm(t[h:, h:], t[h:, :h], "L", "L", "C")  # T21 := T22^H T21
        split(t[h:, h:])

    def lauum(t: np.ndarray) -> None:
        if _order(t):
            by_rows(split, t)

    return lauum


def _order(t: np.ndarray) -> int:
    if t.shape[0] != t.shape[1]:
        raise ValueError(f"lauum: T {t.shape} is not square")
    return len(t)


_Spec = Iterator[tuple[bool, tuple[int, ...], str]]


def _product(m: int, n: int, k: int) -> _Spec:
    yield from ((False, (m, k), ""), (False, (k, n), ""), (True, (m, n), ""))


def _product_adjoint(m: int, n: int, k: int) -> _Spec:
    yield from ((False, (k, m), ""), (False, (k, n), ""), (True, (m, n), ""))


def _product_with_adjoint(m: int, n: int, k: int) -> _Spec:
    yield from ((False, (m, k), ""), (False, (n, k), ""), (True, (m, n), ""))


def _rank(m: int, n: int, k: int) -> _Spec:
    yield from ((False, (m, k), ""), (True, (m, m), ""))


def _rank_adjoint(m: int, n: int, k: int) -> _Spec:
    yield from ((False, (k, m), ""), (True, (m, m), ""))


def _left(m: int, n: int, k: int) -> _Spec:
    yield from ((False, (m, m), "triangle"), (True, (m, n), ""))


def _right(m: int, n: int, k: int) -> _Spec:
    yield from ((False, (n, n), "triangle"), (True, (m, n), ""))


def _square(m: int, n: int, k: int) -> _Spec:
    yield True, (m, m), "triangle"


_SIDES = tuple(
    (_left if side == "L" else _right, (side, uplo, flag)) for side in "LR" for uplo in "LU" for flag in "NC"
)

MATMUL = TileOp(
    "matmul",
    build_matmul,
    reference.matmul,
    flops_matmul,
    operands=_product,
    adjoint=((_product_adjoint, ("CN",)), (_product_with_adjoint, ("NC",)), (_product, ("NN", -1.0, 1.0))),
    tensor=tensor_algebra.matmul,
)
RANKK = TileOp(
    "rankk",
    build_rankk,
    reference.rankk,
    flops_rankk,
    ("syrk", "herk"),
    "gemm",
    operands=_rank,
    adjoint=((_rank, ("U", "N", True, -1.0, 1.0)), (_rank_adjoint, ("L", "C"))),
    tensor=tensor_algebra.rankk,
)
TRMM = TileOp(
    "trmm",
    build_trmm,
    reference.trmm,
    flops_trmm,
    ("trmm", "trmm"),
    "gemm",
    operands=_left,
    adjoint=_SIDES[1:],
    tensor=tensor_algebra.trmm,
)
TRSOLVE = TileOp(
    "trsolve",
    build_trsolve,
    reference.trsolve,
    flops_trmm,
    ("trsm", "trsm"),
    operands=_left,
    adjoint=_SIDES[1:],
    tensor=tensor_algebra.trsolve,
)
LAUUM = TileOp(
    "lauum",
    build_lauum,
    reference.lauum,
    flops_lauum,
    ("lauum", "lauum"),
    "gemm",
    operands=_square,
    tensor=tensor_algebra.lauum,
)
