"""The LU benchmark compares what it says it compares."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from tilewright.benchmarks import lu
from tilewright.benchmarks.lu import command, measure
from tilewright.benchmarks.timing import Times


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


@pytest.mark.needs("dask")
def test_dask_is_measured_with_its_fastest_chunks(monkeypatch):
    import dask.array as da

    taken, tried = {256: 0.3, 512: 0.1, 1024: 0.2}, []
    factor = da.linalg.lu
    monkeypatch.setattr(da.linalg, "lu", lambda a: tried.append(a.chunksize[0]) or factor(a))
    monkeypatch.setattr(
        lu, "alternate", lambda ones, *_, **__: {one.name: Times([taken[int(one.name)]]) for one in ones}
    )
    assert lu._dask(np.ones((2048, 2048), order="F")).name == "dask threads, chunks of 512"
    assert sorted(tried) == [256, 512, 1024]


def test_the_command_prints_one_json_object_a_record():
    result = CliRunner().invoke(command, ["--n", "64", "--repeat", "1", "--json"], catch_exceptions=False)
    assert {json.loads(line)["n"] for line in result.stdout.splitlines()} == {64}
