"""Messages: what has to travel between ranks, inferred from who owns what.

A pass over a graph; it needs no engine and no MPI. A handle has *versions*: version v is its value after v writes,
version 0 the data of the run. A task runs on the rank that its program said (``on=``), else on the owner of the first
handle it writes (reads, if it writes none). A version lives where its writer ran, version 0 at its owner. From that:

1. Each version that is read on another rank travels there once, whatever the number of readers there.
2. From four destinations on, a version travels along a binomial tree in order of first need, so that its source sends
   ceil(log2(destinations + 1)) times and not once per destination.
3. All ranks unroll the same graph, so both sides know every message; its tag is its number among those of its pair.
4. A result that depends on nothing, as its task only writes it (zeros), is made anew where it is collected.
5. A copy in another format is made anew where it is read if that sends less: see `tilewright.graph.Op.again`.

Versions live side by side, each in memory of the rank that made or received it. So between ranks nobody waits to
overwrite: a writer that has not got the old value makes the new one somewhere else (`MessagePlan.rooms` says where).

Receiving is a write of the local copy, sending a read of it, and dropping the copy a write after its last reader. With
these as tasks, one rank's part is a task graph like any other, and the three sentences of `tilewright.graph` say all
about what waits for what.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from functools import cache, cached_property
from typing import Any, Literal, NamedTuple

from tilewright.distribution import owners
from tilewright.graph import RW, Access, Handle, Op, R, Task, TaskGraph, W
from tilewright.scalars import instance, whole

__all__ = ["DROP", "RECEIVE", "SEND", "Message", "MessagePlan", "Part"]

TREE = 4  # destinations from which a version travels along a tree


class Message(NamedTuple):
    """One version on its way from one rank to another."""

    source: int
    destination: int
    handle: Handle
    version: int
    """How many tasks of the graph wrote the handle before."""
    tag: int
    """Number of this message among those of its (source, destination), from 0."""
    writer: int
    """Index of the task that wrote this version; -1 for the data of the run."""
    reader: int
    """Smallest index of a task that waits for this message, here or further down the tree; the number of tasks if
    the message only collects a result."""
    final: bool
    """The value is a result that the destination keeps."""

    def __str__(self) -> str:
        return f"{self.handle} v{self.version}: {self.source} -> {self.destination}"


SEND = Op("send", weight=0, external=True)
RECEIVE = Op("receive", weight=0, external=True)
DROP = Op("drop", weight=0, external=True)
"""Operations of the engine itself, `Op.external`. Their tasks have the `Message` as parameter."""


class _Version:
    """One value of one handle: where it is made, where it is read."""

    __slots__ = ("anew", "closed_by", "copies", "handle", "last", "number", "of", "readers", "source", "writer")

    def __init__(self, handle: Handle, number: int, writer: int, source: int) -> None:
        self.handle = handle
        self.number = number
        self.writer = writer
        self.source = source
        self.readers: dict[int, int] = {}  # destination -> first reader there
        self.last: dict[int, int] = {}  # destination -> last reader there
        self.anew: list[int] = []  # ranks that make it themselves
        self.closed_by = -1  # the task that writes the next version
        self.of: _Version | None = None  # what this one is a copy of, and may be made of anew
        self.copies: list[_Version] = []

    def travels_to(self, rank: int) -> bool:
        return rank in self.readers or rank in self.anew

    def make_at(self, rank: int) -> None:
        """Let ``rank`` make this copy itself, of what it then has to have."""
        assert self.of is not None
        first = self.readers.pop(rank)
        self.last.pop(rank)
        self.anew.append(rank)
        if rank not in self.of.anew:
            self.of.readers[rank] = min(self.of.readers.get(rank, first), first)
            self.of.last[rank] = max(self.of.last.get(rank, -1), self.writer)


def _several(value: Any, what: str, kind: str) -> Any:
    if isinstance(value, str | bytes) or not isinstance(value, Collection) or getattr(value, "ndim", 1) != 1:
        raise TypeError(f"{what} must be a list of {kind}, not {value!r}")
    return value


class Part(NamedTuple):
    """What one rank does."""

    graph: TaskGraph
    """Its tasks in program order, with `SEND`, `RECEIVE` and `DROP` between them."""
    origin: list[int]
    """Index in the whole graph by index in the part; -1 for the engine's own tasks. A task whose place is another
    rank is there to make a value anew."""


class MessagePlan:
    """Where every task runs and every message of a graph on ``ranks`` ranks. O(tasks + accesses + messages).

    Parameters
    ----------
    graph, ranks
        The whole graph, and how many ranks run it.
    owner
        Rank by handle: see `tilewright.distribution.owners`.
    start
        The rank that has all data of the run; None if every handle's owner has it.
    collect
        Ranks that get the final value of every handle that is written.
    results
        Those of them that are wanted; by default all.

    Examples
    --------
    >>> import tilewright as tw
    >>> plan = tw.MessagePlan(tw.cholesky_graph(nt=8), ranks=4, owner=tw.BlockCyclic(2, 2))
    >>> len(plan.messages), str(plan.messages[0])
    (56, 'A[0,0] v1: 0 -> 2')
    """

    def __init__(
        self,
        graph: TaskGraph,
        ranks: int,
        owner: Any = None,
        *,
        start: int | None = None,
        collect: Collection[int] = (),
        results: Collection[Handle] | None = None,
    ) -> None:
        instance(graph, "graph", TaskGraph, "a TaskGraph")
        if not (start is None or whole(ranks, "ranks", 1) > whole(start, "start", 0)):
            raise ValueError(f"start must be one of the ranks 0 to {ranks - 1}, not {start}")
        self.graph = graph
        self.ranks = whole(ranks, "ranks", 1)
        collect = _several(collect, "collect", "ranks")
        for rank in collect:
            whole(rank, f"a rank of collect={collect!r}", 0, ranks - 1)
        results = results if results is None else _several(results, "results", "handles")
        self.owner = cache(owners(owner, ranks))
        self.places: list[int] = []
        """The rank of each task."""
        self._results = results
        self._versions = self._unroll(start, sorted(collect))
        self._parts: dict[int, Part] = {}
        self.messages = list(self._travel())
        """In order of the tasks that write the versions, the same on every rank."""

    # ------------------------------------------------------------ the pass

    def place(self, task: Task) -> int:
        """The rank that runs a task. ValueError if the program's ``on=`` is neither one of the ranks nor a handle."""
        if isinstance(task.on, Handle):
            return self.owner(task.on)
        if task.on is None:
            for handle, access in task.uses:
                if access is not Access.READ:
                    return self.owner(handle)
            return self.owner(task.uses[0].handle) if task.uses else 0
        if not isinstance(task.on, int) or not 0 <= task.on < self.ranks:
            raise ValueError(f"{task} is to run on {task.on!r}, which is not one of the ranks 0 to {self.ranks - 1}")
        return task.on

    def _unroll(self, start: int | None, collect: list[int]) -> list[_Version]:
        current: dict[Handle, _Version] = {}
        versions: list[_Version] = []
        for task in self.graph.tasks:
            place = self.place(task)
            self.places.append(place)
            for handle, access in task.uses:
                version = current.get(handle)
                if version is None:
                    source = self.owner(handle) if start is None else start
                    version = current[handle] = _Version(handle, 0, -1, source)
                    versions.append(version)
                if access is not Access.WRITE and version.source != place:
                    version.readers.setdefault(place, task.index)
                    version.last[place] = task.index
            read = current[task.uses[0].handle] if task.op.again else None
            for handle, access in task.uses:
                if access is not Access.READ and current[handle].writer != task.index:
                    old = current[handle]
                    old.closed_by = task.index
                    version = current[handle] = _Version(handle, old.number + 1, task.index, place)
                    versions.append(version)
                    if read is not None and read.source == place and handle.name in self.graph.temporary:
                        version.of = read
                        read.copies.append(version)
        self._make_copies_where_they_are_read(versions)
        for version in current.values():
            if version.number and self._wanted(version):
                others = [rank for rank in collect if rank != version.source]
                if not version.readers and self._depends_on_nothing(version):
                    version.anew = others
                else:
                    for rank in others:
                        version.readers.setdefault(rank, len(self.graph))
        self._collect = frozenset(collect)
        return sorted(versions, key=lambda version: version.writer)

    def _make_copies_where_they_are_read(self, versions: list[_Version]) -> None:
        for version in reversed(versions):  # copies of a copy first: they may bring that to where they are read
            for rank in sorted({rank for copy in version.copies for rank in copy.readers}):
                wanted = [copy for copy in version.copies if rank in copy.readers]
                larger = any(self.graph.tasks[copy.writer].op.again == "always" for copy in wanted)
                if len(wanted) > 1 or larger or version.travels_to(rank):
                    for copy in wanted:
                        copy.make_at(rank)
        for version in versions:  # what goes to a rank now because one copy needs it serves the others too
            for rank in sorted(version.readers):
                chain, source = [version], version.of
                while source is not None and not source.travels_to(rank):
                    chain.append(source)
                    source = source.of
                if source is not None:
                    for copy in chain:
                        copy.make_at(rank)

    def _wanted(self, version: _Version) -> bool:
        if self._results is None:
            return version.handle.name not in self.graph.temporary
        return version.handle in self._results

    def _depends_on_nothing(self, version: _Version) -> bool:
        task = self.graph.tasks[version.writer]
        return task.op.function is None and [use.access for use in task.uses] == [Access.WRITE]

    def _travel(self) -> Iterator[Message]:
        tags: dict[tuple[int, int], int] = {}
        for version in self._versions:
            for source, destination, reader in _tree(version.source, version.readers):
                pair = source, destination
                tag = tags.get(pair, 0)
                tags[pair] = tag + 1
                last = version.closed_by < 0 and version.number > 0
                final = last and destination in self._collect and self._wanted(version)
                yield Message(*pair, version.handle, version.number, tag, version.writer, reader, final)

    def rooms(self, rank: int, places: Literal["own", "shared", "none"]) -> list[Handle]:
        """Handles for which a rank needs memory of its own. The one place that says when a write gets some.

        A rank writes where the value lies that it made or received. A task that writes a handle without reading it
        may run where no value of it has come; another rank may still read the old one, send it, or make the next. So
        it may write into the place of the run's data only if nobody else uses that, and ``places`` says who does:

        ``"own"``
            Every rank has arrays of its own (ranks under mpiexec). The only rooms are for copies that a rank makes
            again (`Op.again`): the array that is there has the data of the tile's owner.
        ``"shared"``
            One array serves all ranks (a pool, and what a prepared graph takes and gives). Beside the rooms above, one
            for each handle that the rank writes without reading, unless it is the one rank that uses the array: see
            `keepers`. Where every handle is written by its owner, as in a factorisation, there is none.
        ``"none"``
            A rank has only what it was given: what it owns and somebody reads (Dask). All else that it writes without
            reading, and copies that it makes again, need a room.

        O(tasks of the rank + versions).
        """
        rooms = {v.handle: None for v in self._versions if v.of is not None and rank in v.anew}
        if places == "own":
            return list(rooms)
        for task in self.part(rank).graph.tasks:
            if not task.op.external:
                for handle, access in task.uses:
                    if access is Access.WRITE and not (places == "shared" and self.keepers[handle] == rank):
                        rooms[handle] = None
        return list(rooms)

    @cached_property
    def keepers(self) -> dict[Handle, int]:
        """The rank that uses a handle's place where all ranks share it: who has the data of the run, where a task reads
        them, and else who makes the final value."""
        keepers = dict(self.final_places)
        for version in self._versions:
            if not version.number and version.handle in self.graph.inputs:
                keepers[version.handle] = version.source
        return keepers

    @property
    def remade(self) -> set[tuple[int, int]]:
        """(task, rank): what the task makes, a copy, is made again on a rank that reads it; see `Op.again`."""
        return {(v.writer, rank) for v in self._versions if v.of is not None for rank in v.anew}

    @property
    def final_places(self) -> dict[Handle, int]:
        """Where the final value of each handle that is written is made."""
        return {v.handle: v.source for v in self._versions if v.number and v.closed_by < 0}

    @cached_property
    def lasting(self) -> frozenset[tuple[Handle, int]]:
        """(handle, version) that no task overwrites."""
        return frozenset((v.handle, v.number) for v in self._versions if v.closed_by < 0)

    @cached_property
    def numbers(self) -> dict[tuple[int, int, int], int]:
        """Place in `messages` by (source, destination, tag)."""
        return {(m.source, m.destination, m.tag): number for number, m in enumerate(self.messages)}

    # ------------------------------------------------------------ one rank

    @cached_property
    def _levels(self) -> list[float]:
        return self.graph.bottom_levels()

    def part(self, rank: int) -> Part:
        """The task graph of one rank, made once. Its bottom levels are those of the whole graph."""
        if rank not in self._parts:
            self._parts[rank] = self._part(rank)
        return self._parts[rank]

    def _part(self, rank: int) -> Part:
        RUNS, RECEIVES, SENDS, DROPS = range(4)
        tasks = self.graph.tasks
        items: list[tuple[int, int, int, Any]] = [
            (index, RUNS, 0, tasks[index]) for index, place in enumerate(self.places) if place == rank
        ]
        items += [(v.writer, RUNS, 0, tasks[v.writer]) for v in self._versions if rank in v.anew]
        mine = {(v.handle, v.number): v for v in self._versions if rank in v.readers}
        for number, message in enumerate(self.messages):
            if message.source == rank:
                items.append((message.writer, SENDS, number, message))
            elif message.destination == rank:
                items.append((message.writer, RECEIVES, number, message))
                version = mine[message.handle, message.version]
                # A copy that its last reader turns into the next version is not a copy any more.
                if not message.final and version.last[rank] != version.closed_by:
                    items.append((version.last[rank], DROPS, number, message))
        items.sort(key=lambda item: item[:3])
        graph = self.graph.empty_like(f"{self.graph.name}, rank {rank} of {self.ranks}")
        origin = []
        for _, kind, _, item in items:
            if kind == RUNS:
                graph.insert_again(item)
                origin.append(item.index)
            else:
                op, use = {RECEIVES: (RECEIVE, W), SENDS: (SEND, R), DROPS: (DROP, RW)}[kind]
                graph.insert(op, use(item.handle), item)
                origin.append(-1)
        levels = [self._levels[index] if index >= 0 else 0.0 for index in origin]
        graph.closed_form = lambda task: levels[task.index]
        return Part(graph, origin)

    # ------------------------------------------------------------ predictions

    def sent(self, size: Callable[[Handle], int] | None = None) -> list[int]:
        """By rank, how many messages it sends; with ``size`` (bytes or words of a handle), how much."""
        return self._count([message.source for message in self.messages], size)

    def received(self, size: Callable[[Handle], int] | None = None) -> list[int]:
        """By rank, how many messages it receives; with ``size``, how much."""
        return self._count([message.destination for message in self.messages], size)

    def _count(self, ends: list[int], size: Callable[[Handle], int] | None) -> list[int]:
        totals = [0] * self.ranks
        for rank, message in zip(ends, self.messages, strict=True):
            totals[rank] += 1 if size is None else size(message.handle)
        return totals

    def peak_memory(self, size: Callable[[Handle], int], window: int | None = None) -> list[int]:
        """By rank, the memory it needs: what it owns or makes, and the most it holds of others' at one time.

        Received copies are counted from the task that wrote them to their last use here, in program order; an engine
        with a receive window of ``window`` bytes holds no more than that of copies beside the one it needs next. Rooms
        that are not kept are counted from their first writer to their last use, in program order.
        """
        peaks = []
        own: list[set[Handle]] = [set() for _ in range(self.ranks)]
        comes = {
            handle for handle in self.graph.handles_used
            if handle.name in self.graph.rooms and not self.graph.rooms[handle.name].keep
        } - self.graph.inputs.keys()  # fmt: skip
        for version in self._versions:
            if version.handle in comes:
                continue
            if version.number or version.handle in self.graph.inputs:
                own[version.source].add(version.handle)
            for rank in version.anew:
                own[rank].add(version.handle)
        for rank in range(self.ranks):
            held = peak = largest = 0
            part = self._part(rank).graph
            rooms = self._most_in_rooms(part, comes, size) if comes else 0
            for task in part:
                if task.op is RECEIVE and not task.params[0].final:
                    amount = size(task.params[0].handle)
                    held += amount
                    largest = max(largest, amount)
                elif task.op is DROP:
                    held -= size(task.params[0].handle)
                peak = max(peak, held)
            if window is not None:
                peak = min(peak, max(window, largest))
            peaks.append(sum(map(size, own[rank])) + peak + rooms)
        return peaks

    @staticmethod
    def _most_in_rooms(part: TaskGraph, comes: set[Handle], size: Callable[[Handle], int]) -> int:
        """The most that rooms have at one time, in program order."""
        last = {handle: task.index for task in part for handle, _ in task.uses if handle in comes}
        there: dict[Handle, int] = {}
        held = peak = 0
        for task in part:
            for handle, access in task.uses:
                if handle in comes and access is not Access.READ and not task.op.external and handle not in there:
                    held += there.setdefault(handle, size(handle))
            peak = max(peak, held)
            for handle, _ in task.uses:
                if last.get(handle) == task.index:
                    held -= there.pop(handle, 0)
        return peak


def _tree(source: int, readers: dict[int, int]) -> Iterator[tuple[int, int, int]]:
    """(from, to, first reader beyond) of the transfers that bring a version from ``source`` to its readers.

    The members stand in order of first need, the source at position 0. Position p gets the value from p without its
    highest bit: after t rounds 2^t members have it.
    """
    if not readers:
        return
    members = sorted(readers, key=lambda rank: (readers[rank], rank))
    if len(members) < TREE:
        for rank in members:
            yield source, rank, readers[rank]
        return
    members.insert(0, source)
    for position in range(1, len(members)):
        bit = 1 << position.bit_length() - 1
        # everybody beyond stands further right, so needs the value later
        yield members[position - bit], members[position], readers[members[position]]
