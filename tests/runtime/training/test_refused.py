"""What `fit` refuses, before any work, in one sentence; and data of torch that it takes."""

import copy
import math
import warnings
from functools import partial

import pytest
import torch
import training_models as zoo
import training_zoo as cases
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset, WeightedRandomSampler
from torch.utils.data import Dataset as TorchDataset

from tilewright.training import Cosine, GradientPenalty, fit, models

DATA = zoo.tiny()


def untouched(model, match, error=ValueError, data=DATA, test=None, **options):
    """``fit`` raises, and neither the model, nor torch's random numbers, nor the modes of modules have changed."""
    before = {name: p.clone() for name, p in model.named_parameters() if not lazy(p)}
    modes, numbers = [m.training for m in model.modules()], torch.get_rng_state()
    with pytest.raises(error, match=match):
        fit(model, data, test, **options)
    assert torch.equal(numbers, torch.get_rng_state()) and modes == [m.training for m in model.modules()]
    assert all(p.is_meta or torch.equal(p, before[name]) for name, p in model.named_parameters() if before)


def lazy(parameter):
    return isinstance(parameter, nn.parameter.UninitializedParameter)


def made_of_others(model):
    return lambda parameters: torch.optim.SGD([*parameters, nn.Parameter(torch.zeros(1))], 0.1)


def scripted(module):
    """torch deprecates it; users still have such models."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.script(module)


@pytest.mark.parametrize(
    ("optimizer", "error", "match"),
    [
        (torch.optim.LBFGS, ValueError, r"optimizer makes LBFGS, whose step\(\) evaluates the model by itself"),
        (torch.optim.SparseAdam, ValueError, "optimizer makes SparseAdam, which wants sparse gradients"),
        (lambda ps: [torch.optim.SGD(ps, 0.1)], TypeError, "optimizer makes list of 1, not one torch optimizer"),
        (lambda ps: None, TypeError, "optimizer makes NoneType, which is no torch optimizer"),
        (
            lambda ps: torch.optim.SGD([nn.Parameter(torch.ones(1))], 0.1),
            ValueError,
            "parameters that it was not given",
        ),
        (lambda ps: torch.optim.SGD(ps[:1], 0.1), ValueError, "of 1 of 6 parameters; freeze the others"),
    ],
)
def test_optimizers_that_cannot_take_steps_of_gradients(optimizer, error, match):
    untouched(zoo.perceptron(), match, error, optimizer=optimizer)


@pytest.mark.parametrize(
    ("make", "options", "error", "match"),
    [
        (
            lambda: nn.Sequential(nn.Flatten(), nn.LazyLinear(4)),
            {},
            ValueError,
            "layer '1' is lazy and has no parameters yet",
        ),
        (
            lambda: scripted(zoo.perceptron()),
            {"workers": 2},
            ValueError,
            "the model is compiled by torch.jit and has no copies for workers=2 on backend='threads'",
        ),
        (
            lambda: nn.Sequential(nn.Flatten(), scripted(nn.Linear(64, 10))),
            {"backend": "mpi"},
            ValueError,
            "layer '1' is compiled by torch.jit and has no copies for workers=1 on backend='mpi'",
        ),
        (lambda: zoo.perceptron().to("meta"), {}, ValueError, "0.1.weight is on the meta device and has no values"),
        (
            lambda: nn.Sequential(nn.Flatten(), nn.Embedding(4, 4, sparse=True)),
            {},
            ValueError,
            "layer '1' has sparse gradients",
        ),
        (
            cases.batch_norm,
            {"batch_size": 95},
            ValueError,
            "the last batch of an epoch has 1 image, .* choose another batch",
        ),
        (
            cases.batch_norm,
            {"batch_size": 2, "workers": 2},
            ValueError,
            "a batch has 2 images, and a worker gets a single",
        ),
        (cases.own_forward, {"segments": 2}, ValueError, "1 to 1 segments, not 2: it has a forward pass of its own"),
        (cases.pre_hooks, {"segments": 2}, ValueError, "not 2: it has hooks around its passes"),
        (
            cases.pairs_between_children,
            {"segments": 2},
            ValueError,
            "cannot be cut into 2 segments: segment 0 gives no tensor",
        ),
        (
            cases.in_place_between_children,
            {"segments": 2},
            ValueError,
            "cannot be cut into 2 segments: one of them raises",
        ),
        (
            lambda: cases.Fn(lambda m, x: {"logits": nn.functional.linear(x, m.w, m.b)}),
            {},
            TypeError,
            "the model gives dict, and a loss takes one tensor: wrap the model",
        ),
        (lambda: cases.Fn(lambda m, x: (x @ m.w.T, x)), {"workers": 2}, TypeError, "the model gives tuple"),
        (
            cases.gradient_hooks,
            {"backend": "mpi", "workers": 2},
            ValueError,
            "parameter 1.weight has hooks, which do not reach",
        ),
    ],
)
def test_models_that_would_fail_after_a_while(make, options, error, match):
    untouched(make(), match, error, **options)


class Wrong(nn.Sequential):
    """Says that it is a composition of its children, and is not."""

    def segments(self):
        return list(self)

    def forward(self, x):
        return super().forward(x) * 2


def test_segments_that_do_not_compose_to_the_model_are_one_or_refused_where_they_are_asked_for():
    model = Wrong(nn.Sequential(nn.Flatten(), nn.Linear(16, 8)), nn.Linear(8, 4))
    untouched(model, "applied one after the other they give other outputs than the model", segments=2)
    result = fit(model, DATA, epochs=1)
    assert "forward" not in {task.op.name for task in result.run.graph}


def test_one_image_of_batch_norm_is_fine_where_it_has_many_values():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 4))
    assert len(fit(model, DATA, epochs=1, batch_size=95).steps) == 2


@pytest.mark.parametrize(
    ("loss", "options", "error", "match"),
    [
        (nn.CrossEntropyLoss(reduction="none"), {}, ValueError, "loss must be one number .* not 'none'"),
        (nn.CrossEntropyLoss, {}, TypeError, "loss must be a function"),
        (3, {}, TypeError, r"loss must be a function of \(outputs, labels\), as nn.CrossEntropyLoss\(\) is, not 3"),
        (lambda y, t: nn.functional.cross_entropy(y, t, reduction="none"), {}, ValueError, "a tensor of shape"),
        (
            lambda y, t: 1.0,
            {},
            ValueError,
            "loss must give one number, the mean over a batch, as a tensor; it gives 1.0",
        ),
        (
            lambda y, t: nn.functional.cross_entropy(y, t, reduction="sum"),
            {"accumulate": 2},
            ValueError,
            "no mean over images",
        ),
        (
            lambda y, t: nn.functional.cross_entropy(y, t, weight=torch.arange(4.0)),
            {"workers": 2},
            ValueError,
            "no mean over",
        ),
        (
            nn.CrossEntropyLoss(reduction="sum"),
            {"penalty": GradientPenalty(1.0, "inputs")},
            ValueError,
            "penalty takes a loss",
        ),
    ],
)
def test_losses_that_a_batch_in_parts_would_change(loss, options, error, match):
    untouched(zoo.perceptron(), match, error, loss=loss, **options)


def test_a_loss_of_ones_own_may_be_anything_for_one_worker_and_a_mean_for_several():
    total = lambda y, t: nn.functional.cross_entropy(y, t, reduction="sum")  # noqa: E731
    mean = lambda y, t: nn.functional.cross_entropy(y, t)  # noqa: E731
    assert len(fit(zoo.perceptron(), DATA, epochs=1, loss=total, lr=1e-3).steps) == 2
    assert len(fit(zoo.perceptron(), DATA, epochs=1, loss=mean, workers=2).steps) == 2


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"workers": 1000}, ValueError, "workers=1000 share batches of 64 images: pass fewer"),
        ({"workers": 2, "accumulate": 40}, ValueError, "accumulate=40 cuts 64 images of workers=2 into 80 parts"),
        ({"backend": "simulate"}, ValueError, "backend 'simulate' computes nothing"),
        ({"backend": "spark"}, ValueError, "unknown backend 'spark'; known: serial, threads, mpi, dask"),
        ({"return_run": True}, TypeError, "fit: unknown option return_run"),
        ({"epoch": 3}, TypeError, "fit: unknown option epoch; did you mean epochs?"),
        ({"schedule": math.nan}, ValueError, "unknown schedule nan"),
        ({"schedule": []}, ValueError, r"unknown schedule \[\]"),
        ({"schedule": lambda updates: math.nan}, ValueError, "schedule gives nan for update 0"),
        ({"schedule": lambda updates: 1.0 - updates}, ValueError, "schedule gives -1.0 for update 2"),
        ({"schedule": lambda updates: "a"}, ValueError, "schedule gives 'a' for update 0"),
        ({"head": "ridge", "head_noise": 0}, ValueError, "head_noise must be a finite number from 4.1e-12 for 96"),
        ({"head": "ridge", "head_noise": math.nan}, ValueError, "head_noise .* not nan"),
        ({"head": "gp", "head_noise": "x"}, ValueError, "head_noise .* not 'x'"),
        ({"head_noise": -1}, ValueError, "head_noise .* not -1"),
        ({"precision": 16}, TypeError, "precision must be one of fp32, tf32, bf16, fp16, adaptive, not 16"),
        ({"clip_norm": "x"}, ValueError, "clip_norm must be above 0, not 'x'"),
        ({"ema": "x"}, ValueError, "ema must be"),
        ({"helpers": 1.5}, TypeError, "helpers must be an integer"),
        ({"scaler": 3}, TypeError, "scaler must be a training"),
        ({"penalty": 3}, TypeError, "penalty must be a training.GradientPenalty"),
        ({"lr": "x"}, ValueError, "lr must be"),
        ({"fallback": 3}, TypeError, "fallback must be"),
        ({"scheduler": "best"}, ValueError, "unknown"),
    ],
)
def test_arguments_that_cannot_be(options, error, match):
    untouched(zoo.perceptron(), match, error, test=zoo.tiny(8), **options)


@pytest.mark.parametrize("name", ["bfloat16", "BF16", torch.bfloat16])
def test_precisions_have_the_names_of_torch_too(name):
    result = fit(zoo.perceptron(), DATA, epochs=1, precision=name, allow_slow=True)
    assert result.precision == "bf16" and {row["precision"] for row in result.steps} == {"bf16"}


# ------------------------------------------------------------ a checkpoint of another training


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"data": zoo.tiny(seed=5)}, r"data 'tiny, 96 images, digest [0-9a-f]{8}', not"),
        ({"schedule": Cosine(9)}, r"schedule 'None', not 'Cosine\({total: 9}\)'"),
        ({"loss": nn.CrossEntropyLoss(label_smoothing=0.1)}, "loss .CrossEntropyLoss"),
        ({"loss": nn.CrossEntropyLoss(weight=torch.ones(4))}, "loss .CrossEntropyLoss"),
        (
            {"optimizer": partial(torch.optim.SGD, momentum=0.5), "lr": 0.1},
            r"optimizer 'SGD\(lr=0.1\)', not 'SGD\(lr=0.1, mom",
        ),
    ],
)
def test_a_checkpoint_is_of_the_same_data_schedule_loss_and_optimizer(tmp_path, change, match):
    given = {"optimizer": torch.optim.SGD, "lr": 0.1}
    fit(zoo.perceptron(), DATA, epochs=1, checkpoint=tmp_path, **given)
    untouched(zoo.perceptron(), match, epochs=2, checkpoint=tmp_path, **{"data": DATA, **given, **change})


def test_a_checkpoint_has_the_layers_of_the_model_under_their_names_and_in_their_shapes(tmp_path):
    class Named(nn.Module):
        def __init__(self, name, wide=16):
            super().__init__()
            self.name = name
            setattr(self, name, nn.Linear(16, 4))
            self.b = nn.Linear(4, wide // 4)

        def forward(self, x):
            return self.b(getattr(self, self.name)(x.flatten(1)))

    fit(Named("first"), DATA, epochs=1, checkpoint=tmp_path)
    untouched(Named("other"), "it has no other.weight, but first.weight", epochs=2, checkpoint=tmp_path)

    class Turned(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.b = nn.Linear(16, 4), nn.Linear(4, 4)
            self.first.weight = nn.Parameter(torch.zeros(16, 4))

        def forward(self, x):
            return self.b(x.flatten(1) @ self.first.weight)

    untouched(Turned(), r"first.weight of shape \(4, 16\), not \(16, 4\)", epochs=2, checkpoint=tmp_path)


def test_extra_state_that_a_checkpoint_could_not_read_again_is_refused(tmp_path):
    class Odd(cases.Extra):
        def get_extra_state(self):
            return {"lambda": type("Odd", (), {})}

    untouched(Odd(), "cannot hold what get_extra_state of the model returns", checkpoint=tmp_path)


# ------------------------------------------------------------ data of torch


class Pairs(TorchDataset):
    def __init__(self, data, draws=False, label=int):
        self.data, self.draws, self.label = data, draws, label

    def __len__(self):
        return len(self.data)

    def __getitem__(self, k):
        image = torch.from_numpy(self.data.images[k]).float() / 255
        return image + torch.rand(()) if self.draws else image, self.label(self.data.labels[k])


def forms():
    pairs = Pairs(DATA)
    tensors = TensorDataset(torch.stack([x for x, _ in pairs]), torch.tensor([y for _, y in pairs]))
    return {"pairs": pairs, "tensors": tensors, "loader": DataLoader(pairs, batch_size=32, shuffle=True)}


@pytest.mark.parametrize("form", ["pairs", "tensors", "loader"])
def test_data_sets_and_loaders_of_torch_are_trained_on_as_the_same_images_are(form):
    torch.manual_seed(0)
    model = zoo.small_net()
    reference = copy.deepcopy(model)
    numbers = torch.get_rng_state()
    result = fit(model, forms()[form], Pairs(zoo.tiny(16)), epochs=2, batch_size=None if form == "loader" else 32)
    assert torch.equal(numbers, torch.get_rng_state())
    expected = fit(reference, DATA, zoo.tiny(16), epochs=2, batch_size=32)
    assert result.losses == pytest.approx(expected.losses, rel=1e-5)
    assert result.test_accuracy == expected.test_accuracy


def test_inputs_may_be_numbers_of_words():
    words = torch.randint(0, 9, (64, 5))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(9, 8), nn.Flatten(), nn.Linear(40, 3))
    result = fit(model, TensorDataset(words, words.sum(1) % 3), epochs=12, batch_size=16, optimizer="adam", lr=0.02)
    assert result.losses[-1] < 0.7 * result.losses[0]


class Stream(IterableDataset):
    def __iter__(self):
        yield from Pairs(DATA)


@pytest.mark.parametrize(
    ("make", "options", "error", "match"),
    [
        (
            lambda: DataLoader(Pairs(DATA), 32),
            {},
            ValueError,
            r"does not shuffle\. .* pass train\.dataset, and batch_size=",
        ),
        (lambda: DataLoader(Pairs(DATA), 20, shuffle=True, drop_last=True), {}, ValueError, "drops the last batch"),
        (
            lambda: DataLoader(Pairs(DATA), 32, shuffle=True),
            {"batch_size": 16},
            ValueError,
            "batch_size is 16, and the loader",
        ),
        (
            lambda: DataLoader(Pairs(DATA), 32, sampler=WeightedRandomSampler([1.0] * 96, 96)),
            {},
            ValueError,
            "WeightedRandom",
        ),
        (lambda: DataLoader(Pairs(DATA), 32, shuffle=True, collate_fn=list), {}, ValueError, "it has a collate_fn"),
        (lambda: DataLoader(Stream(), 32), {}, ValueError, "DataLoader that fit would not follow"),
        (Stream, {}, TypeError, "train is an IterableDataset"),
        (lambda: Pairs(DATA, draws=True), {}, ValueError, "first item differs from one reading to the next"),
        (lambda: Pairs(DATA, label=float), {}, TypeError, "labels of float64, .* each; they must be classes"),
        (lambda: Pairs(DATA, label=str), {}, TypeError, "items must be tensors, arrays or numbers, not str"),
        (
            lambda: TensorDataset(torch.ones(4, 16, dtype=torch.float64), torch.zeros(4).long()),
            {},
            TypeError,
            "float64; they",
        ),
        (lambda: TensorDataset(torch.ones(4, 16), torch.full((4,), -1)), {}, ValueError, "the label -1; classes"),
        (lambda: TensorDataset(torch.ones(4, 16)), {}, TypeError, r"items must be pairs \(x, y\), not tuple"),
    ],
)
def test_loaders_that_do_something_else_are_refused_with_what_to_pass(make, options, error, match):
    torch.manual_seed(0)
    with pytest.raises(error, match=match):
        fit(zoo.perceptron(), make(), **options)


# ------------------------------------------------------------ nothing is lost at the end


def test_a_head_that_cannot_be_solved_loses_no_training():
    """Features that are not finite have no kernel matrix."""
    model = zoo.perceptron()
    result = fit(model, DATA, zoo.tiny(8), epochs=1, lr=1e30, head="gp")
    assert math.isnan(result.head.test_accuracy) and "features are not finite" in result.table()
    assert not all(bool(torch.isfinite(p).all()) for p in model.parameters())
    assert result.summary()["head"]["test_accuracy"] is None


def test_a_model_trained_by_halves_is_that_of_the_last_step_that_was_taken():
    """As of the plain loop: an error in a later step does not take back the steps before."""
    torch.manual_seed(0)
    model = zoo.perceptron()
    before = copy.deepcopy(model.state_dict())
    calls = []

    def loss(outputs, labels):
        calls.append(1)
        if len(calls) > 5:
            raise RuntimeError("enough")
        return nn.functional.cross_entropy(outputs, labels)

    with pytest.raises(RuntimeError, match="enough"):
        fit(model, DATA, loss=loss)
    assert not torch.equal(before["2.weight"], model.state_dict()["2.weight"])
    assert all(p.grad is None for p in model.parameters())


def test_models_of_the_library_are_still_cut():
    assert len(models.segments(models.SimpleResNet(width=4))) == 6 and len(models.segments(models.MLP())) == 3
