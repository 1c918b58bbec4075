"""The Dask benchmark measures both modes beside dask.array and threads, and says what was submitted and moved."""

import json

from click.testing import CliRunner

from tilewright.benchmarks import dask as bench


def test_command_prints_one_record_for_each_contender(tmp_path):
    arguments = ["--n", "700", "--repeat", "1", "--chunk", "350", "--chunk", "175", "--json"]
    result = CliRunner().invoke(bench.command, [*arguments, "--output", str(tmp_path / "dask.jsonl")])
    assert result.exit_code == 0, result.output
    printed = [json.loads(line) for line in result.output.splitlines()]
    rival, resident, tasks, threads, numpy = printed
    assert rival["contender"] in ("dask.array, chunks of 350", "dask.array, chunks of 175")
    assert set(rival["searched"]) == {"175", "350"} and rival["faster"] == 1
    assert [r["contender"] for r in printed[1:]] == [
        "ours, dask.array, resident", "ours, dask.array, tasks", "threads, 2 workers", "ours, NumPy array, resident",
    ]  # fmt: skip
    assert threads["of_threads"] == 1 and all(r["gflops"] > 0 for r in printed[1:])
    assert numpy["submitted"] == 4 and numpy["messages"] > 0 and 0 < numpy["scheduler"] < 1.5
    assert tasks["submitted"] >= 2 and resident["submitted"] == 4
    assert len((tmp_path / "dask.jsonl").read_text().splitlines()) == 5
