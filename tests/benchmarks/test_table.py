"""Records as tables."""

from tilewright.benchmarks.table import show


def test_a_contender_that_failed_has_a_dash_in_each_column_and_its_error_once_below(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    records = [
        {"contender": "bf16", "error": "AccuracyError: no [x] solution", "median": None},
        {"contender": "fp64", "median": 0.25, "path": "fp64 1"},
    ]
    show("n = 3", "contender", {"seconds": "median", "path": "path"}, records)
    out = capsys.readouterr().out
    assert out.count("AccuracyError") == 1
    assert out.rstrip().splitlines()[-1] == "bf16: AccuracyError: no [x] solution"
    failed, right = (next(line for line in out.splitlines() if f"│ {name} " in line) for name in ("bf16", "fp64"))
    assert failed.split("│")[2].strip() == failed.split("│")[3].strip() == "-"
    assert right.split("│")[2].strip() == "0.25"
