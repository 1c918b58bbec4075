"""The patterns of the overhead benchmark are what they are called, and its command reports them."""

import json

import networkx
import pytest
from click.testing import CliRunner

import tilewright as tw
from tilewright.benchmarks.overhead import PATTERNS, chain, command, independent, stencil_1d

EMPTY = tw.Op("empty", lambda *tiles: None)


def test_independent_tasks_have_no_edges():
    assert independent(EMPTY, 50).edges == 0


def test_a_chain_is_as_long_as_its_tasks():
    assert len(chain(EMPTY, 50).critical_path()) == 50


def test_a_stencil_waits_for_itself_and_both_neighbours_one_step_before():
    graph = stencil_1d(EMPTY, 24, width=8)
    assert [len(task.predecessors) for task in graph] == [0] * 8 + [2, 3, 3, 3, 3, 3, 3, 2] * 2
    assert graph.tasks[11].predecessors == (2, 3, 4)
    assert len(list(networkx.topological_generations(graph.to_networkx()))) == 3


@pytest.mark.parametrize("pattern", PATTERNS)
def test_patterns_have_the_number_of_tasks_asked_for(pattern):
    assert len(PATTERNS[pattern](EMPTY, 64)) == 64


def test_the_command_reports_each_pattern_for_each_executor_and_efficiencies(monkeypatch, tmp_path):
    monkeypatch.setattr("tilewright.benchmarks.overhead.METG_SIZES", (32, 8))
    output = tmp_path / "o.jsonl"
    arguments = ["--tasks", "64", "--repeat", "1", "--json", "--output", str(output)]
    result = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    printed = [json.loads(line) for line in result.stdout.splitlines()]
    empty = [(r["pattern"], r["contender"]) for r in printed if r["benchmark"] == "overhead"]
    executors = ["tilewright critical-path", "concurrent.futures", "dask threaded"]
    assert empty == [(pattern, executor) for pattern in PATTERNS for executor in executors]
    assert all(r["us_per_task"] > 0 for r in printed if r["benchmark"] == "overhead")
    assert next(r["size"] for r in printed if r["benchmark"] == "metg") == 32
    written = [json.loads(line) for line in output.read_text().splitlines()]
    assert [{k: v for k, v in r.items() if k != "environment"} for r in written] == printed
    assert written[0]["environment"]["packages"]["numpy"]
