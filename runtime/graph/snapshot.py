"""Parameters of tasks as they were when the task was inserted, whatever the caller does with his own afterwards."""

from __future__ import annotations

import copy
import sys
from typing import Any

import numpy as np

__all__ = ["PLAIN", "snapshot"]

PLAIN = frozenset((int, float, str, bool, complex, bytes, type(None)))
"""Types that nobody can change."""
_CONTAINERS = frozenset((list, dict, set, bytearray))


def snapshot(param: Any) -> Any:
    """A copy of what its owner may change in place: arrays, tensors, sparse and tiled matrices, containers that have
    something. Anything else is itself, also an empty list, which a function may be there to fill."""
    kind = type(param)
    if kind in PLAIN:
        return param
    if isinstance(param, np.ndarray):
        return param.copy(order="K")
    if kind in _CONTAINERS and not param:
        return param
    if kind is list:
        return [snapshot(item) for item in param]
    if kind is tuple:
        items = [snapshot(item) for item in param]
        return param if all(own is item for own, item in zip(items, param, strict=True)) else tuple(items)
    if kind is dict:
        return {key: snapshot(item) for key, item in param.items()}
    if kind is set or kind is bytearray:
        return param.copy()
    torch: Any = sys.modules.get("torch")
    if torch is not None and kind is torch.Tensor and not param.requires_grad:
        return param.clone()
    if hasattr(kind, "from_numpy") or (hasattr(kind, "nnz") and hasattr(kind, "tocsr")):  # tiled, sparse
        return copy.deepcopy(param)
    return param
