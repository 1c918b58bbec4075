"""Task graphs over data handles.

A *handle* names data and holds none; a *task* is one call of an *op* on handles; a *graph* is the list of
tasks in program order with the edges that order implies. Three sentences give every edge:

1. A task that reads a handle waits for the last task before it that wrote the handle.
2. A task that writes a handle waits for every task that read it since the last write.
3. A task that writes a handle nobody read since the last write waits for that write.

Two reads never order each other. Edges point from a task to tasks inserted earlier, so a graph is acyclic by
construction, and running it in insertion order *is* the sequential program.

The table behind the rules keeps, for each handle, its last writer and the readers since: inserting costs
O(accesses + edges), never a scan over tasks.
"""

from tilewright.graph.access import RW, Access, R, Use, W
from tilewright.graph.deferred import DeferredGraph
from tilewright.graph.handle import Handle, Handles
from tilewright.graph.layout import Layout
from tilewright.graph.op import Op
from tilewright.graph.paths import CriticalPath
from tilewright.graph.task import Task
from tilewright.graph.task_graph import TaskGraph

__all__ = [
    "R",
    "RW",
    "W",
    "Access",
    "CriticalPath",
    "DeferredGraph",
    "Handle",
    "Handles",
    "Layout",
    "Op",
    "Task",
    "TaskGraph",
    "Use",
]
