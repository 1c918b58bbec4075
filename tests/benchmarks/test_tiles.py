"""The benchmark of tile sizes sets all of them beside the one that is chosen."""

import json

import pytest
from click.testing import CliRunner

from tilewright.benchmarks.tiles import candidates, command, measure
from tilewright.linalg.tuning import cholesky_tile_size


@pytest.mark.parametrize(("n", "chosen"), [(1024, 256), (1000, 250), (577, 577), (6144, 512), (100, 100), (2048, 111)])
def test_candidates_cut_n_evenly_and_the_chosen_one_is_among_them(n, chosen):
    found = candidates(n, chosen)
    assert found == sorted(set(found)) and chosen in found
    others = [nb for nb in found if nb != chosen]
    assert all(96 <= nb <= 1536 and (nb == n or nb % 32 == 0) for nb in others)
    if n >= 577:
        assert {2, 3, 4} <= {-(-n // nb) for nb in found} or n > 3072


@pytest.mark.parametrize("in_place", [False, True])
def test_records_say_how_far_the_best_other_size_is_from_ours(in_place):
    records = measure(600, repeat=1, workers=2, in_place=in_place, near=2.5)
    chosen = cholesky_tile_size(600, 2)
    assert [r["tile_size"] for r in records if r["chosen"]] == [chosen]
    by_size = {r["tile_size"]: r["median"] for r in records}
    assert all(chosen / 2.5 <= size <= 2.5 * chosen for size in by_size) and len(by_size) > 1
    best = min(seconds for size, seconds in by_size.items() if size != chosen)
    for r in records:
        assert r["this_over_chosen"] == pytest.approx(r["median"] / by_size[chosen])
        assert r["best_other_over_chosen"] == pytest.approx(best / by_size[chosen])
        assert r["gflops"] == pytest.approx(600**3 / 3 / r["median"] / 1e9)
        assert (r["workers"], r["in_place"], r["n"]) == (2, in_place, 600)


def test_the_command_prints_a_table_and_writes_records(tmp_path):
    lines = tmp_path / "t.jsonl"
    arguments = ["--n", "600", "--repeat", "1", "--near", "1.5", "--workers", "1", "--output", str(lines)]
    result = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    assert "best other over ours" in result.stdout
    records = [json.loads(line) for line in lines.read_text().splitlines()]
    assert sum(r["chosen"] for r in records) == 1 and "caches" in records[0]["environment"]["computer"]
