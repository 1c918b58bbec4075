"""The pages in a real browser, opened from disk: headless Chromium, driven by Playwright.

Coordinates come from the page itself: ``panels[0].dag.X(x)`` is where its script draws a place of the graph.
"""

import dataclasses
import html
import io
import re
import threading
import time
from functools import cache

import numpy as np
import pytest
from PIL import Image

import tilewright as tw
from tilewright.plot import gantt
from tilewright.plot.html import frame, graph_page, run_page
from tilewright.plot.live import LivePage
from tilewright.plot.phases import PHASES, phases
from tilewright.runs.idle import pieces
from tilewright.runs.saved import load
from tilewright.runs.text import IDLE
from tilewright.runs.trace import Trace

pytestmark = pytest.mark.long

GRAPH = tw.cholesky_graph(5)
CLUSTER = tw.Machine(ranks=2, workers=2, alpha=1e-5, beta=1e-9, gamma=1e-9)
SIZE = {"width": 1200, "height": 900}


@pytest.fixture
def show(browser, tmp_path):
    """Write a page, open it from disk without a network, and wait until it is drawn.

    At the end of the test nothing may have been written to the console and nothing requested.
    """
    opened = []

    def show(write, fragment="", **options):
        path = tmp_path / f"page{len(opened)}.html"
        write(path)
        context = browser.new_context(viewport=SIZE, offline=True, **options)
        page = context.new_page()
        errors, requests = [], []
        opened.append((context, path, errors, requests))
        page.on("console", lambda message: errors.append(message.text))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        show.errors = [errors for _, _, errors, _ in opened]
        page.goto(f"file://{path}{fragment}")
        page.wait_for_selector("html[data-ready]")
        return page

    yield show
    for context, path, errors, requests in opened:
        context.close()
        assert errors == []
        assert {url.split("#")[0] for url in requests} <= {f"file://{path}", "data:,", "about:srcdoc"}


@cache
def simulated(scheduler="critical-path"):
    return tw.simulate(GRAPH, CLUSTER, scheduler=scheduler, owner=lambda h: h.index[0] % 2)


RESET = """() => {
    for (const panel of panels) {
        panel.mark(null);
        panel.select(-1);
        panel.find("");
        panel.hidden.clear();
        panel.colourBy(panel.ops);
        panel.views.forEach(view => { view.home(); view.draw(); });
    }
    document.querySelectorAll("input.search").forEach(field => { field.value = ""; });
    document.querySelectorAll("select.by").forEach(field => { field.value = -1; });
    scrollTo(0, 0);
}"""


@pytest.fixture(scope="module")
def page_of_a_report(browser, tmp_path_factory):
    """The page of `simulated`, opened once, and what its console said."""
    path = tmp_path_factory.mktemp("report") / "page.html"
    simulated().report(path)
    context = browser.new_context(viewport=SIZE, offline=True)
    page, errors = context.new_page(), []
    page.on("console", lambda message: errors.append(message.text))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(f"file://{path}")
    page.wait_for_selector("html[data-ready]")
    yield page, errors
    context.close()


@pytest.fixture
def report(page_of_a_report):
    """That page, as it was when it was opened."""
    page, errors = page_of_a_report
    page.mouse.move(1, 1)
    page.evaluate(RESET)
    yield page
    assert errors == []


def index(label, graph=GRAPH):
    return next(task.index for task in graph if task.label == label)


def in_dag(page, task, panel=0):
    """Where on the page the middle of a task's box is."""
    place = page.evaluate(f"(p => [p.dag.X(p.d.x[{task}]), p.dag.Y(p.d.y[{task}])])(panels[{panel}])")
    return on_page(page.locator("canvas.dag").nth(panel), place)


def in_gantt(page, task, panel=0):
    """Where on the page the middle of a task's bar is."""
    place = page.evaluate(
        f"(p => [p.gantt.X(p.middle({task})), p.gantt.Y(p.d.lane[{task}]) + p.gantt.sy * 0.43])(panels[{panel}])"
    )
    return on_page(page.locator("canvas.gantt").nth(panel), place)


def on_page(canvas, place):
    canvas.evaluate("c => scrollTo(0, c.getBoundingClientRect().top + scrollY - 10)")
    box = canvas.bounding_box()
    return box["x"] + 1 + place[0], box["y"] + 1 + place[1]  # 1 for the border


def click(page, where, *arguments):
    page.mouse.click(*where(page, *arguments))


def hover(page, where, *arguments):
    page.mouse.move(*where(page, *arguments))
    return page.locator("#tip").inner_text()


def selected(page, panel=0):
    return page.evaluate(f"panels[{panel}].d.label[panels[{panel}].selected] ?? null")


def story(page, panel=0):
    return page.locator(".details").nth(panel).inner_text()


def pixel(page, canvas, x, y):
    """Red, green and blue at (x, y) of a canvas, as people see it."""
    page.mouse.move(1, 1)  # no tooltip over it
    x, y = on_page(page.locator(canvas).first, (x, y))
    shot = page.screenshot(clip={"x": round(x) - 1, "y": round(y) - 1, "width": 3, "height": 3})
    return list(Image.open(io.BytesIO(shot)).convert("RGB").getpixel((1, 1)))


def test_a_task_named_in_the_address_is_selected_and_its_wait_explained(show):
    page = show(simulated().report, "#trsm(1,0)")
    text = story(page)
    assert "trsm(1,0) R(A[0,0]) RW(A[1,0])" in text
    assert "on the critical path" in text
    assert "It waited for a message: A[0,0] from rank 0" in text
    assert re.search(r"waits for:\s*potrf\(0\)", text)


def test_hovering_over_a_box_shows_task_tiles_cost_and_slack(report):
    shown = hover(report, in_dag, index("gemm(2,1,0)"))
    name, tiles, when, cost = shown.split("\n")
    assert name == "gemm(2,1,0)"
    assert tiles == "R(A[2,0]) R(A[1,0]) RW(A[2,1])"
    assert re.fullmatch(r"[\d.]+ ms to [\d.]+ ms on r0 w\d", when)
    assert re.fullmatch(r"cost 33\.6 ms, slack (0|[\d.]+ ms)", cost)


def test_hovering_over_a_bar_shows_the_same_and_leaving_hides_it(report):
    task = index("trsm(3,0)")
    assert hover(report, in_gantt, task) == hover(report, in_dag, task)
    report.mouse.move(5, 5)
    assert not report.locator("#tip").is_visible()


def test_selecting_a_bar_selects_the_box_and_back(report):
    task, other = index("gemm(3,2,1)"), index("syrk(4,0)")
    click(report, in_gantt, task)
    assert selected(report) == "gemm(3,2,1)"
    x, y, width = report.evaluate(
        f"(p => [p.dag.X(p.d.x[{task}]), p.dag.Y(p.d.y[{task}]), Math.min(0.82 * p.dag.sx, 96) / 2])(panels[0])"
    )
    assert pixel(report, "canvas.dag", x - width, y) == [0, 0, 0]  # its box has a black frame
    frame = x - width, y
    click(report, in_dag, other)
    assert selected(report) == "syrk(4,0)"
    assert story(report).startswith("syrk(4,0)")
    x, y = report.evaluate(f"(p => [p.gantt.X(p.d.start[{other}]), p.gantt.Y(p.d.lane[{other}]) + 12])(panels[0])")
    assert pixel(report, "canvas.gantt", x, y) == [0, 0, 0]  # and so has its bar
    assert pixel(report, "canvas.dag", *frame) != [0, 0, 0]


def test_a_click_beside_all_tasks_selects_none(report):
    click(report, in_dag, 0)
    assert selected(report) == "potrf(0)"
    report.mouse.click(*on_page(report.locator("canvas.dag"), (4, 300)))
    assert selected(report) is None
    assert story(report).startswith("Click a task")


def test_the_links_of_the_explanation_lead_to_other_tasks(report):
    click(report, in_dag, index("potrf(1)"))
    report.locator(".details button", has_text="syrk(1,0)").first.click()
    assert selected(report) == "syrk(1,0)"


def test_a_task_selected_in_one_run_is_selected_in_the_other(show):
    page = show(lambda path: simulated().report(path, simulated("lifo")))
    assert page.locator("h2").all_inner_texts() == [
        "critical-path on 2 ranks of 2 workers, simulated",
        "lifo on 2 ranks of 2 workers, simulated",
    ]
    click(page, in_dag, index("gemm(4,3,1)"), 1)
    assert selected(page, 0) == selected(page, 1) == "gemm(4,3,1)"
    assert story(page, 0) != story(page, 1)  # each says when it ran there, and why


def at_time(page, time, lane, panel=0):
    """Where a time is on a worker's row."""
    place = page.evaluate(f"(p => [p.gantt.X({time}), p.gantt.Y({lane}) + p.gantt.sy * 0.43])(panels[{panel}])")
    return on_page(page.locator("canvas.gantt").nth(panel), place)


def test_the_gantt_chart_is_above_the_fold_and_the_verdict_above_it(report):
    run = simulated()
    assert report.locator(".verdict").inner_text() == str(run.verdict)
    verdict, chart = (report.locator(name).bounding_box() for name in (".verdict", "canvas.gantt"))
    assert verdict["y"] < chart["y"] and chart["y"] + chart["height"] < 400


def test_a_click_on_an_idle_time_says_why_and_what_came_next(report):
    run = simulated()
    places = {(r.rank, r.worker): r.start for r in run.trace}  # of the last task there
    before = [piece for piece in pieces(run.trace) if piece.end <= places.get((piece.rank, piece.worker), 0)]
    piece = max(before, key=lambda piece: piece.end - piece.start)
    lane = 2 * piece.rank + piece.worker
    middle = (piece.start + piece.end) / 2
    shown = hover(report, at_time, middle, lane)
    assert shown.startswith(f"idle: {IDLE[piece.cause]}\n")
    click(report, at_time, middle, lane)
    assert story(report).startswith(f"r{piece.rank} w{piece.worker} idle: {IDLE[piece.cause]}, ")
    assert "Its next task: " in story(report) and "which waited for" in story(report)
    report.locator(".details button").first.click()
    assert selected(report) is not None


def test_a_message_says_what_it_carries_when_one_points_at_it(report):
    x0, y0, x1, y1 = report.evaluate("""(p => {
        const [from, to, start, end] = p.d.arrows[3], h = Math.max(1, p.gantt.sy * 0.86) / 2;
        return [p.gantt.X(start), p.gantt.Y(from) + h, p.gantt.X(end), p.gantt.Y(to) + h];
    })(panels[0])""")
    found = ""
    for share in range(1, 20):  # where no task is in front of it
        report.mouse.move(
            *on_page(report.locator("canvas.gantt"), (x0 + (x1 - x0) * share / 20, y0 + (y1 - y0) * share / 20))
        )
        if report.locator("#tip").is_visible() and report.locator("#tip").inner_text().startswith("message"):
            found = report.locator("#tip").inner_text()
    message = sorted(simulated().trace.messages, key=lambda m: m.start)[3]
    assert re.match(rf"message A\[\d,\d\] from rank {message.source} to {message.destination}, 524,288 bytes\n", found)


def test_an_op_that_is_pressed_in_the_legend_fades(report):
    task = index("gemm(3,2,1)")
    place = report.evaluate(f"(p => [p.gantt.X(p.middle({task})), p.gantt.Y(p.d.lane[{task}]) + 5])(panels[0])")
    assert pixel(report, "canvas.gantt", *place) == [0, 114, 178]
    button = report.locator(".ops button", has_text="gemm")
    button.click()
    assert button.get_attribute("aria-pressed") == "false"
    assert min(pixel(report, "canvas.gantt", *place)) > 200
    button.click()
    assert pixel(report, "canvas.gantt", *place) == [0, 114, 178]


def test_a_range_has_a_table_of_what_happened_in_it(report):
    run = simulated()
    low, high = 0.2 * run.makespan, 0.6 * run.makespan
    report.keyboard.down("Shift")
    report.mouse.move(*at_time(report, low, 0))
    report.mouse.down()
    report.mouse.move(*at_time(report, high, 0), steps=4)
    report.mouse.up()
    report.keyboard.up("Shift")
    low, high = report.evaluate("panels[0].range")
    assert [low, high] == pytest.approx([0.2 * run.makespan, 0.6 * run.makespan], rel=0.02)
    rows = [row.split("\t") for row in report.locator(".range tbody tr").all_inner_texts()]
    inside = {}
    for record in run.trace:
        name = run.graph.tasks[record.task].op.name
        inside[name] = inside.get(name, 0) + max(0, min(record.end, high) - max(record.start, low))
    for piece in pieces(run.trace, run.makespan / 4000):
        name = f"idle: {IDLE[piece.cause]}"
        inside[name] = inside.get(name, 0) + max(0, min(piece.end, high) - max(piece.start, low))
    shares = {name: f"{100 * time / (4 * (high - low)):.1f}%" for name, time in inside.items() if time > 0}
    assert {row[0]: row[3] for row in rows} == shares
    assert sum(float(share[:-1]) for share in shares.values()) == pytest.approx(100, abs=0.5)
    whole = page_tables(report)
    for row in whole["kernels"]:  # op, tasks, total, fastest, mean, slowest, GFLOP/s
        own = [r for r in run.trace if run.graph.tasks[r.task].op.name == row[0] and r.end > low and r.start < high]
        assert row[1] == str(len(own)) and row[3] == row[4] == row[5]  # on this machine all tasks of an op take as long
        assert float(row[6]) == pytest.approx(1, rel=1e-3)  # 1/gamma
    busy = sum(share for name, share in inside.items() if not name.startswith("idle"))
    assert whole["shares"][0] == f"in tasks {100 * busy / (4 * (high - low)):.1f}%"
    assert whole["shares"][1:] == [
        f"{IDLE[cause]} {shares[f'idle: {IDLE[cause]}']}" for cause in IDLE if f"idle: {IDLE[cause]}" in shares
    ]
    report.locator("button.home").click()
    assert report.locator(".range").inner_text() == ""
    assert page_tables(report)["kernels"][0][1] == str(sum(task.op.name == "gemm" for task in run.graph))


def page_tables(page):
    """The rows of the kernel table, and the words of the bar of shares."""
    rows = [row.split("\t") for row in page.locator(".kernels tbody tr").all_inner_texts()]
    return {"kernels": rows, "shares": page.locator(".shares .legend > span").all_inner_texts()}


def test_three_timelines_end_where_the_run_says(report):
    run = simulated()
    names, tops = report.evaluate("[panels[0].strips.map(s => s[0]), panels[0].strips.map(s => Math.max(...s[1][1]))]")
    assert names[:2] == ["tasks ready and waiting", "bytes under way"]
    assert re.fullmatch(r"memory of rank [01], the fullest", names[2]) and tops[2] == run.memory
    assert report.evaluate("panels[0].times.canvas.style.height") == "144px"
    assert report.evaluate("size(1536)") == "1.5 KiB" and report.evaluate("size(12)") == "12 bytes"


def test_ticks_of_an_axis_can_be_told_apart_and_names_that_do_not_fit_are_indices(report):
    ticks = report.evaluate("""[[3.424, 0.002, 3.45, "s"], [0, 1, 9, "s"], [2e-5, 5e-6, 9e-5, "s"], [0.05, 0.05, 0.2, "s"],
      [150, 50, 400, ""], [0.4, 0.2, 2, ""], [12, 2, 14, "s"]].map(tick => ticked(...tick))""")
    assert ticks == ["3.424 s", "0", "20 us", "50 ms", "150", "0.4", "12 s"]
    drawn = report.evaluate("""[90, 60, 40, 12].map(room => {
      const said = [], g = {measureText: text => ({width: 6 * text.length}), fillText: text => said.push(text)};
      panels[0].text(g, "gemm(3,2,1)", 0, 0, room, 0);
      return said;
    })""")
    assert drawn == [["gemm(3,2,1)"], ["3,2,1"], ["3,2,1"], []]


def test_colours_may_mean_the_rank(report):
    task = index("gemm(3,2,1)")
    place = report.evaluate(f"(p => [p.gantt.X(p.middle({task})), p.gantt.Y(p.d.lane[{task}]) + 5])(panels[0])")
    assert pixel(report, "canvas.gantt", *place) == [0, 114, 178]  # gemm's blue
    report.locator("select.by").select_option(label="rank")
    assert report.locator(".ops").inner_text().split("\n") == ["rank 0", "rank 1"]
    rank = next(record.rank for record in simulated().trace if record.task == task)
    shown = report.evaluate(f"panels[0].d.colours[{rank}]")
    assert "#{:02X}{:02X}{:02X}".format(*pixel(report, "canvas.gantt", *place)) == shown
    report.locator("select.by").select_option(label="op")
    assert pixel(report, "canvas.gantt", *place) == [0, 114, 178]


def test_an_edge_between_ranks_says_what_travels_along_it(report):
    run = simulated()
    rank = {record.task: record.rank for record in run.trace}
    edges = {(p, t.index) for t in run.graph for p in t.predecessors if rank[p] != rank[t.index]}
    assert {(p, t) for p, t, _ in report.evaluate("panels[0].d.remote")} == edges
    p, t, words = report.evaluate("panels[0].d.remote[0]")
    assert words == f"A[0,0], 512 KiB, rank {rank[p]} to {rank[t]}"
    report.evaluate("panels[0].choose(['edge', 0])")
    assert story(report) == f"message {words} {GRAPH.tasks[p].label} to {GRAPH.tasks[t].label}"


def test_runs_side_by_side_have_one_time_scale_and_move_together(show):
    slow = tw.simulate(GRAPH, CLUSTER.replace(gamma=2e-9), owner=lambda h: h.index[0] % 2)
    page = show(lambda path: simulated().report(path, slow))
    scales = "panels.map(p => [p.gantt.sx, p.gantt.ox, p.times.sx])"
    one, other = page.evaluate(scales)
    assert one == pytest.approx(other)
    ends = page.evaluate("panels.map(p => p.gantt.X(p.d.makespan))")
    assert (ends[0] - 64) / (ends[1] - 64) == pytest.approx(simulated().makespan / slow.makespan, rel=1e-3)
    page.locator("canvas.gantt").nth(1).focus()
    page.keyboard.press("+")
    again = page.evaluate(scales)
    assert again[0] == pytest.approx(again[1]) and again[0][0] == pytest.approx(1.3 * one[0])


def test_a_phone_scrolls_down_and_not_sideways(show):
    for write in (simulated().report, tw.compare_schedulers(GRAPH, [1, 3]).report, GRAPH.to_html):
        page = show(write, has_touch=True)
        page.set_viewport_size({"width": 390, "height": 844})
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        assert page.locator("canvas.dag").first.evaluate("c => getComputedStyle(c).touchAction") == "pan-y"


def test_two_fingers_magnify(show):
    page = show(simulated().report, has_touch=True)
    before = page.evaluate("panels[0].gantt.sx")
    page.evaluate("""(c => {
        const send = (type, id, x) => c.dispatchEvent(new PointerEvent(type, {pointerId: id, pointerType: "touch",
          clientX: c.getBoundingClientRect().left + x, clientY: c.getBoundingClientRect().top + 20}));
        c.setPointerCapture = () => {};
        send("pointerdown", 1, 300); send("pointerdown", 2, 400); send("pointermove", 2, 500);
        send("pointerup", 1, 300); send("pointerup", 2, 500);
    })(document.querySelector("canvas.gantt"))""")
    assert page.evaluate("panels[0].gantt.sx") == pytest.approx(2 * before)


def test_a_failed_run_shows_where(show):
    with pytest.raises(tw.NotPositiveDefiniteError) as caught:
        tw.tiled_cholesky(np.diag([1.0] * 30 + [-1.0]), tile_size=8, workers=2)
    page = show(caught.value.run.report)
    assert page.locator(".verdict").inner_text().startswith("potrf(3) failed; ")
    start, end, lane = page.evaluate("(f => [f.start, f.end, f.lane])(panels[0].d.failed)")
    assert hover(page, at_time, (start + end) / 2, lane).startswith("potrf(3) failed\n")
    click(page, at_time, (start + end) / 2, lane)
    assert selected(page) == "potrf(3)" and "it failed" in story(page)
    ran, never = (
        pixel(
            page,
            "canvas.dag",
            *page.evaluate(
                f"(t => [panels[0].dag.X(panels[0].d.x[t]) - 8, panels[0].dag.Y(panels[0].d.y[t]) - 9])"
                f"(panels[0].d.label.indexOf('{label}'))"
            ),
        )
        for label in ("potrf(2)", "tril(3)")
    )
    assert ran == [213, 94, 0] and never == [255, 255, 255]  # a task that did not run is hollow


def test_everything_is_reached_by_the_keyboard(show):
    report = show(simulated().report)
    names = []
    for _ in range(11):
        report.keyboard.press("Tab")
        names.append(
            report.evaluate("(a => a.className || a.id || (a.dataset.op ? 'op' : ''))(document.activeElement)")
        )
    assert names == ["theme", "gantt", "by", "search", "home", *["op"] * 4, "dag", ""]  # then what is around the page
    report.locator("canvas.gantt").focus()
    report.keyboard.press("ArrowRight")
    assert selected(report) == "potrf(0)"
    report.keyboard.press("ArrowDown")
    assert selected(report) == "trsm(1,0)"
    report.keyboard.press("ArrowRight")
    first = selected(report)
    assert first != "trsm(1,0)"
    report.keyboard.press("ArrowLeft")
    assert selected(report) == "trsm(1,0)"
    report.keyboard.press("ArrowUp")
    assert selected(report) == "potrf(0)"
    report.keyboard.press("Enter")
    assert report.evaluate("panels[0].gantt.sx * panels[0].d.cost[0]") >= 99  # its bar is 100 pixels wide
    assert report.evaluate("panels[0].gantt.X(panels[0].middle(0)) - panels[0].gantt.width / 2") == pytest.approx(
        0, abs=1
    )
    report.keyboard.press("Escape")
    assert selected(report) is None


def test_focus_is_seen(report):
    report.locator("canvas.dag").focus()
    report.keyboard.press("ArrowDown")
    assert report.locator("canvas.dag").evaluate("c => getComputedStyle(c).outlineStyle") == "solid"


def test_search_counts_what_it_finds_and_enter_goes_through_it(report):
    search = report.locator("input.search")
    search.fill("GEMM(4, ")
    assert report.locator(".found").inner_text() == "6 found"
    seen = []
    for _ in range(7):
        search.press("Enter")
        seen.append(selected(report))
    assert sorted(seen[:6]) == sorted(task.label for task in GRAPH if task.label.startswith("gemm(4,"))
    assert seen[6] == seen[0]
    search.fill("getrf")
    assert report.locator(".found").inner_text() == "0 found"
    search.fill("")
    assert report.locator(".found").inner_text() == ""


def test_wheel_and_keys_magnify_dragging_moves_and_show_all_goes_back(report):
    view = "(v => [v.sx, v.sy, v.ox, v.oy])(panels[0].dag)"
    home = report.evaluate(view)
    x, y = in_dag(report, index("gemm(2,1,0)"))
    report.mouse.move(x, y)
    report.mouse.wheel(0, -400)
    report.wait_for_function(f"{view}[0] > {home[0]} * 2")
    assert in_dag(report, index("gemm(2,1,0)")) == pytest.approx((x, y), abs=3)  # what is under the pointer stays
    before = report.evaluate(view)
    report.mouse.down()
    report.mouse.move(x + 60, y + 30, steps=3)
    report.mouse.up()
    after = report.evaluate(view)
    assert [b - a for a, b in zip(before, after, strict=True)] == pytest.approx([0, 0, 60, 30], abs=1)
    assert selected(report) is None  # a drag is no click
    report.locator("button.home").click()
    assert report.evaluate(view) == pytest.approx(home)
    report.locator("canvas.dag").focus()
    report.keyboard.press("+")
    assert report.evaluate(view)[0] == pytest.approx(1.3 * home[0])
    report.keyboard.press("0")
    assert report.evaluate(view) == pytest.approx(home)


def contrast(page, one, other):
    """WCAG's contrast ratio of two colours of the style sheet."""
    script = """names => names.map(name => {
        const value = getComputedStyle(document.documentElement).getPropertyValue(name).trim().slice(1);
        const [r, g, b] = [0, 2, 4].map(k => parseInt(value.slice(k, k + 2), 16) / 255)
          .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b + 0.05;
    })"""
    light, dark = sorted(page.evaluate(script, [one, other]), reverse=True)
    return light / dark


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_follows_the_system_and_text_is_readable(show, scheme):
    page = show(simulated().report, color_scheme=scheme)
    paper = {"light": [255, 255, 255], "dark": [22, 24, 27]}
    drawn = f"rgb({', '.join(map(str, paper[scheme]))})"
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == drawn
    assert pixel(page, "canvas.gantt", 2, 30) == paper[scheme]
    for ink in ("--ink", "--soft", "--path", "--mark"):
        assert contrast(page, ink, "--paper") >= 4.5
        assert contrast(page, ink, "--panel") >= 4.5
    page.locator("#theme").click()
    other = paper["dark" if scheme == "light" else "light"]
    assert pixel(page, "canvas.gantt", 2, 30) == other


def test_printed_pages_are_light_and_have_the_legend_but_no_controls(show):
    page = show(simulated().report, "#syrk(4,0)", color_scheme="dark")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert pixel(page, "canvas.gantt", 2, 30) == [255, 255, 255]
    assert not page.locator("input.search").is_visible()
    assert not page.locator("#theme").is_visible()
    assert page.locator(".ops").inner_text().split() == ["potrf", "trsm", "syrk", "gemm"]
    assert story(page).startswith("syrk(4,0)")
    page.emulate_media(media="screen")
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(22, 24, 27)"


def test_a_printed_report_is_a_document_of_a_few_pages(show):
    page = show(lambda path: simulated().report(path, simulated("lifo")))
    document = page.pdf(format="A4")
    assert document.startswith(b"%PDF")
    assert 2 <= len(re.findall(rb"/Type\s*/Page\b", document)) <= 6


def test_twenty_thousand_tasks_are_drawn_within_five_seconds(show):
    graph = tw.cholesky_graph(48)
    extra = graph.handles("B")
    for number in range(20_000 - len(graph)):
        graph.insert(tw.Op("extra"), tw.RW(extra[number % 20]))
    page = show(tw.simulate(graph, tw.Machine(workers=16)).report, "#potrf(47)")
    assert page.evaluate("panels[0].d.label.length") == 20_000
    assert int(page.evaluate("document.documentElement.dataset.ready")) < 5000
    assert "syrk(47,46)" in story(page)
    click(page, in_dag, index("potrf(0)", graph))
    assert selected(page) == "potrf(0)"


def test_a_larger_graph_is_drawn_in_groups_and_the_page_says_so(show):
    graph = tw.cholesky_graph(20)
    run = tw.simulate(graph, tw.Machine(workers=16))
    page = show(lambda path: path.write_text(run_page(run, limit=1000)))
    note = page.locator(".note").inner_text()
    assert note.startswith("1,540 tasks are more than the 1,000 that are drawn one by one")
    assert page.evaluate("panels[0].d.label.length") < 200
    page.locator("canvas.dag").focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    labels = page.evaluate("panels[0].d.label")
    assert sum(int(label.split()[0]) for label in labels) == 1540 and selected(page) in labels[1:]
    x, y = on_page(page.locator("canvas.gantt"), (500, 20))
    page.mouse.move(x, y)
    assert re.match(r"\w+\(.*\)( and \d+ more)?\n", page.locator("#tip").inner_text())


def test_a_comparison_shows_the_table_and_the_best_and_worst_run(show):
    table = tw.compare_schedulers(GRAPH, [1, 3], schedulers=["eager", "critical-path"])
    page = show(table.report)
    assert page.locator(".comparison .verdict").all_inner_texts() == [table.verdict(1), table.verdict(3)]
    heat = page.locator(".heat tbody tr").all_inner_texts()
    assert [row.split("\t")[0] for row in heat] == ["critical-path", "eager"]
    rows = page.locator(".comparison table:not(.heat) tbody tr")
    assert rows.count() == 3  # on one worker both make the same schedule
    assert rows.nth(1).inner_text().split("\t")[:3] == ["3", "critical-path", f"{table.rows[2].makespan:g}"]
    headings = "section.run:not([hidden]) h2"
    assert page.locator(headings).all_inner_texts() == ["best: critical-path on 3 workers", "worst: eager on 3 workers"]
    said = page.locator("#parting").inner_text()
    best, worst = (run for row, run in zip(table.rows, table.runs, strict=True) if row.workers == 3)
    orders = [sorted((record.start, record.task) for record in run.trace) for run in (best, worst)]
    count = next(k for k, (one, other) in enumerate(zip(*orders, strict=True)) if one != other)
    assert said.startswith(f"These two part after {count} tasks: critical-path on 3 workers begins ")
    assert said.endswith(
        f"takes {worst.makespan - best.makespan:g} ({worst.makespan / best.makespan - 1:.1%}) more.".replace("%", " %")
    )
    page.locator('.heat button[aria-label^="eager on 1 worker,"]').click()
    assert page.locator(headings).all_inner_texts() == ["worst: eager on 3 workers", "critical-path, eager on 1 worker"]
    assert page.evaluate("panels[2].gantt.width > 100 && panels[2].gantt.sx > 0")


def test_the_graph_of_an_explorer_is_picked_and_charts_have_the_scale_of_what_is_seen(show):
    tables = [
        tw.compare_schedulers(tw.cholesky_graph(nt), [1, 4], schedulers=["eager", "critical-path"]) for nt in (5, 8)
    ]
    page = show(lambda path: tables[0].report(path, *tables[1:]))
    headings, chart = "section.run:not([hidden]) h2", "panels[{0}].gantt.X(panels[{0}].d.makespan)"
    for k, table in enumerate(tables):
        if k:
            page.locator("#which").select_option(label=table.title)
        assert page.locator(".comparison .verdict:visible").all_inner_texts() == table.verdicts()
        (best, *_, worst) = [row for row in table if row.workers == 4]
        shown = page.locator(headings).all_inner_texts()
        assert shown == [f"best: {best.name} on 4 workers", f"worst: {worst.name} on 4 workers"]
        assert page.locator("#parting").inner_text().startswith("These two part after ")
        places = page.evaluate("shown")
        width = page.evaluate(f"panels[{places[0]}].gantt.width")
        ends = [page.evaluate(chart.format(place)) for place in places]
        assert max(ends) == pytest.approx(width - 12, abs=1)  # though the run on one worker takes longer
        assert (ends[0] - 64) / (ends[1] - 64) == pytest.approx(best.makespan / worst.makespan, rel=1e-3)
    page.locator('.comparison:not([hidden]) .heat button[aria-label*="on 1 worker,"]').first.click()
    last = page.evaluate("shown")[-1]
    assert page.evaluate(chart.format(last)) == pytest.approx(page.evaluate(f"panels[{last}].gantt.width") - 12, abs=1)


def test_a_notebook_frame_works_inside_another_page(show):
    page = show(
        lambda path: path.write_text(
            f"<!DOCTYPE html><html data-ready><link rel=icon href='data:,'>{GRAPH._repr_html_()}</html>"
        )
    )
    frame = page.frame_locator("iframe")
    frame.locator("canvas.dag").focus()
    frame.locator("canvas.dag").press("ArrowDown")
    assert frame.locator(".details").inner_text().startswith("potrf(0)")


def test_any_graph_of_functions_has_a_page(show):
    """No flops, no tiles, names twice: what a training loop or a graph of messages looks like."""
    graph = tw.TaskGraph("steps")
    x = graph.handle("x")
    for _ in range(3):
        graph.insert(list.sort, tw.RW(x))
    page = show(tw.run(graph, {"x": [2, 1]}, workers=2).report)
    assert page.locator("th", has_text="GFLOP/s").count() == 0
    assert "3, up to 1 at once" in page.locator(".facts").inner_text()
    page.locator("input.search").fill("sort")
    assert page.locator(".found").inner_text() == "3 found"


EVIL = '"><img src=x onerror="window.ran = 1"><script>window.ran = 2</script>'


def hostile(**options):
    """A run whose op, handles, graph, policy and engine have names that are markup; in rank 1 too."""
    g = tw.TaskGraph(EVIL)
    x = g.handles(EVIL)
    op = tw.Op(EVIL, weight=2)
    for i in range(2):
        g.insert(op, tw.W(x[i]))
    g.insert(op, tw.R(x[0]), tw.RW(x[1]))
    g.insert(tw.Op("<lambda>"), tw.R(x[1]), tw.W(x[2]))
    machine = tw.Machine(ranks=2, workers=1, alpha=1)
    run = tw.simulate(g, machine, owner=lambda h: h.index[0] % 2)
    return dataclasses.replace(run, scheduler=EVIL, **options)


def all_shown(page):
    """What the page says of each task, selected one after the other."""
    count = page.evaluate("panels[0].d.label.length")
    told = []
    for task in range(count):
        page.evaluate(f"panels[0].select({task})")
        told.append(page.locator(".details").first.inner_text())
        page.evaluate(f"tip.textContent = panels[0].describe({task})")
    return told


@pytest.mark.parametrize("kind", ["run", "several", "graph", "comparison", "training", "saved", "notebook"])
def test_what_a_task_is_called_is_shown_and_never_run(kind, show, tmp_path):
    run = hostile(backend="threads" if kind == "run" else "simulate")

    def write(path):
        if kind in ("run", "several"):
            run.report(path, *[run] * (kind == "several"))
        elif kind == "graph":
            run.graph.to_html(path)
        elif kind == "comparison":
            rows = tw.compare_schedulers(run.graph, [2], schedulers=["eager", "lifo"])
            rows.report(path)
        elif kind == "training":
            path.write_text(run_page(run, names=[EVIL], before=f"<pre>{html.escape(EVIL)}</pre>"))
        elif kind == "saved":
            run.save(tmp_path / "run.json")
            load(tmp_path / "run.json").report(path)
        else:
            path.write_text(
                frame(graph_page(run.graph)) + "<script>document.documentElement.dataset.ready = 1</script>"
            )

    page = show(write)
    if kind == "notebook":
        page.wait_for_timeout(200)
        page, outer = page.frames[1], page
        page.wait_for_selector("html[data-ready]")
        assert outer.locator("iframe").get_attribute("sandbox") == "allow-scripts"
        assert page.evaluate("origin") == "null"
    told = all_shown(page)
    assert EVIL in told[0] and "<lambda>(2)" in told[3] and EVIL in told[3]
    assert page.evaluate("window.ran") is None
    assert page.locator("img[src=x]").count() == 0
    if kind != "notebook":
        assert page.title() == (f"Schedulers on {EVIL}" if kind == "comparison" else EVIL)
    if kind == "run":  # and had there been markup, the page's policy would not run it
        page.evaluate(
            "document.body.insertAdjacentHTML('beforeend', '<button id=b onclick=\"window.ran = 3\">b</button>')"
        )
        page.evaluate("document.getElementById('b').click()")
        assert page.evaluate("window.ran") is None
        show.errors[-1].clear()


def test_the_live_page_follows_a_run_to_its_end(browser):
    gate = threading.Event()

    def step(v, number):
        time.sleep(0.001)  # one worker alone would take tasks that have only been short, and wait in the last
        assert number < 9 or gate.wait(60)

    graph = tw.TaskGraph("steps")
    x = graph.handles("x")
    for number in range(10):
        graph.insert(step, tw.RW(x[number % 3]), number)
    live = LivePage()
    caller = threading.Thread(
        target=lambda: tw.run(graph, {x[k]: 0 for k in range(3)}, workers=2, progress=live), name="caller"
    )
    caller.start()
    while not live.address:
        caller.join(0.01)
    context = browser.new_context(viewport={"width": 390, "height": 844}, color_scheme="dark")
    page = context.new_page()
    errors, requests = [], []
    page.on("console", lambda message: errors.append(message.text))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    try:
        page.goto(live.address)
        page.locator("#tasks", has_text="9 of 10").wait_for()  # functions to wait for are refused by its policy
        assert page.locator("#title").inner_text() == "steps: critical-path on threads"
        assert (
            page.locator("#state").inner_text() == "running" and page.title() == "90 % steps: critical-path on threads"
        )
        assert page.locator("#queue").inner_text() == f"1 ready or running, on {page.evaluate('lanes.length')} workers"
        assert page.locator("#ops").inner_text() == "step 9 of 10"
        assert page.evaluate("[bars.length, document.getElementById('bar').value]") == [9, 9]
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
    finally:
        gate.set()
        caller.join()
        live.close()
    page.locator("#state", has_text="done").wait_for()
    assert page.locator("#tasks").inner_text() == "10 of 10, 100.0 %"
    last = page.evaluate("bars.find(bar => bar[3] === Math.max(...bars.map(b => b[3])))")
    page.locator("#gantt").evaluate("c => c.scrollIntoView()")
    box = page.locator("#gantt").bounding_box()
    lane = page.evaluate("lanes.map(String)").index(f"{last[0]},{last[1]}")
    place = page.evaluate("([start, end]) => (X(gantt, start) + X(gantt, end)) / 2", last[2:4])
    page.mouse.move(box["x"] + 1 + place, box["y"] + 1 + 12 + 30 * lane + 12)
    assert page.locator("#tip").inner_text().startswith("step(0)\n")
    assert errors == [] and set(requests) <= {live.address, f"{live.address}events", "data:,"}
    context.close()


@pytest.mark.needs("torch")
def test_a_training_is_shown_as_phases_and_its_warm_up_left_out(show):
    from tilewright.training.step import Division, Span, training_graph

    graph, _ = training_graph(Division(2, words=(4,)), Span(0, 6, 64, 8, 8))
    cost = [40.0 if t < 20 else 1.0 for t in range(len(graph))]  # the first step takes long
    found = phases(graph)
    machine = tw.Machine(ranks=2, workers=1)
    run = tw.simulate(graph, machine)
    ends, records = {}, []
    for record in run.trace:  # the same order, with those durations
        start = max(
            [ends.get(record.rank, 0.0), *(ends.get(("t", p), 0.0) for p in graph.tasks[record.task].predecessors)]
        )
        ends[record.rank] = ends["t", record.task] = start + cost[record.task]
        records.append(record._replace(start=start, end=start + cost[record.task]))
    run = dataclasses.replace(run, trace=Trace(graph, 1, records, ranks=2))
    first = max(r.end for r in records if found[r.task][0] == 0 and found[r.task].phase == "update")
    chart = gantt.figure(run)
    named = [text.get_text() for text in chart.legends[0].get_texts()]
    assert set(named) >= {phase for phase in PHASES if any(one.phase == phase for one in found)}
    assert not {"forward_loss", "pack"} & set(named)
    assert chart.axes[0].get_xlim()[0] == first and "warm-up, is left out" in chart.axes[0].get_title("left")
    page = show(run.report)
    labels = page.evaluate("panels[0].d.label")
    assert labels == [str(phase) for phase in dict.fromkeys(found)]
    assert "forward, step 3, place 1" in labels and len(labels) < len(graph) / 2
    legend = page.locator(".ops").inner_text().split("\n")
    assert legend == [phase for phase in PHASES if any(one.phase == phase for one in found)]
    first = max(r.end for r in records if found[r.task][0] == 0 and found[r.task].phase == "update")
    assert page.evaluate("panels[0].d.from") == first
    assert page.evaluate("panels[0].gantt.X(panels[0].d.from)") == pytest.approx(64)
    assert "is left of the chart: Show all." in page.locator(".note").inner_text()
    counted = f"This counts the first step, {first / run.makespan:.0%} of the run with its warm-up."
    assert page.locator(".verdict").inner_text().endswith(counted)
    page.locator("button.home").click()
    assert page.evaluate("panels[0].gantt.X(0)") == pytest.approx(64)
    totals = page.evaluate("panels[0].d.cost")
    for number, phase in enumerate(dict.fromkeys(found)):
        assert totals[number] == pytest.approx(sum(cost[t] for t in range(len(graph)) if found[t] == phase))
