"""The same factorisation by NumPy, SciPy and torch."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = ["rivals"]


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
