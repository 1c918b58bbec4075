"""The communication half of the lecture: collectives, matrix-vector products and sparse products as task graphs."""

import importlib
from typing import Any

__all__: list[str] = []

_HOMES: dict[str, str] = {}  # public name: module of this package, imported when it is first used


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"tilewright.comm.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'tilewright.comm' has no attribute {name!r}")
