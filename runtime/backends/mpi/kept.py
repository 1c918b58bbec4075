"""What stays on a pool's rank between runs: data, and scripts over it. They go when the object of the user goes."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from mpi4py import MPI

from tilewright.backends.mpi.connection import Forget, Go, Keep, Prepare, follow
from tilewright.backends.mpi.part import agreement, wires
from tilewright.backends.mpi.script import Script
from tilewright.backends.ranks.outcome import freeze, planned
from tilewright.backends.ranks.pickling import loads
from tilewright.backends.ranks.segments import Mappings, like
from tilewright.graph import Handle
from tilewright.kernels import choice

__all__ = ["Guests", "named", "on_scripts", "scripts"]

scripts: dict[int, Script] = {}
"""The scripts of this rank, by key."""


class Guests:
    """The data and scripts of one rank, by key."""

    def __init__(self, comm: MPI.Intracomm) -> None:
        self.comm = comm
        self.data: dict[int, dict[Handle, Any]] = {}

    def serve(self, job: Keep | Prepare | Go) -> Any:
        """The answer: None, what a script told, or a frozen exception."""
        try:
            if isinstance(job, Go):
                with job.torch_state.entered():
                    return self._go(scripts[job.key], job)
            if isinstance(job, Keep):
                # Out of the shared segment, into memory of this rank: the segment can go.
                self.data[job.key] = like(loads(job.contents, Mappings()), np.array)
                return None
            self._prepare(job)
        except Exception as error:
            return freeze(error)
        return None

    def _go(self, script: Script, job: Go) -> Any:
        """How many repetitions there were, where that is all there is to tell."""
        if job.traced:
            told = script.traced()
        elif job.rounds:
            told = script.timed(job.rounds, job.times)
        else:
            told = script.repeat(job.times, job.until)
            if told.failure is None:
                return told.done
        if told.failure is None:
            return told
        return told._replace(failure=told.failure._replace(error=freeze(told.failure.error)))

    def _prepare(self, job: Prepare) -> None:
        follow(job.path)
        line = wires(self.comm).data
        with agreement(line):
            choice.adopt(job.blas)
            # The mappings of the letter box live in its arrays.
            graph, order, box, kept, outlines, options = loads(job.contents, Mappings())
            stays: dict[Handle, Any] = {}
            for key in kept:
                stays.update(self.data[key])
            used = set(graph.handles_used)
            scripts[job.key] = Script(
                line,
                planned(graph, self.comm.size, order),
                {h: v for h, v in stays.items() if h in used},
                box,
                outline=outlines.__getitem__,
                shared=True,
                **options,
            )

    def forget(self, job: Forget) -> None:
        for key in job.keys:
            self.data.pop(key, None)
            script = scripts.pop(key, None)
            if script is not None:
                script.free()


def named(function: str) -> Callable[..., Any]:
    """The function ``"package.module:function"``."""
    module, _, name = function.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return found


def on_scripts(comm: MPI.Intracomm, function: str, keys: Sequence[int], arguments: Sequence[Any]) -> Any:
    """``function(comm, scripts, *arguments)`` with those of this rank."""
    return named(function)(comm, [scripts[key] for key in keys], *arguments)
