"""A pass over the graph of a factorisation: what is final is kept, and what a checkpoint has is not made again.

The loops stay as they are. A block column is final when no task of the loop writes it any more; then a task copies its
tiles, on each rank those that are there, for a thread that writes them. To go on, the graph is cut: each version of a
handle that is kept is read from its file where the task stood that made it, and of the others only tasks stay that
somebody still waits for. Updates of block columns that were not final are made again, in the same order, so that bits
are the same whatever was finished, on however many ranks.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from math import inf
from typing import NamedTuple

from tilewright.graph import RW, Handle, R, Task, TaskGraph, Use, W
from tilewright.passes.versions import Dataflow
from tilewright.storage.ops import compare, keep, restore, settle, weigh
from tilewright.storage.parts import TileInPart

__all__ = ["Finals", "Kept", "kept_graph", "place_of", "places_of"]

_SUMS, _SAME, _KEPT = "kept.sums", "kept.same", "kept.log"


class Finals(NamedTuple):
    """What of a graph becomes final panel by panel."""

    names: tuple[tuple[str, int], ...]
    """Families of handles, and which of their indices is the number of the panel."""
    source: str
    """The family of the matrix."""
    column: int = 1
    """Which of its indices is the block column."""
    half: str = ""
    """``"lower"`` or ``"upper"``: of diagonal tiles of the matrix only that is read."""
    behind: tuple[str, ...] = ()
    """Ops that change a panel after it is final, such as the row exchanges of later panels: they are done again."""

    def panel(self, handle: Handle) -> int | None:
        """The panel with which a handle becomes final; None if it is not kept."""
        place = dict(self.names).get(handle.name)
        return None if place is None else handle.index[place]


class Kept(NamedTuple):
    """What a graph needs to know of the checkpoint and of the ranks."""

    folder: str
    run: str
    every: float
    wait: bool
    """Whether tasks wait for the disk themselves."""
    tiles: dict[Handle, TileInPart]
    """What is there already."""
    sources: dict[Handle, str]
    """Checksums of the tiles of the matrix of which it was made."""
    places: tuple[int, ...]
    """The rank of each task."""
    what: str
    """The name of the matrix."""


def places_of(graph: TaskGraph, rank_of: Callable[[Handle], int]) -> tuple[int, ...]:
    """The rank on which each task runs."""
    return tuple(place_of(task, rank_of) for task in graph)


def place_of(task: Task, rank_of: Callable[[Handle], int]) -> int:
    """The rank on which a task runs."""
    on = task.on if task.on is not None else next(iter(task.writes or task.reads), 0)
    return rank_of(on) if isinstance(on, Handle) else on if isinstance(on, int) else 0


def last_writers(graph: TaskGraph, finals: Finals) -> dict[Handle, int]:
    """For each handle that is kept the task that makes its final version."""
    names, behind = dict(finals.names), set(finals.behind)
    return {
        handle: task.index
        for task in graph
        if task.op.name not in behind
        for handle in task.writes
        if handle.name in names
    }


def panels_of(graph: TaskGraph, finals: Finals) -> dict[int, set[Handle]]:
    """What each panel has."""
    found: dict[int, set[Handle]] = defaultdict(set)
    for handle in last_writers(graph, finals):
        panel = finals.panel(handle)
        assert panel is not None
        found[panel].add(handle)
    return found


def kept_graph(graph: TaskGraph, finals: Finals, kept: Kept) -> TaskGraph:
    """The graph with tasks that keep what is final, and without those that made what is kept already. O(accesses)."""
    last = last_writers(graph, finals)
    stays, wanted = _cut(graph, last, kept)
    groups: dict[tuple[int, int], list[Handle]] = defaultdict(list)  # by panel and rank: what is to be kept
    for handle, writer in last.items():
        panel = finals.panel(handle)
        if stays[writer] and handle not in kept.tiles and panel is not None:
            groups[panel, kept.places[writer]].append(handle)
    due: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for place, handles in groups.items():
        due[max(last[handle] for handle in handles)].append(place)
    sources = _Sources(graph, finals, kept, {panel for panel, _ in groups})
    sources.deal(sorted(groups))
    g = graph.empty_like()
    g.layout = graph.layout
    sums = g.handles(_SUMS, shape=lambda *index: (len(sources.of[index]),), dtype="uint64")
    same, log = g.handles(_SAME, shape=(1,), dtype="int64"), g.handles(_KEPT, shape=(1,), dtype="int64")
    old = graph.bottom_levels()
    levels: list[float] = []
    checks: list[Use] = []
    for (rank, panel), handles in sorted(sources.known.items()):
        halves, found = sources.halves(handles), tuple(kept.sources[handle] for handle in handles)
        mine = same[handles[0].index]
        g.insert(
            compare,
            [R(handle) for handle in handles],
            W(mine),
            *(kept.folder, kept.what, tuple(handles), halves, found),
            on=rank,
            label=(panel, rank),
        )
        levels.append(inf)
        checks.append(R(mine))
    logs: dict[int, Handle] = {}
    written: dict[Handle, int] = {}
    for task in graph:
        for handles in sources.first.get(task.index, ()):
            target = W(sums[handles[0].index])
            uses = [R(handle) for handle in handles]
            g.insert(weigh, uses, target, sources.halves(handles), on=sources.rank[handles[0]], label=handles[0].index)
            levels.append(old[task.index])
        if stays[task.index]:
            g.insert_again(task)
            levels.append(old[task.index])
        for handle in task.writes:
            if last.get(handle) == task.index:
                if not stays[task.index] and handle in wanted:
                    where = (kept.folder, kept.tiles[handle], str(handle))
                    g.insert(restore, W(handle), *where, on=kept.places[task.index], label=(str(handle),))
                    levels.append(old[task.index])
                written[handle] = task.index
            elif handle in written and stays[task.index]:
                written[handle] = task.index
        for panel, rank in due.get(task.index, ()):
            handles = groups[panel, rank]
            late = [handle for handle in handles if written[handle] != last[handle]]
            assert not late, f"{late[0]} is changed before panel {panel} is final"
            weights = sources.dealt[panel, rank]
            access = RW if rank in logs else W
            logs.setdefault(rank, log[next((h for h in handles if len(h.index) == 2), handles[0]).index])
            g.insert(
                keep,
                [R(handle) for handle in handles],
                [R(sums[some[0].index]) for some in weights],
                checks,
                access(logs[rank]),
                *(kept.folder, kept.run, tuple(handles), tuple(map(tuple, weights)), kept.every, kept.wait),
                on=rank,
                label=(panel,),
            )
            levels.append(old[task.index])
    for rank, mine in sorted(logs.items()):
        g.insert(settle, RW(mine), kept.folder, kept.run, on=rank, label=(rank,))
        levels.append(0)
    g.closed_form = lambda task: levels[task.index]
    g.recipe = kept_graph, (graph, finals, kept)
    return g


def _cut(graph: TaskGraph, last: dict[Handle, int], kept: Kept) -> tuple[list[bool], set[Handle]]:
    """Which tasks stay, and which of the handles that are kept are read."""
    if not kept.tiles:
        return [True] * len(graph), set()
    flow = Dataflow(graph)
    final = dict(zip(flow.handle, range(len(flow)), strict=True))
    needed = {final[handle] for handle in graph.results}
    stays = [False] * len(graph)
    wanted: set[Handle] = set()
    for task in reversed(graph.tasks):
        versions = [v for v in flow.writes[task.index] if v in needed]
        there = [v for v in versions if (h := flow.handle[v]) in kept.tiles and last.get(h) == task.index]
        if len(there) < len(versions):
            stays[task.index] = True
            needed.update(flow.reads[task.index])
        else:
            wanted.update(flow.handle[v] for v in there)
    return stays, wanted


class _Sources:
    """Tiles of the matrix: where they are read first, and to whose panel they belong."""

    def __init__(self, graph: TaskGraph, finals: Finals, kept: Kept, panels: set[int]) -> None:
        self.finals = finals
        mine = {handle for handle in graph.inputs if handle.name == finals.source}
        self.rank: dict[Handle, int] = {}
        begin: dict[Handle, int] = {}
        for task in graph:
            for handle, _ in task.uses:
                if handle in mine and handle not in begin:
                    begin[handle], self.rank[handle] = task.index, kept.places[task.index]
        groups: dict[tuple[int, int], list[Handle]] = defaultdict(list)
        self.known: dict[tuple[int, int], list[Handle]] = defaultdict(list)
        """By rank and panel: those that the checkpoint knows."""
        for handle in begin:
            panel = handle.index[finals.column]
            if handle in kept.sources:
                self.known[self.rank[handle], panel].append(handle)
            elif panel in panels:
                groups[panel, self.rank[handle]].append(handle)
        self.groups = dict(groups)
        self.of = {handles[0].index: handles for handles in groups.values()}
        self.first: dict[int, list[list[Handle]]] = defaultdict(list)
        """By task: those of which a group is first used there."""
        for handles in groups.values():
            self.first[min(begin[handle] for handle in handles)].append(handles)
        self.dealt: dict[tuple[int, int], list[list[Handle]]] = defaultdict(list)
        """By panel and rank: what is noted with it."""

    def deal(self, places: list[tuple[int, int]]) -> None:
        """Give the groups to those who keep something of the panel, on the same rank if somebody does there."""
        for (panel, rank), handles in self.groups.items():
            place = (panel, rank) if (panel, rank) in places else next(p for p in places if p[0] == panel)
            self.dealt[place].append(handles)

    def halves(self, handles: list[Handle]) -> tuple[str, ...]:
        half = self.finals.half
        return tuple(half if handle.index[0] == handle.index[1] else "" for handle in handles)
