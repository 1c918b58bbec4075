"""The benchmark of products, inverses and systems compares what it says."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from tilewright.benchmarks.algebra import command, measure, routines


def test_ours_and_theirs_are_the_same_matrices():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((24, 24)) + 6 * np.eye(24), rng.standard_normal((24, 5))
    for name, (ours, theirs, flops) in routines(a, b, tile_size=8).items():
        assert np.allclose(np.asarray(ours()), theirs()) and flops > 0, name


def test_rates_are_flops_over_the_median():
    records = {r["routine"]: r for r in measure(48, repeat=1)}
    assert records["inv"]["gflops"] == pytest.approx(2 * 48**3 / records["inv"]["median"] / 1e9)
    assert records["inv"]["ours_over_theirs"] == pytest.approx(records["inv"]["theirs"] / records["inv"]["median"])


def test_the_command_prints_one_json_object_a_record():
    result = CliRunner().invoke(command, ["--n", "32", "--repeat", "1", "--json"], catch_exceptions=False)
    assert {json.loads(line)["n"] for line in result.stdout.splitlines()} == {32}
