"""Engines side by side; what needs ranks or a cluster is in `tests/runtime/backends/test_conformance.py`."""

import os
import re
import shutil
import threading
import time
from contextlib import ExitStack

import numpy as np
import pytest

import tilewright as tw
from tilewright.studies import engines, openmp, starpu
from tilewright.studies.baselines import AbsentError, DaskThreaded, Futures
from tilewright.studies.engines import ENGINES, Kind
from tilewright.studies.openmp import OpenMP
from tilewright.studies.starpu import StarPU
from tilewright.studies.workloads import Sizes, workload

STAND_IN = """
/* In the place of StarPU's header: what starpu.c calls, where each task runs as it is submitted. */
#include <stdint.h>
#include <stdlib.h>
#include <time.h>
enum { STARPU_R = 1, STARPU_RW = 3, STARPU_MAIN_RAM = 0 };
typedef struct { uintptr_t data; uint32_t lead, nx, ny; } *starpu_data_handle_t;
struct starpu_conf { int ncpus, ncuda, nopencl, catch_signals; };
struct starpu_codelet { void (*cpu_funcs[1])(void **, void *); int nbuffers, modes[8]; const char *name; };
struct starpu_task { struct starpu_codelet *cl; void *cl_arg; starpu_data_handle_t handles[8]; };
static int workers, awake;
static void starpu_conf_init(struct starpu_conf *conf) { conf->ncpus = -1; }
static int starpu_init(struct starpu_conf *conf) { workers = conf->ncpus; awake = 1; return workers > 4 ? -19 : 0; }
static unsigned starpu_cpu_worker_get_count(void) { return workers == 4 ? 3 : workers; }
static void starpu_pause(void) { awake--; }
static void starpu_resume(void) { awake++; }
static void starpu_shutdown(void) { workers = 0; }
static int starpu_worker_get_id(void) { return workers - 1; }
static void starpu_matrix_data_register(starpu_data_handle_t *handle, int node, uintptr_t data, uint32_t lead,
                                        uint32_t nx, uint32_t ny, size_t size)
{
    *handle = malloc(sizeof **handle);
    (*handle)->data = data, (*handle)->lead = lead, (*handle)->nx = nx, (*handle)->ny = ny;
}
static void starpu_data_unregister(starpu_data_handle_t handle) { free(handle); }
static struct starpu_task *starpu_task_create(void) { return calloc(1, sizeof(struct starpu_task)); }
static int starpu_task_submit(struct starpu_task *task)
{
    for (int place = 0; place < task->cl->nbuffers; place++) /* tiles of 20 columns at most, ten rows at least */
        if (awake != 1 || !task->handles[place]->data || task->handles[place]->nx > 20 || task->handles[place]->ny < 10
            || task->handles[place]->lead < 20)
            return -22;
    task->cl->cpu_funcs[0]((void **)0, task->cl_arg);
    free(task);
    return 0;
}
static void starpu_task_wait_for_all(void) {}
static double starpu_timing_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1e6 + now.tv_nsec * 1e-3;
}
"""

BASELINES = [Futures, pytest.param(DaskThreaded, marks=pytest.mark.needs("dask", "distributed")), OpenMP, StarPU]
compiled = pytest.mark.skipif(shutil.which("cc") is None, reason="without a C compiler there is no OpenMP here")


@pytest.fixture
def made():
    """An engine of that class, closed after the test; where it is not here, the test is skipped."""
    with ExitStack() as stack:

        def make(baseline):
            try:
                engine = baseline()
            except AbsentError as error:
                pytest.skip(str(error))
            return stack.enter_context(engine) if hasattr(engine, "close") else engine

        yield make


def cholesky(n=90, tile_size=20):
    a = tw.random_spd(n, seed=3)
    return tw.cholesky_graph(-(-n // tile_size)), a, {"A": tw.TiledMatrix.view(a.copy(), tile_size)}


def threads_of_process():
    return {thread.name for thread in threading.enumerate()}


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("baseline", BASELINES)
def test_a_baseline_computes_the_factor_and_says_when_each_task_ran(baseline, workers, made):
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
def test_a_baseline_runs_any_graph_as_the_plain_loop_does(baseline, name, sizes, made):
    work = workload(name, Sizes(tile_size=16, **sizes))
    ours, theirs = (
        tw.run(work.graph, work.data(), backend="serial"),
        tw.run(work.graph, work.data(), backend=made(baseline)),
    )
    theirs.trace.check()
    for handle in work.graph.results:
        assert np.array_equal(ours[handle], theirs[handle])


@pytest.mark.parametrize("baseline", BASELINES)
def test_a_task_that_fails_ends_a_baseline_s_run_and_is_named(baseline, made):
    graph, _, data = cholesky()
    data["A"][2, 2][:] = -np.eye(20)
    with pytest.raises(tw.NotPositiveDefiniteError, match=r"potrf\(2\)") as caught:
        tw.run(graph, data, backend=made(baseline), workers=2)
    assert "in task potrf(2)" in caught.value.__notes__[0] and baseline.name in caught.value.__notes__[0]


@pytest.mark.parametrize("baseline", BASELINES)
def test_a_baseline_runs_an_empty_graph(baseline, made):
    assert tw.run(tw.cholesky_graph(0), {}, backend=made(baseline)).makespan == 0


@compiled
@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="threads are counted by the kernel of Linux")
@pytest.mark.parametrize("baseline", [OpenMP, StarPU])
def test_tasks_of_c_leave_no_threads(baseline, made):
    graph, _, data = cholesky()
    engine = made(baseline)
    before = len(os.listdir("/proc/self/task"))
    tw.run(graph, data, backend=engine, workers=2)
    if baseline is StarPU:
        engine.close()
    until = time.monotonic() + 10
    while len(os.listdir("/proc/self/task")) > before and time.monotonic() < until:
        time.sleep(0.001)  # the kernel takes a moment
    assert len(os.listdir("/proc/self/task")) <= before


@compiled
@pytest.mark.parametrize("baseline", [OpenMP, StarPU])
def test_tasks_of_c_say_which_graphs_they_are_not_for(baseline, made):
    qr = workload("qr", Sizes(nt=2, tile_size=4))
    with pytest.raises(AbsentError, match="its C tasks are potrf, trsm, syrk, gemm; this graph has geqrt"):
        tw.run(qr.graph, qr.data(), backend=made(baseline))
    single = {"A": tw.TiledMatrix.view(np.eye(4, dtype="float32"), 2)}
    with pytest.raises(AbsentError, match=r"row-major tiles of float64; potrf\(0\) has another"):
        tw.run(tw.cholesky_graph(2), single, backend=made(baseline))


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


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """StarPU's driver, built with the header above in the place of StarPU's; what pkg-config says is in a file."""
    (tmp_path / "starpu.h").write_text(STAND_IN)
    (tmp_path / "pkg-config").write_text(f"#!/bin/sh\ntest $3 = starpu-1.3 && echo -I{tmp_path} -L{tmp_path}\n")
    (tmp_path / "pkg-config").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    starpu._driver.cache_clear()
    yield tmp_path
    starpu._driver.cache_clear()


@compiled
def test_the_driver_of_starpu_registers_tiles_and_reports_its_tasks(stand_in):
    graph, a, data = cholesky()
    before = dict(os.environ)
    with StarPU() as engine:
        for workers in (2, 2, 3):
            run = tw.run(graph, {"A": tw.TiledMatrix.view(a.copy(), 20)}, backend=engine, workers=workers)
            run.trace.check()
            assert {record.worker for record in run.trace} == {workers - 1}
            assert np.tril(run.store.families["A"].to_numpy()) == pytest.approx(np.linalg.cholesky(a), rel=1e-12)
        data["A"][2, 2][:] = -np.eye(20)
        with pytest.raises(tw.NotPositiveDefiniteError, match=r"potrf\(2\)"):
            tw.run(graph, data, backend=engine, workers=2)
        with pytest.raises(AbsentError, match="StarPU refused a task"):
            tw.run(tw.cholesky_graph(1), {"A": tw.TiledMatrix.view(np.eye(30), 30)}, backend=engine, workers=2)
    assert dict(os.environ) == before
    assert np.diagonal(data["A"].to_numpy())[:20] == pytest.approx(np.diagonal(np.linalg.cholesky(a))[:20])


@compiled
@pytest.mark.parametrize(
    ("workers", "said"), [(4, "StarPU has 3 workers here, not 4"), (5, r"StarPU does not start \(-19\)")]
)
def test_starpu_that_gives_fewer_workers_is_absent(stand_in, workers, said):
    graph, _, data = cholesky()
    table = tw.compare_engines(graph, data, ["threads", "starpu"], workers=workers, repeat=1)
    assert [row.engine for row in table] == ["threads"] and re.fullmatch(said, table.absent["starpu"])


@compiled
@pytest.mark.parametrize(
    ("script", "said"),
    [
        (None, "no pkg-config to find StarPU with; on Debian and Ubuntu, apt install"),
        ("exit 1", "pkg-config knows no StarPU; on Debian"),
        ("echo -include no-such.h", "its tasks cannot be built here .*no-such.h"),
    ],
)
def test_where_starpu_is_missing_it_is_absent_in_a_sentence(stand_in, monkeypatch, script, said):
    if script is None:
        (stand_in / "pkg-config").unlink()
        monkeypatch.setenv("PATH", str(stand_in))
    else:
        (stand_in / "pkg-config").write_text(f"#!/bin/sh\n{script}\n")
    with pytest.raises(AbsentError, match=said):
        StarPU()


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
