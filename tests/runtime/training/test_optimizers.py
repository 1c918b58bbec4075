"""Several optimizers under one loss scale, beside torch's GradScaler."""

import copy
from functools import partial

import pytest
import torch
import training_models as zoo
from torch import nn

from tilewright.training import Cosine, LossScaler, fit
from tilewright.training import precision as precisions
from tilewright.training.optimizers import optimizers

DATA = zoo.tiny(marked=[5])
SGD, ADAM = partial(torch.optim.SGD, lr=0.1, momentum=0.9), partial(torch.optim.Adam, lr=0.01)
BOTH = {"0": SGD, "2": ADAM}


class Bursts(torch.autograd.Function):
    """Passes values on; the gradients of a batch with a marked image become infinite."""

    @staticmethod
    def forward(ctx, x, marked):
        ctx.marked = marked
        return x.clone()

    @staticmethod
    def backward(ctx, dy):
        return (dy * torch.inf if ctx.marked else dy), None


class HalfBursts(nn.Module):
    """Between two layers: the gradients of the one before may be infinite, those of the one behind are not."""

    def forward(self, x):
        return Bursts.apply(x, bool((x > 1e3).any()))


def two_layers():
    """The marked image makes a large activation."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU()), HalfBursts(), nn.Linear(8, 4))
    with torch.no_grad():
        model[0][1].weight[0] = 1e-3
        model[0][1].weight[1] = torch.where(torch.arange(16) % 2 == 0, 200.0, 0.0)  # 1600 of white, less of all else
        model[2].weight[:, 1] = 0.0
    return model


def by_hand(model, scale):
    """Torch's recipe for several optimizers: (losses, scales, which optimizers skipped)."""
    parts = {"0": model[0], "2": model[2]}
    made = {name: BOTH[name](part.parameters()) for name, part in parts.items()}
    scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    losses, scales, skipped = [], [], []
    for x, y in zoo.batches(DATA, 2, 32, 0):
        for optimizer in made.values():
            optimizer.zero_grad()
        with precisions.autocast("fp16", "cpu"):
            outputs = model(x)
        loss = nn.functional.cross_entropy(outputs.float(), y)
        scaler.scale(loss).backward()
        skipped.append(
            [name for name, part in parts.items() if not all(torch.isfinite(p.grad).all() for p in part.parameters())]
        )
        for optimizer in made.values():
            scaler.step(optimizer)
        scales.append(scaler.get_scale())
        scaler.update()
        losses.append(loss.item())
    return losses, scales, skipped


@pytest.mark.parametrize("segments", [None, 1])
def test_each_optimizer_skips_for_itself_and_all_share_the_scale_as_in_torch(segments):
    """Erratum 10: "the scale decreased" does not say which optimizer skipped; the log does."""
    model = two_layers()
    reference = copy.deepcopy(model)
    losses, scales, skipped = by_hand(reference, 64.0)
    result = fit(
        model,
        DATA,
        epochs=2,
        batch_size=32,
        precision="fp16",
        scaler=LossScaler(scale=64.0),
        optimizer=BOTH,
        segments=segments,
    )
    assert [row["skipped_by"] for row in result.steps] == skipped and skipped.count(["0"]) == 2
    assert result.losses == losses and [row["scale"] for row in result.steps] == scales
    for left, right in zip(model.parameters(), reference.parameters(), strict=True):
        assert torch.equal(left, right)


def test_a_schedule_goes_on_for_the_optimizer_that_did_not_skip():
    result = fit(
        two_layers(),
        DATA,
        epochs=2,
        batch_size=32,
        precision="fp16",
        scaler=LossScaler(scale=64.0),
        optimizer=BOTH,
        schedule=Cosine(10),
    )
    *before, last = result.steps
    taken = sum(not row["skipped_by"] for row in before)
    assert taken < 5 and last["factors"] == {"0": Cosine(10)(taken), "2": Cosine(10)(5)}
    assert result.skipped_steps == 2 and last["updates"] == 4 and result.state.control["taken"] == {"0": 4, "2": 6}


@pytest.mark.parametrize("options", [{"workers": 2}, {"pipeline": "1f1b"}])
def test_workers_agree_on_who_skips(options):
    alone, shared = two_layers(), two_layers()
    common = {"epochs": 2, "batch_size": 32, "precision": "fp16", "optimizer": BOTH}
    one = fit(alone, DATA, accumulate=2, scaler=LossScaler(scale=64.0), **common)
    accumulate = 2 if "pipeline" in options else 1
    many = fit(shared, DATA, accumulate=accumulate, scaler=LossScaler(scale=64.0), **common, **options)
    assert [row["skipped_by"] for row in many.steps] == [row["skipped_by"] for row in one.steps]
    for left, right in zip(alone.parameters(), shared.parameters(), strict=True):
        assert torch.equal(left, right)


def test_several_optimizers_resume_bit_for_bit(tmp_path):
    options = {"batch_size": 32, "optimizer": {"": ("sgd", 0.05), "2": "adamw"}, "schedule": Cosine(9)}
    torch.manual_seed(0)
    start = zoo.perceptron()
    straight, second = copy.deepcopy(start), copy.deepcopy(start)
    whole = fit(straight, zoo.tiny(), epochs=3, **options)
    fit(copy.deepcopy(start), zoo.tiny(), epochs=1, checkpoint=tmp_path, **options)
    resumed = fit(second, zoo.tiny(), epochs=3, checkpoint=tmp_path, **options)
    assert resumed.losses == whole.losses and resumed.resumed == 3
    for left, right in zip(straight.parameters(), second.parameters(), strict=True):
        assert torch.equal(left, right)


def test_the_longest_prefix_owns_a_parameter():
    plan = optimizers({"": "sgd", "layer1": "adam", "layer1.0": ("adamw", 0.5)}, None)
    owners = [plan.owner(name) for name in ("layer1.0.weight", "layer1.1.weight", "layer10.weight", "layer1")]
    assert owners == ["layer1.0", "layer1", "", "layer1"]
    assert plan.said == "others: sgd, lr 0.1; layer1: adam, lr 0.001; layer1.0: adamw, lr 0.5"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "an empty mapping"),
        ({"0": "sgd"}, r"no optimizer has the parameters 1\.0\.weight, 1\.0\.bias, 2\.weight \.\.\..*add ''"),
        ({"": "sgd", "7": "adam"}, r"no parameter's name begins with '7'; they are 0\.1\.weight"),
        ({"": "lion"}, "unknown optimizer 'lion'"),
    ],
)
def test_a_mapping_that_does_not_fit_the_model_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        fit(zoo.perceptron(), zoo.tiny(), optimizer=given)
