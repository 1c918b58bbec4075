"""Which version of a handle each task reads and writes.

Every write makes a new version of its handle; before the first write the handle has its initial version. A version
travels at most once to each memory, so versions are what messages carry.
"""

from __future__ import annotations

from tilewright.graph import Access, Handle, TaskGraph

__all__ = ["Dataflow"]


class Dataflow:
    """Versions by number, tasks by index. O(accesses) to build; plain lists, for graphs of millions of tasks."""

    __slots__ = ("handle", "reads", "writer", "writes")

    def __init__(self, graph: TaskGraph) -> None:
        self.handle: list[Handle] = []
        """By version: what it is a version of."""
        self.writer: list[int] = []
        """By version: the task that writes it, -1 for an initial version."""
        self.reads: list[tuple[int, ...]] = []
        """By task: the versions it reads, each once, in the order of its accesses."""
        self.writes: list[tuple[int, ...]] = []
        """By task: the versions it makes."""
        current: dict[Handle, int] = {}
        read_only, write_only = Access.READ, Access.WRITE
        for task in graph.tasks:
            reads: list[int] = []
            written: list[Handle] = []
            for handle, access in task.uses:
                if access is not write_only:
                    version = current.get(handle)
                    if version is None:
                        version = current[handle] = self._new(handle, -1)
                    if version not in reads:
                        reads.append(version)
                if access is not read_only and handle not in written:
                    written.append(handle)
            self.reads.append(tuple(reads))
            versions = []
            for handle in written:  # after the reads: a handle may be given twice to one task
                version = current[handle] = self._new(handle, task.index)
                versions.append(version)
            self.writes.append(tuple(versions))

    def _new(self, handle: Handle, writer: int) -> int:
        self.handle.append(handle)
        self.writer.append(writer)
        return len(self.writer) - 1

    def __len__(self) -> int:
        return len(self.writer)
