"""TensorBoard."""

import json
import resource
import sys

import pytest
import torch
import training_models as zoo

from tilewright.training import GradientPenalty, LossScaler, fit, tensorboard


def scalars(folder):
    """What TensorBoard reads: by tag, (step, value)."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_tensorboard_reads_every_step_and_every_evaluation(tmp_path):
    result = fit(
        zoo.perceptron(),
        zoo.tiny(),
        zoo.tiny(8),
        epochs=2,
        batch_size=32,
        precision="fp16",
        scaler=LossScaler(scale=2.0**20),
        penalty=GradientPenalty(0.1),
        tensorboard=tmp_path,
    )
    found = scalars(tmp_path)
    assert found["loss"] == [(row["step"], pytest.approx(row["loss"])) for row in result.steps]
    assert found["loss scale"] == [(row["step"], row["scale"]) for row in result.steps]
    assert sum(value for _, value in found["skipped"]) == result.skipped_steps > 0
    assert [step for step, _ in found["test accuracy"]] == [2, 5]
    assert found["test accuracy"][-1][1] == pytest.approx(result.test_accuracy)
    assert found["roundoff"][0] == (0, 2.0**-11) and len(found["loss/penalty"]) == 6


def test_a_resumed_training_adds_a_file_to_the_folder(tmp_path):
    for epochs in (1, 2):
        fit(
            zoo.perceptron(),
            zoo.tiny(),
            epochs=epochs,
            batch_size=32,
            checkpoint=tmp_path / "run",
            tensorboard=tmp_path / "board",
        )
    assert len(list((tmp_path / "board").iterdir())) == 2
    assert [step for step, _ in scalars(tmp_path / "board")["loss"]] == list(range(6))


def test_without_tensorboard_one_sentence_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard.compat.proto.event_pb2", None)
    with pytest.raises(ImportError, match=r"pip install .*\[tensorboard\]'"):
        tensorboard.open_file(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("where", ["log", "board"])
def test_a_full_disk_ends_no_training_and_one_warning_names_the_file(where, tmp_path):
    options = {"log": tmp_path / "log.jsonl"} if where == "log" else {"tensorboard": tmp_path / "board"}
    torch.manual_seed(0)
    model, expected = zoo.perceptron(), zoo.perceptron()
    expected.load_state_dict(model.state_dict())
    settings = {"epochs": 2, "batch_size": 16, "backend": "serial"}
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1500, before[1]))
    try:
        with pytest.warns(RuntimeWarning, match=r"could not be written to the end \(File too large\)") as said:
            result = fit(model, zoo.tiny(), zoo.tiny(8), **settings, **options)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    fit(expected, zoo.tiny(), zoo.tiny(8), **settings)
    assert all(map(torch.equal, model.parameters(), expected.parameters()))
    assert len(said) == 1
    if where == "log":
        assert str(options["log"]) in str(said[0].message)
        rows = [json.loads(line) for line in options["log"].read_text().splitlines()]  # whole lines, the first ones
        steps = [row["step"] for row in rows if "step" in row]
        assert steps == list(range(len(steps)))
        assert 0 < len(steps) < len(result.steps)
    else:
        [file] = options["tensorboard"].iterdir()
        assert str(file) in str(said[0].message)
        assert 0 < len(scalars(tmp_path / "board")["loss"]) < len(result.steps)
