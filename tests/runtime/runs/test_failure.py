"""What a run that failed leaves: ``error.run`` with trace, verdict, report and picture, on every engine."""

import re

import numpy as np
import pytest

import tilewright as tw
from tilewright.runs.saved import load

ENGINES = ["serial", "threads", "mpi", "dask"]


def fine(x):
    x += 1


def breaks(x):
    raise ArithmeticError("no more")


def failing():
    """Three tasks in a row on x[0], of which the last one raises, and one that would have followed."""
    g = tw.TaskGraph("failing")
    x = g.handles("x")
    g.insert(fine, tw.RW(x[0]))
    g.insert(fine, tw.RW(x[0]))
    g.insert(breaks, tw.RW(x[0]))
    g.insert(fine, tw.RW(x[0]))
    return g


def failed(backend, **options):
    with pytest.raises(ArithmeticError, match="no more") as caught:
        tw.run(failing(), {"x": [np.zeros(2)]}, backend=backend, workers=1 if backend == "serial" else 2, **options)
    return caught.value


@pytest.mark.parametrize(("backend", "options"), [*((name, {}) for name in ENGINES), ("dask", {"mode": "tasks"})])
def test_an_exception_has_the_run_until_then(backend, options, tmp_path):
    run = failed(backend, **options).run
    assert (run.backend, run.failed.label) == (backend, "breaks(0)")
    assert [record.task for record in run.trace] == ([] if options else [0, 1])  # a group of Dask's is told as a whole
    assert str(run.verdict).startswith("breaks(0) failed; ")
    assert run.verdict.limit == "failure" and "verdict        breaks(0) failed" in str(run)
    run.report(tmp_path / "run.html")
    run.gantt(tmp_path / "run.svg")
    assert "breaks(0) failed" in (tmp_path / "run.html").read_text()
    if not options:
        assert run.trace.failure.task == 2 and run.trace.failure.end >= run.trace.failure.start
        assert '"failed":{' in (tmp_path / "run.html").read_text()
    run.save(tmp_path / "run.json")
    back = load(tmp_path / "run.json")
    assert back.failed.index == 2 and back.trace.failure == run.trace.failure
    assert str(back.verdict) == str(run.verdict)


def test_a_factorisation_that_breaks_down_has_its_run():
    a = np.eye(24)
    a[20, 20] = -1
    with pytest.raises(tw.NotPositiveDefiniteError) as caught:
        tw.tiled_cholesky(a, tile_size=8, workers=2)
    run = caught.value.run
    assert run.failed.label == "potrf(2)" and len(run.trace) < len(run.graph)
    assert re.search(r"potrf\(2\) failed; \d+ of 19 tasks ran\.", str(run))


def test_a_run_inside_a_task_of_a_rank_does_not_travel():
    g = tw.TaskGraph("outer")
    g.insert(_inner, tw.RW(g.handle("x")))
    with pytest.raises(ArithmeticError) as caught:
        tw.run(g, {"x": np.zeros(1)}, backend="mpi", workers=1)
    assert caught.value.run.graph.name == "outer"


def _inner(x):
    tw.run(failing(), {"x": [x]}, backend="serial")
