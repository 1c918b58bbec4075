"""Where data stays between runs: the protocol between `tilewright.Resident` and the engines that have ranks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import prod
from typing import Any

import numpy as np

from tilewright.backends.execution.buffers import view
from tilewright.backends.execution.prepared import Carry, Prepared, check_carry, check_given
from tilewright.errors import MissingDataError
from tilewright.graph import Handle, TaskGraph
from tilewright.passes.messages import MessagePlan
from tilewright.rooms import outline_for, zeros_for
from tilewright.scalars import shown

__all__ = ["PlacedGraph", "Home", "copied"]

Outline = tuple[tuple[int, ...], Any]


class Home(ABC):
    """Data by handle on ranks, each handle on its owner's.

    Raises
    ------
    ValueError
        The ranks are not as many as the data is for.
    """

    def __init__(self, data: Mapping[Handle, Any], ranks: int, owner: Callable[[Handle], int]) -> None:
        self.ranks, self.owner = ranks, owner
        self.outlines: dict[Handle, Outline | None] = {}
        self.keep(data)

    def keep(self, data: Mapping[Handle, Any]) -> None:
        """Keep this as well."""
        self.outlines |= {
            handle: (value.shape, value.dtype) if hasattr(value, "dtype") else None for handle, value in data.items()
        }

    @abstractmethod
    def prepare(self, bound: PlacedGraph) -> Prepared:
        """Lay the graph out on the ranks."""

    @abstractmethod
    def call(self, function: str, prepared: Sequence[Prepared], *arguments: Any) -> list[Any]:
        """See `tilewright.Resident.call`."""

    @abstractmethod
    def close(self) -> None:
        """Free the data."""


class PlacedGraph:
    """A graph, and what each of its handles is, for ranks that have memory of their own.

    Parameters
    ----------
    graph
    kept
        Outlines of what stays on the ranks already.
    owner
        The rank of each handle.
    given
        The buffer of a handle, in this process; None where nobody gives one.
    outline
        Shape and dtype of a handle without a buffer; None where nobody knows.
    inputs, outputs
        Handles whose buffers the caller fills and reads.
    carry
        See `Prepared.repeat`.

    Raises
    ------
    MissingDataError
        The graph reads what nobody gives, or the size of a handle is known to nobody.
    """

    def __init__(
        self,
        graph: TaskGraph,
        kept: Mapping[Handle, Outline | None],
        owner: Callable[[Handle], int],
        given: Callable[[Handle], Any],
        outline: Callable[[Handle], Outline | None],
        inputs: Iterable[Handle],
        outputs: Iterable[Handle],
        carry: Carry,
    ) -> None:
        self.graph, self.owner = graph, owner
        self.inputs, self.outputs, self.carry = tuple(inputs), tuple(outputs), dict(carry)
        self._kept, self._given, self._outline = kept, given, outline
        box = set(self.inputs) | set(self.outputs)
        fresh = [handle for handle in graph.inputs if handle not in kept and handle not in box]
        self.data = {handle: value for handle in fresh if (value := given(handle)) is not None}
        """What the graph reads first and is neither kept on the ranks nor filled by the caller: it will stay, too."""
        check_given(graph, [*kept, *self.inputs, *self.data, *(h for h in self.outputs if given(h) is not None)])
        for handle in dict.fromkeys([*graph.handles_used, *self.inputs, *self.outputs]):
            if handle not in self.data and not (handle in kept and handle not in box):
                self.outline(handle)
        check_carry(graph, self.carry, self._like)

    def outline(self, handle: Handle) -> Outline:
        """Shape and dtype of the array of a handle. MissingDataError if nobody knows."""
        kept = self._kept.get(handle)
        if kept is not None:
            return kept
        value, room = self._given(handle), self.graph.rooms.get(handle.name)
        if room is not None:
            if room.device not in (None, "cpu"):
                raise ValueError(
                    f"{handle} is a room on {room.device}, but prepared graphs on ranks have their data "
                    f"in the memory of the host"
                )
            if value is None:
                return room.of(handle, self._shape)
            room.check(handle, value, self._shape)
        if view(value) is not None:
            return tuple(value.shape), value.dtype
        if value is not None:
            if handle in self.data:
                return (), np.dtype(float)  # it does not travel, so nobody looks at that
            raise MissingDataError(f"{handle} is {shown(value)}, but on ranks what tasks write is an array or a tensor")
        known = self._outline(handle)
        if known is None:
            raise MissingDataError(
                f"nobody says how large {handle} is; give an array for it in data, or graph.layout, so that ranks have "
                f"a place for it before the first run; or declare its room, as in graph.handle(name, shape=, dtype=)"
            )
        return known

    def _shape(self, handle: Handle) -> tuple[int, ...]:
        return self.outline(handle)[0]

    def traffic(self, plan: MessagePlan) -> tuple[int, int]:
        """Messages of one run, and bytes in them."""
        sizes = (self.outline(message.handle) for message in plan.messages)
        return len(plan.messages), sum(prod(shape) * int(dtype.itemsize) for shape, dtype in sizes)

    def buffer(self, handle: Handle) -> Any:
        """An array with the value of a handle that the caller fills or reads; zeros where there is none yet."""
        value = self._given(handle)
        return value if view(value) is not None else zeros_for(self._like(handle))

    def _like(self, handle: Handle) -> Any:
        return outline_for(*self.outline(handle))


def copied(data: Mapping[Handle, Any]) -> dict[Handle, Any]:
    """The same with copies of all arrays and tensors, also of those in containers."""
    from tilewright.backends.ranks.segments import like

    return {handle: like(value, lambda array: np.array(array, order="K")) for handle, value in data.items()}
