"""What the policies that order tasks put first, on graphs small enough to check by hand."""

import pytest

import tilewright as tw
from tilewright.ops import copy, tril
from tilewright.schedulers import policy
from tilewright.schedulers.critical_path import CriticalPath
from tilewright.schedulers.lookahead import distance
from tilewright.schedulers.polynomial import cholesky_place


def priorities(name, nt):
    scheduler = policy(name)
    graph = tw.cholesky_graph(nt)
    return {task.label: -key for task, key in zip(graph, scheduler.keys(graph, tw.Machine()), strict=True)}


def test_parsec_priorities_are_the_cubic_of_dplasma():
    p = priorities("parsec", 5)
    assert p["potrf(0)"] == 125
    assert p["trsm(2,0)"] == 27 + 3 * 2 * (10 - 0 - 2 - 1)
    assert p["syrk(3,1)"] == 8 + 3 * 2
    assert p["gemm(4,2,1)"] == 1 + 3 * 2 * (10 - 4 - 2 - 3) + 6 * 3


def test_chameleon_priorities_are_linear():
    p = priorities("chameleon", 5)
    assert (p["potrf(1)"], p["trsm(3,1)"], p["syrk(3,1)"], p["gemm(4,2,1)"]) == (8, 5, 5, 2)


def lu_priorities(name, nt, *how):
    scheduler, graph = policy(name), tw.lu_graph(nt, nt, *how)
    return {task.label: -key for task, key in zip(graph, scheduler.keys(graph, tw.Machine()), strict=True)}


def test_priorities_of_lu_with_pivots_from_whole_columns_are_those_of_dplasma_and_chameleon():
    labels = ("getrf(2)", "swptrsm(1,3)", "gemmn(4,3,0)", "swap(1)")
    assert [lu_priorities("parsec", 5)[label] for label in labels] == [5 - 2 - 1, 5 - 3 - 1, 5 - 3 - 1, 0]
    assert [lu_priorities("chameleon", 5)[label] for label in labels] == [5, 5 - 3, 5 - 3, 0]
    column = lu_priorities("parsec", 5, "threshold", "column")
    assert column["swpgemm(1,3)"] == 5 - 3 - 1


def test_tasks_of_a_recursive_panel_have_the_priority_of_the_panel():
    graph = tw.lu_graph(4, 4, panel="recursive")
    for name, wanted in (("parsec", 4 - 1 - 1), ("chameleon", 4)):
        keys = dict(zip((task.label for task in graph), policy(name).keys(graph, tw.Machine()), strict=True))
        assert {-keys[label] for label in ("getrf2(1,0)", "trsm2(1,3)", "gemm2(3,1,5)")} == {wanted}


def test_priorities_of_lu_without_pivoting_are_chameleon_s_alone():
    p = lu_priorities("chameleon", 5, "none")
    labels = ("getrfn(1)", "trsmn(1,3)", "trsmu(4,1)", "gemmn(4,3,1)")
    assert [p[label] for label in labels] == [10 - 2, 10 - 2 - 3, 10 - 2 - 4, 10 - 2 - 3 - 4]
    assert set(lu_priorities("parsec", 5, "none").values()) == {-1}  # program order


def test_a_copy_counts_as_the_first_task_on_its_tile_and_clearing_comes_last():
    graph = tw.TaskGraph()
    A, S = graph.handles("A"), graph.handles("S")
    for i, j in [(0, 0), (1, 0), (1, 1), (2, 1)]:
        graph.insert(copy, tw.R(S[i, j]), tw.W(A[i, j]))
    for j in range(2):
        graph.insert(tril, tw.RW(A[j, j]))
    places = {task.label: cholesky_place(task) for task in graph}
    assert places["copy(2,1)"] == ("gemm", 2, 1, 0)
    assert places["copy(0,0)"] == ("potrf", 0, 0, 0)
    assert places["tril(1)"] is None
    scheduler = policy("parsec")
    scheduler.prepare(graph, tw.Machine())
    assert [task.op.name for task in scheduler.tasks[-2:]] == ["tril"] * 2


def test_prio_runs_the_largest_priority_first_and_ties_in_program_order():
    g = tw.TaskGraph()
    h = g.handles("h")
    for i, priority in enumerate([0, 5, 1, 5]):
        g.insert(len, tw.W(h[i]), priority=priority)
    order = [record.task for record in tw.simulate(g, scheduler="prio").trace]
    assert order == [1, 3, 2, 0]


def test_lookahead_runs_the_panel_and_the_next_columns_first():
    graph = tw.cholesky_graph(5)
    assert distance(graph.task("trsm(3,1)")) == 0
    assert distance(graph.task("gemm(4,2,1)")) == 1
    assert distance(graph.task("syrk(4,1)")) == 3
    scheduler = policy("lookahead(1)")
    scheduler.prepare(graph, tw.Machine())
    for label in ("gemm(4,3,0)", "gemm(3,1,0)", "syrk(1,0)"):
        scheduler.push(graph.task(label))
    assert [scheduler.pop(0).label for _ in range(3)] == ["syrk(1,0)", "gemm(3,1,0)", "gemm(4,3,0)"]


def test_lookahead_takes_any_graph():
    g = tw.TaskGraph()
    g.insert(len, tw.W(g.handle("x")))
    assert distance(g.tasks[0]) == 0


def test_critical_path_is_optimal_on_many_workers():
    run = tw.simulate(tw.cholesky_graph(12), tw.Machine(workers=200), scheduler="critical-path")
    assert run.makespan == 9 * 12 - 10


def test_work_stealing_takes_own_newest_and_a_victim_s_oldest():
    graph = tw.cholesky_graph(5)
    scheduler = policy("ws")
    scheduler.prepare(graph, tw.Machine(workers=2))
    tasks = graph.tasks[1:5]
    for task in tasks:
        scheduler.push(task, 0)
    assert [scheduler.pop(w) for w in (0, 1, 0, 1, 1)] == [tasks[3], tasks[0], tasks[2], tasks[1], None]


def test_locality_gives_a_task_to_the_worker_that_wrote_its_tile():
    graph = tw.cholesky_graph(4)
    scheduler = policy("locality")
    scheduler.prepare(graph, tw.Machine(workers=3))
    for worker, label in [(1, "trsm(1,0)"), (2, "trsm(2,0)")]:
        scheduler.push(graph.task(label), worker)
        assert scheduler.pop(worker).label == label
    scheduler.push(graph.task("syrk(2,0)"), 0)
    assert scheduler.pop(2).label == "syrk(2,0)"  # worker 2 wrote A[2,0]
    scheduler.push(graph.task("gemm(2,1,0)"), 0)
    scheduler.push(graph.task("syrk(1,0)"), 0)
    assert scheduler.pop(2).label == "gemm(2,1,0)"  # a tie between 1 and 2 would go to 1: its queue is longest
    assert scheduler.pop(2) is graph.task("syrk(1,0)")  # stolen


@pytest.mark.parametrize("name", ["parsec", "chameleon", "critical-path", "prio", "lookahead(2)"])
def test_a_fork_shares_the_order_and_nothing_else(name):
    graph = tw.cholesky_graph(4)
    scheduler = policy(name)
    scheduler.prepare(graph, tw.Machine())
    scheduler.push(graph.tasks[0])
    other = scheduler.fork()
    assert other.pop(0) is None
    assert scheduler.pop(0) is graph.tasks[0]


class Counted(CriticalPath):
    of_graph = True

    def keys(self, graph, machine):
        self.asked = getattr(self, "asked", 0) + 1
        return super().keys(graph, machine)


class ByMachine(CriticalPath):
    """It says nothing of itself, so its order is found each time."""

    def keys(self, graph, machine):
        return [task.index * (-1) ** machine.workers for task in graph.tasks]


def test_an_order_of_the_graph_alone_is_found_once_and_again_for_more_tasks():
    g = tw.TaskGraph("grows")
    g.insert(len, tw.W(g.handle("x")))
    counted = Counted()
    for workers in (1, 2, 3):
        counted.prepare(g, tw.Machine(workers=workers))
    assert counted.asked == 1 and counted.tasks == g.tasks
    g.insert(len, tw.RW(g.handle("x")))
    counted.prepare(g, tw.Machine())
    assert counted.asked == 2 and counted.tasks == g.tasks
    g.closed_form = lambda task: task.index  # other levels
    counted.prepare(g, tw.Machine())
    assert counted.asked == 3 and counted.tasks == g.tasks[::-1]


def test_a_subclass_whose_order_depends_on_the_machine_is_asked_each_time():
    g, found = tw.cholesky_graph(3), ByMachine()
    for workers, first in ((2, 0), (3, len(g) - 1), (2, 0)):
        found.prepare(g, tw.Machine(workers=workers))
        assert found.tasks[0].index == first
