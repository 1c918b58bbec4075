"""The LU benchmark compares what it says it compares."""

import json

import pytest
from click.testing import CliRunner

from tilewright.benchmarks.lu import command, measure


def test_every_rival_and_the_ceiling_are_measured_and_rates_are_flops_over_the_median():
    records = measure(96, repeat=1, tile_size=32)
    assert [r["contender"] for r in records] == [
        "tilewright",
        "tilewright in place",
        "scipy",
        "scipy in place",
        "torch",
        "dgemm torch",
        "dgemm openblas",
    ]
    by_name = {r["contender"]: r for r in records}
    for name, r in by_name.items():
        flops = 2 * 512**3 if name.startswith("dgemm") else 2 / 3 * 96**3
        assert r["gflops"] == pytest.approx(flops / r["median"] / 1e9)
    ours, theirs = by_name["tilewright in place"]["median"], by_name["scipy in place"]["median"]
    assert by_name["scipy in place"]["ours_over_this"] == pytest.approx(theirs / ours)
    assert max(r["share"] for name, r in by_name.items() if name.startswith("dgemm")) == 1
    assert records[0]["residual"] < 1e-10


def test_the_command_prints_one_json_object_a_record():
    result = CliRunner().invoke(command, ["--n", "64", "--repeat", "1", "--json"], catch_exceptions=False)
    assert {json.loads(line)["n"] for line in result.stdout.splitlines()} == {64}
