"""QR factorisations of matrices larger than memory: the graph in core in another order, through pages.

Of a matrix of several block columns tasks go by *slabs*, left-looking: those that write some block columns, with all
earlier panels coming by from the disk; then Q by slabs in the same way, panels from the last to the first [1]_. Of a
tall matrix of few columns, row blocks come by once, and what is below a node of the tree is done before the node, so
that one tile for each level stays; Q goes the same way back [2]_. On ranks each has block columns, or some row blocks
of a tall matrix. Tasks and their kernels are those in core, so bits are.

.. [1] B. Gunter, R. van de Geijn, Parallel out-of-core computation and updating of the QR factorization, ACM TOMS 31
   (2005).
.. [2] J. Demmel, L. Grigori, M. Hoemmen, J. Langou, Communication-optimal parallel and sequential QR and LU
   factorizations, SIAM J. Sci. Comput. 34 (2012).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import numpy as np

from tilewright.graph import Handle, R, TaskGraph
from tilewright.kernels import table
from tilewright.linalg.by_pages import ByPages, Destination, column_of, nothing, run_by_pages
from tilewright.linalg.call import Call
from tilewright.linalg.finals import Finals
from tilewright.linalg.outofcore import Outside
from tilewright.linalg.paged import OnDisk
from tilewright.linalg.qr_graph import QRPlan
from tilewright.linalg.qr_plan import AUTO, qr_plan
from tilewright.linalg.slabs import finite_at
from tilewright.linalg.trees import PANEL
from tilewright.scalars import positive as positive_size
from tilewright.storage.matrix import Stored, StoredTiles, check_tiles
from tilewright.storage.opening import folder_of, open_source

__all__ = ["qr_by_pages", "qr_outside"]

Builder = Callable[[QRPlan, int | None, bool, bool, bool], TaskGraph]
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
    finals: Finals,
    bits: Callable[[QRPlan], dict[str, Any]],
    again: Callable[[QRPlan, bool], dict[str, Any]],
) -> tuple[Any, ...]:
    """Q and R, or R, as `qr` gives them: read-only maps of the files that ``out`` says, or of nameless ones.

    ``finals``, ``bits`` and ``again`` are those of a checkpoint in core.
    """
    outside.check_engine(call.engine)
    outside.check_options(call.options)
    source = open_source(a)
    with ExitStack() as stack:
        if source is not a:
            stack.callback(source.close)
        plan = _plan(call, source, tree, tile_size, square=mode == "full")
        check_tiles(source, plan.width)
        (m, n), k = source.shape, min(source.shape)
        if outside.checkpoint is not None and plan.nt <= 1:
            raise ValueError(
                f"a matrix of one block column, here {m} x {n} in tiles of {plan.width}, is final only as a whole, so "
                f"it has no checkpoint=; a smaller tile_size makes more block columns"
            )
        columns = {"r": None, "economic": k, "full": m}[mode]
        shapes = [] if columns is None else [(m, columns)]
        shapes.append((k if mode == "economic" else m, n))
        paths = _paths(outside.out, len(shapes))
        #   beside the results if they have a place: the matrix may be where nobody may write
        near = next((path for path in (*paths, a) if isinstance(path, str | Path)), None)
        folder = Path(gettempdir()) if near is None else folder_of(near)
        places = [Destination(path, shape, source.dtype, plan.width) for path, shape in zip(paths, shapes, strict=True)]
        job = qr_by_pages(plan, build(plan, columns, positive, True, False), finals, check=check_finite)
        keywords = {
            **again(plan, check_finite), "mode": mode, "positive": positive, "memory": outside.memory,
            "overwrite_out": outside.overwrite_out, "backend": call.engine.name,
        }  # fmt: skip
        scratch = [Destination(None, source.shape, source.dtype, plan.width)]
        facts = {**bits(plan), "place": "out of core"}
        return tuple(run_by_pages(call, outside, job, a, source, places, scratch, folder, facts, keywords)[0])


def qr_by_pages(plan: QRPlan, graph: TaskGraph, finals: Finals, *, check: bool) -> ByPages:
    """A QR factorisation, and Q where the graph makes it, as the passes need it."""
    item = np.dtype(plan.dtype).itemsize
    tall = plan.nt == 1
    return ByPages(
        graph,
        f"a QR factorisation of {plan.m} x {plan.n}",
        plan.width,
        item,
        plan.m * plan.width * item,
        partial(_families, plan),
        finals,
        last=frozenset("Q"),
        order=partial(_by_rows, plan=plan) if tall else None,
        owner=partial(_owner, plan.mt) if tall else lambda handle, ranks: column_of(handle) // plan.across % ranks,
        loaded=_check(plan) if check else nothing,
        panel=plan.m * plan.width * item,
        copies=(_strip(plan) + _settled(plan, graph)) * item,
        across=plan.across,
    )


def _strip(plan: QRPlan) -> int:
    """Numbers that an update of several block columns copies, which are one matrix to it, and of its two products."""
    return (plan.m + 2 * plan.width) * plan.across * plan.width if plan.across > 1 else 0


def _settled(plan: QRPlan, graph: TaskGraph) -> int:
    """Numbers that kernels copy whose bits depend on where they lie: of a panel, or of two tiles one on the other."""
    ops = {task.op.name for task in graph}
    copied = {op for op in ops & {"geqrf", "geqrt", "tsqrt", "ttqrt"} if table.settles(op, plan.dtype)}
    rows = plan.m if plan.tree == PANEL else plan.rows(0)
    return (2 if copied & {"tsqrt", "ttqrt"} else len(copied)) * rows * plan.width


def _plan(call: Call, source: Stored, tree: Any, tile_size: int | None, *, square: bool) -> QRPlan:
    """That of the call in core; where that would take a tree for several block columns, panels."""
    made = source.tile_size
    if made is not None and tile_size not in (None, made):
        raise ValueError(f"tile_size={tile_size}, but {source.name} makes tiles of {made}")
    if tile_size is not None:
        positive_size(tile_size, "tile_size")

    def plan(tree: Any) -> QRPlan:
        m, n = source.shape
        how: dict[str, Any] = {"workers": call.count(), "here": True, "tree": tree}
        return qr_plan(m, n, source.dtype, tile_size=tile_size, cut=made, square=square, **how)

    found = plan(tree)
    return plan(PANEL) if isinstance(tree, str) and tree == AUTO and found.nt > 1 else found


def _families(plan: QRPlan, matrices: list[Stored], source: Stored) -> dict[str, OnDisk]:
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


def _owner(mt: int, handle: Handle, ranks: int) -> int:
    """Each rank has row blocks of a tall matrix that follow each other; the first one has R and the signs."""
    return min(handle.index[0], mt - 1) * ranks // max(mt, 1) if handle.name in ("A", "Q", "T", "S", "V") else 0


# ------------------------------------------------------------------ order


def _by_rows(graph: TaskGraph, plan: QRPlan) -> list[tuple[int, int]]:
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


# ------------------------------------------------------------------ what is read


def _check(plan: QRPlan) -> Callable[[TaskGraph, Handle, Handle, int], object]:
    """Look for NaN and infinities in what was read."""
    finite = finite_at(plan.width, plan.height)

    def loaded(graph: TaskGraph, page: Handle, tile: Handle, rank: int) -> None:
        graph.insert(finite, R(page), "all", label=tile.index, on=rank)

    return loaded


# ------------------------------------------------------------------ results


def _paths(out: Any, count: int) -> list[Any]:
    """Where Q and R go, or R alone; None for files without a name."""
    if out is None:
        return [None] * count
    if count == 1:
        return [out]
    if not isinstance(out, tuple | list) or len(out) != 2:
        raise TypeError(f"out of qr must be two, such as ('Q.npy', 'R.npy'), not {out!r}")
    files = [os.path.abspath(str(path).partition(":/")[0]) for path in out if isinstance(path, str | Path)]
    if len(set(files)) < len(files):
        raise ValueError(f"out of qr has Q and R in one file, which the second would replace: {files[0]}")
    return list(out)
