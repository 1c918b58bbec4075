"""run(): arguments, results, and graphs that run more than once or at the same time."""

import dataclasses
import threading

import numpy as np
import pytest

import tilewright as tw
from tilewright import RW, R, TaskGraph, TaskRecord, Trace
from tilewright.runs.text import weight_unit


def axpy(x, y, alpha):
    y += alpha * x


def chain(length):
    g = TaskGraph("chain")
    x, y = g.handle("x"), g.handle("y")
    for step in range(length):
        g.insert(axpy, R(x), RW(y), float(step))
    return g


def data():
    return {"x": np.ones(3), "y": np.zeros(3)}


class TestArguments:
    def test_unknown_backend_lists_the_known(self):
        with pytest.raises(ValueError, match="unknown backend 'nope'; known: serial, threads"):
            tw.run(chain(1), data(), backend="nope")

    def test_unknown_scheduler_lists_the_known(self):
        with pytest.raises(
            ValueError, match="unknown scheduler 'nope'; known: eager, lifo, random, critical-path, lws"
        ):
            tw.run(chain(1), data(), scheduler="nope")

    @pytest.mark.parametrize("scheduler", [object(), tw.SCHEDULERS["eager"], None], ids=["object", "class", "None"])
    def test_scheduler_without_the_three_methods_is_an_error(self, scheduler):
        with pytest.raises(TypeError, match="a name or an object with prepare, push and pop, not "):
            tw.run(chain(1), data(), scheduler=scheduler)

    @pytest.mark.parametrize("workers", [0, -2])
    def test_workers_must_be_positive(self, workers):
        with pytest.raises(ValueError, match=f"workers must be at least 1, not {workers}"):
            tw.run(chain(1), data(), workers=workers)

    @pytest.mark.parametrize("workers", [1.0, "2", True])
    def test_workers_must_be_an_integer(self, workers):
        with pytest.raises(TypeError, match=f"workers must be an integer, not {workers!r}"):
            tw.run(chain(1), data(), workers=workers)

    def test_unknown_backend_lists_the_simulator_too(self):
        with pytest.raises(
            ValueError, match="unknown backend 'simulator'; known: serial, threads, mpi, dask, simulate"
        ):
            tw.run(chain(1), data(), backend="simulator")

    @pytest.mark.parametrize("graph", [None, [axpy]], ids=["None", "list"])
    def test_only_a_graph_runs(self, graph):
        for call in (tw.run, tw.simulate):
            with pytest.raises(TypeError, match="a run wants a TaskGraph, not "):
                call(graph)

    @pytest.mark.parametrize("call", [tw.run, tw.simulate])
    def test_a_number_is_no_machine(self, call):
        with pytest.raises(TypeError, match=r"machine is a Machine, such as Machine\(workers=4\), not 4"):
            call(chain(1), data=data(), machine=4)

    @pytest.mark.parametrize(
        ("backend", "threads", "message"),
        [
            ("threads", "2", "an integer, not '2'"),
            ("threads", 0, "at least 1, not 0"),
            ("mpi", 2, "1 for backend 'mpi'"),
        ],
    )
    def test_threads_per_task_are_a_number_that_the_backend_can_have(self, backend, threads, message):
        with pytest.raises((TypeError, ValueError), match=f"threads_per_task must be {message}"):
            tw.run(chain(1), data(), backend=backend, threads_per_task=threads)

    @pytest.mark.parametrize(
        ("name", "hint"),
        [
            ("tilesize", "did you mean tile_size"),
            ("nworkers", "did you mean workers"),
            ("uplo", "'threads' has devices"),
        ],
    )
    def test_an_unknown_option_says_what_may_be_meant(self, name, hint):
        with pytest.raises(TypeError, match=f"unknown option {name}; .*{hint}"):
            tw.tiled_cholesky(np.eye(3), **{name: 1})

    def test_numpy_integer_is_a_number_of_workers(self):
        assert tw.run(chain(5), data(), workers=np.int64(2)).workers == 2


class TestRun:
    def test_a_name_without_a_value_is_an_error_that_lists_the_names(self):
        with pytest.raises(KeyError, match="the run has no value for z; it has x, y"):
            tw.run(chain(4), data())["z"]

    @pytest.mark.parametrize("suffix", ["png", "svg"])
    def test_a_gantt_chart_is_one_call(self, tmp_path, suffix):
        path = tmp_path / f"run.{suffix}"
        tw.run(chain(4), data()).gantt(path)
        assert path.read_bytes()[:5] in (b"\x89PNG\r", b"<?xml")

    def test_final_values_by_name_and_by_handle(self):
        run = tw.run(chain(4), data(), workers=2)
        assert np.array_equal(run["y"], np.full(3, 6.0))
        assert run[tw.Handle("y")] is run["y"]

    def test_no_more_workers_than_tasks(self):
        assert tw.run(chain(3), data(), workers=64).workers == 3

    def test_empty_graph_runs(self):
        run = tw.run(TaskGraph(), {})
        assert (len(run.trace), run.makespan, run.gflops, run.efficiency, run.idle) == (0, 0, 0, 1, 0)
        assert "0 tasks" in str(run)

    def test_run_freezes_the_graph(self):
        g = chain(2)
        tw.run(g, data())
        with pytest.raises(RuntimeError, match="frozen"):
            g.insert(axpy, R(g.handle("x")), RW(g.handle("y")), 1.0)

    @pytest.mark.parametrize("scheduler", tw.SCHEDULERS)
    def test_one_graph_runs_twice(self, scheduler):
        g = chain(10)
        first = tw.run(g, data(), scheduler=scheduler, workers=2)
        second = tw.run(g, data(), scheduler=scheduler, workers=2)
        assert np.array_equal(first["y"], np.full(3, 45.0))
        assert np.array_equal(second["y"], np.full(3, 45.0))

    def test_one_policy_object_serves_one_run_after_another(self):
        policy = tw.SCHEDULERS["critical-path"]()
        for length in (3, 12, 1):
            run = tw.run(chain(length), data(), scheduler=policy, workers=2)
            assert np.array_equal(run["y"], np.full(3, sum(range(length))))
        assert run.scheduler == "CriticalPath"

    def test_two_runs_of_one_graph_go_on_in_two_threads_at_once(self):
        """Each run's first task waits for the other run's, so neither can end before both have begun."""
        meet = threading.Barrier(2, timeout=30)

        def first(y):
            meet.wait()
            y += 1

        g = TaskGraph()
        x, y = g.handle("x"), g.handle("y")
        g.insert(first, RW(y))
        for step in range(50):
            g.insert(axpy, R(x), RW(y), float(step))
        results = {}

        def go(name):
            results[name] = tw.run(g, data(), workers=2)

        callers = [threading.Thread(target=go, args=(name,)) for name in "ab"]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
        for run in results.values():
            run.trace.check()
            assert np.array_equal(run["y"], np.full(3, 1226.0))
        assert results["a"]["y"] is not results["b"]["y"]

    def test_run_inside_a_task_of_a_run(self):
        def outer(y):
            y += tw.run(chain(4), data(), workers=2)["y"]

        g = TaskGraph()
        g.insert(outer, RW(g.handle("y")))
        assert np.array_equal(tw.run(g, {"y": np.zeros(3)})["y"], np.full(3, 6.0))

    def test_flops_sum_the_formulas_and_count_complex_four_times(self):
        n, nb = 12, 4
        real = tw.tiled_cholesky(np.eye(n), tile_size=nb, return_run=True)[1]
        assert real.flops == pytest.approx(n**3 / 3)
        wide = tw.tiled_cholesky(np.eye(n, dtype=complex), tile_size=nb, return_run=True)[1]
        assert wide.flops == pytest.approx(4 * n**3 / 3)
        assert wide.gflops == pytest.approx(wide.flops / wide.makespan / 1e9)

    def test_flops_of_each_task_are_computed_once(self):
        calls = []
        g = TaskGraph()
        x, y = g.handle("x"), g.handle("y")
        for _ in range(3):
            g.insert(tw.Op("known", axpy, flops=lambda *shapes: calls.append(shapes) or 6), R(x), RW(y), 1.0)
        run = tw.run(g, data(), backend="serial")
        calls.clear()
        assert run.rated and run.flops == 18 and run.gflops == 18 / run.makespan / 1e9 and "GFLOP/s" in str(run)
        assert len(calls) == 3

    @pytest.mark.parametrize(("counted", "others", "shown"), [(9.0, 1.0, True), (5.0, 5.0, True), (1.0, 9.0, False)])
    def test_a_rate_is_printed_where_most_time_was_in_tasks_whose_flops_are_known(self, counted, others, shown):
        g = TaskGraph()
        x, y = g.handle("x"), g.handle("y")
        g.insert(tw.Op("known", axpy, flops=lambda *shapes: 6), R(x), RW(y), 1.0)
        g.insert(axpy, R(x), RW(y), 1.0)
        run = tw.run(g, data(), backend="serial")
        records = [TaskRecord(0, 0, 0.0, counted), TaskRecord(1, 0, counted, counted + others)]
        run = dataclasses.replace(run, trace=Trace(g, 1, records))
        assert (run.rated, "GFLOP/s" in str(run).partition("lower bounds")[0]) == (shown, shown)

    def test_bounds_are_below_the_makespan_and_idle_is_a_share(self):
        run = tw.tiled_cholesky(np.eye(60), tile_size=10, workers=2, return_run=True)[1]
        assert 0 < run.bounds.lower <= run.makespan
        assert run.of_bound == pytest.approx(run.bounds.lower / run.makespan)
        assert run.efficiency == pytest.approx(run.bounds.area / run.makespan) == pytest.approx(1 - run.idle)
        assert 0 <= run.idle < 1
        assert run.idle == pytest.approx(1 - sum(run.trace.durations) / (2 * run.makespan))

    def test_report_has_a_row_per_op_and_names_engine_and_policy(self):
        text = str(tw.tiled_cholesky(np.eye(40), tile_size=10, workers=2, scheduler="lws", return_run=True)[1])
        assert "2 workers, backend threads, scheduler lws" in text
        rows = {line.split()[0]: line.split()[1] for line in text.splitlines()[5:]}
        assert {op: rows[op] for op in ("potrf", "trsm", "syrk", "gemm")} == {
            "potrf": "4",
            "trsm": "6",
            "syrk": "6",
            "gemm": "4",
        }

    def test_repr_names_graph_tasks_engine_policy_and_workers(self):
        run = tw.run(chain(2), data(), backend="serial", scheduler="eager")
        assert repr(run).startswith("Run('chain', 2 tasks, backend='serial', scheduler='eager', workers=1, makespan=")

    def test_the_unit_of_a_makespan_is_that_of_the_machine(self):
        graph = tw.cholesky_graph(6)
        assert repr(tw.simulate(graph)).endswith("makespan=216 units of nb^3/3 flops)")
        sums = tw.comm.allreduce(ranks=2, n=4)
        assert weight_unit(sums) == "units of task weight" != weight_unit(graph)  # none of its tasks has any
        seconds = dict.fromkeys(("potrf", "trsm", "syrk", "gemm"), 1.0)
        assert repr(tw.simulate(graph, tw.Machine(durations=seconds))).endswith("makespan=56 s)")

    @pytest.mark.parametrize("backend", ["serial", "threads"])
    @pytest.mark.parametrize("workers", [1, 2])
    def test_progress_bar_goes_to_standard_error(self, capfd, backend, workers):
        tw.run(chain(5), data(), backend=backend, workers=workers, progress=True)
        out, err = capfd.readouterr()
        assert out == ""
        assert "5/5" in err
        assert "left" in err

    @pytest.mark.parametrize("backend", ["serial", "threads"])
    def test_progress_may_be_a_function_of_the_number_of_tasks_done(self, backend):
        told = []
        tw.run(chain(5), data(), backend=backend, workers=2, progress=told.append)
        assert told[-1] == 5
        assert told == sorted(told)

    def test_the_bar_shows_the_rate_of_kernels(self, capfd):
        tw.tiled_cholesky(np.eye(40) * 2, tile_size=10, workers=2, progress=True)
        assert "GFLOP/s" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("call", "arguments", "options", "message"),
    [
        (tw.run, (chain(1), data()), {"workrs": 2}, "run: unknown option workrs; did you mean workers"),
        (tw.run, (chain(1),), {"backend": "simulate", "nois": 1}, "run: unknown option nois; did you mean noise"),
        (
            tw.tiled_cholesky,
            (np.eye(3),),
            {"threads_per_task": 2},
            "tiled_cholesky: unknown option threads_per_task; backend",
        ),
        (
            tw.tiled_cholesky,
            (np.eye(3),),
            {"backend": "mpi", "grd": 2},
            "tiled_cholesky: unknown option grd; did you mean grid",
        ),
        (
            tw.tiled_cholesky,
            (np.eye(3),),
            {"precision": "bf16", "grid": (1, 1)},
            "tiled_cholesky: unknown option grid; backend",
        ),
        (
            tw.solve,
            (np.eye(3), np.ones(3)),
            {"return_run": True},
            "solve: unknown option return_run; did you mean return_info",
        ),
        (
            tw.cho_solve,
            (np.eye(3), np.ones(3)),
            {"uplo": "L"},
            "cho_solve: unknown option uplo; backend 'threads' has devices",
        ),
        (tw.logdet, (np.eye(3),), {"lower": False}, "logdet: unknown option lower; (did you mean workers|backend)"),
        (tw.logdet, (np.eye(3),), {"check_finite": False}, "logdet: unknown option check_finite; "),
        (
            tw.compare_schedulers,
            (chain(1),),
            {"scheduler": "eager"},
            "compare_schedulers: .* scheduler; did you mean schedulers",
        ),
        (
            tw.compare_schedulers,
            (chain(1),),
            {"broadcst": "star"},
            "compare_schedulers: .* broadcst; did you mean broadcast",
        ),
        (
            tw.training.fit,
            (None, None),
            {"return_run": True},
            "fit: unknown option return_run; backend 'threads' has machine",
        ),
        (tw.training.fit, (None, None), {"batchsize": 3}, "fit: unknown option batchsize; did you mean batch_size"),
        (tw.training.compare, (None, None), {"epocs": 3}, "compare: unknown option epocs; did you mean epochs"),
    ],
)
def test_an_unknown_option_is_refused_by_the_call_itself_and_never_suggested(call, arguments, options, message):
    with pytest.raises(TypeError, match=message) as refused:
        call(*arguments, **options)
    for name in options:
        assert f"did you mean {name}?" not in str(refused.value)


def in_three_tiles():
    return tw.cholesky_graph(3), {"A": tw.TiledMatrix.from_numpy(9 * np.eye(6), 2)}


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"backend": "mpi", "pool": 3}, TypeError, "pool must be a tw.mpi.Pool, not 3"),
        ({"backend": "mpi", "comm": 3}, TypeError, "comm must be a communicator of mpi4py, not 3"),
        ({"backend": "mpi", "window": -1}, ValueError, "window must be at least 1, not -1"),
        ({"backend": "mpi", "window": 0}, ValueError, "window must be at least 1, not 0"),
        ({"backend": "mpi", "window": "a"}, TypeError, "window must be an integer, not 'a'"),
        ({"backend": "mpi", "synchronous": "yes"}, TypeError, "synchronous must be True or False, not 'yes'"),
        (
            {"backend": "mpi", "grid": (1.5, 1)},
            TypeError,
            r"grid must be two positive integers \(P, Q\), not \(1.5, 1\)",
        ),
        (
            {"backend": "mpi", "workers": 2, "owner": 7},
            ValueError,
            r"owner of A\[0,0\] is 7, not one of the ranks 0 to 1",
        ),
        ({"backend": "dask", "window": -1}, ValueError, "window must be a positive number, not -1"),
        ({"backend": "dask", "client": 3}, TypeError, "client must be a distributed.Client, not int"),
        ({"backend": "dask", "overheads": 3}, TypeError, "overheads are up to three numbers, .* not 3"),
        (
            {"backend": "threads", "devices": 1},
            TypeError,
            r"devices is a list of accelerators, such as \['cuda'\], not 1",
        ),
        ({"return_run": True}, TypeError, r"run\(\) has no argument return_run: the Run is what it returns"),
        ({"return_run": True, "backend": "simulate"}, TypeError, r"run\(\) has no argument return_run"),
        ({"tile_size": 3}, TypeError, "run: unknown option tile_size; backend 'threads' has devices"),
        ({"machin": 3}, TypeError, "unknown option machin; did you mean machine"),
    ],
)
def test_a_wrong_option_is_refused_in_the_words_of_the_call(options, kind, message):
    graph, data = in_three_tiles()
    with pytest.raises(kind, match=message):
        tw.run(graph, data, **options)


def test_an_owner_that_is_no_rank_is_named_with_a_handle_that_the_user_knows():
    with pytest.raises(ValueError, match=r"owner of A\[0,0\] is 7"):
        tw.tiled_cholesky(9 * np.eye(6), tile_size=2, backend="mpi", workers=2, owner=7)


@pytest.mark.parametrize(
    ("graph", "given", "message"),
    [
        (
            tw.cholesky_graph(2),
            {"A": tw.TiledMatrix.view(np.eye(6), 2)},
            "A has 3 x 3 tiles, but graph .* is for 2 x 2",
        ),
        (tw.cholesky_graph(3), {"A": tw.TiledMatrix.view(np.eye(6), 2), "B": np.eye(2)}, "data has B, .* uses A"),
    ],
)
def test_data_that_the_graph_does_not_use_is_refused(graph, given, message):
    with pytest.raises(ValueError, match=message):
        tw.run(graph, given)


@pytest.mark.parametrize("lower", [True, False])
@pytest.mark.parametrize(("i", "j"), [(0, 0), (5, 2)])
def test_a_factor_that_is_not_finite_solves_nothing(lower, i, j):
    factor = np.tril(np.ones((6, 6))) + np.eye(6)
    factor[i, j] = np.nan
    factor = factor if lower else factor.T.copy()
    with pytest.raises(ValueError, match="L has a NaN or infinity at"):
        tw.cho_solve(factor, np.zeros(6), lower=lower, tile_size=2)
