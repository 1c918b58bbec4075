"""Factors of torch tensors on a device. The kernels are torch operations, so CPU tensors stand in for CUDA's here."""

from collections import Counter

import numpy as np
import pytest
from matrices import indefinite_matrix, spd_matrix
from optional import torch

import tilewright as tw
from tilewright import ops
from tilewright.kernels import table, tensors
from tilewright.linalg.factor import mixed_factor
from tilewright.linalg.gpu import column_tasks, device_factor, device_tile_size, in_columns
from tilewright.linalg.mixed_graph import factor_graph
from tilewright.passes.batches import Batch, batched
from tilewright.precision import FORMATS, PrecisionMap

pytestmark = pytest.mark.needs("torch")

PRECISIONS = ("fp64", "fp32", "bf16x3", "bf16", "fp16")


def tensor(n, dtype=torch.float64):
    return torch.from_numpy(spd_matrix(n)).to(dtype)


def relative_error(a, factor):
    lower = factor.double()
    return float(torch.linalg.norm(lower @ lower.mT - a) / torch.linalg.norm(a))


@pytest.mark.parametrize("precision", PRECISIONS)
class TestOnTensors:
    def test_error_is_that_of_the_format(self, precision):
        a = tensor(150)
        factor, _, _, run = device_factor(a, precision, tile_size=40, workers=2)
        assert relative_error(a, factor) < 8 * max(FORMATS[precision].u, 2.0**-53)
        assert factor.dtype == (torch.float64 if precision == "fp64" else torch.float32)
        assert not torch.any(factor.triu(1))
        assert run.flops == pytest.approx(150**3 / 3)

    @pytest.mark.parametrize(
        ("backend", "scheduler", "workers"),
        [("threads", "critical-path", 2), ("threads", "lws", 3), ("threads", "random", 4)],
    )
    def test_bits_do_not_depend_on_policy_and_workers(self, precision, backend, scheduler, workers):
        a = tensor(150)
        wanted = device_factor(a, precision, tile_size=40, backend="serial")[0]
        got = device_factor(a, precision, tile_size=40, backend=backend, scheduler=scheduler, workers=workers)[0]
        assert torch.equal(got, wanted)

    def test_bad_minor_has_its_global_order(self, precision):
        a = torch.from_numpy(indefinite_matrix(90, order=58))
        with pytest.raises(tw.NotPositiveDefiniteError) as caught:
            device_factor(a, precision, tile_size=20, workers=2)
        assert (caught.value.order, caught.value.task, str(caught.value.tile)) == (58, "potrf(2)", "A[2,2]")

    def test_nan_is_reported_only_where_it_is_read(self, precision):
        a = tensor(60)
        a[3, 50] = torch.nan
        assert relative_error(tensor(60), device_factor(a, precision, tile_size=20)[0]) < 0.05
        a[50, 3] = torch.nan
        with pytest.raises(ValueError, match=r"NaN or infinity at \(50, 3\)"):
            device_factor(a, precision, tile_size=20, workers=2)

    def test_upper(self, precision):
        a = tensor(70)
        lower, upper = (device_factor(a, precision, tile_size=30, lower=low)[0] for low in (True, False))
        assert torch.equal(upper, lower.mT)


def test_blocks_inside_a_tile(monkeypatch):
    monkeypatch.setattr(tensors, "BLOCK", 16)
    blocked = tensors.kernels("torch", "bfloat16")
    a = tensor(100, torch.float32) / 200
    lower, info = a.clone(), torch.ones((1, 1), dtype=torch.int32)
    blocked["potrf"](info, lower)
    assert int(info) == 0
    assert relative_error(a.double(), lower.tril()) < 2.0**-8
    a[70, 70] = -1
    blocked["potrf"](info, a)
    assert int(info) == 71


def test_map_with_several_formats():
    a = tensor(100)
    pm = PrecisionMap.band(5, {0: "fp64", 1: "fp32", 2: "bf16"})
    factor, _, found, run = device_factor(a, pm, workers=2)
    assert factor.dtype == torch.float64 and found is pm
    assert relative_error(a, factor) < 1e-3
    assert run.conversions.count > 0


def test_tf32_is_a_switch_and_no_conversion():
    a = tensor(80)
    factor, _, _, run = device_factor(a, "tf32", tile_size=20, workers=2)
    assert run.conversions is None
    assert run.switches.get("allow_tf32", True) is True
    assert relative_error(a, factor) < 2.0**-10


def test_sums_in_fp32_are_a_promise_that_is_recorded_and_taken_back():
    matmul = torch.backends.cuda.matmul
    names = [
        f"allow_{form}_reduced_precision_reduction{split}" for form in ("fp16", "bf16") for split in ("", "_split_k")
    ]
    before = [getattr(matmul, name) for name in names]
    assert before[-1], "a product may be split along k with partial sums in 16 bits, unless somebody forbids it"
    with tensors.exact_sums() as switches:
        assert not any(getattr(matmul, name) for name in names)
    run = device_factor(tensor(40), "bf16", tile_size=20)[3]
    assert [run.switches[name] for name in names] == [False] * 4
    assert run.switches == switches
    assert [getattr(matmul, name) for name in names] == before


def test_newer_name_of_the_tf32_switch_is_kept(monkeypatch):
    """Torch refuses the older one where a process has used the newer one."""

    class Newer:
        fp32_precision = "none"

        @property
        def allow_tf32(self):
            raise RuntimeError("mix of the legacy and new APIs")

    newer = Newer()
    monkeypatch.setattr(torch.backends.cuda, "matmul", newer)
    with tensors.exact_sums(tf32=True) as switches:
        assert newer.fp32_precision == "tf32"
    assert switches == {"fp32_precision": "tf32"} and newer.fp32_precision == "none"


def test_scale_and_shift_without_finish():
    a = tensor(60)
    lower, d, _, _ = device_factor(a, "bf16", tile_size=20, shift=0.25, finish=False)
    h = d[:, None] * a * d
    got = lower.tril().double()
    assert torch.linalg.norm(got @ got.mT - h - 0.25 * torch.eye(60)) < 0.01 * torch.linalg.norm(h)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda a: {"a": a[:5]}, ValueError, "must be square"),
        (lambda a: {"a": a.half()}, TypeError, "no Cholesky kernel"),
        (lambda a: {"a": a.requires_grad_()}, TypeError, "not differentiable"),
        (lambda a: {"backend": "mpi"}, ValueError, "cannot run on cpu; use serial or threads"),
        (
            lambda a: {"precision": PrecisionMap.uniform(2, "bf16"), "tile_size": 3},
            ValueError,
            "2 x 2 tiles, but there are 4 x 4",
        ),
    ],
)
def test_bad_arguments(change, error, message):
    a = tensor(10)
    with pytest.raises(error, match=message):
        device_factor(**{"a": a, "precision": "bf16"} | change(a))


def test_empty_tensor():
    assert device_factor(torch.zeros((0, 0), dtype=torch.float64), "bf16")[0].shape == (0, 0)


@pytest.mark.parametrize(
    ("n", "precision", "rate"), [(65536, "bf16", 6e14), (32768, "fp64", 5e13), (65536, "fp64", 5e13)]
)
def test_python_takes_a_twentieth_of_the_time_on_an_h100(n, precision, rate):
    """50 us for each task of the batched graph, against n^3/3 flops at the rate of the device."""
    nt = -(-n // device_tile_size(n, precision))
    forms = (("bfloat16", "tensor"),) if precision == "bf16" else ()
    scales = precision != "fp64"
    tiles = factor_graph(PrecisionMap.uniform(nt, precision), forms, scales, True, 0.0)
    columns = in_columns(tiles)
    assert len(columns) <= column_tasks(nt) < len(tiles) / 4
    assert 50e-6 * len(columns) <= 0.05 * n**3 / 3 / rate


def test_tile_is_never_larger_than_the_matrix():
    assert device_tile_size(100, "fp64") == 100


# ------------------------------------------------------------------ batches


@pytest.mark.parametrize("precision", ["fp64", "bf16", "bf16x3"])
def test_batches_are_the_tasks_of_a_column(precision):
    """nt (nt - 1) / 2 updates; a panel, a conversion, a scaling in and out and a clearing for each column."""
    nt = 6
    forms = {"fp64": (), "bf16": (("bfloat16", "tensor"),), "bf16x3": (("bfloat16x2", "tensor"),)}[precision]
    graph = in_columns(factor_graph(PrecisionMap.uniform(nt, precision), forms, precision != "fp64", True, 0.0))
    counts = Counter(task.op.name for task in graph)
    assert counts["panel"] == nt and counts["update"] == nt * (nt - 1) // 2 and counts["tril"] == nt
    if precision == "fp64":
        assert counts == {"copy": nt, "panel": nt, "update": 15, "tril": nt}
    else:
        convert = "csplit" if precision == "bf16x3" else "cconvert"
        assert (counts["diagonals"], counts[convert], counts["cscaled"], counts["cunscaled"]) == (1, 5, 6, 6)
    update = next(task for task in graph if task.op.name == "update")
    assert [str(use.handle) for use in update.uses] == [
        f"A{':' * bool(forms)}{forms[0][0] if forms else ''}[0]",
        "A[1]",
    ]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_columns_and_tiles_give_the_same_factor_up_to_rounding(precision, monkeypatch):
    a = tensor(230)
    columns, _, _, run = device_factor(a, precision, tile_size=50)
    names = np.full((5, 5), precision, dtype=object)
    other = PrecisionMap(names)
    monkeypatch.setattr(PrecisionMap, "single", None)
    tiles, _, _, many = device_factor(a, other, tile_size=50)
    assert len(run.graph) < len(many.graph) / 2
    assert run.flops == pytest.approx(many.flops)
    assert torch.linalg.norm(columns.double() - tiles.double()) < 8 * FORMATS[precision].u * torch.linalg.norm(tiles)


def test_batch_that_would_come_too_early_is_refused():
    """x -> y, then y -> x again: both writes of x cannot be one task."""
    g = tw.TaskGraph()
    x, y = g.handles("x"), g.handles("y")
    g.insert(ops.copy, tw.R(y[0]), tw.W(x[0]))
    g.insert(ops.convert, tw.R(x[0]), tw.W(y[1]))
    g.insert(ops.copy, tw.R(y[1]), tw.W(x[1]))
    with pytest.raises(ValueError, match=r"copy\(1\) cannot run with copy\(0\): it waits"):
        batched(g, {"copy": Batch(ops.copy, lambda task: None)}, lambda handle: handle)


def test_part_that_is_written_leaves_the_other_parts_alone():
    g = tw.TaskGraph()
    x = g.handles("x")
    for i in range(3):
        g.insert(ops.zero, tw.W(x[i]))
    g.insert(ops.copy, tw.R(x[0]), tw.W(x[1]))
    found = batched(g, {"zero": Batch(ops.zero, lambda task: task.writes[0].index == (2,))}, lambda h: tw.Handle("x"))
    assert [[str(use) for use in task.uses] for task in found] == [["W(x)"], ["RW(x)"], ["RW(x)"]]


@pytest.mark.gpu
class TestOnCuda:
    """On a GPU: ``pytest -m gpu``."""

    @pytest.mark.parametrize("precision", [*PRECISIONS, "tf32"])
    def test_factor_stays_on_the_device_with_the_error_of_the_format(self, precision):
        a = tensor(3000).cuda()
        factor = tw.tiled_cholesky(a, precision=precision, tile_size=700, workers=2)
        assert factor.device == a.device
        assert relative_error(a, factor) < 8 * max(FORMATS[precision].u, 2.0**-53)

    @pytest.mark.parametrize("precision", PRECISIONS)
    def test_bits_do_not_depend_on_workers(self, precision):
        a = tensor(2000).cuda()
        wanted = tw.tiled_cholesky(a, precision=precision, tile_size=512, backend="serial")
        for workers in (1, 2, 4):
            assert torch.equal(tw.tiled_cholesky(a, precision=precision, tile_size=512, workers=workers), wanted)

    def test_sum_of_many_ones_is_exact_in_both_formats(self):
        for form in ("bfloat16", "float16"):
            ones = torch.ones((64, 8192), dtype=getattr(torch, form), device="cuda")
            c = torch.zeros((64, 64), device="cuda")
            with tensors.exact_sums():
                tensors.kernels("cuda", form)["gemm"](ones, ones, c)
            assert bool((c == -8192).all())

    def test_bad_minor_has_its_global_order(self):
        a = torch.from_numpy(indefinite_matrix(900, order=578)).cuda()
        with pytest.raises(tw.NotPositiveDefiniteError) as caught:
            tw.tiled_cholesky(a, precision="bf16", tile_size=200, workers=2)
        assert caught.value.order == 578

    def test_mixed_factor_keeps_its_contract(self):
        a = tensor(1000).cuda()
        found = mixed_factor(a, "fp16", tile_size=256, workers=2)
        assert found.L.is_cuda and found.scale.is_cuda and found.shift == 2 * 2.0**-11


class FakeStream:
    def __init__(self, log, name):
        self.log, self.name = log, name

    def record_event(self, event=None):
        event.stream = self.name
        return event

    def wait_event(self, event):
        self.log.append(("wait", self.name, event))

    def synchronize(self):
        self.log.append(("sync", self.name))


class FakeCuda:
    """As much of `torch.cuda` as streams need, with one clock for all."""

    def __init__(self):
        self.log, self.count, self.clock = [], 0, 0
        self.default = FakeStream(self.log, "default")
        cuda = self

        class Event:
            def __init__(self, enable_timing):
                cuda.clock += 1
                self.time = cuda.clock

            def elapsed_time(self, other):
                return other.time - self.time

            def synchronize(self):
                cuda.log.append(("host waits", self))

        self.Event = Event

    def Stream(self, device):  # noqa: N802 - torch's name
        self.count += 1
        return FakeStream(self.log, self.count)

    def current_stream(self, device):
        return self.default

    def stream(self, stream):
        from contextlib import nullcontext

        return nullcontext(stream)


class TestStreams:
    def run(self, on_device, threads):
        """A graph x -> y, x -> z, (y, z) -> w, its tasks called from these threads in turn."""
        import threading

        from tilewright.backends.execution.streams import Streams

        g = tw.TaskGraph()
        for reads, writes in (("", "x"), ("x", "y"), ("x", "z"), ("yz", "w")):
            g.insert(np.copyto, *(tw.R(g.handle(h)) for h in reads), tw.W(g.handle(writes)))
        cuda, called = FakeCuda(), []
        streams = Streams(called.append, lambda task: on_device(task.index), cuda)
        for number in dict.fromkeys(threads):
            mine = [t for t, owner in zip(g.tasks, threads, strict=True) if owner == number]
            worker = threading.Thread(target=lambda tasks=mine: [streams.call(t) for t in tasks])
            worker.start()
            worker.join()
        return g, cuda, called, streams

    def test_one_thread_waits_only_for_the_data(self):
        _, cuda, called, _ = self.run(lambda index: True, [0, 0, 0, 0])
        assert [entry[0] for entry in cuda.log] == ["wait"]
        assert len(called) == 4

    def test_stream_waits_for_predecessors_on_others_on_the_device(self):
        _g, cuda, _, streams = self.run(lambda index: True, [0, 0, 1, 1])
        waits = [(entry[1], entry[2]) for entry in cuda.log if entry[0] == "wait"]
        x, y = (streams._events[k][2] for k in (0, 1))
        assert waits[2:] == [(2, x), (2, y)]
        assert not [entry for entry in cuda.log if entry[0] == "host waits"]

    def test_host_task_waits_for_the_device(self):
        _, cuda, _, streams = self.run(lambda index: index < 3, [0, 0, 0, 0])
        waited = [entry[1] for entry in cuda.log if entry[0] == "host waits"]
        assert waited == [streams._events[1][2], streams._events[2][2]]

    def test_run_that_fails_waits_for_what_was_launched(self, monkeypatch):
        from tilewright.backends.execution import in_process
        from tilewright.backends.execution.streams import Streams

        def launching(program):
            streams = Streams(program.call, lambda task: True, cuda)
            program.call = streams.call
            return streams

        def fails():
            raise RuntimeError("out of memory")

        g, cuda = tw.TaskGraph(), FakeCuda()
        g.insert(np.copyto, tw.R(g.handle("x")), tw.W(g.handle("y")))
        g.insert(fails)
        monkeypatch.setattr(in_process, "launching", launching)
        with pytest.raises(RuntimeError, match="out of memory"):
            tw.run(g, {"x": np.ones(2), "y": np.zeros(2)}, backend="serial")
        assert cuda.log[-1] == ("sync", 1)

    def test_program_that_runs_again_waits_for_what_is_on_the_current_stream_by_then(self):
        *_, streams = self.run(lambda index: True, [0, 0, 0, 0])
        first = streams._zero
        streams.begin()
        assert streams._zero is not first and not streams._streams and not streams._events

    def test_trace_gets_the_times_on_the_device(self):
        from tilewright.runs.trace import TaskRecord, Trace

        g, cuda, _, streams = self.run(lambda index: index > 0, [0, 0, 0, 0])
        launched = Trace(g, 1, [TaskRecord(k, 0, k * 1e-6, (k + 1) * 1e-6) for k in range(4)])
        records = list(streams.measured(launched))
        assert records[0] == launched.records[0]
        assert [(r.start, r.end) for r in records[1:]] == [(1e-3, 2e-3), (3e-3, 4e-3), (5e-3, 6e-3)]
        assert ("sync", 1) in cuda.log
        assert streams.measured(launched).facts == {"launching": pytest.approx(3e-6)}  # task 0 ran on the host


@pytest.mark.parametrize("route", ["autocast", "widen"])
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_route_can_be_asked_for_on_every_device_and_the_run_says_which(precision, route):
    a = tensor(150)
    factor, _, _, run = device_factor(a, precision, tile_size=40, route=route)
    assert factor.dtype == torch.float32
    assert relative_error(a, factor) < 8 * FORMATS[precision].u
    assert f", {route}: " in str(run)
    again = device_factor(a, precision, route=route, tile_size=40, backend="serial")[0]
    assert torch.equal(factor, again)


def test_autocast_on_tensors_rounds_products_and_widening_does_not():
    """Whole numbers: 16 times 17 and 1 are 273, which BF16 does not have; C in FP32 keeps its own digits."""
    a, b = torch.tensor([[16.0, 1.0]] * 16).bfloat16(), torch.tensor([[17.0, 1.0]] * 16).bfloat16()
    found = {}
    for route in ("autocast", "widen"):
        c = torch.full((16, 16), 2.0**-10)
        table.lookup("gemm", "torch", "bfloat16", "float32", f"bfloat16/{route}").function(a, b, c)
        assert c.dtype == torch.float32
        found[route] = c
    assert (found["widen"] == 2.0**-10 - 273).all()
    assert (found["autocast"] == 2.0**-10 - 272).all()


@pytest.mark.parametrize(
    ("precision", "route", "message"),
    [
        ("bf16x3", "autocast", "three of them do not add up to FP32"),
        ("bf16", "cblas", "is none of torch's on torch"),
        ("fp32", "widen", "is for products with 16-bit operands"),
    ],
)
def test_a_route_that_a_device_lacks_is_refused(precision, route, message):
    with pytest.raises(ValueError, match=message):
        device_factor(tensor(40), precision, tile_size=20, route=route)
