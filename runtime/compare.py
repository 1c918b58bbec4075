"""The same job by other libraries, timed side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import perf_counter
from typing import Any

import numpy as np

__all__ = ["rivals", "time_alternating"]


def rivals(a: np.ndarray, *, lower: bool = True) -> dict[str, Callable[[], Any]]:
    """Calls that factor ``a`` with NumPy, SciPy and, if installed, torch; each on all cores, into new memory."""
    import scipy.linalg

    calls: dict[str, Callable[[], Any]] = {
        "numpy.linalg.cholesky": lambda: np.linalg.cholesky(a if lower else a.conj().T),
        "scipy.linalg.cholesky": lambda: scipy.linalg.cholesky(a, lower=lower),
    }
    try:
        import torch
    except ImportError:
        return calls
    tensor = torch.from_numpy(a)
    calls["torch.linalg.cholesky"] = lambda: torch.linalg.cholesky(tensor, upper=not lower)
    return calls


def time_alternating(calls: Mapping[str, Callable[[], Any]], repeats: int = 3) -> dict[str, list[float]]:
    """Seconds of each call, in each round. They take turns, so that a busy minute of the machine harms all of them."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            start = perf_counter()
            call()
            times[name].append(perf_counter() - start)
    return times
