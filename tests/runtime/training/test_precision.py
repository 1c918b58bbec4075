"""Precisions: what runs in which dtype, in which thread, and what is refused."""

import pytest
import torch
import training_models as zoo
from torch import nn

from tilewright.training import Losses, models, precision

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
        precision.check("tf32", CPU, models.MLP(), allow_slow=True)
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


def test_bf16_needs_a_cpu_that_has_it(monkeypatch):
    """Failure 19."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"architecture": "x86_64", "avx2": True})
    with pytest.raises(ValueError, match="neither avx512_bf16 nor amx_bf16.*allow_slow=True"):
        precision.check("bf16", CPU, models.MLP())
    precision.check("bf16", CPU, models.MLP(), allow_slow=True)
    assert precision.available(CPU) == ("fp32", "fp16")


def test_fp16_convolutions_on_a_cpu_are_refused_with_the_reason():
    with pytest.raises(ValueError, match="pathologically slow.*use bf16"):
        precision.check("fp16", CPU, models.SimpleResNet(width=4))
    precision.check("fp16", CPU, models.MLP())


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
