"""The Dask benchmark measures both modes beside dask.array and threads, and says what was submitted and moved."""

import json

from click.testing import CliRunner

from tilewright.benchmarks import dask as bench


def test_command_prints_one_record_for_each_contender(tmp_path):
    arguments = ["--n", "1200", "--repeat", "1", "--chunk", "600", "--chunk", "300", "--no-warm-up", "--json"]
    result = CliRunner().invoke(bench.command, [*arguments, "--output", str(tmp_path / "dask.jsonl")])
    assert result.exit_code == 0, result.output
    printed = [json.loads(line) for line in result.output.splitlines()]
    assert [(r["side"], r["contender"].split(" of ")[0]) for r in printed] == [
        ("workers", "dask.array, chunks"), ("workers", "ours, resident"), ("workers", "ours, tasks"),
        ("workers", "threads"), ("numpy", "dask.array, chunks"), ("numpy", "ours, resident"), ("numpy", "threads"),
    ]  # fmt: skip
    rival, resident, tasks, threads, other, numpy, _ = printed
    assert set(rival["searched"]) == set(other["searched"]) == {"300", "600"} and rival["faster"] == 1
    assert threads["of_threads"] == 1 and all(r["gflops"] > 0 for r in (resident, tasks, threads, numpy))
    assert numpy["messages"] > 0 and 0 < numpy["scheduler"] < 1.5 and numpy["in_and_out"] > 8 * 1200 * 1200 / 1e6
    assert tasks["submitted"] >= 2 and resident["submitted"] == 4 and resident["in_and_out"] == 0
    assert len((tmp_path / "dask.jsonl").read_text().splitlines()) == 7
