"""The Dask engine in both modes: same bits, dask.array in and out, what a report says, and everything that can go wrong."""

import asyncio
import gc
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import dask
import dask.array as da
import dask_ops as ops
import numpy as np
import pytest
from again import measures_the_machine
from distributed import CancelledError, Client, LocalCluster
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from matrices import DTYPES, indefinite_matrix, lapack_info, spd_matrix
from strategies import programs

import tilewright as tw
from tilewright.backends import find_engine
from tilewright.backends.dask import client as clients
from tilewright.backends.dask.engine import Dask
from tilewright.backends.dask.submitted import _loads
from tilewright.distribution import RowBlocks
from tilewright.linalg.chunked import Chunks
from tilewright.plot.live import LivePage

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("no_kept_cluster")]

MODES = ("resident", "tasks")
modes = pytest.mark.parametrize("mode", MODES)
QUIET = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": "127.0.0.1:0", "silence_logs": 60}


@pytest.fixture(scope="module")
def client():
    """Two workers of one thread each."""
    with LocalCluster(**QUIET) as cluster, Client(cluster, set_as_default=False) as client:
        yield client


@pytest.fixture
def own_client():
    """A cluster that a test may break."""
    with LocalCluster(**QUIET) as cluster, Client(cluster, set_as_default=False) as client:
        yield client


# ------------------------------------------------------------------ the same bits


@modes
@pytest.mark.parametrize("lower", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
def test_factor_has_the_bits_of_threads(client, mode, dtype, lower):
    a = spd_matrix(61, dtype)
    options = {"tile_size": 17, "lower": lower}
    got, run = tw.tiled_cholesky(a, client=client, mode=mode, backend="dask", return_run=True, **options)
    assert np.array_equal(got, tw.tiled_cholesky(a, **options))
    run.trace.check()
    assert (run.backend, run.workers) == ("dask", 2)


@modes
def test_every_kind_of_argument(client, mode):
    a = spd_matrix(50)
    wanted = tw.tiled_cholesky(a, tile_size=16)
    options = {"client": client, "mode": mode, "backend": "dask"}
    in_place = a.copy()
    assert tw.tiled_cholesky(in_place, tile_size=16, overwrite_a=True, **options) is in_place
    assert np.array_equal(in_place, wanted)
    packed = tw.tiled_cholesky(tw.TiledMatrix.from_numpy(a, 16), **options)
    assert np.array_equal(packed.to_numpy(), wanted)
    assert np.array_equal(
        tw.tiled_cholesky(np.asfortranarray(a), tile_size=16, **options),
        tw.tiled_cholesky(np.asfortranarray(a), tile_size=16),
    )
    assert tw.tiled_cholesky(np.empty((0, 0)), **options).shape == (0, 0)


@modes
def test_owners_decide_where_tasks_run(client, mode):
    a = spd_matrix(48)
    owner = RowBlocks(2, mt=6)
    wanted = tw.tiled_cholesky(a, tile_size=8)
    got, run = tw.tiled_cholesky(
        a, tile_size=8, backend="dask", client=client, mode=mode, owner=owner, return_run=True, overheads=(0, 0, 0)
    )
    assert np.array_equal(got, wanted)
    for record in run.trace:
        task = run.graph.tasks[record.task]
        assert record.rank == owner(*task.writes[0].index)


@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(program=programs, scheduler=st.sampled_from(["critical-path", "lws", "dmdas", "eager"]))
def test_random_programs_in_mode_tasks_give_the_sequential_result(client, program, scheduler):
    run = tw.run(program.graph(), program.data(), backend="dask", client=client, mode="tasks", scheduler=scheduler)
    run.trace.check()
    assert program.left(run) == program.sequential()


@modes
def test_values_of_any_kind_travel(client, mode):
    g = tw.TaskGraph()
    x, y, z = (g.handle(name) for name in "xyz")
    g.insert(ops.plus, tw.RW(x), tw.R(y), on=0)
    g.insert(ops.describe, tw.W(z), tw.R(x), on=1)
    g.insert(ops.append, tw.RW(y), tw.R(z), on=0)
    data = {"x": ["a"], "y": ["b"], "z": None}
    run = tw.run(g, data, backend="dask", client=client, mode=mode)
    assert (run["x"], run["z"], run["y"]) == (["a", "b"], "list ['a', 'b']", ["b", "list ['a', 'b']"])


@modes
def test_functions_of_a_notebook_cell_travel_by_value(client, mode):
    g = tw.TaskGraph()
    x = g.handle("x")
    g.insert(lambda x: x * 7, tw.RW(x))
    assert tw.run(g, {"x": 6}, backend="dask", client=client, mode=mode)["x"] == 42


@modes
def test_bfloat16_tensors_travel(client, mode):
    import torch

    g = tw.TaskGraph()
    A = g.handles("A")
    for k in range(4):
        g.insert(ops.halve, tw.R(A[k]), tw.W(A[k + 1]), on=k % 2)
    first = torch.arange(12, dtype=torch.bfloat16).reshape(3, 4).T
    run = tw.run(g, {"A": {0: first}}, backend="dask", client=client, mode=mode, owner=0)
    result = run[tw.Handle("A", (4,))]
    assert result.dtype == torch.bfloat16 and result.shape == (4, 3)
    assert torch.equal(result, first / 16)


# ------------------------------------------------------------------ memory that is read in place


def test_tiles_are_read_where_they_are_and_no_segment_stays(client):
    a = spd_matrix(300)  # tiles of 32 kB, above what is sent
    wanted = tw.tiled_cholesky(a, tile_size=64)
    options = {"tile_size": 64, "backend": "dask", "client": client, "mode": "resident"}
    for lower in (True, False):
        for order in "CF":
            got = tw.tiled_cholesky(np.asarray(a, order=order), lower=lower, **options)
            assert np.array_equal(got, tw.tiled_cholesky(np.asarray(a, order=order), lower=lower, tile_size=64))
    in_place = a.copy()
    assert tw.tiled_cholesky(in_place, overwrite_a=True, **options) is in_place
    assert np.array_equal(in_place, wanted)
    factor, run = tw.tiled_cholesky(da.from_array(a, chunks=64), client=client, tile_size=64, return_run=True)
    assert np.array_equal(client.compute(factor).result(), wanted)
    assert run.bytes > 1 << 14
    assert all(count > 1 for count in client.run(ops.segments).values())  # its probe, and what has the factor
    del factor, run
    assert until(lambda: set(client.run(ops.segments).values()) == {1})


def test_memory_that_cannot_be_seen_is_sent(client, monkeypatch):
    a = spd_matrix(300)
    wanted = tw.tiled_cholesky(a, tile_size=64)
    other = Client(client.scheduler.address, set_as_default=False)
    try:
        monkeypatch.setattr(clients.lending, "sees", lambda probe: False)  # the caller and its workers
        client.run(ops.blind, True)
        got = tw.tiled_cholesky(a, tile_size=64, backend="dask", client=other, mode="resident")
        assert np.array_equal(got, wanted)
        assert other not in clients._fit or not any(clients._fit[other].values())
    finally:
        client.run(ops.blind, False)
        other.close()


# ------------------------------------------------------------------ dask.array


CHUNKS = [(100, 100), (37, 37), ((50, 10, 40), (7,) * 14 + (2,)), (100, 13), ((1, 99), (64, 36))]


@modes
@pytest.mark.parametrize("lower", [True, False])
@pytest.mark.parametrize("chunks", CHUNKS, ids=str)
def test_array_comes_back_with_its_chunks_and_the_bits_of_threads(client, mode, chunks, lower):
    a = spd_matrix(100)
    x = da.from_array(a, chunks=chunks)
    factor, run = tw.tiled_cholesky(x, client=client, lower=lower, tile_size=32, mode=mode, return_run=True)
    assert isinstance(factor, da.Array)
    assert (factor.chunks, factor.dtype, factor.shape) == (x.chunks, x.dtype, x.shape)
    assert np.array_equal(client.compute(factor).result(), tw.tiled_cholesky(a, lower=lower, tile_size=32))
    run.trace.check()


@modes
@pytest.mark.parametrize("dtype", ["float32", "complex64", "complex128", "int64"])
def test_array_of_every_dtype(client, mode, dtype):
    a = (spd_matrix(40) * 100).astype("int64") if dtype == "int64" else spd_matrix(40, dtype)
    if dtype == "int64":
        a = a + a.T + 1000 * np.eye(40, dtype="int64")
    for lower in (True, False):
        factor = tw.tiled_cholesky(
            da.from_array(a, chunks=(9, 20)), client=client, tile_size=13, mode=mode, lower=lower
        )
        wanted = tw.tiled_cholesky(a, tile_size=13, lower=lower)
        assert factor.dtype == wanted.dtype
        assert np.array_equal(client.compute(factor).result(), wanted)


@modes
def test_only_the_named_triangle_of_an_array_is_read(client, mode):
    a = spd_matrix(40)
    for lower in (True, False):
        spoilt = a.copy()
        spoilt[np.triu_indices(40, 1) if lower else np.tril_indices(40, -1)] = np.nan
        x = da.from_array(spoilt, chunks=(10, 8))
        factor = tw.tiled_cholesky(x, client=client, tile_size=12, lower=lower, mode=mode)
        assert np.array_equal(client.compute(factor).result(), tw.tiled_cholesky(a, tile_size=12, lower=lower))


@modes
def test_nothing_of_an_array_is_gathered(client, mode, monkeypatch):
    gathered = []
    gather = client.gather

    def watched(futures, **how):
        result = gather(futures, **how)
        gathered.extend(result if isinstance(result, list) else [result])
        return result

    monkeypatch.setattr(client, "gather", watched)
    factor = tw.tiled_cholesky(da.from_array(spd_matrix(80), chunks=40), client=client, tile_size=20, mode=mode)
    assert all(not isinstance(value, np.ndarray) and not value[1] for value in gathered)
    assert factor.shape == (80, 80)


def test_chunks_on_workers_are_taken_as_tiles_without_a_task_for_each(client):
    x = client.persist(da.from_array(spd_matrix(300), chunks=130))
    chunks = Chunks(x, Dask({"client": client}), None)
    pieces = chunks.source(130).pieces
    assert len(pieces) == 6
    assert all(piece.future is x.__dask_graph__()[x.name, *place] for place, piece in pieces.items())
    with Client(client.scheduler.address, set_as_default=False) as other:  # whose futures are its own
        factor = tw.tiled_cholesky(x, client=other)
        assert np.array_equal(other.compute(factor).result(), tw.tiled_cholesky(spd_matrix(300), tile_size=130))


def test_square_chunks_are_the_tiles(client):
    a = spd_matrix(300)
    run = tw.tiled_cholesky(da.from_array(a, chunks=130), client=client, return_run=True)[1]
    assert run.graph.name == "cholesky nt=3"


def test_result_computes_with_dask_like_any_array(client):
    a = spd_matrix(60)
    with client.as_current():
        factor = tw.tiled_cholesky(da.from_array(a, chunks=(20, 30)), tile_size=25)  # the current client
        assert np.allclose((factor @ factor.T).compute(), a)
        assert float(da.linalg.norm(da.triu(factor, 1)).compute()) == 0


def test_another_backend_gathers_an_array_as_any_array_like(client):
    a = spd_matrix(30)
    with dask.config.set(scheduler="synchronous"):
        factor = tw.tiled_cholesky(da.from_array(a, chunks=10), tile_size=10, backend="serial")
    assert isinstance(factor, np.ndarray) and np.array_equal(factor, tw.tiled_cholesky(a, tile_size=10))


@pytest.mark.parametrize(
    ("x", "options", "message"),
    [
        (da.ones((4, 5)), {}, "square, not 4 x 5"),
        (da.ones((4,)), {}, "2-D, not of shape"),
        (da.ones((4, 4)), {"overwrite_a": True}, "cannot be overwritten"),
        (da.ones((4, 4)), {"tile_size": 0}, "at least 1, not 0"),
        (da.ones((4, 4))[da.ones(4) > 0], {}, "does not know its chunk sizes"),
    ],
    ids=["square", "2-D", "overwrite", "tile size", "unknown chunks"],
)
def test_bad_array_is_refused(client, x, options, message):
    with pytest.raises(ValueError, match=message):
        tw.tiled_cholesky(x, client=client, **options)
    with pytest.raises(TypeError, match="float16"):
        tw.tiled_cholesky(da.ones((4, 4), dtype="float16"), client=client)


# ------------------------------------------------------------------ what a run tells


@modes
def test_report_counts_tasks_scheduler_messages_and_data(client, mode, tmp_path):
    a = spd_matrix(400)
    run = tw.tiled_cholesky(a, tile_size=50, backend="dask", client=client, mode=mode, return_run=True)[1]
    facts = run.trace.facts
    assert facts["submitted"] == 4 if mode == "resident" else 8 < facts["submitted"] < len(run.graph)
    assert 0 < facts["scheduler"] < 1.5
    assert run.messages > 0 and run.bytes >= run.messages * 8
    assert facts["results"] == 8 * 400 * 400 * 36 / 64 <= facts["inputs"]
    groups = f" in {facts['groups']} groups" if mode == "tasks" else ""
    assert f"{facts['submitted']} Dask tasks for {len(run.graph)}{groups}, scheduler busy" in str(run)
    assert "  data           703.1 KiB to the workers, 703.1 KiB back" in str(run)
    run.report(tmp_path / "run.html")
    assert "trsm" in (tmp_path / "run.html").read_text()
    run.trace.to_perfetto(tmp_path / "run.json")
    assert "gemm(7,6,5)" in (tmp_path / "run.json").read_text()


def test_messages_of_residents_are_those_of_the_plan(client):
    run = tw.tiled_cholesky(spd_matrix(80), tile_size=10, backend="dask", client=client, return_run=True)[1]
    assert run.messages == len(tw.MessagePlan(tw.cholesky_graph(8), 2).messages) == 28
    assert run.bytes == 28 * 800


def test_keys_name_the_tasks(client):
    events = []
    client.subscribe_topic("all", events.append)
    seen = client.run_on_scheduler(ops.watch_keys)
    assert seen == 0
    tw.tiled_cholesky(spd_matrix(60), tile_size=20, backend="dask", client=client, mode="tasks", overheads=(0, 0, 0))
    keys = client.run_on_scheduler(ops.watched_keys)
    client.unsubscribe_topic("all")
    for label in ("potrf(0)", "trsm(2,1)", "gemm(2,1,0)", "syrk(2,0)"):
        assert any(f"'{label}'" in key and key.startswith(f"('{label.split('(')[0]}-") for key in keys), label


@modes
def test_the_mode_of_qr_is_its_own_and_qr_factor_takes_that_of_dask(client, mode):
    a = np.random.default_rng(4).standard_normal((50, 20))
    how = {"backend": "dask", "client": client, "tile_size": 8, "tree": "greedy"}
    factor, run = tw.qr_factor(a, mode=mode, return_run=True, **how)
    Q, R = tw.qr(a, mode="economic", tree="greedy", tile_size=8)
    assert ("groups" in run.trace.facts) == (mode == "tasks")
    assert np.array_equal(factor.R, R) and np.array_equal(factor.explicit(), Q)
    with pytest.raises(ValueError, match=f"unknown mode '{mode}'; known: full, economic, r, raw"):
        tw.qr(a, mode=mode, **how)


def test_seconds_between_parts_of_a_checkpoint_are_refused(client, tmp_path):
    with pytest.raises(ValueError, match="every=5 is not for backend 'dask', where each panel is written before"):
        tw.lu_factor(np.eye(9), backend="dask", client=client, checkpoint=tmp_path / "run", every=5)
    assert not list(tmp_path.iterdir())


@modes
def test_progress_reaches_all_tasks(client, mode):
    g = tw.TaskGraph()
    for i in range(6):
        g.insert(ops.sleep, tw.RW(g.handle(f"x{i}")), 0.02)
    data = {f"x{i}": np.zeros(1) for i in range(6)}
    heard = []
    engine = find_engine("dask", {"client": client, "mode": mode})
    engine.plan_with(None)
    engine.execute(engine.bind(g, data), "critical-path", None, heard.append)
    assert heard[-1] == 6 and heard == sorted(heard)


@modes
def test_a_page_hears_where_and_when_each_task_ran_and_what_tasks_print_is_printed_here(client, mode, capsys):
    g = tw.TaskGraph()
    for i in range(6):
        g.insert(ops.speak, tw.RW(g.handle(f"x{i % 3}")), i)
    with LivePage() as page:
        run = tw.run(
            g, {f"x{i}": np.zeros(1) for i in range(3)}, backend="dask", client=client, mode=mode, progress=page
        )
        page.story.fold()
    assert [run[f"x{i}"][0] for i in range(3)] == [2, 2, 2]
    told = {bar[2]: bar for bar in page.story.bars}
    assert sorted(told) == list(range(6)) and page.story.done == 6
    for record in run.trace:
        assert tuple(told[record.task][3:5]) == pytest.approx((record.start, record.end), abs=1e-6)
    ranks = {record.task: record.rank for record in run.trace}
    out, err = capsys.readouterr()
    for i in range(6):
        assert f"[rank {ranks[i]}] task {i} here\n[rank {ranks[i]}] and there\n" in out
        assert f"half {i}" in err
    assert all(line.startswith(("[rank ", "follow the run at ")) for line in err.splitlines())


# ------------------------------------------------------------------ when things go wrong


@modes
def test_indefinite_matrix_raises_what_threads_raise(client, mode):
    a = indefinite_matrix(60, order=41)
    for x in (a, da.from_array(a, chunks=25)):
        with pytest.raises(tw.NotPositiveDefiniteError) as caught:
            tw.tiled_cholesky(x, tile_size=16, backend="dask", client=client, mode=mode)
        with pytest.raises(tw.NotPositiveDefiniteError) as wanted:
            tw.tiled_cholesky(a, tile_size=16)
        assert type(caught.value) is tw.NotPositiveDefiniteError
        assert str(caught.value) == str(wanted.value)
        assert (caught.value.order, caught.value.task) == (lapack_info(a), "potrf(2)") == (41, "potrf(2)")
        assert "in task potrf(2)" in caught.value.__notes__[0] and "backend=dask" in caught.value.__notes__[0]


@modes
def test_nan_is_found_before_what_it_causes(client, mode):
    a = spd_matrix(40)
    a[30, 4] = np.nan
    for x in (a, da.from_array(a, chunks=(17, 9))):
        with pytest.raises(ValueError, match=r"NaN or infinity at \(30, 4\)"):
            tw.tiled_cholesky(x, tile_size=8, backend="dask", client=client, mode=mode)
    with pytest.raises(ValueError, match=r"NaN or infinity at \(4, 30\)"):
        tw.tiled_cholesky(da.from_array(a.T, chunks=9), tile_size=8, lower=False, client=client, mode=mode)


@measures_the_machine
@modes
def test_failing_task_comes_out_as_it_was_raised_and_cancels_the_rest(client, mode):
    g = tw.TaskGraph()
    A = g.handles("A")
    g.insert(ops.fail, tw.RW(A[0]))
    for i in range(1, 200):
        g.insert(ops.sleep, tw.RW(A[i]), 0.3)
    start = time.monotonic()
    options = {"backend": "dask", "client": client, "mode": mode}
    with pytest.raises(ZeroDivisionError, match="^on purpose") as caught:
        tw.run(g, {"A": [np.zeros(1) for _ in range(200)]}, scheduler="eager", overheads=(0, 0, 0), **options)
    assert "in task fail(0) (number 0), writing A[0]; backend=dask" in caught.value.__notes__[0]
    assert time.monotonic() - start < 20  # all of it would take 30 s on two workers
    assert tw.run(_doubled(), {"x": 1}, **options)["x"] == 2  # the cluster is as good as before


def _doubled():
    g = tw.TaskGraph()
    g.insert(ops.plus, tw.RW(g.handle("x")), tw.R(g.handle("x")))
    return g


@modes
def test_exception_that_cannot_be_pickled_arrives_as_text(client, mode):
    g = tw.TaskGraph()
    g.insert(ops.fail_oddly, tw.RW(g.handle("x")))
    with pytest.raises(RuntimeError, match="OddError: odd"):
        tw.run(g, {"x": 1}, backend="dask", client=client, mode=mode)


def slow_graph(pid_file, count=40, seconds=0.05):
    """Independent chains on both ranks; the first task says its process."""
    g = tw.TaskGraph()
    A = g.handles("A")
    for i in range(4):
        for _ in range(count // 4):
            g.insert(ops.note_pid, tw.RW(A[i]), str(pid_file), seconds, on=i % 2)
    return g, {"A": [np.zeros(1) for _ in range(4)]}


def kill_soon(pid_file):
    """Kill the first process that writes its number."""

    def wait_and_kill():
        while not (pid_file.exists() and pid_file.read_text()):
            time.sleep(0.01)
        os.kill(int(pid_file.read_text().split()[0]), signal.SIGKILL)

    thread = threading.Thread(target=wait_and_kill)
    thread.start()
    return thread


@measures_the_machine
def test_resident_worker_that_is_killed_ends_the_run_with_its_address(own_client, tmp_path):
    g, data = slow_graph(tmp_path / "pid", count=400, seconds=0.3)
    addresses = set(own_client.scheduler_info()["workers"])
    killer = kill_soon(tmp_path / "pid")
    start = time.monotonic()
    with pytest.raises(tw.WorkerDied) as caught:
        tw.run(g, data, backend="dask", client=own_client, mode="resident", overheads=(0, 0, 0))
    killer.join()
    assert time.monotonic() - start < 30  # all of it would take 60 s
    assert caught.value.address in addresses
    assert data["A"][0] == 0


class Slow(tw.schedulers.Eager):
    """So that there is time to die."""

    def pop(self, worker):
        time.sleep(0.002)
        return super().pop(worker)


@modes
def test_a_call_goes_on_from_its_checkpoint_when_a_worker_is_killed(own_client, mode, tmp_path):
    folder = tmp_path / "run"
    a = spd_matrix(240)
    pid = next(iter(own_client.run(os.getpid).values()))

    def kill():
        until(lambda: len(list(folder.glob("part-*.bin"))) >= 4)
        os.kill(pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    how = {
        "client": own_client,
        "mode": mode,
        "tile_size": 30,
        "memory": "1GB",
        "scheduler": Slow(),
        "overheads": (0, 0, 0),
    }
    found, run = tw.tiled_cholesky(a, backend="dask", checkpoint=folder, restart=3, return_run=True, **how)
    killer.join()
    np.testing.assert_array_equal(found, tw.tiled_cholesky(a, tile_size=30))
    again = any("begun again 1 times" in note for note in run.notes)
    assert again == any("of 8 block columns were in" in note for note in run.notes) == (mode == "resident")
    chunks = da.from_array(a, chunks=30)  # what is kept is known on another engine, and of chunks
    found, run = tw.tiled_cholesky(
        chunks, checkpoint=folder, resume=True, return_run=True, client=own_client, mode=mode, tile_size=30
    )
    found = own_client.compute(found).result(timeout=20)
    np.testing.assert_array_equal(found, tw.tiled_cholesky(a, tile_size=30))
    assert any("8 of 8 block columns were in" in note for note in run.notes)
    with pytest.raises(MemoryError, match=r"tiled_cholesky takes .* on rank \d, more than memory="):
        tw.tiled_cholesky(a, backend="dask", client=own_client, tile_size=30, memory="20kB")


def test_killed_worker_is_made_good_in_mode_tasks(own_client, tmp_path):
    g, data = slow_graph(tmp_path / "pid")
    killer = kill_soon(tmp_path / "pid")
    run = tw.run(g, data, backend="dask", client=own_client, mode="tasks", overheads=(0, 0, 0))
    killer.join()
    assert [int(run[tw.Handle("A", (i,))][0]) for i in range(4)] == [10] * 4
    assert len(run.trace) == 40


def test_factor_is_right_though_a_worker_is_killed(own_client, tmp_path):
    a = spd_matrix(200)
    x = da.from_array(a, chunks=50).map_blocks(ops.slow_block, str(tmp_path / "pid"), dtype=a.dtype, meta=a[:0, :0])
    killer = kill_soon(tmp_path / "pid")
    factor = tw.tiled_cholesky(x, client=own_client, tile_size=50, mode="tasks")
    killer.join()
    assert np.array_equal(own_client.compute(factor).result(), tw.tiled_cholesky(a, tile_size=50))


@modes
@pytest.mark.parametrize(
    ("op", "kind", "message"),
    [
        (ops.recurse, RecursionError, "maximum recursion depth exceeded"),
        (ops.fail_and_stay, RuntimeError, "CannotTravel: stays here"),
        (ops.fail_from_another, ArithmeticError, "because of another"),
        (ops.fail_oddly, RuntimeError, "OddError: odd"),
        (ops.leave, SystemExit, "out"),
        (ops.calls_dask, RuntimeError, "a task of a run with backend='dask' calls with backend='dask' again"),
    ],
    ids=["recursion", "cannot be pickled", "with such a context", "cannot be made again", "exit", "nested"],
)
def test_whatever_a_task_raises_comes_out_as_it_is_or_by_name(client, mode, op, kind, message):
    g = tw.TaskGraph()
    g.insert(op, tw.RW(g.handle("x")))
    with pytest.raises(kind, match=message):
        tw.run(g, {"x": np.zeros(2)}, backend="dask", client=client, mode=mode)
    assert len(client.scheduler_info(n_workers=-1)["workers"]) == 2  # nobody left


def test_a_task_of_dask_is_refused_before_it_waits_for_its_own_thread(client):
    said = client.submit(ops.calls_with_its_client, pure=False).result(timeout=20)
    assert said.startswith("this is a task on a Dask worker; backend 'dask' would wait there for workers")


DAEMON = """
import multiprocessing
import numpy, tilewright as tw

def call(queue):
    try:
        tw.tiled_cholesky(numpy.eye(4), backend="dask")
    except RuntimeError as error:
        queue.put(str(error))

if __name__ == "__main__":
    queue = multiprocessing.get_context("fork").Queue()
    process = multiprocessing.get_context("fork").Process(target=call, args=(queue,), daemon=True)
    process.start()
    print(queue.get(timeout=20))
"""


def test_a_daemon_is_told_that_it_cannot_have_workers():
    done = subprocess.run([sys.executable, "-c", DAEMON], capture_output=True, text=True, timeout=50)
    assert done.stdout.startswith(
        "this process is a daemon, which may not have children, so backend 'dask' cannot start"
    )


KILLS = """
import os, signal, sys, threading
print("the script runs", flush=True)
import numpy as np, tilewright as tw
from tilewright.backends.dask import client as clients

A = np.eye(60) * 60 + 1
wanted = tw.tiled_cholesky(A, tile_size=10)
options = {"tile_size": 10, "backend": "dask", "mode": "tasks", "workers": 2}
tw.tiled_cholesky(A, **options)
for delay in (0, 0.03, 0.1):
    pid = list(clients.kept(2).run(os.getpid).values())[0]
    killer = threading.Timer(delay, os.kill, (pid, signal.SIGKILL))
    killer.start()
    print(np.array_equal(tw.tiled_cholesky(A, **options), wanted), flush=True)
    killer.join()
"""


def test_workers_that_are_killed_are_made_good_and_new_ones_do_not_run_the_script(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(KILLS)
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=110)
    assert done.stdout.splitlines() == ["the script runs", *["True"] * 3], done.stderr


def until(claim, seconds=10):
    """Whether a claim comes true in time."""
    deadline = time.monotonic() + seconds
    while not (true := claim()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return true


def is_idle(client):
    """Whether no key is left on the scheduler."""
    return client.run_on_scheduler(lambda dask_scheduler: not dask_scheduler.tasks)


@measures_the_machine
@modes
def test_interrupt_ends_a_run_and_leaves_nothing_on_the_cluster(client, mode, tmp_path):
    g, data = slow_graph(tmp_path / "pid", count=400, seconds=0.3)

    def interrupt():
        until((tmp_path / "pid").exists)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    start = time.monotonic()
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        tw.run(g, data, backend="dask", client=client, mode=mode, overheads=(0, 0, 0))
    thread.join()
    gc.collect()  # of this test's exception, and of those before
    assert until(lambda: is_idle(client))
    assert time.monotonic() - start < 30  # all of it would take 60 s
    assert tw.run(_doubled(), {"x": 1}, backend="dask", client=client, mode=mode)["x"] == 2


@modes
def test_data_of_a_run_goes_with_its_result_and_waits_for_no_garbage_collection(client, mode):
    g = tw.TaskGraph()
    g.insert(ops.sleep, tw.RW(g.handle("x")), 0.6)  # so long that the caller looks at the workers meanwhile
    gc.collect()
    gc.disable()
    try:
        tw.run(g, {"x": np.zeros(20_000)}, backend="dask", client=client, mode=mode)
        assert until(lambda: is_idle(client))
    finally:
        gc.enable()


def test_tiles_lost_after_a_resident_run_are_an_error_and_no_hang(own_client):
    factor = tw.tiled_cholesky(da.from_array(spd_matrix(100), chunks=50), client=own_client, tile_size=25)
    pids = own_client.run(os.getpid)
    os.kill(next(iter(pids.values())), signal.SIGKILL)
    with pytest.raises(CancelledError):
        own_client.compute(factor).result(timeout=20)


@measures_the_machine
def test_cluster_without_workers_is_an_error_after_the_time_that_was_said():
    with LocalCluster(**QUIET | {"n_workers": 0}) as cluster, Client(cluster, set_as_default=False) as client:
        start = time.monotonic()
        with pytest.raises(TimeoutError, match=r"no running worker after 0.3 s"):
            tw.tiled_cholesky(spd_matrix(20), backend="dask", client=client, timeout=0.3)
        assert time.monotonic() - start < 20  # without timeout= it would be 30 s


def test_workers_without_tilewright_are_named_in_one_sentence(tmp_path):
    block = tmp_path / "block.py"
    block.write_text("import sys\nsys.modules['tilewright'] = None\n")
    with dask.config.set({"distributed.worker.preload": [str(block)]}):
        cluster = LocalCluster(**QUIET | {"n_workers": 1})
    with cluster, Client(cluster, set_as_default=False) as client, pytest.raises(RuntimeError) as caught:
        tw.tiled_cholesky(spd_matrix(20), backend="dask", client=client)
    assert str(caught.value).startswith("tcp://") and "cannot import it (ModuleNotFoundError" in str(caught.value)
    assert str(caught.value).endswith("install the same tilewright on all machines of the cluster")


def test_adaptive_cluster_without_workers_starts_one():
    a = spd_matrix(40)
    with LocalCluster(**QUIET | {"n_workers": 0, "processes": False}) as cluster:
        cluster.adapt(minimum=0, maximum=2, interval="50ms")
        with Client(cluster, set_as_default=False) as client:
            assert not client.scheduler_info()["workers"]
            factor = tw.tiled_cholesky(a, tile_size=20, backend="dask", client=client)
            assert np.array_equal(factor, tw.tiled_cholesky(a, tile_size=20))


def test_workers_of_another_version_are_named_with_both(client, monkeypatch):
    monkeypatch.setattr(clients, "version", lambda name: "9.9")
    message = f"has version {tw.__version__}, and this process has tilewright 9.9"
    with Client(client.scheduler.address, set_as_default=False) as other, pytest.raises(RuntimeError, match=message):
        tw.tiled_cholesky(spd_matrix(20), backend="dask", client=other)


def test_worker_that_is_busy_is_an_error_after_the_time_that_was_said(client):
    address = next(iter(client.scheduler_info()["workers"]))
    hold = client.submit(time.sleep, 3, workers=[address], pure=False)
    with pytest.raises(TimeoutError, match=r"tcp://\S+ did not begin its part of the run within 0.5 s"):
        tw.tiled_cholesky(spd_matrix(60), tile_size=20, backend="dask", client=client, timeout=0.5)
    hold.result()


def test_client_that_cannot_be_used_is_refused(client):
    a = spd_matrix(20)
    closed = Client(client.scheduler.address, set_as_default=False)
    closed.close()
    with pytest.raises(ValueError, match="client is closed"):
        tw.tiled_cholesky(a, backend="dask", client=closed)
    with pytest.raises(TypeError, match="must be a distributed.Client, not str"):
        tw.tiled_cholesky(a, backend="dask", client="tcp://localhost:1")

    async def asynchronous():
        async with Client(client.scheduler.address, asynchronous=True, set_as_default=False) as other:
            with pytest.raises(ValueError, match="client is asynchronous"):
                tw.tiled_cholesky(a, backend="dask", client=other)

    asyncio.run(asynchronous())


def test_matrix_that_does_not_fit_is_refused_with_both_numbers():
    settings = QUIET | {"n_workers": 1, "memory_limit": "500MB"}
    a = np.zeros((11200, 11200))
    with LocalCluster(**settings) as cluster, Client(cluster, set_as_default=False) as client:
        options = {"backend": "dask", "client": client, "tile_size": 800}
        with pytest.raises(MemoryError, match=r"needs 1\d\d\d MB on tcp://\S+, whose limit is 500 MB.*mode='tasks'"):
            tw.tiled_cholesky(a, mode="resident", **options)
        options["tile_size"] = 5600
        with pytest.raises(MemoryError, match=r"copy\(0,0\) needs 502 MB on one Dask worker, whose limit is 500 MB"):
            tw.tiled_cholesky(a, mode="tasks", **options)
        options["tile_size"] = 800
        with pytest.raises(
            MemoryError, match=r"1\d\d\d MB of data are for one Dask worker, whose limit is 500 MB.*too little"
        ):
            tw.tiled_cholesky(a, **options)


@given(sizes=st.lists(st.integers(0, 50), max_size=30), room=st.floats(1, 200))
def test_messages_hold_what_fits_and_everything_once(sizes, room):
    loads = list(_loads(dict(enumerate(sizes)), room))
    assert [key for load in loads for key in load] == list(range(len(sizes)))
    assert all(len(load) == 1 or sum(sizes[key] for key in load) <= room for load in loads)
    assert all(sum(sizes[k] for k in load) + sizes[after[0]] > room for load, after in itertools.pairwise(loads))


def test_matrix_of_twice_the_memory_completes_by_spilling():
    n, rng = 3000, np.random.default_rng(3)
    a = rng.random((n, n), np.float32) + 4 * n * np.eye(n, dtype=np.float32)
    memory = {"target": n * n * 2 / 1e9, "spill": False, "pause": False, "terminate": False}
    with dask.config.set({f"distributed.worker.memory.{name}": value for name, value in memory.items()}):
        cluster = LocalCluster(**QUIET | {"n_workers": 1, "memory_limit": "1GB"})
    with cluster, Client(cluster, set_as_default=False) as client:
        tiles = range(0, n, 250)
        blocks = {("a", i // 250, j // 250): a[i : i + 250, j : j + 250].copy() for i in tiles for j in tiles}
        x = da.Array(client.scatter(blocks, hash=False), "a", chunks=((250,) * 12,) * 2, dtype=a.dtype)
        factor, run = tw.tiled_cholesky(x, client=client, tile_size=250, mode="tasks", return_run=True)
        spilled = next(iter(client.run(ops.spilled).values()))
        assert spilled > n * n  # of 2 n^2 bytes that are the factor's tiles
        assert len(run.trace) == len(run.graph)
        assert np.array_equal(client.compute(factor).result(), tw.tiled_cholesky(a, tile_size=250))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"mode": "fast"}, ValueError, "mode must be one of resident, tasks, not 'fast'"),
        ({"grid": (0, 2)}, ValueError, r"grid must be two positive integers \(P, Q\), not \(0, 2\)"),
        ({"grid": (1, 2), "owner": 0}, ValueError, "pass one of them"),
        ({"timeout": 0}, ValueError, "timeout must be a positive number, not 0"),
        ({"window": "big"}, ValueError, "window must be a positive number, not 'big'"),
        ({"workers": 5}, ValueError, "workers=5, but the Dask cluster has 2 workers of 1 thread"),
        ({"owner": tw.BlockCyclic(2, 2)}, ValueError, "needs 4 ranks, but there are 2"),
        ({"pool": 1}, TypeError, "unknown option pool; backend 'dask' has client, mode"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_bad_option_is_refused_before_anything_runs(client, options, error, message):
    with pytest.raises(error, match=message):
        tw.tiled_cholesky(spd_matrix(20), tile_size=5, backend="dask", client=client, **options)


def test_workers_are_shared_out_evenly_over_threads():
    four = [clients.WorkerInfo(f"tcp://{i}", 4, 0) for i in range(3)]
    assert clients.ranks_of(four, None) == clients.Ranks(tuple(four), 4)
    assert clients.ranks_of(four, 8) == clients.Ranks(tuple(four[:2]), 4)
    assert clients.ranks_of(four, 6) == clients.Ranks(tuple(four[:2]), 3)
    with pytest.raises(ValueError, match="equal shares"):
        clients.ranks_of(four, 11)


def test_threads_of_one_worker_share_its_part():
    a = spd_matrix(120)
    settings = QUIET | {"n_workers": 1, "threads_per_worker": 2}
    with LocalCluster(**settings) as cluster, Client(cluster, set_as_default=False) as client:
        for mode in MODES:
            got, run = tw.tiled_cholesky(a, tile_size=15, backend="dask", client=client, mode=mode, return_run=True)
            assert np.array_equal(got, tw.tiled_cholesky(a, tile_size=15))
            assert (run.trace.ranks, run.trace.workers, run.workers) == (1, 2, 2)
            run.trace.check()


def test_workers_in_this_process_do_not_share_tiles():
    a = spd_matrix(90)
    settings = QUIET | {"processes": False}
    with LocalCluster(**settings) as cluster, Client(cluster, set_as_default=False) as client:
        for mode in MODES:
            got = tw.tiled_cholesky(a, tile_size=15, backend="dask", client=client, mode=mode)
            assert np.array_equal(got, tw.tiled_cholesky(a, tile_size=15))


def test_all_of_a_cluster_of_six_workers_is_used():
    a = spd_matrix(90)
    settings = QUIET | {"n_workers": 6, "processes": False}
    with LocalCluster(**settings) as cluster, Client(cluster, set_as_default=False) as client:
        for mode in MODES:
            got, run = tw.tiled_cholesky(
                a, tile_size=15, backend="dask", client=client, mode=mode, return_run=True, overheads=(0, 0, 0)
            )
            assert np.array_equal(got, tw.tiled_cholesky(a, tile_size=15))
            assert {record.rank for record in run.trace} == set(range(6))


@modes
def test_call_from_a_running_event_loop(client, mode):
    a = spd_matrix(50)

    async def cell():  # of a notebook
        return tw.tiled_cholesky(a, tile_size=16, backend="dask", client=client, mode=mode)

    assert np.array_equal(asyncio.run(cell()), tw.tiled_cholesky(a, tile_size=16))


def test_two_runs_at_once_on_one_cluster(client):
    a = spd_matrix(100)
    wanted = tw.tiled_cholesky(a, tile_size=20)
    results = {}

    def call(number):
        results[number] = tw.tiled_cholesky(a, tile_size=20, backend="dask", client=client, mode=MODES[number % 2])

    threads = [threading.Thread(target=call, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(results) == [0, 1, 2, 3]
    assert all(np.array_equal(result, wanted) for result in results.values())


# ------------------------------------------------------------------ the kept cluster


SCRIPT = """
import dask.array as da, os, numpy as np, tilewright as tw
from tilewright.backends.dask import client
from tilewright.plot.live import LivePage
a = np.eye(40) * 4
assert np.array_equal(tw.tiled_cholesky(a, backend="dask", tile_size=10, workers=2), 2 * np.eye(40))
first = client.kept_client()
assert first is not None
tw.tiled_cholesky(a, backend="dask", tile_size=10, workers=1)
assert client.kept_client() is first
x = da.from_array(a, chunks=(15, 25))
factor = tw.tiled_cholesky(x, backend="dask")
assert factor.chunks == x.chunks and np.array_equal(factor.compute(), 2 * np.eye(40))
assert np.array_equal(tw.tiled_cholesky(x, backend="dask").compute(), 2 * np.eye(40)) and client.kept_client() is first
print(*first.run(os.getpid).values(), flush=True)
"""


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("end", ["", "import signal; os.kill(os.getpid(), signal.SIGKILL)\n"], ids=["exit", "kill"])
def test_kept_cluster_needs_no_guard_in_a_script_and_ends_with_it(tmp_path, end):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT + end)
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60)
    assert done.returncode == (-signal.SIGKILL if end else 0), done.stderr
    pids = list(map(int, done.stdout.split()))
    assert len(pids) == 2
    if not end:
        assert done.stderr == ""
    assert until(lambda: not any(map(alive, pids)), 20)


def test_missing_dask_is_one_sentence(monkeypatch):
    monkeypatch.setattr(clients.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"needs dask and distributed, .* pip install .*\[dask\]'"):
        tw.tiled_cholesky(spd_matrix(10), backend="dask")


def test_a_fork_is_told_that_its_client_has_no_threads(client):
    reader, writer = os.pipe()
    with client.as_current(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Python, that there are threads
        child = os.fork()
        if child == 0:
            try:
                signal.alarm(20)
                tw.tiled_cholesky(spd_matrix(10), backend="dask")
            except RuntimeError as error:
                os.write(writer, str(error).encode())
            finally:
                os._exit(0)
    os.waitpid(child, 0)
    os.close(writer)
    assert os.read(reader, 1000).decode().startswith("this process is a fork of the one whose Dask client this is")
    os.close(reader)
