"""Run state without threads: what is ready, done and cancelled."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import programs

from tilewright import RW, R, TaskGraph, W, cholesky_graph
from tilewright.passes.frontier import Frontier


def noop(*buffers):
    return None


@pytest.fixture
def diamond():
    r"""
        0
       / \
      1   2     4 (alone)
       \ /
        3
    """
    g = TaskGraph()
    a, b, c, d = (g.handle(name) for name in "abcd")
    g.insert(noop, W(a))
    g.insert(noop, R(a), W(b))
    g.insert(noop, R(a), W(c))
    g.insert(noop, R(b), R(c))
    g.insert(noop, RW(d))
    return g


def test_start_gives_the_tasks_without_predecessors_in_program_order(diamond):
    assert [t.index for t in Frontier(diamond).start()] == [0, 4]


def test_done_gives_what_became_ready_in_program_order(diamond):
    frontier = Frontier(diamond)
    t = diamond.tasks
    assert [frontier.done(t[0]), frontier.done(t[2]), frontier.done(t[1])] == [[t[1], t[2]], [], [t[3]]]


def test_finished_when_every_task_is_done(diamond):
    frontier = Frontier(diamond)
    for task in diamond:
        assert not frontier.finished
        frontier.done(task)
    assert frontier.finished
    assert frontier.remaining == 0


def test_frontier_of_an_empty_graph_is_finished():
    frontier = Frontier(TaskGraph())
    assert frontier.start() == []
    assert frontier.finished


def test_task_that_waits_cannot_be_done(diamond):
    with pytest.raises(ValueError, match=r"cannot be done: it waits for 2 tasks"):
        Frontier(diamond).done(diamond.tasks[3])


def test_task_cannot_be_done_twice(diamond):
    frontier = Frontier(diamond)
    frontier.done(diamond.tasks[0])
    with pytest.raises(ValueError, match="cannot be done: it is done"):
        frontier.done(diamond.tasks[0])


def test_failure_cancels_all_that_depends_on_it_and_nothing_else(diamond):
    frontier = Frontier(diamond)
    t = diamond.tasks
    assert frontier.failed(t[0]) == [t[1], t[2], t[3]]
    assert [frontier.state(task) for task in t] == ["is done", *["is cancelled"] * 3, "is ready"]
    assert frontier.done(t[4]) == []
    assert frontier.finished


def test_cancelled_task_does_not_become_ready_when_its_other_predecessor_ends(diamond):
    frontier = Frontier(diamond)
    t = diamond.tasks
    frontier.done(t[0])
    assert frontier.failed(t[1]) == [t[3]]
    assert frontier.done(t[2]) == []
    assert frontier.state(t[3]) == "is cancelled"


def test_second_failure_cancels_only_what_is_not_cancelled_yet(diamond):
    frontier = Frontier(diamond)
    t = diamond.tasks
    frontier.done(t[0])
    frontier.failed(t[1])
    assert frontier.failed(t[2]) == []
    assert frontier.remaining == 1


def test_cancelled_task_can_neither_be_done_nor_fail(diamond):
    frontier = Frontier(diamond)
    frontier.failed(diamond.tasks[0])
    with pytest.raises(ValueError, match="cannot be done: it is cancelled"):
        frontier.done(diamond.tasks[1])
    with pytest.raises(ValueError, match="cannot fail: it is cancelled"):
        frontier.failed(diamond.tasks[1])


def test_two_frontiers_of_one_graph_do_not_share_state():
    g = cholesky_graph(nt=3)
    one, two = Frontier(g), Frontier(g)
    for task in g:
        one.done(task)
    assert one.finished
    assert two.remaining == len(g)


@given(programs, st.randoms(use_true_random=False))
def test_any_choice_among_ready_tasks_ends_and_respects_every_edge(program, random):
    g = program.graph()
    frontier = Frontier(g)
    ready, order = frontier.start(), []
    while ready:
        task = ready.pop(random.randrange(len(ready)))
        order.append(task.index)
        ready += frontier.done(task)
    assert frontier.finished
    place = {index: k for k, index in enumerate(order)}
    assert sorted(order) == list(range(len(g)))
    assert all(place[p] < place[task.index] for task in g for p in task.predecessors)


@given(programs, st.data())
def test_failure_cancels_exactly_the_descendants(program, data):
    import networkx

    g = program.graph()
    if not len(g):
        return
    victim = data.draw(st.integers(0, len(g) - 1))
    frontier = Frontier(g)
    for task in g.tasks[:victim]:
        frontier.done(task)
    cancelled = frontier.failed(g.tasks[victim])
    assert {task.index for task in cancelled} == networkx.descendants(g.to_networkx(), victim)
    assert frontier.remaining == len(g) - victim - 1 - len(cancelled)


def test_handed_out_task_is_running_and_is_not_handed_out_again(diamond):
    frontier = Frontier(diamond)
    first, second = diamond.tasks[:2]
    assert not frontier.hand_out(second)
    assert frontier.hand_out(first)
    assert frontier.state(first) == "is running"
    assert not frontier.hand_out(first)
    assert frontier.done(first) == [second, diamond.tasks[2]]
    assert not frontier.hand_out(first)


def test_ready_lists_what_waits_for_nothing_and_is_not_done_whether_handed_out_or_not():
    graph = cholesky_graph(3)  # potrf(0) trsm(1,0) trsm(2,0) syrk(1,0) ...
    frontier = Frontier(graph)
    assert list(map(str, frontier.ready())) == ["potrf(0)"]
    frontier.hand_out(graph.tasks[0])
    assert list(map(str, frontier.ready())) == ["potrf(0)"]
    frontier.done(graph.tasks[0])
    assert list(map(str, frontier.ready())) == ["trsm(1,0)", "trsm(2,0)"]
