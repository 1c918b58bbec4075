"""Running one rank's part of a graph; every rank of a communicator calls `run_part` at the same time.

The workers are those of the threads engine; the courier beside them makes the MPI calls.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any

import numpy as np
from mpi4py import MPI

from tilewright.backends.execution.buffers import Spare, kind, memory, view, wrap
from tilewright.backends.execution.program import Program
from tilewright.backends.execution.rooms import provide
from tilewright.backends.mpi.agreement import Agreement, Clock, agreement
from tilewright.backends.mpi.courier import MpiCourier, Wires, calm
from tilewright.backends.mpi.options import fewest_cores
from tilewright.backends.ranks.outcome import Order, Outcome, failed_at, freeze, plan_of, ran, travelled
from tilewright.backends.ranks.pickling import dumps
from tilewright.backends.ranks.workers import Team
from tilewright.graph import Handle, TaskGraph
from tilewright.host.affinity import pinned
from tilewright.host.garbage import uncollected
from tilewright.host.memory import Peak
from tilewright.kernels import choice
from tilewright.kernels.threads import limits
from tilewright.machine import Machine
from tilewright.passes.listed import Listed, ListedPlan
from tilewright.passes.loops import Nest
from tilewright.passes.messages import MessagePlan
from tilewright.passes.one_rank import OneRank
from tilewright.schedulers import Policy
from tilewright.schedulers import policy as find_policy
from tilewright.storage.parts import settle_all
from tilewright.tiles import Store

__all__ = ["agreement", "own_cores", "run_part", "wires"]


def run_part(
    comm: MPI.Intracomm,
    graph: TaskGraph | Nest | Listed,
    store: Store,
    scheduler: str | Policy,
    workers: int,
    order: Order,
    *,
    window: int,
    synchronous: bool,
    deliver: bool,
    spare: Spare | None = None,
    progress: Callable[[int], object] | None = None,
    agreed: Agreement | None = None,
    pins: Sequence[int] | None = None,
) -> list[Outcome]:
    """Run this rank's part of ``graph``; how it went on all ranks, or with ``deliver`` on this one. Collective.

    ``graph`` may be loops, or tasks in arrays, of which each rank plans its own part. ``pins`` are its workers' CPUs.

    ``order`` holds the arguments of the plan beside graph and ranks: owners, start, collect. ``store`` has a buffer
    for every array of the run, also for those that live elsewhere; their contents are not looked at. ``deliver`` puts
    results into those buffers, which all ranks share, and reports the others as `Outcome.values`. ``spare`` are buffers
    of runs before, ``agreed`` what the ranks checked and noted so far and exchange here.
    """
    lines = wires(comm)
    grown = Peak()
    with (agreed or Agreement(lines.data)).block() as facts, uncollected():
        plan = plan_of(graph, comm.size, comm.rank, order)
        part = plan.part(comm.rank)
        _check_tags(plan)
        policy = find_policy(scheduler)
        policy.prepare(part.graph, Machine(workers=workers))
        spare = spare or Spare()
        provide(graph if isinstance(graph, TaskGraph) else part.graph, store)
        rooms = _rooms(plan, comm.rank, store, spare, shared=deliver)
        program = Program(part.graph, store)
        pickled: dict[Handle, int] = {}
        if isinstance(graph, TaskGraph) and plan.messages:
            pickled = _pickled(graph, store)
        elif isinstance(plan, ListedPlan):
            pickled = plan.pickled(lambda handle: view(store[handle]) is not None)
        team = Team(program, policy, workers, part, comm.rank, "mpi", pins)
        courier = MpiCourier(lines, team, pickled, spare, window=window, synchronous=synchronous)
        team.attach(courier)
        facts["kernels"] = choice.choice()
        facts["clock"] = Clock(socket.gethostname(), perf_counter())
    began = _common_clock(facts["everywhere"], comm.rank)
    team.began = began
    alone = isinstance(plan, MessagePlan) and plan.on_one_rank
    if not alone:
        courier.start()
    try:
        with limits(program.uses_functions):
            if workers == 1 and progress is None:
                with pinned(pins, 0):
                    team.work(0)
            else:
                team.on_threads(progress)
    except BaseException as error:  # Ctrl-C
        team.failures.append((plan.tasks, error))
        team.stop()
    if not alone:
        courier.finish()
    if team.failures:
        settle_all()  # what of a checkpoint waits for the disk
    with uncollected():
        outcome = _outcome(team, courier, plan, began, deliver)._replace(grown=grown.bytes())
        if isinstance(graph, Nest) and not deliver:
            outcome = outcome._replace(kernels=_kernels(team))
    if deliver:  # whoever called tells the ranks apart
        outcomes = [outcome]
        announced = 0 if alone else lines.data.allreduce(int(courier.announced))
    else:
        if alone:
            calm(lines.data.Ibarrier())
        outcomes = lines.data.allgather(outcome)
        announced = sum(outcome.announced for outcome in outcomes)
    for _ in range(announced - courier.announced - courier.heard):
        courier.hear()
    del team.courier  # a cycle would keep the run's memory until the garbage is collected
    for handle, room in rooms.items():
        if handle not in courier.kept:
            spare.give(room)
    return outcomes


# ------------------------------------------------------------------ preparation


def _rooms(
    plan: MessagePlan | OneRank, rank: int, store: Store, spare: Spare, *, shared: bool
) -> dict[Handle, np.ndarray]:
    """Give this rank memory of its own where `MessagePlan.rooms` says so. What is no memory is its own already."""
    rooms = {}
    for handle in plan.rooms(rank, "shared" if shared else "own") if store.names() else ():
        place = view(store[handle])
        if place is not None and handle not in store.outlines:
            room = rooms[handle] = spare.take(place)
            np.copyto(room, np.zeros((), room.dtype))
            store[handle] = wrap(room, kind(store[handle]))
    return rooms


def _common_clock(everywhere: list[dict[str, Any]], rank: int) -> float:
    """The moment that this rank calls 0: the last entry of all ranks on one host, or our own where there are more."""
    clocks = [facts["clock"] for facts in everywhere]
    return max(clock.now for clock in clocks if clock.host == clocks[rank].host)


def _pickled(graph: TaskGraph, store: Store) -> dict[Handle, int]:
    """From which writer on the values of a handle travel pickled: a function's, or -1 if they are no memory.

    What a function changes in place is still the array that all ranks know.
    """
    first = {}
    for handle in graph.inputs:
        if view(store[handle]) is None:
            first[handle] = -1
    for task in graph.tasks:
        if task.op.function is not None:
            for handle in task.writes:
                if not task.op.in_place or view(store[handle]) is None:
                    first.setdefault(handle, task.index)
    return first


def _check_tags(plan: MessagePlan | OneRank) -> None:
    most = max((message.tag for message in plan.messages), default=0)
    limit: Any = MPI.COMM_WORLD.Get_attr(MPI.TAG_UB)  # a predefined attribute; Open MPI has it nowhere else
    if most > limit:
        raise ValueError(
            f"one pair of ranks exchanges {most + 1} messages, but this MPI has only {limit + 1} tags; use larger tiles"
        )


# ------------------------------------------------------------------ what ranks tell each other


def _outcome(team: Team, courier: MpiCourier, plan: MessagePlan | OneRank, began: float, deliver: bool) -> Outcome:
    values = b""
    if not team.failures:
        try:
            values = _settle(plan, team, deliver)
        except Exception as error:
            team.failures.append((plan.tasks, error))
    failure = min(team.failures, key=lambda failure: failure[0]) if team.failures else None
    return Outcome(
        tasks=ran(team, plan, began),
        **travelled(courier.sent, courier.received, began),
        failure=None if failure is None else (failure[0], freeze(failure[1])),
        failed_at=None if failure is None else failed_at(team, failure[0], began),
        announced=courier.announced,
        values=values,
    )


def _kernels(team: Team) -> tuple[tuple[int, str, str], ...]:
    """`Outcome.kernels` of this rank."""
    first: dict[str, int] = {}
    for task, origin in zip(team.part.graph, team.part.origin, strict=True):
        if origin >= 0:
            first.setdefault(task.op.name, origin)
    return tuple((first[op], op, source) for op, source in team.program.kernels.items())


def _settle(plan: MessagePlan | OneRank, team: Team, deliver: bool) -> bytes:
    """Put results that this rank made into their own place; with ``deliver`` pickle those that have none."""
    store = team.program.store
    places = Store(store.given)
    temporary = plan.temporary if isinstance(plan, OneRank) else plan.graph.temporary
    replaced = {handle for handle in team.program.replaced if handle.name not in temporary}
    values = {}
    for handle in plan.made_by(team.rank):
        value, place = store[handle], places[handle]
        memory_there = view(place)
        if value is place and (memory_there is not None or value is None):
            continue
        array = None if handle in replaced else memory_there
        if array is not None:
            np.copyto(array, memory(value))
            store[handle] = place
        else:
            values[handle] = value
    return dumps((values, replaced)) if deliver and (values or replaced) else b""


# ------------------------------------------------------------------ communicators


def _free(comm: MPI.Comm, key: int, lines: Wires) -> None:
    for line in lines:
        line.Free()


_kept = MPI.Comm.Create_keyval(delete_fn=_free)  # freed with the communicator that they duplicate
_cores = MPI.Comm.Create_keyval()


def own_cores(comm: MPI.Intracomm) -> int:
    """Cores that each rank of ``comm`` has for itself, found out once and kept with it. Collective."""
    found: Any = comm.Get_attr(_cores)
    if found is None:
        line = wires(comm).data
        neighbours = line.Split_type(MPI.COMM_TYPE_SHARED)
        found = fewest_cores(line, neighbours)
        neighbours.Free()
        comm.Set_attr(_cores, found)
    return int(found)


def wires(comm: MPI.Intracomm) -> Wires:
    """The duplicates of ``comm`` that runs use, made at the first call and kept with it. Collective.

    RuntimeError if this MPI does not let a thread other than the main one make calls.
    """
    lines: Any = comm.Get_attr(_kept)
    if lines is None:
        if MPI.Query_thread() < MPI.THREAD_SERIALIZED:
            raise RuntimeError(
                "this MPI was initialised without threads; backend 'mpi' needs MPI_THREAD_SERIALIZED at least "
                "(mpi4py asks for it unless mpi4py.rc.thread_level says otherwise)"
            )
        lines = Wires(comm.Dup(), comm.Dup(), comm.Dup())
        comm.Set_attr(_kept, lines)
    return lines
