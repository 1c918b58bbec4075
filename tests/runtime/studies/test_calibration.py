import dataclasses

import pytest

import tilewright as tw
from tilewright import TaskRecord
from tilewright.rates import copy_cost
from tilewright.studies import calibration
from tilewright.studies.calibration import cache_path, calibrate, drift, gaps, inliers

SMALL = {"tile_sizes": (16, 32), "repeat": 1, "workers": 2}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TILEWRIGHT_CACHE", str(tmp_path))
    return tmp_path


def test_every_kernel_of_the_factorisation_has_a_time_for_every_tile_size():
    machine = calibrate(**SMALL)
    assert set(machine.durations) == {"potrf", "trsm", "syrk", "gemm", "copy", "tril", "zero"}
    assert all(set(table) == {16, 32} and min(table.values()) > 0 for table in machine.durations.values())
    assert machine.workers == 2
    assert min(machine.alpha, machine.beta, machine.gamma, machine.overhead) > 0
    tw.simulate(tw.cholesky_graph(4), machine).trace.check()


def test_the_second_call_reads_what_the_first_one_measured(cache, monkeypatch):
    monkeypatch.setattr(calibration, "drift", lambda machine, dtype: 1.0)
    first = calibrate(**SMALL)
    assert [path.name for path in cache.iterdir()] == [cache_path(2, (16, 32), 1, "float64").name]
    monkeypatch.setattr(calibration, "_measure", None)
    assert calibrate(**SMALL) == first


def test_refresh_measures_again(tmp_path):
    path = tmp_path / "mine.json"
    tw.Machine(durations={"gemm": 1.0}).to_json(path)
    machine = calibrate(path=path, refresh=True, **SMALL)
    assert machine.durations["gemm"][16] < 1.0
    assert tw.Machine.from_json(path) == machine


def test_a_model_that_no_longer_fits_is_noticed(tmp_path):
    path = tmp_path / "old.json"
    tw.Machine(durations={"gemm": {16: 1e3}}).to_json(path)
    with pytest.warns(RuntimeWarning, match="refresh=True measures again"):
        calibrate(path=path, **SMALL)
    assert drift(tw.Machine(durations={"gemm": 1e3}, tile_size=16)) < 1e-3


def test_alpha_and_beta_may_be_given(monkeypatch):
    monkeypatch.setattr(calibration, "drift", lambda machine, dtype: 1.0)
    machine = tw.Machine.calibrate(alpha=1.5, beta=2.5, **SMALL)
    assert (machine.alpha, machine.beta) == (1.5, 2.5)
    assert calibrate(**SMALL).alpha < 1  # what is kept was measured


def test_a_hiccup_is_no_inlier():
    samples = [1.0, 1.1, 0.9, 1.05, 0.95, 80.0]
    assert inliers(samples) == samples[:-1]
    assert inliers([2.0, 2.0, 2.0, 9.0]) == [2.0] * 3
    assert inliers([]) == []


def test_slow_tasks_count_and_slow_repeats_do_not(monkeypatch):
    """Every fourth task takes 5 s instead of 1, in each repeat; all of one repeat take ten times as long."""
    made = []

    def factor(a, *, tile_size, return_run, **options):
        made.append(tile_size)
        slow = 10.0 if len(made) in (5, 6) else 1.0  # the second repeat after the warm-up
        run = tw.simulate(tw.cholesky_graph(6), tw.Machine(workers=2))
        lasts = [slow * (5.0 if task.index % 4 == 0 else 1.0) for task in run.graph]
        records = [TaskRecord(t, 0, 100.0 * t, 100.0 * t + last) for t, last in enumerate(lasts)]
        return a, dataclasses.replace(run, trace=tw.Trace(run.graph, 2, records))

    monkeypatch.setattr("tilewright.linalg.factor.tiled_cholesky", factor)
    machine = calibrate(tile_sizes=(16,), repeat=3, workers=2)
    gemms = [task.index for task in tw.cholesky_graph(6) if task.op.name == "gemm"]
    assert machine.durations["gemm"][16] == pytest.approx(sum(5.0 if t % 4 == 0 else 1.0 for t in gemms) / len(gemms))


def test_gaps_count_only_where_the_next_task_was_ready():
    g = tw.TaskGraph()
    x, y = g.handle("x"), g.handle("y")
    for handle in (x, y, y, x):
        g.insert(len, tw.RW(handle))
    times = [(0.0, 1.0), (1.25, 2.0), (2.5, 3.0), (3.125, 4.0)]
    records = [tw.TaskRecord(task, 0, start, end) for task, (start, end) in enumerate(times)]
    assert gaps(tw.Trace(g, 1, records)) == [0.25, 0.125]  # task 2 had to wait for task 1


def test_a_word_costs_less_than_a_message():
    alpha, beta = copy_cost()
    assert 0 < beta < alpha < 1e-3


@pytest.mark.parametrize(
    ("platform", "variable", "folder"),
    [("linux", "XDG_CACHE_HOME", "tilewright"), ("win32", "LOCALAPPDATA", "tilewright")],
)
def test_the_cache_lies_where_the_system_wants_it(monkeypatch, tmp_path, platform, variable, folder):
    monkeypatch.delenv("TILEWRIGHT_CACHE")
    monkeypatch.setattr("sys.platform", platform)
    monkeypatch.setenv(variable, str(tmp_path))
    assert cache_path(2, (16,), 1, "float64").parent == tmp_path / folder


MEASURED = tw.Machine(durations={"gemm": {128: 1.0}})


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"workers": 0}', '{"surprise": 1}', '{"durations": {"gemm": {"x": 1}}}', "{}"]
)
def test_a_cache_that_is_damaged_or_newer_is_measured_again_with_a_warning(content, tmp_path, monkeypatch):
    monkeypatch.setattr(calibration, "_measure", lambda *_: MEASURED)
    file = tmp_path / "machine.json"
    file.write_text(content)
    with pytest.warns(RuntimeWarning, match=r"measuring again: .*machine\.json"):
        assert calibration.calibrate(path=file) == MEASURED
    assert tw.Machine.from_json(file) == MEASURED


def test_what_cannot_be_kept_is_still_returned(tmp_path, monkeypatch):
    monkeypatch.setattr(calibration, "_measure", lambda *_: MEASURED)
    (tmp_path / "file").touch()
    monkeypatch.setenv("TILEWRIGHT_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.warns(RuntimeWarning) as warned:
        assert calibration.calibrate() == MEASURED
    assert "not kept for the next time" in str(warned[-1].message)


def test_without_a_home_nothing_is_kept(monkeypatch):
    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(calibration, "_measure", lambda *_: MEASURED)
    monkeypatch.delenv("TILEWRIGHT_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(calibration.Path, "home", homeless)
    with pytest.warns(RuntimeWarning, match="not kept"):
        assert calibration.calibrate() == MEASURED
