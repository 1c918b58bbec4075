"""Lower bounds on any run."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import programs

import tilewright as tw
from tilewright import Bounds, bounds, cholesky_graph


@pytest.mark.parametrize("t", [2, 3, 16, 32])
@pytest.mark.parametrize("p", [1, 2, 8])
def test_cholesky_bounds_are_the_closed_forms(t, p):
    assert bounds(cholesky_graph(t), p) == Bounds(area=t**3 / p, critical_path=9 * t - 10)


def test_lower_bound_is_the_larger_one():
    assert Bounds(3.0, 2.0).lower == 3.0
    assert Bounds(2.0, 3.0).lower == 3.0
    assert Bounds(6.0, 3.0).speedup_limit == 2.0


def test_bounds_of_nothing_are_zero():
    nothing = bounds(tw.TaskGraph(), 4)
    assert (nothing.lower, nothing.speedup_limit) == (0, 1.0)


@given(programs, st.integers(1, 5), st.data())
def test_list_schedules_lie_between_the_bounds_and_their_sum(program, p, data):
    """max(W/p, C) <= T <= W/p + C for any schedule that leaves no worker idle while a task is ready (Graham)."""
    from tilewright.passes.frontier import Frontier

    g = program.graph()
    cost = [data.draw(st.integers(1, 9)) for _ in g]
    frontier, now, running = Frontier(g), 0, []
    ready = frontier.start()
    while ready or running:
        while ready and len(running) < p:
            task = ready.pop()
            running.append((now + cost[task.index], task.index))
        now, index = min(running)
        running.remove((now, index))
        ready += frontier.done(g.tasks[index])
    limits = bounds(g, p, cost)
    assert limits.lower <= now <= limits.area + limits.critical_path
