import dataclasses

import numpy as np
import pytest

import tilewright as tw
from tilewright.runs.footprint import high_water
from tilewright.runs.idle import split, waits


def job(*_):
    return None


def on_rank(handle):
    return handle.index[0]


def two_ranks():
    """
    rank 0:  x[0] (0-1)                       c: RW x[0] (1-2)
    rank 1:         message x[0] (1-3)        b: R x[0], W y[1] (3-4)   d: RW y[1] (4-5)
    """
    g = tw.TaskGraph()
    x, y = g.handles("x"), g.handles("y")
    g.insert(job, tw.W(x[0]))
    g.insert(job, tw.R(x[0]), tw.W(y[1]))
    g.insert(job, tw.RW(y[1]))
    return tw.simulate(g, tw.Machine(ranks=2, alpha=2.0, tile_size=1), owner=on_rank)


def test_the_parts_of_idle_time_add_up_to_all_of_it():
    owner = lambda h: (h.index[0] + 2 * h.index[1]) % 3  # noqa: E731
    for scheduler in ("eager", "critical-path", "lws"):
        run = tw.simulate(
            tw.cholesky_graph(7), tw.Machine(ranks=3, workers=2, alpha=3.0), scheduler=scheduler, owner=owner
        )
        split_ = run.idle_split
        assert split_.total == pytest.approx(6 * run.makespan - run.trace.busy.sum())
        assert split_.total / (6 * run.makespan) == pytest.approx(run.idle)
        assert split_.communication > 0
        assert split_.overhead >= 0


def test_each_gap_is_named_after_its_cause():
    run = two_ranks()
    assert run.makespan == 5
    idle = split(run.trace)
    assert (idle.startup, idle.dependencies, idle.communication, idle.overhead, idle.tail) == (3, 0, 0, 0, 4)


def test_a_gap_between_tasks_is_split_at_the_last_predecessor_and_the_last_message():
    g = tw.TaskGraph()
    x, y, z = g.handles("x"), g.handles("y"), g.handles("z")
    g.insert(job, tw.W(y[1]))  # rank 1 at 0-1
    g.insert(job, tw.W(z[0]))  # rank 0 at 0-1
    g.insert(job, tw.W(x[0]))  # rank 0 at 1-2
    g.insert(job, tw.R(x[0]), tw.RW(y[1]))  # rank 1 at 5-6, after the message 2-5
    run = tw.simulate(g, tw.Machine(ranks=2, alpha=3.0), scheduler="eager", owner=on_rank)
    idle = split(run.trace)
    assert (idle.dependencies, idle.communication, idle.startup, idle.tail) == (1, 3, 0, 4)
    reasons = waits(run.trace)
    assert (reasons[0].reason, reasons[2].reason, reasons[3].reason) == ("start", "worker", "message")
    assert reasons[2].on == 1
    assert run.trace.messages[reasons[3].on].handle == tw.Handle("x", (0,))


def test_a_worker_that_never_had_a_task_was_starting_up_all_the_time():
    run = tw.simulate(tw.cholesky_graph(1), tw.Machine(workers=4))
    assert split(run.trace).startup == 3
    assert waits(run.trace)[0] == ("start", -1, 0.0)


def test_in_a_chain_every_task_waits_for_its_predecessor():
    g = tw.TaskGraph()
    for _ in range(4):
        g.insert(job, tw.RW(g.handle("x")))
    run = tw.simulate(g, tw.Machine(workers=2))
    assert [wait.reason for _, wait in sorted(waits(run.trace).items())] == ["start", *["dependency"] * 3]


def test_memory_counts_inputs_from_the_start_and_copies_while_they_are_read():
    run = two_ranks()
    assert high_water(run) == [8, 16]  # rank 1: y[1], and the copy of x[0]
    assert run.memory == 16


def test_memory_of_a_measured_run_is_the_size_of_its_buffers():
    a = np.eye(20) * 3
    _, run = tw.tiled_cholesky(a, tile_size=7, return_run=True)
    lower = 49 + 49 + 36 + 49 + 42 + 42  # tiles (0,0), (1,1), (2,2), (1,0), (2,0), (2,1)
    assert run.memory == 2 * 8 * lower  # of the matrix and of the factor


def test_memory_that_was_not_measured_is_called_an_upper_bound():
    _, run = tw.tiled_cholesky(np.eye(20) * 3, tile_size=7, return_run=True)
    for shown in (str(run), run._repr_html_()):
        assert "at most 4.172 KiB of data, that of the caller included" in shown
    assert "at most 16 bytes of data on the fullest rank" in str(two_ranks())
    measured = dataclasses.replace(run, measured=1 << 20)
    assert measured.memory == 1 << 20 and "memory         1 MiB, measured" in str(measured)


def double(a, b):
    return 2 * a


def test_the_bound_counts_what_was_given_and_what_was_made():
    g = tw.TaskGraph()
    x, y, z = map(g.handle, "xyz")
    g.insert(double, tw.R(x), tw.W(y))
    g.insert(double, tw.R(y), tw.W(z))
    run = tw.run(g, {"x": np.zeros(100)}, backend="serial")
    assert run.memory == sum(run[name].nbytes for name in "xyz") == 2400
