"""serial: run the tasks in insertion order. The specification of every other engine."""

from __future__ import annotations

from tilewright.backends.execution.engine import Progress
from tilewright.backends.execution.in_process import InProcess
from tilewright.backends.execution.line import run_line
from tilewright.backends.execution.program import Program
from tilewright.graph import Task, TaskGraph
from tilewright.kernels.threads import limits, task_threads
from tilewright.runs.trace import Trace
from tilewright.schedulers import BasePolicy

__all__ = ["Serial"]


class Serial(InProcess):
    """The calling thread, in program order. The policy and the number of workers change nothing."""

    name = "serial"
    in_order = True

    def order(self, graph: TaskGraph, policy: BasePolicy) -> list[Task]:
        """Program order."""
        return graph.tasks

    def run(self, program: Program, policy: BasePolicy, workers: int, progress: Progress | None) -> Trace:
        policy.prepare(program.graph, self.machine_of(workers))
        with limits(program.uses_functions), task_threads(program.threads_per_task):
            return Trace(program.graph, 1, run_line(program, program.graph, self.name, progress))
