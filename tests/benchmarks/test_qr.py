"""The QR benchmark compares what it says it compares."""

import json

import pytest
from click.testing import CliRunner

from tilewright.benchmarks.qr import command, measure, measure_tall


def test_every_rival_and_the_ceiling_are_measured_and_rates_are_flops_over_the_median():
    records = measure(96, repeat=1, tile_size=32)
    by_name = {r["contender"]: r for r in records}
    assert {"tilewright", "tilewright qr_factor", "scipy", "dgemm openblas"} <= set(by_name)
    for name, r in by_name.items():
        flops = 2 * 512**3 if name.startswith("dgemm") else 4 / 3 * 96**3
        assert r["gflops"] == pytest.approx(flops / r["median"] / 1e9)
    assert by_name["scipy"]["ours_over_this"] == pytest.approx(
        by_name["scipy"]["median"] / by_name["tilewright"]["median"]
    )
    tall = {r["contender"]: r for r in measure_tall(400, 8, repeat=1)}
    assert {"tilewright", "numpy"} <= set(tall) and tall["tilewright"]["ours_over_this"] == 1


def test_the_command_prints_one_json_object_a_record():
    result = CliRunner().invoke(command, ["--n", "64", "--repeat", "1", "--json"], catch_exceptions=False)
    assert {json.loads(line)["n"] for line in result.stdout.splitlines()} == {64}
