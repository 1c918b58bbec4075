"""One suite for every policy there is, on the threads engine and the simulator [PaRSEC issue 298 is why]."""

import numpy as np
import pytest

import tilewright as tw
from tilewright.comm.collectives import allreduce
from tilewright.schedulers import SCHEDULERS, fitting, policy

MIXED = tw.Machine(
    workers=4,
    gpus=1,
    gamma=1e-9,
    acceleration={"gemm": 20.0, "trsm": 8.0, "syrk": 20.0, "potrf": 0.5},
    device_alpha=1e-5,
    device_beta=1e-9,
)
CLUSTER = tw.Machine(ranks=4, workers=2, alpha=1e-5, beta=1e-9, gamma=1e-9)


def block_cyclic(handle):
    return 2 * (handle.index[0] % 2) + handle.index[1] % 2


def ladder(rungs=30):
    """Two chains x and y that cross at every third rung, and tasks on the side nobody waits for."""
    g = tw.TaskGraph("ladder")
    x, y = g.handles("x"), g.handles("y")
    side = g.handles("side")
    for r in range(rungs):
        g.insert(_step, tw.RW(x[0, 0]), priority=r % 5)
        g.insert(_step, tw.RW(y[0, 0]))
        if r % 3 == 0:
            g.insert(_mix, tw.R(x[0, 0]), tw.RW(y[0, 0]))
        g.insert(_copy, tw.R(x[0, 0]), tw.W(side[r, 0]))
    return g


def _step(x):
    x *= 1.01


def _mix(x, y):
    y += x


def _copy(x, y):
    y[...] = x


def summed():
    """An allreduce on one rank's workers: messages without tile indices, tasks without weight."""
    graph = allreduce(6, 60)
    graph.layout = None
    return graph


GRAPHS = {
    "cholesky": lambda: tw.cholesky_graph(8),
    "ladder": ladder,
    "allreduce": summed,
    "empty": lambda: tw.cholesky_graph(0),
}
CASES = [(name, graph) for graph in GRAPHS for name in fitting(GRAPHS[graph]())]


@pytest.mark.parametrize(("name", "graph"), CASES)
@pytest.mark.parametrize("workers", [1, 2, 7, 64])
def test_every_policy_runs_each_task_once_and_in_order_on_the_simulator(name, graph, workers):
    run = tw.simulate(GRAPHS[graph](), tw.Machine(workers=workers), scheduler=name)
    run.trace.check()
    assert run.makespan >= run.bounds.lower * (1 - 1e-12)
    assert run.makespan <= run.bounds.work + 1e-9  # no worker is idle while all others are


@pytest.mark.parametrize(("name", "graph"), CASES)
@pytest.mark.parametrize("machine", [MIXED, CLUSTER], ids=["cpu+gpu", "cluster"])
def test_every_policy_terminates_where_data_has_to_travel(name, graph, machine):
    run = tw.simulate(GRAPHS[graph](), machine, scheduler=name)
    run.trace.check()
    assert run.makespan >= run.bounds.lower * (1 - 1e-12)


@pytest.mark.parametrize("name", [name for name in SCHEDULERS if name not in ("heft", "peft")])
def test_every_ordering_policy_serves_every_rank(name):
    graph = tw.cholesky_graph(8)
    run = tw.simulate(graph, CLUSTER, scheduler=name, owner=block_cyclic)
    run.trace.check()
    for record in run.trace:
        assert record.rank == block_cyclic(graph.tasks[record.task].writes[0])


@pytest.mark.parametrize("name", SCHEDULERS)
def test_two_simulations_are_equal_to_the_bit(name):
    graph = tw.cholesky_graph(6)
    machine = tw.Machine(workers=5, gpus=1, gamma=1e-9, acceleration={"gemm": 9.0}, device_beta=1e-9)
    first, second = (tw.simulate(graph, machine, scheduler=name, noise=0.1, seed=3).trace for _ in range(2))
    assert first.records == second.records
    assert first.messages == second.messages


@pytest.mark.parametrize("name", SCHEDULERS)
def test_one_policy_object_runs_again(name):
    graph = tw.cholesky_graph(5)
    scheduler = policy(name)
    runs = [tw.simulate(graph, tw.Machine(workers=3), scheduler=scheduler).trace.records for _ in range(2)]
    assert runs[0] == runs[1]


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("workers", [1, 2, 64])
def test_every_policy_gives_the_same_factor_on_threads(name, workers):
    a = _spd(60)
    factor, run = tw.tiled_cholesky(a, tile_size=13, scheduler=name, workers=workers, return_run=True)
    run.trace.check()
    assert np.array_equal(factor, tw.tiled_cholesky(a, tile_size=13, backend="serial"))


@pytest.mark.parametrize("name", fitting(ladder()))
def test_every_policy_runs_the_ladder_on_threads(name):
    x, y = np.ones((1, 1)), np.ones((1, 1))
    graph = ladder()
    sides = {(r, 0): np.zeros((1, 1)) for r in range(30)}
    run = tw.run(graph, {"x": {(0, 0): x}, "y": {(0, 0): y}, "side": sides}, scheduler=name, workers=4)
    run.trace.check()
    assert x[0, 0] == pytest.approx(1.01**30, rel=1e-12)
    assert sides[4, 0][0, 0] == pytest.approx(1.01**5, rel=1e-14)


def _spd(n):
    b = np.random.default_rng(n).standard_normal((n, n))
    return b @ b.T + n * np.eye(n)
