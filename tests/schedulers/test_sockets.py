"""Cores in sockets: data that another socket's core wrote costs time to fetch, and policies that know where it is win."""

import pytest

import tilewright as tw
from tilewright.schedulers import SCHEDULERS
from tilewright.schedulers import policy as find_policy

STEP = tw.Op("step", weight=1)
SOCKETS = tw.Machine(workers=4, sockets=2, tile_size=1, socket_beta=3.0)
"""Two sockets of two cores; a task takes 1, to bring one tile across takes 3."""


def chains(count, length):
    """``count`` chains of ``length`` tasks, all begun before any goes on: each task changes its chain's tile."""
    graph = tw.TaskGraph(f"{count} chains of {length}")
    x = graph.handles("x")
    for _ in range(length):
        for chain in range(count):
            graph.insert(STEP, tw.RW(x[chain]))
    return graph


def crossings(run):
    return sum(message.memories != (0, 0) for message in run.trace.messages)


LOCAL = ("locality", "lws", "ws", "dmda", "dmdas")


def test_where_tiles_cross_policies_that_know_where_data_is_win():
    """Eight chains on four cores: a queue that all share hands them from core to core, which costs nothing else."""
    graph = chains(8, 12)
    free = tw.compare_schedulers(graph, 4, machine=SOCKETS.replace(socket_beta=0))
    assert {row.makespan for row in free if row.scheduler in ("eager", *LOCAL)} == {8 * 12 / 4}
    table = tw.compare_schedulers(graph, 4, machine=SOCKETS)
    runs = {row.scheduler: run for row, run in zip(table.rows, table.runs, strict=True)}
    for name in LOCAL:
        assert 5 * crossings(runs[name]) < crossings(runs["eager"])
        assert 2 * runs[name].makespan < runs["eager"].makespan
    assert table.best().scheduler in LOCAL


@pytest.mark.parametrize("name", ["heft", "peft", "dmda"])
def test_plans_count_the_way_across(name):
    """Four short chains stay where their tiles are, on two cores, as no tile is worth the way."""
    run = tw.simulate(chains(4, 5), SOCKETS.replace(socket_beta=30.0), scheduler=name)
    assert (crossings(run), run.makespan) == (0, 10)
    run = tw.simulate(chains(4, 5), SOCKETS.replace(socket_beta=0.25), scheduler=name)
    assert run.makespan < 10, "a short way is worth it"


def test_cores_of_a_socket_share_the_way_into_it():
    """Two tasks on the second socket fetch a tile each: one after the other, where a way of their own took 3."""

    class Last:
        placement = None

        def prepare(self, graph, machine):
            self.queue = []

        def push(self, task, worker=None):
            self.queue.append(task)

        def pop(self, worker):
            return self.queue.pop() if self.queue and worker >= 2 else None

    graph = tw.TaskGraph()
    for k in range(2):
        graph.insert(STEP, tw.RW(graph.handles("x")[k]))
    run = tw.simulate(graph, SOCKETS, scheduler=Last())
    assert sorted((m.start, m.end, m.memories) for m in run.trace.messages) == [(0, 3, (0, 1)), (3, 6, (0, 1))]
    assert run.makespan == 7
    assert "transfers      2 between sockets, 16 bytes" in str(run)


def test_a_tile_that_crossed_is_there_for_all_cores_of_the_socket():
    graph = tw.TaskGraph()
    x, y = graph.handle("x"), graph.handles("y")
    for k in range(4):
        graph.insert(STEP, tw.R(x), tw.W(y[k]))
    run = tw.simulate(graph, SOCKETS, scheduler="eager")
    assert [(m.handle.name, m.memories) for m in run.trace.messages] == [("x", (0, 1))]
    assert run.makespan == 4


def test_on_ranks_a_message_goes_on_to_the_socket_that_reads_it():
    """Rank 0 makes x; both sockets of rank 1 read it: a message, and one way across."""
    graph = tw.TaskGraph()
    x, y = graph.handle("x"), graph.handles("y")
    graph.insert(STEP, tw.W(x))
    for k in range(2):
        graph.insert(STEP, tw.R(x), tw.W(y[k]))
    machine = tw.Machine(workers=2, ranks=2, sockets=2, tile_size=1, beta=5.0, socket_beta=3.0)
    run = tw.simulate(graph, machine, scheduler="eager", owner=lambda h: 0 if h.name == "x" else 1)
    found = [(m.source, m.destination, m.start, m.end) for m in run.trace.messages]
    assert found == [(0, 1, 1, 6), (1, 1, 6, 9)]
    assert run.makespan == 10


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_policy_runs_on_sockets_and_free_ways_change_no_work(name):
    graph = tw.cholesky_graph(6)
    for machine in (SOCKETS, tw.Machine(workers=2, sockets=4), tw.Machine(workers=5, sockets=2, ranks=2, alpha=1.0)):
        run = tw.simulate(graph, machine, scheduler=name)
        run.trace.check()
        assert float(sum(run.trace.busy)) == graph.work()


def test_thieves_look_at_home_first():
    graph = chains(4, 1)
    for name in ("lws", "locality"):
        policy = find_policy(name)
        policy.prepare(graph, SOCKETS.replace(workers=6))  # cores 0 to 2, and 3 to 5
        for worker, task in zip((1, 3), graph.tasks, strict=False):
            policy.push(task, worker)
        assert policy.pop(2) is graph.tasks[0], "of core 1, though core 3 is as near"
        assert policy.pop(2) is graph.tasks[1], "and then from the other socket"
