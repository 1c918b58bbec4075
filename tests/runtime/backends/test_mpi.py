"""The MPI engine, from an ordinary process and on the ranks of mpiexec."""

from __future__ import annotations

import _thread
import gc
import importlib.util
import json
import multiprocessing
import multiprocessing.shared_memory
import os
import re
import signal
import subprocess
import sys
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tilewright as tw
from tilewright.backends.mpi import launcher
from tilewright.backends.mpi import pool as pools
from tilewright.backends.mpi.deaths import Deaths
from tilewright.graph import Layout
from tilewright.ops import copy
from tilewright.plot.live import LivePage

pytestmark = [pytest.mark.timeout(60), pytest.mark.long, pytest.mark.usefixtures("no_kept_cluster")]

HERE = Path(__file__).parent
UNIT = {"f": 2.0**-24, "F": 2.0**-24, "d": 2.0**-53, "D": 2.0**-53}


def positive_definite(n: int, dtype: Any = np.float64, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    a = rng.standard_normal((n, n))
    if np.dtype(dtype).kind == "c":
        a = a + 1j * rng.standard_normal((n, n))
    return np.ascontiguousarray((a @ a.conj().T + n * np.eye(n)).astype(dtype))


@pytest.fixture(scope="module", autouse=True)
def ops() -> Iterator[Any]:
    """`mpi_ops`, importable here and on ranks, which take over ``sys.path``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(HERE)
        import mpi_ops

        yield mpi_ops


@pytest.fixture(scope="module")
def pool() -> Iterator[tw.mpi.Pool]:
    three = tw.mpi.Pool(3)
    yield three
    assert not three.closed, "a test broke the pool that it shares"
    three.close()


def grids(ranks: int) -> list[tuple[int, int]]:
    return [(P, ranks // P) for P in range(1, ranks + 1) if ranks % P == 0]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Poll until it is so; the test's timeout is the limit that counts."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def sockets() -> list[str]:
    """Sockets of pools of this process on which somebody listens."""
    lines = Path("/proc/net/unix").read_text().splitlines()
    listening = "00010000"  # the column of flags: SO_ACCEPTCON
    return [line for line in lines if f"@tilewright-{os.getpid()}-" in line and line.split()[3] == listening]


def shm(pids: list[int]) -> set[str]:
    """Files of shared memory that belong to ranks, wherever MPI puts them; also those that have no name any more."""
    found = set()
    for pid in pids:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            if "/dev/shm/" in line:
                found.add(line.partition("/dev/shm/")[2].removesuffix(" (deleted)"))
    return {f"/dev/shm/{name}" for name in found}


def left(files: set[str]) -> list[str]:
    assert files, "the ranks share memory"
    return [file for file in files if os.path.exists(file)]


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def resident(pid: int) -> int:
    """Bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


# ------------------------------------------------------------------ correct


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 6])
def test_factors_are_those_of_threads_bit_for_bit_on_all_grids(ranks: int) -> None:
    a = positive_definite(150)
    cases: list[tuple[np.ndarray, dict[str, Any]]] = [(a, {"grid": grid, "tile_size": 32}) for grid in grids(ranks)]
    if ranks == 3:
        cases += [(positive_definite(n), {"tile_size": 32}) for n in (1, 31, 32, 33, 97)]  # ragged and not
        cases += [(positive_definite(90, dtype), {"tile_size": 25}) for dtype in "fFD"]
        cases += [(a, {"tile_size": 40, "lower": False}), (np.asfortranarray(a), {"tile_size": 40})]
    cases += [(a, {"tile_size": 20, "synchronous": True, "window": 1, "grid": grid}) for grid in grids(ranks)]
    with tw.mpi.Pool(ranks) as pool:
        for matrix, options in cases:
            ours = {name: value for name, value in options.items() if name in ("tile_size", "lower")}
            expected = tw.tiled_cholesky(matrix, **ours)
            factor, run = tw.tiled_cholesky(matrix, backend="mpi", pool=pool, return_run=True, **options)
            assert factor.dtype == expected.dtype
            assert factor.flags.f_contiguous == expected.flags.f_contiguous
            np.testing.assert_array_equal(factor, expected, err_msg=f"{matrix.shape} {matrix.dtype} {options}")
            run.trace.check()


def test_parts_that_ranks_make_from_loops_give_the_same_bits_and_messages(
    pool: tw.mpi.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = positive_definite(170)
    for options in ({}, {"grid": (3, 1)}, {"owner": tw.SymmetricBlockCyclic(3)}, {"workers": 6}, {"overwrite_a": True}):
        options = {"tile_size": 20, "return_run": True, "backend": "mpi", "pool": pool, **options}
        expected, flat = tw.tiled_cholesky(a.copy(), **options)
        monkeypatch.setattr("tilewright.backends.ranks.outcome.WORTH", 0)
        factor, run = tw.tiled_cholesky(a.copy(), **options)
        monkeypatch.undo()
        np.testing.assert_array_equal(factor, expected, err_msg=str(options))
        run.trace.check()
        assert sorted(m[:4] for m in run.trace.messages) == sorted(m[:4] for m in flat.trace.messages)
    bad = a.copy()
    bad[100, 100] = -1
    monkeypatch.setattr("tilewright.backends.ranks.outcome.WORTH", 0)
    with pytest.raises(tw.NotPositiveDefiniteError, match="101"):
        tw.tiled_cholesky(bad, backend="mpi", pool=pool, tile_size=20)


def test_parts_of_lu_that_ranks_make_from_loops_give_the_same_bits_and_messages(
    pool: tw.mpi.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = np.random.default_rng(5).standard_normal((130, 170))
    for grid in ((3, 1), (1, 3)):
        options: dict[str, Any] = {"tile_size": 20, "backend": "mpi", "pool": pool, "grid": grid, "update": "tile"}
        flat = tw.lu_factor(a, **options)
        monkeypatch.setattr("tilewright.backends.ranks.outcome.WORTH", 0)
        monkeypatch.setattr("tilewright.backends.mpi.engine.by_handle", None)  # nobody asks for all owners
        local = tw.lu_factor(a, **options)
        monkeypatch.undo()
        np.testing.assert_array_equal(local.lu, flat.lu)
        np.testing.assert_array_equal(local.piv, flat.piv)
        assert local.norms == flat.norms and local.run is not None and flat.run is not None
        local.run.trace.check()
        assert sorted(m[:4] for m in local.run.trace.messages) == sorted(m[:4] for m in flat.run.trace.messages)


def test_parts_of_qr_that_ranks_make_from_loops_give_the_same_bits_and_messages(
    pool: tw.mpi.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = np.random.default_rng(6).standard_normal((170, 130))
    for grid, tree in (((3, 1), ("hierarchical", 2, "binary", "flat")), ((1, 3), "binary")):
        options: dict[str, Any] = {"tile_size": 20, "backend": "mpi", "pool": pool, "grid": grid, "tree": tree}
        flat, planned = tw.qr(a, mode="r", return_run=True, **options)
        monkeypatch.setattr("tilewright.backends.ranks.outcome.WORTH", 0)
        monkeypatch.setattr("tilewright.backends.mpi.engine.by_handle", None)  # nobody asks for all owners
        local, run = tw.qr(a, mode="r", return_run=True, **options)
        monkeypatch.undo()
        np.testing.assert_array_equal(local, flat)
        run.trace.check()
        assert sorted(m[:4] for m in run.trace.messages) == sorted(m[:4] for m in planned.trace.messages)


@pytest.mark.parametrize("dtype", ["f", "d", "F", "D"])
def test_residual_passes_the_threshold_of_lapack(pool: tw.mpi.Pool, dtype: str) -> None:
    """||A - L L^H||_1 / (n ||A||_1 u) < 30."""
    a = positive_definite(200, dtype)
    factor = tw.tiled_cholesky(a, backend="mpi", pool=pool, tile_size=48)
    wide = np.longdouble if dtype in "fd" else np.clongdouble
    exact = factor.astype(wide)
    residual = np.abs(a - exact @ exact.conj().T).sum(axis=0).max() / np.abs(a).sum(axis=0).max()
    assert residual / (len(a) * UNIT[dtype]) < 30


@pytest.mark.parametrize("owner", [tw.SymmetricBlockCyclic(3), tw.RowBlocks(3, 6), lambda i, j: (i * j) % 3, 1])
def test_any_distribution_gives_the_same_bits(pool: tw.mpi.Pool, owner: Any) -> None:
    a = positive_definite(170)
    factor = tw.tiled_cholesky(a, backend="mpi", pool=pool, owner=owner, tile_size=30)
    np.testing.assert_array_equal(factor, tw.tiled_cholesky(a, tile_size=30))


@pytest.mark.parametrize("scheduler", sorted(tw.SCHEDULERS))
def test_any_policy_gives_the_same_bits(pool: tw.mpi.Pool, scheduler: str) -> None:
    a = positive_definite(170)
    factor = tw.tiled_cholesky(a, backend="mpi", pool=pool, scheduler=scheduler, workers=6, tile_size=30)
    np.testing.assert_array_equal(factor, tw.tiled_cholesky(a, tile_size=30))


@pytest.mark.parametrize("packed", [True, False])
def test_in_place_and_tiled_matrices_work(pool: tw.mpi.Pool, packed: bool) -> None:
    a = positive_definite(100)
    expected = tw.tiled_cholesky(a, tile_size=30)
    tiles = tw.TiledMatrix.from_numpy(a, 30) if packed else tw.TiledMatrix.view(a.copy(), 30)
    factor = tw.tiled_cholesky(tiles, backend="mpi", pool=pool, overwrite_a=True)
    assert factor is tiles
    np.testing.assert_array_equal(tiles.to_numpy(), expected)
    b = a.copy()
    assert tw.tiled_cholesky(b, backend="mpi", pool=pool, overwrite_a=True, tile_size=30) is b
    np.testing.assert_array_equal(b, expected)


def test_more_ranks_than_tiles_leaves_some_idle(pool: tw.mpi.Pool) -> None:
    a = positive_definite(20)
    np.testing.assert_array_equal(tw.tiled_cholesky(a, backend="mpi", pool=pool), tw.tiled_cholesky(a))


# ------------------------------------------------------------------ the trace


@pytest.mark.parametrize(("grid", "messages"), [((1, 2), 28), ((2, 1), 28)])
def test_a_run_reports_the_messages_of_the_plan(grid: tuple[int, int], messages: int) -> None:
    a = positive_definite(160)
    with tw.mpi.Pool(2):
        _, run = tw.tiled_cholesky(a, backend="mpi", grid=grid, tile_size=20, return_run=True)
    assert run.messages == messages
    assert run.bytes == messages * 20 * 20 * 8
    assert run.workers == 2
    for message in run.trace.messages:
        writer = next(record for record in run.trace if record.task == message.writer)
        assert writer.rank == message.source
        assert writer.end <= message.start <= message.end
    events = run.trace.to_perfetto()["traceEvents"]
    assert sum(event.get("cat") == "message" and event["ph"] == "s" for event in events) == messages
    assert f"{messages} on 2 ranks" in str(run)


def test_other_engines_report_no_messages() -> None:
    _, run = tw.tiled_cholesky(positive_definite(30), return_run=True)
    assert (run.messages, run.bytes) == (0, 0)


# ------------------------------------------------------------------ any graph


def test_functions_change_arrays_in_place_across_ranks(pool: tw.mpi.Pool, ops: Any) -> None:
    g = tw.TaskGraph()
    x = g.handles("x")
    for r in range(1, 7):
        g.insert(ops.axpy, tw.R(x[r - 1]), tw.RW(x[r]), 2.0)
    data = [np.ones(3) for _ in range(7)]
    run = tw.run(g, {"x": data}, backend="mpi", pool=pool, owner=lambda i: i % 3)
    assert [array[0] for array in data] == [1, 3, 7, 15, 31, 63, 127]
    assert run.messages == 6


def test_functions_return_new_values_of_any_type(pool: tw.mpi.Pool, ops: Any) -> None:
    g = tw.TaskGraph()
    a, b, d = map(g.handle, "abd")
    g.insert(ops.swap, tw.RW(a), tw.RW(b), on=1)
    g.insert(ops.describe, tw.R(a), on=2)
    g.insert(ops.grow, tw.RW(d), on=2)
    g.insert(ops.grow, tw.RW(d), on=0)
    given = np.zeros(2)
    run = tw.run(g, {"a": "left", "b": {"right": 1}, "d": given}, backend="mpi", pool=pool)
    assert (run["a"], run["b"]) == ({"right": 1}, "left")
    assert run["d"].shape == (4,)
    assert given.shape == (2,)


def test_a_task_runs_on_the_rank_it_names(pool: tw.mpi.Pool, ops: Any) -> None:
    g = tw.TaskGraph()
    for r in (2, 0, 1):
        g.insert(ops.pid, on=r)
    run = tw.run(g, {}, backend="mpi", pool=pool)
    assert [record.rank for record in sorted(run.trace, key=lambda record: record.task)] == [2, 0, 1]


class Own:
    """A class of a script: no rank can import it."""

    __module__ = "__main__"

    def __init__(self, number: int) -> None:
        self.number = number


class Odd(Exception):
    __module__ = "__main__"


@pytest.mark.parametrize("in_place", [False, True])
def test_who_writes_without_reading_disturbs_nobody_elsewhere(pool: tw.mpi.Pool, ops: Any, in_place: bool) -> None:
    def op(function: Any) -> Any:
        return tw.Op(function.__name__, function, in_place=True) if in_place else function

    g = tw.TaskGraph()
    x, y, z = (g.handle(name) for name in "xyz")
    g.insert(op(ops.read_slowly), tw.R(x), tw.W(z), 0.2, on=0)
    g.insert(op(ops.write), tw.W(x), 7, 0, on=1)  # after that read
    g.insert(op(ops.write), tw.W(y), 8, 0.2, on=1)
    g.insert(op(ops.write), tw.W(x), 5, 0, on=2)  # after a write
    g.insert(op(ops.write), tw.W(y), 6, 0, on=0)
    data = {name: np.ones(3) for name in "xyz"}
    run = tw.run(g, data, backend="mpi", pool=pool, owner=0)
    assert [data[name].tolist() for name in "xyz"] == [[5] * 3, [6] * 3, [1] * 3]
    run.trace.check()


def test_functions_and_classes_that_no_rank_can_import_travel_as_code(pool: tw.mpi.Pool) -> None:
    step = 10

    def local(x: Any) -> None:
        x += step

    class LastFirst:
        def prepare(self, graph: Any, machine: Any) -> None:
            self.tasks: list[Any] = []

        def push(self, task: Any, worker: Any = None) -> None:
            self.tasks.append(task)

        def pop(self, worker: int) -> Any:
            return self.tasks.pop() if self.tasks else None

    g = tw.TaskGraph()
    x, own = g.handle("x"), g.handle("own")
    g.insert(local, tw.RW(x), on=1)
    g.insert(lambda own: Own(own.number + 1), tw.RW(own), on=0)
    g.insert(lambda own, x: x.__iadd__(own.number), tw.R(own), tw.RW(x), on=1)
    run = tw.run(g, {"x": np.zeros(1), "own": Own(1)}, backend="mpi", pool=pool, scheduler=LastFirst())
    assert run["x"] == 12 and type(run["own"]) is Own and run["own"].number == 2


def test_without_cloudpickle_one_sentence_says_what_to_do(pool: tw.mpi.Pool, monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "cloudpickle", None)
    g = tw.TaskGraph()
    g.insert(lambda x: None, tw.R(g.handle("x")))
    with pytest.raises(TypeError, match=r"cannot send .*<lambda> .* to its ranks: .* or install cloudpickle"):
        tw.run(g, {"x": 1}, backend="mpi", pool=pool)


def test_a_fork_starts_ranks_of_its_own(pool: tw.mpi.Pool) -> None:
    g = tw.TaskGraph()
    g.insert(lambda x: None, tw.RW(g.handle("x")))
    kept = pools.default(1)
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Python, that there are threads
        child = os.fork()
    if child == 0:
        try:
            mine = pools.default(1)
            refused = ""
            try:
                tw.run(g, {"x": np.zeros(1)}, backend="mpi", pool=pool)
            except RuntimeError as error:
                refused = str(error)
            tw.run(g, {"x": np.zeros(1)}, backend="mpi", pool=mine)
            mine.close()
            os.write(writer, f"{mine.pids != kept.pids} {refused}".encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    told = os.read(reader, 1000).decode()
    os.close(reader)
    os.close(writer)
    assert told.startswith("True Pool(3) belongs to process") and "make another with tw.mpi.Pool(3)" in told
    tw.run(g, {"x": np.zeros(1)}, backend="mpi", pool=pool)


def test_an_exception_shows_the_line_of_the_function_on_the_rank(pool: tw.mpi.Pool) -> None:
    def fails(x: Any) -> None:
        raise Odd("this line")

    g = tw.TaskGraph()
    g.insert(fails, tw.RW(g.handle("x")))
    with pytest.raises(Odd, match="this line") as caught:
        tw.run(g, {"x": np.zeros(1)}, backend="mpi", pool=pool)
    assert 'raise Odd("this line")' in str(caught.value.__cause__)
    assert "in task fails(x)" in caught.value.__notes__[0]


def test_a_value_that_cannot_travel_is_an_error_on_the_way_and_at_the_end(pool: tw.mpi.Pool, ops: Any) -> None:
    for last in (0, 1):
        g = tw.TaskGraph()
        x = g.handle("x")
        g.insert(ops.unpicklable, tw.RW(x), on=0)
        if last:
            g.insert(ops.describe, tw.R(x), on=1)
        with pytest.raises(Exception, match="pickle"):
            tw.run(g, {"x": 1}, backend="mpi", pool=pool)


# ------------------------------------------------------------------ 16-bit tiles


def ring(op: Any, length: int = 4) -> tw.TaskGraph:
    """x[0] goes to x[1], x[1] to x[2] and so on."""
    g = tw.TaskGraph()
    x = g.handles("x")
    for i in range(1, length):
        g.insert(op, tw.R(x[i - 1]), tw.W(x[i]))
    return g


def random_bits(shape: tuple[int, ...]) -> np.ndarray:
    """Every kind of 16-bit number, NaNs with payload too."""
    return np.random.default_rng(5).integers(0, 1 << 16, shape, dtype=np.uint16)


def test_ranks_send_the_messages_that_the_simulator_predicts(pool: tw.mpi.Pool) -> None:
    graph, owner = tw.cholesky_graph(6), tw.BlockCyclic(1, 3)
    data = {"A": tw.TiledMatrix.from_numpy(positive_definite(55), 10)}
    predicted = tw.simulate(graph, tw.Machine(ranks=3, alpha=1.0), owner=owner, data=data)
    run = tw.run(graph, data, backend="mpi", pool=pool, owner=owner)
    sent, said = (
        sorted((m.source, m.destination, m.handle, m.writer, m.nbytes) for m in r.trace.messages)
        for r in (run, predicted)
    )
    assert sent == said and len(sent) > 20


@pytest.mark.parametrize("dtype", ["float16", "uint16"])
@pytest.mark.parametrize("strided", [False, True])
def test_sixteen_bit_tiles_travel_bit_for_bit_in_half_the_bytes(pool: tw.mpi.Pool, dtype: str, strided: bool) -> None:
    bits = random_bits((30, 40))
    whole = np.zeros((4, 30, 70), dtype)
    tiles = [w[:, :40] if strided else np.zeros((30, 40), dtype) for w in whole]
    tiles[0].view(np.uint16)[...] = bits
    graph = ring(copy)
    run = tw.run(graph, {"x": tiles}, backend="mpi", pool=pool, owner=lambda i: i % 3)
    for tile in tiles:
        np.testing.assert_array_equal(tile.view(np.uint16), bits)
    plan = tw.MessagePlan(graph, 3, lambda i: i % 3)
    assert run.bytes == sum(plan.sent(lambda handle: tiles[0].nbytes)) == 3 * bits.size * 2


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "complex64"])
def test_tensors_are_tiles_bit_for_bit(pool: tw.mpi.Pool, ops: Any, dtype: str) -> None:
    import torch

    kind = getattr(torch, dtype)
    source = torch.from_numpy(random_bits((24, 64)).view(np.int16)).view(kind)
    tiles = [source.clone() if i == 0 else torch.zeros(80, source.shape[1], dtype=kind)[:24] for i in range(4)]
    run = tw.run(ring(ops.assign), {"x": tiles}, backend="mpi", pool=pool, owner=lambda i: i % 3)
    for i, tile in enumerate(tiles):
        assert run[tw.Handle("x", (i,))] is tile
        assert tile.dtype == kind
        assert torch.equal(tile.view(torch.int16), source.view(torch.int16))
    first, *later = sorted(run.trace.messages, key=lambda message: message.handle.index)
    assert first.nbytes == 24 * 64 * 2  # data of the run goes as it is
    assert all(first.nbytes < m.nbytes < first.nbytes + 500 for m in later)  # values of functions with a label


def test_a_tensor_that_a_function_returns_is_the_new_value(pool: tw.mpi.Pool, ops: Any) -> None:
    import torch

    g = tw.TaskGraph()
    x, y = g.handle("x"), g.handle("y")
    g.insert(ops.plus, tw.R(x), tw.RW(y), on=1)
    given = torch.arange(6, dtype=torch.bfloat16).reshape(2, 3)[:, 1:]
    run = tw.run(g, {"x": given, "y": torch.ones(2, 2, dtype=torch.bfloat16)}, backend="mpi", pool=pool)
    assert run["y"].dtype == torch.bfloat16
    assert run["y"].tolist() == [[2, 3], [5, 6]]


# ------------------------------------------------------------------ when things go wrong


@pytest.mark.parametrize("bad", [0, 77, 149])
def test_not_positive_definite_is_the_exception_of_threads(pool: tw.mpi.Pool, bad: int) -> None:
    a = positive_definite(150)
    a[bad, bad] = -1.0
    with pytest.raises(tw.NotPositiveDefiniteError) as here:
        tw.tiled_cholesky(a, tile_size=32)
    with pytest.raises(tw.NotPositiveDefiniteError) as there:
        tw.tiled_cholesky(a, tile_size=32, backend="mpi", pool=pool)
    assert there.value.order == here.value.order == bad + 1
    assert str(there.value) == str(here.value)
    assert "backend=mpi, worker=0, rank=" in there.value.__notes__[0]


def test_a_failing_function_is_raised_in_the_caller_and_later_tasks_never_run(pool: tw.mpi.Pool, ops: Any) -> None:
    g = tw.TaskGraph()
    x, y = g.handle("x"), g.handle("y")
    g.insert(ops.axpy, tw.R(x), tw.RW(y), 1.0, on=0)
    g.insert(ops.fail, tw.RW(y), on=1)
    g.insert(ops.sleep, tw.RW(y), 1000, on=2)
    g.insert(ops.axpy, tw.R(y), tw.RW(x), 1.0, on=0)
    x_data, y_data = np.ones(2), np.ones(2)
    with pytest.raises(ZeroDivisionError, match="on purpose") as caught:
        tw.run(g, {"x": x_data, "y": y_data}, backend="mpi", pool=pool)
    assert caught.value.__notes__ == ["in task fail(y) (number 1), writing y; backend=mpi, worker=0, rank=1"]
    assert x_data[0] == 1


def test_a_policy_that_keeps_tasks_back_is_an_error_not_a_hang(pool: tw.mpi.Pool, ops: Any) -> None:
    with pytest.raises(tw.SchedulerError, match="Keeper gives no task"):
        tw.tiled_cholesky(positive_definite(90), tile_size=30, backend="mpi", pool=pool, scheduler=ops.Keeper())


def test_a_killed_rank_is_named_and_leaves_nothing_behind(ops: Any, tmp_path: Path) -> None:
    pool = tw.mpi.Pool(3)
    pids = pool.pids[:]
    files = shm(pids)
    flag = tmp_path / "running"

    def kill() -> None:
        wait_until(flag.exists, "the run began")
        os.kill(pids[1], 9)

    g = tw.TaskGraph()
    g.insert(ops.wait_then_sleep, str(flag), 1000.0, on=0)
    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(tw.RankDied, match="rank 1 died: process") as caught:
        tw.run(g, {}, backend="mpi", pool=pool)
    killer.join()
    assert caught.value.rank == 1
    assert pool.closed
    wait_until(lambda: not any(map(alive, pids)), "the other ranks ended")
    assert left(files) == []
    assert sockets() == []
    with pytest.raises(RuntimeError, match="this pool is closed"):
        tw.run(g, {}, backend="mpi", pool=pool)


def test_a_rank_that_dies_between_calls_is_noticed_at_the_next_and_the_kept_pool_replaced() -> None:
    a = positive_definite(40)
    expected = tw.tiled_cholesky(a, backend="mpi", workers=2, tile_size=20)
    pool = pools.default(2)
    pids = pool.pids[:]
    os.kill(pids[0], 9)
    wait_until(lambda: not alive(pids[0]), "the rank ended")
    with pytest.raises(tw.RankDied, match="rank 0 died"):
        tw.tiled_cholesky(a, backend="mpi", workers=2, tile_size=20)
    np.testing.assert_array_equal(tw.tiled_cholesky(a, backend="mpi", workers=2, tile_size=20), expected)
    assert pools.default(2) is not pool
    assert not any(map(alive, pids))
    pools.default(2).close()


class Slow(tw.schedulers.Eager):
    """So that there is time to die."""

    def pop(self, worker: int) -> tw.Task | None:
        time.sleep(0.002)
        return super().pop(worker)


def kills(folder: Path, parts: int, pids: Callable[[], list[int]]) -> threading.Thread:
    """Ends a rank when so many parts are in a folder."""

    def kill() -> None:
        wait_until(lambda: len(list(folder.glob("part-*.bin"))) >= parts, f"{parts} parts are there")
        os.kill(pids()[1], signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    return thread


def test_a_rank_that_is_killed_leaves_a_checkpoint_and_the_call_begins_again_itself(tmp_path: Path) -> None:
    a = positive_definite(240)
    how = {"backend": "mpi", "workers": 2, "tile_size": 30, "scheduler": Slow()}
    folder = tmp_path / "run"
    expected = tw.tiled_cholesky(a, tile_size=30)
    pids = pools.default(2).pids[:]
    thread = kills(folder, 4, lambda: pids)
    with pytest.raises(tw.RankDied, match="rank 1 died") as caught:
        tw.tiled_cholesky(a, checkpoint=folder, **how)
    thread.join()
    assert any(f"of 8 block columns are finished and stay in {folder}" in note for note in caught.value.__notes__)
    pids = pools.default(2).pids[:]
    thread = kills(folder, 7, lambda: pids)  # of the one that goes on
    again = {"return_run": True, "resume": True, "restart": 1, "memory": "1GB"}
    found, run = tw.tiled_cholesky(a, checkpoint=folder, **how, **again)
    thread.join()
    np.testing.assert_array_equal(found, expected)
    assert "begun again 1 times on other processes" in run.notes and pools.default(2).pids != pids
    assert any("of 8 block columns were in" in note for note in run.notes)
    assert run.planned > 0 and run.measured is not None and "planned" in str(run)
    folder = tmp_path / "other"
    pool = tw.mpi.Pool(2)  # that of a caller gives way to one that is kept
    mine = [pool.pids[:]]
    thread = kills(folder, 1, mine.pop)
    np.save(tmp_path / "a.npy", a)
    files = {"a": tmp_path / "a.npy", "out": tmp_path / "F.npy"}  # out of core
    found = tw.lu_factor(**files, checkpoint=folder, pool=pool, restart=3, **{**how, "workers": None})
    thread.join()
    np.testing.assert_array_equal(found.lu, tw.lu_factor(a, tile_size=30, update="tile").lu)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["F.npy", "a.npy", "other", "run"]
    assert pool.closed


def test_a_call_begins_again_as_often_as_it_was_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(self: Any, *args: Any) -> None:
        begun.append(self)
        raise tw.RankDied(1, "as the test wants it")

    begun: list[Any] = []
    monkeypatch.setattr(pools.Pool, "run", die)
    with pytest.raises(tw.RankDied, match="as the test wants it") as caught:
        tw.qr(positive_definite(40), backend="mpi", workers=2, checkpoint=tmp_path / "run", restart=3)
    assert len(begun) == 4
    assert caught.value.__notes__ == [
        "the run had begun again 3 times, as restart=3 says",
        f"no block column was finished yet in {tmp_path / 'run'}",
    ]


@pytest.mark.parametrize("call", [tw.tiled_cholesky, tw.lu_factor, tw.qr])
def test_memory_is_a_limit_of_each_rank(call: Callable[..., Any]) -> None:
    a = positive_definite(80)
    how = {"backend": "mpi", "workers": 2, "tile_size": 20}
    with pytest.raises(MemoryError, match=rf"{call.__name__} takes .* KiB on rank [01], more than memory=19.53 KiB"):
        call(a, memory="20kB", **how)
    *_, run = call(a, memory="20MB", return_run=True, **how)
    tile = 20 * 20 * 8
    assert 5 * tile < run.planned < 100 * tile


def threads_of(pid: int) -> int:
    """How many there are, the dead first one counted: files are closed with the last, which may be another."""
    try:
        return len(os.listdir(f"/proc/{pid}/task"))
    except OSError:
        return 0


@pytest.mark.parametrize(
    ("order", "ending", "how"), [((1, 0, 2), signal.SIGKILL, "by SIGKILL"), ((2, 0, 1), signal.SIGTERM, "by SIGTERM")]
)
def test_of_ranks_that_are_all_gone_when_somebody_looks_the_one_that_ended_first_is_named(order, ending, how) -> None:
    pool = tw.mpi.Pool(3)
    pids = pool.pids[:]
    for rank, number in zip(order, (ending, signal.SIGKILL, signal.SIGKILL), strict=True):
        os.kill(pids[rank], number)
        wait_until(lambda pid=pids[rank]: not alive(pid) and threads_of(pid) <= 1, "it ended, with all its threads")
    with pytest.raises(tw.RankDied, match=f"rank {order[0]} died: process {pids[order[0]]} ended") as caught:
        tw.tiled_cholesky(positive_definite(40), backend="mpi", pool=pool, tile_size=20)
    assert caught.value.rank == order[0]
    said = str(caught.value)
    assert how in said or "ended;" in said  # older kernels do not tell how a process ended that is not ours
    assert pool.closed


def test_the_way_a_rank_ended_is_told_as_far_as_it_is_known() -> None:
    children = [
        subprocess.Popen([sys.executable, "-c", f"import os; {code}"], stdin=subprocess.PIPE)
        for code in ("os._exit(3)", "os.kill(os.getpid(), 11)", "input()")
    ]
    watched = Deaths()
    pipes = [multiprocessing.Pipe() for _ in children]
    for rank, child in enumerate(children):
        watched.watch(rank, pipes[rank][0], child.pid)
    for child in children[:2]:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # as launchers that have not looked yet
    assert watched.first() is None
    assert [watched.how(rank) for rank in range(3)] == [" with exit status 3", " by SIGSEGV", ""]
    for rank in (2, 0):
        pipes[rank][1].close()
    assert watched.first() == 2
    watched.close()
    watched.close()
    assert watched.first() is None
    for child, pipe in zip(children, pipes, strict=True):
        child.communicate()
        for end in pipe:
            end.close()


def test_ctrl_c_ends_the_run_and_the_pool(ops: Any, tmp_path: Path) -> None:
    pool = tw.mpi.Pool(2)
    pids = pool.pids[:]
    flag = tmp_path / "running"
    g = tw.TaskGraph()
    g.insert(ops.wait_then_sleep, str(flag), 1000.0, on=1)

    def interrupt() -> None:
        wait_until(flag.exists, "the run began")
        _thread.interrupt_main()
        os.kill(os.getpid(), 2)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        tw.run(g, {}, backend="mpi", pool=pool)
    assert pool.closed
    wait_until(lambda: not any(map(alive, pids)), "the ranks ended")
    assert sockets() == []


def test_ranks_end_when_their_owner_is_killed(tmp_path: Path) -> None:
    script = (
        "import sys, tilewright as tw, mpi_ops\n"
        "pool = tw.mpi.Pool(2); print(*pool.pids, flush=True)\n"
        "g = tw.TaskGraph(); g.insert(mpi_ops.wait_then_sleep, sys.argv[1], 1000.0, on=1)\n"
        "tw.run(g, {}, backend='mpi', pool=pool)\n"
    )
    flag = tmp_path / "running"
    owner = subprocess.Popen(
        [sys.executable, "-c", script, str(flag)], env={**os.environ, "PYTHONPATH": str(HERE)}, stdout=subprocess.PIPE
    )
    assert owner.stdout is not None
    with owner.stdout:
        pids = list(map(int, owner.stdout.readline().split()))
    wait_until(flag.exists, "the run began")
    assert all(map(alive, pids))
    files = shm(pids)
    owner.kill()
    owner.wait()
    wait_until(lambda: not any(map(alive, pids)), "the ranks ended")
    assert left(files) == []


def test_fifty_calls_take_no_more_memory_and_descriptors_than_ten(pool: tw.mpi.Pool) -> None:
    a = positive_definite(300)
    pids = [os.getpid(), *pool.pids]

    def call(times: int) -> list[tuple[int, int]]:
        for _ in range(times):
            tw.tiled_cholesky(a, backend="mpi", pool=pool, tile_size=60)
        return [(descriptors(pid), resident(pid)) for pid in pids]

    before, after = call(10), call(50)
    assert all(d <= e for (d, _), (e, _) in zip(after, before, strict=True))  # fewer: what earlier tests left is gone
    growth = max(r - s for (_, r), (_, s) in zip(after, before, strict=True))
    assert growth < 50 * a.nbytes / 10  # far less than a matrix a call


@pytest.mark.parametrize("kept", [True, False])
def test_graphs_and_plans_go_with_their_last_user(pool: tw.mpi.Pool, ops: Any, kept: bool) -> None:
    def build() -> tw.TaskGraph:
        return tw.cholesky_graph(6)

    def call(graph: tw.TaskGraph) -> weakref.ref[tw.TaskGraph]:
        a = tw.TiledMatrix.from_numpy(positive_definite(18), 3)
        tw.run(graph, {"A": a}, backend="mpi", pool=pool, scheduler="lws")
        return weakref.ref(graph)

    graph = build()
    gc.collect()
    gc.disable()  # nothing may hang in a cycle
    try:
        call(graph)
        before = pool.call("mpi_ops:graphs")
        refs = [call(graph if kept else build()) for _ in range(8)]
        assert pool.call("mpi_ops:graphs") == before
        assert [ref() is not None for ref in refs] == [kept] * 8
    finally:
        gc.enable()


@pytest.mark.parametrize("workers", [3, 6])
def test_a_task_that_calls_mpi_is_refused_and_one_that_calls_threads_works(
    pool: tw.mpi.Pool, ops: Any, workers: int
) -> None:
    def run(op: Any) -> np.ndarray:
        g = tw.TaskGraph()
        g.insert(op, tw.RW(g.handle("x")), on=1)
        return tw.run(g, {"x": np.eye(6)}, backend="mpi", pool=pool, workers=workers)["x"]

    with pytest.raises(RuntimeError, match="a task of a run with backend='mpi' calls with backend='mpi' again"):
        run(ops.calls_mpi)
    assert np.array_equal(run(ops.calls_threads), 2 * np.eye(6))


def test_a_prepared_graph_whose_task_calls_mpi_is_refused(pool: tw.mpi.Pool, ops: Any) -> None:
    g = tw.TaskGraph()
    x = g.handle("x")
    g.insert(ops.calls_mpi, tw.RW(x))
    g.layout = Layout(3, lambda handle: 2, lambda handle: (6, 6))
    step = tw.Resident({}, ranks=3, owner=lambda handle: 2, backend="mpi", pool=pool).prepare(
        g, inputs=[x], outputs=[x]
    )
    with pytest.raises(RuntimeError, match="a task of a run with backend='mpi' calls with backend='mpi' again"):
        step()


def test_a_page_hears_where_and_when_each_task_ran_and_what_tasks_print_is_printed_here(
    pool: tw.mpi.Pool, ops: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    g = tw.TaskGraph()
    x = g.handles("x")
    for i in range(6):
        g.insert(ops.speak, tw.RW(x[i % 3]), i)
    with LivePage() as page:
        run = tw.run(
            g,
            {x[i]: np.zeros(1) for i in range(3)},
            backend="mpi",
            pool=pool,
            owner=lambda i: i,
            workers=6,
            progress=page,
        )
        assert page.story is not None
        page.story.fold()
    assert [run[x[i]][0] for i in range(3)] == [2, 2, 2]
    told = sorted((bar[2], bar[0], bar[1]) for bar in page.story.bars)
    assert told == sorted((record.task, record.rank, record.worker) for record in run.trace)
    times = {bar[2]: tuple(bar[3:5]) for bar in page.story.bars}
    assert all(times[r.task] == pytest.approx((r.start, r.end), abs=1e-6) for r in run.trace)
    out, err = capsys.readouterr()
    told = [f"[rank {i % 3}] {line}" for i in range(6) for line in (f"task {i} here", "and there")]
    assert sorted(out.splitlines()) == sorted(told)  # ranks write when they like, whole lines
    for rank in range(3):
        assert f"[rank {rank}] half {rank}" in err
    assert all(line.startswith(("[rank ", "follow the run at ")) for line in err.splitlines())


def test_what_a_prepared_graph_prints_on_ranks_is_printed_here(
    pool: tw.mpi.Pool, ops: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    g = tw.TaskGraph()
    x = g.handles("x")
    g.insert(ops.speak, tw.RW(x[1]), 7)
    g.layout = Layout(3, lambda handle: handle.index[0], lambda handle: (1,))
    prepared = tw.prepare(g, {x[1]: np.zeros(1)}, inputs=[], outputs=[x[1]], backend="mpi", pool=pool)
    prepared()
    out, err = capsys.readouterr()
    assert out == "[rank 1] task 7 here\n[rank 1] and there\n" and err == "[rank 1] half 7\n"


def test_a_call_from_a_function_that_is_told_progress_is_refused(ops: Any) -> None:
    with tw.mpi.Pool(2):

        def told(done: int) -> None:
            tw.tiled_cholesky(np.eye(8), backend="mpi", tile_size=2)

        with pytest.raises(RuntimeError, match=r"Pool\(2\) is in the middle of a run of this thread"):
            tw.tiled_cholesky(np.eye(8), backend="mpi", tile_size=2, progress=told)


def test_a_failed_launch_leaves_no_file_and_says_what_shared_memory_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    began = time.time()
    monkeypatch.setattr("tilewright.backends.mpi.pool.START", 0.0)
    monkeypatch.setattr("tilewright.backends.mpi.leftovers._MEMORY", 1e18)
    with pytest.raises(
        tw.mpi.LaunchError, match=r"MPICH takes about .* MB of /dev/shm for each rank, .* use fewer ranks"
    ):
        tw.mpi.Pool(2)
    assert none_left_since(began)


def test_a_killed_launcher_leaves_no_file() -> None:
    began = time.time()
    pool = tw.mpi.Pool(2)
    os.kill(pool._launch.process.pid, signal.SIGKILL)
    pool.close()
    assert none_left_since(began)


def none_left_since(began: float) -> bool:
    """Whether no file of MPICH stays that was made since then; those of pools elsewhere go by themselves."""
    files = [*Path("/tmp").glob("hydra_hwloc_xmlfile_*"), *Path("/dev/shm").glob("mpich_shm_*")]
    new = [file for file in files if file.exists() and file.stat().st_mtime > began]
    deadline = time.monotonic() + 5
    while any(file.exists() for file in new) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not any(file.exists() for file in new)


def test_two_pools_in_a_row_and_none_left() -> None:
    before = descriptors(os.getpid()), threading.active_count()
    files = set()
    a = positive_definite(60)
    for ranks in (2, 3):
        with tw.mpi.Pool(ranks) as pool:
            pids = pool.pids[:]
            files |= shm(pids)
            _, run = tw.tiled_cholesky(a, backend="mpi", tile_size=20, return_run=True)
            assert run.trace.ranks == ranks
        assert pool.closed
        assert not any(map(alive, pids))
    assert (descriptors(os.getpid()), threading.active_count()) == before
    assert left(files) == []


def test_nothing_of_a_pool_shows_on_the_terminal_but_what_tasks_print(
    pool: tw.mpi.Pool, ops: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    g = tw.TaskGraph()
    g.insert(ops.talk, tw.R(g.handle("x")))
    tw.run(g, {"x": 1}, backend="mpi", pool=pool)
    with tw.mpi.Pool(1):
        pass
    assert capfd.readouterr() == ("[rank 0] heard here\n", "")


def test_without_mpi4py_one_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    there = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name.startswith("mpi4py") else there(name))
    with pytest.raises(ImportError, match=r"needs mpi4py, which is not installed; .*pip install .*\[mpi\]'"):
        tw.tiled_cholesky(np.eye(3), backend="mpi")


def test_without_mpiexec_one_sentence_says_where_it_was_sought(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(launcher.sysconfig, "get_path", lambda name: str(tmp_path))
    monkeypatch.setenv("PATH", "")
    with pytest.raises(launcher.LaunchError, match="found no mpiexec, neither in .* nor on PATH"):
        tw.mpi.Pool(2)


def test_a_launcher_that_starts_nothing_is_quoted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake = tmp_path / "mpiexec"
    fake.write_text("#!/bin/sh\necho no slots left\n")
    fake.chmod(0o755)
    monkeypatch.setenv("TILEWRIGHT_MPIEXEC", str(fake))
    with pytest.raises(launcher.LaunchError, match="mpiexec said: no slots left"):
        tw.mpi.Pool(2)
    assert sockets() == []


def test_a_launcher_of_another_mpi_is_recognised(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its ranks see themselves alone."""
    fake = tmp_path / "mpiexec"
    fake.write_text('#!/bin/sh\n[ $1 = --version ] && exit\nshift 2\n"$@" & "$@" & wait\n')
    fake.chmod(0o755)
    monkeypatch.setenv("TILEWRIGHT_MPIEXEC", str(fake))
    with pytest.raises(launcher.LaunchError, match="started 2 ranks, but rank 0 sees 1: mpiexec and the MPI"):
        tw.mpi.Pool(2)


WRONG = [
    ({"grid": (2, 2), "owner": 0}, ValueError, "grid and owner both say"),
    ({"grid": 4}, TypeError, r"grid must be two positive integers \(P, Q\), not 4"),
    ({"grid": (0, 3)}, ValueError, "grid must be two positive integers"),
    ({"grid": (2, 2)}, ValueError, r"BlockCyclic\(P=2, Q=2\) needs 4 ranks, but there are 3"),
    ({"workers": 4}, ValueError, "workers=4 is not a multiple of the 3 ranks"),
    ({"root": 0}, ValueError, "root is for calls on the ranks of mpiexec"),
    ({"colour": 1}, TypeError, "unknown option colour; backend 'mpi' has owner, grid"),
    ({"owner": lambda i, j: 9}, ValueError, r"owner of \S+ is 9, not one of the ranks 0 to 2"),
]


@pytest.mark.parametrize(("options", "kind", "message"), WRONG)
def test_wrong_options_are_refused_before_anything_runs(
    pool: tw.mpi.Pool, options: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        tw.tiled_cholesky(np.eye(3), backend="mpi", pool=pool, **options)


def test_other_backends_have_no_options() -> None:
    with pytest.raises(TypeError, match="unknown option grid; backend 'threads' has devices"):
        tw.tiled_cholesky(np.eye(3), grid=(1, 2))


@pytest.mark.parametrize(("ranks", "kind"), [(0, ValueError), (2.0, TypeError), (True, TypeError)])
def test_a_pool_needs_a_number_of_ranks(ranks: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind, match="a pool needs at least one rank|ranks must be an integer"):
        tw.mpi.Pool(ranks)


def test_neither_the_import_nor_a_pool_loads_mpi_in_this_process() -> None:
    script = (
        "import sys, numpy, tilewright as tw\n"
        "assert not [name for name in sys.modules if name.startswith(('mpi4py', 'tilewright.backends.mpi'))], 'import'\n"
        "tw.tiled_cholesky(numpy.eye(5), backend='mpi', workers=2, tile_size=2)\n"
        "assert 'mpi4py.MPI' not in sys.modules, 'call'\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=50)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# ------------------------------------------------------------------ on the ranks of mpiexec


def mpiexec(ranks: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [launcher.mpiexec(), "-n", str(ranks), sys.executable, *arguments]
    return subprocess.run(command, env=launcher.environment("mpich"), capture_output=True, text=True, timeout=50)


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """What each of three ranks saw, by check: all of mpi_spmd.py in one launch."""
    folder = tmp_path_factory.mktemp("spmd")
    done = mpiexec(3, str(HERE / "mpi_spmd.py"), str(folder))
    assert done.returncode == 0, done.stdout + done.stderr
    ranks = [dict(map(json.loads, (folder / f"{rank}.jsonl").read_text().splitlines())) for rank in range(3)]
    return {name: [rank[name] for rank in ranks] for name in ranks[0]}


LOOPS = (
    "cholesky",
    "cholesky upper",
    "cholesky by columns",
    "cholesky graph",
    "lu graph",
    "lu partial",
    "lu threshold",
    "lu none",
    "lu stays",
    "qr",
    "qr factor",
)
SAME = {
    "replicated": True,
    "all_grids": [True] * 2,
    "other_distributions": [True] * 4,
    "from_root_to_all": True,
    "fortran_order_from_root": [True, True],
    "in_place": True,
    "complex_and_single": [True] * 3,
    "any_graph": [1, 2, 3, 4, 5, 6],
    "synchronous_and_no_window": [True] * 2,
    "more_ranks_than_tiles": True,
    "workers_by_default": [True] * 3,
    "wide_matrices_of_one_rank": [True, "ValueError", True],
    "two_workers_a_rank": [True, 6],
    "functions_change_the_data_of_every_rank": [[1, 2, 3, 4, 5, 6], 6.0, [10.0, 10.0]],
    "tensor_from_root": [True, "torch.float32"],
    "parts_of_ranks_that_collect": [True] * 3,
    "zeros_are_not_sent": [True, 0, 21 * 2],
    "loops_that_nobody_unrolls": {name: [False, True, True, True, [], True] for name in LOOPS},
    "failures_of_loops": [71, "potrf(3)", False, True],
    "memory_of_loops": [True, True, "MemoryError"],
    "agreements": [1, 1, 2, 1, 1, 1, 1, 2],  # the last: after the run, whether NaN was the cause
    "rows_are_missing_on_one_rank": "ValueError",
    "sixteen_bits": [True, True],
    "solutions": [True] * 6,
    "general_systems": [True] * 9,
    "orthogonal_factors": [True] * 8,
    "wrong_values": [["ValueError"], ["ValueError"], ["ValueError"], ["TypeError"]],
    "dense_operator": [True] * 8,
    "prepared_loops": [
        5,
        [0.25, 0.5, 1.0],
        [2, 0.0625],
        ["ValueError", "times must be at least 0, not -1"],
        ["MissingDataError"],
    ],
    "dense_operator_on_too_many_ranks": ["ValueError", "ranks=4, but there are 3"],
    "collectives": [True] * 7,
    "goes_on_from_a_checkpoint": [True, True, True, False] * 2,
    "checkpoints_that_do_not_fit": ["FileExistsError", "CheckpointError", "CheckpointError", "MemoryError", []],
    "larger_than_memory": [True] * 6,
    "still_works_after_all_that": True,
}


@pytest.mark.parametrize("check", SAME)
def test_on_all_ranks(seen: dict[str, list[Any]], check: str) -> None:
    assert seen[check] == [SAME[check]] * 3


def test_the_result_is_where_gather_says(seen: dict[str, list[Any]]) -> None:
    assert seen["on_root_only"] == [None, True, None]


def test_a_distributed_matrix_stays_distributed(seen: dict[str, list[Any]]) -> None:
    """Columns of a lower triangle of 6 x 6 tiles, dealt to 3 ranks."""
    assert seen["distributed_matrix"] == [[True] * (6 + 3), [True] * (5 + 2), [True] * (4 + 1)]


def test_ranks_make_their_parts_from_loops(seen: dict[str, list[Any]]) -> None:
    assert seen["parts_from_loops"] == [[True] * (6 + 3), [True] * (5 + 2), [True] * (4 + 1)]


def test_ranks_whose_loops_differ_are_refused(seen: dict[str, list[Any]]) -> None:
    for told in seen["different_loops"]:
        nt, builder, data, threshold, size = told
        assert nt.startswith("ranks were called with different graph: 'cholesky nt=5' (35 tasks, checksum ")
        assert "'cholesky nt=6' (56 tasks, checksum " in nt and "on rank 2; give it in the call" in nt
        assert "'cholesky nt=5'" in builder and "'lu mt=5 nt=5 none'" in builder
        assert data.startswith("ranks were called with different data: A: (20, 20) float64 C (checksum ")
        assert "A: (21, 21) float64 C" in data
        first, second = re.findall(r"'lu mt=5 nt=5 threshold' \((\d+ tasks, checksum \d+)\)", threshold)
        assert first.partition(",")[0] == second.partition(",")[0] and first != second
        assert (
            size == "ranks were called with different tile_size: 20 on rank 0, 21 on rank 2; " + size.partition("; ")[2]
        )


def test_progress_of_a_graph_that_nobody_unrolls_counts_its_tasks(seen: dict[str, list[Any]]) -> None:
    assert seen["progress_of_loops"] == [[[True], False], [[], False], [[], False]]


def test_under_mpiexec_rank_0_alone_serves_a_page_which_hears_of_the_tasks_of_all_ranks(
    seen: dict[str, list[Any]],
) -> None:
    first, *others = seen["live_page"]
    assert first[:2] == [True, 1]  # one line of standard error
    assert first[2] == ["cholesky nt=6: critical-path on mpi", "done", True, True, 0] and first[3] == 3
    assert others == [["", "", [], 0]] * 2


def test_ranks_of_another_communicator_work_alone(seen: dict[str, list[Any]]) -> None:
    assert seen["own_communicator"] == [[True, 2], [True, 2], [True, 1]]


def test_all_ranks_have_the_whole_trace(seen: dict[str, list[Any]]) -> None:
    plan = tw.MessagePlan(tw.cholesky_graph(6), 3, tw.BlockCyclic(1, 3))
    size = sum(20 * 8 * (20 if m.handle.index[0] < 5 else 5) for m in plan.messages)
    assert seen["trace_is_whole_on_all_ranks"] == [[len(plan.messages), size, [0, 1, 2]]] * 3


def test_not_positive_definite_is_raised_on_all_ranks(seen: dict[str, list[Any]]) -> None:
    assert [order for order, _ in seen["not_positive_definite"]] == [71] * 3


DIFFERENT = {
    "different_tile_size": "ranks were called with different tile_size: 20 on rank 0, 21 on rank 2",
    "different_shape": "ranks were called with different shape: (105, 105) on rank 0, (104, 104) on rank 1",
    "different_dtype": "ranks were called with different dtype: float64 on rank 0, float32 on rank 1",
    "different_order": "ranks were called with different data: S: (20, 20) float64 C",
    "different_grid": "ranks were called with different owner: BlockCyclic(P=3, Q=1)",
    "different_gather": "ranks were called with different gather: none on rank 0, all on rank 1",
    "different_graph": "ranks were called with different graph: 'short' (1 tasks",
}


@pytest.mark.parametrize("check", DIFFERENT)
def test_different_arguments_are_named_on_all_ranks(seen: dict[str, list[Any]], check: str) -> None:
    for kind, text, *_ in seen[check]:
        assert kind == "ValueError"
        assert text.startswith(DIFFERENT[check])


def test_an_error_of_one_rank_before_the_run_is_raised_on_all(seen: dict[str, list[Any]]) -> None:
    assert {text for _, text, *_ in seen["only_one_rank_has_a_bad_matrix"]} == {
        "the matrix a has a NaN or infinity at (30, 25); check_finite=False skips this check"
    }
    assert ["raised on rank 1" in notes for _, _, *notes in seen["only_one_rank_has_a_bad_matrix"]] == [
        True,
        False,
        True,
    ]
    assert {kind for kind, *_ in seen["unknown_option_on_one_rank"]} == {"TypeError"}


def test_ranks_start_no_pools(seen: dict[str, list[Any]]) -> None:
    assert all("is a rank under mpiexec already" in text for _, text in seen["pool_inside_mpiexec"])


def test_an_exception_that_ends_one_rank_ends_the_job() -> None:
    script = (
        "import numpy, tilewright as tw\nfrom mpi4py import MPI\n"
        "tw.tiled_cholesky(numpy.eye(5), backend='mpi', tile_size=2)\n"
        "if MPI.COMM_WORLD.rank == 1:\n"
        "    from tilewright.backends.mpi.launcher import shm_files\n"
        "    print(*shm_files(['self']))\n"
        "    raise SystemError('alone')\n"
        "tw.tiled_cholesky(numpy.eye(5), backend='mpi', tile_size=2)\n"
    )
    done = mpiexec(2, "-c", script)
    assert done.returncode != 0
    assert "SystemError: alone" in done.stderr
    assert left(set(done.stdout.split())) == []


def test_only_the_files_of_an_mpi_are_removed() -> None:
    before = launcher.shm_files([os.getpid()])  # an MPI of this process, if an earlier test loaded one
    mine = multiprocessing.shared_memory.SharedMemory(create=True, size=100)
    try:
        assert mine.name in Path("/proc/self/maps").read_text()
        assert launcher.shm_files([os.getpid()]) == before
    finally:
        mine.close()
        mine.unlink()
    assert launcher.attached({"/dev/shm/mpich_shm_1", "/dev/shm/vader_segment.1"}) == {"/dev/shm/mpich_shm_1"}


def test_one_rank_under_mpiexec_works() -> None:
    script = "import numpy, tilewright as tw\nassert (tw.tiled_cholesky(4 * numpy.eye(5), backend='mpi', tile_size=2) == 2 * numpy.eye(5)).all()"
    done = mpiexec(1, "-c", script)
    assert (done.returncode, done.stderr) == (0, "")
