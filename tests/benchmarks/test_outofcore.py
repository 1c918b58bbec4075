"""The benchmark of factorisations out of core compares what it says, and moves what the formula says."""

import json

import pytest
from click.testing import CliRunner

from tilewright.benchmarks.outofcore import command, measure


@pytest.mark.parametrize("routine", ["cholesky", "lu"])
def test_bytes_are_those_of_the_formula_and_memory_is_kept(routine, tmp_path):
    records = measure(routine, 512, 1, part=2.5, tile_size=64, folder=tmp_path)
    assert [r["contender"] for r in records] == [
        "in core",
        "in core, checkpoint",
        "out of core",
        "out of core, checkpoint",
    ]
    assert records[0]["of_in_core"] == 1
    for r in records[2:]:
        assert r["over_formula"] == pytest.approx(1, abs=1e-12) and r["memory"] == 2.5 * 512 * 512 * 8
    assert list(tmp_path.iterdir()) == []


def test_the_command_prints_one_json_object_a_record(tmp_path):
    result = CliRunner().invoke(
        command,
        [
            "--n",
            "256",
            "--tile-size",
            "64",
            "--part",
            "10",
            "--routine",
            "lu",
            "--repeat",
            "1",
            "--json",
            "--folder",
            str(tmp_path),
        ],
        catch_exceptions=False,
    )
    assert {json.loads(line)["routine"] for line in result.stdout.splitlines()} == {"lu"}
