"""dm, dmda, dmdas and heteroprio: which worker, which bucket."""

import tilewright as tw
from tilewright.schedulers import policy

MIXED = tw.Machine(workers=3, gpus=1, durations={"fast": 10.0, "slow": 4.0}, acceleration={"fast": 10.0, "slow": 1.0})
FAST, SLOW = tw.Op("fast"), tw.Op("slow")


def independent(*ops):
    g = tw.TaskGraph()
    h = g.handles("h")
    for i, op in enumerate(ops):
        g.insert(op, tw.W(h[i]))
    return g


def prepared(name, graph, machine):
    scheduler = policy(name)
    scheduler.prepare(graph, machine)
    for task in graph:
        scheduler.push(task)
    return scheduler


def test_dm_sends_a_task_where_it_is_expected_to_end_first():
    graph = independent(FAST, FAST, SLOW, SLOW, SLOW)
    scheduler = prepared("dm", graph, MIXED)
    assert scheduler.placement == [2, 2, 0, 1, 2]  # GPU ends at 1, 2; CPUs at 4, 4; then the GPU at 6


def test_dm_forgets_the_load_of_what_is_done():
    graph = independent(SLOW, SLOW, SLOW)
    scheduler = policy("dm")
    scheduler.prepare(graph, tw.Machine(workers=2, durations={"slow": 4.0}))
    for task in graph.tasks[:2]:
        scheduler.push(task)
    assert [scheduler.pop(0), scheduler.pop(1)] == graph.tasks[:2]
    assert scheduler.pop(0) is None
    scheduler.push(graph.tasks[2])
    assert scheduler.placement[2] == 0


def test_dmda_stays_with_the_data_where_dm_moves_it():
    g = tw.TaskGraph()
    x, y = g.handle("x"), g.handle("y")
    g.insert(SLOW, tw.W(x))
    g.insert(SLOW, tw.W(y))
    g.insert(SLOW, tw.R(y))
    machine = tw.Machine(ranks=2, durations={"slow": 1.0}, alpha=5.0)
    chosen = {}
    for name in ("dm", "dmda"):
        scheduler = policy(name)
        scheduler.prepare(g, machine)
        scheduler.push(g.tasks[0])
        scheduler.push(g.tasks[1])
        assert scheduler.placement[:2] == [0, 1]
        scheduler.pop(0), scheduler.pop(1)
        scheduler.pop(0), scheduler.pop(1)
        scheduler.push(g.tasks[2])
        chosen[name] = scheduler.placement[2]
    assert chosen == {"dm": 0, "dmda": 1}


def test_dmdas_sorts_a_queue_by_priority_then_bottom_level():
    g = tw.TaskGraph()
    a, b, c = g.handle("a"), g.handle("b"), g.handle("c")
    g.insert(SLOW, tw.W(a))
    g.insert(SLOW, tw.W(b))
    g.insert(SLOW, tw.W(c), priority=1)
    g.insert(SLOW, tw.RW(b))
    scheduler = policy("dmdas")
    scheduler.prepare(g, tw.Machine())
    for task in g.tasks[:3]:
        scheduler.push(task)
    assert [scheduler.pop(0).index for _ in range(3)] == [2, 1, 0]


def test_heteroprio_gives_gpus_what_they_accelerate_and_cpus_the_rest():
    graph = independent(SLOW, FAST, SLOW, FAST)
    scheduler = prepared("heteroprio", graph, MIXED)
    assert [scheduler.pop(2).index, scheduler.pop(0).index] == [1, 0]
    assert [scheduler.pop(0).index, scheduler.pop(1).index] == [2, 3]
    assert scheduler.pop(2) is None


def test_heteroprio_is_critical_path_on_equal_workers():
    graph = tw.cholesky_graph(6)
    machine = tw.Machine(workers=4)
    runs = [tw.simulate(graph, machine, scheduler=name).trace.records for name in ("heteroprio", "critical-path")]
    assert runs[0] == runs[1]
