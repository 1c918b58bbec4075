"""The simulator's benchmark: what it counts as noise, as agreement, and what its command writes."""

import json

import pytest
from click.testing import CliRunner

import tilewright as tw
from tilewright.benchmarks.prediction import naps, order_agreement, summary, typical
from tilewright.benchmarks.scaling import study
from tilewright.benchmarks.simulator import command


def record(scheduler, measured, predicted, case="order"):
    middle = sorted(measured)[len(measured) // 2]
    return {
        "case": case,
        "n": 96,
        "nb": 24,
        "workers": 2,
        "scheduler": scheduler,
        "measured": measured,
        "median": middle,
        "fastest": min(measured),
        "slowest": max(measured),
        "predicted": predicted,
        "ratio": predicted / middle,
    }


def test_policies_differ_only_if_one_is_faster_in_every_round():
    a, b = record("a", [1.0, 1.2, 2.0] * 2, 1.0), record("b", [1.1, 1.3, 1.9] * 2, 1.5)
    assert order_agreement([a, b]) == (0, 0, [])
    b["measured"] = [1.1, 1.3, 2.1] * 2
    assert order_agreement([a, b]) == (1, 1, [])
    a["predicted"] = 1.6
    agreed, total, wrong = order_agreement([a, b])
    assert (agreed, total) == (0, 1)
    assert wrong == ["n=96, nb=24, 2 workers: a and b, measured 0.923, predicted 1.067"]


def test_with_few_rounds_policies_differ_only_if_their_times_do_not_overlap():
    a, b = record("a", [1.0, 1.2, 2.0], 1.0), record("b", [1.1, 1.3, 2.1], 1.5)
    assert order_agreement([a, b])[1] == 0
    b["measured"] = [2.1, 2.2, 2.3]
    assert order_agreement([a, b])[:2] == (1, 1)


def test_policies_of_different_cases_are_not_compared():
    assert order_agreement([record("a", [1.0], 2.0), record("a", [2.0], 1.0, "validate")])[1] == 0


def test_the_summary_has_the_median_error_and_the_worst():
    text = summary([record("a", [1.0], 1.1), record("b", [1.0], 0.8), record("c", [1.0], 1.05)])
    assert text.startswith("order: median error 10.0%, worst 20.0% in 3 cases; repeats spread over 0.0%")


def test_the_typical_machine_has_the_median_of_each_duration():
    machines = [tw.Machine(durations={"gemm": {16: t}}, overhead=o) for t, o in ((1.0, 3.0), (9.0, 1.0), (2.0, 2.0))]
    assert typical(machines).durations == {"gemm": {16: 2.0}}
    assert typical(machines).overhead == 2.0


def test_sleeping_tasks_take_as_long_as_predicted_whatever_the_policy():
    records = list(naps(3, 4, 1))
    assert {r["scheduler"] for r in records} == set(tw.SCHEDULERS)
    assert all(r["median"] >= 0.002 * (9 * 3 - 10) and r["predicted"] >= 0.002 * (9 * 3 - 10) for r in records)


def test_the_scaling_study_accounts_for_all_of_the_workers_time():
    for r in study([4]):
        assert r["makespan"] >= r["lower"]
        assert r["messages"] == 0 or r["ranks"] > 1
        known = r["efficiency"] + sum(r[c] for c in ("no_task", "data", "communication", "overhead", "tail"))
        assert known == pytest.approx(1, abs=0.02)  # the rest is the overhead of tasks


def test_the_command_writes_lines_figures_and_a_page(tmp_path, monkeypatch):
    monkeypatch.setattr("tilewright.benchmarks.prediction._NAP", 2e-4)
    result = CliRunner().invoke(
        command,
        [
            "--output",
            str(tmp_path),
            "--parts",
            "prediction,scaling",
            "--sizes",
            "96",
            "--tile-sizes",
            "32",
            "--repeat",
            "1",
            "--scaling-tiles",
            "3",
        ],
        catch_exceptions=False,
    )
    assert result.exit_code == 0
    records = [json.loads(line) for line in (tmp_path / "simulator.jsonl").read_text().splitlines()]
    checked = [r for r in records if r["case"] in ("validate", "order")]
    assert [(r["n"], r["nb"]) for r in checked[::4]] == [(96, 32), (96, 24), (96, 32)]
    assert all(r["ratio"] == pytest.approx(r["kernels"] * r["schedule"]) for r in checked)
    for name in ("prediction.png", "scaling.png", "prediction.html"):
        assert (tmp_path / name).stat().st_size > 1000
    assert "validate: median error" in result.output


def test_an_unknown_part_is_refused(tmp_path):
    result = CliRunner().invoke(command, ["--output", str(tmp_path), "--parts", "sped"])
    assert result.exit_code == 2
    assert "not sped" in result.output
