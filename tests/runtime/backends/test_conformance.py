"""What every engine must do. A new engine joins by its name in COMPUTING.

Functions and data live in this module's top level or in `strategies`, so that engines with processes can take them.
"""

import os
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matrices import DTYPES, indefinite_matrix, lapack_info, spd_matrix
from strategies import programs

import tilewright as tw
from tilewright import RW, SCHEDULERS, R, TaskGraph, W
from tilewright.backends import COMPUTING
from tilewright.host.affinity import places

pytestmark = pytest.mark.long

WORKERS = (1, 2, 4)

backends = pytest.mark.parametrize("backend", COMPUTING)
KINDS = {"critical-path": WORKERS, "lws": (2,), "heft": (4,)}
# Ranks of Dask and MPI take tasks from one crew, that of threads: on MPI each policy has two workers once, on Dask,
# where a call costs 30 ms, each kind of policy.
COUNTS = {"dask": dict.fromkeys(SCHEDULERS, ()) | KINDS, "mpi": dict.fromkeys(SCHEDULERS, (2,)) | KINDS}
engines = pytest.mark.parametrize(
    ("backend", "scheduler", "workers"),
    [(b, s, p) for b in COMPUTING for s in SCHEDULERS for p in COUNTS.get(b, {}).get(s, WORKERS)],
)
workers_ = pytest.mark.parametrize("workers", WORKERS)


class Oops(Exception):
    pass


def fill(x, value):
    x[...] = value


def add(x, y):
    y += x


def fail(x):
    raise Oops("what the task said")


def count_up(x):
    if x[0] < 0:
        raise Oops
    x += 1


def nap(x):
    time.sleep(0.002)
    x += 1


@engines
class TestResults:
    @settings(max_examples=8)
    @given(program=programs)
    def test_random_programs_give_the_sequential_result(self, backend, scheduler, workers, program):
        run = tw.run(program.graph(), program.data(), backend=backend, scheduler=scheduler, workers=workers)
        run.trace.check()
        assert program.left(run) == program.sequential()

    def test_factor_has_the_bits_of_the_serial_run(self, backend, scheduler, workers):
        for n, nb in ((50, 7), (64, 16)):
            a = spd_matrix(n)
            wanted = tw.tiled_cholesky(a, tile_size=nb, backend="serial")
            got = tw.tiled_cholesky(a, tile_size=nb, backend=backend, scheduler=scheduler, workers=workers)
            assert np.array_equal(got, wanted)

    def test_trace_is_a_valid_schedule_of_the_whole_graph(self, backend, scheduler, workers):
        run = tw.tiled_cholesky(
            spd_matrix(40), tile_size=8, backend=backend, scheduler=scheduler, workers=workers, return_run=True
        )[1]
        run.trace.check()
        assert (run.backend, run.scheduler) == (backend, scheduler)
        assert {record.worker for record in run.trace} <= set(range(run.workers))
        assert run.workers <= workers

    def test_order_of_a_bad_minor_is_that_of_lapack(self, backend, scheduler, workers):
        a = indefinite_matrix(30, order=18)
        with pytest.raises(tw.NotPositiveDefiniteError) as caught:
            tw.tiled_cholesky(a, tile_size=7, backend=backend, scheduler=scheduler, workers=workers)
        assert caught.value.order == lapack_info(a) == 18
        assert (caught.value.task, str(caught.value.tile)) == ("potrf(2)", "A[2,2]")


class TestOneEngine:
    @backends
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_factor_in_every_dtype(self, backend, dtype):
        a = spd_matrix(23, dtype)
        factor = tw.tiled_cholesky(a, tile_size=5, backend=backend, workers=2)
        assert factor.dtype == a.dtype
        assert np.allclose(factor, np.linalg.cholesky(a), rtol=1e-4)

    @backends
    def test_empty_graph(self, backend):
        run = tw.run(TaskGraph(), {}, backend=backend, workers=2)
        assert len(run.trace) == 0
        run.trace.check()

    @backends
    def test_graph_runs_twice_with_the_same_result(self, backend):
        g = TaskGraph()
        x, y = g.handle("x"), g.handle("y")
        for value in range(5):
            g.insert(fill, W(x), value)
            g.insert(add, R(x), RW(y))
        for _ in range(2):
            assert tw.run(g, {"x": np.zeros(1), "y": np.zeros(1)}, backend=backend, workers=2)["y"] == [10]

    @backends
    @workers_
    def test_error_comes_out_as_it_was_raised_with_a_note_that_names_the_task(self, backend, workers):
        g = TaskGraph()
        x = g.handle("x")
        g.insert(fill, W(x), 1)
        g.insert(fail, RW(x))
        with pytest.raises(Oops, match="^what the task said") as caught:
            tw.run(g, {"x": np.zeros(1)}, backend=backend, workers=workers)
        assert caught.value.__notes__[0].startswith(
            f"in task fail(x) (number 1), writing x; backend={backend}, worker="
        )

    @engines
    def test_error_cancels_what_depends_on_the_task(self, backend, scheduler, workers):
        g = TaskGraph()
        x, y = g.handle("x"), g.handle("y")
        g.insert(fail, RW(x))
        for _ in range(20):
            g.insert(nap, RW(x))
            g.insert(add, R(x), RW(y))
        data = {"x": np.zeros(1), "y": np.zeros(1)}
        with pytest.raises(Oops):
            tw.run(g, data, backend=backend, scheduler=scheduler, workers=workers)
        assert (data["x"], data["y"]) == ([0], [0])

    @backends
    def test_error_starts_no_task_that_was_only_waiting_for_a_worker(self, backend):
        """200 independent tasks behind the failing one; a few may have begun, most never run."""
        g = TaskGraph()
        A = g.handles("A")
        g.insert(fail, RW(A[0]))
        for i in range(1, 200):
            g.insert(nap, RW(A[i]))
        data = {"A": [np.zeros(1) for _ in range(200)]}
        with pytest.raises(Oops):
            tw.run(g, data, backend=backend, scheduler="eager", workers=2)
        assert sum(int(x[0]) for x in data["A"]) < 20

    @backends
    def test_failing_graph_can_run_again(self, backend):
        g = TaskGraph()
        for _ in range(3):
            g.insert(count_up, RW(g.handle("x")))
        with pytest.raises(Oops):
            tw.run(g, {"x": np.array([-1])}, backend=backend, workers=2)
        assert tw.run(g, {"x": np.array([1])}, backend=backend, workers=2)["x"] == [4]


@settings(max_examples=30)
@given(program=programs, seed=st.integers(0, 1000))
def test_random_policy_gives_the_sequential_result_under_any_seed(program, seed):
    policy = SCHEDULERS["random"](seed=seed)
    run = tw.run(program.graph(), program.data(), scheduler=policy, workers=3)
    run.trace.check()
    assert program.left(run) == program.sequential()


def mask(x):
    found = os.sched_getaffinity(0)
    x[:] = len(found), min(found)


@pytest.mark.needs("mpi4py")
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system binds no threads")
def test_workers_of_ranks_stay_on_cores_of_their_own_for_one_run():
    graph = TaskGraph("masks")
    x = graph.handles("x")
    for k in range(6):
        graph.insert(mask, RW(x[k]))
    ranks = min(2, len(os.sched_getaffinity(0)))
    runs = [
        tw.run(graph, {"x": [np.zeros(2) for _ in range(6)]}, backend="mpi", workers=ranks, **options)
        for options in ({}, {"pin": "cores"}, {})
    ]
    free, bound, again = ([list(run[x[k]]) for k in range(6)] for run in runs)
    cpus = places(ranks)
    assert bound == [[1, cpus[record.rank]] for record in sorted(runs[1].trace, key=lambda record: record.task)]
    assert free == again and free[0][0] >= ranks


@pytest.mark.needs("dask", "distributed", "mpi4py")
def test_engines_stand_side_by_side_with_ranks_and_clusters():
    a = spd_matrix(48)
    names = ["serial", "threads", "mpi:2x1", "dask", "dask:tasks", "dask.distributed", "dask.threaded"]
    table = tw.compare_engines(
        tw.cholesky_graph(3), {"A": tw.TiledMatrix.view(a, 16)}, names, workers=2, repeat=1, scheduler="eager"
    )
    assert table.absent == {} and {row.engine for row in table} == set(names)
    factor = np.linalg.cholesky(a)
    for row, run in zip(table.rows, table.runs, strict=True):
        run.trace.check()
        assert row.workers == run.workers == (1 if row.engine == "serial" else 2)
        assert row.scheduler == ("" if row.engine in ("serial", "dask.distributed", "dask.threaded") else "eager")
        assert np.tril(run.store.families["A"].to_numpy()) == pytest.approx(factor, rel=1e-12)
    ours, theirs = (
        next(r.trace.facts for w, r in zip(table, table.runs, strict=True) if w.engine == name)
        for name in ("dask:tasks", "dask.distributed")
    )
    assert theirs["groups"] == 10 > ours["groups"], "Dask alone gets every task, ours are coarser"
