"""The page that follows a run: what it tells by value, whom it refuses, and that nobody can hold up the run.

What it looks like in a browser is in `test_html_browser.py`; ranks and Dask workers are in the tests of their engines.
"""

import json
import re
import selectors
import socket
import threading
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from itertools import pairwise

import numpy as np
import pytest

import tilewright as tw
from tilewright.plot import live
from tilewright.plot.live import _COUNT, _END, _NEWS, _START, _TASK, BARS, BROWSERS, LivePage, _Story
from tilewright.runs.progress import Ran


@pytest.fixture(autouse=True)
def no_thread_is_left():
    before = set(threading.enumerate())
    yield
    assert {thread.name for thread in set(threading.enumerate()) - before} == set()


def gated(count=12):
    """A graph of tasks of which the last waits for ``gate``, and its data."""
    gate = threading.Event()

    def step(v, number):
        time.sleep(0.001)  # or one worker would take them all, and wait in the last before it has run the others
        if number == count - 1:
            assert gate.wait(30)
        v += 1

    g = tw.TaskGraph("steps")
    x = g.handles("x")
    for number in range(count):
        g.insert(step, tw.RW(x[number % 2]), number)
    return g, {x[k]: np.zeros(1) for k in range(2)}, gate


@contextmanager
def reading(page, found, gate=None):
    """A thread that reads the stream of a page into ``found``, and opens the gate once all but one task are told."""

    def read():
        total = None
        for line in urllib.request.urlopen(page.address + "events", timeout=30):
            if line.startswith(b"data: "):
                found.append(json.loads(line[6:]))
                total = found[-1].get("total", total)
                if gate is not None and sum(len(news["bars"]) for news in found) >= total - 1:
                    gate.set()

    def begin():
        while not page.address:
            started.wait(0.01)
        read()

    started = threading.Event()
    thread = threading.Thread(target=begin)
    thread.start()
    try:
        yield
    finally:
        thread.join()


@pytest.mark.parametrize(("backend", "workers"), [("serial", None), ("threads", 1), ("threads", 2)])
def test_the_page_tells_every_task_where_and_when_it_ran(backend, workers):
    graph, data, gate = gated()
    page, found = LivePage(), []
    with reading(page, found, gate), page:
        run = tw.run(graph, data, backend=backend, workers=workers, progress=page)
    first, last = found[0], found[-1]
    assert first["title"] == f"steps: critical-path on {backend}"
    assert (first["total"], first["ops"], first["of"]) == (12, ["step"], [12])
    assert (last["done"], last["each"], last["ready"], last["over"], last["closed"]) == (12, [12], 0, "done", True)
    before = next(news for news in found if sum(news["each"]) == 11)
    assert before["over"] == "" and before["ready"] == 1  # all but the one that waits for this page
    bars = [bar for news in found for bar in news["bars"]]
    records = [[r.rank, r.worker, r.start, r.end, 0, graph.tasks[r.task].label] for r in run.trace]
    assert sorted(bar[5] for bar in bars) == sorted(record[5] for record in records)
    bars, records = (sorted(rows, key=lambda row: (row[5], row[2])) for rows in (bars, records))
    for bar, record in zip(bars, records, strict=True):
        assert bar[:2] == record[:2] and bar[2:4] == pytest.approx(record[2:4], abs=1e-6)


def test_a_simulation_is_told_in_its_own_time():
    graph = tw.cholesky_graph(4)
    page = LivePage()
    with page:
        run = tw.simulate(graph, tw.Machine(workers=3), progress=page)
        page.story.fold()
        news = page.story.news(0) | page.story.facts()
    assert news["virtual"] and news["flops"] == 0
    assert sorted(bar[:4] for bar in news["bars"]) == sorted([0, r.worker, r.start, r.end] for r in run.trace)


def test_flops_on_the_page_are_those_of_the_run():
    page = LivePage()
    with page:
        _, run = tw.tiled_cholesky(np.eye(40) * 2, tile_size=10, workers=2, return_run=True, progress=page)
        page.story.fold()
    assert page.story.worked == pytest.approx(run.flops)


def test_only_who_knows_the_token_is_served_and_only_on_this_computer():
    graph, data, gate = gated()
    page, answers = LivePage(), {}

    def ask(address, **headers):
        try:
            with urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=30) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            return error.code

    def look():
        while not page.address:
            pass
        port = page._server.server_port
        answers["host"] = page._server.server_address[0]
        answers["right"] = ask(page.address)
        answers["by name"] = ask(page.address.replace("127.0.0.1", "localhost"), Host=f"localhost:{port}")
        answers["wrong"] = ask(page.address.replace(page.token, "A" * len(page.token)))
        answers["none"] = ask(f"http://127.0.0.1:{port}/")
        answers["stream"] = ask(f"http://127.0.0.1:{port}//events")
        answers["other host"] = ask(page.address, Host=f"attacker.example:{port}")
        answers["other path"] = ask(page.address + "data")
        with urllib.request.urlopen(page.address, timeout=30) as answer:
            answers["policy"] = answer.headers["Cache-Control"], answer.headers["Referrer-Policy"]
        gate.set()

    thread = threading.Thread(target=look)
    thread.start()
    tw.run(graph, data, workers=2, progress=page)
    thread.join()
    page.close()
    assert answers == {
        "host": "127.0.0.1", "right": 200, "by name": 200, "wrong": 403, "none": 403, "stream": 403, "other host": 403,
        "other path": 404, "policy": ("no-store", "no-referrer"),
    }  # fmt: skip
    assert len(page.token) >= 22  # 128 bits
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", int(page.address.split(":")[2].split("/")[0])), timeout=5)


def test_browsers_that_say_nothing_go_away_or_read_nothing_hold_up_no_run():
    graph, data, gate = gated()
    page, visitors = LivePage(), []

    def look():
        while not page.address:
            pass
        port = page._server.server_port
        request = f"GET /{page.token}/events HTTP/1.0\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode()
        for said in (b"", b"GET /", request, request):
            visitors.append(socket.create_connection(("127.0.0.1", port), timeout=30))
            visitors[-1].sendall(said)
        assert visitors[2].recv(100)
        visitors[2].close()  # the others never read and never go
        for _ in range(20):  # more than are served
            visitors.append(socket.create_connection(("127.0.0.1", port), timeout=30))
        gate.set()

    thread = threading.Thread(target=look)
    thread.start()
    run = tw.run(graph, data, workers=2, progress=page)
    thread.join()
    page.close()
    assert len(run.trace) == 12 and [float(v[0]) for v in data.values()] == [6, 6]
    for visitor in visitors:
        visitor.close()


def test_whoever_holds_all_places_in_silence_keeps_nobody_out():
    page, crowd = LivePage(), []
    page.begin(tw.cholesky_graph(2), "a run", lambda task: 0.0, False)
    port = page._server.server_port
    for _ in range(2 * BROWSERS):  # they begin to ask, and never end
        crowd.append(socket.create_connection(("127.0.0.1", port), timeout=30))
        crowd[-1].sendall(b"GET /")
    with urllib.request.urlopen(page.address, timeout=30) as answer:
        assert answer.status == 200
    request = f"GET /{page.token}/events HTTP/1.0\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode()
    reader = socket.create_connection(("127.0.0.1", port), timeout=30)
    reader.sendall(request)
    assert reader.recv(100).startswith(b"HTTP/1.0 200")
    for _ in range(2 * BROWSERS):  # who has shown the token stays
        crowd.append(socket.create_connection(("127.0.0.1", port), timeout=30))
    with urllib.request.urlopen(page.address, timeout=30) as answer:
        assert answer.status == 200
    assert any(thread in page._server.known for thread in page._server.browsers)
    page.close()
    for visitor in [reader, *crowd]:
        visitor.close()


def test_the_page_says_what_ended_a_run():
    def fail(v):
        raise ValueError("no such tile")

    g = tw.TaskGraph("broken")
    g.insert(fail, tw.RW(g.handle("x")))
    page = LivePage()
    with pytest.raises(ValueError, match="no such tile"), page:
        tw.run(g, {"x": np.zeros(1)}, progress=page)
    assert page.story.over == "ValueError: no such tile"


def test_one_page_follows_all_runs_of_a_call(capfd):
    tw.solve(np.eye(40) * 2, np.ones(40), tile_size=8, precision="bf16", progress="page")
    tw.compare_schedulers(tw.cholesky_graph(2), [1, 2], schedulers=["eager", "lifo"], progress="page")
    tw.tiled_cholesky(np.eye(8), tile_size=4, progress="page")
    addresses = re.findall(r"^follow the run at (http://127\.0\.0\.1:\d+/[\w-]{22}/)$", capfd.readouterr().err, re.M)
    assert len(addresses) == len(set(addresses)) == 3


def test_ready_tasks_are_counted_whatever_the_order_in_which_ends_are_told():
    rng = np.random.default_rng(0)
    for graph in (tw.cholesky_graph(4), tw.cholesky_graph(5), tw.lu_graph(4, 3)):
        story = _Story(1, graph, "", lambda task: 0.0, False)
        order = rng.permutation(len(graph))
        done = set()
        for index in order:
            story.tell([Ran(0, 0, int(index), 0.0, 1.0)])
            story.fold()
            done.add(int(index))
            ready = [t for t in graph if t.index not in done and done.issuperset(t.predecessors)]
            assert story.ready == len(ready)


def test_of_many_tasks_neighbours_become_one_bar_and_none_is_lost():
    count = 5 * BARS
    g = tw.TaskGraph("many")
    x = g.handles("x")
    op = tw.Op("step")
    for number in range(count):
        g.insert(op, tw.RW(x[number % 3]))
    story = _Story(1, g, "", lambda task: 1.0, False)
    for number in range(count):
        story.tell([Ran(number % 2, 0, number, float(number), number + 1.5)])
        if number % 1500 == 1499:
            before = len(story.bars)
            story.fold()
            assert len(story.bars) <= before + _NEWS  # what a browser is told at a time
    story.tell(np.array([Ran(1, 3, 0, 7.0, 8.0)]))  # a task that ran on two ranks, told as an array
    story.end("done")
    story.fold()
    assert len(story.bars) <= BARS and story.shift > 0
    assert story.bars[:, _COUNT].sum() == count + 1 == story.worked
    for lane, first, last in (((0, 0), 0.0, count - 0.5), ((1, 0), 1.0, count + 0.5), ((1, 3), 7.0, 8.0)):
        bars = sorted(bar[_START : _END + 1] for bar in story.bars.tolist() if tuple(bar[:_TASK]) == lane)
        assert bars[0][0] == first and bars[-1][1] == last
        assert all(one[1] <= other[0] for one, other in pairwise(bars))
    longest = story.bars[np.argmax(story.bars[:, _COUNT])]
    told = story.news(0)["bars"][int(np.argmax(story.bars[:, _COUNT]))]
    assert told[5] == f"step({int(longest[_TASK]) % 3}) and {longest[_COUNT] - 1:.0f} more"


def test_while_tasks_run_flops_of_a_browser_s_turn_are_counted_and_the_rest_taken_for_their_mean():
    g = tw.TaskGraph("two kinds")
    small, large = tw.Op("small"), tw.Op("large")
    for number in range(4 * _NEWS):
        g.insert(large if number % 4 else small, tw.W(g.handles("x")[number]))
    counted = []

    def flops(task):
        counted.append(task.index)
        return 1.0 if task.op is small else 5.0

    story = _Story(1, g, "", flops, False)
    story.tell([Ran(0, 0, number, float(number), number + 1.0) for number in range(2 * _NEWS)])
    story.fold()
    assert counted == list(range(_NEWS)) and story.worked == 2 * _NEWS * 4.0
    story.fold()
    assert counted == list(range(2 * _NEWS)) and story.worked == 2 * _NEWS * 4.0
    story.tell([Ran(0, 0, number, float(number), number + 1.0) for number in range(2 * _NEWS, 4 * _NEWS)])
    story.end("done")
    story.fold()
    assert len(counted) == 4 * _NEWS and story.worked == 4 * _NEWS * 4.0


@pytest.mark.parametrize(("cost", "least"), [(0.001, 0.4), (0.01, 2.0)])
def test_a_browser_that_costs_more_than_its_share_is_told_less_often(monkeypatch, cost, least):
    page, clock, told = LivePage(), [0.0, 0.0], []
    monkeypatch.setattr(live, "thread_time", lambda: clock[0])
    monkeypatch.setattr(live, "monotonic", lambda: clock[1])
    page.story = _Story(1, gated()[0], "", lambda task: 0.0, False)

    def wait(seconds):
        clock[1] += seconds
        if len(told) == 3:
            page.closed = True

    def send(found):
        clock[0] += cost
        told.append(clock[1])

    monkeypatch.setattr(page.changed, "wait", wait)
    page.stream(send)
    assert told == pytest.approx([0.0, least, 2 * least, 3 * least])


def test_the_end_of_a_page_waits_for_no_clock(monkeypatch):
    """The thread that listens is woken, and does not look now and then: it would be asked for in vain here."""
    page = LivePage()
    waits = []
    select = selectors.DefaultSelector.select

    def noted(self, timeout=None):
        if threading.current_thread().name.startswith("tilewright-live"):  # not the loop of a Dask client
            waits.append(timeout)
        return select(self, timeout)

    monkeypatch.setattr(selectors.DefaultSelector, "select", noted)
    with page:
        page.begin(gated()[0], "", lambda task: 0.0, False)
        urllib.request.urlopen(page.address, timeout=30).close()
    assert waits and all(timeout is None for timeout in waits)


@pytest.mark.parametrize("wrong", ["pages", "", 2, None, [True]])
def test_other_words_for_progress_are_refused(wrong):
    with pytest.raises(TypeError, match="progress must be True or False"):
        tw.run(*gated()[:2], progress=wrong)
