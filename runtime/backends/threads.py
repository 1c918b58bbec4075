"""threads: workers of one process that call kernels which release the GIL.

Each worker repeats: take a task from the policy, run it, tell the frontier, push what became ready. One lock guards
policy and frontier; a worker takes it once per task. A worker that finds nothing parks on a lock of its own, and
the worker that makes tasks ready wakes as many as there are tasks to run.

Two threads that want the lock every few microseconds pass it, and the GIL with it, back and forth, at 10 us a time.
So while every op of the graph has last run in less than that, a worker takes several tasks at once if plenty are
ready, and leaves the others asleep if few are.

Option ``devices``: the last workers are these accelerators, such as ``["cuda"]``; see
`tilewright.backends.gpu.memories`. Policies plan with ``machine``, or with a guess of how much faster they are.

Option ``pin="cores"``: each worker stays on a core of its own, and policies plan with the sockets that these are on
(`tilewright.host.affinity`). The threads that a worker starts are bound to its core too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from tilewright.backends.execution.buffers import itemsize_of
from tilewright.backends.execution.engine import Progress
from tilewright.backends.execution.in_process import InProcess
from tilewright.backends.execution.program import Program
from tilewright.backends.execution.workers import Workers
from tilewright.graph import Handle, Task, TaskGraph
from tilewright.host.affinity import as_pin, places, sockets
from tilewright.kernels.threads import limits
from tilewright.machine import Machine
from tilewright.runs.failure import leave
from tilewright.runs.trace import Trace
from tilewright.schedulers import BasePolicy

__all__ = ["Threads"]


class Threads(InProcess):
    """Threads of this process; with ``devices`` the last workers are accelerators."""

    name = "threads"
    options = ("devices", "pin")
    moves_beside = True

    def __init__(self, options: Mapping[str, Any]) -> None:
        super().__init__(options)
        self.pin = as_pin(options.get("pin"))
        devices = options.get("devices")
        if devices is not None and not isinstance(devices, str | Sequence):
            raise TypeError(f"devices is a list of accelerators, such as ['cuda'], not {devices!r}")
        self.accelerators: list[Any] = []
        if devices:
            from tilewright.backends.gpu.accelerators import accelerator

            self.accelerators = list(map(accelerator, [devices] if isinstance(devices, str) else devices))
            if self.pin:
                raise ValueError("pin='cores' is for workers that are cores; leave out devices=")

    def plan_with(self, machine: Machine | None) -> None:
        super().plan_with(machine)
        if self.accelerators and machine is None:
            from tilewright.backends.gpu.accelerators import ACCELERATION

            self.machine = Machine(acceleration=ACCELERATION)
        if self.pin and machine is None:
            self.machine = Machine(sockets=sockets())
        if machine is not None:
            gpus = len(self.accelerators)
            self.model = machine.replace(
                workers=max(machine.workers, gpus), gpus=gpus, sockets=1 if gpus else machine.sockets
            )

    def workers(self, workers: int | None, most: int | None = None) -> int:
        count, devices = super().workers(workers), len(self.accelerators)
        if workers is not None and workers < devices:
            raise ValueError(f"workers={workers}, but each of the {devices} devices needs one")
        return max(count if most is None else min(count, most), devices)

    def order(self, graph: TaskGraph, policy: BasePolicy) -> list[Task] | None:
        return None if self.accelerators else policy.alone()

    def run(self, program: Program, policy: BasePolicy, workers: int, progress: Progress | None) -> Trace:
        machine = self.machine_of(workers)
        if not self.accelerators:
            if self.pin and program.threads_per_task > 1:
                raise ValueError("pin='cores' gives a worker one core, so threads_per_task must be 1")
            pins = places(workers) if self.pin else None
            policy.prepare(program.graph, machine)
            return work(program, policy, workers, progress, pins)

        from tilewright.backends.gpu.memories import Memories

        if program.streams is not None:
            raise ValueError("devices= is for data in the memory of the host; tensors on a GPU are worked on there")

        def shape(handle: Handle) -> tuple[int, ...]:
            return tuple(getattr(program.store[handle], "shape", ()))

        def itemsize(handle: Handle) -> int:
            return itemsize_of(program.store[handle])

        policy.prepare(program.graph, machine.replace(gpus=len(self.accelerators), shape=shape, itemsize=itemsize))
        with ExitStack() as promises:
            memories = program.memories = Memories(program, self.accelerators, workers)
            for switches in filter(None, (getattr(a, "switches", None) for a in self.accelerators)):
                self.switches = {**self.switches, **promises.enter_context(switches())}
            try:
                return memories.finish(work(program, policy, workers, progress))
            finally:
                memories.close()


def work(
    program: Program, policy: BasePolicy, workers: int, progress: Progress | None, pins: Sequence[int] | None = None
) -> Trace:
    """Run on ``workers`` threads; with one worker and no progress to show, in the calling thread.

    Ctrl-C lets the running tasks finish, starts no other, and raises KeyboardInterrupt.
    """
    run = Workers(program, policy, workers, pins)
    with limits(program.uses_functions):
        if workers == 1 and progress is None:
            run.alone()
        else:
            run.on_threads(progress)
    if run.failures:
        number, error = min(run.failures, key=lambda failure: failure[0])
        leave(error, run.trace(), number)
        raise error
    return run.trace()
