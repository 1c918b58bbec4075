"""Engines side by side; what needs ranks or a cluster is in `tests/runtime/backends/test_conformance.py`."""

import os
import re
import shutil
import threading
import time

import numpy as np
import pytest

import tilewright as tw
from tilewright.studies import engines, openmp
from tilewright.studies.baselines import AbsentError, DaskThreaded, Futures
from tilewright.studies.engines import ENGINES, Kind
from tilewright.studies.openmp import OpenMP
from tilewright.studies.workloads import Sizes, workload

BASELINES = [Futures, pytest.param(DaskThreaded, marks=pytest.mark.needs("dask", "distributed")), OpenMP]
compiled = pytest.mark.skipif(shutil.which("cc") is None, reason="without a C compiler there is no OpenMP here")


def made(baseline):
    try:
        return baseline()
    except AbsentError as error:
        pytest.skip(str(error))


def cholesky(n=90, tile_size=20):
    a = tw.random_spd(n, seed=3)
    return tw.cholesky_graph(-(-n // tile_size)), a, {"A": tw.TiledMatrix.view(a.copy(), tile_size)}


def threads_of_process():
    return {thread.name for thread in threading.enumerate()}


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("baseline", BASELINES)
def test_a_baseline_computes_the_factor_and_says_when_each_task_ran(baseline, workers):
    """90 rows in tiles of 20: the last are ragged."""
    graph, a, data = cholesky()
    before = threads_of_process()
    run = tw.run(graph, data, backend=made(baseline), workers=workers)
    run.trace.check()
    assert np.tril(run.store.families["A"].to_numpy()) == pytest.approx(np.linalg.cholesky(a), rel=1e-12)
    assert (run.backend, run.workers, len(run.trace)) == (baseline.name, workers, len(graph))
    assert all(0 <= record.start <= record.end for record in run.trace)
    assert threads_of_process() == before


@pytest.mark.parametrize("baseline", BASELINES[:2])
@pytest.mark.parametrize(
    ("name", "sizes"), [("random:7", {"nt": 5}), ("stencil", {"nt": 4}), ("qr", {"nt": 3, "mt": 5})]
)
def test_a_baseline_runs_any_graph_as_the_plain_loop_does(baseline, name, sizes):
    work = workload(name, Sizes(tile_size=16, **sizes))
    ours, theirs = (
        tw.run(work.graph, work.data(), backend="serial"),
        tw.run(work.graph, work.data(), backend=made(baseline)),
    )
    theirs.trace.check()
    for handle in work.graph.results:
        assert np.array_equal(ours[handle], theirs[handle])


@pytest.mark.parametrize("baseline", BASELINES)
def test_a_task_that_fails_ends_a_baseline_s_run_and_is_named(baseline):
    graph, _, data = cholesky()
    data["A"][2, 2][:] = -np.eye(20)
    with pytest.raises(tw.NotPositiveDefiniteError, match=r"potrf\(2\)") as caught:
        tw.run(graph, data, backend=made(baseline), workers=2)
    assert "in task potrf(2)" in caught.value.__notes__[0] and baseline.name in caught.value.__notes__[0]


@pytest.mark.parametrize("baseline", BASELINES)
def test_a_baseline_runs_an_empty_graph(baseline):
    assert tw.run(tw.cholesky_graph(0), {}, backend=made(baseline)).makespan == 0


@compiled
@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="threads are counted by the kernel of Linux")
def test_openmp_leaves_no_threads():
    graph, _, data = cholesky()
    engine = made(OpenMP)
    before = len(os.listdir("/proc/self/task"))
    tw.run(graph, data, backend=engine, workers=4)
    until = time.monotonic() + 10
    while len(os.listdir("/proc/self/task")) > before and time.monotonic() < until:
        time.sleep(0.001)  # the kernel takes a moment
    assert len(os.listdir("/proc/self/task")) <= before


@compiled
def test_openmp_says_which_graphs_it_is_not_for():
    qr = workload("qr", Sizes(nt=2, tile_size=4))
    with pytest.raises(AbsentError, match="its C tasks are potrf, trsm, syrk, gemm; this graph has geqrt"):
        tw.run(qr.graph, qr.data(), backend=made(OpenMP))
    single = {"A": tw.TiledMatrix.view(np.eye(4, dtype="float32"), 2)}
    with pytest.raises(AbsentError, match=r"row-major tiles of float64; potrf\(0\) has another"):
        tw.run(tw.cholesky_graph(2), single, backend=made(OpenMP))


@pytest.mark.parametrize(
    ("script", "said"), [(None, "no C compiler"), ("#!/bin/sh\necho no omp.h >&2\nexit 1\n", "no omp.h")]
)
def test_without_a_compiler_openmp_is_absent_in_a_sentence(tmp_path, monkeypatch, script, said):
    if script is not None:
        (tmp_path / "cc").write_text(script)
        (tmp_path / "cc").chmod(0o755)
        os.symlink(shutil.which("sh"), tmp_path / "sh")
        os.symlink(shutil.which("echo"), tmp_path / "echo")
    monkeypatch.setenv("PATH", str(tmp_path))
    openmp._driver.cache_clear()
    try:
        graph, _, data = cholesky()
        table = tw.compare_engines(graph, data, ["threads", "openmp"], workers=2, repeat=1)
    finally:
        openmp._driver.cache_clear()
    assert [row.engine for row in table] == ["threads"]
    assert said in table.absent["openmp"]
    assert f"openmp is not here: {table.absent['openmp']}" in str(table)


def slow(seconds, seen=None):
    """An engine that takes so long to begin."""

    class Slow(Futures):
        name = "slow"

        def carry_out(self, program, workers):
            time.sleep(seconds)
            if seen is not None:
                seen.append(seconds)
            return super().carry_out(program, workers)

    return Kind("for a test", lambda shape, stack: (Slow(), {}), listens=False)


def test_engines_are_compared_by_whole_calls_over_serial(monkeypatch):
    monkeypatch.setitem(ENGINES, "late", slow(0.05))
    graph, _, data = cholesky()
    table = tw.compare_engines(graph, data, ["late", "threads"], workers=2)
    assert [row.engine for row in table] == [row.name for row in table] == ["threads", "late"]
    assert [row.scheduler for row in table] == ["critical-path", ""]
    late = table.rows[1]
    assert late.call > 0.05 > late.makespan and not late.ties
    for row, rounds in zip(table.rows, table.rounds, strict=True):
        assert row.fastest <= row.call <= row.slowest and row.call in rounds and len(rounds) == 5
        assert row.speedup == row.alone / row.call
        assert row.behind == row.call / table.best().call - 1
    assert table.verdict().startswith("2 workers: threads wins; late is ")
    lines = str(table).splitlines()
    assert "whole calls, speed-up over serial" in lines[0] and lines[1].split()[:2] == ["workers", "call"]
    assert table.to_pandas().engine.tolist() == ["threads", "late"]
    assert re.search("<th[^>]*>call</th>", table._repr_html_())


def test_rounds_alternate_and_one_run_of_each_comes_before_all(monkeypatch):
    seen, made_data = [], []
    monkeypatch.setitem(ENGINES, "a", slow(0.001, seen))
    monkeypatch.setitem(ENGINES, "b", slow(0.002, seen))
    graph, a, _ = cholesky()

    def data():
        made_data.append(1)
        return {"A": tw.TiledMatrix.view(a.copy(), 20)}

    told = []
    tw.compare_engines(graph, data, ["a", "b"], workers=1, repeat=3, progress=told.append)
    assert seen == [0.001, 0.002, 0.001, 0.002, 0.001, 0.002, 0.002, 0.001]  # serial, a, b; a, b, serial; b, serial, a
    assert len(made_data) == 3 * (1 + 3)
    assert told[-1] == 3 * 3 * len(graph)


def test_an_exception_of_a_task_is_not_taken_for_an_engine_that_is_absent():
    graph, _, data = cholesky()
    data["A"][0, 0][:] = -np.eye(20)
    with pytest.raises(tw.NotPositiveDefiniteError):
        tw.compare_engines(graph, data, ["threads"], workers=1)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["thread"], "unknown engine 'thread'; known: serial, .*; did you mean threads"),
        (["mpi:2"], "'mpi:2' is not like mpi:2x1, ranks and workers of each"),
        (["threads:2x1"], "unknown engine 'threads:2x1'"),
        ([], "engines must name at least one"),
    ],
)
def test_wrong_engines_are_named(names, said):
    with pytest.raises(ValueError, match=said):
        tw.compare_engines(tw.cholesky_graph(1), {}, names)


def test_ranks_and_workers_of_a_name():
    assert engines._shape("mpi:3x2", 8) == (engines._Shape(6, 3))
    assert engines._shape("mpi", 8) == engines._Shape(8) and engines._shape("serial", 8) == engines._Shape(1)
