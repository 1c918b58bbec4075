"""Traces: statistics, the check of a schedule, and the trace-event file."""

import json

import numpy as np
import pytest

import tilewright as tw
from tilewright import MessageRecord, R, TaskGraph, TaskRecord, Trace, W, cholesky_graph

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


def on_two_ranks():
    """potrf(0) and trsm(1,0) on rank 0, the others on rank 1; A[1,0] travels from 3 to 3.5, idle, and to 4, busy."""
    records = [(0, 0, 0.0, 1.0, 0), (1, 0, 1.0, 3.0, 0), (2, 0, 3.5, 4.0, 1), (3, 0, 4.0, 6.0, 1)]
    tile = GRAPH.tasks[1].writes[0]
    messages = [MessageRecord(0, 1, tile, 800, 3.0, 3.5, 1), MessageRecord(0, 1, tile, 800, 3.0, 4.0, 1)]
    return Trace(GRAPH, 1, [TaskRecord(*row) for row in records], ranks=2, messages=messages)


def test_busy_time_is_by_rank_and_worker():
    assert np.array_equal(on_two_ranks().busy, [3.0, 2.5])


def test_overlap_is_the_share_of_message_time_in_which_the_destination_computes():
    assert on_two_ranks().overlap == pytest.approx(0.5 / 1.5)
    assert trace().overlap == 1.0


def test_messages_are_drawn_as_spans_and_arrows_to_the_task_that_used_them():
    events = [event for event in on_two_ranks().to_perfetto()["traceEvents"] if event.get("cat") == "message"]
    first = [event for event in events if event["id"] == 4]
    assert [(e["ph"], e["pid"], e["ts"]) for e in first] == [
        ("b", 1, 3e6), ("e", 1, 3.5e6), ("s", 0, pytest.approx(3e6)), ("f", 1, 3.5e6)
    ]  # fmt: skip


def test_a_copy_on_another_rank_lets_the_next_writer_go_ahead_of_its_readers():
    g = TaskGraph()
    x, y = g.handle("x"), g.handle("y")
    g.insert(print, R(x), W(y))
    g.insert(print, W(x))
    Trace(g, 1, [TaskRecord(0, 0, 0, 2, rank=1), TaskRecord(1, 0, 1, 2, rank=0)], ranks=2).check()
    with pytest.raises(AssertionError, match=r"print\(x\) starts before print\(y\) ends"):
        Trace(g, 2, [TaskRecord(0, 1, 0, 2), TaskRecord(1, 0, 1, 2)]).check()


def across(*messages, records=((0, 0, 0.0, 1.0, 0), (1, 0, 1.0, 2.0, 0), (2, 0, 3.0, 4.0, 1))):
    """x is written twice on rank 0 and read on rank 1."""
    g = TaskGraph()
    x, y = g.handle("x"), g.handle("y")
    g.insert(print, W(x))
    g.insert(print, W(x))
    g.insert(print, R(x), W(y))
    return Trace(
        g,
        1,
        [TaskRecord(*row) for row in records],
        ranks=2,
        messages=[
            MessageRecord(source, destination, x, 8, start, end, writer)
            for source, destination, start, end, writer in messages
        ],
    )


def test_a_version_goes_from_where_it_was_made_to_where_it_is_read():
    across((0, 1, 2.0, 3.0, 1)).check()


@pytest.mark.parametrize(
    ("messages", "complaint"),
    [
        ((), r"print\(y\) starts before x of print\(x\) is there"),
        (((0, 1, 1.0, 2.0, 0),), r"print\(y\) starts before x of print\(x\) is there"),
        (((0, 1, 2.0, 3.5, 1),), r"print\(y\) starts before x of print\(x\) is there"),
        (((0, 1, 1.5, 3.0, 1),), r"x from 0 to 1 is sent before print\(x\) made it"),
        (((0, 1, 3.0, 2.5, 1),), "x from 0 to 1 arrives before it is sent"),
        (((0, 1, 2.0, 2.5, 1), (0, 1, 1.0, 2.9, 0)), r"print\(y\) reads x of print\(x\), which has been replaced"),
    ],
    ids=["never sent", "another version", "too late", "sent too early", "backwards", "overwritten by an older one"],
)
def test_a_version_that_is_not_there_fails_the_check(messages, complaint):
    with pytest.raises(AssertionError, match=complaint):
        across(*messages).check()


def test_only_the_writer_of_the_version_that_is_read_has_to_be_done():
    g = TaskGraph()
    x, z = g.handle("x"), g.handle("z")
    g.insert(print, R(z), W(x))
    g.insert(print, W(x))
    g.insert(print, R(x), W(z))  # waits for the first by z alone, of which rank 0 has a copy
    records = [TaskRecord(0, 0, 0, 9, 0), TaskRecord(1, 0, 0, 1, 1), TaskRecord(2, 0, 1, 2, 1)]
    Trace(g, 1, records, ranks=2).check()
    with pytest.raises(AssertionError, match=r"starts before print\(x\) ends"):
        Trace(g, 3, [record._replace(rank=0, worker=i) for i, record in enumerate(records)]).check()


def test_a_data_frame_has_a_row_per_task_and_per_message():
    machine = tw.Machine(ranks=2, workers=2, alpha=1e-5, beta=1e-9, gamma=1e-9)
    run = tw.simulate(tw.cholesky_graph(4), machine, owner=lambda h: h.index[0] % 2)
    tasks, messages = run.trace.to_pandas(), run.trace.messages_to_pandas()
    assert list(tasks["task"]) == [record.task for record in run.trace]
    assert (tasks["end"] - tasks["start"]).equals(tasks["duration"])
    assert (tasks["ready"] <= tasks["start"]).all()
    assert tasks.set_index("label").loc["gemm(2,1,0)", "reads"] == "A[2,0] A[1,0] A[2,1]"
    assert tasks.groupby("op")["duration"].sum()["potrf"] == pytest.approx(run.trace.by_op()["potrf"][1])
    assert messages["nbytes"].sum() == run.bytes
    assert set(messages["source"]) == {0, 1}


def test_simulated_messages_say_who_wrote_them_so_that_arrows_lead_from_task_to_task():
    machine = tw.Machine(ranks=2, workers=1, alpha=1e-5, beta=1e-9, gamma=1e-9)
    run = tw.simulate(tw.cholesky_graph(3), machine, owner=lambda h: h.index[0] % 2)
    assert {run.graph.tasks[m.writer].writes[0] == m.handle for m in run.trace.messages} == {True}
    events = run.trace.to_perfetto()["traceEvents"]
    arrows = [e for e in events if e["ph"] == "s" and e["cat"] == "message"]
    assert len(arrows) == run.messages


def test_a_task_of_no_length_may_precede_the_one_that_begins_at_that_moment():
    g = TaskGraph()
    for name in ("x", "y"):
        g.insert(len, W(g.handle(name)))
    Trace(g, 1, [TaskRecord(0, 0, 5.0, 9.0), TaskRecord(1, 0, 5.0, 5.0)]).check()
