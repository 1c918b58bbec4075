"""locality: a task goes to the worker that used its data last [1]_.

Each handle remembers the worker that touched it last. A ready task joins the queue of the worker that holds most
of its handles, where the tile it writes counts twice, as it is read and written. A worker takes the newest task of
its own queue; when that is empty it steals the oldest task of the longest queue, on its own socket if one there has
tasks.

.. [1] U. A. Acar, G. E. Blelloch and R. D. Blumofe, The data locality of work stealing, Theory of Computing
   Systems 35 (2002).
"""

from __future__ import annotations

from collections import deque

from tilewright.graph import Access, Handle, Task, TaskGraph
from tilewright.machine import Machine
from tilewright.schedulers.base import BasePolicy

__all__ = ["Locality"]


class Locality(BasePolicy):
    """One deque per worker. O(accesses) per task, O(workers) per steal."""

    shared = True

    def prepare(self, graph: TaskGraph, machine: Machine) -> None:
        self.deques: list[deque[Task]] = [deque() for _ in range(machine.size)]
        mates: dict[int, list[deque[Task]]] = {}  # by memory
        nodes = [machine.node(worker) if machine.sockets > 1 else 0 for worker in range(machine.size)]
        for node, tasks in zip(nodes, self.deques, strict=True):
            mates.setdefault(node, []).append(tasks)
        self.mates = [mates[node] for node in nodes]
        self.last: dict[Handle, int] = {}
        self.next = 0

    def push(self, task: Task, worker: int | None = None) -> None:
        votes: dict[int, int] = {}
        for handle, access in task.uses:
            holder = self.last.get(handle)
            if holder is not None:
                votes[holder] = votes.get(holder, 0) + (1 if access is Access.READ else 2)
        if votes:
            worker = min(votes, key=lambda w: (-votes[w], w))
        elif worker is None:  # data nobody touched yet: deal tasks out in turn
            worker = self.next
            self.next = (worker + 1) % len(self.deques)
        self.deques[worker].append(task)

    def pop(self, worker: int) -> Task | None:
        own = self.deques[worker]
        if own:
            task = own.pop()
        else:
            longest = max(self.mates[worker], key=len) or max(self.deques, key=len)  # the first of the longest
            if not longest:
                return None
            task = longest.popleft()
        for use in task.uses:
            self.last[use.handle] = worker
        return task
