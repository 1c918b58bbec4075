import json

import pytest
from click.testing import CliRunner

from tilewright.benchmarks.gemm import measure, routes_here
from tilewright.cli import main
from tilewright.kernels import products


def test_records_have_every_route_and_the_share_of_the_factorisation():
    records = measure(300, 1, (64,), 100, 2)
    gemms = [r for r in records if "n" not in r]
    assert len(gemms) == len(list(routes_here()))
    assert all(r["gflops"] > 0 for r in records)
    factors = {r["contender"]: r for r in records if "n" in r}
    assert {"factor bf16", "factor fp32", "mixed_factor bf16"} <= set(factors)
    assert ("factor bf16 widen" in factors) == (products.route("bfloat16").name != "widen")
    factor = factors["factor bf16"]
    assert factor["tile_size"] == 100
    best = max(r["gflops"] for r in gemms if r["precision"] == "bf16")
    assert factor["share"] == pytest.approx(factor["gflops"] / best, rel=20)
    assert all(r["share"] is None for r in gemms)


def test_command_prints_json_lines():
    result = CliRunner().invoke(main, ["bench", "gemm", "--n", "0", "--tile", "32", "--repeat", "1", "--json"])
    assert result.exit_code == 0, result.output
    lines = [json.loads(line) for line in result.output.splitlines()]
    assert {"fp64", "fp32"} < {line["precision"] for line in lines}
    assert {line["benchmark"] for line in lines} == {"gemm"}
