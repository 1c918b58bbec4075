import itertools
import math

import numpy as np
import pytest

import tilewright as tw
from tilewright.machine import Machine

MIXED = Machine(workers=4, ranks=2, gpus=2, alpha=5.0, beta=0.5, device_alpha=1.0, device_beta=0.1)


def test_workers_and_memories_are_numbered_rank_by_rank():
    assert [MIXED.node(w) for w in range(8)] == [0, 0, 1, 2, 3, 3, 4, 5]
    assert [MIXED.is_gpu(w) for w in range(8)] == [False, False, True, True] * 2
    assert (MIXED.size, MIXED.nodes, MIXED.kinds) == (8, 6, {False: 4, True: 4})
    assert Machine(workers=3).kinds == {False: 3}
    assert Machine(workers=3, gpus=3).kinds == {True: 3}


def test_transfers_inside_a_rank_take_the_device_s_link():
    assert MIXED.transfer(10, 0, 0) == 0
    assert MIXED.transfer(10, 0, 1) == MIXED.transfer(10, 2, 1) == 2.0
    assert MIXED.transfer(10, 0, 3) == MIXED.transfer(10, 5, 1) == 10.0


def test_the_mean_transfer_is_the_mean_over_all_pairs_of_workers():
    pairs = list(itertools.permutations(range(MIXED.size), 2))
    mean = sum(MIXED.transfer(10, MIXED.node(a), MIXED.node(b)) for a, b in pairs) / len(pairs)
    assert MIXED.mean_transfer(10) == pytest.approx(mean)
    assert Machine().mean_transfer(10) == 0


SOCKETS = Machine(
    workers=6, ranks=2, gpus=1, sockets=2, alpha=5.0, beta=0.5, device_alpha=1.0, socket_alpha=2.0, socket_beta=0.25
)


def test_cores_are_dealt_to_sockets_in_groups_of_neighbours():
    assert [SOCKETS.node(w) for w in range(12)] == [0, 0, 0, 1, 1, 2, 3, 3, 3, 4, 4, 5]
    assert (SOCKETS.memories, SOCKETS.nodes) == (3, 6)
    assert [Machine(workers=2, sockets=4).node(w) for w in range(2)] == [0, 2], "few cores are spread"
    assert SOCKETS.transfer(4, 0, 1) == SOCKETS.transfer(4, 4, 3) == 3.0
    assert SOCKETS.transfer(4, 1, 2) == SOCKETS.transfer(4, 2, 0) == 1.0
    assert SOCKETS.transfer(4, 1, 4) == SOCKETS.transfer(4, 0, 5) == 7.0
    pairs = list(itertools.permutations(range(SOCKETS.size), 2))
    mean = sum(SOCKETS.transfer(10, SOCKETS.node(a), SOCKETS.node(b)) for a, b in pairs) / len(pairs)
    assert SOCKETS.mean_transfer(10) == pytest.approx(mean)
    assert Machine.from_json(SOCKETS.to_json()) == SOCKETS


def cost(op, machine, worker=0):
    g = tw.TaskGraph()
    h = g.handle("h")
    return machine.cost(g.insert(op, tw.RW(h)), worker)


def test_a_task_costs_its_weight_its_flops_or_its_table():
    op = tw.Op("work", weight=6)
    assert cost(op, Machine()) == 6
    assert cost(op, Machine(gamma=2.0, tile_size=3)) == 2 * 6 * 9
    assert cost(tw.Op("w", flops=lambda shape: shape[0]), Machine(gamma=2.0, tile_size=3)) == 6
    assert cost(op, Machine(durations={"work": 0.5}, overhead=0.25)) == 0.75
    assert cost(op, Machine(workers=2, gpus=1, acceleration={"work": 3.0}, overhead=1.0), worker=1) == 3


@pytest.mark.parametrize(("dtype", "bytes_each"), [("float64", 8), ("float32", 4), ("complex128", 16), ("uint16", 2)])
def test_messages_take_as_long_as_their_bytes(dtype, bytes_each):
    g = tw.TaskGraph()
    x, y = g.handle("x"), g.handle("y", shape=(3, 5), dtype=dtype)
    g.insert(tw.ops.copy, tw.R(x), tw.W(y), on=0)
    g.insert(tw.ops.finite, tw.R(x), "all", on=1)
    g.insert(tw.ops.finite, tw.R(y), "all", on=1)
    machine = Machine(ranks=2, beta=1.0)
    run = tw.simulate(g, machine, owner=lambda handle: 0, data={"x": np.zeros((3, 5), dtype)})
    times = [(m.nbytes, m.end - m.start) for m in run.trace.messages]
    assert times == [(15 * bytes_each, 15 * bytes_each / 8)] * 2
    assert machine.words(x) == 256**2, "where nobody knows the dtype, an element is a word"


def test_a_table_is_interpolated_by_powers_of_the_tile_size():
    table = {100: 1.0, 200: 8.0, 400: 32.0}
    machine = Machine(durations={"work": table})
    seconds = {nb: cost(tw.Op("work"), machine.replace(tile_size=nb)) for nb in (50, 150, 200, 300, 800)}
    assert seconds[200] == 8.0
    assert seconds[150] == pytest.approx(1.5**3)
    assert seconds[300] == pytest.approx(8 * 1.5**2)
    assert seconds[50] == pytest.approx(1 / 8)
    assert seconds[800] == pytest.approx(128)
    assert cost(tw.Op("work"), Machine(durations={"work": {100: 1.0}}, tile_size=200)) == 8.0


def test_an_op_that_was_not_measured_is_named():
    with pytest.raises(KeyError, match="no duration for op 'other' and no gamma; durations has work"):
        cost(tw.Op("other"), Machine(durations={"work": 1.0}))


def test_costs_of_a_graph_are_the_costs_of_its_tasks():
    graph = tw.cholesky_graph(4)
    machine = Machine(workers=3, gpus=1, gamma=1e-9, acceleration={"gemm": 7.0})
    assert machine.costs(graph) == [machine.cost(task, 0) for task in graph]
    assert machine.costs(graph, gpu=True) == [machine.cost(task, 2) for task in graph]
    mean = [(2 * machine.cost(task, 0) + machine.cost(task, 2)) / 3 for task in graph]
    assert machine.mean_costs(graph) == pytest.approx(mean)


@pytest.mark.parametrize(
    "wrong", [{"workers": 0}, {"ranks": 0}, {"tile_size": 0}, {"gpus": 2}, {"alpha": -1.0}, {"gamma": math.nan}]
)
def test_a_machine_that_cannot_be_is_refused(wrong):
    with pytest.raises(ValueError, match=f"Machine: {next(iter(wrong))} must be"):
        Machine(**wrong)


def test_json_gives_the_machine_back(tmp_path):
    durations = {"gemm": {128: 1.0, 256: 8.0}, "potrf": 2.0}
    machine = MIXED.replace(gamma=1e-9, durations=durations, acceleration={"gemm": 9.0})
    path = tmp_path / "machine.json"
    machine.to_json(path)
    assert Machine.from_json(path) == machine
    assert Machine.from_json(machine.to_json()) == machine


def test_a_number_of_workers_is_an_integer():
    with pytest.raises(TypeError, match="Machine: workers must be an integer, not '2'"):
        Machine(workers="2")


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -1.0, "3", True, 1j])
@pytest.mark.parametrize(
    "where",
    ["alpha", "beta", "overhead", "device_alpha", "device_beta", "socket_alpha", "socket_beta", "potrf", "table"],
)
def test_every_time_is_a_finite_number_that_is_not_negative(where, bad):
    fields = {"potrf": {"durations": {"potrf": bad}}, "table": {"durations": {"potrf": {64: 1.0, 128: bad}}}}
    name = "durations" if where in fields else where
    with pytest.raises((ValueError, TypeError), match=f"Machine: {name}.* must be "):
        tw.Machine(**fields.get(where, {where: bad}))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -1.0, "3"])
def test_gamma_is_a_time_or_none(bad):
    with pytest.raises((ValueError, TypeError), match="Machine: gamma must be "):
        tw.Machine(gamma=bad)


@pytest.mark.parametrize("bad", [0, -1, float("nan"), float("inf"), "2"])
def test_acceleration_is_a_positive_number(bad):
    with pytest.raises((ValueError, TypeError), match="Machine: acceleration of gemm must be "):
        tw.Machine(acceleration={"gemm": bad})


@pytest.mark.parametrize("size", ["64", 0, -1, float("nan"), True])
def test_a_table_of_durations_is_by_tile_size(size):
    with pytest.raises((ValueError, TypeError), match="a tile size in Machine: durations of gemm must be "):
        tw.Machine(durations={"gemm": {size: 1.0}})


@pytest.mark.parametrize(
    "noise", [float("nan"), float("inf"), -1, "3", True, lambda *_: float("nan"), lambda *_: -1, lambda *_: "x"]
)
def test_noise_that_gives_no_times_is_refused(noise):
    with pytest.raises((ValueError, TypeError), match="noise"):
        tw.simulate(tw.cholesky_graph(3), noise=noise)
