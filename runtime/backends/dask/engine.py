"""dask: workers of a Dask cluster, the user's or a kept `LocalCluster`.

Options, all optional:

=============  =========================================================================================
client         a synchronous `distributed.Client`; by default the current one, else that of a LocalCluster
               of one-thread workers which is started at the first call and kept until the process ends
mode           ``"resident"``: one long task per Dask worker runs its part of the message plan, and tiles go
               from worker to worker; fast, but a worker that dies ends the run. ``"tasks"``: the coarsened
               graph goes to Dask's scheduler, which places, spills and computes again what is lost.
               By default resident, and tasks where the data does not fit in the workers' memory
owner          who owns which handle: see `tilewright.distribution.owners`; block-cyclic by default
grid           ``(P, Q)``, short for ``owner=BlockCyclic(P, Q)``
timeout        seconds to wait for workers, and for all of them to begin; 30
window         resident: bytes of others' tiles that a worker holds before it is needed to go on; 256 MiB
overheads      tasks: seconds that a Dask task, a hop and a byte cost; see `tilewright.passes.coarsen.Overheads`
=============  =========================================================================================

``workers`` counts the threads of all Dask workers of the run; by default all that the cluster has.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from tilewright.backends.dask import client as clients
from tilewright.backends.dask import serializers
from tilewright.backends.execution.engine import Engine, Progress
from tilewright.backends.execution.program import Program
from tilewright.backends.execution.rooms import provide
from tilewright.backends.ranks.outcome import planned, planned_needs
from tilewright.distribution import by_handle, chosen_owner, owner_for, owners
from tilewright.errors import WorkerDied
from tilewright.graph import Handle, TaskGraph
from tilewright.host.cores import cores
from tilewright.machine import Machine
from tilewright.passes.coarsen import Overheads
from tilewright.runs.trace import Trace
from tilewright.scalars import plain
from tilewright.schedulers import Policy
from tilewright.tiles import Store

if TYPE_CHECKING:
    from distributed import Client


__all__ = ["MODES", "Dask"]

MODES = ("resident", "tasks")

WINDOW = 256 << 20  # bytes
TIMEOUT = 30.0  # seconds
ATTEMPTS, PAUSE = 4, 0.25  # how often workers are looked for that stay, and seconds between


class Dask(Engine):
    """This process, and a Dask cluster. ImportError without Dask."""

    name = "dask"
    options = ("client", "mode", "owner", "grid", "timeout", "window", "overheads")
    in_process = False
    writes_at_once = True
    placed: ClassVar[bool] = True
    """Whether mode ``tasks`` coarsens the graph and says where and in which order its groups should run."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        super().__init__(options)
        clients.require_dask()
        clients.refuse_tasks()
        serializers.install()  # this process sends and receives tensors too
        self.mode = options.get("mode")
        if self.mode not in (None, *MODES):
            raise ValueError(f"mode must be one of {', '.join(MODES)}, not {self.mode!r}")
        self.owner = chosen_owner(options)
        self.timeout = _positive("timeout", options.get("timeout"), TIMEOUT)
        self.window = int(_positive("window", options.get("window"), WINDOW))
        overheads = options.get("overheads")
        try:
            self.overheads = Overheads(*(() if overheads is None else overheads))
        except TypeError:
            raise TypeError(
                f"overheads are up to three numbers, seconds of a Dask task, a hop and a byte, not {overheads!r}"
            ) from None
        self.given = options.get("client")
        self._client: Client | None = None
        self._members = 0

    def plan_with(self, machine: Machine | None) -> None:
        super().plan_with(machine)
        self.knows_costs = machine is not None

    def client(self, workers: int) -> Client:
        """The client of this call; a kept cluster has at least so many workers."""
        if self._client is None or self._client.status != "running":
            if self.given is None:
                _check_folder()
            self._client = clients.choose(self.given, workers)
        return self._client

    def ranks(self, workers: int | None) -> clients.Ranks:
        """The Dask workers of this call, checked."""
        client = self.client(workers or cores())
        kept = client is clients.kept_client()
        for left in reversed(range(ATTEMPTS)):
            if kept:
                client = clients.kept(workers or cores())
            found = clients.wait_for_workers(client, self.timeout, workers)
            if kept and len(found) < (workers or 1) and left:  # one died just now: there will be a new one
                time.sleep(PAUSE)
                continue
            ranks = clients.ranks_of(found, min(cores(), len(found)) if kept and workers is None else workers)
            try:
                clients.check(client, ranks.addresses)
            except WorkerDied:
                if not left:
                    raise
                time.sleep(PAUSE)
            else:
                break
        return ranks

    def workers(self, workers: int | None, most: int | None = None) -> int:
        if workers is not None:
            return workers
        ranks = self.ranks(None)
        return len(ranks.members) * ranks.workers

    def dealt(self, graph: TaskGraph, workers: int | None) -> tuple[int, Callable[[Handle], int]]:
        ranks = self._members = len(self.ranks(workers).members)
        return ranks, owners(owner_for(graph, self.owner, ranks), ranks)

    def needs(self, graph: TaskGraph, store: Store, workers: int | None) -> list[int]:
        provide(graph, store)
        ranks, rank_of = self.dealt(graph, workers)
        return planned_needs(planned(graph, ranks, (by_handle(graph, rank_of), None, ())), store, self.window)

    def renew(self) -> None:
        """Wait until the cluster has as many workers again, for so long as `timeout` says."""
        until = time.monotonic() + self.timeout
        while len(clients.workers_of(self.client(0))) < self._members and time.monotonic() < until:
            time.sleep(PAUSE)

    def execute(
        self, program: Program, scheduler: str | Policy, workers: int | None, progress: Progress | None
    ) -> Trace:
        from tilewright.backends.dask import resident, submitted

        ranks = self.ranks(workers)
        client = self.client(0)
        owner = owner_for(program.graph, self.owner, len(ranks.members))
        options = resident.Options(owner, self.window, self.timeout, client is clients.kept_client())
        if self._resident(program, ranks, owner):
            return resident.run_resident(client, ranks, program, scheduler, options, progress)
        machine = self.machine if self.knows_costs else None
        return submitted.run_submitted(
            client, ranks, program, scheduler, options, progress, machine, self.overheads, placed=self.placed
        )

    def _resident(self, program: Program, ranks: clients.Ranks, owner: Any) -> bool:
        """Whether to run in mode resident. MemoryError if that was asked for and the workers have no room."""
        if self.mode == "tasks":
            return False
        from tilewright.backends.dask.resident import at_most

        most = at_most(program, self.window)
        if all(not member.memory or most <= clients.ROOM * member.memory for member in ranks.members):
            return True
        count = len(ranks.members)
        rank_of = owners(owner, count)
        order = by_handle(program.graph, rank_of), None, ()
        wanted = planned_needs(planned(program.graph, count, order), program.store, self.window)
        for need, member in zip(wanted, ranks.members, strict=True):
            if member.memory and need > clients.ROOM * member.memory:
                if self.mode is None:
                    return False
                raise MemoryError(
                    f"mode 'resident' needs {need / 1e6:.0f} MB on {member.address}, whose limit is "
                    f"{member.memory / 1e6:.0f} MB, of which data may take {clients.ROOM:.0%}; mode='tasks' lets "
                    f"Dask spill"
                )
        return True


def _check_folder() -> None:
    """A Dask worker starts in the working directory of its parent."""
    try:
        os.getcwd()
    except OSError:
        raise OSError(
            "the working directory was deleted, and Dask's workers cannot start in it; os.chdir to another one first"
        ) from None


def _positive(name: str, value: Any, default: float) -> float:
    if value is None:
        return default
    value = plain(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise ValueError(f"{name} must be a positive number, not {value!r}")
    return float(value)
