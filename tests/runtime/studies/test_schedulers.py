import re
import sys
import time
from dataclasses import replace

import numpy as np
import pytest

import tilewright as tw
from tilewright.comm.grid import Grid
from tilewright.comm.matvec_graph import matvec_graph
from tilewright.schedulers import SCHEDULERS, fitting
from tilewright.schedulers.lifo import Lifo
from tilewright.studies import schedulers
from tilewright.studies.schedulers import Row
from tilewright.studies.table import Table, row_of


@pytest.fixture(scope="module")
def table():
    return tw.compare_schedulers(tw.cholesky_graph(8), workers=[1, 8])


def test_every_policy_is_compared_on_every_number_of_workers(table):
    assert {(row.scheduler, row.workers) for row in table} == {(name, p) for name in SCHEDULERS for p in (1, 8)}


def test_a_row_is_its_run(table):
    for row, run in zip(table.rows, table.runs, strict=True):
        assert (row.scheduler, row.workers, row.makespan) == (run.scheduler, run.workers, run.makespan)
        assert row.ratio == row.makespan / max(512 / row.workers, 62) >= 1
        assert row.speedup == pytest.approx(512 / row.makespan)
        assert row.idle == pytest.approx(1 - row.speedup / row.workers)
        assert row.memory == 36 * 256 * 256 * 8
        assert row.fastest == row.makespan == row.slowest


def test_rows_are_ordered_by_workers_then_makespan(table):
    keys = [(row.workers, row.makespan) for row in table]
    assert keys == sorted(keys)
    assert table.best(8).makespan == min(row.makespan for row in table if row.workers == 8)
    with pytest.raises(ValueError, match="on 5 workers"):
        table.best(5)


def test_the_text_has_every_policy_once_on_each_number_of_workers_and_who_wins(table):
    lines = str(table).splitlines()
    assert lines[0] == ("cholesky nt=8: 120 tasks, backend simulate, times in units of nb^3/3 flops, 18 MiB of data")
    body = " ".join(lines[2:-4])
    for name in SCHEDULERS:
        assert len(re.findall(rf"(?<![\w-]){re.escape(name)}(?![\w-])", body)) == 2
    assert max(map(len, lines[1:-3])) <= 104
    assert lines[-3:] == [table.verdict(1), table.verdict(8), table.advice()]
    assert table.verdict(1) == "1 worker: all 17 policies tie."


def test_the_best_row_its_ties_and_how_far_the_others_are_behind(table):
    best = table.best(8)
    for row in table:
        shortest = 512 if row.workers == 1 else best.makespan
        assert row.behind == pytest.approx(row.makespan / shortest - 1)
        assert row.ties == (row.makespan == shortest)
        assert row.efficiency == pytest.approx(512 / (row.workers * row.makespan)) == pytest.approx(1 - row.idle)
    assert table.best() == best
    assert {row.scheduler for row in table.ties(8)} == {
        row.scheduler for row in table if row.workers == 8 and row.makespan == best.makespan
    } - {best.scheduler}
    assert best.scheduler in table.verdict()
    worst = table.rows[-1]
    assert table.verdict(8).endswith(f" behind, {worst.scheduler} {worst.behind:.0%}.")


def test_advice_is_what_loses_least_where_it_loses_most_and_what_limits_it(table):
    worst = {name: max(row.behind for row in table if row.scheduler == name) for name in SCHEDULERS}
    name = min(worst, key=lambda name: (worst[name], name))
    run = next(
        run for row, run in zip(table.rows, table.runs, strict=True) if (row.scheduler, row.workers) == (name, 8)
    )
    limit = run.verdict.sentence
    assert worst[name] == 0
    assert (
        table.advice()
        == f"Take {name}: none is faster on any number of workers. On 8 workers, {limit[0].lower()}{limit[1:]}"
    )
    one = tw.compare_schedulers(tw.cholesky_graph(8), 8, schedulers=["lifo"])
    assert one.advice().startswith("Take lifo: none is faster on 8 workers. There, ")


@pytest.mark.parametrize(
    ("seconds", "column", "words"),
    [
        (103, "3.0%", "3.0% behind"),
        (250, "150%", "150% behind"),
        (300, "200%", "200% behind"),
        (301, "3.0x", "3.0 times as slow"),
        (1000, "10x", "10 times as slow"),
        (4002, "40x", "40 times as slow"),
        (1_234_567, "12346x", "12346 times as slow"),
    ],
)
def test_far_behind_is_said_as_a_factor(seconds, column, words):
    g = tw.TaskGraph("two")
    g.insert(tw.Op("nap", weight=1), tw.W(g.handle("x")))
    run = tw.simulate(g, tw.Machine(workers=2))

    def table(**makespans):
        rows = [
            (
                replace(row_of([run], [1.0], scheduler=name)[0], makespan=float(makespan), workers=workers),
                run,
                [makespan],
            )
            for name, of in makespans.items()
            for workers, makespan in of.items()
        ]
        return Table({"": g}, "simulate", rows)

    found = table(good={2: 100}, near={2: 101}, bad={2: seconds})
    assert [row.distance for row in found] == ["tie", "1.0%", column]
    tail = words if "times" in words else column
    assert found.verdict() == f"2 workers: good wins; near is 1.0% behind, bad {tail}."
    assert table(good={2: 100}, bad={2: seconds}).verdict() == f"2 workers: good wins; bad is {words}."
    crossed = table(a={2: 100, 4: seconds}, b={2: 10 * seconds, 4: 100})
    assert crossed.advice().startswith(f"Take a: at most {words}{' as' * ('times' in words)} the best on any number")
    assert f" {column:>6} " in str(found) and f">{column}<" in found._repr_html_()


def test_on_an_engine_the_sign_test_says_who_wins_and_who_ties(monkeypatch):
    """lifo is behind in each of five rounds, prio twice ahead of eager and three times behind; the first run is none."""
    seconds = {"eager": [99.0, *[8.0] * 5], "lifo": [30.0] * 5, "prio": [2.0, 14.0, 14.0, 2.0, 14.0]}
    left = {}

    def run(graph, data, *, backend, scheduler, workers, machine, progress):
        assert backend == "threads" and workers == 1
        g = tw.TaskGraph("nap")
        g.insert(tw.Op("nap", weight=next(left[scheduler])), tw.W(g.handle("x")))
        return tw.simulate(g, scheduler=scheduler)

    def compared(repeat):
        left.update({name: iter(times) for name, times in seconds.items()})
        return tw.compare_schedulers(
            tw.cholesky_graph(1), 1, backend="threads", data={"x": 0}, schedulers=list(seconds), repeat=repeat
        )

    monkeypatch.setattr(schedulers, "run", run)
    table = compared(5)
    assert {row.scheduler: (row.makespan, row.ties) for row in table} == {
        "eager": (8.0, True), "lifo": (30.0, False), "prio": (14.0, True)
    }  # fmt: skip
    assert {row.scheduler: times for row, times in zip(table.rows, table.rounds, strict=True)} == {
        name: times[-5:] for name, times in seconds.items()
    }
    assert table.verdict() == "1 worker: eager and prio tie; lifo is 3.8 times as slow."
    assert compared(2).verdict() == "1 worker: all 3 policies tie; 5 rounds could tell."


def test_rounds_begin_with_another_policy_each_and_one_run_comes_before_all():
    order = []

    class Seen(Lifo):
        def __init__(self, name):
            self.name = name

        def prepare(self, graph, machine):
            order.append(self.name)
            super().prepare(graph, machine)

    policies = [Seen("a"), Seen("b"), Seen("c")]
    g = tw.TaskGraph("one")
    g.insert(list.sort, tw.RW(g.handle("x")))
    tw.compare_schedulers(g, 1, backend="threads", data={"x": [1]}, schedulers=policies, repeat=3)
    assert order == list("a" + "abc" + "bca" + "cab")


def test_the_data_frame_has_the_fields_of_a_row(table):
    frame = table.to_pandas()
    assert list(frame.columns) == list(Row.__dataclass_fields__)
    assert frame.groupby("workers").makespan.min().to_dict() == {1: 512.0, 8: table.best(8).makespan}


def test_the_figure_is_a_picture(table, tmp_path):
    table.plot(tmp_path / "compare.png")
    assert (tmp_path / "compare.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    table.plot(tmp_path / "compare.svg")
    # Without user priorities prio is eager, and two equal curves are one line with both names.
    assert re.search("eager.*, prio", (tmp_path / "compare.svg").read_text())
    table.report(tmp_path / "compare.html")
    page = (tmp_path / "compare.html").read_text()
    heat = page[page.index('<table class="heat">') :]
    for row in table:
        assert f">{row.ratio - 1:.1%}" in heat


@pytest.mark.parametrize("counts", [[2], [1, 2], [3, 1]])
def test_speed_up_is_the_time_of_one_worker_over_that_of_p(counts):
    """Tasks that sleep longer side by side, as those that share a cache: busy time over makespan would say 2."""
    running = []

    def job(x):
        running.append(x)
        time.sleep(0.01 * len(running))
        running.pop()

    g = tw.TaskGraph()
    for k in range(4):
        g.insert(job, tw.RW(g.handles("x")[k]))
    table = tw.compare_schedulers(
        g, counts, backend="threads", data={"x": [0] * 4}, schedulers=["eager", "lifo"], repeat=2
    )
    alone = {row.scheduler: row.makespan for row in table if row.workers == 1}
    for row in table:
        assert row.speedup == row.alone / row.makespan
        if 1 in counts:
            assert row.alone == alone[row.scheduler]
        assert row.alone >= 0.04
        if row.workers == 1:
            assert row.speedup == 1


@pytest.mark.parametrize(
    "machine",
    [
        None,
        tw.Machine(ranks=2, alpha=2.0),
        tw.Machine(workers=2, gpus=1, acceleration={"gemm": 8.0}),
        tw.Machine(gamma=1e-9, overhead=1e-6, tile_size=32),
        tw.Machine(durations={"potrf": 4, "trsm": 2, "syrk": 3, "gemm": 7}),
    ],
)
def test_simulated_speed_up_is_against_one_core_with_all_the_data(machine):
    graph = tw.cholesky_graph(6)
    plain = (machine or tw.Machine()).replace(workers=1, ranks=1, gpus=0)
    one = tw.simulate(graph, plain).makespan
    for row in tw.compare_schedulers(graph, [2, 4], machine=machine, schedulers=["eager", "critical-path", "dmda"]):
        assert row.alone == pytest.approx(one, rel=1e-12)
        assert row.speedup == pytest.approx(one / row.makespan, rel=1e-12)


def test_the_page_and_the_figure_have_the_speed_up_of_the_rows(tmp_path):
    table = tw.compare_schedulers(
        tw.cholesky_graph(5), [2, 3], machine=tw.Machine(ranks=2, alpha=9.0), schedulers=["lws"]
    )
    table.report(tmp_path / "page.html")
    table.plot(tmp_path / "figure.svg")
    page = (tmp_path / "page.html").read_text()
    for row in table:
        assert f"{row.speedup:.2f}" in page and f"{row.efficiency:.1%}" in page
        assert row.speedup < (1 - row.idle) * row.workers + 1e-9


@pytest.mark.parametrize(
    "graph",
    [
        tw.comm.broadcast(ranks=4, n=100),
        tw.comm.reduce(ranks=4, n=100),
        tw.comm.allreduce(ranks=2, n=8),
        matvec_graph(Grid(64, 64, 2, 2)),
        matvec_graph(Grid(64, 64, 4, 1)),
    ],
    ids=lambda graph: graph.name,
)
def test_graphs_with_a_layout_are_compared_under_the_policies_that_only_order(graph):
    machine = tw.Machine(alpha=1e-6, beta=1e-9, gamma=1e-9)
    table = tw.compare_schedulers(graph, [1, 2], machine=machine)
    assert {row.workers for row in table} == {graph.layout.ranks, 2 * graph.layout.ranks}
    assert {row.scheduler for row in table} == set(fitting(graph)) - {"heft", "peft"}
    flops = sum(task.op.flops(*(graph.layout.shape(use.handle) for use in task.uses)) for task in graph)
    for row in table:
        assert row.alone == pytest.approx(flops * 1e-9)
        assert row.speedup == row.alone / row.makespan <= row.workers
    with pytest.raises(ValueError, match="Heft places tasks on ranks itself; the layout of graph .* only orders"):
        tw.compare_schedulers(graph, 1, machine=machine, schedulers=["heft"])
    with pytest.raises(ValueError, match="Heft places .* only orders"):
        tw.simulate(graph, machine, scheduler="heft")


def spd_tiles(n=12, tile_size=3):
    a = np.random.default_rng(0).standard_normal((n, n))
    return {"A": tw.TiledMatrix.view(a @ a.T + n * np.eye(n), tile_size)}


@pytest.mark.parametrize("options", [{}, {"grid": (1, 2)}, {"owner": lambda i, j: i % 2}])
def test_ranks_are_compared(options):
    table = tw.compare_schedulers(
        tw.cholesky_graph(4), 2, backend="mpi", data=spd_tiles(), schedulers=["eager", "lifo"], repeat=2, **options
    )
    assert [row.workers for row in table] == [2, 2]
    for row, run in zip(table.rows, table.runs, strict=True):
        assert run.backend == "mpi" and row.alone > 0
        assert row.speedup == row.alone / row.makespan


def test_windows_of_ranks_are_compared():
    vary = {"window": [1, 2**26]}
    table = tw.compare_schedulers(tw.cholesky_graph(4), 2, backend="mpi", data=spd_tiles(), vary=vary, repeat=1)
    assert {row.name for row in table} == {"window=1: critical-path", "window=67108864: critical-path"}


def test_a_layout_is_compared_on_ranks():
    graph = tw.comm.broadcast(ranks=2, n=4)
    table = tw.compare_schedulers(graph, 2, backend="mpi", data={"x": [np.arange(4.0), np.zeros(4)]}, repeat=1)
    assert {row.scheduler for row in table} == set(fitting(graph))
    assert all(np.array_equal(run.store[tw.Handle("x", (1,))], np.arange(4)) for run in table.runs)


def test_an_engine_that_does_not_listen_to_policies_is_refused():
    with pytest.raises(ValueError, match="backend 'serial' runs tasks in program order.*backend='threads'"):
        tw.compare_schedulers(tw.cholesky_graph(4), 1, backend="serial", data=spd_tiles())


def test_on_threads_each_run_has_data_of_its_own():
    a = np.random.default_rng(0).standard_normal((24, 24))
    a = a @ a.T + 24 * np.eye(24)
    before = a.copy()
    data = {"A": tw.TiledMatrix.view(a, 6)}
    schedulers = ["eager", Lifo(), "lookahead(2)"]
    table = tw.compare_schedulers(
        tw.cholesky_graph(4), workers=2, backend="threads", data=data, schedulers=schedulers, repeat=3
    )
    assert np.array_equal(a, before)
    assert {row.scheduler for row in table} == {"eager", "Lifo", "lookahead(2)"}
    factor = np.linalg.cholesky(before)
    for row, run in zip(table.rows, table.runs, strict=True):
        run.trace.check()
        assert row.fastest <= row.makespan <= row.slowest
        assert np.tril(run.store.families["A"].to_numpy()) == pytest.approx(factor)


def test_data_may_be_made_anew_by_a_function():
    made = []

    def data():
        made.append(np.eye(4))
        return {"A": tw.TiledMatrix.view(made[-1], 2)}

    tw.compare_schedulers(tw.cholesky_graph(2), 1, backend="threads", data=data, schedulers=["eager"], repeat=2)
    assert len(made) == 3  # two rounds, and the run before them


def test_with_an_owner_policies_that_place_tasks_are_left_out():
    machine = tw.Machine(ranks=2, alpha=1.0)
    table = tw.compare_schedulers(tw.cholesky_graph(4), [1, 2], machine=machine, owner=lambda h: h.index[0] % 2)
    assert {row.workers for row in table} == {2, 4}
    assert {row.scheduler for row in table} == set(SCHEDULERS) - {"heft", "peft"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "threads"}, "'threads' needs data"),
        ({"repeat": 0}, "repeat must be at least 1"),
        ({"schedulers": ["fast"]}, "unknown scheduler 'fast'"),
        ({"workers": [0]}, "workers must be at least 1"),
    ],
)
def test_wrong_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        tw.compare_schedulers(tw.cholesky_graph(2), **options)


def test_progress_counts_the_tasks_of_all_runs(capsys):
    options = {"workers": [1, 2], "schedulers": ["eager", "lifo"]}
    tw.compare_schedulers(tw.cholesky_graph(2), **options, progress=True)
    assert "16/16" in capsys.readouterr().err  # 4 runs of 4 tasks
    told = []
    tw.compare_schedulers(tw.cholesky_graph(2), **options, progress=told.append)
    assert told[-1] == 16
    assert told == sorted(told)


def test_without_pandas_a_data_frame_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    table = tw.compare_schedulers(tw.cholesky_graph(2), 1, schedulers=["eager"])
    with pytest.raises(ImportError, match=r"pip install .*\[frames\]'"):
        table.to_pandas()


def test_a_notebook_shows_the_table():
    shown = tw.compare_schedulers(tw.cholesky_graph(4), [1, 2], schedulers=["eager", "lifo"])._repr_html_()
    assert shown.count("<tr") == 3 + 4  # the heat map, and one row where all tie
    assert shown.count("<tr class=ruled>") == 1  # between one worker and two


def test_options_of_the_backend_are_passed_on():
    graph = tw.cholesky_graph(6)
    machine = tw.Machine(ranks=4, alpha=1e-3, beta=1e-4, gamma=1e-9, tile_size=8)
    trees = [
        tw.compare_schedulers(
            graph, 1, schedulers=["eager"], machine=machine, owner=tw.BlockCyclic(2, 2), broadcast=tree
        )
        .rows[0]
        .makespan
        for tree in ("star", "chain")
    ]
    assert trees[0] != trees[1]


def test_options_of_the_backend_are_varied_beside_graphs():
    """Trees of messages under two policies and for two graphs: each row is the simulation with that option."""
    machine = tw.Machine(ranks=4, alpha=1e-3, beta=1e-4, gamma=1e-9, tile_size=8)
    graphs = {"small": tw.cholesky_graph(4), "large": tw.cholesky_graph(6)}
    owner = tw.BlockCyclic(2, 2)
    options = {"machine": machine, "owner": owner}
    trees = {"broadcast": ["star", "chain"], "noise": [0.0]}
    table = tw.compare_schedulers(graphs, 1, schedulers=["eager", "lifo"], vary=trees, **options)
    for row in table:
        name, tree, noise = row.variant.split(", ")
        alone = tw.simulate(
            graphs[name], machine, scheduler=row.scheduler, owner=owner, broadcast=tree.removeprefix("broadcast=")
        )
        assert (row.makespan, noise) == (alone.makespan, "noise=0.0")
    assert (len(table) == 8 and str(table).startswith("cholesky nt=6 and 1 more graphs: ")) or "nt=4" in str(table)
    one = tw.compare_schedulers(graphs["large"], 1, vary={"broadcast": ["star", "chain"]}, **options)
    assert {row.name for row in one} == {"broadcast=star: critical-path", "broadcast=chain: critical-path"}
    assert str(one).startswith("cholesky nt=6: 56 tasks, ") and "wins; broadcast=" in one.verdict()


@pytest.mark.parametrize(
    ("vary", "error", "said"),
    [
        ({"broadcst": ["star"]}, TypeError, "broadcst.*did you mean.*broadcast"),
        ({"noise": []}, ValueError, r"vary\['noise'\] must have at least one value"),
        ({"noise": 0.1}, TypeError, "vary must be lists of values by option, not 'noise': 0.1"),
        (["noise"], TypeError, "vary must be lists of values by option, not"),
        ({"seed": [1, 2]}, ValueError, "seed is varied, and given as 3; leave one of them out"),
        ({"broadcast": ["bush"]}, ValueError, "broadcast"),
    ],
)
def test_what_cannot_be_varied_is_named(vary, error, said):
    with pytest.raises(error, match=said):
        tw.compare_schedulers(tw.cholesky_graph(2), 1, vary=vary, seed=3)


def test_noisy_simulations_are_repeated_each_with_its_own_noise():
    table = tw.compare_schedulers(tw.cholesky_graph(5), 2, schedulers=["eager"], noise=0.2, seed=4)
    assert table.rows[0].fastest < table.rows[0].makespan < table.rows[0].slowest
    again = tw.compare_schedulers(tw.cholesky_graph(5), 2, schedulers=["eager"], noise=0.2, seed=4)
    assert again.rows == table.rows


def test_an_owner_is_not_ignored_by_an_engine_without_ranks():
    with pytest.raises(TypeError, match="owner"):
        tw.compare_schedulers(
            tw.cholesky_graph(1), 1, backend="threads", data={"A": {(0, 0): np.eye(2)}}, owner=tw.BlockCyclic(1, 1)
        )


def test_graphs_that_do_the_same_in_other_ways_stand_side_by_side(tmp_path):
    """Trees of QR under two policies: each row is the simulation of its graph."""
    graphs = {tree: tw.qr_graph(8, 3, tree) for tree in ("flat", "greedy", "binary")}
    policies = ["critical-path", "lookahead(1)", "lookahead(3)"]
    table = tw.compare_schedulers(graphs, 4, schedulers=policies)
    machine = tw.Machine(workers=4)
    for row in table:
        alone = tw.simulate(graphs[row.variant], machine, scheduler=row.scheduler)
        assert row.name == f"{row.variant}: {row.scheduler}"
        assert (row.makespan, row.alone) == (alone.makespan, graphs[row.variant].work())
    assert {row.name for row in table} == {f"{tree}: {name}" for tree in graphs for name in policies}
    assert table.best().name in table.verdict() and "and 2 more graphs" in str(table)
    table.report(tmp_path / "page.html")
    assert "greedy: critical-path" in (tmp_path / "page.html").read_text()
    assert {row.scheduler for row in tw.compare_schedulers(graphs, 2)} == {"critical-path"}


def test_several_graphs_run_on_an_engine_with_data_of_their_own_or_of_all():
    def graph(times):
        g = tw.TaskGraph(f"{times} times")
        for _ in range(times):
            g.insert(add_one, tw.RW(g.handle("x")))
        return g

    graphs = {"once": graph(1), "twice": graph(2)}
    for data in ({"x": np.zeros(1)}, {"once": {"x": np.zeros(1)}, "twice": lambda: {"x": np.zeros(1)}}):
        table = tw.compare_schedulers(graphs, 1, backend="threads", data=data, repeat=1)
        assert {row.variant: run["x"][0] for row, run in zip(table.rows, table.runs, strict=True)} == {
            "once": 1,
            "twice": 2,
        }
    with pytest.raises(ValueError, match="graph must name at least one"):
        tw.compare_schedulers({})
    with pytest.raises(TypeError, match="graph: several to compare are task graphs by name, not 'x': 3"):
        tw.compare_schedulers({"x": 3})


def add_one(x):
    x += 1
