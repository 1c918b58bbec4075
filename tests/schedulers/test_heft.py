"""HEFT against the worked example of its paper: figures 2 and 3, table 1 of Topcuoglu, Hariri and Wu 2002."""

import pytest

import tilewright as tw
from tilewright.machine import Machine
from tilewright.passes.versions import Dataflow
from tilewright.schedulers.heft import Heft, upward_ranks
from tilewright.schedulers.placed import Timeline

COSTS = [
    (14, 16, 9), (13, 19, 18), (11, 13, 19), (13, 8, 17), (12, 13, 10),
    (13, 16, 9), (7, 15, 11), (5, 11, 14), (18, 12, 20), (21, 7, 16),
]  # fmt: skip
EDGES = {
    (1, 2): 18,
    (1, 3): 12,
    (1, 4): 9,
    (1, 5): 11,
    (1, 6): 14,
    (2, 8): 19,
    (2, 9): 16,
    (3, 7): 23,
    (4, 8): 27,
    (4, 9): 23,
    (5, 9): 13,
    (6, 8): 15,
    (7, 10): 17,
    (8, 10): 11,
    (9, 10): 13,
}


class PaperMachine(Machine):
    """Three processors that differ on every task; one word takes one second."""

    @property
    def kinds(self):
        return {0: 1, 1: 1, 2: 1}

    def is_gpu(self, worker):
        return worker

    def cost(self, task, worker=0):
        return COSTS[task.index][worker]

    def costs(self, graph, gpu=0):
        return [COSTS[task.index][gpu] for task in graph.tasks]

    def words(self, handle):
        return EDGES[handle.index]


def paper_graph():
    g = tw.TaskGraph()
    edge = g.handles("e")
    for t in range(1, 11):
        reads = [tw.R(edge[e]) for e in EDGES if e[1] == t]
        writes = [tw.W(edge[e]) for e in EDGES if e[0] == t]
        g.insert(_nothing, *reads, *writes)
    return g


def _nothing(*_):
    return None


MACHINE = PaperMachine(ranks=3, beta=1.0)


def test_upward_ranks_are_those_of_the_paper():
    graph = paper_graph()
    ranks = upward_ranks(graph, MACHINE, Dataflow(graph))
    assert ranks == pytest.approx([108, 77, 80, 80, 69, 190 / 3, 128 / 3, 107 / 3, 133 / 3, 44 / 3], abs=1e-3)


def test_the_plan_is_that_of_the_paper():
    graph = paper_graph()
    timeline = Heft().plan(graph, MACHINE)
    assert timeline.makespan == 80
    assert timeline.placement[0] == 2  # n1 on P3
    assert timeline.placement[9] == 1  # n10 on P2
    for task in graph:
        for p in task.predecessors:
            same = timeline.placement[p] == timeline.placement[task.index]
            words = 0 if same else EDGES[p + 1, task.index + 1]
            assert timeline.end[p] + words <= timeline.start[task.index]


def test_the_simulator_keeps_heft_s_plan_where_messages_do_not_meet():
    graph = tw.cholesky_graph(10)
    scheduler = Heft()
    run = tw.simulate(graph, tw.Machine(workers=6), scheduler=scheduler)
    assert run.makespan == scheduler.makespan
    assert [record.worker for record in sorted(run.trace)] == scheduler.placement


def test_a_timeline_fills_gaps():
    g = tw.TaskGraph()
    for name in "abc":
        g.insert(_nothing, tw.W(g.handle(name)))
    timeline = Timeline(g, tw.Machine(), Dataflow(g))
    timeline.add(g.tasks[0], 0, 0.0, 2.0)
    timeline.add(g.tasks[1], 0, 5.0, 2.0)
    assert timeline.slot(0, 0.0, 3.0) == 2.0
    assert timeline.slot(0, 1.0, 3.5) == 7.0
    assert timeline.slot(0, 2.5, 2.5) == 2.5
    assert timeline.slot(0, 4.0, 0.0) == 4.0
    timeline.add(g.tasks[2], 0, 3.0, 1.0)
    assert timeline.slot(0, 0.0, 1.0) == 2.0
    assert timeline.slot(0, 2.5, 1.0) == 4.0
    assert timeline.slot(0, 0.0, 1.5) == 7.0
