"""`cho_solve`, `logdet`, `cho_inverse` of CUDA tensors, by torch: everything stays on the device."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["cho_inverse", "cho_solve", "logdet"]


def cho_solve(L: Any, b: Any, lower: bool) -> Any:
    """x with A x = b, from the factor of A: two triangular solves of torch on the device."""
    import torch

    if b.ndim not in (1, 2) or len(b) != len(L):
        raise ValueError(f"b must have {len(L)} rows, not shape {tuple(b.shape)}")
    if bool((L.diagonal() == 0).any()):
        raise np.linalg.LinAlgError("the factor is singular: its diagonal has a zero")
    dtype = torch.promote_types(L.dtype, b.dtype)
    columns = b.reshape(len(b), -1).to(dtype)
    return torch.cholesky_solve(columns, L.to(dtype), upper=not lower).reshape(b.shape)


def logdet(L: Any) -> float:
    """2 sum_i log |l_ii|."""
    return float(2 * L.diagonal().abs().double().log().sum())


def cho_inverse(L: Any, lower: bool) -> Any:
    """The inverse of A, exactly symmetric."""
    import torch

    if bool((L.diagonal() == 0).any()):
        raise np.linalg.LinAlgError("the factor is singular: its diagonal has a zero")
    inverse = torch.cholesky_inverse(L, upper=not lower).tril()
    return inverse + inverse.tril(-1).mH
