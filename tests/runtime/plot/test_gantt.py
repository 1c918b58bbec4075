"""The Gantt chart of a run."""

import sys

import numpy as np
import pytest

import tilewright as tw
from tilewright.plot.gantt import figure, gantt
from tilewright.plot.palette import colours
from tilewright.runs.idle import pieces
from tilewright.runs.trace import TaskRecord, Trace

MAGIC = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}


@pytest.fixture(scope="module")
def run():
    return tw.tiled_cholesky(np.eye(40) * 4, tile_size=10, workers=2, return_run=True)[1]


@pytest.mark.parametrize("suffix", list(MAGIC))
def test_the_suffix_says_the_format(run, tmp_path, suffix):
    gantt(run, tmp_path / f"g{suffix}")
    assert (tmp_path / f"g{suffix}").read_bytes().startswith(MAGIC[suffix])


def svg_of(run_or_trace, tmp_path, monkeypatch):
    """The chart as SVG whose text is text, not outlines."""
    import matplotlib

    monkeypatch.setitem(matplotlib.rcParams, "svg.fonttype", "none")
    gantt(run_or_trace, tmp_path / "g.svg")
    return (tmp_path / "g.svg").read_text(encoding="utf-8")


def test_the_chart_names_workers_ops_bounds_and_rate(tmp_path, monkeypatch):
    run = tw.simulate(tw.cholesky_graph(4), tw.Machine(workers=2, gamma=1e-9))  # a measured one may have little rate
    svg = svg_of(run, tmp_path, monkeypatch)
    bounds = "bound W/p = ", "bound C = "
    for text in ("worker 0", "worker 1", "potrf", "gemm", "critical path", "idle", *bounds, "GFLOP/s"):
        assert text in svg
    for colour in ("#d55e00", "#0072b2"):
        assert colour in svg


def test_a_planned_trace_shows_its_makespan_and_bounds(tmp_path, monkeypatch):
    """potrf(0), trsm(1,0), syrk(1,0), potrf(1) of 1, 3, 3, 1 s, one after the other on two workers."""
    ends = np.cumsum([1.0, 3.0, 3.0, 1.0])
    records = [TaskRecord(t, t % 2, start, end) for t, (start, end) in enumerate(zip([0, *ends], ends, strict=False))]
    svg = svg_of(Trace(tw.cholesky_graph(2), 2, records), tmp_path, monkeypatch)
    assert "cholesky nt=2: 4 tasks, 8 s" in svg
    assert "bound W/p = 4 s" in svg and "bound C = 8 s" in svg
    assert "GFLOP/s" not in svg


def bars_of(run_or_trace):
    """(label or None, colour, left, right, lane) of every bar of the chart."""
    from matplotlib.colors import to_hex

    (axes,) = figure(run_or_trace).axes
    bars = []
    for collection in axes.collections:
        label = collection.get_label()
        colour = to_hex(collection.get_facecolor()[0], keep_alpha=True) if len(collection.get_facecolor()) else "none"
        for path in collection.get_paths():
            (left, top), (right, bottom) = path.vertices.min(axis=0), path.vertices.max(axis=0)
            bars.append((label, colour, left, right, round((top + bottom) / 2)))
    return bars


def test_each_task_is_a_bar_in_its_workers_lane_and_the_critical_path_is_outlined():
    r"""
    potrf(0) -> trsm(1,0) -> syrk(1,0) -> potrf(1) -> trsm(2,1) ... of nt = 3, in program order on three workers
    in turn; tasks last 1, 2, 3, ... s.
    """
    g = tw.cholesky_graph(3)
    ends = np.cumsum(np.arange(1.0, len(g) + 1))
    records = [TaskRecord(t, t % 3, ends[t] - t - 1, ends[t]) for t in range(len(g))]
    trace = Trace(g, 3, records)
    bars = bars_of(trace)
    fill = colours(task.op.name for task in g)
    drawn = sorted(
        (left, right, lane, colour[:7].upper())
        for _, colour, left, right, lane in bars
        if colour[:7].upper() in fill.values()
    )
    assert drawn == [(r.start, r.end, r.worker, fill[g.tasks[r.task].op.name]) for r in records]
    path = {task.index for task in g.critical_path(trace.durations).tasks}
    assert 3 < len(path) < len(g)
    outlined = sorted((left, right, lane) for _, colour, left, right, lane in bars if colour == "none")
    assert outlined == [(r.start, r.end, r.worker) for r in records if r.task in path]
    idle = sorted((left, right, lane) for _, colour, left, right, lane in bars if colour == "#ffffffff")
    assert idle == sorted((piece.start, piece.end, piece.worker) for piece in pieces(trace, trace.makespan / 2000))
    assert sum(right - left for left, right, _ in idle) + sum(trace.durations) == pytest.approx(3 * trace.makespan)


def test_ranks_are_lanes_of_their_own(tmp_path, monkeypatch):
    records = [TaskRecord(t, 0, float(t), t + 1.0, rank=t % 2) for t in range(4)]
    svg = svg_of(Trace(tw.cholesky_graph(2), 1, records), tmp_path, monkeypatch)
    assert "rank 0, worker 0" in svg and "rank 1, worker 0" in svg
    assert "bound W/p = 2 s" in svg


def test_an_empty_trace_is_an_empty_chart(tmp_path):
    gantt(Trace(tw.TaskGraph("nothing"), 1), tmp_path / "g.png")
    assert (tmp_path / "g.png").read_bytes().startswith(MAGIC[".png"])


def test_another_suffix_is_refused(run, tmp_path):
    with pytest.raises(ValueError, match=r"'g.bmp'; its suffix must be .png, .svg, .pdf"):
        gantt(run, tmp_path / "g.bmp")
    assert list(tmp_path.iterdir()) == []


def test_without_matplotlib_one_sentence_says_what_to_install(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"needs matplotlib; .* -m pip install .*\[plot\]' brings it"):
        gantt(run, tmp_path / "g.png")


def test_drawing_leaves_pyplot_alone(run, tmp_path):
    before = "matplotlib.pyplot" in sys.modules
    gantt(run, tmp_path / "g.png")
    assert ("matplotlib.pyplot" in sys.modules) == before


def test_a_notebook_gets_the_chart_as_svg_and_none_of_too_many_tasks(run, monkeypatch):
    assert run._repr_svg_().startswith("<?xml")
    assert tw.simulate(tw.cholesky_graph(26))._repr_svg_() is None  # 3,276 tasks
    assert tw.simulate(tw.cholesky_graph(0))._repr_svg_() is None
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert run._repr_svg_() is None


def test_a_run_in_task_weights_has_no_seconds_and_one_with_gpus_its_mixed_bounds(tmp_path, monkeypatch):
    plain = svg_of(tw.simulate(tw.cholesky_graph(6), tw.Machine(workers=3)), tmp_path, monkeypatch)
    assert "time in units of nb^3/3 flops" in plain
    assert "bound W/p = 72" in plain
    machine = tw.Machine(workers=3, gpus=1, gamma=1e-9, acceleration={"gemm": 10.0})
    mixed = tw.simulate(tw.cholesky_graph(6), machine, scheduler="heft")
    from tilewright.units import seconds

    assert f"bound W/p = {seconds(mixed.bounds.area)}" in svg_of(mixed, tmp_path, monkeypatch)


def test_short_tasks_of_the_critical_path_are_underlined_and_long_ones_outlined():
    """Of a chain of 100, 50, 1 and 0.5: an outline of the last two, of less than 1/250 of the axis, would paint them."""
    graph = tw.TaskGraph("chain")
    for weight in (100, 50, 1, 0.5):
        graph.insert(tw.Op(f"step{weight}", weight=weight), tw.RW(graph.handle("x")))
    axes = figure(tw.simulate(graph)).axes[0]
    marks = [c for c in axes.collections if c.get_zorder() == 3]
    heights = [[p.vertices[:, 1].max() - p.vertices[:, 1].min() for p in c.get_paths()] for c in marks]
    assert [len(own) for own in heights] == [1, 3]
    assert heights[0] == pytest.approx([0.06]) and heights[1] == pytest.approx([0.8] * 3)
