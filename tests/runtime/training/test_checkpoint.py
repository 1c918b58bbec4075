"""Checkpoints: whole or not at all, and a resumed training has the bits of one that was never interrupted."""

import copy
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import training_models as zoo

from tilewright.training import Fallback, LossScaler, checkpoint, fit
from tilewright.training.control import Control
from tilewright.training.state import Log, State

DATA, TEST = zoo.tiny(), zoo.tiny(16)


def twice(make, tmp_path, *, stop, epochs, **options):
    """An uninterrupted training, and one that stops after ``stop`` epochs and goes on in a fresh model."""
    torch.manual_seed(0)
    start = make()
    straight, first, second = copy.deepcopy(start), copy.deepcopy(start), copy.deepcopy(start)
    whole = fit(straight, DATA, TEST, epochs=epochs, batch_size=32, **options)
    fit(first, DATA, TEST, epochs=stop, batch_size=32, checkpoint=tmp_path, **options)
    resumed = fit(second, DATA, TEST, epochs=epochs, batch_size=32, checkpoint=tmp_path, **options)
    return whole, resumed, straight, second


@pytest.mark.parametrize(
    "options",
    [
        {"precision": "fp32"},
        {"precision": "bf16", "accumulate": 2},
        {"optimizer": "adamw"},
        {"workers": 2, "clip_norm": 0.5},
    ],
)
def test_a_resumed_training_has_the_bits_of_an_uninterrupted_one(tmp_path, options):
    whole, resumed, straight, second = twice(zoo.small_net, tmp_path, stop=2, epochs=4, **options)
    assert resumed.losses == whole.losses and resumed.resumed == 6
    assert [row["test_accuracy"] for row in resumed.log.evaluations] == [
        row["test_accuracy"] for row in whole.log.evaluations
    ]
    for left, right in zip(straight.state_dict().values(), second.state_dict().values(), strict=True):
        assert torch.equal(left, right)


def test_dropout_goes_on_where_it_was(tmp_path):
    whole, resumed, *_ = twice(zoo.with_dropout, tmp_path, stop=1, epochs=3)
    assert resumed.losses == whole.losses


def test_the_loss_scale_and_its_counter_are_restored(tmp_path):
    """Failure 11."""
    whole, resumed, straight, second = twice(
        zoo.perceptron,
        tmp_path,
        stop=2,
        epochs=4,
        precision="fp16",
        scaler=LossScaler(scale=2.0**24, growth_interval=4, hysteresis=2),
    )
    assert [row["scale"] for row in resumed.steps] == [row["scale"] for row in whole.steps]
    assert whole.skipped_steps > 0 and len({row["scale"] for row in whole.steps[6:]}) > 1
    assert resumed.losses == whole.losses
    for left, right in zip(straight.parameters(), second.parameters(), strict=True):
        assert torch.equal(left, right)


def test_a_change_of_precision_is_kept(tmp_path):
    whole, resumed, *_ = twice(
        zoo.overflowing, tmp_path, stop=2, epochs=4, precision="adaptive", fallback=Fallback(("fp16", "bf16", "fp32"))
    )
    assert resumed.events == whole.events and resumed.fallbacks == 1
    assert [row["precision"] for row in resumed.steps] == [row["precision"] for row in whole.steps]


def test_a_training_may_go_on_with_other_workers(tmp_path):
    torch.manual_seed(0)
    start = zoo.perceptron()
    one, other = copy.deepcopy(start), copy.deepcopy(start)
    whole = fit(one, DATA, epochs=2, accumulate=2)
    fit(copy.deepcopy(start), DATA, epochs=1, accumulate=2, checkpoint=tmp_path)
    resumed = fit(other, DATA, epochs=2, workers=2, segments=1, checkpoint=tmp_path)
    assert resumed.losses == whole.losses


def test_nothing_is_left_to_do_at_the_last_step(tmp_path):
    fit(zoo.perceptron(), DATA, epochs=1, checkpoint=tmp_path)
    model = zoo.perceptron()
    again = fit(model, DATA, epochs=1, checkpoint=tmp_path)
    assert again.runs == [] and len(again.steps) == 2 and again.summary()["step_seconds_p50"] is None
    assert "nothing was left to do" in again.table() and "nan" not in again.table()
    assert " before " in again.table() and "0.00 s" not in again.table()
    with pytest.raises(RuntimeError, match="nothing ran"):
        _ = again.run


def test_a_checkpoint_of_another_training_is_refused_by_what_differs(tmp_path):
    fit(zoo.perceptron(), DATA, epochs=1, checkpoint=tmp_path)
    with pytest.raises(ValueError, match=r"batch_size 64, not 32; seed 0, not 1\. Pass resume=False"):
        fit(zoo.perceptron(), DATA, epochs=1, batch_size=32, seed=1, checkpoint=tmp_path)
    with pytest.raises(ValueError, match="parameters 612"):
        fit(zoo.perceptron(hidden=8), DATA, epochs=1, checkpoint=tmp_path)
    assert len(fit(zoo.perceptron(), DATA, epochs=1, batch_size=32, checkpoint=tmp_path, resume=False).steps) == 3


def some_state():
    return State.of(zoo.perceptron(), Control("fp32", LossScaler(enabled=False)))


@pytest.mark.parametrize("damage", ["truncate", "garble", "malice"])
def test_a_damaged_checkpoint_is_an_error_and_executes_nothing(tmp_path, damage):
    path = checkpoint.write(tmp_path, some_state(), Log(), {})
    content = path.read_bytes()
    if damage == "truncate":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "garble":
        path.write_bytes(b"no checkpoint")
    else:
        torch.save({"version": 1, "step": Trap(str(tmp_path / "executed"))}, path)
    with pytest.raises(ValueError, match=r"checkpoint\.pt is damaged, or not a checkpoint"):
        checkpoint.read(tmp_path)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_what_is_no_file_in_place_of_a_checkpoint_is_refused_before_work(tmp_path, make):
    make(tmp_path / checkpoint.NAME)
    for resume in (True, False):
        with pytest.raises(ValueError, match=r"cannot write checkpoints to .*checkpoint\.pt is there and no file"):
            fit(zoo.perceptron(), DATA, epochs=1, checkpoint=tmp_path, resume=resume)
    with pytest.raises(OSError, match=r"cannot read .*checkpoint\.pt: "):
        checkpoint.read(tmp_path)


class Trap:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_a_write_that_fails_leaves_the_old_checkpoint_and_no_other_file(tmp_path, monkeypatch):
    checkpoint.write(tmp_path, some_state(), Log(), {"which": "old"})

    def full(payload, file):
        file.write(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="no space left"):
        checkpoint.write(tmp_path, some_state(), Log(), {"which": "new"})
    assert [path.name for path in tmp_path.iterdir()] == [checkpoint.NAME]
    assert checkpoint.read(tmp_path)[2] == {"which": "old"}


WRITES_SLOWLY = """
import sys, time, torch
sys.path.insert(0, {tests!r})
import training_models as zoo
from tilewright.training import fit
save = torch.save
def slow(payload, file):
    if payload["step"] >= 6:
        file.write(b"half of a checkpoint"); file.flush()
        open({flag!r}, "w").close()
        time.sleep(60)
    save(payload, file)
torch.save = slow
torch.manual_seed(0)
fit(zoo.perceptron(), zoo.tiny(), epochs=4, batch_size=32, threads=1, checkpoint={folder!r})
"""


def test_a_process_killed_while_it_writes_loses_nothing(tmp_path):
    flag, folder = tmp_path / "writing", tmp_path / "run"
    tests = str(Path(zoo.__file__).parent)
    code = WRITES_SLOWLY.format(tests=tests, flag=str(flag), folder=str(folder))
    child = subprocess.Popen([sys.executable, "-c", code])
    try:
        deadline = time.monotonic() + 60
        while not flag.exists() and child.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        assert flag.exists()
        child.send_signal(signal.SIGKILL)
    finally:
        child.kill()
        child.wait()
    assert len(list(folder.iterdir())) == 2  # the checkpoint of epoch 1, and half of another
    state, log, _ = checkpoint.read(folder)
    assert state.step == 3 and len(log.steps) == 3
    assert [path.name for path in folder.iterdir()] == [checkpoint.NAME]
    torch.manual_seed(0)
    straight = zoo.perceptron()
    whole = fit(straight, DATA, epochs=4, batch_size=32)
    resumed = fit(zoo.perceptron(), DATA, epochs=4, batch_size=32, checkpoint=folder)
    assert resumed.resumed == 3 and resumed.losses == whole.losses


def test_a_mutated_checkpoint_is_refused_in_one_sentence_or_a_checkpoint(tmp_path):
    path = checkpoint.write(tmp_path, some_state(), Log(), {})
    whole, rng, refused = path.read_bytes(), random.Random(1), 0
    for _ in range(150):
        content = bytearray(whole)
        for _ in range(rng.choice([1, 5, 50])):
            content[rng.randrange(len(content))] = rng.randrange(256)
        path.write_bytes(content[: rng.choice([len(content), len(content), rng.randrange(len(content))])])
        try:
            state, _, _ = checkpoint.read(tmp_path)
            assert isinstance(state.tensors, dict)
        except ValueError as error:
            refused += 1
            assert str(error).startswith(str(path)) and "\n" not in str(error)
    assert refused > 50


@pytest.mark.parametrize(
    "change",
    [
        {"step": -1},
        {"step": "x"},
        {"tensors": [1]},
        {"tensors": {"w": 1}},
        {"tensors": {1: torch.ones(1)}},
        {"control": None},
        {"random": 3},
        {"log": {"steps": 1}},
        {"facts": []},
        {"optimizer": {"w": 2}},
        {"average": None},
        {"log": {"steps": [], "evaluations": [], "events": [[1]]}},
    ],
)
def test_a_checkpoint_of_other_things_is_refused(change, tmp_path):
    path = checkpoint.write(tmp_path, some_state(), Log(), {})
    torch.save(torch.load(path, weights_only=True) | change, path)
    with pytest.raises(ValueError, match=r"checkpoint\.pt is damaged, or not a checkpoint"):
        checkpoint.read(tmp_path)


def test_files_of_the_user_beside_a_checkpoint_stay(tmp_path):
    names = [
        ".checkpoint.pt.backup",
        ".checkpoint.pt.99999999999999999999",
        ".checkpoint.pt.\u00b2",
        ".checkpoint.pt.1",
    ]
    for name in names:
        (tmp_path / name).touch()
    assert checkpoint.read(tmp_path) is None
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(names)
