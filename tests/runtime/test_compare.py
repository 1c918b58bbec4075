import re
import sys

import numpy as np
import pytest

import tilewright as tw
from tilewright.schedulers import SCHEDULERS
from tilewright.schedulers.lifo import Lifo


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


def test_the_text_has_a_line_for_every_row(table):
    text = str(table)
    assert text.splitlines()[0] == "cholesky nt=8: 120 tasks, backend simulate, times in units of task weight"
    assert len([line for line in text.splitlines() if line]) == 2 + len(table)


def test_the_data_frame_has_the_fields_of_a_row(table):
    frame = table.to_pandas()
    assert list(frame.columns) == list(tw.compare.Row.__dataclass_fields__)
    assert frame.groupby("workers").makespan.min().to_dict() == {1: 512.0, 8: table.best(8).makespan}


def test_the_figure_is_a_picture(table, tmp_path):
    table.plot(tmp_path / "compare.png")
    assert (tmp_path / "compare.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    table.plot(tmp_path / "compare.svg")
    # Without user priorities prio is eager, and two equal curves are one line with both names.
    assert re.search("eager.*, prio", (tmp_path / "compare.svg").read_text())


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
    assert len(made) == 2


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
    with pytest.raises(ImportError, match=r"pip install 'tilewright\[frames\]'"):
        table.to_pandas()


def test_a_notebook_shows_the_table():
    shown = tw.compare_schedulers(tw.cholesky_graph(4), [1, 2], schedulers=["eager", "lifo"])._repr_html_()
    assert shown.count("<tr") == 5
    assert shown.count("<tr class=ruled>") == 1  # between one worker and two


def test_options_of_the_backend_are_passed_on():
    graph = tw.cholesky_graph(6)
    machine = tw.Machine(ranks=4, alpha=1e-3, beta=1e-4, gamma=1e-9, tile_size=8)
    trees = [
        tw.compare_schedulers(
            graph, 1, schedulers=["eager"], machine=machine, owner=tw.BlockCyclic(2, 2), broadcast=tree
        ).rows[0].makespan
        for tree in ("star", "chain")
    ]  # fmt: skip
    assert trees[0] != trees[1]


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
