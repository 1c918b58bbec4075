"""Trainings from the outside: accuracy, precisions, skipped steps, fallback, what is refused."""

import copy
import json
import math
import threading

import pytest
import torch
import training_models as zoo
from torch import nn

from tilewright.training import Fallback, LossScaler, OneCycle, data, fit, models

LADDER = ("fp16", "bf16", "fp32")  # the default one leaves out what is no faster than FP32 on a CPU
DATA = zoo.tiny()


def test_digits_reach_97_percent_in_fp32_and_bf16_within_1_percent_of_each_other():
    train, test = data.digits()
    found = {}
    for precision in ("fp32", "bf16"):
        torch.manual_seed(0)
        result = fit(models.MLP(), train, test, epochs=8, precision=precision, schedule="one-cycle")
        found[precision] = result.test_accuracy
        assert {row["precision"] for row in result.steps} == {precision} and result.skipped_steps == 0
    assert min(found.values()) >= 0.97 and abs(found["fp32"] - found["bf16"]) <= 0.01


def test_bf16_products_run_in_bf16_in_every_worker_thread():
    """Failure 3: autocast entered in the main thread does not reach workers."""
    seen = []

    class Probe(nn.Module):
        def forward(self, x):
            seen.append(((x @ x.T).dtype, threading.current_thread().name, torch.get_num_threads()))
            return x

        def __deepcopy__(self, memo):
            return Probe()

    fit(nn.Sequential(nn.Flatten(), nn.Linear(16, 4), Probe()), DATA, epochs=1, precision="bf16", workers=2)
    assert {dtype for dtype, _, _ in seen} == {torch.bfloat16}
    assert all(name.startswith("tilewright-worker") for _, name, _ in seen)
    assert {threads for *_, threads in seen} == {1}  # failure 23: two workers on two cores


def test_a_small_model_is_one_segment_and_computes_the_same(monkeypatch):
    monkeypatch.setattr("tilewright.training.requirements.LEAST", 1 << 16)
    torch.manual_seed(0)
    whole = zoo.small_net()
    parts = copy.deepcopy(whole)
    one, three = fit(whole, DATA, epochs=2), fit(parts, DATA, epochs=2, segments=3)
    names = [{task.op.name for task in result.run.graph} for result in (one, three)]
    assert "forward" not in names[0] and "forward" in names[1] and one.losses == three.losses


def test_one_worker_has_all_threads_of_torch(monkeypatch):
    """Failure 23: threads of all workers together are the cores, no more and no fewer."""
    monkeypatch.setattr("tilewright.training.trainer.cores", lambda: 2)
    seen = []

    class Probe(nn.Module):
        def forward(self, x):
            seen.append(torch.get_num_threads())
            return x

        def __deepcopy__(self, memo):
            return Probe()

    fit(nn.Sequential(nn.Flatten(), nn.Linear(16, 4), Probe()), DATA, epochs=1)
    assert set(seen) == {2}


def test_master_weights_stay_fp32_and_move_by_less_than_bf16_could_show():
    """Failure 18: a BF16 weight of 1 does not move by 2^-10."""
    assert torch.tensor(1.0, dtype=torch.bfloat16) + 2.0**-10 == 1.0
    model = zoo.perceptron()
    before = copy.deepcopy(model.state_dict())
    fit(model, DATA, epochs=1, precision="bf16", lr=1e-6)
    for name, tensor in model.state_dict().items():
        change = (tensor - before[name]).abs().max()
        assert tensor.dtype == torch.float32 and 0 < change < 1e-4


def test_a_skipped_step_moves_neither_weights_nor_schedule_nor_optimizer():
    """Failure 5. The marked image makes its batch infinite, once an epoch."""
    marked = zoo.tiny(marked=[5])
    rates = []

    def schedule(updates):
        rates.append(updates)
        return 1.0

    result = fit(
        zoo.bursting_net(),
        marked,
        epochs=2,
        batch_size=32,
        precision="fp16",
        schedule=schedule,
        optimizer=torch.optim.Adam,
        scaler=LossScaler(scale=8.0),
    )
    assert [row["skipped"] for row in result.steps].count(True) == result.skipped_steps == 2
    updates = [row["updates"] for row in result.steps]
    assert updates[-1] == 4 and rates == [*range(6), 0, *updates[:-1]]  # asked for all updates before any work
    steps = {float(state["step"]) for state in result.state.optimizer.values()}
    assert steps == {4.0}
    assert result.steps[-1]["scale"] < 8.0


def test_statistics_of_batch_norm_are_rolled_back_on_skipped_steps():
    """Failure 12: they become NaN in the forward pass, before anyone knows that the step is skipped."""
    marked = zoo.tiny(marked=[5])
    model = zoo.bursting_net()
    result = fit(model, marked, zoo.tiny(16), epochs=2, precision="fp16", scaler=LossScaler(scale=8.0))
    assert result.skipped_steps == 2
    assert all(bool(torch.isfinite(b.float()).all()) for b in model.buffers())
    assert math.isfinite(result.table_of_epochs[-1].test_loss)
    assert int(model[0][3].num_batches_tracked) == len(result.steps) - 2
    plain = zoo.bursting_net()
    zoo.plain(plain, marked, epochs=2, batch_size=64, precision="fp16", init_scale=8.0)
    assert not bool(torch.isfinite(plain[0][3].running_mean).all())  # torch's own loop


@pytest.mark.parametrize("mode", ["robust", "literal"])
def test_what_always_overflows_falls_back_and_learns(mode):
    """Failure 10, and the notebook's exercise."""
    torch.manual_seed(0)
    model = zoo.overflowing()
    result = fit(
        model,
        DATA,
        zoo.tiny(16),
        epochs=12,
        batch_size=32,
        precision="adaptive",
        lr=0.05,
        fallback=Fallback(LADDER, mode),
    )
    first = result.events[0]
    assert first.before == "fp16" and first.after == ("bf16" if mode == "robust" else "fp32")
    assert first.step == (2 if mode == "robust" else 0) and result.fallbacks == 1
    assert [row["precision"] for row in result.steps[: first.step + 1]] == ["fp16"] * (first.step + 1)
    assert {row["precision"] for row in result.steps[first.step + 1 :]} == {first.after}
    assert all(bool(torch.isfinite(p).all()) for p in model.parameters())
    assert result.test_accuracy == 1.0
    assert f"changed precision at step {first.step}: fp16 -> {first.after}" in result.table()


def test_a_training_may_come_back_to_fp16_with_the_first_loss_scale_and_go_on_from_a_checkpoint(tmp_path):
    options = {
        "batch_size": 32,
        "precision": "adaptive",
        "fallback": Fallback(LADDER, retry=4),
        "scaler": LossScaler(scale=64.0),
    }
    torch.manual_seed(0)
    model = zoo.overflowing()
    whole = fit(copy.deepcopy(model), DATA, epochs=6, **options)
    assert [(e.step, e.before, e.after) for e in whole.events] == [
        (2, "fp16", "bf16"), (6, "bf16", "fp16"), (9, "fp16", "bf16"), (17, "bf16", "fp16")
    ]  # fmt: skip
    assert whole.fallbacks == 2 and whole.skipped_steps == 6
    assert [row["scale"] for row in whole.steps[:8]] == [64.0, 32.0, 16.0, 1.0, 1.0, 1.0, 1.0, 64.0]
    fit(copy.deepcopy(model), DATA, epochs=3, checkpoint=tmp_path, **options)
    resumed = fit(copy.deepcopy(model), DATA, epochs=6, checkpoint=tmp_path, **options)
    assert resumed.losses == pytest.approx(whole.losses, rel=0, abs=0, nan_ok=True)
    assert resumed.events == whole.events


def test_a_skip_is_counted_where_the_scale_cannot_tell():
    """Erratum 10: a scale at its floor does not decrease."""
    result = fit(
        zoo.overflowing(), DATA, epochs=1, batch_size=32, precision="fp16", scaler=LossScaler(scale=8.0, min_scale=8.0)
    )
    assert result.skipped_steps == 3 and {row["scale"] for row in result.steps} == {8.0}


def test_a_scale_that_has_reached_zero_skips_and_spoils_nothing():
    """Failure 10, erratum 10: nothing bounds torch's scale from below."""
    model = zoo.perceptron()
    before = copy.deepcopy(model.state_dict())
    result = fit(model, DATA, epochs=1, batch_size=32, precision="fp16", scaler=LossScaler(scale=0.0))
    assert result.skipped_steps == 3 and {row["scale"] for row in result.steps} == {0.0}
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_the_loss_is_computed_in_fp32(precision):
    """Failure 22: a sum of exponentials is soon beyond 65504."""
    seen = []

    def loss(outputs, labels):
        seen.append((outputs.dtype, torch.is_autocast_enabled("cpu")))
        return nn.functional.cross_entropy(outputs, labels)

    fit(zoo.perceptron(), DATA, zoo.tiny(8), epochs=1, precision=precision, loss=loss)
    assert set(seen) == {(torch.float32, False)}


def test_without_fallback_the_scale_shrinks_and_no_parameter_becomes_nan():
    torch.manual_seed(0)
    model = zoo.overflowing()
    before = copy.deepcopy(model.state_dict())
    result = fit(model, DATA, epochs=10, batch_size=32, precision="fp16")
    assert result.skipped_steps == 30 and result.steps[-1]["scale"] == 2.0**16 / 2**29
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("features", "ladder"), [(("avx512_bf16", "avx512_fp16"), ["bf16", "fp32"]), (("avx2",), ["fp32"])]
)
def test_adaptive_training_leaves_out_rungs_that_are_no_faster_on_the_cpu(features, ladder, monkeypatch):
    monkeypatch.setattr("tilewright.kernels.cpu.features", lambda: frozenset(features))
    result = fit(zoo.small_net(), DATA, epochs=1, precision="adaptive")
    assert result.steps[0]["precision"] == ladder[0]
    assert result.state.control["fallback"]["ladder"] == ladder
    mine = fit(zoo.small_net(), DATA, epochs=1, precision="adaptive", fallback=Fallback(LADDER))
    assert mine.state.control["fallback"]["ladder"] == list(LADDER)


def test_an_index_put_under_autocast_works_with_a_cast_and_says_so_without():
    """Failure 17."""
    fit(nn.Sequential(zoo.Scatters(True), nn.Linear(20, 4)), DATA, epochs=1, precision="bf16")
    with pytest.raises(RuntimeError) as error:
        fit(nn.Sequential(zoo.Scatters(False), nn.Linear(20, 4)), DATA, epochs=1, precision="bf16")
    assert any("source.to(destination.dtype)" in note for note in error.value.__notes__)


def test_evaluation_does_not_disturb_training():
    """Failure 1, in a whole training: evaluating after each epoch changes no bit."""
    torch.manual_seed(0)
    one = zoo.small_net()
    other = copy.deepcopy(one)
    assert (
        fit(one, DATA, zoo.tiny(16), epochs=2, precision="bf16").losses
        == fit(other, DATA, epochs=2, precision="bf16").losses
    )


def test_evaluation_runs_in_the_precision_of_the_training():
    seen = []

    class Probe(nn.Module):
        def forward(self, x):
            if not self.training:
                seen.append((x @ x.T).dtype)
            return x

        def __deepcopy__(self, memo):
            probe = Probe()
            return probe.train(self.training)

    fit(nn.Sequential(nn.Flatten(), nn.Linear(16, 4), Probe()), DATA, zoo.tiny(8), epochs=1, precision="bf16")
    assert seen == [torch.bfloat16]


def test_times_and_memory_are_reported_without_dividing_by_zero(tmp_path):
    """Errata 4 and 8."""
    result = fit(zoo.perceptron(), DATA, zoo.tiny(16), epochs=2)
    numbers = result.summary()
    assert numbers["steps"] == len(result.step_seconds) == 4 and numbers["images_per_second"] > 0
    assert 0 < numbers["step_seconds_p50"] <= numbers["step_seconds_p95"]
    assert numbers["loader_seconds"] > 0 and numbers["compute_seconds"] > numbers["loader_seconds"] / 10
    assert numbers["peak_memory"] >= 0 and numbers["overlap"] is None
    assert json.loads(json.dumps(numbers)) == numbers
    result.plot(tmp_path / "training.png")
    assert (tmp_path / "training.png").read_bytes().startswith(b"\x89PNG")
    result.report(tmp_path / "training.html")
    page = (tmp_path / "training.html").read_text()
    assert "images/s" in page and "<h2>fp32: " in page and "data:image/png;base64," in page
    assert repr(result.table()) == str(result.table()) and "images/s" in result.table()


def test_a_training_without_a_test_set_has_no_accuracy():
    result = fit(zoo.perceptron(), DATA, epochs=1)
    assert math.isnan(result.test_accuracy) and result.summary()["test_accuracy"] is None
    assert result.table_of_epochs[0].test_accuracy is None


def test_the_log_has_a_line_a_step_and_progress_a_line_an_epoch(tmp_path, capfd):
    result = fit(
        zoo.perceptron(), DATA, zoo.tiny(8), epochs=2, batch_size=32, log=tmp_path / "log.jsonl", progress=True
    )
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [row["loss"] for row in rows if "loss" in row] == result.losses
    assert [row["epoch"] for row in rows if "test_accuracy" in row] == [0, 1]
    assert capfd.readouterr().err.count("| test ") == 2


def test_a_long_training_is_several_graphs_with_the_same_bits(monkeypatch):
    torch.manual_seed(0)
    one = zoo.small_net()
    other = copy.deepcopy(one)
    whole = fit(one, DATA, zoo.tiny(8), epochs=3, batch_size=32)
    monkeypatch.setattr("tilewright.training.trainer.MOST_TASKS", 100)
    pieces = fit(other, DATA, zoo.tiny(8), epochs=3, batch_size=32)
    assert len(whole.runs) == 1 and len(pieces.runs) > 1
    assert pieces.losses == whole.losses and pieces.test_accuracy == whole.test_accuracy


@pytest.mark.parametrize("backend", ["serial", "threads"])
def test_engines_and_policies_change_no_bit(backend):
    losses = []
    for options in ({"backend": backend}, {"backend": "threads", "scheduler": "random", "helpers": 1}):
        torch.manual_seed(0)
        losses.append(fit(zoo.small_net(), DATA, zoo.tiny(8), epochs=2, **options).losses)
    assert losses[0] == losses[1]


def test_channels_last_and_schedules_are_used():
    seen = []

    class Probe(nn.Module):
        def forward(self, x):
            seen.append(x.is_contiguous(memory_format=torch.channels_last))
            return x

        def __deepcopy__(self, memo):
            return Probe()

    rgb = zoo.tiny(shape=(3, 4, 4)).with_recipe(mean=(0.0,) * 3, std=(1.0,) * 3)
    model = nn.Sequential(Probe(), zoo.small_net(channels=3))
    result = fit(model, rgb, epochs=2, batch_size=32, schedule=OneCycle(6), channels_last=True, segments=1)
    assert set(seen) == {True}
    assert [row["factor"] for row in result.steps] == [OneCycle(6)(k) for k in range(6)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs must be a positive integer, not 0"),
        ({"workers": 1.5}, "workers must be a positive integer"),
        ({"optimizer": "lion"}, "unknown optimizer 'lion'; known: sgd, adam, adamw"),
        ({"optimizer": torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.1)}, "a function from parameters"),
        ({"schedule": "linear"}, "unknown schedule 'linear'"),
        ({"precision": "fp8"}, "unknown precision 'fp8'"),
        ({"precision": "tf32"}, "a CPU has none"),
        ({"clip_norm": 0.0}, "clip_norm must be above 0"),
        ({"segments": 9}, "cut into 1 to 3 segments, not 9"),
        ({"pipeline": "2f2b"}, "unknown pipeline '2f2b'; known: gpipe, 1f1b, zero-bubble"),
        ({"pipeline": "1f1b", "scheduler": "eager"}, "pass either pipeline or scheduler"),
        ({"helpers": -1}, "helpers must not be negative"),
        ({"precision": "adaptive", "fallback": "bold"}, "mode must be one of literal, robust"),
        ({"precision": "bf16", "loss": nn.BCELoss()}, "use BCEWithLogitsLoss"),
        ({"lr": math.nan}, "lr must be a finite number from 0, not nan"),
        ({"checkpoint_every": 0}, "checkpoint_every must be a positive integer"),
        ({"seed": "a"}, "seed must be an integer, not 'a'"),
        ({"device": "gpu"}, "unknown device 'gpu'"),
        ({"device": "meta"}, "on 'cpu' and 'cuda', not on 'meta'"),
        ({"log": "/nowhere/log"}, "cannot write the log /nowhere/log: No such file"),
        ({"checkpoint": __file__}, "cannot write checkpoints to"),
    ],
)
def test_what_does_not_fit_is_refused_before_any_work(options, message):
    with pytest.raises(ValueError, match=message):
        fit(zoo.perceptron(), DATA, **options)


def test_half_precision_models_and_empty_data_are_refused():
    with pytest.raises(ValueError, match="parameters must be float32"):
        fit(zoo.perceptron().half(), DATA, precision="fp16")
    with pytest.raises(ValueError, match="train is an empty data set"):
        fit(zoo.perceptron(), zoo.tiny(0))
    with pytest.raises(ValueError, match="test is an empty data set; leave it out"):
        fit(zoo.perceptron(), DATA, zoo.tiny(0))


def test_models_and_data_of_another_kind_are_refused():
    other = data.synthetic(8, test=4)[0]
    with pytest.raises(
        ValueError, match=r"train has images of shape .* in 4 classes, test of shape \(3, 32, 32\) in 10"
    ):
        fit(zoo.perceptron(), DATA, other)
    with pytest.raises(TypeError, match=r"train must be a tilewright\.training\.data\.Dataset\(images, labels\), not"):
        fit(zoo.perceptron(), (DATA.images, DATA.labels))
    with pytest.raises(TypeError, match="model must be a torch module, not"):
        fit(zoo.perceptron, DATA)
    with pytest.raises(ValueError, match="no parameter that requires a gradient"):
        fit(zoo.perceptron().requires_grad_(False), DATA)


def test_what_a_model_cannot_take_is_named_beside_what_torch_says():
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied") as error:
        fit(nn.Sequential(nn.Flatten(), nn.Linear(17, 4)), DATA)
    assert any("the segment got float32 of shape (64, " in note for note in error.value.__notes__)
    with pytest.raises(IndexError) as error:
        fit(nn.Sequential(nn.Flatten(), nn.Linear(16, 2)), DATA)
    assert "outputs have shape (64, 2), and the largest label is 3" in error.value.__notes__


def test_a_training_that_has_diverged_says_since_when():
    result = fit(zoo.perceptron(), DATA, epochs=2, lr=1e30)
    assert "was not finite, from step" in result.table() and result.summary()["final_loss"] is None
    assert "was not finite" not in fit(zoo.perceptron(), DATA, epochs=1).table()


def test_one_class_and_batches_larger_than_the_data_are_trained_on():
    alone = DATA.take(DATA.labels == 1)
    result = fit(zoo.perceptron(), alone, alone, epochs=8, batch_size=10_000)
    assert len(result.steps) == 8 and result.steps[0]["count"] == len(alone) and result.test_accuracy == 1.0


def test_a_fallback_of_ones_own_is_not_changed():
    plan = Fallback(window=20, least=2)
    fit(zoo.overflowing(), DATA, epochs=2, batch_size=32, precision="adaptive", fallback=plan)
    assert plan.steps == 0 and plan.events == []


def test_what_the_caller_has_entered_stays_outside():
    losses = []
    for entered in (False, True):
        torch.manual_seed(0)
        model = zoo.perceptron()
        with torch.autocast("cpu", torch.bfloat16, enabled=entered), torch.set_grad_enabled(not entered):
            losses.append(fit(model, DATA, epochs=1, workers=2).losses)
    assert losses[0] == losses[1]
