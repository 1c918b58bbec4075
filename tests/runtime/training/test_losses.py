"""Losses of several parts, and gradient penalties, beside torch's recipes."""

import copy

import pytest
import torch
import training_models as zoo
from torch import nn

from tilewright.training import GradientPenalty, Losses, LossScaler, fit, forward_backward
from tilewright.training import precision as precisions

DATA = zoo.tiny()
ENTROPY, MARGIN = nn.CrossEntropyLoss(), nn.MultiMarginLoss()


def by_hand(model, precision, total):
    """Torch's recipe with a GradScaler; ``total`` backpropagates: losses and scales."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    scaler = torch.amp.GradScaler("cpu", enabled=precision == "fp16", init_scale=2.0**24)
    scales = []
    for x, y in zoo.batches(DATA, 2, 32, 0):
        optimizer.zero_grad()
        total(model, x, y, scaler, precision)
        scaler.step(optimizer)
        scales.append(scaler.get_scale())
        scaler.update()
    return scales


def outputs_of(model, x, precision):
    with precisions.autocast(precision, "cpu"):  # torch's, but for what this CPU has no instructions for
        return model(x)


def two_losses(model, x, y, scaler, precision):
    """Each loss scaled and differentiated by itself."""
    outputs = outputs_of(model, x, precision).float()
    scaler.scale(ENTROPY(outputs, y)).backward(retain_graph=True)
    scaler.scale(0.5 * MARGIN(outputs, y)).backward()


def penalised(of, target):
    def total(model, x, y, scaler, precision):
        """The recipe for gradient penalties: scaled gradients, unscaled before they are used, all scaled again."""
        x = x.clone().requires_grad_()
        loss = ENTROPY(outputs_of(model, x, precision).float(), y)
        tensors = [x] if of == "inputs" else list(model.parameters())
        scale = scaler.get_scale() if scaler.is_enabled() else 1.0
        grads = [g.float() / scale for g in torch.autograd.grad(scaler.scale(loss), tensors, create_graph=True)]
        if of == "inputs":
            norms = (grads[0].flatten(1) * len(x)).norm(dim=1)
        else:
            norms = sum(g.square().sum() for g in grads).sqrt()
        extra = 0.1 * ((norms - target) ** 2).mean()
        scaler.scale(loss + extra).backward()

    return total


def close(one, other, tolerance):
    for left, right in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.allclose(left, right, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_several_losses_share_one_scale_and_have_the_gradients_of_each_scaled_by_itself(precision):
    torch.manual_seed(0)
    model = zoo.perceptron()
    reference, before = copy.deepcopy(model), copy.deepcopy(model)
    scales = by_hand(reference, precision, two_losses)
    loss = Losses({"entropy": (ENTROPY, 1.0), "margin": (MARGIN, 0.5)})
    result = fit(
        model,
        DATA,
        zoo.tiny(8),
        epochs=2,
        batch_size=32,
        precision=precision,
        loss=loss,
        scaler=LossScaler(scale=2.0**24),
    )
    if precision == "fp16":
        assert [row["scale"] for row in result.steps] == scales and result.skipped_steps > 0
    close(model, reference, {"fp32": 1e-6, "bf16": 2e-3, "fp16": 1e-3}[precision])
    first = result.steps[0]
    assert first["loss"] == pytest.approx(first["parts"]["entropy"] + 0.5 * first["parts"]["margin"])
    x, y = next(iter(zoo.batches(DATA, 1, 32, 0)))
    assert first["parts"]["margin"] == pytest.approx(MARGIN(before(x), y).item(), rel=1e-2)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize(("of", "target"), [("weights", 0.0), ("weights", 1.0), ("inputs", 1.0)])
def test_a_penalty_has_the_second_derivatives_of_torch_in_every_precision(of, target, precision):
    torch.manual_seed(0)
    model = zoo.perceptron()
    reference = copy.deepcopy(model)
    scales = by_hand(reference, precision, penalised(of, target))
    result = fit(
        model,
        DATA,
        epochs=2,
        batch_size=32,
        precision=precision,
        penalty=GradientPenalty(0.1, of, target),
        scaler=LossScaler(scale=2.0**24),
    )
    if precision == "fp16":
        assert [row["scale"] for row in result.steps] == scales and result.skipped_steps > 0
    close(model, reference, {"fp32": 1e-5, "bf16": 5e-3, "fp16": 2e-3}[precision])
    assert all(row["parts"]["penalty"] > 0 for row in result.steps if not row["skipped"])


def test_a_penalty_is_unscaled_before_it_is_used():
    """The penalty does not depend on the loss scale."""
    x, y = next(iter(zoo.batches(DATA, 1, 32, 0)))
    torch.manual_seed(0)
    model = zoo.perceptron()
    found = [
        GradientPenalty(1.0)(ENTROPY(model(x), y), list(model.parameters()), scale).item() for scale in (1.0, 2.0**16)
    ]
    assert found[0] == found[1] > 0


def test_a_penalty_makes_gradients_smaller():
    norms = []
    for penalty in (None, GradientPenalty(1.0)):
        torch.manual_seed(0)
        model = zoo.perceptron()
        fit(model, DATA, epochs=6, batch_size=32, penalty=penalty, lr=0.02)
        x, y = next(iter(zoo.batches(DATA, 1, 96, 0)))
        grads = torch.autograd.grad(ENTROPY(model(x), y), list(model.parameters()))
        norms.append(float(torch.cat([g.flatten() for g in grads]).norm()))
    assert norms[1] < norms[0]


def test_replicas_take_the_penalty_of_their_own_part_as_micro_batches_do():
    torch.manual_seed(0)
    alone = zoo.perceptron()
    shared = copy.deepcopy(alone)
    one = fit(alone, DATA, epochs=1, accumulate=2, penalty=GradientPenalty(0.1))
    many = fit(shared, DATA, epochs=1, workers=2, penalty=GradientPenalty(0.1))
    assert many.losses == one.losses
    assert [row["parts"] for row in many.steps] == [row["parts"] for row in one.steps]
    close(alone, shared, 0.0)


def test_a_model_without_weights_in_the_loss_has_no_penalty():
    loss = torch.ones((), requires_grad=True) * 2
    assert float(GradientPenalty(1.0)(loss, [torch.ones(2, requires_grad=True)], 1.0)) == 0.0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GradientPenalty(0.0), "weight must be positive, not 0.0"),
        (lambda: GradientPenalty(1.0, target=-1.0), "target must be at least 0, not -1.0"),
        (lambda: GradientPenalty(1.0, of="outputs"), "unknown of 'outputs'; known: weights, inputs"),
        (lambda: Losses({}), "needs at least one"),
        (lambda: fit(zoo.perceptron(), DATA, penalty=GradientPenalty(1.0), segments=2), "takes one segment"),
        (lambda: fit(zoo.perceptron(), DATA, penalty=GradientPenalty(1.0), pipeline="1f1b"), "no pipeline"),
    ],
)
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("several", [False, True])
def test_a_loss_that_keeps_its_number_and_changes_it_later_changes_nothing(several):
    kept = []

    def entropy(outputs, labels):
        for number in kept:
            number.data.fill_(float("nan"))
        kept[:] = [ENTROPY(outputs, labels)]
        return kept[0]

    def trained(loss):
        torch.manual_seed(0)
        return fit(
            zoo.perceptron(), DATA, epochs=1, accumulate=2, loss=Losses({"one": (loss, 1.0)}) if several else loss
        )

    one, other = trained(entropy), trained(ENTROPY)
    assert one.losses == other.losses and [row.get("parts") for row in one.steps] == [
        row.get("parts") for row in other.steps
    ]


def test_outputs_and_gradients_of_inputs_have_memory_of_their_own():
    x, sparse = torch.ones(4, 3), torch.eye(3).to_sparse()
    for grads in ([None, x], [sparse, x[1:].T], [x.view(12)]):
        dx = forward_backward._apart(x, grads)
        assert dx is not x and torch.equal(dx, x) and dx.stride() == x.stride()
    assert forward_backward._apart(x, [None, torch.ones(4, 3), sparse]) is x
    assert forward_backward._apart(None, [x]) is None and forward_backward._apart(sparse, [x]) is sparse
