"""What engines of this process share: the policy is theirs, and kernels on a GPU are launched on streams."""

from __future__ import annotations

from typing import Any

from tilewright.backends.execution.engine import Engine, Progress
from tilewright.backends.execution.program import Program
from tilewright.backends.execution.streams import launching
from tilewright.graph import TaskGraph
from tilewright.runs.trace import Trace
from tilewright.schedulers import BasePolicy, Policy, claimed
from tilewright.schedulers import policy as find_policy

__all__ = ["InProcess"]


class InProcess(Engine):
    """An engine whose tasks run in this process."""

    wide_tasks = True

    def bind(self, graph: TaskGraph, data: Any) -> Program:
        program = super().bind(graph, data)
        assert isinstance(program, Program)
        program.streams = launching(program)
        return program

    def execute(
        self, program: Program, scheduler: str | Policy, workers: int | None, progress: Progress | None
    ) -> Trace:
        workers = self.workers(workers, max(len(program.graph), 1))  # none that could never have a task
        policy = find_policy(scheduler)
        if program.streams is not None:
            program.streams.begin()
        try:
            with claimed(policy):
                trace = self.run(program, policy, workers, progress)
        except BaseException:
            if program.streams is not None:
                program.streams.wait()  # else the allocator would hand out memory that kernels still write to
            raise
        return trace if program.streams is None else program.streams.measured(trace)

    def run(self, program: Program, policy: BasePolicy, workers: int, progress: Progress | None) -> Trace:
        """Prepare the policy, and run all tasks on so many workers."""
        raise NotImplementedError
