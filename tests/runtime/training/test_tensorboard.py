"""TensorBoard."""

import sys

import pytest
import training_models as zoo

from tilewright.training import GradientPenalty, LossScaler, fit, tensorboard


def scalars(folder):
    """What TensorBoard reads: by tag, (step, value)."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_tensorboard_reads_every_step_and_every_evaluation(tmp_path):
    result = fit(zoo.perceptron(), zoo.tiny(), zoo.tiny(8), epochs=2, batch_size=32, precision="fp16",
                 scaler=LossScaler(scale=2.0**20), penalty=GradientPenalty(0.1), tensorboard=tmp_path)  # fmt: skip
    found = scalars(tmp_path)
    assert found["loss"] == [(row["step"], pytest.approx(row["loss"])) for row in result.steps]
    assert found["loss scale"] == [(row["step"], row["scale"]) for row in result.steps]
    assert sum(value for _, value in found["skipped"]) == result.skipped_steps > 0
    assert [step for step, _ in found["test accuracy"]] == [2, 5]
    assert found["test accuracy"][-1][1] == pytest.approx(result.test_accuracy)
    assert found["roundoff"][0] == (0, 2.0**-11) and len(found["loss/penalty"]) == 6


def test_a_resumed_training_adds_a_file_to_the_folder(tmp_path):
    for epochs in (1, 2):
        fit(zoo.perceptron(), zoo.tiny(), epochs=epochs, batch_size=32, checkpoint=tmp_path / "run",
            tensorboard=tmp_path / "board")  # fmt: skip
    assert len(list((tmp_path / "board").iterdir())) == 2
    assert [step for step, _ in scalars(tmp_path / "board")["loss"]] == list(range(6))


def test_without_tensorboard_one_sentence_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard.compat.proto.event_pb2", None)
    with pytest.raises(ImportError, match=r"pip install 'tilewright\[tensorboard\]'"):
        tensorboard.open_file(tmp_path)
    assert not list(tmp_path.iterdir())
