"""Training equals the plain loop of torch: a list of models, optimizers and losses, each trained by hand as well.

FP32 with one worker is compared by bits. A batch in two parts, by ``accumulate=2``, or by ``workers=2``, sums in another
order, and so may rounding to BF16: weights agree to a stated tolerance.
"""

import copy
import random
from functools import partial

import numpy as np
import pytest
import torch
import training_models as zoo
import training_zoo as cases
from torch import nn

from tilewright.training import Losses, fit
from tilewright.training.randomness import Stream, leave

DATA = zoo.tiny(72)
UNFUSED = partial(torch.optim.SGD, lr=0.05, momentum=0.9, weight_decay=5e-4)
SGD = partial(UNFUSED, fused=True)


def by_hand(model, *, optimizer=None, loss=None, precision="fp32", epochs=2, batch_size=32, seed=0):
    """The loop that everyone writes: losses."""
    optimizer = optimizer or best(model)
    loss = loss or nn.CrossEntropyLoss()
    made = optimizer([p for p in model.parameters() if p.requires_grad])
    torch.manual_seed(seed)
    losses = []
    for x, y in zoo.batches(DATA, epochs, batch_size, seed):
        made.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16", cache_enabled=False):
            outputs = model(x)
        value = loss(outputs.float(), y)
        value.backward()
        made.step()
        losses.append(value.item())
    return losses


def best(model):
    """SGD, fused where torch has that right: not on a parameter with holes."""
    return UNFUSED if any(p.stride() == (8, 2) for p in model.parameters()) else SGD


def twins(make):
    """The same model twice, each made by itself: (one for the loop, one for `fit`)."""
    found = []
    for _ in range(2):
        torch.manual_seed(1)
        found.append(make().train())
        if make is cases.frozen_by_its_own_train:
            found[-1].train()
    if make is cases.frozen_batch_norm:
        for model in found:
            model[2].eval()
    return found


def contents(model):
    """All tensors of a model by name, with those of several names under each, and other state."""
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    return dict(named) | {name: value for name, value in vars(model).items() if isinstance(value, int | float)}


def same(one, other, tolerance=0.0, leave=()):
    left, right = contents(one), contents(other)
    assert left.keys() == right.keys()
    for name, value in left.items():
        if any(part in name for part in leave):
            continue
        if not isinstance(value, torch.Tensor):
            assert value == right[name], name
        elif tolerance:
            assert torch.allclose(value, right[name], rtol=tolerance, atol=tolerance), name
        else:
            assert torch.equal(value, right[name]), f"{name}: {(value - right[name]).abs().max()}"


@pytest.mark.parametrize("make", cases.MODELS, ids=lambda make: make.__name__)
def test_one_worker_has_the_bits_of_the_plain_loop_in_fp32(make):
    reference, model = twins(make)
    modes = [m.training for m in model.modules()]
    losses = by_hand(reference)
    result = fit(model, DATA, epochs=2, batch_size=32, optimizer=best(model))
    assert result.losses == losses
    same(reference, model)
    assert [m.training for m in model.modules()] == modes


# A hook that knows its model by name knows the first replica: such a model is no case of two workers (docs/training.md).
def of_two_workers(models):
    return [make for make in models if make is not cases.hook_with_a_parameter]


@pytest.mark.parametrize(
    ("make", "options"),
    [
        *(pytest.param(make, {"accumulate": 2}, id=f"{make.__name__}-accumulate") for make in cases.STEADY),
        *(pytest.param(make, {"workers": 2}, id=f"{make.__name__}-workers") for make in of_two_workers(cases.STEADY)),
    ],
)
def test_a_batch_in_two_parts_has_the_weights_of_the_whole(make, options):
    reference, model = twins(make)
    losses = by_hand(reference)
    result = fit(model, DATA, epochs=2, batch_size=32, optimizer=best(model), **options)
    assert result.losses == pytest.approx(losses, rel=1e-5)
    same(reference, model, 1e-5)


@pytest.mark.parametrize("make", of_two_workers(cases.MODELS), ids=lambda make: make.__name__)
def test_equal_calls_with_two_workers_have_equal_bits(make):
    found = [(fit(model, DATA, epochs=1, batch_size=32, workers=2).losses, model) for model in twins(make)]
    assert found[0][0] == found[1][0]
    same(found[0][1], found[1][1])


@pytest.mark.parametrize("make", cases.MODELS, ids=lambda make: make.__name__)
def test_bf16_agrees_with_the_plain_loop_under_autocast(make):
    reference, model = twins(make)
    losses = by_hand(reference, precision="bf16")
    result = fit(model, DATA, epochs=2, batch_size=32, optimizer=best(model), precision="bf16", allow_slow=True)
    assert result.losses == pytest.approx(losses, rel=1e-2)
    same(reference, model, 1e-2)


@pytest.mark.parametrize(
    "make", [*cases.STATEFUL, *cases.RANDOM, cases.Tied, cases.old_weight_norm], ids=lambda make: make.__name__
)
def test_evaluation_and_checkpoints_change_nothing_and_a_resumed_training_has_the_same_bits(make, tmp_path):
    reference, model = twins(make)
    losses = by_hand(reference, epochs=3)
    test = zoo.tiny(16, seed=1)
    fit(twins(make)[0], DATA, test, epochs=1, batch_size=32, optimizer=SGD, checkpoint=tmp_path)
    result = fit(model, DATA, test, epochs=3, batch_size=32, optimizer=SGD, checkpoint=tmp_path)
    assert result.resumed == 3 and result.losses == losses
    same(reference, model, leave=("calls", "temperature"))  # what is neither tensor nor extra state is not kept
    accuracy = (reference.eval()(images(test)).argmax(1) == torch.from_numpy(test.labels)).float().mean()
    assert result.test_accuracy == pytest.approx(float(accuracy))


def images(data):
    return torch.from_numpy(data.images.astype("float32") / 255)


OPTIMIZERS = {
    "sgd": {"lr": 0.05}, "adam": {}, "Adadelta": {}, "Adagrad": {}, "Adam": {"amsgrad": True}, "AdamW": {},
    "Adamax": {}, "ASGD": {}, "NAdam": {}, "RAdam": {}, "RMSprop": {"momentum": 0.5, "centered": True}, "Rprop": {},
    "SGD": {"lr": 0.1, "nesterov": True, "momentum": 0.9}, "Adafactor": {},
}  # fmt: skip


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_has_the_bits_of_the_plain_loop_also_over_several_graphs(name, monkeypatch):
    kinds = {
        "sgd": partial(torch.optim.SGD, momentum=0.9, weight_decay=5e-4, fused=True),
        "adam": partial(torch.optim.Adam, lr=1e-3),
    }
    make = partial(kinds.get(name) or getattr(torch.optim, name), **OPTIMIZERS[name])
    monkeypatch.setattr("tilewright.training.trainer.MOST_TASKS", 60)
    for model_of in (cases.Tied, cases.batch_norm):
        reference, model = twins(model_of)
        losses = by_hand(reference, optimizer=make)
        result = fit(
            model,
            DATA,
            epochs=2,
            batch_size=32,
            optimizer=name if name in kinds else make,
            lr=0.05 if name == "sgd" else None,
        )
        assert len(result.runs) > 1 and result.losses == losses
        same(reference, model)


WEIGHTS = torch.tensor([0.1, 1.0, 3.0, 0.5])


@pytest.mark.parametrize("options", [{}, {"accumulate": 3}, {"workers": 2}, {"workers": 2, "accumulate": 2}], ids=str)
@pytest.mark.parametrize(
    "loss",
    [
        nn.CrossEntropyLoss(),
        nn.CrossEntropyLoss(weight=WEIGHTS),
        nn.CrossEntropyLoss(ignore_index=2),
        nn.CrossEntropyLoss(reduction="sum"),
        nn.CrossEntropyLoss(label_smoothing=0.2),
        nn.CrossEntropyLoss(weight=WEIGHTS, ignore_index=1, label_smoothing=0.1),
        nn.MultiMarginLoss(),
        nn.MultiMarginLoss(weight=WEIGHTS, reduction="sum"),
        Losses(
            {
                "a": (nn.CrossEntropyLoss(weight=WEIGHTS), 1.0),
                "b": (nn.MultiMarginLoss(), 0.3),
                "c": (nn.CrossEntropyLoss(reduction="sum"), 0.01),
            }
        ),
    ],
    ids=str,
)
def test_every_loss_of_a_batch_in_parts_is_that_of_the_batch(loss, options):
    reference, model = twins(cases.mlp)
    losses = by_hand(reference, loss=loss, optimizer=partial(torch.optim.SGD, lr=0.01))
    result = fit(
        model, DATA, epochs=2, batch_size=32, loss=loss, optimizer=partial(torch.optim.SGD, lr=0.01), **options
    )
    assert result.losses == (pytest.approx(losses, rel=1e-5) if options else losses)
    same(reference, model, 1e-5 if options else 0.0)


def test_a_part_in_which_every_label_is_ignored_counts_for_nothing():
    data = zoo.tiny(8)
    model, reference = copy.deepcopy(start := cases.mlp()), start
    loss = nn.CrossEntropyLoss(ignore_index=1)
    result = fit(
        model, data, epochs=1, batch_size=8, accumulate=8, loss=loss, optimizer=partial(torch.optim.SGD, lr=0.1)
    )
    ((x, y),) = zoo.batches(data, 1, 8, 0)
    made = torch.optim.SGD(reference.parameters(), lr=0.1)
    value = loss(reference(x), y)
    value.backward()
    made.step()
    assert result.losses == pytest.approx([value.item()], rel=1e-6)
    same(reference, model, 1e-6)


def test_the_test_loss_with_class_weights_is_that_of_the_whole_set():
    loss, test = nn.CrossEntropyLoss(weight=WEIGHTS), zoo.tiny(1100, seed=3)  # evaluated in two parts
    model = cases.mlp()
    result = fit(model, DATA, test, epochs=1, loss=loss)
    expected = loss(model.eval()(images(test)), torch.from_numpy(test.labels))
    assert result.table_of_epochs[0].test_loss == pytest.approx(expected.item(), rel=1e-5)


class Noisy(nn.Module):
    """Noise of a library's generator of the process, which PyTorch does not know of."""

    def __init__(self, draw):
        super().__init__()
        self.draw = draw
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(zoo.tiny(1).images[0].size, 10))

    def forward(self, x):
        return self.layers(x) * (1 + 0.1 * self.draw())


def of_numpy():
    return np.random.standard_normal()  # noqa: NPY002 - what models of others use


def of_python():
    return random.gauss(0, 1)


def of_all():
    return of_numpy() + of_python() + torch.rand(()).item() + random.random()


@pytest.mark.parametrize("draw", [of_numpy, of_python, of_all])
class TestDrawsOfNumPyAndPython:
    def test_one_worker_draws_what_the_plain_loop_draws(self, draw):
        theirs, ours = twins(partial(Noisy, draw))
        before = random.getstate(), np.random.get_state()  # noqa: NPY002
        try:
            random.seed(7)
            np.random.seed(7)  # noqa: NPY002
            losses = by_hand(theirs, seed=7)
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])  # noqa: NPY002
        result = fit(ours, DATA, optimizer=SGD, epochs=2, batch_size=32, seed=7, backend="serial")
        same(theirs, ours)
        assert result.losses == losses
        assert random.getstate() == before[0]  # the user's own generators are where they were
        assert all(np.array_equal(a, b) for a, b in zip(np.random.get_state(), before[1], strict=True))  # noqa: NPY002

    def test_two_workers_draw_the_same_whoever_runs_when(self, draw):
        found = []
        for backend in ("serial", "threads", "threads"):
            torch.manual_seed(1)
            model = Noisy(draw).train()
            of_all()  # what others drew meanwhile is no matter
            fit(model, DATA, optimizer=SGD, epochs=1, batch_size=32, seed=7, workers=2, accumulate=2, backend=backend)
            found.append(model)
        same(found[0], found[1])
        same(found[0], found[2])

    def test_a_resumed_training_goes_on_where_the_first_ended(self, draw, tmp_path):
        whole, halves = twins(partial(Noisy, draw))
        settings = {"optimizer": SGD, "batch_size": 32, "seed": 7, "backend": "serial"}
        fit(whole, DATA, epochs=2, **settings)
        for epochs in (1, 2):
            fit(halves, DATA, epochs=epochs, checkpoint=tmp_path, **settings)
        same(whole, halves)


@pytest.mark.parametrize("place", [624, -1, 0], ids=["position", "gauss", "word"])
def test_a_state_of_a_generator_that_cannot_be_one_is_not_taken(place):
    stream = Stream(torch.device("cpu"), 3)
    state = {name: value.clone() for name, value in stream.state().items()}
    leave()
    for name in ("numpy", "random"):
        state[name][place] = 1e12 if place >= 0 else float("nan")
    other = Stream(torch.device("cpu"), 3)
    other.resume(state)
    with other:
        drawn = random.random(), np.random.rand()  # noqa: NPY002
    leave()
    assert all(0 <= number < 1 for number in drawn)
    if place >= 0:
        assert drawn == (random.Random(3).random(), np.random.RandomState(3).rand())
