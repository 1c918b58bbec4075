"""Attributes of a graph that hold for the tasks that it has."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

__all__ = ["Fact"]

T = TypeVar("T")


class Fact(Generic[T]):
    """An attribute of a graph that holds for the tasks that it has when it is set: one more, and it is the default."""

    def __init__(self, default: T) -> None:
        self.default = default

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = f"_{name}"

    def __get__(self, graph: Any, owner: type) -> T:
        if graph is None:
            return self.default
        count, value = graph.__dict__.get(self.name, (0, self.default))
        return value if count == len(graph) else self.default

    def __set__(self, graph: Any, value: T) -> None:
        graph.__dict__[self.name] = len(graph), value
