"""State of one simulated run: workers, ports and messages on a virtual clock.

The same policy objects and the same `Frontier` as on the real engines, no data, no threads. The rules:

- A worker runs one task at a time, for the seconds that the machine model says (times noise, if wanted).
- Each memory (a rank's, a socket's or a GPU's) sends one message at a time and receives one at a time; a message of n
  words takes alpha + beta n. It begins as soon as both ends are free; of several that could begin at one instant, the
  one that was asked for first. A message that waits for one end keeps nobody from the other.
- A version of a handle travels at most once to each memory. With ``owner``, a copy in another format that ranks make
  anew where they read it (`tilewright.passes.messages`, rule 5) does not: it is there as long after what it is made of
  as its task takes, and keeps no worker from its work.
- With ``owner``, tasks run where `tilewright.passes.messages` says, each rank has a policy of its own, and a message
  leaves as soon as its version is written, or is where it goes on from. A task is ready when its messages are in.
- Without, one policy sees the workers of all ranks. What it placed (``placement``) is sent at once, else data is
  fetched when a worker takes the task; the worker waits for it.
- A rank's lock is held for ``dispatch`` seconds before each task; who comes while it is held waits for those before.
- All that ends at one instant is noted before any worker chooses its next task.

Where the model is wrong: kernels do not slow each other down except through calibration, messages do not share
links, and a task that overwrites data waits until remote readers of the old version are done.
"""

from __future__ import annotations

import copy
import heapq
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import inf
from typing import NamedTuple

from tilewright.errors import SchedulerError
from tilewright.graph import Handle, Task, TaskGraph
from tilewright.machine import Machine
from tilewright.passes.frontier import Frontier
from tilewright.passes.messages import MessagePlan, place
from tilewright.passes.versions import Dataflow
from tilewright.runs.progress import Ran, takes_rows, tell
from tilewright.runs.trace import MessageRecord, TaskRecord, Trace
from tilewright.schedulers import BasePolicy

__all__ = ["Simulation"]

_REFRESH = 5000  # tasks between two reports of progress


class _Group:
    """Workers that one policy serves: those of a rank, or all there are."""

    __slots__ = ("first", "freed", "idle", "parked", "placed", "policy", "queued", "shared", "wake")

    def __init__(self, policy: BasePolicy, first: int, count: int) -> None:
        self.policy = policy
        self.first = first
        self.parked = list(range(count - 1, -1, -1))  # a stack: those that worked last are on top
        self.idle = [True] * count
        self.freed: list[int] = []
        self.queued = 0
        self.shared = bool(policy.shared)
        self.placed = policy.placement
        self.wake: set[int] = set()  # placed policies: workers that may have something to do now


class _Transfer(NamedTuple):
    source: int
    target: int
    """Memories; equal for a copy that is made where it is needed, which takes no port."""
    version: int
    message: int
    """Number in the plan; -1 for what was fetched for one task."""


class _Ports:
    """Who sends to whom at the moment, and which transfers wait for a port.

    Transfers between one pair of memories begin in the order in which they were asked for, so only the first of each
    pair can be next; whoever waits has an end that is busy. `begin` looks at pairs with an end that became free, or
    with a new transfer, since the last time.
    """

    def __init__(self, nodes: int) -> None:
        self.transfers: list[_Transfer] = []  # a number is also the order of asking
        self.sends = [False] * nodes
        self.receives = [False] * nodes
        self.to: list[dict[int, deque[int]]] = [{} for _ in range(nodes)]  # source -> target -> numbers that wait
        self.by: list[dict[int, deque[int]]] = [{} for _ in range(nodes)]  # target -> source -> the same
        self.fresh: list[int] = []  # numbers that were posted since `begin`
        self.freed: list[tuple[int, int]] = []  # the ends of transfers that are over since then

    def note(self, transfer: _Transfer) -> int:
        """Give it a number."""
        self.transfers.append(transfer)
        return len(self.transfers) - 1

    def post(self, transfer: _Transfer) -> None:
        """Ask for it."""
        self.fresh.append(self.note(transfer))

    def free(self, source: int, target: int) -> None:
        """A transfer between these is over."""
        self.sends[source] = self.receives[target] = False
        self.freed.append((source, target))

    def begin(self) -> list[int]:
        """The transfers that begin now, in the order in which they were asked for."""
        sends, receives, transfers = self.sends, self.receives, self.transfers
        if not self.fresh and not self.freed:
            return []
        candidates = self.fresh
        waiting: set[int] = set()
        for source, target in self.freed:
            waiting.update(line[0] for there, line in self.to[source].items() if not receives[there])
            waiting.update(line[0] for here, line in self.by[target].items() if not sends[here])
        if waiting:
            candidates = sorted(waiting) + candidates  # who waits asked before those that are new
        self.fresh, self.freed = [], []
        begun = []
        for number in candidates:
            source, target = transfers[number][:2]
            if sends[source] or receives[target]:
                if number not in waiting:
                    self._queue(number, source, target)
                continue
            sends[source] = receives[target] = True
            begun.append(number)
            if number in waiting:
                self._leave(source, target)
        return begun

    def _queue(self, number: int, source: int, target: int) -> None:
        line = self.to[source].get(target)
        if line is None:
            line = self.to[source][target] = self.by[target][source] = deque()
        line.append(number)

    def _leave(self, source: int, target: int) -> None:
        line = self.to[source][target]
        line.popleft()
        if not line:
            del self.to[source][target], self.by[target][source]


class Simulation:
    """State of one simulated run. Tasks, versions, messages and workers are numbers; tables are flat lists."""

    def __init__(
        self,
        graph: TaskGraph,
        machine: Machine,
        policy: BasePolicy,
        owner: Mapping[Handle, int] | None,
        broadcast: str | None,
        noisy: Callable[[Task, float], float] | None,
    ) -> None:
        self.graph, self.machine, self.noisy = graph, machine, noisy
        self.frontier = Frontier(graph)
        self.costs = {gpu: machine.costs(graph, gpu) for gpu in machine.kinds}
        count = len(graph)
        self.worker = [-1] * count  # by task, number in the whole machine
        self.start = [0.0] * count
        self.end = [0.0] * count
        self.finished = 0
        self.now = 0.0
        self.unlocked = [0.0] * machine.ranks
        """By rank, when its lock is free again."""
        self.events: list[tuple[float, int]] = []  # (time, task that ends) or (time, ~transfer that ends)
        self.touched: list[_Group] = []
        self.ports = _Ports(machine.nodes)
        self.sent: list[tuple[int, int, int, float, float]] = []  # (source, destination, version, start, end)

        self.by_rank = owner is not None and machine.ranks > 1
        self.plan: MessagePlan | None = None
        if owner is not None:
            self.groups = _groups(graph, machine, policy)
            if self.by_rank:
                self.plan = MessagePlan(graph, machine.ranks, owner, broadcast=broadcast)
            for task in () if self.by_rank else graph.tasks:
                place(task, owner.__getitem__, 1)  # ValueError for a rank there is not
        else:
            policy.prepare(graph, machine)
            self.groups = [_Group(policy, 0, machine.size)]
            placed = self.groups[0].placed
            if placed is not None and machine.ranks > 1 and min(placed, default=0) >= 0:
                ranks = [worker // machine.workers for worker in placed]
                self.plan = MessagePlan(graph, machine.ranks, broadcast=broadcast, places=ranks)
        self.rank = [] if self.plan is None else self.plan.places
        self.flow = None if machine.nodes == 1 else Dataflow(graph) if self.plan is None else self.plan.flow
        self.blocked: list[int] = []  # by task: messages that are not in, plus 1 while the frontier holds it
        self.known_ranks = self.plan is not None
        self.fetching = machine.nodes > 1 and not (self.known_ranks and machine.memories == 1)
        if self.flow is not None:
            self.words = [machine.words(handle) for handle in self.flow.handle]
            if self.plan is not None:
                self._take_messages(self.plan)
            if self.fetching:
                # memory -> since when the version is there; infinity while it is on its way
                self.copies: list[dict[int, float]] = [{} for _ in range(len(self.flow))]
                self.missing = [0] * count  # by task that has a worker: versions that are on their way
                self.duration = [0.0] * count
                self.wanted: dict[tuple[int, int], list[int]] = {}  # (version, memory) -> tasks that wait for it
                self.onward: dict[tuple[int, int], list[int]] = {}  # (version, memory) -> memories it goes on to
                for version, writer in enumerate(self.flow.writer):
                    if writer < 0:
                        homes = (owner[self.flow.handle[version]],) if owner else range(machine.ranks)
                        self.copies[version] = {rank * machine.memories: 0.0 for rank in homes}

    # ------------------------------------------------------------ messages that are known before the run

    def _take_messages(self, plan: MessagePlan) -> None:
        """The messages of the plan, and which tasks wait for them."""
        flow, ranks, source = plan.flow, self.machine.ranks, plan.source
        self.blocked = [1] * len(self.graph)
        self.target: list[int] = []  # rank
        self.version: list[int] = []
        self.waiters: list[list[int]] = []
        self.onwards: list[list[int]] = []  # messages that go on from where one arrives
        self.then: list[list[int]] = []  # copies that are made of what a message brings
        self.leaving: dict[int, list[int]] = {}  # by version, the messages that leave where it is made
        known: dict[int, int] = {}  # (version, rank) -> what brings it there

        def note(version: int, rank: int) -> int:
            message = known[version * ranks + rank] = len(self.target)
            self.target.append(rank)
            self.version.append(version)
            for table in (self.waiters, self.onwards, self.then):
                table.append([])
            return message

        for start, end, version, _ in plan.transfers():
            message = note(version, end)
            if start == source[version]:
                self.leaving.setdefault(version, []).append(message)
            else:
                self.onwards[known[version * ranks + start]].append(message)
        for version, anew in sorted(plan.anew.items()):  # no messages, but they stand for making a copy there
            for rank in anew:
                copy = note(version, rank)
                self.then[known[plan.made_of[version] * ranks + rank]].append(copy)
        for index, versions in enumerate(flow.reads):
            here = plan.places[index]
            for version in versions:
                if source[version] != here and source[version] >= 0:
                    self.waiters[known[version * ranks + here]].append(index)
                    self.blocked[index] += 1
        for version in self.leaving:
            if flow.writer[version] < 0:
                self._forward(self.leaving[version], source[version] * self.machine.memories)

    def _forward(self, messages: Sequence[int], source: int) -> None:
        """What these carry is in memory ``source``: ask for them."""
        for message in messages:
            target = self.target[message] * self.machine.memories
            self.ports.post(_Transfer(source, target, self.version[message], message))

    def _arrive(self, message: int) -> None:
        version = self.version[message]
        node = self.target[message] * self.machine.memories
        if self.fetching:
            self._here(version, node)
        blocked = self.blocked
        for index in self.waiters[message]:
            blocked[index] -= 1
            if not blocked[index]:
                self._push(self.graph.tasks[index], -1)
        self.waiters[message] = []
        for made in self.then[message]:
            assert self.flow is not None
            seconds = self.costs[False][self.flow.writer[self.version[made]]]
            number = self.ports.note(_Transfer(node, node, self.version[made], made))
            heapq.heappush(self.events, (self.now + seconds, ~number))
        self._forward(self.onwards[message], node)

    def _match(self) -> None:
        """Let the messages begin that can."""
        machine, now = self.machine, self.now
        for number in self.ports.begin():
            source, target, version, _ = self.ports.transfers[number]
            end = now + machine.transfer(self.words[version], source, target)
            self.sent.append((source, target, version, now, end))
            heapq.heappush(self.events, (end, ~number))

    def _ended(self, number: int) -> None:
        """A transfer is in, or a copy that stands for one is made."""
        source, target, version, message = self.ports.transfers[number]
        if source != target:
            self.ports.free(source, target)
        if message >= 0:
            self._arrive(message)
        else:
            self._here(version, target)

    # ------------------------------------------------------------ data that is fetched for one task

    def _fetch(self, index: int, node: int) -> list[int]:
        """Have all that a task reads sent to a memory; returns the versions that are not there yet."""
        assert self.flow is not None
        memories = self.machine.memories
        late = []
        for version in self.flow.reads[index]:
            copies = self.copies[version]
            since = copies.get(node)
            if since is None:
                # The cheapest source; of those the one that has had it longest.
                source = min(copies, key=lambda n: (n // memories != node // memories, copies[n], n))
                if copies[source] == inf:
                    self.onward.setdefault((version, source), []).append(node)
                else:
                    self.ports.post(_Transfer(source, node, version, -1))
                since = copies[node] = inf
            if since == inf:
                late.append(version)
        return late

    def _here(self, version: int, node: int) -> None:
        """A version has come into a memory: tasks begin that waited for no more than it, and copies of it go on."""
        copies = self.copies[version]
        copies[node] = min(copies.get(node, inf), self.now)
        for target in self.onward.pop((version, node), ()):
            self.ports.post(_Transfer(node, target, version, -1))
        for index in self.wanted.pop((version, node), ()):
            self.missing[index] -= 1
            if not self.missing[index]:
                self._start(index, self.duration[index])

    # ------------------------------------------------------------ the clock

    def run(self, progress: Callable[[int], object] | None) -> None:
        tasks, events, frontier, worker_of = self.graph.tasks, self.events, self.frontier, self.worker
        workers, by_rank, groups = self.machine.workers, self.by_rank, self.groups
        for task in frontier.start():
            self._ready(task, -1)
        self._dispatch()
        self._match()
        told, by_row = 0, takes_rows(progress)
        ended: list[int] = []  # not told
        while events:
            now = self.now = events[0][0]
            while events and events[0][0] == now:
                event = heapq.heappop(events)[1]
                if event < 0:
                    self._ended(~event)
                    continue
                task, worker = tasks[event], worker_of[event]
                group = groups[worker // workers] if by_rank else groups[0]
                group.freed.append(worker - group.first)
                self.touched.append(group)
                self._written(event)
                try:
                    ready = frontier.done(task)
                except ValueError as error:
                    raise SchedulerError(f"{type(group.policy).__name__} gave out {task} twice or too early") from error
                for successor in ready:
                    self._ready(successor, worker)
                self.finished += 1
                if by_row:
                    ended.append(event)
            self._dispatch()
            self._match()
            if progress and self.finished - told >= _REFRESH:
                told = self.finished
                tell(progress, told, self._rows, ended)
                ended = []
        if not frontier.finished:
            name = type(self.groups[0].policy).__name__
            queued = sum(group.queued for group in self.groups)
            raise SchedulerError(
                f"{name} gives no task to any worker, though {queued} of the {frontier.remaining} tasks left are ready"
            )
        if progress:
            tell(progress, self.finished, self._rows, ended)

    def _rows(self, tasks: Iterable[int]) -> list[Ran]:
        """Those tasks, which have ended."""
        workers = self.machine.workers
        return [Ran(self.worker[t] // workers, self.worker[t] % workers, t, self.start[t], self.end[t]) for t in tasks]

    def _written(self, index: int) -> None:
        """The versions that a finished task wrote exist now: where, and whom to send them to."""
        if self.flow is None:
            return
        node = self.machine.node(self.worker[index])
        for version in self.flow.writes[index]:
            if self.fetching:
                self.copies[version][node] = self.now
            if self.known_ranks and version in self.leaving:
                self._forward(self.leaving[version], node)

    def _ready(self, task: Task, worker: int) -> None:
        """The frontier lets a task go; push it unless messages are missing."""
        if self.known_ranks:
            self.blocked[task.index] -= 1
            if self.blocked[task.index]:
                return
        self._push(task, worker)

    def _push(self, task: Task, worker: int) -> None:
        """Give a task to the policy of its rank; ``worker`` made it ready, -1 for nobody."""
        group = self.groups[self.rank[task.index]] if self.by_rank else self.groups[0]
        local = worker - group.first
        group.policy.push(task, local if worker >= 0 and 0 <= local < len(group.idle) else None)
        group.queued += 1
        self.touched.append(group)
        if group.placed is not None:
            placed = group.placed[task.index]
            group.wake.add(placed)
            if self.fetching:
                self._fetch(task.index, self.machine.node(group.first + placed))

    def _dispatch(self) -> None:
        """Idle workers of the groups that something happened to take tasks."""
        for group in self.touched:
            freed = group.freed
            if freed:
                if len(freed) > 1:
                    freed.sort(reverse=True)  # the smallest on top of the stack
                for worker in freed:
                    group.idle[worker] = True
                if group.placed is None:
                    group.parked += freed
                else:
                    group.wake.update(freed)
                group.freed = []
            if group.placed is not None:
                for worker in sorted(group.wake):
                    if group.idle[worker] and (task := group.policy.pop(worker)) is not None:
                        self._begin(group, task, worker)
                group.wake.clear()
            elif group.shared:
                parked = group.parked
                while group.queued and parked:
                    worker = parked.pop()
                    task = group.policy.pop(worker)
                    if task is None:
                        parked.append(worker)
                        break
                    self._begin(group, task, worker)
            elif group.queued:
                still = []
                while group.parked:
                    worker = group.parked.pop()
                    task = group.policy.pop(worker)
                    if task is None:
                        still.append(worker)
                    else:
                        self._begin(group, task, worker)
                group.parked = still[::-1]
        self.touched.clear()

    def _begin(self, group: _Group, task: Task, local: int) -> None:
        if not self.frontier.knows(task):
            raise SchedulerError(f"{type(group.policy).__name__} gave out {task!r}, which is no task of this graph")
        group.queued -= 1
        group.idle[local] = False
        worker, index = group.first + local, task.index
        if self.worker[index] >= 0:
            raise SchedulerError(f"{type(group.policy).__name__} gave out {task} twice")
        machine = self.machine
        seconds = self.costs[machine.is_gpu(worker) if machine.gpus else False][index]
        if self.noisy is not None:
            seconds = self.noisy(task, seconds)
        self.worker[index] = worker
        if self.fetching:
            node = machine.node(worker)
            late = self._fetch(index, node)
            if late:
                self.missing[index], self.duration[index] = len(late), seconds
                for version in late:
                    self.wanted.setdefault((version, node), []).append(index)
                return
        self._start(index, seconds)

    def _start(self, index: int, seconds: float) -> None:
        start = self.now
        if self.machine.dispatch:
            rank = self.worker[index] // self.machine.workers
            start = self.unlocked[rank] = max(start, self.unlocked[rank]) + self.machine.dispatch
        self.start[index] = start
        end = self.end[index] = start + seconds
        heapq.heappush(self.events, (end, index))

    # ------------------------------------------------------------ what happened

    def trace(self) -> Trace:
        machine, graph = self.machine, self.graph
        workers = machine.workers
        records = [
            TaskRecord(index, worker % workers, self.start[index], self.end[index], worker // workers)
            for index, worker in enumerate(self.worker)
        ]
        memories = machine.memories
        messages: list[MessageRecord] = []
        if self.flow is not None:
            for source, target, version, start, end in self.sent:
                handle, size = self.flow.handle[version], round(8 * self.words[version])
                writer = self.flow.writer[version]
                between = source % memories, target % memories
                messages.append(
                    MessageRecord(source // memories, target // memories, handle, size, start, end, writer, between)
                )
        trace = Trace(graph, workers, records, ranks=machine.ranks, messages=messages)
        trace.virtual = True
        return trace


def _groups(graph: TaskGraph, machine: Machine, policy: BasePolicy) -> list[_Group]:
    """One policy per rank, prepared alike."""
    rank_machine = machine.replace(ranks=1)
    fresh = copy.copy(policy)
    policy.prepare(graph, rank_machine)
    placed = policy.placement
    if machine.ranks > 1 and placed is not None and len(graph) and min(placed) >= 0:
        why = "leave out owner, or" if graph.layout is None else f"the layout of graph {graph.name!r} does that, so"
        raise ValueError(f"{policy.called} places tasks on ranks itself; {why} use a policy that only orders")
    groups = []
    for rank in range(machine.ranks):
        mine = policy
        if rank:
            mine = policy.fork()
            if mine is None:
                mine = copy.copy(fresh)
                mine.prepare(graph, rank_machine)
        groups.append(_Group(mine, rank * machine.workers, machine.workers))
    return groups
