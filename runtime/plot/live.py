"""A page that follows runs while they go on, served to browsers of this computer alone.

One thread listens on 127.0.0.1, and one more serves each browser, at most `BROWSERS` of them. The address has a random
token, without which nothing is served. What workers tell is put on a list; only where a browser looks is something made
of it, so that a browser that never comes costs nothing. One that is slow or goes away is dropped. All threads are gone
when `LivePage.close` returns, which is where the run is over.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
import hmac
import html
import json
import secrets
import selectors
import socket
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.resources import files
from itertools import chain
from time import monotonic, perf_counter, thread_time
from typing import Any, Self

import numpy as np

from tilewright.graph import Task, TaskGraph
from tilewright.plot.palette import colours
from tilewright.runs.progress import Rows

__all__ = ["BARS", "LivePage"]

BARS = 10_000
"""Bars of the Gantt chart; where there are more, neighbours become one."""
BROWSERS = 8
"""Connections that are served at a time."""
_PENDING = 50_000  # tasks that are kept as they were told until somebody looks
_EVERY = 0.4  # seconds between two things a browser is told
_NEWS = 400  # bars and flops of tasks that are made for a browser at a time, while tasks run
_SHARE = 0.005  # of one core, for each browser: what costs more is told less often
_PATIENCE = 3.0  # seconds for a browser to ask, or to take what it is sent
_FAREWELL = 1.0  # seconds for browsers to take the last word

_RANK, _WORKER, _TASK, _START, _END, _COUNT = range(6)
"""Columns of bars: those of `Ran`, and how many tasks a bar stands for. Its task is the longest among them."""


class _Story:
    """One run so far. Its methods are called with the lock of the page."""

    def __init__(
        self, number: int, graph: TaskGraph, title: str, flops: Callable[[Task], float], virtual: bool
    ) -> None:
        self.number, self.graph, self.title, self.flops, self.virtual = number, graph, title, flops, virtual
        self.began = perf_counter()
        self.done = 0
        self.over = ""
        self.ended = 0.0
        self.pending: list[Rows] = []
        self.waiting = 0
        """Rows of ``pending``."""
        self.bars = np.zeros((0, _COUNT + 1))
        self.shift = 0
        """How often bars were made one; whoever has seen them before has to see all again."""
        self.weighed = 0.0
        """Flops of the tasks that are done, but for those `unweighed`."""
        self.unweighed: list[int] = []
        self.ops: list[str] = []
        self.begun = False  # what follows is there
        self.op_of = self.of_op = self.done_of_op = self.missing = self.first = self.successors = np.zeros(0, int)
        self.ended_tasks = np.zeros(0, bool)
        self.ready = 0
        """Tasks whose predecessors are done, and which are not."""

    @property
    def now(self) -> float:
        return (self.ended or perf_counter()) - self.began

    @property
    def worked(self) -> float:
        """Flops of the tasks that are done; of those whose turn did not come yet, as of the mean of the others."""
        known = int(self.done_of_op.sum()) - len(self.unweighed)
        return self.weighed * (1 + len(self.unweighed) / known) if known else 0.0

    def end(self, how: str) -> None:
        self.ended, self.over = perf_counter(), how

    def tell(self, rows: Rows) -> None:
        self.pending.append(rows)
        self.waiting += len(rows)
        if self.waiting > _PENDING:
            self.fold()

    def fold(self) -> None:
        """Make bars, numbers by op and the queue of what was told. O(tasks of the graph), in a few array calls."""
        if not self.begun:
            self._begin()
        rows = np.concatenate([np.zeros((0, _COUNT)), *(np.reshape(rows, (-1, _COUNT)) for rows in self.pending)])
        self.pending.clear()
        self.waiting = 0
        index = rows[:, _TASK].astype(int)
        self.done_of_op += np.bincount(self.op_of[index], minlength=len(self.ops))
        new = np.unique(index[~self.ended_tasks[index]])  # one that ran on several ranks is in several rows
        self.ended_tasks[new] = True
        count = self.first[new + 1] - self.first[new]
        before = np.repeat(np.cumsum(count) - count, count)
        followers = self.successors[np.repeat(self.first[new], count) + np.arange(count.sum()) - before]
        self.missing -= np.bincount(followers, minlength=len(self.missing))
        self.ready = int(np.count_nonzero((self.missing == 0) & ~self.ended_tasks))
        self.unweighed.extend(index.tolist())
        turn, self.unweighed = (self.unweighed, []) if self.over else (self.unweighed[:_NEWS], self.unweighed[_NEWS:])
        self.weighed += sum(self.flops(self.graph.tasks[task]) for task in turn)
        fresh = np.column_stack([rows, np.ones(len(rows))])
        if len(fresh) > _NEWS and not self.over:
            fresh = _merged(fresh, _NEWS)
        self.bars = np.concatenate([self.bars, fresh])
        if len(self.bars) > BARS:
            self.bars = _merged(self.bars, BARS // 2)
            self.shift += 1

    def _begin(self) -> None:
        self.begun = True
        tasks = self.graph.tasks
        op_of: dict[str, int] = {}
        self.op_of = np.array([op_of.setdefault(task.op.name, len(op_of)) for task in tasks], int)
        self.ops = list(op_of)
        self.of_op = np.bincount(self.op_of, minlength=len(op_of))
        self.done_of_op = np.zeros_like(self.of_op)
        self.missing = np.array([len(task.predecessors) for task in tasks], int)
        self.ended_tasks = np.zeros(len(tasks), bool)
        followers = self.graph.successor_indices()  # which the engine has made already
        self.first = np.concatenate([[0], np.cumsum([len(of) for of in followers], dtype=int)])
        self.successors = np.fromiter(chain.from_iterable(followers), int, int(self.first[-1]))

    def facts(self) -> dict[str, Any]:
        """What does not change."""
        fills = colours(self.ops)
        return {"title": self.title, "total": len(self.graph), "ops": self.ops, "of": self.of_op.tolist(),
                "colours": [fills[name] for name in self.ops], "virtual": self.virtual}  # fmt: skip

    def news(self, first: int) -> dict[str, Any]:
        """What to draw, with the bars from ``first`` on."""
        tasks = self.graph.tasks
        bars = []
        for rank, worker, task, start, end, count in self.bars[first:].tolist():
            more = f" and {count - 1:.0f} more" * (count > 1)
            op = int(self.op_of[int(task)])
            bars.append([int(rank), int(worker), round(start, 7), round(end, 7), op, tasks[int(task)].label + more])
        done = max(self.done, int(self.done_of_op.sum()))
        return {"run": self.number, "done": min(done, len(self.graph)), "now": self.now, "flops": self.worked,
                "ready": self.ready, "each": self.done_of_op.tolist(), "bars": bars, "over": self.over}  # fmt: skip


def _merged(bars: np.ndarray, most: int) -> np.ndarray:
    """Those of a worker whose middles lie in the same slice of time become one; ``most`` bars, and one a worker."""
    lanes = np.unique(bars[:, [_RANK, _WORKER]], axis=0, return_inverse=True)[1].reshape(-1)
    middle = (bars[:, _START] + bars[:, _END]) / 2
    slices = max(most // (lanes.max() + 1), 1)
    width = np.ptp(middle) / slices or 1.0
    place = lanes * slices + np.minimum((middle - middle.min()) / width, slices - 1).astype(int)
    order = np.lexsort((bars[:, _END] - bars[:, _START], place))
    bars, place = bars[order], place[order]
    first = np.flatnonzero(np.diff(place, prepend=-1))
    thinner = bars[np.append(first[1:], len(bars)) - 1]  # the longest of each
    thinner[:, _START] = np.minimum.reduceat(bars[:, _START], first)
    thinner[:, _END] = np.maximum.reduceat(bars[:, _END], first)
    thinner[:, _COUNT] = np.add.reduceat(bars[:, _COUNT], first)
    return thinner


class LivePage:
    """A `tilewright.runs.progress.Follower`: what is told of runs, on a page. A block that serves it.

    It is served from the first run on; the address is written to standard error. OSError if no port can be had.
    """

    def __init__(self) -> None:
        self.address = ""
        """Where it is served; empty before the first run."""
        self.token = secrets.token_urlsafe(16)
        self.changed = threading.Condition()
        self.story: _Story | None = None
        self.closed = False
        self._server: _Server | None = None
        self._runs = 0

    # What the caller's side tells

    def begin(self, graph: TaskGraph, title: str, flops: Callable[[Task], float], virtual: bool) -> None:
        with self.changed:
            self._runs += 1
            self.story = _Story(self._runs, graph, title, flops, virtual)
            self.changed.notify_all()
        if self._server is None and not self.closed:
            self._server = _Server(self)
            self.address = f"http://127.0.0.1:{self._server.server_port}/{self.token}/"
            sys.stderr.write(f"follow the run at {self.address}\n")
            sys.stderr.flush()

    def ran(self, rows: Rows) -> None:
        story = self.story
        if story is not None:
            with self.changed:
                story.tell(rows)

    def __call__(self, done: int) -> None:
        if self.story is not None:
            self.story.done = done

    def end(self, how: str) -> None:
        if self.story is not None:
            with self.changed:
                self.story.end(how)
                self.changed.notify_all()

    def close(self) -> None:
        """Tell browsers the last word, and end all threads. Harmless if that was done."""
        with self.changed:
            self.closed = True
            self.changed.notify_all()
        server, self._server = self._server, None
        if server is not None:
            server.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    # What browsers are told

    def stream(self, send: Callable[[dict[str, Any]], object]) -> None:
        """Pass on what there is, now and then, until the page is closed."""
        shown, first, shift, last = 0, 0, 0, False
        while not last:
            began = thread_time()
            with self.changed:
                last, story = self.closed, self.story
                if story is not None:
                    story.fold()
                    if shown != story.number:
                        first = 0
                    again = shown != story.number or shift != story.shift
                    found = story.news(0 if again else first)
                    if shown != story.number:
                        found |= story.facts()
                    found |= {"again": again, "closed": last}
                    shown, first, shift = story.number, len(story.bars), story.shift
            if story is not None:
                send(found)
            with self.changed:
                if not last and not self.closed and (self.story is None or self.story.number == shown):
                    over = story.over if story is not None else ""
                    until = monotonic() + max(_EVERY, (thread_time() - began) / _SHARE)
                    while (left := until - monotonic()) > 0 and not self.closed:
                        self.changed.wait(left)
                        if self.story is not None and self.story.over != over:
                            break


class _Server(HTTPServer):
    """Threads of its own for listening and for each browser, all of which `close` ends."""

    request_queue_size = 4 * BROWSERS

    def __init__(self, page: LivePage) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.page = page
        self.document = _document()
        self.browsers: dict[threading.Thread, socket.socket] = {}
        self.known: set[threading.Thread] = set()
        """Those that have shown the token."""
        self.dismissed: set[threading.Thread] = set()
        """Those that had to make room, and are about to end."""
        self.listening: set[threading.Thread] = set()
        """Those that get events, and want to hear the last word."""
        self.lock = threading.Lock()
        self.timeout = 0  # of `handle_request`
        self.bell, self.listener = socket.socketpair()  # `serve_forever` looks now and then whether it is to end
        self.thread = threading.Thread(target=self._listen, name="tilewright-live", daemon=True)
        self.thread.start()

    def _listen(self) -> None:
        with selectors.DefaultSelector() as waiting:
            waiting.register(self.listener, selectors.EVENT_READ)
            waiting.register(self.socket, selectors.EVENT_READ)
            while self.listener not in [key.fileobj for key, _ in waiting.select()]:
                self.handle_request()

    def server_bind(self) -> None:
        _bind(self)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve it in a thread of its own. Where all places are taken, who sat longest without the token goes."""
        with self.lock:
            staying = [thread for thread in self.browsers if thread not in self.dismissed]
            full = len(staying) >= BROWSERS
            oldest = next((thread for thread in staying if thread not in self.known), None) if full else None
            if oldest is not None:
                self.dismissed.add(oldest)
                with contextlib.suppress(OSError):
                    self.browsers[oldest].shutdown(socket.SHUT_RDWR)
            welcome = not full or oldest is not None
            if welcome:
                thread = threading.Thread(
                    target=self._serve, args=(request, client_address), name="tilewright-live-browser", daemon=True
                )
                self.browsers[thread] = request
        if welcome:
            thread.start()
        else:
            self.shutdown_request(request)

    def _serve(self, request: Any, client_address: Any) -> None:
        try:
            with contextlib.suppress(OSError):  # it has gone, or takes nothing
                self.finish_request(request, client_address)
        finally:
            self.shutdown_request(request)
            with self.lock:
                me = threading.current_thread()
                self.browsers.pop(me, None)
                self.dismissed.discard(me)
                self.known.discard(me)

    def close(self) -> None:
        self.bell.close()  # which the listener hears
        self.thread.join()
        self.listener.close()
        self.server_close()
        deadline = monotonic() + _FAREWELL
        with self.lock:
            left = dict(self.browsers)
        for thread in self.listening & left.keys():
            thread.join(max(0.0, deadline - monotonic()))
        for thread, request in left.items():
            if thread.is_alive():
                with contextlib.suppress(OSError):
                    request.shutdown(socket.SHUT_RDWR)
        for thread in left:
            thread.join()


def _bind(server: HTTPServer) -> None:
    """Bind without looking up the host's name, which may take seconds where there is no network."""
    server.socket.bind(server.server_address)
    server.server_address = server.socket.getsockname()
    server.server_name, server.server_port = server.server_address[:2]  # type: ignore[assignment]


class _Handler(BaseHTTPRequestHandler):
    """``GET /<token>/`` is the page, ``GET /<token>/events`` what it is told; all else is refused."""

    server: _Server
    timeout = _PATIENCE
    server_version, sys_version = "tilewright", ""

    def do_GET(self) -> None:
        _, _, rest = self.path.partition("/")
        token, _, what = rest.partition("/")
        port = self.server.server_port
        known = hmac.compare_digest(token.encode(), self.server.page.token.encode())
        if not known or self.headers.get("Host") not in (f"127.0.0.1:{port}", f"localhost:{port}"):
            self.send_error(403)
            return
        self.server.known.add(threading.current_thread())
        if what == "events":
            self._head("text/event-stream")
            self.server.listening.add(threading.current_thread())
            self.server.page.stream(self._say)
        elif what == "":
            self._head("text/html; charset=utf-8")
            self.wfile.write(self.server.document)
        else:
            self.send_error(404)

    def _head(self, kind: str) -> None:
        self.send_response(200)
        for name, value in (
            ("Content-Type", kind), ("Cache-Control", "no-store"), ("Referrer-Policy", "no-referrer"),
            ("X-Content-Type-Options", "nosniff"), ("X-Frame-Options", "DENY"),
        ):  # fmt: skip
            self.send_header(name, value)
        self.end_headers()

    def _say(self, found: dict[str, Any]) -> None:
        self.wfile.write(f"data: {json.dumps(found, separators=(',', ':'))}\n\n".encode())

    def log_message(self, *_: Any) -> None:
        """Say nothing: standard error is the user's."""


@functools.cache
def _document() -> bytes:
    folder = files("tilewright.plot")
    style, script = ((folder / name).read_text(encoding="utf-8") for name in ("page.css", "live.js"))
    known = base64.b64encode(hashlib.sha256(f"\n{script}".encode()).digest()).decode()
    policy = (
        f"default-src 'none'; script-src 'sha256-{known}'; style-src 'unsafe-inline'; img-src data:; connect-src 'self'"
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{html.escape(policy)}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>tilewright, live</title>
<style>
{style}</style>
</head>
<body>
<header><h1 id="title">waiting for a run</h1><span id="state" class="soft" role="status">connecting</span></header>
<progress id="bar" value="0" max="1" aria-label="Tasks done"></progress>
<table class="facts"><tbody>
<tr><th scope=row>tasks</th><td id="tasks"></td></tr>
<tr><th scope=row>time</th><td id="time"></td></tr>
<tr><th scope=row>rate</th><td id="rate"></td></tr>
<tr><th scope=row>queue</th><td id="queue"></td></tr>
</tbody></table>
<h3>Gantt chart so far</h3>
<canvas id="gantt" role="img" aria-label="Gantt chart so far: one row per worker, one bar per task"></canvas>
<div id="ops" class="legend ops"></div>
<h3>Tasks that are ready or run, and the rate</h3>
<canvas id="times" style="height:90px" role="img" aria-label="Ready tasks and rate over time"></canvas>
<div id="tip" role="tooltip"></div>
<script>
{script}</script>
</body>
</html>
""".encode()
