"""The threads engine's workers on one rank's part of a graph.

A part has external tasks: sends, receives, drops. They go to a courier, which carries them out beside the workers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from tilewright.backends.execution.engine import blame
from tilewright.backends.execution.nested import in_task
from tilewright.backends.execution.program import Program
from tilewright.backends.execution.workers import Workers
from tilewright.backends.ranks.output import saying, telling
from tilewright.graph import Task
from tilewright.passes.messages import Part
from tilewright.schedulers import BasePolicy

__all__ = ["Courier", "Team"]


class Courier(Protocol):
    """Who carries out external tasks; it calls `Workers.arrived` for each that is done."""

    def hand(self, task: Task, /) -> None:
        """Take a task that is ready. Called with the workers' lock."""


class Team(Workers):
    """The workers of one rank."""

    def __init__(
        self,
        program: Program,
        policy: BasePolicy,
        workers: int,
        part: Part,
        rank: int,
        backend: str,
        pins: Sequence[int] | None = None,
    ) -> None:
        self.part = part
        self.rank = rank
        self.backend = backend
        self._early: list[Task] | None = []
        self.say = saying()
        super().__init__(program, policy, workers, pins)

    def work(self, worker: int) -> None:
        with in_task(self.backend):
            super().work(worker)

    def thread(self, worker: int) -> None:
        with telling(self.say):
            super().thread(worker)

    def news(self) -> np.ndarray:
        rows, origin = super().news(), self.part.origin
        rows[:, 0] = self.rank
        rows[:, 2] = [origin[int(task)] for task in rows[:, 2]]
        return rows

    def attach(self, courier: Courier) -> None:
        """Say who carries out external tasks, and hand over those that are ready."""
        early, self._early = self._early or [], None
        self.courier = courier
        for task in early:
            courier.hand(task)

    def outside(self, task: Task) -> None:
        if self._early is None:
            self.courier.hand(task)
        else:
            self._early.append(task)

    def arrived(self, task: Task) -> None:
        if self.program.rooms is not None:
            self.program.rooms.leave(task)
        super().arrived(task)

    def fail(self, task: Task, worker: int, error: BaseException, start: float | None = None) -> None:
        origin = self.part.origin[task.index]
        number = origin if origin >= 0 else max(task.params[0].writer, 0)
        self.failed(task, number, worker, error, start)
        blame(error, task, number, f"backend={self.backend}, worker={worker}, rank={self.rank}")
