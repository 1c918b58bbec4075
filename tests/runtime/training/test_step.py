"""The step as a graph: the tasks it has, and the numbers, beside the plain torch loop."""

import copy
import functools
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
import training_models as zoo
from torch import nn

import tilewright as tw
from tilewright.rooms import Outline
from tilewright.training import fit, models
from tilewright.training.step import Division, Span, training_graph

DATA = zoo.tiny()


def both(make, data=DATA, *, options=None, **common):
    """The same training by the plain loop and by a graph: (losses, model) of each."""
    torch.manual_seed(0)
    reference = make()
    model = copy.deepcopy(reference)
    common = {"batch_size": 32, "epochs": 1, **common}
    losses, _ = zoo.plain(reference, data, **common)
    result = fit(model, data, **common, lr=0.1, **options or {})
    return (losses, reference), (result.losses, model), result


def equal(one, other):
    """Whether two models have the same bits."""
    left, right = one.state_dict(), other.state_dict()
    return all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("make", [zoo.perceptron, zoo.small_net])
def test_a_segmented_training_has_the_bits_of_the_plain_loop(make, precision):
    (expected, reference), (losses, model), _ = both(make, precision=precision, epochs=2)
    assert losses == expected
    assert equal(reference, model)


@pytest.mark.parametrize(
    "make",
    [
        lambda: models.SimpleResNet(4, width=4),
        lambda: models.SimpleResNet(4, residual=True, width=4),
        lambda: models.ResNet18(4, width=4),
    ],
)
def test_the_residual_networks_too(make):
    data = zoo.tiny(8, shape=(3, 8, 8)).with_recipe(mean=(0.2,) * 3, std=(0.3,) * 3, pad=2, flip=True)
    (expected, reference), (losses, model), _ = both(make, data, batch_size=4)
    assert losses == expected
    assert equal(reference, model)


def test_fp16_has_the_bits_of_torch_with_its_own_scaler_skips_included():
    torch.manual_seed(0)
    reference = zoo.perceptron()
    model = copy.deepcopy(reference)
    losses, scales = zoo.plain(reference, DATA, epochs=3, precision="fp16", init_scale=2.0**24)
    plain = functools.partial(torch.optim.SGD, momentum=0.9, weight_decay=5e-4)
    result = fit(
        model,
        DATA,
        epochs=3,
        batch_size=32,
        precision="fp16",
        lr=0.1,
        optimizer=plain,
        scaler=tw.training.LossScaler(scale=2.0**24),
    )
    assert result.losses == losses and [row["scale"] for row in result.steps] == scales
    assert result.skipped_steps == sum(a > b for a, b in pairwise(scales)) > 2
    assert equal(reference, model)


@pytest.mark.parametrize("accumulate", [2, 3])
def test_accumulation_adds_micro_batches_as_torch_does(accumulate):
    (expected, reference), (losses, model), _ = both(zoo.perceptron, accumulate=accumulate, epochs=2)
    assert losses == pytest.approx(expected, rel=1e-12)  # means are taken in another order
    assert equal(reference, model)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_clipping_comes_after_unscaling_and_after_the_last_micro_batch(precision):
    """Failures 6 and 7: unscaled once per step, and the norm that is clipped is that of the FP32 gradients."""
    (expected, reference), (losses, model), result = both(
        zoo.perceptron, precision=precision, accumulate=4, clip_norm=0.1, epochs=2
    )
    assert losses == pytest.approx(expected, rel=2e-3 if precision == "fp16" else 1e-6)
    for p, q in zip(model.parameters(), reference.parameters(), strict=True):
        assert torch.allclose(p, q, atol=2e-3 if precision == "fp16" else 1e-6)
    assert all(0.1 < row["norm"] < 10 for row in result.steps if not row["skipped"])


def test_the_last_batch_may_be_smaller():
    data = zoo.tiny(70)
    (expected, reference), (losses, model), _ = both(zoo.perceptron, data, batch_size=32, epochs=2)
    assert len(losses) == 6 and losses == expected
    assert equal(reference, model)


def test_a_batch_smaller_than_its_parts_leaves_parts_out():
    data = zoo.tiny(33)
    result = fit(zoo.perceptron(), data, batch_size=32, epochs=1, workers=2, accumulate=2)
    assert [row["count"] for row in result.steps] == [32, 1]


@pytest.mark.parametrize("make", [zoo.perceptron, zoo.with_dropout])
@pytest.mark.parametrize("replicas", [2, 3])
def test_replicas_have_the_bits_of_one_worker_that_accumulates_as_often(make, replicas):
    torch.manual_seed(0)
    alone = make()
    shared = copy.deepcopy(alone)
    one = fit(alone, DATA, epochs=2, accumulate=replicas)
    many = fit(shared, DATA, epochs=2, workers=replicas)
    assert many.losses == one.losses and equal(alone, shared)
    assert many.overlap is not None and 0 <= many.overlap <= 1


@pytest.mark.parametrize("nesterov", [False, True])
def test_replicas_share_the_sum_and_no_optimizer_spoils_it_for_another(nesterov):
    torch.manual_seed(0)
    alone = zoo.perceptron()
    shared = copy.deepcopy(alone)
    make = functools.partial(torch.optim.SGD, lr=0.1, momentum=0.9, nesterov=nesterov)
    one = fit(alone, DATA, epochs=2, accumulate=3, optimizer=make)
    many = fit(shared, DATA, epochs=2, workers=3, optimizer=make)
    assert many.losses == one.losses and equal(alone, shared)


def test_replicas_that_accumulate_agree_to_rounding():
    torch.manual_seed(0)
    alone = zoo.perceptron()
    shared = copy.deepcopy(alone)
    one = fit(alone, DATA, epochs=2)
    many = fit(shared, DATA, epochs=2, workers=2, accumulate=2)
    assert many.losses == pytest.approx(one.losses, rel=1e-5)


def test_gradients_that_one_replica_lacks_count_as_zero():
    """Failure 8: a parameter without a gradient is left alone, and one that some replica has is summed."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 4), zoo.Idle())
    result = fit(model, DATA, epochs=4, workers=2, optimizer="adamw", lr=0.01)
    assert torch.equal(model[2].unused, torch.ones(3)) and result.losses[-1] < result.losses[0]


@pytest.mark.parametrize(
    "layout",
    [Division(), Division(2, 2, 3, words=(9, 8, 7)), Division(1, 4, 3, True), Division(2, 2, 2, True, True, (5, 4))],
)
def test_the_graph_has_the_tasks_it_promises_and_keeps_nothing(layout):
    graph, marks = training_graph(layout, Span(0, 3, 64, 32, 10), checks=True)
    names = [task.op.name for task in graph]
    per_step = layout.replicas * layout.micro * layout.segments
    assert names.count("forward") + names.count("forward_loss") == 3 * per_step
    assert names.count("backward_weight" if layout.split else "backward") == 3 * per_step
    shared = layout.replicas > 1
    assert names.count("unscale_shared" if shared else "unscale") == 3 * layout.segments * layout.replicas
    assert names.count("bucket") == (3 * layout.segments * layout.replicas if shared else 0)
    assert names.count("add") == names.count("unpack") == names.count("pack") / 2 == names.count("bucket")
    assert names.count("judge") == names.count("update") == 3 * layout.places
    assert sorted(marks.done) == [0, 1, 2] and names.count("tally") == 1
    assert names[-layout.places :] == ["release"] * layout.places
    left = set(graph.written) - {use.handle for task in graph.tasks[-layout.places :] for use in task.uses}
    assert {str(handle) for handle in left} == {"result[0]", "log[0]"}
    assert {handle.name for handle in graph.inputs} == {
        "model", "state", "setup", "images", "targets", "test_images", "test_targets"
    }  # fmt: skip


def test_the_next_batch_does_not_wait_for_this_step():
    graph, _ = training_graph(Division(segments=2), Span(0, 2, 64, 32))
    load = [task for task in graph if task.op.name == "load"][1]
    ancestors, front = set(), list(load.predecessors)
    while front:
        ancestors.add(front[-1])
        front.extend(graph.tasks[front.pop()].predecessors)
    assert not any(graph.tasks[k].op.name in ("forward", "backward", "apply") for k in ancestors)


def test_after_a_run_no_activation_or_gradient_is_left(monkeypatch):
    from tilewright.training import trainer

    kept = []
    monkeypatch.setattr(trainer, "_let_go", lambda run: kept.append(dict(run.store)))
    fit(zoo.small_net(), DATA, zoo.tiny(8), epochs=1, workers=2)
    names = ("tape", "grads", "dy", "x", "sum0", "sum2", "stage", "bucket", "control")
    values = [value for handle, value in kept[0].items() if handle.name in names]
    assert len(values) > 30 and all(value is None or isinstance(value, Outline) for value in values)


def test_the_report_of_a_training_opens(tmp_path):
    result = fit(zoo.perceptron(), DATA, zoo.tiny(8), epochs=1)
    result.run.report(tmp_path / "training.html")
    page = (tmp_path / "training.html").read_text()
    assert "forward_loss" in page and "</html>" in page
    result.run.trace.check()


def test_the_report_of_a_training_shows_measured_memory_or_none(tmp_path):
    run = fit(zoo.perceptron(), DATA, epochs=1).run
    for measured, line in ((3 << 20, "3 MiB, measured"), (0, "")):
        shown = replace(run, measured=measured)
        shown.report(tmp_path / "run.html")
        rows = [row.split() for row in str(shown).splitlines() if "memory" in row]
        assert rows == ([["memory", *line.split()]] if line else []) and shown.memory == measured
        assert (f"<td>{line}</td>" in (tmp_path / "run.html").read_text()) == bool(line)


def test_a_failing_layer_is_named_by_its_task():
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Linear(9, 4))
    with pytest.raises(RuntimeError) as error:
        fit(model, DATA, epochs=1)
    assert any("in task forward_loss(0,0,1)" in note for note in error.value.__notes__)


def test_dropout_depends_on_seed_step_and_micro_batch_alone():
    results = []
    for workers, helpers in ((1, 0), (1, 2)):
        torch.manual_seed(workers)
        model = zoo.with_dropout()
        with torch.no_grad():
            for p in model.parameters():
                p.copy_(torch.linspace(-1, 1, p.numel()).view(p.shape) / 8)
        torch.manual_seed(helpers)
        results.append(fit(model, DATA, zoo.tiny(8), epochs=2, helpers=helpers).losses)
    assert results[0] == results[1]


@pytest.mark.gpu
def test_a_step_on_a_gpu_agrees_with_the_plain_loop():
    torch.manual_seed(0)
    reference = zoo.perceptron()
    model = copy.deepcopy(reference)
    losses, _ = zoo.plain(reference, DATA, epochs=2)
    result = fit(model, DATA, zoo.tiny(8), epochs=2, batch_size=32, lr=0.1, device="cuda")
    assert result.losses == pytest.approx(losses, rel=1e-4)
    assert result.peak_memory > 0 and next(model.parameters()).device.type == "cpu"
