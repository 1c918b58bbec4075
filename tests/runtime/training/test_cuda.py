"""What a GPU shows and a CPU does not: every test here needs one."""

import copy
import functools
import subprocess
import sys
import threading

import pytest
import torch
import training_models as zoo
from torch import nn

from tilewright.training import LossScaler, compare, data, fit, models, precision

pytestmark = pytest.mark.gpu

DEVICE = "cuda"
DATA, TEST = zoo.tiny(), zoo.tiny(16)


class Probe(nn.Module):
    """Notes the dtype of a product, and the thread."""

    def __init__(self, seen):
        super().__init__()
        self.seen = seen

    def forward(self, x):
        self.seen.append(((x.float() @ x.float().T).dtype, threading.current_thread().name, self.training))
        return x

    def __deepcopy__(self, memo):
        return Probe(self.seen).train(self.training)


@pytest.mark.parametrize("name", ["fp32", "bf16", "fp16"])
def test_digits_reach_97_percent_on_a_gpu(name):
    train, test = data.digits()
    torch.manual_seed(0)
    result = fit(models.MLP(), train, test, epochs=8, precision=name, schedule="one-cycle", device=DEVICE)
    assert result.test_accuracy >= 0.97 and {row["precision"] for row in result.steps} == {name}


@pytest.mark.parametrize(("name", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_autocast_for_the_gpu_reaches_every_worker_thread_and_evaluation(name, dtype):
    """Failure 3."""
    seen = []
    fit(
        nn.Sequential(nn.Flatten(), nn.Linear(16, 4), Probe(seen)),
        DATA,
        TEST,
        epochs=1,
        precision=name,
        workers=2,
        device=DEVICE,
    )
    assert {kind for kind, _, _ in seen} == {dtype} and {training for *_, training in seen} == {True, False}
    assert all(thread.startswith("tilewright-worker") for _, thread, _ in seen)


def test_threads_in_two_precisions_share_weights_of_a_gpu_and_nothing_else():
    """Failure 2."""
    seen = zoo.dtypes_in_two_threads(DEVICE)
    assert seen == {"fp16": {torch.float16}, "bf16": {torch.bfloat16}}


@pytest.mark.parametrize("name", ["bf16", "fp16"])
def test_evaluation_on_a_gpu_does_not_disturb_training(name):
    """Failure 1."""
    torch.manual_seed(0)
    one = zoo.perceptron()
    other = copy.deepcopy(one)
    tested = fit(one, DATA, TEST, epochs=2, precision=name, device=DEVICE, deterministic=True)
    alone = fit(other, DATA, epochs=2, precision=name, device=DEVICE, deterministic=True)
    assert tested.losses == alone.losses


@pytest.mark.parametrize("make", [zoo.perceptron, zoo.small_net])
def test_fp16_on_a_gpu_skips_when_torch_does(make):
    """Failures 5 and 6, with convolutions, which a CPU refuses."""
    torch.manual_seed(0)
    reference = make()
    model = copy.deepcopy(reference)
    losses, scales = zoo.plain(reference, DATA, epochs=3, precision="fp16", init_scale=2.0**24, device=DEVICE)
    result = fit(
        model, DATA, epochs=3, batch_size=32, precision="fp16", lr=0.1, device=DEVICE, scaler=LossScaler(scale=2.0**24)
    )
    assert [row["scale"] for row in result.steps] == scales and result.skipped_steps > 0
    assert result.losses == pytest.approx(losses, rel=1e-2)
    assert float(next(iter(result.state.optimizer.values()))["momentum_buffer"].abs().sum()) > 0


def test_norms_of_fp16_gradients_are_those_of_fp32_before_they_are_clipped():
    """Failure 7."""
    norms = []
    for name in ("fp32", "fp16"):
        torch.manual_seed(0)
        result = fit(
            zoo.perceptron(),
            DATA,
            epochs=1,
            precision=name,
            accumulate=4,
            clip_norm=0.1,
            device=DEVICE,
            scaler=LossScaler(scale=1024.0),
        )
        norms.append([row["norm"] for row in result.steps])
    assert norms[1] == pytest.approx(norms[0], rel=2e-2)


def test_a_parameter_of_a_gpu_without_gradients_is_left_alone():
    """Failure 8."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 4), zoo.Idle())
    result = fit(model, DATA, epochs=4, workers=2, optimizer="adamw", lr=0.01, device=DEVICE, precision="fp16")
    assert torch.equal(model[2].unused, torch.ones(3)) and result.losses[-1] < result.losses[0]


def test_a_fused_optimizer_on_a_gpu_goes_on_from_a_checkpoint(tmp_path):
    """Its counters of steps live on the device; a checkpoint has them on the CPU."""
    options = {"lr": 0.01, "device": DEVICE, "optimizer": functools.partial(torch.optim.AdamW, fused=True)}
    torch.manual_seed(0)
    whole = zoo.perceptron()
    parts = copy.deepcopy(whole)
    straight = fit(whole, DATA, epochs=2, deterministic=True, **options)
    fit(parts, DATA, epochs=1, checkpoint=tmp_path, deterministic=True, **options)
    assert fit(parts, DATA, epochs=2, checkpoint=tmp_path, deterministic=True, **options).losses == straight.losses


def test_a_training_is_the_first_that_a_process_does_on_a_gpu():
    """Statistics of memory can be reset only where CUDA has begun."""
    script = (
        "import torch; from tilewright import training; train, _ = training.data.digits(); assert not "
        "torch.cuda.is_initialized(); print(training.fit(training.models.MLP(), train, epochs=1, device='cuda').peak_memory)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True)
    assert int(done.stdout) > 0


def test_what_always_overflows_on_a_gpu_falls_to_bf16():
    """Failure 10."""
    torch.manual_seed(0)
    model = zoo.overflowing()
    result = fit(model, DATA, TEST, epochs=12, batch_size=32, precision="adaptive", lr=0.05, device=DEVICE)
    assert (result.events[0].before, result.events[0].after) == ("fp16", "bf16")
    assert result.test_accuracy == 1.0 and all(bool(torch.isfinite(p).all()) for p in model.parameters())


def test_a_training_on_a_gpu_resumes_bit_for_bit(tmp_path):
    """Failure 11."""
    torch.manual_seed(0)
    start = zoo.perceptron()
    options = {"batch_size": 32, "precision": "fp16", "device": DEVICE, "deterministic": True, "optimizer": "adamw"}
    straight, second = copy.deepcopy(start), copy.deepcopy(start)
    whole = fit(straight, DATA, epochs=4, scaler=LossScaler(scale=2.0**24, growth_interval=4), **options)
    fit(
        copy.deepcopy(start),
        DATA,
        epochs=2,
        checkpoint=tmp_path,
        scaler=LossScaler(scale=2.0**24, growth_interval=4),
        **options,
    )
    resumed = fit(second, DATA, epochs=4, checkpoint=tmp_path, **options)
    assert [row["scale"] for row in resumed.steps] == [row["scale"] for row in whole.steps]
    assert resumed.losses == whole.losses
    for left, right in zip(straight.parameters(), second.parameters(), strict=True):
        assert torch.equal(left, right)


def test_statistics_of_batch_norm_on_a_gpu_are_rolled_back():
    """Failure 12."""
    model = zoo.bursting_net()
    result = fit(
        model, zoo.tiny(marked=[5]), TEST, epochs=2, precision="fp16", scaler=LossScaler(scale=8.0), device=DEVICE
    )
    assert result.skipped_steps == 2 and all(bool(torch.isfinite(b.float()).all()) for b in model.buffers())


def test_replicas_on_a_gpu_have_the_bits_of_micro_batches():
    torch.manual_seed(0)
    alone = zoo.perceptron()
    shared = copy.deepcopy(alone)
    one = fit(alone, DATA, epochs=2, accumulate=2, device=DEVICE, deterministic=True)
    many = fit(shared, DATA, epochs=2, workers=2, device=DEVICE, deterministic=True)
    assert many.losses == one.losses


@pytest.mark.parametrize("name", ["bf16", "fp16"])
def test_an_index_put_on_a_gpu_works_with_a_cast_and_says_so_without(name):
    """Failure 17."""
    fit(nn.Sequential(zoo.Scatters(True), nn.Linear(20, 4)), DATA, epochs=1, precision=name, device=DEVICE)
    with pytest.raises(RuntimeError) as error:
        fit(nn.Sequential(zoo.Scatters(False), nn.Linear(20, 4)), DATA, epochs=1, precision=name, device=DEVICE)
    assert any("source.to(destination.dtype)" in note for note in error.value.__notes__)


def test_master_weights_on_a_gpu_stay_fp32():
    """Failure 18."""
    model = zoo.perceptron()
    before = copy.deepcopy(model.state_dict())
    fit(model, DATA, epochs=1, precision="bf16", lr=1e-6, device=DEVICE)
    for name, tensor in model.state_dict().items():
        assert tensor.dtype == torch.float32 and 0 < (tensor - before[name]).abs().max() < 1e-4


def test_the_rungs_of_a_gpu_are_those_of_its_generation():
    """Failure 19."""
    found = precision.available(torch.device(DEVICE))
    assert "fp32" in found and "fp16" in found
    assert ("tf32" in found) == (torch.cuda.get_device_capability() >= (8, 0))
    assert ("bf16" in found) == torch.cuda.is_bf16_supported(including_emulation=False)


def test_the_loss_on_a_gpu_is_computed_in_fp32():
    """Failure 22: 16-bit outputs become FP32 before the loss, which may be one that autocast refuses in 16 bits."""
    seen = []

    def loss(outputs, labels):
        seen.append(outputs.dtype)
        return nn.functional.cross_entropy(outputs, labels)

    fit(zoo.perceptron(), DATA, TEST, epochs=1, precision="fp16", loss=loss, device=DEVICE)
    assert set(seen) == {torch.float32}


def test_a_training_gives_the_memory_of_the_gpu_back_and_bf16_needs_less():
    """Erratum 6."""
    train, test = data.synthetic(512, test=64)

    def make():
        torch.manual_seed(0)
        return models.SimpleResNet()

    options = {"epochs": 1, "batch_size": 256, "device": DEVICE}
    compare(make, (train, test), ["fp32", "bf16"], **options)  # libraries take their working memory once
    before = torch.cuda.memory_allocated()
    table = compare(make, (train, test), ["fp32", "bf16"], **options)
    assert abs(torch.cuda.memory_allocated() - before) < 32 << 20
    assert table.results["fp32"].peak_memory > 500 << 20 and table.savings("bf16") > 0.1


@pytest.mark.parametrize("name", ["gpipe", "1f1b", "zero-bubble"])
def test_a_pipeline_on_a_gpu_has_the_losses_of_one_worker(name):
    torch.manual_seed(0)
    alone = zoo.perceptron()
    piped = copy.deepcopy(alone)
    options = {"epochs": 1, "accumulate": 3, "precision": "bf16", "device": DEVICE, "deterministic": True}
    assert fit(piped, DATA, pipeline=name, **options).losses == fit(alone, DATA, **options).losses
