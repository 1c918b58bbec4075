"""Messages: what has to travel between ranks, inferred from who owns what.

A pass over a graph; it needs no engine and no MPI. A handle has *versions*: version v is its value after v writes,
version 0 the data of the run. A task runs on the rank that its program said (``on=``), else on the owner of the first
handle it writes (reads, if it writes none). A version lives where its writer ran, version 0 at its owner. From that:

1. Each version that is read on another rank travels there once, whatever the number of readers there.
2. From four destinations on, a version travels along a binomial tree in order of first need, so that its source sends
   ceil(log2(destinations + 1)) times and not once per destination: see `tree`.
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

from collections.abc import Callable, Collection, Iterator, Sequence
from functools import cache, cached_property
from typing import Any, Literal, NamedTuple

from tilewright.distribution import owners
from tilewright.graph import RW, Access, Handle, Op, R, Task, TaskGraph, W
from tilewright.keywords import strict
from tilewright.passes.versions import Dataflow
from tilewright.scalars import choice, instance, whole

__all__ = ["DROP", "RECEIVE", "SEND", "TREES", "Message", "MessagePlan", "Part", "place", "tree"]

TREE = 4  # destinations from which a version travels along a tree

TREES: dict[str, Callable[[int], int]] = {
    "binomial": lambda position: position - (1 << position.bit_length() - 1),
    "chain": lambda position: position - 1,
    "star": lambda position: 0,
}
"""By name: from which position of a tree another gets the value. 0 is the source, the others stand in order of first
need. Along a binomial tree 2^t members have it after t rounds: position p gets it from p without its highest bit."""


@cache
def tree(readers: int, shape: str | None = None) -> tuple[int, ...]:
    """From which position each of ``readers`` gets a version, the first reader first.

    ``shape`` is one of `TREES`; None is a star for few readers, and a binomial tree for others.
    """
    parent = TREES[shape or ("star" if readers < TREE else "binomial")]
    return tuple(parent(position) for position in range(1, readers + 1))


def place(task: Task, owner: Callable[[Handle], int], ranks: int) -> int:
    """The rank that runs a task. ValueError if the program's ``on=`` is neither one of the ranks nor a handle."""
    if isinstance(task.on, Handle):
        return owner(task.on)
    if task.on is None:
        for handle, access in task.uses:
            if access is not Access.READ:
                return owner(handle)
        return owner(task.uses[0].handle) if task.uses else 0
    if not isinstance(task.on, int) or isinstance(task.on, bool) or not 0 <= task.on < ranks:
        raise ValueError(f"{task} is to run on {task.on!r}, which is not one of the ranks 0 to {ranks - 1}")
    return task.on


class Message(NamedTuple):
    """One version on its way from one rank to another.

    Examples
    --------
    >>> import tilewright as tw
    >>> message = tw.MessagePlan(tw.cholesky_graph(nt=2), ranks=2, owner=tw.RowBlocks(2, 2)).messages[0]
    >>> str(message), message.writer, message.reader
    ('A[0,0] v1: 0 -> 1', 0, 1)
    """

    source: int
    """The rank that sends."""
    destination: int
    """The rank that receives."""
    handle: Handle
    """Whose value travels."""
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


@strict
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
    broadcast
        Along which of `TREES` a version travels; by default see `tree`.
    places
        The rank of each task, where a policy has said it. All ranks have the data of the run then.

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
        broadcast: str | None = None,
        places: Sequence[int] | None = None,
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
        for handle in results or ():
            instance(handle, "a handle of results", Handle, "a Handle")
        if broadcast is not None:
            choice(broadcast, "broadcast", TREES)
        if places is not None and len(_several(places, "places", "ranks")) != len(graph):
            raise ValueError(f"places must be {len(graph)} ranks, one for each task, not {len(places)}")
        if places is not None and not all(type(rank) is int and 0 <= rank < ranks for rank in places):
            raise ValueError(f"places must be ranks from 0 to {ranks - 1}, one for each task")
        self.owner = cache(owners(owner, ranks))
        self.flow = Dataflow(graph)
        """The versions, by number."""
        self.places: list[int] = [place(t, self.owner, ranks) for t in graph.tasks] if places is None else list(places)
        """The rank of each task."""
        self.source: list[int] = []
        """By version, where it is made, or is when the run begins; -1 if that is everywhere."""
        self.anew: dict[int, list[int]] = {}
        """By version, the ranks that make it themselves."""
        self.made_of: dict[int, int] = {}
        """By version that is a copy which may be made anew: what it is made of."""
        self._readers: dict[int, dict[int, int]] = {}  # version -> rank it travels to -> first reader there
        self._last: dict[int, dict[int, int]] = {}  # the same with the last reader
        self._results, self._collect, self._broadcast = results, frozenset(collect), broadcast
        self._asked = {"start": start, "collect": collect, "results": results, "broadcast": broadcast, "places": places}
        self._find_readers(start, everywhere=places is not None)
        if places is None and any(op.again for op in {task.op for task in graph.tasks}):
            self._make_copies_where_they_are_read()
        if collect:
            self._collect_results(sorted(collect))
        self._parts: dict[int, Part] = {}
        self._carried: list[int] = []  # by message, its version

    def __reduce__(self) -> tuple[Any, ...]:
        owner = {handle: self.owner(handle) for handle in self.graph.handles_used}
        return _again, (self.graph, self.ranks, owner, self._asked)

    # ------------------------------------------------------------ the pass

    def _find_readers(self, start: int | None, everywhere: bool) -> None:
        flow, places, owner = self.flow, self.places, self.owner
        initial: Callable[[Handle], int] = owner
        if everywhere or start is not None:
            initial = lambda handle: -1 if start is None else start  # noqa: E731
        source = self.source = [
            places[writer] if writer >= 0 else initial(handle)
            for writer, handle in zip(flow.writer, flow.handle, strict=True)
        ]
        readers, last = self._readers, self._last
        for index, versions in enumerate(flow.reads):
            here = places[index]
            for version in versions:
                if source[version] != here and source[version] >= 0:
                    if version not in readers:
                        readers[version], last[version] = {here: index}, {here: index}
                    else:
                        readers[version].setdefault(here, index)
                        last[version][here] = index

    def _make_copies_where_they_are_read(self) -> None:
        flow, tasks, temporary = self.flow, self.graph.tasks, self.graph.temporary
        copies: dict[int, list[int]] = {}
        for version, writer in enumerate(flow.writer):
            if writer >= 0 and tasks[writer].op.again and flow.handle[version].name in temporary and flow.reads[writer]:
                read = flow.reads[writer][0]
                if self.source[read] == self.source[version]:
                    self.made_of[version] = read
                    copies.setdefault(read, []).append(version)
        for version in sorted(
            copies, reverse=True
        ):  # copies of a copy first: they may bring that to where they are read
            for rank in sorted({rank for copy in copies[version] for rank in self._readers.get(copy, ())}):
                wanted = [copy for copy in copies[version] if rank in self._readers.get(copy, ())]
                larger = any(tasks[flow.writer[copy]].op.again == "always" for copy in wanted)
                if len(wanted) > 1 or larger or self._has(version, rank):
                    for copy in wanted:
                        self._make_at(copy, rank)
        for version in sorted(self.made_of):  # what goes to a rank now because one copy needs it serves the others too
            for rank in sorted(self._readers.get(version, ())):
                chain, source = [version], self.made_of.get(version)
                while source is not None and not self._has(source, rank):
                    chain.append(source)
                    source = self.made_of.get(source)
                if source is not None:
                    for copy in chain:
                        self._make_at(copy, rank)

    def _has(self, version: int, rank: int) -> bool:
        """Whether a version comes to a rank, or is made there anew."""
        return rank in self._readers.get(version, ()) or rank in self.anew.get(version, ())

    def _make_at(self, version: int, rank: int) -> None:
        """Let ``rank`` make this copy itself, of what it then has to have."""
        first = self._readers[version].pop(rank)
        self._last[version].pop(rank)
        self.anew.setdefault(version, []).append(rank)
        of = self.made_of[version]
        if rank not in self.anew.get(of, ()):
            readers, last = self._readers.setdefault(of, {}), self._last.setdefault(of, {})
            readers[rank] = min(readers.get(rank, first), first)
            last[rank] = max(last.get(rank, -1), self.flow.writer[version])

    def _collect_results(self, collect: list[int]) -> None:
        for version in self._final.values():
            if self._wanted(version):
                others = [rank for rank in collect if rank != self.source[version]]
                if not self._readers.get(version) and self._depends_on_nothing(version):
                    self.anew[version] = others
                else:
                    readers = self._readers.setdefault(version, {})
                    for rank in others:
                        readers.setdefault(rank, len(self.graph))

    @cached_property
    def _final(self) -> dict[Handle, int]:
        """The last version of each handle that is written."""
        flow = self.flow
        return {handle: version for version, handle in enumerate(flow.handle) if flow.writer[version] >= 0}

    def _wanted(self, version: int) -> bool:
        handle = self.flow.handle[version]
        return handle.name not in self.graph.temporary if self._results is None else handle in self._results

    def _depends_on_nothing(self, version: int) -> bool:
        task = self.graph.tasks[self.flow.writer[version]]
        return task.op.function is None and [use.access for use in task.uses] == [Access.WRITE]

    @cached_property
    def on_one_rank(self) -> bool:
        """Whether one rank runs all tasks, and no rank waits for another."""
        return len(set(self.places)) <= 1 and not self.anew and not self.messages

    def transfers(self) -> Iterator[tuple[int, int, int, int]]:
        """(source, destination, version, first reader there or beyond) of all messages, in order of those who write
        the versions. What a rank sends on comes to it before."""
        writer = self.flow.writer
        for version in sorted(self._readers, key=lambda version: (writer[version], version)):
            readers = self._readers[version]
            if len(readers) == 1:
                [(rank, reader)] = readers.items()
                yield self.source[version], rank, version, reader
                continue
            members = sorted(readers, key=lambda rank: (readers[rank], rank))
            members.insert(0, self.source[version])
            for position, parent in enumerate(tree(len(readers), self._broadcast), 1):
                # everybody beyond stands further right, so needs the value later
                yield members[parent], members[position], version, readers[members[position]]

    @cached_property
    def messages(self) -> list[Message]:
        """In order of the tasks that write the versions, the same on every rank."""
        flow, messages = self.flow, []
        tags: dict[tuple[int, int], int] = {}
        for source, destination, version, reader in self.transfers():
            pair = source, destination
            tag = tags.get(pair, 0)
            tags[pair] = tag + 1
            handle = flow.handle[version]
            final = destination in self._collect and self._final.get(handle) == version and self._wanted(version)
            messages.append(Message(*pair, handle, self.number[version], tag, flow.writer[version], reader, final))
            self._carried.append(version)
        return messages

    @cached_property
    def number(self) -> list[int]:
        """By version, how many tasks wrote the handle before it."""
        count: dict[Handle, int] = {}
        number = []
        for handle, writer in zip(self.flow.handle, self.flow.writer, strict=True):
            count[handle] = count.get(handle, 0) + (writer >= 0)
            number.append(count[handle])
        return number

    @cached_property
    def _closed_by(self) -> list[int]:
        """By version, the task that writes the next one of the handle; -1 for the last."""
        closed, current = [-1] * len(self.flow), dict[Handle, int]()
        for version, (handle, writer) in enumerate(zip(self.flow.handle, self.flow.writer, strict=True)):
            if handle in current:
                closed[current[handle]] = writer
            current[handle] = version
        return closed

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
        rooms = {self.flow.handle[v]: None for v in sorted(self.made_of) if rank in self.anew.get(v, ())}
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
        flow = self.flow
        initial = {h: self.source[v] for v, h in enumerate(flow.handle) if flow.writer[v] < 0}
        return self.final_places | initial

    @property
    def tasks(self) -> int:
        """How many tasks the whole graph has."""
        return len(self.places)

    def made_by(self, rank: int) -> list[Handle]:
        """The results whose final value a rank makes: handles that are written, but for `TaskGraph.temporary` ones."""
        temporary, source = self.graph.temporary, self.source
        return [handle for handle, v in self._final.items() if source[v] == rank and handle.name not in temporary]

    @property
    def final_places(self) -> dict[Handle, int]:
        """Where the final value of each handle that is written is made."""
        return {handle: self.source[version] for handle, version in self._final.items()}

    @cached_property
    def lasting(self) -> frozenset[tuple[Handle, int]]:
        """(handle, version) that no task overwrites."""
        ends = enumerate(self._closed_by)
        return frozenset((self.flow.handle[v], self.number[v]) for v, closed in ends if closed < 0)

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
        writer = self.flow.writer
        items += [(writer[v], RUNS, 0, tasks[writer[v]]) for v, ranks in sorted(self.anew.items()) if rank in ranks]
        for number, message in enumerate(self.messages):
            if message.source == rank:
                items.append((message.writer, SENDS, number, message))
            elif message.destination == rank:
                items.append((message.writer, RECEIVES, number, message))
                version = self._carried[number]
                # A copy that its last reader turns into the next version is not a copy any more.
                if not message.final and self._last[version][rank] != self._closed_by[version]:
                    items.append((self._last[version][rank], DROPS, number, message))
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
            handle
            for handle in self.graph.handles_used
            if handle.name in self.graph.rooms and not self.graph.rooms[handle.name].keep
        } - self.graph.inputs.keys()
        for version, handle in enumerate(self.flow.handle):
            if handle in comes:
                continue
            own[self.source[version]].add(handle)
            for rank in self.anew.get(version, ()):
                own[rank].add(handle)
        for rank in range(self.ranks):
            peaks.append(sum(map(size, own[rank])) + self.most_beside(self._part(rank).graph, comes, size, window))
        return peaks

    @classmethod
    def most_beside(cls, part: TaskGraph, comes: set[Handle], size: Callable[[Handle], int], window: int | None) -> int:
        """The most that a rank has of others' copies and of rooms that come and go."""
        held = peak = largest = 0
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
        return peak + (cls.most_in_rooms(part, comes, size) if comes else 0)

    @staticmethod
    def most_in_rooms(part: TaskGraph, comes: set[Handle], size: Callable[[Handle], int]) -> int:
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


def _again(graph: TaskGraph, ranks: int, owner: dict[Handle, int], asked: dict[str, Any]) -> MessagePlan:
    return MessagePlan(graph, ranks, owner, **asked)
