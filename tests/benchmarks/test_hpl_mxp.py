"""The HPL-MxP benchmark counts flops and judges answers by its own rules."""

import json

import pytest
from click.testing import CliRunner

from tilewright.benchmarks.hpl_mxp import FP64, THRESHOLD, command, flops, measure


def test_rates_are_those_of_fp64_flops_and_answers_pass_by_the_scaled_residual():
    records = measure(130, repeat=1)
    assert [r["contender"] for r in records] == ["tilewright bf16", "tilewright fp16", "tilewright fp32", FP64]
    for r in records:
        assert r["gflops"] == pytest.approx((2 / 3 * 130**3 + 3 / 2 * 130**2) / r["median"] / 1e9)
        assert r["passed"] and r["hpl"] <= 1 < THRESHOLD
        assert r["fp64_over_this"] == pytest.approx(records[-1]["median"] / r["median"])
    assert [r["path"].split()[0] for r in records] == ["bf16", "fp16", "fp32", "fp64"]
    assert flops(3) == 31.5


def test_the_command_prints_one_json_object_a_record():
    how = ["--n", "64", "--precision", "bf16", "--refine", "classical", "--repeat", "1", "--workers", "1", "--json"]
    result = CliRunner().invoke(command, how, catch_exceptions=False)
    assert [json.loads(line)["contender"] for line in result.stdout.splitlines()] == ["tilewright bf16", FP64]
