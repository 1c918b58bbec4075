"""Engines: ways to run a program. Each is imported when it is first used.

A backend module has one function::

    execute(program, policy, workers, progress) -> Trace

It runs every task of ``program.graph`` once, each after its predecessors, or raises what the first failing task
raised, with a note that names the task. It leaves no thread, process or file behind. A module with options, or with
more than one process, also has a function ``site(options)``: see `tilewright.site`.
"""

from __future__ import annotations

import importlib
from typing import Protocol

from tilewright.graph import Task
from tilewright.program import Program
from tilewright.scalars import choice
from tilewright.schedulers import Policy
from tilewright.trace import Trace

__all__ = ["BACKENDS", "Backend", "Progress", "backend"]

BACKENDS = ("serial", "threads", "mpi", "dask")
"""Names of the engines."""


class Progress(Protocol):
    """What an engine tells while it runs: how many tasks are done."""

    def __call__(self, done: int, /) -> object: ...


class Backend(Protocol):
    """An engine."""

    def execute(self, program: Program, policy: Policy, workers: int, progress: Progress | None) -> Trace: ...


def backend(name: str) -> Backend:
    """The engine of that name. ValueError lists the names there are."""
    if isinstance(name, str) and name == "simulate":
        raise ValueError("backend 'simulate' computes nothing; tw.simulate and tw.run return the predicted run")
    choice(name, "backend", BACKENDS)
    engine: Backend = importlib.import_module(f"tilewright.backends.{name}")
    return engine


def blame(error: BaseException, task: Task, number: int, where: str) -> None:
    """Note on an exception which task raised it, and where."""
    writing = f", writing {', '.join(map(str, task.writes))}" if task.writes else ""
    error.add_note(f"in task {task} (number {number}){writing}; {where}")
