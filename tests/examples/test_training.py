"""The training demo."""

import importlib.util
import json
from pathlib import Path

from click.testing import CliRunner

DEMO = Path(__file__).parents[2] / "examples" / "training.py"


def test_the_demo_compares_falls_back_and_writes_pictures(tmp_path):
    spec = importlib.util.spec_from_file_location("training_demo", DEMO)
    demo = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(demo)
    result = CliRunner().invoke(demo.main, ["--epochs", "1", "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert "RESULTS SUMMARY" in result.stdout and "fp16 -> bf16" in result.stdout
    assert "the same bits" in result.stdout and "0F0 0F1 0F2 0B0" in result.stdout
    assert result.stdout.count("closed-form head") == 2
    assert (tmp_path / "training-precisions.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((tmp_path / "training-trace.json").read_text())["traceEvents"]
