"""The bridge: a closed-form head by tiled Cholesky, behind the training in one graph."""

import numpy as np
import pytest
import torch
import training_models as zoo
from torch import nn

from tilewright.tiles import TiledMatrix
from tilewright.training import closed_form_head, data, fit, models
from tilewright.training.data.augment import normalise


def direct(model, train, test, kind, noise):
    """The head's accuracy by numpy.linalg.solve, without tiles."""

    def features(part):
        with torch.no_grad():
            x = torch.from_numpy(normalise(part.images, part.recipe))
            for segment in models.segments(model)[:-1]:
                x = segment(x)
        return x.flatten(1).double().numpy()

    model.eval()
    f, t = features(train), features(test)
    scale = closed_form_head.spread([f], None)
    K = closed_form_head._kernel(f, f, scale, kind) + noise * np.eye(len(f))
    Y = np.eye(train.classes)[train.labels] - 1 / train.classes
    scores = closed_form_head._kernel(t, f, scale, kind) @ np.linalg.solve(K, Y)
    return float((scores.argmax(1) == test.labels).mean())


@pytest.mark.parametrize("kind", closed_form_head.HEADS)
def test_the_tiled_head_is_the_direct_one_and_gains_on_digits(kind):
    """Failure 20: features of a BF16 network go into an FP64 factorisation."""
    train, test = data.digits()
    torch.manual_seed(0)
    model = models.MLP()
    result = fit(model, train, test, epochs=1, precision="bf16", schedule="one-cycle", head=kind)
    assert result.head.test_accuracy == pytest.approx(direct(model, train, test, kind, 0.1), abs=1e-9)
    assert result.head_gain > 0.05 and result.head.test_accuracy > 0.95
    assert f"closed-form head ({kind})" in result.table() and result.summary()["head"]["gain"] == result.head_gain


def test_its_tasks_are_those_of_cholesky_behind_the_training():
    train, test = zoo.tiny(600), zoo.tiny(40)
    result = fit(zoo.perceptron(), train, test, epochs=1, head="gp", helpers=1)
    counts = {name: n for name, (n, _) in result.run.trace.by_op().items()}
    assert counts["potrf"] == counts["solve_back"] == 3 and counts["trsm"] == 3 + 3
    assert counts["syrk"] == 3 and counts["gemm"] == 1 + 3 and counts["products"] == 6
    last_step = max(task.index for task in result.run.graph if task.op.name == "update")
    assert all(task.index > last_step for task in result.run.graph if task.op.name == "potrf")
    result.run.trace.check()


def test_a_pipeline_and_replicas_have_the_head_of_one_worker():
    train, test = zoo.tiny(600), zoo.tiny(64)
    found = []
    for options in ({"accumulate": 2}, {"accumulate": 2, "pipeline": "1f1b"}, {"workers": 2}):
        torch.manual_seed(0)
        result = fit(zoo.perceptron(), train, test, epochs=1, lr=0.001, head="gp", **options)
        result.run.trace.check()
        found.append((result.head.test_accuracy, result.test_accuracy))
    assert found[0] == found[1] == found[2] and found[0][0] > found[0][1]


def test_the_back_substitution_solves():
    random = np.random.default_rng(0)
    factor = np.tril(random.standard_normal((6, 6))) + 4 * np.eye(6)
    z = random.standard_normal((2, 6))
    x = z.copy()
    closed_form_head.solve_back(factor, x)
    assert x @ factor == pytest.approx(z)
    assert isinstance(closed_form_head.head_data(5, 2)["K"], TiledMatrix)


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (zoo.perceptron(), {"head": "forest"}, "unknown head 'forest'; known: ridge, gp"),
        (nn.Sequential(nn.Flatten(), nn.Linear(16, 4)), {"head": "gp"}, "this model has only one"),
    ],
)
def test_what_has_no_head_is_refused(model, options, message):
    with pytest.raises(ValueError, match=message):
        fit(model, zoo.tiny(), zoo.tiny(8), **options)
    with pytest.raises(ValueError, match="measured on a test set"):
        fit(zoo.perceptron(), zoo.tiny(), head="gp")
