"""The ceiling of the machine a benchmark runs on: the fastest large matrix product, taken in the same run."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator

import numpy as np

from tilewright.benchmarks.timing import Contender
from tilewright.kernels import blas
from tilewright.kernels.layout import address, by_reference, scalar

__all__ = ["ceiling_size", "ceilings", "dgemm", "potrf_in_place", "threaded_libraries"]

SIZE = 4096


def threaded_libraries() -> list[blas.Library]:
    """The BLAS libraries here that use all cores by themselves. Our ``mkl`` is loaded without threads."""
    return [
        library for library in blas.available().values() if isinstance(library, blas.Library) and library.name != "mkl"
    ]


def dgemm(library: blas.Library, size: int = SIZE) -> Contender:
    """C := A B on all cores; 2 size^3 flops."""
    a, b, c = (np.full((size, size), 0.5) for _ in range(3))
    call = library.symbol("dgemm")
    assert call is not None
    n, one, zero = by_reference(size), scalar("d", 1), scalar("d", 0)

    def multiply() -> None:
        call(b"N", b"N", n, n, n, one, address(a), n, address(b), n, zero, address(c), n)

    return Contender(f"dgemm {library.name}", multiply)


def ceilings(n: int) -> Iterator[Contender]:
    """The products beside a factorisation of order n: one by each library, of `ceiling_size`."""
    return (dgemm(library, ceiling_size(n)) for library in threaded_libraries())


def ceiling_size(n: int) -> int:
    """The order of the products beside a factorisation of order n."""
    return min(SIZE, max(n, 512))


def potrf_in_place(library: blas.Library, matrix: np.ndarray) -> Callable[[], None]:
    """LAPACK's dpotrf on all cores, in place, on the lower triangle of a C-ordered matrix; no copy, no clearing."""
    call = library.symbol("dpotrf")
    assert call is not None
    n = by_reference(len(matrix))

    def factor() -> None:
        info = ctypes.c_int(0)
        call(b"U", n, address(matrix), n, ctypes.byref(info))
        if info.value:
            raise RuntimeError(f"dpotrf of {library.name} returned info {info.value}")

    return factor
