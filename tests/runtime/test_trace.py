"""Traces: statistics, the check of a schedule, and the trace-event file."""

import json

import numpy as np
import pytest

import tilewright as tw
from tilewright import TaskRecord, Trace, cholesky_graph

GRAPH = cholesky_graph(nt=2)  # potrf(0) -> trsm(1,0) -> syrk(1,0) -> potrf(1)
GOOD = [(0, 0, 0.0, 1.0), (1, 1, 1.0, 3.0), (2, 0, 3.5, 4.0), (3, 0, 4.0, 6.0)]


def trace(rows=GOOD, workers=2):
    return Trace(GRAPH, workers, [TaskRecord(*row) for row in rows])


def test_statistics():
    t = trace(reversed(GOOD))
    assert [record.task for record in t] == [0, 1, 2, 3]
    assert (len(t), t.makespan, t.durations) == (4, 6.0, [1.0, 2.0, 0.5, 2.0])
    assert np.array_equal(t.busy, [3.5, 2.0])
    assert list(t.by_op().items()) == [("potrf", (2, 3.0)), ("trsm", (1, 2.0)), ("syrk", (1, 0.5))]
    assert t.records[1].duration == 2.0
    assert repr(t) == "Trace(4 records, makespan 6 s)"


def test_empty_trace():
    t = Trace(GRAPH, 1)
    assert (len(t), t.makespan, t.durations, t.by_op()) == (0, 0.0, [0.0] * 4, {})


def test_valid_schedule_passes_the_check():
    trace().check()


@pytest.mark.parametrize(
    ("rows", "complaint"),
    [
        (GOOD[:3], "some task did not run exactly once"),
        ([*GOOD, GOOD[3]], "some task did not run exactly once"),
        ([*GOOD[:3], (3, 0, 3.9, 6.0)], r"potrf\(1\) starts before syrk\(1,0\) ends"),
        ([*GOOD[:3], (3, 0, 6.0, 4.0)], r"potrf\(1\) ends before it starts"),
    ],
    ids=["missing", "twice", "too early", "backwards"],
)
def test_broken_schedule_fails_the_check(rows, complaint):
    with pytest.raises(AssertionError, match=complaint):
        trace(rows).check()


def test_two_tasks_at_once_on_one_worker_fail_the_check():
    g = tw.TaskGraph()
    for name in "xy":
        g.insert(lambda buffer: None, tw.RW(g.handle(name)))
    records = [TaskRecord(0, 0, 0.0, 2.0), TaskRecord(1, 0, 1.0, 3.0)]
    with pytest.raises(AssertionError, match=r"overlaps another task on worker \(0, 0\)"):
        Trace(g, 1, records).check()
    Trace(g, 1, [records[0], records[1]._replace(rank=1)]).check()


def test_perfetto_file_has_a_slice_per_task_and_an_arrow_per_wait(tmp_path):
    path = tmp_path / "trace.json"
    document = trace().to_perfetto(path)
    assert json.loads(path.read_text()) == document
    events = document["traceEvents"]
    slices = [event for event in events if event["ph"] == "X"]
    assert [(e["name"], e["tid"], e["ts"], e["dur"]) for e in slices] == [
        ("potrf(0)", 0, 0.0, 1e6), ("trsm(1,0)", 1, 1e6, 2e6), ("syrk(1,0)", 0, 3.5e6, 0.5e6), ("potrf(1)", 0, 4e6, 2e6),
    ]  # fmt: skip
    assert slices[1]["args"] == {"task": 1, "reads": "A[0,0] A[1,0]", "writes": "A[1,0]"}
    assert len([e for e in events if e["ph"] == "s"]) == len([e for e in events if e["ph"] == "f"]) == 3
    names = [e["args"]["name"] for e in events if e["ph"] == "M"]
    assert names == ["rank 0", "worker 0", "worker 1"]
