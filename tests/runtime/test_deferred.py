"""Graphs of many tasks from loops: their tasks are made when somebody asks for one, and are those of the builder."""

import copy
import pickle
import threading

import numpy as np
import pytest

import tilewright as tw
from tilewright import RW, builder
from tilewright.graph import DeferredGraph, TaskGraph
from tilewright.linalg.cholesky import bottom_level
from tilewright.ops import potrf


@pytest.fixture
def deferred(monkeypatch):
    """Graphs are deferred, however few tasks they have."""
    monkeypatch.setattr(builder, "MANY", 0)


def fields(graph):
    return [(t.index, t.op.name, t.uses, t.params, t.predecessors, t.groups, t.label) for t in graph.tasks]


BUILDERS = [
    (tw.cholesky_graph, (6,), {}),
    (tw.lu_graph, (4, 5), {}),
    (tw.lu_graph, (5, 4), {"ranks": 2, "shape": (50, 40), "tile_size": 10}),
    (tw.lu_graph, (4, 4, "none"), {}),
    (tw.qr_graph, (5, 3, "flat"), {"shape": (50, 30), "tile_size": 10}),
    (tw.qr_graph, (5, 3, ("hierarchical", 2, "binary", "flat")), {}),
]


@pytest.mark.parametrize(("build", "arguments", "how"), BUILDERS)
def test_a_deferred_graph_is_the_one_that_its_builder_makes(monkeypatch, build, arguments, how):
    whole = build(*arguments, **how)
    monkeypatch.setattr(builder, "MANY", 0)
    graph = build(*arguments, **how)
    assert type(whole) is TaskGraph and type(graph) is DeferredGraph
    assert (len(graph), graph.name, repr(graph)) == (len(whole), whole.name, repr(whole))
    assert sorted(graph.families) == sorted(whole.families)
    assert graph.rooms.keys() == whole.rooms.keys() and graph.temporary == whole.temporary
    assert graph.extents == whole.extents
    assert not graph.unrolled
    assert fields(graph) == fields(whole)
    assert graph.unrolled and graph.inputs == whole.inputs
    assert list(graph.handles_used) == list(whole.handles_used)
    assert graph.bottom_levels() == whole.bottom_levels()
    assert graph.critical_path().length == whole.critical_path().length


def test_graphs_of_few_tasks_and_those_that_are_no_loops_are_made_at_once():
    assert type(tw.cholesky_graph(29)) is TaskGraph  # 4495 tasks
    assert type(tw.cholesky_graph(31)) is DeferredGraph  # 5456
    assert type(tw.lu_graph(25, 25, "tournament")) is TaskGraph


def test_ten_million_tasks_are_counted_and_one_of_them_is_made_alone():
    graph = tw.cholesky_graph(391)
    assert len(graph) == 391 * 392 * 393 // 6
    last = graph.numbered(len(graph) - 1)
    assert (last.label, last.predecessors) == ("potrf(390)", (len(graph) - 2,))
    assert not graph.unrolled and graph.extents == {"A": (391, 391)}


def test_every_way_to_look_at_a_deferred_graph_makes_its_tasks(deferred):
    whole = fields(tw.cholesky_graph(4))
    for look in (len, repr, lambda graph: graph.numbered(3), lambda graph: graph.families):
        graph = tw.cholesky_graph(4)
        look(graph)
        assert not graph.unrolled
    for look in (
        list,
        lambda graph: graph.inputs,
        lambda graph: graph.edges,
        lambda graph: graph.task("potrf(2)"),
        lambda graph: list(graph.results),
        lambda graph: graph.to_dot(),
    ):
        graph = tw.cholesky_graph(4)
        look(graph)
        assert graph.unrolled and fields(graph) == whole
    with pytest.raises(AttributeError, match="has no attribute 'colour'"):
        graph.colour  # noqa: B018


def test_a_deferred_graph_that_ran_is_frozen_and_can_be_unrolled_all_the_same(deferred):
    graph = tw.cholesky_graph(3)
    graph.frozen = True
    assert len(graph.tasks) == 10
    with pytest.raises(RuntimeError, match="frozen"):
        graph.insert(potrf, RW(graph.handles("A")[0, 0]))


def test_a_deferred_graph_grows_like_any_other_and_has_no_loops_then(deferred):
    graph = tw.cholesky_graph(3)
    graph.insert(potrf, RW(graph.handles("A")[0, 0]))
    assert len(graph) == 11 and graph.loops is graph.recipe is graph.closed_form is None
    assert graph.numbered(10).predecessors == (1, 2)


def test_deferred_graphs_travel_and_are_copied_as_recipes(deferred):
    graph = tw.cholesky_graph(3)
    for other in (pickle.loads(pickle.dumps(graph)), copy.copy(graph), copy.deepcopy(graph)):
        assert other is not graph and not other.unrolled and fields(other) == fields(tw.cholesky_graph(3))
    assert not graph.unrolled


def test_threads_that_ask_at_once_get_one_and_the_same_graph(deferred):
    graph, found, start = tw.cholesky_graph(14), [], threading.Barrier(4)

    def ask():
        start.wait()
        found.append(graph.tasks)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(tasks is graph.tasks for tasks in found) and len(found) == 4 and len(graph.tasks) == 560


def test_wrong_arguments_are_refused_as_ever(deferred):
    for nt, error, text in (
        (-1, ValueError, "nt must not be negative"),
        ("4", TypeError, "nt"),
        (10**6, ValueError, "tasks"),
    ):
        with pytest.raises(error, match=text):
            tw.cholesky_graph(nt)


@pytest.mark.parametrize("backend", ["serial", "threads"])
def test_engines_of_one_process_run_deferred_graphs(deferred, backend):
    a = np.random.default_rng(0).standard_normal((30, 30))
    a = a @ a.T + 30 * np.eye(30)
    tiles = tw.TiledMatrix.from_numpy(a, 8)
    run = tw.run(tw.cholesky_graph(4), {"A": tiles}, backend=backend)
    assert np.array_equal(np.tril(tiles.to_numpy()), tw.tiled_cholesky(a, tile_size=8))
    assert [bottom_level(task, 4) for task in run.graph] == run.graph.bottom_levels()
    assert tw.simulate(tw.cholesky_graph(4), tw.Machine(workers=2)).makespan == 35.0
