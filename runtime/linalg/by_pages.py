"""Factorisations out of core by passes over the graph in core: kept, sorted, through pages; in one process or on ranks.

Three passes, each of which knows nothing of the others. `tilewright.linalg.finals` adds the checkpoint, if there is
one. Tasks are sorted by *slabs*: those that write some block columns, with all earlier ones coming by from the disk,
which makes a right-looking loop left-looking. `tilewright.linalg.paged` puts loads and stores in, within so much memory
on each rank. Tasks and their kernels are those in core, so bits are.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tilewright.graph import Handle, Layout, Op, Task, TaskGraph
from tilewright.linalg.call import Call
from tilewright.linalg.finals import Finals, place_of
from tilewright.linalg.keeping import Keeping
from tilewright.linalg.outofcore import Outside, run_beside
from tilewright.linalg.paged import OnDisk, Paged, paged
from tilewright.linalg.slab_plan import beside, too_little
from tilewright.runs.run import Run
from tilewright.storage.matrix import Stored
from tilewright.storage.npy import RawFile
from tilewright.storage.opening import Output, open_source, scratch_file

__all__ = ["ByPages", "Destination", "column_of", "nothing", "run_by_pages"]

_TRIES = 7
_FIRST, _LAST = (-1, 0), (9, 0)

Loaded = Callable[[TaskGraph, Handle, Handle, int], object]


def column_of(handle: Handle) -> int:
    """The block column that a handle belongs to: its last index, where it is one of tiles."""
    return handle.index[0] if handle.name == "D" or len(handle.index) == 1 else handle.index[1]


def nothing(*_: object) -> None:
    pass


@dataclass(frozen=True)
class ByPages:
    """A factorisation, as it is in core, and what the passes have to know of it."""

    graph: TaskGraph
    """In place on tiles that come from a source when they are read first."""
    what: str
    """What messages call it."""
    tile_size: int
    item: int
    """Bytes of a number."""
    column: int
    """Bytes of a block column."""
    families: Callable[[list[Stored], Stored], dict[str, OnDisk]]
    """What lies on a disk, from the results and the matrix."""
    finals: Finals
    late: frozenset[str] = frozenset()
    """Ops that come behind all slabs, such as the exchanges of later panels."""
    last: frozenset[str] = frozenset()
    """Families that are made, by slabs, behind the factor."""
    order: Callable[[TaskGraph], list[tuple[int, int]]] | None = None
    """Another order than slabs: a key of each task."""
    owner: Callable[[Handle, int], int] = field(default=lambda handle, ranks: column_of(handle) % ranks)
    """The rank of a handle."""
    loaded: Loaded = nothing
    ops: Mapping[Op, Op] = field(default_factory=dict)
    panel: int = 0
    """Bytes that are copied where a panel is kept."""
    copies: int = 0
    """Bytes that a task copies, beside tiles."""
    across: int = 1
    """Block columns that one task may write: a slab, and what a rank has of one, is whole groups of so many."""

    def in_order(self, graph: TaskGraph, width: int) -> list[Task]:
        """The tasks by slabs of so many block columns, or as `order` says."""
        keys = [self._key(task, width) for task in graph] if self.order is None else self.order(graph)
        return sorted(graph, key=lambda task: (*keys[task.index], task.index))

    def _key(self, task: Task, width: int) -> tuple[int, int]:
        name = task.op.name
        if name in ("compare", "settle"):
            return _FIRST if name == "compare" else _LAST
        handle = next(iter(task.reads if name == "keep" else task.writes))
        return int(name in self.late or handle.name in self.last), column_of(handle) // width

    # ------------------------------------------------------------ memory

    def fit(
        self, graph: TaskGraph, families: dict[str, OnDisk], limit: int | None, workers: int, ranks: int, keeps: bool
    ) -> tuple[Paged, int]:
        """The graph through as many pages as there is memory for on each rank, and the bytes of all that takes.

        MemoryError with the least that would do.
        """
        rooms = graph.rooms
        inside = sum(rooms[h.name].nbytes(h, _no_shape) for h in graph.handles_used if h.name in rooms)
        inside += 2 * self.panel * keeps
        copies = 4 * self.tile_size**2 * self.item + self.copies  # of kernels, and of who turns lines
        owner = graph.layout.owner if graph.layout is not None else lambda handle: 0

        def place(task: Task) -> int:
            return place_of(task, owner) if ranks > 1 else 0

        def fit(pages: int) -> tuple[Paged, int]:
            width = max((pages // max(self.column, 1) - 2) // self.across, 1) * self.across * ranks
            tasks = self.in_order(graph, width)
            found = paged(graph, tasks, families, pages, self.loaded, ranks=ranks, place=place, ops=self.ops)
            return found, found.memory + inside + beside(len(found.graph), workers, copies)

        if limit is None:
            return fit(8 * max(self.column, 1) * (len(graph) + 1))
        pages = limit - inside - beside(2 * len(graph), workers, copies)
        least, tries = 0, _TRIES
        best = None
        while pages > least and tries:  # what one task needs is taken beyond them, so the most that fits is searched
            middle = pages if tries == _TRIES else (least + pages) // 2
            tries -= 1
            tried = fit(middle)
            if tried[1] <= limit:
                best, least = tried, middle
            else:
                pages = middle
        if best is not None:
            return best
        found, total = fit(0)
        if total > limit:
            where = "" if ranks == 1 else f" on each of {ranks} ranks"
            too_little(total, limit, self.what, self.tile_size, where)
        return found, total


def _no_shape(handle: Handle) -> tuple[int, ...]:
    raise ValueError(f"{handle} has no room of its own")


# ------------------------------------------------------------------ results


@dataclass(frozen=True)
class Destination:
    """Where a result, or what is only needed on the way, goes.

    Attributes
    ----------
    path
        None for a file without a name, which is gone with the array.
    """

    path: Any
    shape: tuple[int, int]
    dtype: np.dtype
    tile_size: int
    order: Any = "F"
    turned: bool = False
    """Whether tasks see the transpose of what lies there."""


class _Files:
    """The results of a call, made by the process that leads it: each is whole in the end, or not there."""

    def __init__(self, places: list[Destination], folder: Path, overwrite: bool) -> None:
        self.outputs: list[Output | None] = []
        self.matrices: list[Stored] = []
        try:
            for place in places:
                shape = place.shape[::-1] if place.turned else place.shape
                output = None
                if place.path is None:
                    matrix: Stored = scratch_file(folder, shape, place.dtype, place.order)
                else:
                    output = Output(place.path, shape, place.dtype, place.order, place.tile_size, overwrite=overwrite)
                    matrix = output.matrix
                self.outputs.append(output)
                self.matrices.append(matrix.T if place.turned else matrix)
        except BaseException:
            self.abandon()
            raise

    def finish(self, sync: bool) -> None:
        """All are at their places."""
        for output in self.outputs:
            if output is not None:
                output.finish(sync=sync)
        self.outputs = [None] * len(self.outputs)

    def abandon(self) -> None:
        """Leave nothing of what is not whole."""
        for output, matrix in zip(self.outputs, self.matrices, strict=False):
            if output is not None:
                output.abandon(keep=False)
            else:
                matrix.close()


def _value(place: Destination, matrix: Stored) -> Any:
    """What the caller gets: a map that can only be read, or an array of zarr."""
    if place.path is not None:
        path = Path(place.path)
        return np.load(path, mmap_mode="r") if path.suffix.lower() == ".npy" else open_source(path).value()
    assert isinstance(matrix, RawFile)
    if not matrix.shape[0] * matrix.shape[1]:
        return np.zeros(matrix.shape, matrix.dtype, "F")
    return np.memmap(matrix.file, matrix.dtype, "r", matrix.offset, matrix.shape, "F")


@contextmanager
def _made(call: Call, places: list[Destination], folder: Path, overwrite: bool, sync: bool) -> Iterator[list[Stored]]:
    """Files for the results on all processes of the call; the one that leads it makes them and puts them in place."""
    engine = call.engine
    files: _Files | None = None
    told: Any = None
    if engine.leads:
        try:
            files = _Files(places, folder, overwrite)
            told = files.matrices
        except Exception as error:
            told = error
    told = engine.agreed(told)
    if isinstance(told, Exception):
        raise told
    try:
        yield told
        problem = None
        if files is not None:
            try:
                files.finish(sync)
            except Exception as error:
                problem = error
        problem = engine.agreed(problem)
        if problem is not None:
            raise problem
    except BaseException:
        if files is not None:
            files.abandon()
        raise


# ------------------------------------------------------------------ a call


def run_by_pages(
    call: Call,
    outside: Outside,
    job: ByPages,
    a: Any,
    source: Stored,
    places: list[Destination],
    scratch: list[Destination],
    folder: Path,
    facts: Mapping[str, Any],
    keywords: Mapping[str, Any],
) -> tuple[list[Any], Run]:
    """The results at ``places``, and the run.

    Parameters
    ----------
    a, source
        The matrix as it was given, and opened.
    scratch
        What lies on the disk beside the results, until the end.
    folder
        Where files without a name are made.
    facts, keywords
        For a checkpoint: on what the bits depend, and how the call is made again.
    """
    engine = call.engine
    ranks = engine.rank_count(call.workers) if engine.on_ranks else 1
    workers = max(1, call.count() // ranks)
    graph = job.graph
    if ranks > 1:
        source.__reduce__()  # TypeError for one that ranks cannot open
        graph = copy.copy(graph)
        graph.layout = Layout(ranks, lambda handle: job.owner(handle, ranks), lambda handle: ())
    if outside.checkpoint is not None:
        call.keeping = Keeping(
            outside.checkpoint, outside.resume, outside.every, outside.restart, call.routine.__name__, a
        )
        call.keeping.wait = True  # what waited for the disk would be memory
        paths = [place.path for place in places]
        if isinstance(a, str | Path) and all(isinstance(path, str | Path) for path in paths):
            out = [str(Path(path).absolute()) for path in paths]
            call.keeping.files = {"a": str(Path(a).absolute()), "out": out[0] if len(out) == 1 else out}
    if outside.restart and not engine.on_ranks:
        raise ValueError(
            f"restart={outside.restart} is for ranks that can die alone; backend {engine.name!r} is this process, so "
            f"make the call again with resume=True"
        )
    outlines = [Stored(place.shape, place.dtype, "outline") for place in (*places, *scratch)]
    limit = outside.cap()
    if limit is not None and outside.limit is None:
        limit //= ranks
    how = limit, workers, ranks, call.keeping is not None
    fitted = job.fit(graph, job.families(outlines, source), *how)
    with ExitStack() as stack:
        made = stack.enter_context(
            _made(call, [*places, *scratch], folder, outside.overwrite_out, call.keeping is not None)
        )
        families = job.families(made, source)

        def execute(some: TaskGraph) -> Run:
            found, planned = fitted if some is graph else job.fit(some, families, *how)
            pages = len(found.pages)
            return run_beside(
                call, found.graph, found.data(families), planned, (found.read, found.written), pages=pages
            )

        if call.keeping is None:
            record = execute(graph)
        else:
            record = call.keeping.run(engine, call.workers, graph, job.finals, facts, keywords, execute)
            call.record = record
    values = [_value(place, matrix) for place, matrix in zip(places, made, strict=False)]
    for place, matrix in zip([*places, *scratch], made, strict=True):
        if place.path is None:  # the map of a result has a descriptor of its own
            matrix.close()
    return values, record
