"""One lock for all workers of a rank: simulated by hand-made cases, and where it makes more workers useless."""

import json

import pytest
from click.testing import CliRunner

import tilewright as tw
from tilewright import cli

ONE = tw.Op("one", weight=1)


def independent(count):
    g = tw.TaskGraph("independent")
    x = g.handles("x")
    for i in range(count):
        g.insert(ONE, tw.W(x[i]))
    return g


def makespan(graph, **machine):
    return tw.simulate(graph, tw.Machine(**machine), scheduler="eager").makespan


@pytest.mark.parametrize(
    ("tasks", "workers", "dispatch", "expected"),
    [
        (4, 1, 0.25, 5.0),  # one after another, 1.25 each
        (4, 4, 0.25, 2.0),  # they begin at 0.25, 0.5, 0.75, 1
        (8, 2, 0.25, 5.25),  # two take turns: each begins a task every 1.25, the second 0.25 later
        (16, 4, 1.0, 17.0),  # the lock is never free: 16 turns and a task
        (16, 100, 1.0, 17.0),
        (3, 3, 0.0, 1.0),
    ],
)
def test_tasks_begin_one_at_a_time(tasks, workers, dispatch, expected):
    assert makespan(independent(tasks), workers=workers, dispatch=dispatch) == pytest.approx(expected)


def test_each_rank_has_a_lock_of_its_own():
    run = tw.simulate(
        independent(8), tw.Machine(workers=4, ranks=2, dispatch=0.5), scheduler="eager", owner=lambda h: h.index[0] % 2
    )
    assert run.makespan == pytest.approx(3.0)  # four turns of a half and a task
    starts = sorted(record.start for record in run.trace.records if record.rank)
    assert starts == pytest.approx([0.5, 1.0, 1.5, 2.0])


def test_no_run_is_shorter_than_its_bounds_or_than_all_turns():
    g, turn = tw.cholesky_graph(nt=8), 0.3
    for workers in (1, 3, 16):
        with_lock = makespan(g, workers=workers, dispatch=turn)
        assert with_lock >= max(len(g) * turn, makespan(g, workers=workers) * (1 - 1e-12))
        assert tw.Machine(dispatch=turn).cost(g.tasks[0]) == tw.Machine().cost(g.tasks[0])


def test_a_machine_keeps_its_lock_in_a_file(tmp_path):
    machine = tw.Machine(workers=2, dispatch=6e-6)
    machine.to_json(tmp_path / "m.json")
    assert tw.Machine.from_json(tmp_path / "m.json") == machine
    with pytest.raises(ValueError, match="Machine: dispatch must be a time"):
        tw.Machine(dispatch=-1)


def test_the_study_says_how_many_workers_pay_for_each_tile_size():
    """Tasks of 1 and 100 turns: one lock feeds 2 and 101 workers."""
    machine = tw.Machine(durations={"one": {10: 1.0, 100: 100.0}})
    study = tw.contention_study(
        independent(512), tile_sizes=[10, 100], workers=[1, 2, 4, 8], dispatch=1.0, machine=machine, scheduler="eager"
    )
    assert study.pays == {10: 2, 100: 8} and study.feeds == {10: 2.0, 100: 101.0}
    first = study.crowds[0]
    assert (first.tile_size, first.workers, first.seconds, first.without) == (10, 1, 1024.0, 512.0)
    assert first.slowdown == 2.0 and study.tasks == 512
    assert json.loads(study.to_json())["pays"] == {"10": 2, "100": 8}
    assert "pays up to" in str(study) and str(study).count("\n") == 3
    free = tw.contention_study(independent(8), tile_sizes=[10], workers=[1, 2], dispatch=0, machine=machine)
    assert free.pays == {10: 2} and free.feeds == {10: float("inf")}


def test_what_an_empty_task_takes_is_measured_where_nobody_says_it():
    study = tw.contention_study(independent(4), tile_sizes=[8], workers=[1], machine=tw.Machine(gamma=1e-9))
    assert 0 < study.dispatch < 1


def test_numbers_that_are_none_are_refused():
    with pytest.raises(ValueError, match="workers must ascend"):
        tw.contention_study(independent(4), workers=[2, 2], dispatch=1)
    with pytest.raises(TypeError, match="tile_sizes must be several numbers"):
        tw.contention_study(independent(4), tile_sizes=64, dispatch=1)


def test_the_command_prints_a_table_and_one_object():
    words = [
        "contention",
        "--nt",
        "6",
        "--tile-sizes",
        "16,256",
        "--workers",
        "1,8",
        "--dispatch",
        "6",
        "--gflops",
        "30",
    ]
    result = CliRunner().invoke(cli.main, words)
    assert result.exit_code == 0 and "56 tasks" in result.output and "pays up to" in result.output
    found = json.loads(CliRunner().invoke(cli.main, [*words, "--json"]).stdout)
    assert found["dispatch"] == 6e-6 and found["pays"] == {"16": 1, "256": 8}
    assert CliRunner().invoke(cli.main, ["contention", "--workers", "many"]).exit_code == 2
