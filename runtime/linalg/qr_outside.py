"""QR factorisations of matrices larger than memory: the graph in core in another order, through pages.

Of a matrix of several block columns tasks go by *slabs*, left-looking: those that write some block columns, with all
earlier panels coming by from the disk; then Q by slabs in the same way, panels from the last to the first [1]_. Of a
tall matrix of few columns, row blocks come by once, and what is below a node of the tree is done before the node, so
that one tile for each level stays; Q goes the same way back [2]_. Tasks and their kernels are those in core, so bits
are.

.. [1] B. Gunter, R. van de Geijn, Parallel out-of-core computation and updating of the QR factorization, ACM TOMS 31
   (2005).
.. [2] J. Demmel, L. Grigori, M. Hoemmen, J. Langou, Communication-optimal parallel and sequential QR and LU
   factorizations, SIAM J. Sci. Comput. 34 (2012).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import numpy as np

from tilewright.graph import Handle, Op, R, Task, TaskGraph
from tilewright.linalg.call import Call
from tilewright.linalg.outofcore import Outside, run_beside
from tilewright.linalg.paged import OnDisk, Paged, paged
from tilewright.linalg.qr_graph import Plan
from tilewright.linalg.qr_plan import AUTO, qr_plan
from tilewright.linalg.slab_plan import beside
from tilewright.linalg.trees import PANEL
from tilewright.scalars import positive as positive_size
from tilewright.storage.matrix import Stored, StoredTiles
from tilewright.storage.npy import RawFile
from tilewright.storage.opening import Output, folder_of, open_source, scratch_file
from tilewright.units import nbytes

__all__ = ["qr_outside"]

_TRIES = 7

Builder = Callable[[Plan, int | None, bool, bool, bool], TaskGraph]
"""graph(plan, columns of Q or None, positive, in place, check)."""


def qr_outside(
    call: Call,
    outside: Outside,
    a: Any,
    build: Builder,
    *,
    mode: str,
    tree: Any,
    positive: bool,
    check_finite: bool,
    tile_size: int | None,
) -> tuple[Any, ...]:
    """Q and R, or R, as `qr` gives them: read-only maps of the files that ``out`` says, or of nameless ones."""
    outside.check_engine(call.engine.name)
    if call.options:
        raise ValueError(f"out of core there is no {', '.join(call.options)}=")
    source = open_source(a)
    with ExitStack() as stack:
        if source is not a:
            stack.callback(source.close)
        plan = _plan(call, source, tree, tile_size, square=mode == "full")
        (m, n), k = source.shape, min(source.shape)
        columns = {"r": None, "economic": k, "full": m}[mode]
        shapes = [] if columns is None else [(m, columns)]
        shapes.append((k if mode == "economic" else m, n))
        paths = _paths(outside.out, len(shapes))
        graph = build(plan, columns, positive, True, False)
        outlines = [Stored(shape, source.dtype, "outline") for shape in (*shapes, source.shape)]
        loaded = _check(plan) if check_finite else _nothing
        fitted, planned = _fit(
            graph, plan, _families(plan, outlines, outlines[-1]), outside.cap(), call.count(), loaded
        )
        #   beside the results if they have a place: the matrix may be where nobody may write
        near = next((path for path in (*paths, a) if isinstance(path, str | Path)), None)
        folder = Path(gettempdir()) if near is None else folder_of(near)
        results = []
        for path, shape in zip(paths, shapes, strict=True):
            result = _Result(path, shape, source.dtype, plan.width, folder, outside.overwrite_out)
            stack.callback(result.close)
            results.append(result)
        work = scratch_file(folder, source.shape, source.dtype, "F")
        stack.callback(work.close)
        families = _families(plan, [*(result.matrix for result in results), work], source)
        run_beside(call, fitted.graph, fitted.data(families), planned, pages=len(fitted.pages))
        return tuple(result.value() for result in results)


def _plan(call: Call, source: Stored, tree: Any, tile_size: int | None, *, square: bool) -> Plan:
    """That of the call in core; where that would take a tree for several block columns, panels."""
    made = source.tile_size
    if made is not None and tile_size not in (None, made):
        raise ValueError(f"tile_size={tile_size}, but {source.name} makes tiles of {made}")
    if tile_size is not None:
        positive_size(tile_size, "tile_size")

    def plan(tree: Any) -> Plan:
        m, n = source.shape
        how: dict[str, Any] = {"workers": call.count(), "here": True, "tree": tree}
        return qr_plan(m, n, source.dtype, tile_size=tile_size, cut=made, square=square, **how)

    found = plan(tree)
    return plan(PANEL) if isinstance(tree, str) and tree == AUTO and found.nt > 1 else found


def _families(plan: Plan, matrices: list[Stored], source: Stored) -> dict[str, OnDisk]:
    """What lies on a disk: (Q and) R, and the reflections, whose place in the end is the last of the matrices."""
    *results, work = matrices
    by_columns = plan.tree == PANEL

    def tall(matrix: Stored) -> StoredTiles:
        return StoredTiles(matrix, plan.width, plan.height)

    found = {
        "A": OnDisk(tall(work), tall(source), by_columns=by_columns),
        "R": OnDisk(StoredTiles(results[-1], plan.width), kept=True),
    }
    if len(results) == 2:
        found["Q"] = OnDisk(tall(results[0]), kept=True, by_columns=by_columns)
    return found


# ------------------------------------------------------------------ order


def in_order(graph: TaskGraph, plan: Plan, width: int) -> list[Task]:
    """The tasks by slabs of so many block columns; of one block column, row blocks as the tree needs them."""
    key = _by_rows(graph, plan) if plan.nt == 1 else _by_slabs(graph, width)
    return sorted(graph, key=lambda task: (*key[task.index], task.index))


def _by_slabs(graph: TaskGraph, width: int) -> list[tuple[int, int]]:
    """Factor, then Q; in each, slabs of the block columns that tasks write."""

    def key(task: Task) -> tuple[int, int]:
        (handle, *_) = task.writes
        column = handle.index[0] if handle.name == "D" else handle.index[1]
        return int(handle.name == "Q"), column // width

    return [key(task) for task in graph]


def _by_rows(graph: TaskGraph, plan: Plan) -> list[tuple[int, int]]:
    """A node of the tree comes behind the last leaf below it; for Q all in the opposite order."""
    mt = plan.mt
    latest = list(range(mt))
    keys: list[tuple[int, int]] = []
    made: dict[Handle, int] = {}
    nodes: dict[frozenset[int], int] = {}
    for task in graph:
        rows = {handle.index[0] for handle in task.writes if handle.name in "AQ"}
        if not any(handle.name in "AQ" for handle in task.writes):  # R, and signs
            keys.append((1, 0))
        elif any(handle.name == "A" for handle in task.writes):
            place = max(latest[row] for row in rows)
            for row in rows:
                latest[row] = place
            nodes[frozenset(rows)] = place
            keys.append((0, place))
        elif not task.reads:  # a tile of the identity, just before it is needed
            made[task.writes[0]] = task.index
            keys.append((2, 0))
        else:
            place = mt - nodes.get(frozenset(rows), max(rows))
            for handle in made.keys() & set(task.writes):
                keys[made.pop(handle)] = 2, place
            keys.append((2, place))
    return keys


# ------------------------------------------------------------------ memory


def _fit(
    graph: TaskGraph,
    plan: Plan,
    families: dict[str, OnDisk],
    limit: int | None,
    workers: int,
    loaded: Callable[[TaskGraph, Handle, Handle], object],
) -> tuple[Paged, int]:
    """The graph through as many pages as there is memory for, and the bytes of all. MemoryError with the least."""
    item = families["A"].tiles.matrix.dtype.itemsize
    rooms = graph.rooms
    inside = sum(rooms[h.name].nbytes(h, _no_shape) for h in graph.handles_used if h.name in rooms)
    column = max(plan.m * plan.width * item, 1)

    def fit(pages: int) -> tuple[Paged, int]:
        width = max((pages // column - 2) // plan.across, 1) * plan.across  # groups of an update lie in one slab
        found = paged(graph, in_order(graph, plan, width), families, pages, loaded)
        return found, found.memory + inside + beside(len(found.graph), workers, 3 * plan.width**2 * item)

    if limit is None:
        return fit(4 * (plan.m * plan.n + plan.n**2) * item)
    pages = limit - inside - beside(2 * len(graph), workers, 3 * plan.width**2 * item)
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
        raise MemoryError(
            f"memory={nbytes(limit)} is too little for a QR factorisation of {plan.m} x {plan.n} in tiles of "
            f"{plan.width}: the least is {nbytes(total)}; a smaller tile_size needs less"
        )
    return found, total


def _no_shape(handle: Handle) -> tuple[int, ...]:
    raise ValueError(f"{handle} has no room of its own")


def _nothing(*_: object) -> None:
    pass


def _check(plan: Plan) -> Callable[[TaskGraph, Handle, Handle], object]:
    """Look for NaN and infinities in what was read."""
    finite = _finite(plan.height, plan.width)

    def loaded(graph: TaskGraph, page: Handle, tile: Handle) -> None:
        graph.insert(finite, R(page), "all", label=tile.index)

    return loaded


@cache
def _finite(height: int, width: int) -> Op:
    def explain(task: Task, data: Any, info: int) -> Exception:
        tile = data[task.uses[0].handle]
        place: Any = task.place
        row, column = np.argwhere(~np.isfinite(tile))[0] + (place[0] * height, place[1] * width)
        return ValueError(
            f"the matrix a has a NaN or infinity at ({row}, {column}); check_finite=False skips this check"
        )

    return Op("finite", weight=0, explain=explain)


# ------------------------------------------------------------------ results


def _paths(out: Any, count: int) -> list[Any]:
    """Where Q and R go, or R alone; None for files without a name."""
    if out is None:
        return [None] * count
    if count == 1:
        return [out]
    if not isinstance(out, tuple | list) or len(out) != 2:
        raise TypeError(f"out of qr must be two, such as ('Q.npy', 'R.npy'), not {out!r}")
    return list(out)


class _Result:
    """Q or R: a file that is whole or not there, or one without a name, which is gone with the array."""

    def __init__(
        self, path: Any, shape: tuple[int, int], dtype: np.dtype, width: int, folder: Path, overwrite: bool
    ) -> None:
        self.output: Output | None = None
        self.done = False
        if path is None:
            self.matrix: Stored = scratch_file(folder, shape, dtype, "F")
        else:
            self.output = Output(path, shape, dtype, "F", width, overwrite=overwrite)
            self.matrix = self.output.matrix

    def value(self) -> Any:
        self.done = True
        if self.output is not None:
            return self.output.finish()
        matrix = self.matrix
        assert isinstance(matrix, RawFile)
        if not matrix.shape[0] * matrix.shape[1]:
            return np.zeros(matrix.shape, matrix.dtype, "F")
        return np.memmap(matrix.file, matrix.dtype, "r", matrix.offset, matrix.shape, "F")

    def close(self) -> None:
        if self.output is None:
            self.matrix.close()
        elif not self.done:
            self.output.abandon(keep=False)
