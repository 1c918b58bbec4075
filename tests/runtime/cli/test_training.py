"""``tilewright train``."""

import json

import pytest
from click.testing import CliRunner

from tilewright.cli import main

pytestmark = pytest.mark.usefixtures("only_own_garbage")

QUICK = ("train", "--epochs", "2", "--batch-size", "128", "--no-progress")


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
    result = call("--compare", "fp32,fp16,bf16", "--plot", str(files["out.png"]), "--report", str(files["out.html"]),
                  "--trace", str(files["out.json"]))  # fmt: skip
    assert result.exit_code == 0, result.output
    for line in ("RESULTS SUMMARY", "Peak memory (MB)", "Final test accuracy (%)", "Speed-up vs FP32"):
        assert line in result.stdout
    assert files["out.png"].read_bytes().startswith(b"\x89PNG")
    assert "forward_loss" in files["out.html"].read_text()
    assert json.loads(files["out.json"].read_text())["traceEvents"]


def test_compared_runs_are_in_the_json():
    numbers = json.loads(call("--compare", "fp32,bf16", "--json").stdout)
    assert set(numbers["compared"]) == {"fp32", "bf16"} and numbers["baseline"] == "fp32"
    assert numbers["precision"] == "bf16" and numbers["speedup"] > 0


def test_a_resnet_gets_digits_in_colour():
    result = call("--model", "simple-resnet", "--residual", "--width", "2", "--epochs", "1", "--json",
                  "--data", "synthetic:64")  # fmt: skip
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["steps"] == 1


@pytest.mark.parametrize(("arguments", "message"), [
    (("--data", "imagenet"), "unknown data 'imagenet'"),
    (("--data", "cifar10:/nowhere"), "has no CIFAR-10"),
    (("--precision", "tf32"), "a CPU has none: use fp32 or bf16"),
    (("--model", "simple-resnet", "--precision", "fp16"), "pathologically slow"),
    (("--residual",), "--residual is for --model simple-resnet"),
    (("--compare", "fp32", "--checkpoint", "x"), "a checkpoint holds one"),
    (("--compare", "fp32,fp32"), "precisions must be different names"),
    (("--compare", "fp32,fp8"), "unknown precision 'fp8'"),
    (("--plot", "out.gif"), "must end in .png"),
])  # fmt: skip
def test_bad_input_is_one_sentence_and_exit_code_2(arguments, message):
    result = call(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr and "Traceback" not in result.output
