"""The pages as data. What a browser makes of them is in test_html_browser.py."""

import dataclasses
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

import tilewright as tw
from tilewright.comm.collectives import allreduce
from tilewright.plot import html as pages
from tilewright.runs.footprint import held, high_water
from tilewright.runs.text import IDLE

GRAPH = tw.cholesky_graph(5)
CLUSTER = tw.Machine(ranks=2, workers=2, alpha=1e-5, beta=1e-9, gamma=1e-9)


@pytest.fixture(scope="module")
def run():
    return tw.simulate(GRAPH, CLUSTER, owner=lambda h: h.index[0] % 2)


class Checker(HTMLParser):
    """Collects addresses, ids and elements that were not closed."""

    VOID = frozenset({"meta", "link", "input", "br", "img"})

    def __init__(self):
        super().__init__()
        self.open, self.addresses, self.ids = [], [], []

    def handle_starttag(self, tag, attrs):
        if tag not in self.VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name in ("src", "href"):
                self.addresses.append(value)
            if name == "id":
                self.ids.append(value)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def check(page):
    checker = Checker()
    checker.feed(page)
    checker.close()
    assert checker.open == []
    assert checker.addresses == ["data:,"]  # the empty icon: nothing is fetched
    assert not re.search(r"https?://|@import|url\(", page)
    assert len(set(checker.ids)) == len(checker.ids)


def data(page):
    """What the page draws, what several pictures have in common put back."""
    found = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)[1])
    for picture in found:
        for key, number in picture.pop("same", {}).items():
            assert key not in picture and key in found[number]
            picture[key] = found[number][key]
    return found


def test_every_page_is_well_formed_and_fetches_nothing(run, tmp_path):
    run.report(tmp_path / "run.html")
    run.report(tmp_path / "two.html", tw.simulate(GRAPH, scheduler="lifo"))
    GRAPH.to_html(str(tmp_path / "graph.html"))
    tw.compare_schedulers(GRAPH, [1, 3], schedulers=["eager", "lifo"]).report(tmp_path / "compare.html")
    tw.cholesky_graph(0).to_html(str(tmp_path / "empty.html"))
    tw.simulate(tw.cholesky_graph(0)).report(tmp_path / "empty-run.html")
    for path in tmp_path.iterdir():
        check(path.read_text())


def test_the_graph_page_has_every_task_edge_and_slack():
    (d,) = data(GRAPH.to_html())
    assert d["label"] == [task.label for task in GRAPH]
    assert d["predecessors"] == [list(task.predecessors) for task in GRAPH]
    assert [d["label"][t] for t in d["critical"]] == [task.label for task in GRAPH.critical_path().tasks]
    assert all(d["slack"][t] == 0 for t in d["critical"])
    assert d["slack"][d["label"].index("syrk(4,0)")] == 45 - 10 - (1 + 3) - (3 * 4 + 1)
    assert all(d["y"][t] > d["y"][p] for t, list_ in enumerate(d["predecessors"]) for p in list_)
    assert len(set(zip(d["x"], d["y"], strict=True))) == len(GRAPH)  # no box hides another
    x0, y0, x1, y1 = d["world"]
    assert all(x0 <= x <= x1 and y0 <= y <= y1 for x, y in zip(d["x"], d["y"], strict=True))


def test_the_run_page_has_the_schedule_and_why_each_task_waited(run):
    (d,) = data(pages.run_page(run))
    for bar, task in enumerate(d["bars"]["item"]):
        record = next(r for r in run.trace if r.task == task)
        assert d["bars"]["start"][bar] == record.start == d["start"][task]
        assert d["bars"]["lane"][bar] == 2 * record.rank + record.worker == d["lane"][task]
    assert sorted(d["bars"]["item"]) == list(range(len(GRAPH)))
    assert {reason for reason, _, _ in d["waits"]} == {"start", "dependency", "worker", "message"}
    assert len(d["arrows"]) == len(d["messages"]) == len(run.trace.messages)
    assert d["lanes"] == ["r0 w0", "r0 w1", "r1 w0", "r1 w1"]
    assert d["bounds"] == [["W/p", run.bounds.area, [7, 4]], ["C", run.bounds.critical_path, [2, 3]]]
    assert d["chain"] == [task.index for task in run.chain.tasks]
    idle = d["idle"]
    total = sum(end - start for start, end in zip(idle["start"], idle["end"], strict=True))
    assert total == pytest.approx(run.idle_split.total, rel=1e-2)


def test_the_timelines_are_those_of_ready_tasks_and_of_bytes_under_way(run):
    (d,) = data(pages.run_page(run))
    for at, value in zip(*d["ready"], strict=True):
        ready = 0
        for record in run.trace:
            task = run.graph.tasks[record.task]
            since = max([d["end"][p] for p in task.predecessors], default=0.0)
            arrived = [
                m.end
                for m in run.trace.messages
                if m.destination == record.rank and m.handle in task.reads and since <= m.end <= record.start
            ]
            ready += max([since, *arrived]) <= at < record.start
        assert ready == value
    for at, value in zip(*d["flight"], strict=True):
        assert value == sum(m.nbytes for m in run.trace.messages if m.start <= at < m.end)


def test_the_memory_line_is_that_of_the_rank_that_holds_most(run):
    (d,) = data(pages.run_page(run))
    assert max(d["memory"][1]) == run.memory == high_water(run)[d["fullest"]]
    changes = held(run)[d["fullest"]]
    for at, value in zip(*d["memory"], strict=True):
        assert value == sum(change for when, change in changes if when <= at)


def test_a_failed_run_has_times_and_rates_of_the_tasks_that_ran():
    with pytest.raises(tw.NotPositiveDefiniteError) as caught:
        tw.tiled_cholesky(np.diag([1.0] * 30 + [-1.0]), tile_size=8, workers=2)
    run = caught.value.run
    page = pages.run_page(run)
    assert "<td>0 ns</td>" not in page
    ran = [run.graph.tasks[record.task] for record in run.trace]
    assert 0 < len(ran) < len(run.graph) and run.flops == pytest.approx(sum(map(run.task_flops, ran)))
    assert run.flops < sum(map(run.task_flops, run.graph))
    times = run.trace.by_op()
    flops = {op: sum(run.task_flops(task) for task in ran if task.op.name == op) for op in times}
    rows = re.findall(r"<tr><td>(\w+)</td><td>(\d+)</td>(?:<td>[^<]*</td>){4}<td>([^<]*)</td>", page)
    assert [row[:2] for row in rows] == [(op, str(count)) for op, (count, _) in times.items()]
    for op, _, rate in rows:
        assert (rate == "-") == (flops[op] == 0)
        assert rate == "-" or float(rate) == pytest.approx(flops[op] / times[op][1] / 1e9, rel=1e-3)


def test_the_text_of_the_run_page_is_that_of_the_run(run):
    page = pages.run_page(run)
    assert f"{run.gflops:.4g} GFLOP/s" in page
    assert f"{run.efficiency:.1%} = W/(p T), {run.of_bound:.1%} of the lower bound, idle {run.idle:.1%}" in page
    assert f'<p class="verdict">{run.verdict}</p>' in page
    for cause, seconds in zip(IDLE.values(), dataclasses.astuple(run.idle_split), strict=True):
        assert (f"{cause} {seconds / (4 * run.makespan):.1%}</span>" in page) == (seconds > 0)
    assert "Ceiling: 1 GFLOP/s per worker, the machine&#x27;s 1/gamma" in page or "the machine's 1/gamma" in page
    assert "2 ranks of 2 workers, simulated" in page


def test_a_measured_run_has_rates_against_its_fastest_task():
    a = np.eye(64) * 2
    _, run = tw.tiled_cholesky(a, tile_size=16, workers=1, return_run=True)
    page = pages.run_page(run)
    assert "the fastest task of this run" in page
    assert data(page)[0]["unit"] == "s"


def test_a_large_graph_is_drawn_in_groups_and_says_so(monkeypatch):
    monkeypatch.setattr(pages, "LIMIT", 100)
    graph = tw.cholesky_graph(12)
    run = tw.simulate(graph, tw.Machine(workers=3))
    page = pages.run_page(run)
    check(page)
    (d,) = data(page)
    assert "364 tasks are more than the 100 that are drawn one by one" in d["note"]
    assert sum(int(label.split()[0]) for label in d["label"]) == 364
    assert sum(d["cost"]) == 12**3
    assert len(d["label"]) < 100
    bars = d["bars"]
    assert 0 < len(bars["item"]) < 364
    assert set(bars["item"]) == {-1}
    assert max(bars["end"]) == run.makespan


def test_a_long_graph_is_drawn_in_bands_of_layers(monkeypatch):
    monkeypatch.setattr(pages, "LIMIT", 100)
    graph = tw.TaskGraph("long")
    for _ in range(1000):
        graph.insert(tw.Op("step"), tw.RW(graph.handle("x")))
    (d,) = data(graph.to_html())
    assert d["label"] == ["42 x step"] * 23 + ["34 x step"] and d["note"].endswith("all tasks of one op in 42 layers.")
    assert d["info"][1] == "layers 42 to 83" and sum(d["cost"]) == 1000
    assert d["predecessors"] == [[], *([k] for k in range(23))]
    assert [len(data(graph.to_html(limit=n))[0]["label"]) for n in (1000, 999)] == [1000, 24]


def test_pictures_of_one_graph_say_it_once_and_are_those_of_pages_of_their_own():
    table = tw.compare_schedulers(GRAPH, [1, 2, 3], schedulers=["eager", "critical-path", "lifo"])
    page = pages.comparison_page(table)
    check(page)
    found = data(page)
    assert len(found) == len(table.merged()) > 3
    assert page.count('"gemm(4,3,2)"') == 1
    rows = {id(run): row for row, run in zip(table.rows, table.runs, strict=True)}
    alone = {json.dumps(data(pages.run_page(run))): rows[id(run)].name for run in table.runs}
    assert {json.dumps([dict(sorted(one.items()))]) for one in found} <= {
        json.dumps([dict(sorted(json.loads(one)[0].items()))]) for one in alone
    }


def test_a_page_of_several_comparisons_keeps_to_its_size_and_says_what_it_left_out(monkeypatch):
    tables = [
        tw.compare_schedulers(tw.cholesky_graph(nt), [2, 5], schedulers=["eager", "lifo", "ws"]) for nt in (5, 7, 9)
    ]
    whole = pages.comparison_page(*tables)
    check(whole)
    assert "Left out" not in whole and whole.count('<div class="comparison"') == 3
    assert "<title>Schedulers on cholesky nt=5, cholesky nt=7, cholesky nt=9</title>" in whole
    assert [text.split(":")[0] for text in re.findall(r"<option value=\d>(cholesky[^<]*)", whole)] == [
        f"cholesky nt={nt}" for nt in (5, 7, 9)
    ]
    firsts = [list(map(int, found.split(","))) for found in re.findall(r'data-first="([\d,]+)"', whole)]
    assert [len(first) for first in firsts] == [2, 2, 2] and firsts[0] == [0, 1]
    monkeypatch.setattr(pages, "_PAGE", 90_000)
    small = pages.comparison_page(*tables)
    check(small)
    inside = sum(len(json.dumps(one, separators=(",", ":"))) for one in data_as_it_is(small))
    assert inside < 90_000 < sum(len(json.dumps(one, separators=(",", ":"))) for one in data_as_it_is(whole))
    left = re.findall(r"Left out, to keep the page small: ([^<]*)\.<", small)
    assert left and sum(text.count(" on ") for text in left) == len(data(whole)) - len(data(small))


def data_as_it_is(page):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)[1])


def test_more_workers_than_fit_are_left_out_and_the_page_says_so():
    run = tw.simulate(tw.cholesky_graph(3), tw.Machine(workers=300))
    (d,) = data(pages.run_page(run))
    assert "Only the first 256 of 300 workers are drawn." in d["note"]
    assert len(d["lanes"]) == 256


def test_no_label_can_end_the_script_or_inject_markup():
    g = tw.TaskGraph("</script><b>graph")
    g.insert(tw.Op("</script><img src=x>"), tw.W(g.handle("<b>")))
    page = g.to_html()
    check(page)
    assert data(page)[0]["ops"] == ["</script><img src=x>"]


def test_ops_that_are_not_tile_kernels_have_colours_too():
    g = tw.TaskGraph()
    for i in range(20):
        g.insert(tw.Op(f"op{i}"), tw.W(g.handles("x")[i]))
    (d,) = data(g.to_html())
    assert len(d["colours"]) == len(d["inks"]) == 20
    assert all(re.fullmatch("#[0-9A-F]{6}", colour) for colour in d["colours"])


@pytest.mark.parametrize("thing", ["graph", "run"])
def test_a_notebook_shows_the_page_in_a_frame(thing, run):
    shown = (GRAPH if thing == "graph" else run)._repr_html_()
    assert shown.startswith('<iframe sandbox="allow-scripts" srcdoc=\'&lt;!DOCTYPE html&gt;')
    assert shown.count("<") == 2


def test_a_notebook_gets_less_than_200_kilobytes_of_a_large_run_and_a_frame_that_fits():
    graph = tw.cholesky_graph(40)
    for workers, height in ((2, 568), (64, 1022)):
        shown = tw.simulate(graph, tw.Machine(workers=workers))._repr_html_()
        assert len(shown) < 200_000
        assert f"height:{height}px" in shown


def test_a_collective_has_a_report_with_its_messages():
    run = tw.simulate(allreduce(4, 64), tw.Machine(ranks=4, alpha=1e-6, beta=1e-9, gamma=1e-9))
    page = pages.run_page(run)
    check(page)
    (d,) = data(page)
    assert len(d["messages"]) == len(d["arrows"]) == run.messages > 0
    assert "pack" in d["ops"]
