"""The simulator against schedules worked out by hand, and against its own rules."""

import random
import statistics

import numpy as np
import pyamg
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tilewright as tw
from tilewright.comm.partition import slabs
from tilewright.passes.conversions import with_conversions
from tilewright.passes.messages import TREES, tree
from tilewright.passes.versions import Dataflow
from tilewright.precision import PrecisionMap


def job(*_):
    return None


def on_rank(handle):
    return handle.index[0]


def chain_of_two_ranks():
    """rank 0 writes x[0]; rank 1 reads it and writes y[1]."""
    g = tw.TaskGraph()
    x, y = g.handles("x"), g.handles("y")
    g.insert(job, tw.W(x[0]))
    g.insert(job, tw.R(x[0]), tw.W(y[1]))
    return g


def test_a_message_costs_alpha_plus_beta_words():
    machine = tw.Machine(ranks=2, alpha=3.0, beta=0.5, tile_size=2)
    run = tw.simulate(chain_of_two_ranks(), machine, owner=on_rank)
    assert [(r.rank, r.start, r.end) for r in run.trace] == [(0, 0, 1), (1, 6, 7)]
    assert run.trace.messages == [tw.MessageRecord(0, 1, tw.Handle("x", (0,)), 32, 1.0, 6.0, writer=0)]


def test_the_lecture_s_machine_multiplies_in_gamma_per_flop():
    run = tw.simulate(tw.cholesky_graph(3), tw.Machine(gamma=2.0, tile_size=6))
    flops = {"potrf": 6**3 / 3, "trsm": 6**3, "syrk": 6**3, "gemm": 2 * 6**3}
    for record in run.trace:
        name = run.graph.tasks[record.task].op.name
        assert record.duration == pytest.approx(2 * flops[name], rel=0.35)  # lower-order terms of potrf and syrk
    assert run.flops == pytest.approx(run.makespan / 2)


def test_a_version_travels_once_to_each_rank_whoever_reads_it():
    g = tw.TaskGraph()
    x, y = g.handles("x"), g.handles("y")
    g.insert(job, tw.W(x[0]))
    for i in range(4):
        g.insert(job, tw.R(x[0]), tw.RW(y[1 + i % 2]))
    g.insert(job, tw.RW(x[0]))
    g.insert(job, tw.R(x[0]), tw.RW(y[1]))
    run = tw.simulate(g, tw.Machine(ranks=3, alpha=1.0), owner=on_rank)
    run.trace.check()
    assert [(m.source, m.destination) for m in run.trace.messages] == [(0, 1), (0, 2), (0, 1)]


def test_initial_data_is_sent_from_its_owner_when_the_run_begins():
    g = tw.TaskGraph()
    x, y = g.handles("x"), g.handles("y")
    g.insert(job, tw.R(x[1]), tw.W(y[0]))
    run = tw.simulate(g, tw.Machine(ranks=2, alpha=5.0), owner=on_rank)
    assert (run.trace.messages[0].start, run.trace.records[0].start) == (0.0, 5.0)


def broadcast_graph(readers):
    g = tw.TaskGraph()
    x, y = g.handles("x"), g.handles("y")
    g.insert(job, tw.W(x[0]))
    for r in range(1, readers + 1):
        g.insert(job, tw.R(x[0]), tw.W(y[r]))
    return g


@pytest.mark.parametrize(("tree", "rounds"), [("star", 7), ("chain", 7), ("binomial", 3)])
def test_a_broadcast_to_seven_ranks_takes_as_many_rounds_as_its_tree_is_deep(tree, rounds):
    run = tw.simulate(broadcast_graph(7), tw.Machine(ranks=8, alpha=1.0), owner=on_rank, broadcast=tree)
    assert len(run.trace.messages) == 7
    assert run.makespan == 1 + rounds + 1


@pytest.mark.parametrize("count", range(1, 20))
@pytest.mark.parametrize("shape", [*TREES, None])
def test_every_tree_reaches_every_position_once(shape, count):
    parents = tree(count - 1, shape)
    reached, frontier = [0], [0]
    while frontier:
        frontier = [child for child, parent in enumerate(parents, 1) if parent in frontier]
        reached += frontier
    assert sorted(reached) == list(range(count))


def star_into_a_busy_port():
    """x[0] -> ranks 1 and 2; z[3] -> rank 1. The second message of rank 0 waits for its port, not for that of rank 2."""
    g = tw.TaskGraph()
    x, y, z = g.handles("x"), g.handles("y"), g.handles("z")
    g.insert(job, tw.W(x[0]))
    g.insert(job, tw.R(x[0]), tw.W(y[1]))
    g.insert(job, tw.R(x[0]), tw.W(y[2]))
    g.insert(job, tw.W(z[3]), on=3)
    g.insert(job, tw.RW(z[3]), on=3)
    g.insert(job, tw.R(z[3]), tw.RW(y[2]))
    return g


def test_a_message_that_waits_to_be_sent_keeps_no_port_from_one_that_is_ready():
    """Rank 0 sends to 1 at 1-5 and to 2 at 5-9, or after rank 3 has sent to 2 at 2-6."""
    run = tw.simulate(star_into_a_busy_port(), tw.Machine(ranks=4, alpha=4.0), owner=on_rank, broadcast="star")
    assert [(m.source, m.destination, m.start, m.end) for m in run.trace.messages] == [
        (0, 1, 1, 5), (3, 2, 2, 6), (0, 2, 6, 10),
    ]  # fmt: skip
    run.trace.check()


def idle_while_wanted(run, machine, owner):
    """Messages that waited although both ends were free: (message, from, to)."""
    writes = Dataflow(run.graph)
    end = {record.task: record.end for record in run.trace}
    arrived = {}
    for message in run.trace.messages:
        arrived[message.destination, message.handle, message.writer] = message.end
    found = []
    for message in run.trace.messages:
        home = message.writer < 0 and owner(message.handle) == message.source
        asked = arrived.get((message.source, message.handle, message.writer), 0.0 if home else end.get(message.writer))
        busy = sorted(
            (other.start, other.end)
            for other in run.trace.messages
            if other is not message and (other.source == message.source or other.destination == message.destination)
        )
        until = asked
        for start, stop in busy:
            if start > until:
                break
            until = max(until, stop)
        if until < message.start:
            found.append((message, asked, until))
    assert len(writes) >= len(run.trace.messages) / machine.ranks
    return found


@pytest.mark.parametrize("broadcast", [*TREES, None])
@pytest.mark.parametrize("seed", range(8))
def test_no_message_waits_while_both_of_its_ends_are_idle(seed, broadcast):
    ranks = 2 + seed % 4

    def owner(handle):
        return (handle.index[0] * 7 + handle.index[1] * 3 + seed) % ranks

    machine = tw.Machine(ranks=ranks, alpha=1.7, beta=1e-5)
    run = tw.simulate(tw.cholesky_graph(7), machine, owner=owner, broadcast=broadcast, noise=0.4, seed=seed)
    run.trace.check()
    assert run.messages > 10
    assert idle_while_wanted(run, machine, owner) == []


@pytest.mark.parametrize(("method", "alphas"), [("separate", 8), ("halo", 2), ("two-stage", 2)])
@pytest.mark.parametrize("cut", [(32, 32), (128, 4)])
def test_four_products_in_slabs_take_two_messages_an_exchange(method, alphas, cut):
    """A slab has two neighbours, and its port is never kept for a message that is still on its way to being sent."""
    A = pyamg.gallery.poisson(cut, format="csr")
    op = tw.SparseOperator(A, ranks=4, partition=slabs(cut, 4), backend="serial")
    run = op.simulate(tw.Machine(alpha=1.0, gamma=1e-9), s=4, method=method)
    assert run.makespan == pytest.approx(alphas, rel=1e-4)


def test_a_rank_sends_one_and_receives_one_message_at_a_time():
    def owner(handle):
        return 4 * (handle.index[0] % 4) + handle.index[1] % 4

    run = tw.simulate(tw.cholesky_graph(12), tw.Machine(ranks=16, alpha=2.0, beta=1e-4), owner=owner)
    run.trace.check()
    for side in ("source", "destination"):
        by_rank = {}
        for message in sorted(run.trace.messages, key=lambda m: (m.start, m.end)):
            rank = getattr(message, side)
            assert by_rank.get(rank, 0.0) <= message.start
            by_rank[rank] = message.end


def test_a_reader_begins_after_its_message_and_a_message_after_its_writer():
    graph = tw.cholesky_graph(7)
    run = tw.simulate(
        graph, tw.Machine(ranks=3, alpha=1.0), owner=lambda h: (h.index[0] + h.index[1]) % 3, noise=0.3, seed=1
    )
    flow = Dataflow(graph)
    record = {r.task: r for r in run.trace}
    arrived = {(m.handle, m.destination): m for m in run.trace.messages}
    remote = 0
    for task in graph:
        for version in flow.reads[task.index]:
            writer = flow.writer[version]
            if writer >= 0 and record[writer].rank != record[task.index].rank:
                message = arrived[flow.handle[version], record[task.index].rank]
                assert record[writer].end <= message.start
                assert message.end <= record[task.index].start
                remote += 1
    assert remote > len(run.trace.messages) > 0


def test_without_messages_the_simulator_is_a_list_schedule():
    """Graham 1966: ready tasks never wait while a worker is idle; so T <= W/p + (1 - 1/p) C."""
    for workers in (2, 3, 10):
        run = tw.simulate(tw.cholesky_graph(9), tw.Machine(workers=workers), scheduler="random")
        bound = run.bounds
        assert run.makespan <= bound.area + (1 - 1 / workers) * bound.critical_path + 1e-9
        assert run.idle_split.overhead == 0


def test_one_worker_takes_the_work_and_many_take_the_path():
    graph = tw.cholesky_graph(10)
    assert tw.simulate(graph).makespan == 1000
    assert tw.simulate(graph, tw.Machine(workers=500)).makespan == 80


def test_all_that_ends_at_one_instant_is_noted_before_workers_choose():
    g = tw.TaskGraph()
    a, b = g.handle("a"), g.handle("b")
    g.insert(job, tw.W(a))
    g.insert(job, tw.W(b))
    g.insert(job, tw.R(a), priority=1)
    g.insert(job, tw.R(b), priority=2)
    g.insert(job, tw.R(b), priority=3)
    run = tw.simulate(g, tw.Machine(workers=2), scheduler="prio")
    assert [r.task for r in run.trace if r.start == 1.0] == [3, 4]


def test_data_gives_shapes_and_ragged_tiles_cost_less():
    a = tw.TiledMatrix.empty((5, 5), tile_size=2)
    run = tw.simulate(tw.cholesky_graph(3), tw.Machine(gamma=1.0), data={"A": a})
    by_label = {run.graph.tasks[r.task].label: r.duration for r in run.trace}
    assert by_label["trsm(2,0)"] == pytest.approx(by_label["trsm(1,0)"] / 2)
    remote = tw.simulate(tw.cholesky_graph(3), tw.Machine(ranks=3, beta=1.0), data={"A": a}, owner=lambda h: h.index[0])
    assert {(str(m.handle), m.nbytes) for m in remote.trace.messages} >= {("A[0,0]", 32), ("A[1,0]", 32)}
    assert remote.memory == 104  # rank 2: its three tiles of 16, 16 and 8 bytes, and copies of A[0,0] and A[1,0]


def test_a_gpu_fetches_what_the_host_has_and_the_host_what_the_gpu_wrote():
    g = tw.TaskGraph()
    x, y = g.handle("x"), g.handle("y")
    g.insert(tw.Op("gpuish"), tw.R(x), tw.W(y))
    g.insert(tw.Op("cpuish", weight=9), tw.R(y))
    machine = tw.Machine(workers=2, gpus=1, device_alpha=0.25, acceleration={"gpuish": 4.0, "cpuish": 0.1})
    run = tw.simulate(g, machine, scheduler="dm")
    run.trace.check()
    assert [(r.worker, r.start, r.end) for r in run.trace] == [(1, 0.25, 0.5), (0, 0.75, 9.75)]
    assert [str(m.handle) for m in run.trace.messages] == ["x", "y"]


def test_noise_has_the_mean_and_spread_that_were_asked_for_and_a_seed():
    g = tw.TaskGraph()
    h = g.handles("h")
    for i in range(4000):
        g.insert(job, tw.W(h[i]))
    durations = tw.simulate(g, tw.Machine(workers=8), noise=0.2, seed=5).trace.durations
    assert statistics.mean(durations) == pytest.approx(1.0, abs=0.02)
    assert statistics.stdev(durations) == pytest.approx(0.2, abs=0.01)
    assert durations == tw.simulate(g, tw.Machine(workers=8), noise=0.2, seed=5).trace.durations
    assert durations != tw.simulate(g, tw.Machine(workers=8), noise=0.2, seed=6).trace.durations


def test_a_duration_may_come_from_any_distribution():
    def slow_once(generator: random.Random, task, seconds):
        return 10 * seconds if task.index == 0 else seconds

    run = tw.simulate(tw.cholesky_graph(2), noise=slow_once)
    assert run.makespan == 8 + 9


def test_run_with_backend_simulate_needs_no_data_and_keeps_the_machine():
    graph = tw.cholesky_graph(5)
    run = tw.run(graph, backend="simulate", workers=4, machine=tw.Machine(gamma=1e-9))
    assert (run.workers, run.backend) == (4, "simulate")
    assert run.trace.records == tw.simulate(graph, tw.Machine(workers=4, gamma=1e-9)).trace.records
    assert "backend simulate" in str(run)


def test_no_factor_comes_from_a_backend_that_computes_nothing():
    with pytest.raises(ValueError, match="simulate.*computes nothing"):
        tw.tiled_cholesky(np.eye(4), backend="simulate")


class Hoarder(tw.schedulers.Eager):
    def pop(self, worker):
        return None if len(self.queue) == 1 else super().pop(worker)


class Twice(tw.schedulers.Eager):
    def pop(self, worker):
        return self.queue[0] if self.queue else None


class TooEarly(tw.schedulers.Eager):
    def prepare(self, graph, machine):
        super().prepare(graph, machine)
        self.last = graph.tasks[-1]

    def pop(self, worker):
        return self.last


class Dreamer(Hoarder):
    def pop(self, worker):
        return "potrf"


@pytest.mark.parametrize(
    ("scheduler", "message"),
    [
        (Dreamer(), "gave out 'potrf', which is no task of this graph"),
        (Hoarder(), "gives no task to any worker, though 1 of the"),
        (Twice(), "twice"),
        (TooEarly(), "too early"),
    ],
)
def test_a_policy_that_breaks_its_contract_ends_the_run_with_an_error(scheduler, message):
    with pytest.raises(tw.SchedulerError, match=message):
        tw.simulate(tw.cholesky_graph(4), tw.Machine(workers=2), scheduler=scheduler)


class LastWorkerOnly:
    """Three methods and nothing else: everything runs on the last worker."""

    def prepare(self, graph, machine):
        self.ready, self.chosen = [], machine.size - 1

    def push(self, task, worker=None):
        self.ready.append(task)

    def pop(self, worker):
        return self.ready.pop(0) if self.ready and worker == self.chosen else None


def test_a_user_s_policy_of_three_methods_runs_on_one_rank_and_on_many():
    graph = tw.cholesky_graph(5)
    run = tw.simulate(graph, tw.Machine(workers=3), scheduler=LastWorkerOnly())
    assert {record.worker for record in run.trace} == {2}
    run = tw.simulate(graph, tw.Machine(workers=3, ranks=2), scheduler=LastWorkerOnly(), owner=lambda h: h.index[0] % 2)
    run.trace.check()
    assert {(record.rank, record.worker) for record in run.trace} == {(0, 2), (1, 2)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"owner": lambda handle: 7}, r"puts A\[0,0\] on rank 7, but the machine has ranks 0..1"),
        ({"owner": lambda handle: 0, "scheduler": "heft"}, "places tasks on ranks itself"),
        ({"broadcast": "gossip"}, "unknown broadcast 'gossip'; known: binomial"),
        ({"noise": -1.0}, "noise must not be negative"),
    ],
)
def test_wrong_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        tw.simulate(tw.cholesky_graph(3), tw.Machine(ranks=2), **options)


def test_a_task_on_a_rank_that_does_not_exist_is_named():
    g = tw.TaskGraph()
    g.insert(job, tw.W(g.handle("x")), on=3)
    with pytest.raises(ValueError, match=r"job\(x\) is to run on 3"):
        tw.simulate(g, tw.Machine(ranks=2), owner=lambda handle: 0)


def test_progress_draws_a_bar(capsys):
    tw.simulate(tw.cholesky_graph(3), progress=True)
    shown = capsys.readouterr().err
    assert "10/10" in shown
    assert "tasks/s" in shown


@pytest.mark.parametrize(
    "owner",
    [
        tw.BlockCyclic(2, 3),
        tw.SymmetricBlockCyclic(4),
        tw.RowBlocks(6, mt=7),
        lambda i, j: (i + 2 * j) % 6,
        {"A": tw.BlockCyclic(3, 2)},
    ],
    ids=["block-cyclic", "symmetric", "rows", "function", "dict"],
)
def test_messages_are_those_of_the_plan_that_the_mpi_engine_follows(owner):
    graph, ranks = tw.cholesky_graph(7), 6
    machine = tw.Machine(ranks=ranks, alpha=1e-5, beta=1e-9, gamma=1e-9)
    run = tw.simulate(graph, machine, owner=owner)
    plan = tw.MessagePlan(graph, ranks, owner)
    assert sorted((m.handle, m.writer, m.destination) for m in run.trace.messages) == sorted(
        (m.handle, m.writer, m.destination) for m in plan.messages
    )
    assert [record.rank for record in sorted(run.trace)] == plan.places


@given(
    st.integers(2, 6),
    st.integers(2, 5),
    st.lists(st.sampled_from(["fp64", "fp32", "bf16", "bf16x3", "tf32"]), min_size=21, max_size=21),
)
def test_messages_of_mixed_precisions_are_those_of_the_plan(nt, ranks, formats):
    """A rank that reads a tile in two forms gets it once, and makes the narrower one itself."""
    names = iter(formats)
    precision = PrecisionMap([[next(names) if j <= i else 0 for j in range(nt)] for i in range(nt)])
    graph = with_conversions(tw.cholesky_graph(nt), precision, lambda form: "cblas")
    owner = tw.BlockCyclic(1, ranks)
    run = tw.simulate(graph, tw.Machine(ranks=ranks, alpha=1e-5, beta=1e-9, gamma=1e-9, overhead=1e-6), owner=owner)
    plan = tw.MessagePlan(graph, ranks, owner)
    assert sorted((m.handle, m.writer, m.destination) for m in run.trace.messages) == sorted(
        (m.handle, m.writer, m.destination) for m in plan.messages
    )
    run.trace.check()


def test_a_copy_made_anew_is_there_its_conversion_after_its_message():
    """Rank 1 reads x itself and as a copy: one message of 2 seconds, then a conversion of 5."""
    convert = tw.Op("convert", again="shared")
    g = tw.TaskGraph()
    x, copy, y = g.handles("x"), g.handles("copy"), g.handles("y")
    g.insert(job, tw.W(x[0]))
    g.insert(convert, tw.R(x[0]), tw.W(copy[0]))
    g.temporary.add("copy")
    g.insert(job, tw.R(copy[0]), tw.W(y[1]))
    g.insert(job, tw.R(x[0]), tw.W(y[1]))
    costs = {"job": 1.0, "convert": 5.0}
    run = tw.simulate(g, tw.Machine(ranks=2, alpha=2.0, durations=costs), owner=on_rank)
    assert [(m.handle, m.start, m.end) for m in run.trace.messages] == [(x[0], 1.0, 3.0)]
    assert [(r.rank, r.start, r.end) for r in sorted(run.trace)] == [(0, 0, 1), (0, 1, 6), (1, 8, 9), (1, 9, 10)]


def test_an_owner_may_take_the_handle_or_its_indices():
    graph = tw.cholesky_graph(5)
    machine = tw.Machine(ranks=3, alpha=1.0, beta=1e-6)
    by_handle, by_index = (
        tw.simulate(graph, machine, owner=owner)
        for owner in (lambda handle: sum(handle.index) % 3, lambda i, j: (i + j) % 3)
    )
    assert by_handle.trace.records == by_index.trace.records
    with pytest.raises(ValueError, match=r"owner of A\[0,0\] is 7, not one of the ranks 0 to 2"):
        tw.simulate(graph, machine, owner={"A": 7})
