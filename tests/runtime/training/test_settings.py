"""The groups of `fit`'s settings: given as groups or by their own names, they are the same."""

import dataclasses
import inspect
import math

import pytest
import torch
import training_models as zoo

from tilewright import training
from tilewright.training import Execution, Learning, Recording, compare, fit
from tilewright.training.settings import SETTINGS, flat, grouped

DATA = zoo.tiny()


def make():
    torch.manual_seed(0)
    return zoo.perceptron()


def test_fit_has_few_parameters_and_none_of_them_is_a_setting_of_a_group():
    parameters = list(inspect.signature(fit).parameters)
    assert len(parameters) <= 18 and not set(parameters) & set(SETTINGS)
    assert set(SETTINGS.values()) < set(parameters)


def test_every_setting_is_documented_where_it_is():
    for kind in (Learning, Execution, Recording):
        text = kind.__doc__.split("Parameters\n    ----------\n")[1].split("\n\n")[0]
        lines = [line.strip() for line in text.splitlines() if line.startswith("    ") and line[4] != " "]
        documented = [name.strip() for line in lines for name in line.split(",")]
        assert documented == [field.name for field in dataclasses.fields(kind)]


def test_a_setting_by_its_name_and_in_its_group_train_the_same_bits(tmp_path):
    names = fit(make(), DATA, epochs=2, clip_norm=0.5, ema=0.9, segments=1, log=tmp_path / "a")
    groups = fit(
        make(),
        DATA,
        epochs=2,
        learning=Learning(clip_norm=0.5, ema=0.9),
        execution=Execution(segments=1),
        recording=Recording(log=tmp_path / "b"),
    )
    mixed = fit(make(), DATA, epochs=2, learning=Learning(ema=0.9), clip_norm=0.5, segments=1)
    assert names.losses == groups.losses == mixed.losses and len(names.losses) == 4
    assert all(torch.equal(names.average[name], groups.average[name]) for name in names.average)
    assert len((tmp_path / "b").read_text().splitlines()) == len((tmp_path / "a").read_text().splitlines()) == 4


def test_comparing_takes_groups_too(tmp_path):
    test = zoo.tiny(16)
    table = compare(
        make,
        (DATA, test),
        ["fp32", "bf16"],
        epochs=1,
        learning=Learning(clip_norm=0.5),
        recording=Recording(log=tmp_path / "log"),
    )
    assert {result.facts["clip_norm"] for result in table.results.values()} == {0.5}
    assert len((tmp_path / "log").read_text().splitlines()) == 2 * (2 + 1)  # steps, and the test after the epoch


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        (
            {"clip_norm": 1.0, "learning": Learning(clip_norm=2.0)},
            TypeError,
            r"clip_norm is given twice, as clip_norm=1.0 and by learning=Learning\(clip_norm=2.0\); leave one out",
        ),
        ({"log": "a", "recording": Recording(log="b")}, TypeError, "log is given twice"),
        (
            {"learning": {"clip_norm": 1.0}},
            TypeError,
            r"learning is a training.Learning, such as training.Learning\(clip",
        ),
        ({"execution": Recording()}, TypeError, r"execution is a training.Execution, such as .*, not Recording\("),
        ({"clip_nrom": 1.0}, TypeError, "fit: unknown option clip_nrom; did you mean clip_norm?"),
        ({"checkpoints": "run"}, TypeError, "fit: unknown option checkpoints; did you mean checkpoint?"),
        ({"pipelines": 1}, TypeError, "fit: unknown option pipelines; did you mean pipeline?"),
        ({"batchsize": 1}, TypeError, "fit: unknown option batchsize; did you mean batch_size?"),
    ],
)
def test_what_is_unknown_or_given_both_ways_is_refused_in_a_sentence(options, error, match):
    with pytest.raises(error, match=match):
        fit(zoo.perceptron(), DATA, **options)
    with pytest.raises(error, match=match.replace("fit:", "compare:")):
        compare(zoo.perceptron, (DATA, zoo.tiny(16)), ["fp32"], **options)


@pytest.mark.parametrize(
    ("kind", "name", "wrong"),
    [
        (Learning, "accumulate", [0, 1.5, "x", True]),
        (Learning, "clip_norm", [0, -1.0, "x", math.nan, True]),
        (Learning, "penalty", [3, "x"]),
        (Learning, "ema", [0, 1, "x", math.nan]),
        (Learning, "scaler", [3, "x"]),
        (Learning, "fallback", [3, None]),
        (Learning, "head", ["svm", 3]),
        (Execution, "pipeline", ["2f2b", 3]),
        (Execution, "segments", [0, 1.5, "x"]),
        (Execution, "helpers", [-1, 1.5, True]),
        (Execution, "threads", [0, "x"]),
        (Execution, "scheduler", ["best"]),
        (Execution, "channels_last", ["no", None]),
        (Execution, "compile", [3, None]),
        (Execution, "deterministic", ["no"]),
        (Execution, "allow_slow", ["no"]),
        (Recording, "checkpoint", [3, b"x"]),
        (Recording, "checkpoint_every", [0, "x"]),
        (Recording, "resume", ["no", None]),
        (Recording, "log", [3]),
        (Recording, "tensorboard", [3]),
    ],
)
def test_a_wrong_value_is_refused_where_the_group_is_made_by_the_name_of_the_setting(kind, name, wrong):
    for value in wrong:
        with pytest.raises((ValueError, TypeError), match=name if name != "scheduler" else "best"):
            kind(**{name: value})


def test_groups_are_values():
    assert Learning(clip_norm=1.0) == Learning(clip_norm=1.0) != Learning()
    with pytest.raises(dataclasses.FrozenInstanceError):
        Learning().clip_norm = 2.0
    learning, execution, recording, rest = grouped({"ema": 0.9, "threads": 2, "epochs": 3, "learning": Learning()})
    assert (learning, execution, recording, rest) == (
        Learning(ema=0.9),
        Execution(threads=2),
        Recording(),
        {"epochs": 3},
    )
    assert flat({"execution": Execution(), "lr": 0.1}) == {"lr": 0.1}
    assert training.Learning is Learning
