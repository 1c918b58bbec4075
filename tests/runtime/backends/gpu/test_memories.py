"""CPU cores and accelerators in one run. Two stand in for a GPU: an arena of NumPy arrays, and torch on the CPU."""

import threading
from collections import Counter
from contextlib import nullcontext
from time import perf_counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matrices import indefinite_matrix, spd_matrix

import tilewright as tw
from tilewright import ops
from tilewright.backends.gpu.accelerators import ACCELERATION, TorchAccelerator, accelerator
from tilewright.kernels import table
from tilewright.precision import FORMATS, PrecisionMap

pytestmark = pytest.mark.usefixtures("no_kept_cluster")

FORMS = ("bfloat16", "float16", "bfloat16x2")


def combine(a, b, c):
    """An op of these tests: no two orders of calls give the same numbers."""
    c *= 3
    c += a - 2 * b


def replace(a, c):
    c[...] = a + 1


COMBINE = tw.Op("test combine", weight=1)
REPLACE = tw.Op("test replace", weight=1)
HOST_ONLY = tw.Op("test host only", weight=1)


@pytest.fixture(autouse=True, scope="module")
def rows_of_these_tests():
    """The kernels of the CPU as rows of the arena: the same bits wherever a task runs."""
    for device in ("cpu", "test arena"):
        table.register("test combine", device, "int64", "int64", "test", combine)
        table.register("test replace", device, "int64", "int64", "test", replace)
    table.register("test host only", "cpu", "int64", "int64", "test", combine)
    for op in ("potrf", "trsm", "syrk", "gemm"):
        for dtype in ("float32", "float64"):
            storage = dtype
            table.register(op, "test arena", storage, dtype, "test", table.lookup(op, "cpu", storage, dtype).function)
        for form in FORMS:
            storage = "float32" if op in ("potrf", "trsm") else form
            row = table.lookup(op, "cpu", storage, "float32", f"{form}/reference")
            table.register(op, "test arena", storage, "float32", f"{form}/tensor", row.function)
    for op in ("convert", "split"):
        table.register(op, "test arena", "any", "any", "test", table.lookup(op, "cpu", "float32", "float32").function)
    yield
    for key in [key for key in table._rows if key[0].startswith("test ") or key[1] == "test arena"]:
        del table._rows[key]


class Arena:
    """An accelerator whose memory is arrays of its own; what was not brought there is garbage."""

    device = "test arena"
    ops = frozenset({"potrf", "trsm", "syrk", "gemm", "convert", "split", "test combine", "test replace"})

    def __init__(self, capacity=float("inf")):
        self.capacity = capacity
        self.rooms = []
        self.ended = 0

    def room(self, like):
        room = np.full(like.shape, 77, like.dtype)
        self.rooms.append(room)
        return room

    def bring(self, source, room):
        assert any(room is mine for mine in self.rooms)
        room[...] = source

    def fetch(self, room, target, after):
        target[...] = room

    def entered(self):
        return nullcontext()

    def mark(self):
        return perf_counter()

    def wait(self, mark):
        pass

    def seconds(self, mark):
        return mark

    def finish(self):
        self.ended += 1


class Dealt:
    """Every task to the worker that a list says."""

    def __init__(self, workers):
        self.placement = workers

    def prepare(self, graph, machine):
        self.machine = machine
        self.queues = [[] for _ in range(machine.workers)]

    def push(self, task, worker=None):
        self.queues[self.placement[task.index % len(self.placement)] % len(self.queues)].append(task)

    def pop(self, worker):
        return self.queues[worker].pop(0) if self.queues[worker] else None


def ints(count):
    return {"h": {i: np.full((2, 2), i + 1, np.int64) for i in range(count)}}


@settings(max_examples=40)
@given(data=st.data())
def test_random_programs_on_random_workers_give_the_sequential_result(data):
    calls = data.draw(st.lists(st.tuples(st.sampled_from("crh"), *[st.integers(0, 3)] * 3), min_size=1, max_size=12))
    placement = data.draw(st.lists(st.integers(0, 2), min_size=1, max_size=6))
    capacity = data.draw(st.sampled_from([96, 128, float("inf")]))  # three tiles of 32 bytes, four, all

    def graph():
        g = tw.TaskGraph()
        h = g.handles("h")
        for kind, a, b, c in calls:
            if kind == "r":
                g.insert(REPLACE, tw.R(h[a]), tw.W(h[c] if c != a else h[(c + 1) % 4]))
            else:
                g.insert(COMBINE if kind == "c" else HOST_ONLY, tw.R(h[a]), tw.R(h[b]), tw.RW(h[c]))
        return g

    wanted = tw.run(graph(), ints(4), backend="serial").store.families["h"]
    run = tw.run(graph(), ints(4), workers=3, devices=[Arena(capacity), Arena(capacity)], scheduler=Dealt(placement))
    assert all(np.array_equal(run.store.families["h"][i], wanted[i]) for i in range(4))
    run.trace.check()
    assert all(m.memories[0] != m.memories[1] and 0 in m.memories for m in run.trace.messages)


def chain():
    """x -> y three times over, each read twice."""
    g = tw.TaskGraph()
    x, y = g.handles("h")[0], g.handles("h")[1]
    g.insert(COMBINE, tw.R(x), tw.R(x), tw.RW(y))  # 0
    g.insert(COMBINE, tw.R(x), tw.R(y), tw.RW(y))  # 1
    g.insert(HOST_ONLY, tw.R(x), tw.R(y), tw.RW(y))  # 2
    g.insert(COMBINE, tw.R(x), tw.R(y), tw.RW(y))  # 3
    return g


def test_tile_crosses_once_per_version_and_direction():
    run = tw.run(chain(), ints(2), workers=2, devices=[Arena()], scheduler=Dealt([1]))
    found = [(str(m.handle), m.memories, m.writer, m.nbytes) for m in run.trace.messages]
    assert found == [
        ("h[0]", (0, 1), -1, 32),  # x serves tasks 0, 1 and 3
        ("h[1]", (0, 1), -1, 32),
        ("h[1]", (1, 0), 1, 32),  # what task 1 wrote, for task 2 on the host
        ("h[1]", (0, 1), 2, 32),
        ("h[1]", (1, 0), 3, 32),  # the result
    ]
    assert (run.messages, run.bytes) == (5, 160)
    assert "3 to accelerators, 96 bytes, and 2 back, 64 bytes" in str(run)


def test_what_is_written_without_being_read_does_not_cross():
    g = tw.TaskGraph()
    h = g.handles("h")
    g.insert(REPLACE, tw.R(h[0]), tw.W(h[1]))
    g.temporary.add("t")
    g.insert(REPLACE, tw.R(h[1]), tw.W(g.handles("t")[0]))
    run = tw.run(g, ints(2) | {"t": {0: np.zeros((2, 2), np.int64)}}, workers=1, devices=[Arena()])
    assert [(str(m.handle), m.memories) for m in run.trace.messages] == [("h[0]", (0, 1)), ("h[1]", (1, 0))]


def test_copies_that_do_not_fit_are_given_up_the_longest_unused_first():
    g = tw.TaskGraph()
    h = g.handles("h")
    for i in (1, 2, 1, 3, 1):  # three tiles fit: h[0] and two more
        g.insert(COMBINE, tw.R(h[i]), tw.R(h[i]), tw.RW(h[0]))
    run = tw.run(g, ints(4), workers=1, devices=[Arena(96)])
    brought = [m.handle.index[0] for m in run.trace.messages if m.memories == (0, 1)]
    assert brought == [1, 0, 2, 3]  # h[2] made way for h[3]; h[1] stayed
    with pytest.raises(MemoryError, match=r"test combine\(0\) needs 6.4e-05 MB on test arena, which has 6.3e-05 MB"):
        tw.run(g, ints(4), workers=1, devices=[Arena(63)])


PRECISIONS = ["fp64", "fp32", "bf16", "bf16x3", PrecisionMap.band(6, {0: "fp64", 2: "fp32", 4: "bf16"})]


@pytest.mark.parametrize("scheduler", ["dm", "dmda", "dmdas", "heteroprio", "heft", "critical-path", "random"])
def test_factor_has_the_same_bits_wherever_tasks_run(scheduler):
    a = spd_matrix(120)
    arena = Arena()
    got, run = tw.tiled_cholesky(a, tile_size=20, workers=3, devices=[arena], scheduler=scheduler, return_run=True)
    assert np.array_equal(got, tw.tiled_cholesky(a, tile_size=20))
    run.trace.check()
    assert arena.ended and threading.active_count() < 20


@pytest.mark.parametrize("precision", PRECISIONS, ids=str)
def test_factor_in_every_precision_has_the_bits_of_the_host(precision):
    a = spd_matrix(120)
    narrow = precision not in ("fp64", "fp32")
    options = {"precision": precision, "tile_size": 20, "route": "reference" if narrow else None}
    got, run = tw.tiled_cholesky(a, workers=3, devices=[Arena(), Arena()], return_run=True, **options)
    assert np.array_equal(got, tw.tiled_cholesky(a, **options))
    where = Counter(run.trace.records[k].worker for k in range(len(run.trace)))
    assert sum(where.values()) == len(run.graph)


def machine(**changes):
    durations = {"potrf": 1e-3, "trsm": 1e-3, "syrk": 1e-3, "gemm": 1e-3}
    given = {"workers": 2, "gpus": 1, "durations": durations, "gamma": 0.0} | changes
    return tw.Machine(acceleration={"gemm": 100.0, "syrk": 100.0, "trsm": 10.0, "potrf": 0.01}, **given)


def workers_of(run, op):
    return {record.worker for record in run.trace if run.graph.tasks[record.task].op.name == op}


@pytest.mark.parametrize("scheduler", ["dm", "dmda", "dmdas", "heft"])
def test_policies_give_each_kind_of_worker_what_suits_it(scheduler):
    """potrf is a hundred times slower on the accelerator, gemm a hundred times faster."""
    run = tw.run(
        tw.cholesky_graph(8),
        {"A": tw.TiledMatrix.from_numpy(spd_matrix(160), 20)},
        workers=2,
        devices=[Arena()],
        scheduler=scheduler,
        machine=machine(),
    )
    assert workers_of(run, "potrf") == {0}
    assert workers_of(run, "gemm") == {1}
    assert run.machine.gpus == 1 and run.bounds.lower > 0


def test_heteroprio_takes_from_its_end_of_the_buckets():
    """All ready at once: the accelerator begins with gemm, the core with potrf."""
    policy = tw.schedulers.policy("heteroprio")
    graph = tw.TaskGraph()
    h = graph.handles("h")
    for i, op in enumerate([ops.gemm, ops.potrf, ops.gemm, ops.potrf]):
        graph.insert(op, tw.W(h[i]))
    policy.prepare(graph, machine())
    for task in graph:
        policy.push(task)
    assert [policy.pop(worker).op.name for worker in (1, 0, 1, 0)] == ["gemm", "potrf", "gemm", "potrf"]


def test_dmda_stays_with_the_data_where_a_transfer_is_dear():
    """A chain on one tile: on the accelerator it takes a quarter as long, and the transfer as long as a hundred tasks."""
    g = tw.TaskGraph()
    h = g.handles("h")
    for _ in range(10):
        g.insert(COMBINE, tw.R(h[0]), tw.R(h[1]), tw.RW(h[2]))
    costs = {"durations": {"test combine": 1.0}, "acceleration": {"test combine": 4.0}, "device_alpha": 100.0}
    used = {}
    for scheduler in ("dm", "dmda"):
        mixed = tw.Machine(workers=2, gpus=1, **costs)
        run = tw.run(g, ints(3), workers=2, devices=[Arena()], scheduler=scheduler, machine=mixed)
        used[scheduler] = {record.worker for record in run.trace}
        assert (run.messages == 0) == (scheduler == "dmda")
    assert used == {"dm": {1}, "dmda": {0}}


class TestTorch:
    """Tensors in another memory than the arrays of the run, by the kernels that CUDA tensors have."""

    @pytest.mark.parametrize("precision", ["fp64", "fp32", "bf16", "bf16x3", "fp16"])
    def test_factor_is_as_exact_as_the_host_makes_it(self, precision):
        a = spd_matrix(200)
        got, run = tw.tiled_cholesky(a, precision=precision, tile_size=40, workers=1, devices=["cpu"], return_run=True)
        u = FORMATS[precision].u
        assert np.linalg.norm(got @ got.T.astype(np.float64) - a) < 16 * u * np.linalg.norm(a)
        crossed = {m.handle for m in run.trace.messages if m.memories == (0, 1)}
        assert len(crossed) == 15  # tiles of A; copies in other formats are made there
        run.trace.check()

    def test_static_plan_gives_the_same_bits_every_time(self):
        a = spd_matrix(120)
        first, second = (tw.tiled_cholesky(a, tile_size=30, workers=2, devices="cpu", scheduler="heft") for _ in "ab")
        assert np.array_equal(first, second)

    def test_bad_minor_has_its_global_order(self):
        a = indefinite_matrix(90, order=58)
        for precision in (None, "fp32"):
            with pytest.raises(tw.NotPositiveDefiniteError) as caught:
                tw.tiled_cholesky(a, precision=precision, tile_size=20, workers=1, devices=["cpu"])
            assert (caught.value.order, str(caught.value.tile)) == (58, "A[2,2]")

    def test_every_dtype_and_layout_crosses_there_and_back(self):
        there = TorchAccelerator("cpu")
        rng = np.random.default_rng(0)
        for dtype in (np.float64, np.float32, np.float16, np.uint16):
            for make in (lambda x: x, lambda x: x.T, lambda x: x[::-1], lambda x: x[:, 1:3]):
                source = make((rng.standard_normal((5, 4)) * 100).astype(dtype))
                source.flags.writeable = False
                room = there.room(source)
                there.bring(source, room)
                target = make(np.zeros((5, 4), dtype))
                there.fetch(room, target, None)
                assert np.array_equal(target, source)
        assert there.room(np.zeros((2, 3, 3), np.uint16)).dtype == torch.bfloat16

    def test_sums_in_fp32_are_a_promise_that_is_recorded(self):
        run = tw.tiled_cholesky(spd_matrix(60), tile_size=20, devices=["cpu"], return_run=True)[1]
        assert run.switches["allow_bf16_reduced_precision_reduction"] is False


def test_threads_without_devices_are_as_before():
    run = tw.tiled_cholesky(spd_matrix(60), tile_size=20, return_run=True)[1]
    assert not run.switches and not run.trace.messages and run.machine is None


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"devices": ["cpu"], "backend": "serial"}, TypeError, "unknown option devices; backend 'serial' has none"),
        ({"devices": ["cpu", "cpu"], "workers": 1}, ValueError, "workers=1, but each of the 2 devices needs one"),
        ({"devices": ["meta"]}, RuntimeError, "no rows for meta, only for cuda and cpu"),
        ({"devices": [3]}, TypeError, "a name such as 'cuda' or an Accelerator, not 3"),
        ({"devices": [Arena]}, TypeError, "or an Accelerator, not <class"),
    ],
    ids=["serial", "few workers", "meta", "number", "class"],
)
def test_bad_devices_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        tw.tiled_cholesky(spd_matrix(20), **options)


def test_device_that_is_not_there_is_said_in_one_sentence():
    if not torch.cuda.is_available():
        with pytest.raises(RuntimeError, match=r"sees no CUDA device here; leave out devices='cuda'"):
            accelerator("cuda")


def test_failing_kernel_on_an_accelerator_names_task_and_worker():
    g = tw.TaskGraph()
    g.insert(COMBINE, tw.R(g.handle("a")), tw.R(g.handle("b")), tw.RW(g.handle("c")))
    arrays = {"a": np.zeros((2, 2), np.int64), "b": np.zeros((3, 3), np.int64), "c": np.zeros((2, 2), np.int64)}
    arena = Arena()
    with pytest.raises(ValueError, match="broadcast") as caught:
        tw.run(g, arrays, workers=1, devices=[arena])
    assert "test combine(c)" in caught.value.__notes__[0] and "worker=0" in caught.value.__notes__[0]
    assert arena.ended


def test_guess_of_the_acceleration_is_for_the_kernels_there_are():
    assert set(ACCELERATION) <= TorchAccelerator.ops


@pytest.mark.gpu
class TestCuda:
    @pytest.mark.parametrize("precision", ["fp64", "fp32", "bf16", "fp16", "bf16x3"])
    def test_cores_and_the_gpu_factor_one_matrix(self, precision):
        a = spd_matrix(2000)
        got, run = tw.tiled_cholesky(
            a, precision=precision, tile_size=250, workers=3, devices=["cuda"], scheduler="dmda", return_run=True
        )
        u = {"fp64": 2.0**-53, "fp32": 2.0**-24}.get(precision, 2.0**-8)
        assert np.linalg.norm(got @ got.T.astype(np.float64) - a) < 16 * u * np.linalg.norm(a)
        assert {record.worker for record in run.trace} == {0, 1, 2}
        assert run.switches["allow_bf16_reduced_precision_reduction"] is False
        run.trace.check()

    def test_copies_that_do_not_fit_are_given_up(self):
        a = spd_matrix(1200)
        small = TorchAccelerator("cuda", capacity=10 * 200 * 200 * 8)
        got = tw.tiled_cholesky(a, tile_size=200, workers=1, devices=[small])
        assert np.linalg.norm(got @ got.T - a) < 2.0**-49 * np.linalg.norm(a)
