"""Rooms of a run: memory for handles whose graph says how large they are, from their first writer to their last user.

The store has an outline for a room without memory. Whoever writes it, a task or a message, finds or puts memory there;
when as many tasks have used it as use it in this graph (one rank's part counts for itself), the outline is back.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from tilewright.graph import Access, Handle, Task, TaskGraph
from tilewright.rooms import Outline
from tilewright.tiles import Store

__all__ = ["Rooms", "provide"]


def provide(graph: TaskGraph, store: Store) -> dict[Handle, Any]:
    """Put outlines for rooms into a store, and zeros for those that are kept, as if they were given; again is the same.

    Returns the outlines of those that come and go. ValueError if data was given for a room, of another shape or dtype.
    O(handles).
    """
    found: dict[Handle, Any] = {}
    for handle in graph.handles_used if graph.rooms else ():
        room = graph.rooms.get(handle.name)
        if room is None:
            continue
        value = store[handle]
        if value is None:
            if handle in graph.inputs:
                continue  # nothing was written that could be read
            value = store[handle] = room.make(handle) if room.keep else room.outline(handle)
            (store.given if room.keep else store.outlines)[handle] = value
        room.check(handle, value)
        if not room.keep and (isinstance(value, Outline) or value is store.outlines.get(handle)):
            found[handle] = value
    return found


class Rooms:
    """The rooms of one program. `enter` and `leave` stand around each task that uses one."""

    def __init__(self, graph: TaskGraph, store: Store) -> None:
        self.store = store
        self.forget: Callable[[Handle], object] | None = None
        """Told of what has lost its memory."""
        self._rooms = graph.rooms
        self._outlines = provide(graph, store)
        self._lock = threading.Lock()
        self._users: dict[Handle, int] = dict.fromkeys(self._outlines, 0)
        self._mine: list[tuple[Handle, ...]] = []  # by task: the rooms it uses, each once
        for task in graph.tasks:
            mine = dict.fromkeys(handle for handle, _ in task.uses if handle in self._outlines)
            self._mine.append(tuple(mine))
            for handle in mine:
                self._users[handle] += 1
        self._left: dict[Handle, int] = {}
        kept = {handle for handle in graph.written if handle.name in graph.rooms and graph.rooms[handle.name].keep}
        self._first: dict[int, list[Handle]] = {}  # kept rooms by the task that writes them first: they begin as zeros
        for task in graph.tasks if kept else ():
            for handle, access in task.uses:
                if handle in kept:
                    kept.discard(handle)
                    if access is Access.WRITE and not task.op.external:
                        self._first.setdefault(task.index, []).append(handle)

    def begin(self) -> None:
        """Before each run: nothing is there yet."""
        self._left = dict(self._users)
        self.store.update(self._outlines)

    def enter(self, task: Task) -> list[Handle]:
        """Before a task: memory for what it writes and has none. Returns the handles that are zeros now."""
        fresh = self._first.get(task.index, [])
        for handle in fresh:
            self.store[handle][...] = 0
        store, outlines = self.store, self._outlines
        for handle in self._mine[task.index]:
            if store[handle] is outlines[handle]:
                store[handle] = self._rooms[handle.name].make(handle)
                fresh = [*fresh, handle]
            if getattr(store[handle], "is_cuda", False):
                _in_use(store[handle])
        return fresh

    def leave(self, task: Task) -> None:
        """After a task: what nobody uses any more loses its memory."""
        for handle in self._mine[task.index]:
            with self._lock:
                self._left[handle] -= 1
                last = not self._left[handle]
            if last:
                self.store[handle] = self._outlines[handle]
                if self.forget is not None:
                    self.forget(handle)


def _in_use(tensor: Any) -> None:
    """Let the allocator wait for what was launched on this stream before it gives the memory to another."""
    import torch

    tensor.record_stream(torch.cuda.current_stream(tensor.device))
