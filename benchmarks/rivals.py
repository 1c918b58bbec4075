"""The same factorisation by NumPy, SciPy, torch and Dask."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np

from tilewright.kernels.threads import limits

__all__ = ["dask_threads", "rivals"]


def rivals(a: np.ndarray, *, lower: bool = True) -> dict[str, Callable[[], Any]]:
    """Calls that factor ``a`` with NumPy, SciPy and, if installed, torch; each on all cores, into new memory."""
    import scipy.linalg

    calls: dict[str, Callable[[], Any]] = {
        "scipy": lambda: scipy.linalg.cholesky(a, lower=lower),
        "numpy": lambda: np.linalg.cholesky(a if lower else a.conj().T),
    }
    if importlib.util.find_spec("torch"):
        import torch

        tensor = torch.from_numpy(a)
        calls["torch"] = lambda: torch.linalg.cholesky(tensor, upper=not lower)
    return calls


def dask_threads(*collections: Any) -> Callable[[], Any]:
    """A call that computes Dask's collections on its threaded scheduler, BLAS on one thread each: its best setting."""
    import dask

    def compute() -> Any:
        with limits(functions=True):
            return dask.compute(*collections, scheduler="threads")

    return compute
