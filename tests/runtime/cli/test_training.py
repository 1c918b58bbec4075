"""``tilewright train``."""

import json

import pytest
from click.testing import CliRunner

from tilewright.cli import main

QUICK = ("train", "--epochs", "2", "--batch-size", "128", "--no-progress")


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    """Small layers wait for each other on cores that are busy."""
    monkeypatch.setattr("tilewright.training.trainer.cores", lambda: 1)


def call(*arguments):
    return CliRunner().invoke(main, [*QUICK, *arguments])


def test_the_last_line_is_json_with_what_scripts_ask_for():
    result = call("--precision", "adaptive", "--json")
    assert result.exit_code == 0, result.output
    numbers = json.loads(result.stdout.splitlines()[-1])
    assert 0.5 < numbers["test_accuracy"] <= 1 and numbers["precision"] == "adaptive"
    assert numbers["skipped_steps"] == 0 and numbers["fallbacks"] == 0 and numbers["peak_memory"] >= 0
    assert numbers["seconds"] > 0 and numbers["source"] == "scikit-learn"


def test_comparing_prints_the_table_of_the_notebook_and_writes_files(tmp_path):
    files = {name: tmp_path / name for name in ("out.png", "out.html", "out.json")}
    result = call(
        "--compare",
        "fp32,fp16,bf16",
        "--plot",
        str(files["out.png"]),
        "--report",
        str(files["out.html"]),
        "--trace",
        str(files["out.json"]),
    )
    assert result.exit_code == 0, result.output
    for line in ("RESULTS SUMMARY", "Peak memory (MB)", "Final test accuracy (%)", "Speed-up vs FP32"):
        assert line in result.stdout
    assert files["out.png"].read_bytes().startswith(b"\x89PNG")
    page = files["out.html"].read_text()
    assert (
        "RESULTS SUMMARY" in page and 'src="data:image/png;base64,' in page and "http:" not in page.split("<script")[0]
    )
    assert [f"<h2>{name}: prio on 1 worker, threads</h2>" in page for name in ("fp32", "fp16", "bf16")] == [True] * 3
    assert json.loads(files["out.json"].read_text())["traceEvents"]


def test_what_else_there_is_to_choose(tmp_path):
    """Every option that changes how a model is trained."""
    common = (
        "--precision",
        "fp16",
        "--retry",
        "5",
        "--loss-scale",
        "1024",
        "--penalty",
        "0.01",
        "--clip-norm",
        "1",
        "--optimizer",
        "adamw",
        "--schedule",
        "cosine",
        "--checkpoint",
        str(tmp_path / "run"),
        "--json",
    )
    result = call(
        *common, "--deterministic", "--tensorboard", str(tmp_path / "board"), "--log", str(tmp_path / "log.jsonl")
    )
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert rows[0]["scale"] == 1024 and rows[0]["parts"]["penalty"] > 0 and rows[0]["norm"] > 0
    numbers = json.loads(result.stdout)
    assert numbers["facts"]["optimizer"] == "adamw, lr 0.001"
    assert numbers["facts"]["penalty"].startswith("GradientPenalty(weight=0.01")
    assert len(list((tmp_path / "board").iterdir())) == 1 and (tmp_path / "run" / "checkpoint.pt").exists()
    again = json.loads(call(*common).stdout)
    assert again["resumed"] == again["steps"] == 24 and again["test_accuracy"] == numbers["test_accuracy"]


def test_compared_runs_have_a_folder_each_for_tensorboard(tmp_path):
    assert call("--compare", "fp32,bf16", "--epochs", "1", "--tensorboard", str(tmp_path)).exit_code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bf16", "fp32"]
    assert all(len(list(path.iterdir())) == 1 for path in tmp_path.iterdir())


def test_compared_runs_are_in_the_json():
    numbers = json.loads(call("--compare", "fp32,bf16", "--json").stdout)
    assert set(numbers["compared"]) == {"fp32", "bf16"} and numbers["baseline"] == "fp32"
    assert numbers["precision"] == "bf16" and numbers["speedup"] > 0


def test_a_resnet_gets_digits_in_colour():
    result = call(
        "--model", "simple-resnet", "--residual", "--width", "2", "--epochs", "1", "--json", "--data", "synthetic:64"
    )
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["steps"] == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--data", "imagenet"), "unknown data 'imagenet'"),
        (("--data", "cifar10:/nowhere"), "has no CIFAR-10"),
        (("--precision", "tf32"), "a CPU has none: use fp32 or bf16"),
        (("--residual",), "--residual is for --model simple-resnet"),
        (("--compare", "fp32", "--checkpoint", "x"), "a checkpoint holds one"),
        (("--retry", "5", "--fallback", "literal"), "retry must be at least 1 and is for mode 'robust'"),
        (("--penalty", "1", "--segments", "2"), "it takes one segment"),
        (("--compile", "--penalty", "1"), "cannot be differentiated again"),
        (("--compare", "fp32,fp32"), "precisions must be different names"),
        (("--compare", "fp32,fp8"), "unknown precision 'fp8'"),
        (("--plot", "out.gif"), "must end in .png"),
        (("--lr", "nan"), "lr must be a finite number"),
        (("--device", "cuda:99"), "CUDA device"),
        (("--device", "gpu"), "unknown device 'gpu'"),
        (("--checkpoint", "/proc/none"), "cannot write checkpoints to /proc/none"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(arguments, message):
    result = call(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr and "Traceback" not in result.output
