"""LAPACK's routines by name, from SciPy's capsules: C-level calls that release the GIL.

Factorisations of small or thin matrices, tridiagonal eigenproblems: what is called once for many flops, and what no
kernel of the table has. Numbers lie by columns; a kernel copies what it hands on to memory of its own, from a cache
line on, so bits do not depend on where its arguments lie.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np

from tilewright.extras import pip
from tilewright.kernels import blas
from tilewright.kernels.layout import address, by_reference
from tilewright.kernels.scratch import room

__all__ = ["by_columns", "inside", "lapack", "letter", "plain", "real_dtype"]

_LETTERS = {"f": "s", "d": "d", "F": "c", "D": "z"}
_REAL = {"f": np.float32, "F": np.float32, "d": np.float64, "D": np.float64}


def letter(dtype: np.dtype) -> str:
    """That of BLAS for a dtype."""
    return _LETTERS[dtype.char]


def real_dtype(dtype: np.dtype) -> np.dtype:
    """The dtype of its absolute values."""
    return np.dtype(_REAL[dtype.char])


def by_columns(slot: object, rows: int, columns: int, dtype: np.dtype) -> np.ndarray:
    """A matrix by columns in memory of the calling thread, not cleared: see `tilewright.kernels.scratch`."""
    return room(slot, (columns, rows), dtype).T


def plain(name: str, *arguments: Any) -> None:
    """Call a routine that has no info: integers and arrays by reference, bytes are characters."""
    _routine(name)(*map(_argument, arguments))


def lapack(name: str, *arguments: Any) -> int:
    """Call a routine whose last argument is info; returns that."""
    info = ctypes.c_int(0)
    _routine(name)(*map(_argument, arguments), ctypes.byref(info))
    return info.value


def inside(name: str) -> Callable[..., int] | None:
    """A routine whose last argument is info that SciPy's library has inside but does not promise, as `lapack`; or None.

    Its name is one of `tilewright.kernels.choice.INSIDE`, so that processes which compute together agree.
    """
    routine = blas.load("openblas").inner(name)
    if routine is None:
        return None

    def call(*arguments: Any) -> int:
        info = ctypes.c_int(0)
        routine(*map(_argument, arguments), ctypes.byref(info))
        return info.value

    return call


def _routine(name: str) -> Any:
    found = blas.load("openblas").symbol(name)
    if found is None:
        wheel = pip("--only-binary=scipy", "--force-reinstall", "scipy")
        raise OSError(f"this SciPy exports no {name}; one from a wheel does: {wheel}")
    return found


def _argument(value: Any) -> Any:
    if isinstance(value, int):
        return by_reference(value)
    return address(value) if isinstance(value, np.ndarray) else value
