"""What a rank of a pool does: ``python -P -m tilewright.backends.mpi.rank`` under mpiexec, until its pool or its owner
ends.

It connects to the pool's socket, says who it is, then runs parts of graphs. A thread of its own reads the socket, so
the rank ends within moments of its owner, whatever either is doing; the kernel ends it if mpiexec's proxy dies.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from typing import TYPE_CHECKING, Any

import numpy as np

from tilewright.backends.execution.buffers import Spare
from tilewright.backends.mpi.connection import (
    Forget,
    Go,
    Hello,
    Job,
    Keep,
    News,
    Prepare,
    RemoteCall,
    Said,
    connect,
    follow,
)
from tilewright.backends.mpi.launcher import remove, shm_files
from tilewright.backends.ranks.outcome import Order, freeze
from tilewright.backends.ranks.output import telling
from tilewright.backends.ranks.pickling import loads
from tilewright.backends.ranks.segments import Mappings
from tilewright.graph import TaskGraph
from tilewright.host.garbage import uncollected
from tilewright.kernels import choice
from tilewright.passes.listed import Listed
from tilewright.passes.loops import Nest
from tilewright.runs.progress import Rows
from tilewright.tiles import Store

if TYPE_CHECKING:
    from mpi4py import MPI

    from tilewright.backends.mpi.kept import Guests

__all__ = ["main"]

SPARE = 64 << 20  # bytes of receive buffers that stay between runs

_PDEATHSIG = 1  # PR_SET_PDEATHSIG of sys/prctl.h


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the owner's business
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PDEATHSIG, signal.SIGKILL)
    connection = connect()
    owner = _Owner(connection)
    jobs: queue.SimpleQueue[Job | RemoteCall | Keep | Prepare | Go | Forget | None] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(connection, jobs), daemon=True).start()
    try:
        from mpi4py import MPI
    except Exception as error:
        owner.send(Hello(-1, 0, os.getpid(), f"{type(error).__name__}: {error}"))
        return
    comm = MPI.COMM_WORLD
    choice.current()
    owner.send(Hello(comm.rank, comm.size, os.getpid(), ""))
    mappings, spare, programs = Mappings(), Spare(), Programs()
    house: Guests | None = None
    while (job := jobs.get()) is not None:
        with suppress(BrokenPipeError):
            if isinstance(job, Job):
                with telling(owner.say):  # all that was printed goes before the answer
                    answer = _run(comm, job, mappings, spare, programs, owner)
                owner.send(answer)
                mappings.keep({job.scratch})
                spare.keep(SPARE)
                continue
            if isinstance(job, RemoteCall):
                with telling(owner.say):
                    answer = _call(comm, job, mappings)
                owner.send(answer)
                mappings.keep(set(job.keep))
                continue
            if house is None:
                from tilewright.backends.mpi.kept import Guests

                house = Guests(comm)
            if isinstance(job, Forget):
                for key in job.keys:
                    programs.pop(key, None)
                house.forget(job)
            else:
                with telling(owner.say):
                    answer = house.serve(job)
                owner.send(answer)


def _listen(owner: Connection, jobs: queue.SimpleQueue[Any]) -> None:
    """Pass jobs on; None asks for an orderly end, and without its owner a rank has nothing to live for."""
    with suppress(EOFError, OSError):
        while True:
            job = owner.recv()
            jobs.put(job)
            if job is None:
                return
    remove(shm_files([os.getpid()]))  # MPI would do so at its orderly end
    os._exit(1)


def _call(comm: MPI.Intracomm, call: RemoteCall, mappings: Mappings) -> Any:
    """(what the function returns,), or the pickled exception that it raised."""
    from tilewright.backends.mpi.part import wires

    follow(call.path)
    try:
        name, arguments = loads(call.contents, mappings)
        module, _, function = name.partition(":")
        return (getattr(importlib.import_module(module), function)(wires(comm).data, *arguments),)
    except Exception as error:
        return freeze(error)


class _Owner:
    """The socket of the owner, into which several threads may speak."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()

    def send(self, what: Any) -> None:
        data = ForkingPickler.dumps(what)
        with self._lock:
            self._connection.send_bytes(data)

    def say(self, text: str, error: bool) -> None:
        self.send(Said(text, error))


class _Teller:
    """Progress, sent to the owner."""

    def __init__(self, send: Callable[[News], object], rows: bool) -> None:
        self._send = send
        self._rows: Rows = ()
        if rows:
            self.ran = self._take

    def _take(self, rows: Rows) -> None:
        self._rows = rows if not len(self._rows) else np.concatenate([self._rows, rows])

    def __call__(self, done: int) -> None:
        rows, self._rows = self._rows, ()
        self._send(News(done, rows))


Programs = dict[int, tuple[TaskGraph | Nest | Listed, Order]]
"""Graphs of prepared programs by key. As long as a graph is here, so is its plan: see `planned`."""


def _run(comm: MPI.Intracomm, job: Job, mappings: Mappings, spare: Spare, programs: Programs, owner: _Owner) -> Any:
    """This rank's `Outcome`, or the pickled exception that all ranks agreed to raise before any task ran."""
    from tilewright.backends.mpi.agreement import Agreement
    from tilewright.backends.mpi.part import run_part, wires

    report = _Teller(owner.send, job.rows) if job.progress else None
    follow(job.path)
    try:
        agreed = Agreement(wires(comm).data)
        with ExitStack() as entered:
            with agreed.block(exchange=False):
                entered.enter_context(job.torch_state.entered())
                choice.adopt(job.blas)
                with uncollected():
                    graph, order = programs[job.key] if job.key in programs else loads(job.program, mappings)
                if job.key >= 0:
                    programs[job.key] = graph, order
                data, scheduler = loads(job.contents, mappings)
            (outcome,) = run_part(
                comm,
                graph,
                Store(data),
                scheduler,
                job.workers,
                order,
                window=job.window,
                synchronous=job.synchronous,
                deliver=True,
                spare=spare,
                progress=report,
                agreed=agreed,
                pins=None if job.pins is None else job.pins[comm.rank * job.workers :][: job.workers],
            )
    except Exception as error:
        return freeze(error)
    return outcome


if __name__ == "__main__":
    main()
