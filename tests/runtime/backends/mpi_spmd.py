"""Run by all ranks of ``mpiexec -n 3``: each check writes what it saw as one JSON line, by rank, into a folder.

The tests in test_mpi.py read them. A check that raises writes the exception.
"""

from __future__ import annotations

import io
import json
import shutil
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from mpi4py import MPI

import tilewright as tw
from tilewright import builder
from tilewright.backends.mpi.part import own_cores
from tilewright.backends.ranks import outcome
from tilewright.graph import DeferredGraph
from tilewright.linalg import lu, qr
from tilewright.linalg.cholesky import bottom_level, cholesky
from tilewright.linalg.triangle import triangle_graph, turned_graph
from tilewright.ops import copy, potrf
from tilewright.plot.live import LivePage

comm = MPI.COMM_WORLD
rank = comm.rank

A = np.random.default_rng(3).standard_normal((105, 105))
A = A @ A.T + 105 * np.eye(105)
NB = 20
L = tw.tiled_cholesky(A, tile_size=NB)


def call(a: Any = A, **options: Any) -> Any:
    return tw.tiled_cholesky(a, **{"tile_size": NB, "backend": "mpi", **options})


def raised(function: Callable[[], Any]) -> list[str]:
    try:
        function()
    except Exception as error:
        return [type(error).__name__, str(error), *getattr(error, "__notes__", [])]
    return []


def add(x: np.ndarray, y: np.ndarray) -> None:
    y += x


def ten_times(x: np.ndarray) -> np.ndarray:
    return 10 * x


# ------------------------------------------------------------------ checks


def replicated() -> Any:
    return np.array_equal(call(), L)


def all_grids() -> Any:
    return [np.array_equal(call(grid=grid), L) for grid in [(1, 3), (3, 1)]]


def other_distributions() -> Any:
    rules = [tw.SymmetricBlockCyclic(3), tw.RowBlocks(3, 6), lambda i, j: (i * j) % 3, 2]
    return [np.array_equal(call(owner=rule), L) for rule in rules]


def on_root_only() -> Any:
    factor = call(A if rank == 1 else None, root=1, gather="root")
    return None if factor is None else bool(np.array_equal(factor, L))


def from_root_to_all() -> Any:
    return np.array_equal(call(A if rank == 2 else None, root=2), L)


def fortran_order_from_root() -> Any:
    expected = tw.tiled_cholesky(np.asfortranarray(A), tile_size=NB)
    factor = call(np.asfortranarray(A) if rank == 0 else None, root=0)
    return [bool(np.array_equal(factor, expected)), factor.flags.c_contiguous]


def distributed_matrix() -> Any:
    """Every rank has only its own tiles, and keeps only those."""
    owner = tw.BlockCyclic(1, 3)
    whole = tw.TiledMatrix.from_numpy(A, NB)
    mine = tw.TiledMatrix.empty(A.shape, NB)
    for i, j in whole:
        if owner(i, j) == rank:
            mine[i, j] = whole[i, j]
    factor = call(mine, owner=owner, gather="none", tile_size=None)
    expected = tw.TiledMatrix.from_numpy(L, NB)
    return [bool(np.array_equal(factor[i, j], expected[i, j])) for i, j in whole if i >= j and owner(i, j) == rank]


def parts_from_loops() -> Any:
    """The same, and no rank plans for another."""
    with each_for_itself():
        return distributed_matrix()


def parts_of_ranks_that_collect() -> Any:
    """Loops, and arrays, where all ranks or one get the results, and where one has the data."""
    with each_for_itself():
        factor = call(A if rank == 1 else None, root=1, gather="root")
        found = [factor is None if rank != 1 else np.array_equal(factor, L), np.array_equal(call(), L)]
        F = tw.lu_factor(A, tile_size=NB, pivoting="tournament", backend="mpi")
        return [*map(bool, found), bool(np.allclose(F.solve(A[:, 0]), np.eye(105)[:, 0]))]


@contextmanager
def each_for_itself() -> Iterator[None]:
    """No rank plans for another, however small the graph is."""
    worth, outcome.WORTH = outcome.WORTH, 0
    try:
        with patch("tilewright.backends.ranks.outcome.planned", side_effect=AssertionError):
            yield
    finally:
        outcome.WORTH = worth


@contextmanager
def nobody_unrolls() -> Iterator[None]:
    """Graphs that loops can make stay loops, however small they are, and no rank makes their tasks."""
    builders: Any = (triangle_graph, turned_graph, lu._factor_graph, qr._qr_graph, qr._factor_graph)
    for one in builders:
        one.cache_clear()
    try:
        asked = patch.object(DeferredGraph, "_unroll", side_effect=AssertionError("unrolled"))
        with each_for_itself(), patch.object(builder, "MANY", 0), asked:
            yield
    finally:
        for one in builders:
            one.cache_clear()


LOOPS: dict[str, Callable[[], tuple[list[Any], tw.Run]]] = {
    "cholesky": lambda: _of(call(return_run=True)),
    "cholesky upper": lambda: _of(call(lower=False, return_run=True, grid=(3, 1), gather="none")),
    "cholesky by columns": lambda: _of(call(np.asfortranarray(A), overwrite_a=True, return_run=True)),
    "cholesky graph": lambda: _graph_run(tw.cholesky_graph(6), tw.TiledMatrix.from_numpy(A, NB)),
    "lu graph": lambda: _graph_run(
        tw.lu_graph(6, 6, ranks=3, shape=(105, 105), tile_size=NB), tw.TiledMatrix.from_numpy(A, NB), grid=(3, 1)
    ),
    "lu partial": lambda: _lu(grid=(3, 1)),
    "lu threshold": lambda: _lu(pivoting="threshold", grid=(1, 3)),
    "lu none": lambda: _lu(pivoting="none"),
    "lu stays": lambda: _lu(gather="none"),
    "qr": lambda: _of(tw.qr(A, mode="r", tree="flat", tile_size=NB, backend="mpi", return_run=True)),
    "qr factor": lambda: _qr_factor(("hierarchical", 2, "binary", "flat")),
}


def _of(found: tuple[Any, ...]) -> tuple[list[Any], tw.Run]:
    return list(found[:-1]), found[-1]


def _graph_run(graph: tw.TaskGraph, tiles: tw.TiledMatrix, **options: Any) -> tuple[list[Any], tw.Run]:
    run = tw.run(graph, {"A": tiles}, backend="mpi", **options)
    return [tiles.to_numpy()], run


def _lu(**options: Any) -> tuple[list[Any], tw.Run]:
    F, run = tw.lu_factor(A, tile_size=NB, backend="mpi", return_run=True, **{"pivoting": "partial"} | options)
    own = np.arange(105) // NB % 3 == rank if "gather" in options else slice(None)  # nobody wrote the others
    return [F.lu[:, own], F.piv, np.array(F.norms)], run


def _qr_factor(tree: Any) -> tuple[list[Any], tw.Run]:
    F, run = tw.qr_factor(A, tree=tree, tile_size=NB, backend="mpi", return_run=True)
    return [F.R], run


def _facts(run: tw.Run) -> list[Any]:
    """All that does not depend on how long things took."""
    run.trace.check()
    labels = {record.task: run.graph.tasks[record.task].label for record in run.trace}
    return [
        len(run.graph),
        run.graph.edges,
        sorted((record.task, labels[record.task], record.rank, record.worker) for record in run.trace),
        sorted((m.source, m.destination, str(m.handle), m.nbytes, m.writer) for m in run.trace.messages),
        list(run.kernels.items()),
        run.flops,
        run.width,
        sorted((op, count) for op, (count, _) in run.trace.by_op().items()),
        run.graph.to_svg(),
    ]


def loops_that_nobody_unrolls() -> Any:
    """Bits, and what a run says when it is asked, are those of the flat way."""
    seen = {}
    for name, function in LOOPS.items():
        wanted, flat = function()
        with nobody_unrolls():
            found, run = function()
            told = [run.graph.unrolled, len(run.graph) == len(flat.graph), "tasks, backend='mpi'" in repr(run)]
        facts, expected = _facts(run), _facts(flat)
        differ = [n for n, (one, other) in enumerate(zip(facts, expected, strict=True)) if one != other]
        seen[name] = [*told, _same(found, wanted), differ, run.graph.unrolled]
    return seen


def failures_of_loops() -> Any:
    a = A.copy()
    a[70, 70] = -1
    with nobody_unrolls():
        try:
            call(a)
        except tw.NotPositiveDefiniteError as error:
            failed = error.run.failed  # type: ignore[attr-defined]
            found = [error.order, failed.label, error.run.graph.unrolled]  # type: ignore[attr-defined]
    graph = triangle_graph(cholesky, 6, False, "behind", False, (), bottom_level)
    return [*found, graph.tasks[failed.index].predecessors == failed.predecessors != ()]


def memory_of_loops() -> Any:
    """What a rank of a graph that nobody unrolls is said to need is what the plan of all says."""
    _, flat = call(memory="10MB", return_run=True)
    _, other = tw.lu_factor(A, tile_size=NB, backend="mpi", grid=(3, 1), memory="10MB", return_run=True)
    with nobody_unrolls():
        _, run = call(memory="10MB", return_run=True)
        _, lu_run = tw.lu_factor(A, tile_size=NB, backend="mpi", grid=(3, 1), memory="10MB", return_run=True)
        small = raised(lambda: call(memory="10kB"))
    return [run.planned == flat.planned, lu_run.planned == other.planned, small[0]]


def progress_of_loops() -> Any:
    told: list[int] = []
    with nobody_unrolls(), redirect_stderr(io.StringIO()):
        _, run = call(return_run=True, progress=told.append)
        call(progress=True)
    return [[told[-1] == len(run.graph)] if told else [], run.graph.unrolled]


def _threshold(tau: float) -> tw.TaskGraph:
    return tw.lu_graph(5, 5, "threshold", threshold=tau, shape=(100, 100), tile_size=NB)


def different_loops() -> Any:
    def matrix(nt: int, nb: int = NB) -> tw.TiledMatrix:
        return tw.TiledMatrix.from_numpy(np.eye(nt * nb), nb)

    def wrong(graph: tw.TaskGraph, tiles: tw.TiledMatrix) -> str:
        return raised(lambda: tw.run(graph, {"A": tiles}, backend="mpi"))[1]

    odd = rank == 2
    with nobody_unrolls():
        return [
            wrong(tw.cholesky_graph(5 + odd), matrix(5 + odd)),
            wrong(tw.lu_graph(5, 5, "none") if odd else tw.cholesky_graph(5), matrix(5)),
            wrong(tw.cholesky_graph(5), matrix(5, NB + odd)),
            wrong(_threshold(0.25 if odd else 0.5), matrix(5)),
            raised(lambda: call(tile_size=NB + odd))[1],
        ]


def in_place() -> Any:
    a = A.copy()
    return call(a, overwrite_a=True) is a and bool(np.array_equal(a, L))


def complex_and_single() -> Any:
    kinds = []
    for dtype in ("float32", "complex64", "complex128"):
        a = A.astype(dtype)
        kinds.append(bool(np.array_equal(call(a), tw.tiled_cholesky(a, tile_size=NB))))
    return kinds


def own_communicator() -> Any:
    half = comm.Split(color=int(rank == 2), key=rank)
    factor, run = call(comm=half, return_run=True)
    half.Free()
    return [bool(np.array_equal(factor, L)), run.trace.ranks]


def trace_is_whole_on_all_ranks() -> Any:
    _, run = call(return_run=True, grid=(1, 3), gather="none")
    run.trace.check()
    return [run.messages, run.bytes, sorted({record.rank for record in run.trace})]


def live_page() -> Any:
    """Rank 0 alone serves it: a reader hears to its end where and when the tasks of all ranks ran."""
    news: list[dict[str, Any]] = []

    def read() -> None:
        with urllib.request.urlopen(page.address + "events", timeout=30) as stream:
            news.extend(json.loads(line[6:]) for line in stream if line.startswith(b"data: "))

    said = io.StringIO()
    with redirect_stderr(said), LivePage() as page:
        if rank == 0:  # it is served before the run, as a reader that comes when that is over would find none
            page.begin(tw.TaskGraph("none"), "", lambda task: 0.0, False)
        reader = threading.Thread(target=read)
        if page.address:
            reader.start()
        _, run = call(return_run=True, progress=page)
    if rank:
        return [page.address, said.getvalue(), [], 0]
    reader.join()
    labels = sorted((run.graph.tasks[record.task].label, record.rank, record.worker) for record in run.trace)
    told = sorted((bar[5], bar[0], bar[1]) for found in news for bar in found["bars"])
    last = {name: value for found in news for name, value in found.items()}
    return [
        page.address.startswith("http://127.0.0.1:"),
        said.getvalue().startswith("follow the run at http://127.0.0.1:") and said.getvalue().count("\n"),
        [last["title"], last["over"], last["closed"], last["done"] == len(run.graph), last["ready"]],
        len({rank for _, rank, _ in told}) if told == labels else [told, labels],
    ]


def any_graph() -> Any:
    g = tw.TaskGraph()
    x = g.handles("x")
    for r in range(1, 6):
        g.insert(add, tw.R(x[r - 1]), tw.RW(x[r]))
    run = tw.run(g, {"x": [np.ones(4) for _ in range(6)]}, backend="mpi", owner=lambda i: i % 3)
    return [float(run[tw.Handle("x", (r,))][0]) for r in range(6)]


def functions_change_the_data_of_every_rank() -> Any:
    """In place where a function works in place, wherever it ran; new values are in the run."""
    g = tw.TaskGraph()
    x, y, z = g.handles("x"), g.handle("y"), g.handle("z")
    for r in range(1, 6):
        g.insert(add, tw.R(x[r - 1]), tw.RW(x[r]))
    g.insert(add, tw.R(x[4]), tw.RW(y), on=2)
    g.insert(ten_times, tw.RW(z), on=1)
    data = {"x": [np.ones(4) for _ in range(6)], "y": np.ones(4), "z": np.ones(1)}
    run = tw.run(g, data, backend="mpi", owner={"x": lambda i: i % 3})
    return [[float(v[0]) for v in data["x"]], float(data["y"][0]), [float(run["z"][0]), 10 * float(data["z"][0])]]


def tensor_from_root() -> Any:
    import torch

    factor = call(torch.from_numpy(A.astype("f4")) if rank == 0 else None, root=0)
    return [bool(np.array_equal(factor, tw.tiled_cholesky(A.astype("f4"), tile_size=NB))), str(factor.dtype)]


def zeros_are_not_sent() -> Any:
    """In place, all ranks need zeros above the diagonal, and make them themselves."""
    a = A.copy()
    _, run = call(a, overwrite_a=True, return_run=True, grid=(1, 3))
    run.trace.check()
    above = [m for m in run.trace.messages if m.handle.index[0] < m.handle.index[1]]
    results = [m for m in run.trace.messages if run.graph.tasks[m.writer].op.name in ("tril", "trsm")]
    results = {(m.handle, m.destination) for m in results}
    return [bool(np.array_equal(a, L)), len(above), len(results)]


def agreements() -> Any:
    """How many exchanges of checks and facts a call takes; with a root one more, as it sends the argument to others."""
    from tilewright.backends.mpi import agreement

    count, exchanged = 0, agreement._exchanged

    def counted(*args: Any) -> Any:
        nonlocal count
        count += 1
        return exchanged(*args)

    def of(function: Callable[[], Any]) -> int:
        nonlocal count
        count = 0
        function()
        return count

    g = tw.TaskGraph()
    g.insert(add, tw.R(g.handle("x")), tw.RW(g.handle("y")))
    agreement._exchanged = counted
    try:
        return [
            of(call),
            of(lambda: call(precision="bf16")),
            of(lambda: call(A if rank == 1 else None, root=1)),
            of(lambda: tw.run(g, {"x": np.ones(2), "y": np.ones(2)}, backend="mpi")),
            of(lambda: tw.cho_solve(L, A[0], tile_size=NB, backend="mpi")),
            of(lambda: raised(lambda: call(tile_size=NB + rank))),
            of(lambda: raised(lambda: call(A[: 105 - rank]))),
            of(lambda: raised(lambda: call(-A))),
        ]
    finally:
        agreement._exchanged = exchanged


def rows_are_missing_on_one_rank() -> Any:
    return raised(lambda: call(A[: 105 - (rank == 1)], overwrite_a=True))[0]


def sixteen_bits() -> Any:
    bits = np.random.default_rng(5).integers(0, 1 << 16, (12, 20), dtype=np.uint16)
    equal = []
    for dtype in ("float16", "uint16"):
        g = tw.TaskGraph()
        x = g.handles("x")
        for r in range(1, 4):
            g.insert(copy, tw.R(x[r - 1]), tw.W(x[r]))
        data = [np.zeros((12, 20), dtype) for _ in range(4)]
        data[0].view("u2")[...] = bits
        run = tw.run(g, {"x": data}, backend="mpi", owner=lambda i: i % 3)
        equal.append(all(np.array_equal(tile.view("u2"), bits) for tile in data) and run.bytes < 9 * 480)
    return equal


def synchronous_and_no_window() -> Any:
    return [np.array_equal(call(grid=g, synchronous=True, window=1), L) for g in [(1, 3), (3, 1)]]


def more_ranks_than_tiles() -> Any:
    return np.array_equal(call(tile_size=105), tw.tiled_cholesky(A, tile_size=105))


def workers_by_default() -> Any:
    """Three ranks on one computer share what of its cores they may use, and no rank is without a worker."""
    run = call(return_run=True)[1]
    return [
        run.workers == 3 * own_cores(comm),
        own_cores(comm) >= 1,
        comm.allgather(own_cores(comm)) == 3 * [own_cores(comm)],
    ]


def wide_matrices_of_one_rank() -> Any:
    """QR has them; least squares, which factor A^H, are refused on all ranks."""
    a, here = np.random.default_rng(1).standard_normal((9, 20)), rank == 1
    where: Any = {"backend": "mpi", "root": 1, "tile_size": 4}
    Q, R = tw.qr(a if here else None, mode="economic", tree="greedy", **where)
    q, r = tw.qr(a, mode="economic", tree="greedy", tile_size=4, backend="serial")
    said = raised(lambda: tw.lstsq(a if here else None, a[:, 0] if here else None, **where))
    return [bool(np.array_equal(Q, q) and np.array_equal(R, r)), said[0], "call it without root=" in said[1]]


def two_workers_a_rank() -> Any:
    factor, run = call(workers=6, return_run=True)
    return [bool(np.array_equal(factor, L)), run.workers]


def solutions() -> Any:
    b = np.arange(105.0)
    options: Any = {"precision": "bf16", "tile_size": NB}
    wanted = tw.solve(A, b, **options)
    here = rank == 1
    x, info = tw.solve(A, b, backend="mpi", return_info=True, **options)
    rooted = tw.solve(A if here else None, b if here else None, backend="mpi", root=1, gather="root", **options)
    factor = tw.cho_solve(L, b, backend="mpi", tile_size=NB)
    return [
        np.array_equal(x, wanted),
        info.bytes > 0,
        (rooted is None) != here,
        not here or np.array_equal(rooted, wanted),
        np.array_equal(factor, tw.cho_solve(L, b, tile_size=NB)),
        tw.logdet(L, backend="mpi", tile_size=NB) > 0,
    ]


def general_systems() -> Any:
    a, b = np.random.default_rng(0).standard_normal((40, 40)), np.ones((40, 2))
    wanted, here = tw.lu_factor(a, tile_size=9, update="tile", backend="serial"), rank == 1
    factor = tw.lu_factor(a, tile_size=9, backend="mpi")
    rooted = tw.lu_factor(a if here else None, tile_size=9, backend="mpi", root=1, gather="root")
    x = tw.solve(a if here else None, b if here else None, assume_a="gen", tile_size=9, backend="mpi", root=1)
    return [
        np.array_equal(factor.lu, wanted.lu), np.array_equal(factor.piv, wanted.piv), factor.norms == wanted.norms,
        np.array_equal(factor.solve(b), wanted.solve(b)), factor.det() == wanted.det(), (rooted is None) != here,
        not here or np.array_equal(rooted.lu, wanted.lu), np.allclose(a @ x, b),
        np.array_equal(tw.inv(a, tile_size=9, backend="mpi"), wanted.inv()),
    ]  # fmt: skip


def _same(found: Any, wanted: Any) -> bool:
    return all(np.array_equal(one, other) for one, other in zip(found, wanted, strict=True))


def orthogonal_factors() -> Any:
    """QR, least squares, eigenvalues, singular values: on data of every rank, and of one for one."""
    rng, here = np.random.default_rng(0), rank == 1
    a, b = rng.standard_normal((40, 17)), rng.standard_normal((40, 2))
    s = a[:17] + a[:17].T
    where: Any = {"backend": "mpi", "root": 1, "gather": "root"}
    calls: list[tuple[Callable[..., Any], list[Any], dict[str, Any]]] = [
        (tw.qr, [a], {"mode": "economic", "tree": "greedy", "tile_size": 6}),
        (tw.qr, [a], {"mode": "economic", "tree": "cholesky"}),
        (tw.qr, [a[:, :1] + 1e-12 * a], {"mode": "economic", "tree": "cholesky"}),
        (tw.lstsq, [a, b], {"tree": "greedy", "tile_size": 6}),
        (tw.eigh, [s], {"tile_size": 6, "band": 3}),
        (tw.eigh, [s], {}),
        (tw.svd, [a, False], {"tile_size": 6}),
        (tw.polar, [s], {"tile_size": 6}),
    ]
    seen = []
    for function, arguments, how in calls:
        found = function(*arguments, **how, backend="mpi")
        if how.get("tree") == "cholesky":  # row blocks, and so bits, follow from the ranks
            q, r = found
            seen.append(bool(np.allclose(q.T @ q, np.eye(17), atol=1e-14) and np.allclose(q @ r, arguments[0])))
            continue
        wanted = function(*arguments, **how, backend="serial")
        matrices = [value if here or isinstance(value, bool) else None for value in arguments]
        rooted = function(*matrices, **how, **where)
        seen.append(
            _same(found, wanted) and (_same(rooted, wanted) if here else not any(x is not None for x in rooted))
        )
    return seen


def not_positive_definite() -> Any:
    a = A.copy()
    a[70, 70] = -1
    try:
        call(a)
    except tw.NotPositiveDefiniteError as error:
        return [error.order, str(error)]
    return None


def only_one_rank_has_a_bad_matrix() -> Any:
    a = A.copy()
    if rank == 1:
        a[30, 25] = np.nan
    return raised(lambda: call(a, grid=(1, 3)))


def different_tile_size() -> Any:
    return raised(lambda: call(tile_size=NB + (rank == 2)))


def different_shape() -> Any:
    return raised(lambda: call(A[: 105 - rank, : 105 - rank]))


def different_dtype() -> Any:
    return raised(lambda: call(A.astype("f4") if rank == 1 else A))


def different_order() -> Any:
    return raised(lambda: call(np.asfortranarray(A) if rank == 1 else A))


def different_grid() -> Any:
    return raised(lambda: call(grid=(1, 3) if rank else (3, 1)))


def different_gather() -> Any:
    return raised(lambda: call(gather="all" if rank else "none"))


def _graph(longer: bool) -> tw.TaskGraph:
    g = tw.TaskGraph("longer" if longer else "short")
    for i in range(1 + longer):
        g.insert(potrf, tw.RW(g.handles("A")[i, i]))
    return g


def different_graph() -> Any:
    return raised(lambda: tw.run(_graph(rank == 2), {"A": tw.TiledMatrix.from_numpy(A, NB)}, backend="mpi"))


def unknown_option_on_one_rank() -> Any:
    return raised(lambda: call(**({"colour": 1} if rank == 0 else {})))


def pool_inside_mpiexec() -> Any:
    return raised(lambda: tw.mpi.Pool(2))


def dense_operator() -> Any:
    found = []
    x = np.arange(105.0)
    for grid in [(3, 1), (1, 3)]:
        for overlap in (False, True):
            options: dict[str, Any] = {"layout": "grid", "grid": grid, "overlap": overlap}
            op = tw.DenseOperator(A, backend="mpi", **options)
            serial = tw.DenseOperator(A, backend="serial", **options)
            found.append(np.array_equal(op @ x, serial @ x) and np.array_equal(op.T @ x, serial.T @ x))
            found.append(op.power_iteration(5)[0] == serial.power_iteration(5)[0])
    return found


def dense_operator_on_too_many_ranks() -> Any:
    return raised(lambda: tw.DenseOperator(A, ranks=4, backend="mpi"))


def collectives() -> Any:
    found = []
    for operation in ("broadcast", "reduce", "scatter", "gather", "allgather", "reduce_scatter", "allreduce"):
        graph = getattr(tw.comm, operation)(3, 10)
        runs = [tw.run(graph, {"x": [np.arange(10.0) + r for r in range(3)]}, backend=b) for b in ("mpi", "serial")]
        found.append(all(np.array_equal(*(run[tw.Handle("x", (r,))] for run in runs)) for r in range(3)))
    return found


def halve(x: np.ndarray, y: np.ndarray, small: np.ndarray) -> None:
    y[:] = x / 2
    small[:] = y.max() <= 1


def prepared_loops() -> Any:
    g = tw.TaskGraph("halves")
    x, y, small = (g.handles(name) for name in ("x", "y", "small"))
    for r in range(3):
        g.insert(halve, tw.R(x[r]), tw.W(y[r]), tw.W(small[r]))
    data = {"x": [np.full(2, 8.0 * 2**r) for r in range(3)], "y": [np.zeros(2)] * 3, "small": [np.zeros(1)] * 3}
    data = {name: [array.copy() for array in arrays] for name, arrays in data.items()}
    options: dict[str, Any] = {"backend": "mpi", "workers": 3, "owner": lambda r: r}
    step = tw.prepare(g, data, inputs=["x"], carry={y[r]: x[r] for r in range(3)}, **options)
    count = step.repeat(50, until=small[2])
    values = [float(step.outputs[y[r]][1]) for r in range(3)]
    again = step.repeat(2), float(step.outputs[y[0]][0])
    return [count, values, again, raised(lambda: step.repeat(-1)), raised(lambda: tw.prepare(g, {}, **options))[:1]]


def wrong_values() -> Any:
    wrong: list[dict[str, Any]] = [{"root": 3}, {"gather": "some"}, {"workers": 4}, {"grid": 3}]
    return [raised(partial(call, **options))[:1] for options in wrong]


def goes_on_from_a_checkpoint() -> Any:
    run = Path(sys.argv[1], "run")
    found = []
    for root in (None, 1):
        a = A if root in (None, rank) else None
        for resume in (False, True):
            L_found, record = call(a, checkpoint=run, resume=resume, root=root, return_run=True)
            found += [np.array_equal(L_found, L), [note for note in record.notes if "were in" in note] == []]
            comm.barrier()
            if rank == 0:
                parts = sorted(run.glob("part-*.bin"), key=lambda path: path.stat().st_mtime_ns)
                for path in parts[len(parts) // 2 :]:
                    path.unlink()
            comm.barrier()
        if rank == 0:
            shutil.rmtree(run)
        comm.barrier()
    return found


def checkpoints_that_do_not_fit() -> Any:
    run = Path(sys.argv[1], "other")
    call(checkpoint=run)
    comm.barrier()
    found = [
        raised(lambda: call(checkpoint=run))[0],
        raised(lambda: call(checkpoint=run, resume=True, tile_size=15))[0],
    ]
    if rank == 1:
        A[25, 25] += 1
    found.append(raised(lambda: call(checkpoint=run, resume=True))[0])
    if rank == 1:
        A[25, 25] -= 1
    return [*found, raised(lambda: call(memory="10kB"))[0], raised(lambda: call(memory="10MB"))]


def larger_than_memory() -> Any:
    """From one file to another that all ranks see; what is refused is refused by all, and nothing is left of it."""
    folder = Path(sys.argv[1])
    a, out = folder / "a.npy", folder / "L.npy"
    if rank == 0:
        np.save(a, A)
    comm.barrier()
    how: dict[str, Any] = {"tile_size": NB, "backend": "mpi"}
    found = [np.array_equal(tw.tiled_cholesky(a, out=out, **how), L)]
    found.append(raised(lambda: tw.tiled_cholesky(a, out=out, **how))[0] == "FileExistsError")
    found.append(raised(lambda: tw.tiled_cholesky(a, out=folder / "M.npy", memory="1kB", **how))[0] == "MemoryError")
    factor = tw.lu_factor(a, out=folder / "F.npy", checkpoint=folder / "kept", **how)
    found.append(np.array_equal(factor.lu, tw.lu_factor(A, tile_size=NB, update="tile").lu))
    Q, R = tw.qr(a, **how)
    q, r = tw.qr(A, mode="economic", tree="panel", tile_size=NB)
    found.append(np.array_equal(Q, q) and np.array_equal(R, r))
    comm.barrier()
    there = {path.name for path in folder.iterdir()}
    return [*found, {"a.npy", "L.npy", "F.npy", "kept"} <= there and not any(".part" in name for name in there)]


def still_works_after_all_that() -> Any:
    return np.array_equal(call(), L)


CHECKS = [
    value
    for name, value in list(globals().items())
    if callable(value)
    and getattr(value, "__module__", "") == "__main__"
    and not name.startswith("_")
    and name not in ("call", "raised", "add", "ten_times", "halve", "each_for_itself", "nobody_unrolls")
]

if __name__ == "__main__":
    with Path(sys.argv[1], f"{rank}.jsonl").open("w") as file:
        for check in CHECKS:
            try:
                seen = check()
            except BaseException as error:
                seen = f"{type(error).__name__}: {error} {getattr(error, '__notes__', [])}"
            print(json.dumps([check.__name__, seen], default=bool), file=file, flush=True)
