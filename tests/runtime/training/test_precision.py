"""Precisions: what runs in which dtype, in which thread, and what is refused."""

import math

import pytest
import torch
import training_models as zoo
from torch import nn

from tilewright.training import Losses, fit, models, precision

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("name", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_a_product_runs_in_the_named_dtype_on_the_device_there_is(name, dtype):
    """Erratum 2: autocast(device_type="cuda") on a CPU runs FP32 under another name."""
    with precision.autocast(name, "cpu"):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype


def test_autocast_for_a_device_that_is_not_there_is_an_error(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="there is no CUDA device"):
        precision.autocast("fp16", "cuda")
    assert "no CUDA device" in precision.problem("fp32", torch.device("cuda"))


def test_tf32_is_not_a_format_of_cpus():
    with pytest.raises(ValueError, match="a CPU has none: use fp32 or bf16"):
        precision.check("tf32", CPU)
    assert precision.ladder(("fp16", "bf16", "tf32", "fp32"), CPU) == ("fp16", "bf16", "fp32")


def test_gradients_survive_an_evaluation_in_the_same_region():
    """Failure 1: with autocast's cache, weights cast under no_grad have no gradient afterwards."""
    layer = nn.Linear(4, 4)
    x = torch.randn(2, 4)
    with precision.autocast("bf16", "cpu"):
        with torch.no_grad():
            layer(x)
        y = layer(x)
    y.float().sum().backward()
    assert layer.weight.grad is not None and layer.weight.grad.abs().sum() > 0


def test_threads_in_two_precisions_share_weights_and_nothing_else():
    """Failure 2: the cache is one for all threads and not keyed by dtype."""
    seen = zoo.dtypes_in_two_threads("cpu")
    assert seen == {"fp16": {torch.float16}, "bf16": {torch.bfloat16}}


class Twice(torch.autograd.Function):
    """Notes the dtypes that forward and backward see."""

    seen: list = []  # noqa: RUF012

    @staticmethod
    def forward(ctx, x):
        Twice.seen.append(x.dtype)
        return 2 * x

    @staticmethod
    def backward(ctx, dy):
        Twice.seen.append(dy.dtype)
        Twice.seen.append(torch.is_autocast_enabled("cpu"))
        return 2 * dy


def test_backward_runs_in_the_dtype_of_forward_and_outside_autocast():
    """Failure 4, and the notebook's mistake 1."""
    Twice.seen.clear()
    layer = nn.Linear(4, 4)
    with precision.autocast("bf16", "cpu"):
        y = Twice.apply(layer(torch.randn(2, 4)))
    y.sum().backward()
    assert Twice.seen == [torch.bfloat16, torch.bfloat16, False]


def test_half_precision_parameters_are_refused_by_name():
    """Failure 9: "Attempting to unscale FP16 gradients" says neither which nor why."""
    model = models.MLP(4, (4,))
    model[1].half()
    with pytest.raises(ValueError, match=r"must be float32.*1\.weight \(torch\.float16\), 1\.bias .*model\.float\(\)"):
        precision.check_model(model, nn.CrossEntropyLoss(), "fp16")


def test_bceloss_is_refused_under_autocast_with_what_to_use_instead():
    """Failure 22."""
    with pytest.raises(ValueError, match="use BCEWithLogitsLoss"):
        precision.check_model(models.MLP(4, (4,)), nn.BCELoss(), "bf16")
    with pytest.raises(ValueError, match="BCELoss takes probabilities"):
        precision.check_model(models.MLP(4, (4,)), Losses({"one": (nn.BCELoss(), 1.0)}), "fp16")
    precision.check_model(models.MLP(4, (4,)), nn.BCELoss(), "fp32")


CPUS = {"without 16 bits": {"avx2"}, "with BF16": {"avx512_bf16"}, "with both": {"amx_bf16", "avx512_fp16"}}


@pytest.fixture(params=CPUS)
def cpu(request, monkeypatch):
    monkeypatch.setattr("tilewright.kernels.cpu.features", lambda: frozenset(CPUS[request.param]))
    return request.param


def test_every_cpu_trains_in_16_bits(cpu):
    """Failure 19."""
    for name in ("bf16", "fp16"):
        precision.check(name, CPU)
    assert precision.available(CPU) == ("fp32", "bf16", "fp16")


def test_only_what_is_faster_than_fp32_pays(cpu):
    assert [name for name in precision.PRECISIONS if precision.pays(name, CPU)] == (
        ["fp32"] if cpu == "without 16 bits" else ["fp32", "bf16"]
    )


LAYERS = {
    "linear": (lambda: nn.Linear(24, 7), (5, 24)),
    "conv1d": (lambda: nn.Conv1d(3, 5, 3, padding="same"), (2, 3, 11)),
    "conv2d": (lambda: nn.Conv2d(3, 5, 3, stride=2, padding=1, bias=False), (2, 3, 8, 9)),
    "conv3d": (lambda: nn.Conv3d(2, 3, 2), (2, 2, 4, 4, 5)),
    "conv_transpose2d": (lambda: nn.ConvTranspose2d(3, 4, 3, groups=1), (2, 3, 5, 5)),
}  # fmt: skip


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("name", ["bf16", "fp16"])
def test_widened_layers_round_operands_results_and_gradients_and_nothing_else(layer, name, monkeypatch):
    """Against FP64 on the same roundings; FP32 sums of these few numbers differ by less than a rounding to 16 bits."""
    monkeypatch.setattr("tilewright.kernels.cpu.features", frozenset)
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}[name]
    torch.manual_seed(0)
    make, shape = LAYERS[layer]
    module, x = make(), torch.randn(shape, requires_grad=True)
    with precision.autocast(name, "cpu"):
        y = module(x)
    dy = torch.randn(y.shape).to(dtype)
    y.backward(dy)

    exact = make().double()
    exact.load_state_dict({key: p.detach().to(dtype).double() for key, p in module.state_dict().items()})
    z = x.detach().to(dtype).double().requires_grad_()
    wanted = exact(z)
    wanted.backward(dy.double())
    assert y.dtype == dtype
    u = precision.ROUNDOFF[name]
    pairs = [
        (y, wanted),
        (x.grad, z.grad),
        *((p.grad, q.grad) for p, q in zip(module.parameters(), exact.parameters(), strict=True)),
    ]
    for got, right in pairs:
        assert (got.double() - right).abs().max() <= 1.01 * u * right.abs().max()
        assert torch.equal(got, got.to(dtype).to(got.dtype))  # gradients of FP32 parameters are 16-bit numbers
    assert x.grad.dtype == torch.float32 and all(p.grad.dtype == torch.float32 for p in module.parameters())


def test_widened_convolutions_overflow_and_underflow_as_fp16_does():
    layer = nn.Conv2d(1, 1, 1, bias=False)
    with torch.no_grad():
        layer.weight.fill_(300.0)
    with precision.autocast("fp16", "cpu"):
        y = layer(torch.tensor([300.0, 1e-9, 65504.0, 1e5]).reshape(4, 1, 1, 1))
        assert y.flatten().tolist() == [math.inf, 0, math.inf, math.inf]  # 90000; rounded away; and an infinite operand
        z = layer(torch.ones(1, 1, 1, 1))
    z.backward(torch.tensor(60000.0, dtype=torch.float16).reshape(1, 1, 1, 1))
    assert layer.weight.grad.item() == 60000.0
    x = torch.ones(1, 1, 1, 1, requires_grad=True)
    with precision.autocast("fp16", "cpu"):
        y = layer(x)
    y.backward(torch.full((1, 1, 1, 1), 300.0, dtype=torch.float16))
    assert math.isinf(x.grad.item())  # 90000: the step would be skipped


@pytest.mark.parametrize("name", ["bf16", "fp16"])
def test_a_network_learns_in_16_bits_on_a_cpu_without_instructions_for_them(name, monkeypatch):
    monkeypatch.setattr("tilewright.kernels.cpu.features", frozenset)
    losses = {}
    for wanted in (name, "fp32"):
        torch.manual_seed(0)
        losses[wanted] = fit(zoo.small_net(), zoo.tiny(), epochs=2, precision=wanted).losses
    assert losses[name][-1] < losses[name][0]
    assert losses[name] == pytest.approx(losses["fp32"], rel=0.02)
    assert losses[name] != losses["fp32"]


def test_flags_come_back_and_one_training_holds_them_at_a_time():
    before = torch.are_deterministic_algorithms_enabled()
    with precision.flags("fp32", "cpu", deterministic=True):
        assert torch.are_deterministic_algorithms_enabled()
    assert torch.are_deterministic_algorithms_enabled() == before


@pytest.mark.gpu
def test_fp32_on_a_gpu_means_fp32_for_convolutions_too():
    """Erratum 7: the notebook's "FP32" baseline runs its convolutions in TF32."""
    with precision.flags("fp32", "cuda"):
        assert torch.backends.cudnn.conv.fp32_precision == torch.backends.cuda.matmul.fp32_precision == "ieee"
        x, layer = torch.randn(4, 64, 16, 16, device="cuda"), nn.Conv2d(64, 64, 3).cuda()
        error = (layer(x) - nn.functional.conv2d(x.double(), layer.weight.double(), layer.bias.double())).abs().max()
        assert error < 1e-4
    with precision.flags("tf32", "cuda"):
        assert torch.backends.cudnn.conv.fp32_precision == torch.backends.cuda.matmul.fp32_precision == "tf32"


@pytest.mark.gpu
def test_a_cuda_graph_of_a_step_under_autocast_keeps_no_cast_weights():
    """Failure 16: a cast that the cache kept from before the capture would be replayed stale."""
    layer, x = nn.Linear(16, 16).cuda(), torch.randn(4, 16, device="cuda")

    def forward():
        with precision.autocast("bf16", "cuda"):
            return layer(x)

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream), torch.no_grad():
        forward()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.no_grad(), torch.cuda.graph(graph):
        y = forward()
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.fill_(3.0)
    graph.replay()
    assert torch.equal(y, torch.full_like(y, 3.0))


@pytest.mark.gpu
def test_backward_on_a_gpu_runs_in_the_dtype_of_forward():
    Twice.seen.clear()
    layer = nn.Linear(4, 4).cuda()
    with precision.autocast("bf16", "cuda"):
        y = Twice.apply(layer(torch.randn(2, 4, device="cuda")))
    torch.autograd.grad(y.float().sum(), layer.weight)
    assert Twice.seen[:2] == [torch.bfloat16, torch.bfloat16]


@pytest.mark.parametrize(("name", "said"), [("fp32", "ieee"), ("tf32", "tf32"), ("bf16", "ieee")])
def test_products_convolutions_and_recurrent_layers_of_a_gpu_have_one_fp32(name, said):
    """Erratum 7; torch's own default is TF32 for recurrent layers too. The flags are there without a GPU."""
    switches = [torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.cudnn.rnn]
    before = [switch.fp32_precision for switch in switches]
    with precision.flags(name, "cuda"):
        assert [switch.fp32_precision for switch in switches] == [said] * 3
    assert [switch.fp32_precision for switch in switches] == before


def test_the_counters_of_a_fused_optimizer_go_where_its_kernels_are():
    from tilewright.training.state import _like

    parameter, counter = torch.zeros(3, device="meta"), torch.tensor(5.0)
    assert _like(counter, parameter, True).device.type == "meta"
    assert _like(counter, parameter, False) == 5.0 and _like(torch.ones(3), parameter, False).device.type == "meta"
