"""Coarsening keeps the program's meaning, its owners and its bounds, and merges what belongs together."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import programs

import tilewright as tw
from tilewright.passes.coarsen import Overheads, coarsen


def labels(graph, group):
    return [graph.tasks[t].label for t in group.tasks]


def path_of(graph, coarse, cost, hop):
    """The longest chain of groups, each with its work and a hop before it: by its definition."""
    longest = []
    for group in coarse.groups:
        start = max((longest[p] + hop for p in group.predecessors), default=0.0)
        longest.append(start + sum(cost[t] for t in group.tasks))
    return max(longest, default=0.0)


@settings(max_examples=80)
@given(program=programs, ranks=st.integers(1, 3), seconds=st.sampled_from([1e-5, 1e-3, 0.1]), data=st.data())
def test_groups_are_an_acyclic_partition_by_owner_whatever_the_graph(program, ranks, seconds, data):
    graph = program.graph()
    places = data.draw(st.lists(st.integers(0, ranks - 1), min_size=len(graph), max_size=len(graph)))
    cost = [seconds * (1 + t % 3) for t in range(len(graph))]
    coarse = coarsen(graph, places, cost, workers=ranks)
    assert sorted(t for group in coarse.groups for t in group.tasks) == list(range(len(graph)))
    group_of = {t: g for g, group in enumerate(coarse.groups) for t in group.tasks}
    for g, group in enumerate(coarse.groups):
        assert {places[t] for t in group.tasks} == {group.place}
        assert all(p < g for p in group.predecessors)
        needed = {group_of[p] for t in group.tasks for p in graph.tasks[t].predecessors} - {g}
        assert set(group.predecessors) == needed
    assert coarse.path == pytest.approx(path_of(graph, coarse, cost, Overheads().hop))
    assert coarse.path <= max(1.25 * coarse.path_before, sum(cost) / ranks) * (1 + 1e-12)


def test_free_tasks_are_left_alone():
    graph = tw.cholesky_graph(nt=6)
    coarse = coarsen(graph, [0] * len(graph), [1.0] * len(graph), Overheads(0.0, 0.0), workers=4)
    assert len(coarse) == len(graph) == coarse.before
    assert coarse.overhead == 0
    assert coarse.path == coarse.path_before == graph.critical_path(lambda task: 1).length


def test_all_updates_of_a_tile_and_the_task_that_finishes_it_become_one():
    graph = tw.cholesky_graph(nt=5)
    cost = [1e-4] * len(graph)
    coarse = coarsen(graph, [t % 7 for t in range(len(graph))], cost, share=1e9)
    assert len(coarse) > 15  # owners that are scattered leave nothing to merge in a chain
    places = [task.uses[-1].handle.index[1] for task in graph]  # tile columns
    coarse = coarsen(graph, places, cost, Overheads(1e-4, 1e-2), workers=5, stretch=10.0)
    tiles = [labels(graph, group) for group in coarse.groups]
    column = next(group for group in tiles if "potrf(2)" in group)
    assert column == ["syrk(2,0)", "syrk(2,1)", "potrf(2)"]
    panel = next(group for group in tiles if "trsm(4,2)" in group)
    assert {"gemm(4,2,0)", "gemm(4,2,1)", "gemm(3,2,0)", "gemm(3,2,1)", "trsm(3,2)", "trsm(4,2)"} == set(panel)


def test_overhead_keeps_within_its_share_where_some_grain_does():
    graph = tw.cholesky_graph(nt=16)
    places = tw.MessagePlan(graph, 2, None).places
    for share in (0.3, 0.1, 0.03):
        coarse = coarsen(graph, places, [0.01] * len(graph), workers=2, share=share)
        assert coarse.overhead == pytest.approx(1.7e-3 * len(coarse) / 8.16)
        assert coarse.overhead <= share
    assert len(coarse) < len(graph) / 2


def test_tiny_tasks_of_one_owner_become_one_group_a_level():
    graph = tw.cholesky_graph(nt=10)
    coarse = coarsen(graph, [0] * len(graph), [1e-6] * len(graph))
    assert len(coarse) <= 19  # panel and diagonal tile of each step
    assert coarse.path < coarse.path_before  # fewer hops


def test_report_says_tasks_before_and_after():
    graph = tw.cholesky_graph(nt=8)
    text = str(coarsen(graph, [0] * len(graph), [0.01] * len(graph), workers=2))
    assert text.startswith("120 tasks in 69 groups: overhead 9.8%")


def test_expected_time_counts_tasks_hops_copies_and_moves():
    graph = tw.TaskGraph()
    x, y = graph.handle("x"), graph.handle("y")
    op = tw.Op("op", weight=1)
    graph.insert(op, tw.RW(x))
    graph.insert(op, tw.R(x), tw.RW(y))
    graph.insert(op, tw.RW(x))
    cost, size = [0.3, 0.5, 0.7], {x: 1000, y: 500}
    apart = coarsen(
        graph, [0, 1, 0], cost, Overheads(0.01, 0.02, 1e-4), workers=2, nbytes=size.__getitem__, stretch=1.0
    )
    assert len(apart) == 3
    first = 0.1 + 0.3 + 0.01  # a copy of x, its work, the task
    second = 0.01 + 0.02 + 0.1 + 0.05 + 0.5 + 0.01  # heard of, hop, x moves, a copy of y, work, task
    third = 0.01 + 0.02 + 0.1 + 0.7 + 0.01  # the new x has to wait for who reads the old one
    assert apart.makespan == pytest.approx(first + second + third)


def test_of_partitions_within_bounds_the_one_that_ends_first_is_taken():
    graph = tw.cholesky_graph(nt=8)
    places = tw.MessagePlan(graph, 2, None).places
    cost = [{"potrf": 3e-3, "gemm": 18e-3}.get(task.op.name, 9e-3) for task in graph]
    tiles = {"workers": 2, "nbytes": lambda handle: 768 * 768 * 8}
    free = coarsen(graph, places, cost, Overheads(0.0, 0.0, 0.0), **tiles)
    dask = coarsen(graph, places, cost, **tiles)
    assert len(free) == 120 and len(dask) < 60
    assert dask.overhead < 0.1 and dask.path <= max(1.25 * dask.path_before, dask.work / 2)
    assert free.makespan < dask.makespan < 1.6 * free.makespan


def test_empty_graph_has_no_groups():
    coarse = coarsen(tw.TaskGraph(), [], [])
    assert (len(coarse), coarse.path, coarse.overhead) == (0, 0.0, 0.0)


def test_lists_of_another_length_are_refused():
    with pytest.raises(ValueError, match="4 tasks, but 3 places and 4 costs"):
        coarsen(tw.cholesky_graph(2), [0] * 3, [1.0] * 4)
