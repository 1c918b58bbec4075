"""What stays on a rank between runs: data, and scripts over it. They go when the object of the user goes.

`Guests` are those of a pool's rank; `RankHome` is where a rank under ``mpiexec`` keeps its own.
"""

from __future__ import annotations

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

__all__ = ["Guests"]


class Guests:
    """The data and scripts of one rank, by key."""

    def __init__(self, comm: MPI.Intracomm) -> None:
        self.comm = comm
        self.data: dict[int, dict[Handle, Any]] = {}
        self.scripts: dict[int, Script] = {}

    def serve(self, job: Keep | Prepare | Go) -> Any:
        """The answer: None, what a script told, or a frozen exception."""
        try:
            if isinstance(job, Go):
                with job.torch_state.entered():
                    told = self.scripts[job.key].run(job.traced)
                if told.failure is None:
                    return told
                return told._replace(failure=(told.failure[0], freeze(told.failure[1])))
            if isinstance(job, Keep):
                # Out of the shared segment, into memory of this rank: the segment can go.
                self.data[job.key] = like(loads(job.contents, Mappings()), np.array)
                return None
            self._prepare(job)
        except Exception as error:
            return freeze(error)
        return None

    def _prepare(self, job: Prepare) -> None:
        follow(job.path)
        line = wires(self.comm).data
        with agreement(line):
            choice.adopt(job.blas)
            # The mappings of the letter box live in its arrays.
            graph, order, box, data, outlines, synchronous = loads(job.contents, Mappings())
            self.scripts[job.key] = Script(
                line, planned(graph, self.comm.size, order), self.data[data], box,
                outline=outlines.__getitem__, synchronous=synchronous, shared=True,
            )  # fmt: skip

    def forget(self, job: Forget) -> None:
        for key in job.keys:
            self.data.pop(key, None)
            script = self.scripts.pop(key, None)
            if script is not None:
                script.free()


# ------------------------------------------------------------------ under mpiexec
