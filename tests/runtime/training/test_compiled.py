"""Compiled segments. ``aot_eager`` traces and differentiates as torch's own compiler does, and needs no C++."""

import copy

import pytest
import torch
import training_models as zoo
from torch import nn

from tilewright.training import GradientPenalty, compiled, fit

DATA = zoo.tiny()


class Precise(nn.Module):
    """A product that has to be one of FP32, forward and backward."""

    def __init__(self):
        super().__init__()
        self.register_buffer("matrix", torch.eye(16) + torch.linspace(0, 1e-3, 256).view(16, 16))

    def forward(self, x):
        with torch.autocast("cpu", enabled=False):
            return x.float() @ self.matrix


def precise():
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 16), Precise(), nn.Linear(16, 4))


def twins(make, data=DATA, **options):
    """The same training, eager and compiled."""
    torch.manual_seed(0)
    model = make()
    other = copy.deepcopy(model)
    other_options = {"compile": "aot_eager", **options}
    return (fit(model, data, zoo.tiny(8), epochs=1, **options), model), (
        fit(other, data, zoo.tiny(8), epochs=1, **other_options),
        other,
    )


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (zoo.perceptron, {"workers": 2, "segments": 1}),
        (zoo.with_dropout, {}),
        (zoo.perceptron, {"segments": 2, "pipeline": "1f1b", "precision": "bf16"}),
    ],
)
def test_compiled_segments_have_the_bits_of_eager_ones(make, options):
    (eager, model), (fast, other) = twins(make, **options)
    assert fast.losses == eager.losses and fast.facts["compiler"] == "aot_eager"
    for left, right in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(left, right)


def test_a_compiled_backward_pass_does_not_inherit_the_autocast_of_the_forward_pass():
    """Failure 15: unless told otherwise it does, and products of FP32 gradients become those of BF16."""
    (eager, model), (fast, other) = twins(precise, precision="bf16", batch_size=96)
    assert fast.losses == eager.losses
    for left, right in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(left, right)
    torch.manual_seed(0)
    careless = precise()
    call = torch.compile(careless, backend="aot_eager")
    x, y = next(iter(zoo.batches(DATA, 1, 96, 0)))
    grads = []
    for run in (careless, call):
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
            outputs = run(x)
        grads.append(torch.autograd.grad(nn.functional.cross_entropy(outputs.float(), y), careless[1].weight)[0])
    assert not torch.equal(*grads)


def test_a_checkpoint_knows_nothing_of_the_compiler(tmp_path):
    torch.manual_seed(0)
    start = zoo.perceptron()
    whole = fit(copy.deepcopy(start), DATA, epochs=2)
    fit(copy.deepcopy(start), DATA, epochs=1, checkpoint=tmp_path, compile="eager")
    assert fit(copy.deepcopy(start), DATA, epochs=2, checkpoint=tmp_path).losses == whole.losses


def test_without_a_compiler_one_sentence_says_what_to_install(monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ValueError, match=r"compile=True: .*there is no (g|clang)\+\+: install one .* or name another"):
        fit(zoo.perceptron(), DATA, compile=True)
    monkeypatch.setattr(compiled.importlib.util, "find_spec", lambda name: None)
    assert "pip install" in compiled.problem("inductor", torch.device("cuda"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"compile": "llvm"}, "compile='llvm': unknown compiler 'llvm'; torch has .*inductor"),
        ({"compile": "aot_eager", "pipeline": "zero-bubble"}, "cannot be split, which zero-bubble does; use 1f1b"),
        ({"compile": "aot_eager", "penalty": GradientPenalty(1.0)}, "cannot be differentiated again"),
    ],
)
def test_what_a_compiled_segment_cannot_do_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        fit(zoo.perceptron(), DATA, **options)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_model_compiled_for_a_gpu_agrees_with_the_eager_one(precision):
    torch.manual_seed(0)
    start = zoo.small_net()
    losses = [
        fit(copy.deepcopy(start), DATA, epochs=2, precision=precision, device="cuda", compile=compile).losses
        for compile in (False, True)
    ]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4 if precision == "fp32" else 2e-2)
