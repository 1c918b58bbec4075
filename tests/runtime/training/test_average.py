"""Averages of parameters over the steps."""

import copy

import pytest
import torch
import training_models as zoo

from tilewright.training import LossScaler, fit

DATA, TEST = zoo.tiny(), zoo.tiny(16)


def after(epochs, **options):
    """The parameters after so many epochs of one step each, and the training."""
    torch.manual_seed(0)
    model = zoo.perceptron()
    result = fit(model, DATA, TEST, epochs=epochs, batch_size=96, **options)
    return dict(model.named_parameters()), result


@pytest.mark.parametrize("options", [{}, {"workers": 2}, {"pipeline": "1f1b", "precision": "bf16"}])
def test_the_average_is_the_recurrence_over_steps(options):
    torch.manual_seed(0)
    average = {name: p.detach().clone() for name, p in zoo.perceptron().named_parameters()}
    for epochs in (1, 2, 3):
        for name, p in after(epochs, **options)[0].items():
            average[name].lerp_(p.detach(), 1 - 0.75)
    parameters, result = after(3, ema=0.75, **options)
    assert set(result.average) == set(parameters)
    assert all(torch.equal(result.average[name], value) for name, value in average.items())
    assert not torch.equal(average["2.weight"], parameters["2.weight"])


def test_the_average_is_what_is_evaluated():
    _, result = after(3, ema=0.5)
    model = zoo.perceptron()
    model.load_state_dict(result.average)
    with torch.no_grad():
        x, y = next(iter(zoo.batches(TEST, 1, 16, 0)))
        loss = torch.nn.functional.cross_entropy(model(x), y)
    assert result.log.evaluations[-1]["test_loss"] == pytest.approx(loss.item(), rel=1e-6)


def test_a_skipped_step_does_not_move_the_average():
    model = zoo.overflowing()
    before = copy.deepcopy(model.state_dict())
    result = fit(model, DATA, epochs=2, precision="fp16", ema=0.5, scaler=LossScaler(scale=8.0))
    assert result.skipped_steps == 4 and all(torch.equal(before[n], v) for n, v in result.average.items())


def test_the_average_goes_on_where_it_was(tmp_path):
    _, whole = after(3, ema=0.75)
    after(1, ema=0.75, checkpoint=tmp_path)
    _, resumed = after(3, ema=0.75, checkpoint=tmp_path)
    assert resumed.resumed == 1 and resumed.log.evaluations == whole.log.evaluations
    assert all(torch.equal(resumed.average[name], value) for name, value in whole.average.items())


@pytest.mark.parametrize("ema", [0.0, 1.0, -0.5])
def test_a_decay_is_between_0_and_1(ema):
    with pytest.raises(ValueError, match="ema must be between 0 and 1"):
        after(1, ema=ema)


def test_without_a_decay_there_is_no_average():
    assert after(1)[1].average == {}
