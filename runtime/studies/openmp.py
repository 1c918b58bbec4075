"""OpenMP tasks beside our engines: a Cholesky graph as ``#pragma omp task depend`` on the same tiles and BLAS."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any, ClassVar

import numpy as np

from tilewright.studies.compiled import Compiled, built

__all__ = ["OpenMP"]


class OpenMP(Compiled):
    """The tasks of OpenMP, on the threads of the compiler's own library. AbsentError without a compiler."""

    name: ClassVar[str] = "openmp"

    def __init__(self) -> None:
        super().__init__()
        self.driver = _driver()

    def call(self, tasks: np.ndarray, tiles: np.ndarray, workers: int, routines: Any) -> int:
        pointer = tasks.ctypes.data_as(ctypes.c_void_p)
        return int(self.driver(pointer, ctypes.c_long(len(tasks)), ctypes.c_int(workers), routines))


@cache
def _driver() -> Any:
    """The function of `openmp.c`, compiled and loaded once."""
    function = built("openmp", ["-fopenmp"]).tilewright_openmp
    function.restype = ctypes.c_long
    return function
