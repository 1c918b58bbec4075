"""The Cholesky benchmark compares what it says it compares."""

import json

import pytest
from click.testing import CliRunner

from tilewright.benchmarks.cholesky import command, measure


@pytest.fixture(scope="module")
def records():
    return measure(96, repeat=1, tile_size=32)


def test_every_rival_and_the_ceiling_are_measured(records):
    assert [r["contender"] for r in records] == [
        "tilewright",
        "tilewright in place",
        "scipy",
        "numpy",
        "torch",
        "dpotrf torch",
        "dpotrf openblas",
        "dgemm torch",
        "dgemm openblas",
    ]


def test_rates_are_flops_over_the_median(records):
    for r in records:
        flops = 2 * 512**3 if r["contender"].startswith("dgemm") else 96**3 / 3
        assert r["gflops"] == pytest.approx(flops / r["median"] / 1e9)


def test_in_place_routines_are_compared_with_ours_in_place(records):
    by_name = {r["contender"]: r for r in records}
    ours, in_place = by_name["tilewright"]["median"], by_name["tilewright in place"]["median"]
    assert by_name["scipy"]["ours_over_this"] == pytest.approx(by_name["scipy"]["median"] / ours)
    lapack = by_name["dpotrf openblas"]
    assert lapack["ours_over_this"] == pytest.approx(lapack["median"] / in_place)


def test_the_factor_is_checked(records):
    assert 0 < records[0]["ratio"] < 30
    assert all(r["passed"] for r in records)


def test_the_command_prints_a_table_and_writes_records_and_a_plot(tmp_path):
    lines, plot = tmp_path / "c.jsonl", tmp_path / "c.svg"
    arguments = ["--n", "64", "--n", "96", "--repeat", "1", "--output", str(lines), "--plot", str(plot)]
    result = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    assert "n = 96, tiles of 96" in result.stdout
    assert {json.loads(line)["n"] for line in lines.read_text().splitlines()} == {64, 96}
    assert "<svg" in plot.read_text()
