"""A page that follows runs while they go on, served to browsers of this computer alone.

One thread listens on 127.0.0.1, and one more serves each browser, at most `BROWSERS` of them. The address has a random
token, without which nothing is served. What workers tell is put on a list; only where a browser looks is something made
of it, so that a browser that never comes costs nothing. One that is slow or goes away is dropped. All threads are gone
when `LivePage.close` returns, which is where the run is over.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import html
import json
import secrets
import socket
import sys
import threading
from collections.abc import Callable, Iterable
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.resources import files
from time import monotonic, perf_counter
from typing import Any, Self

from tilewright.graph import Task, TaskGraph
from tilewright.plot.palette import colours
from tilewright.runs.progress import Ran

__all__ = ["BARS", "LivePage"]

BARS = 20_000
"""Bars of the Gantt chart; where there are more, neighbours become one."""
BROWSERS = 8
"""Connections that are served at a time."""
_PENDING = 50_000  # tasks that are kept as they were told until somebody looks
_EVERY = 0.4  # seconds between two things a browser is told
_PATIENCE = 3.0  # seconds for a browser to ask, or to take what it is sent
_FAREWELL = 1.0  # seconds for browsers to take the last word

Bar = tuple[int, int, float, float, int, int, int]
"""Rank, worker, start, end, op, task, how many tasks; op and task are those of the longest among them."""


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
        self.pending: list[Ran] = []
        self.bars: list[Bar] = []
        self.shift = 0
        """How often bars were made one; whoever has seen them before has to see all again."""
        self.worked = 0.0
        """Flops of the tasks that are done."""
        self.ops = list(dict.fromkeys(task.op.name for task in graph.tasks))
        self.op_of = {name: place for place, name in enumerate(self.ops)}
        self.of_op = [0] * len(self.ops)
        self.done_of_op = [0] * len(self.ops)
        for task in graph.tasks:
            self.of_op[self.op_of[task.op.name]] += 1
        self.begun = False  # successors and missing predecessors are there
        self.missing: list[int] = []
        self.successors: list[list[int]] = []
        self.ended_tasks = bytearray()
        self.ready = 0
        """Tasks whose predecessors are done, and which are not."""

    @property
    def now(self) -> float:
        return (self.ended or perf_counter()) - self.began

    def fold(self) -> None:
        """Make bars, numbers by op and the queue of what was told. O(tasks and edges among it)."""
        if not self.begun:
            self._begin()
        tasks, op_of = self.graph.tasks, self.op_of
        for rank, worker, index, start, end in self.pending:
            task = tasks[index]
            op = op_of[task.op.name]
            self.bars.append((rank, worker, start, end, op, index, 1))
            self.worked += self.flops(task)
            self.done_of_op[op] += 1
            if self.ended_tasks[index]:  # it ran on several ranks
                continue
            self.ended_tasks[index] = 1
            self.ready -= not self.missing[index]  # else a predecessor's end is told later
            for successor in self.successors[index]:
                self.missing[successor] -= 1
                self.ready += not (self.missing[successor] or self.ended_tasks[successor])
        self.pending.clear()
        if len(self.bars) > BARS:
            self._thin()

    def _begin(self) -> None:
        self.begun = True
        self.missing = [len(task.predecessors) for task in self.graph.tasks]
        self.ready = self.missing.count(0)
        self.ended_tasks = bytearray(len(self.missing))
        self.successors = [[] for _ in self.missing]
        for task in self.graph.tasks:
            for predecessor in task.predecessors:
                self.successors[predecessor].append(task.index)

    def _thin(self) -> None:
        """Make neighbours one bar, so that at most half of `BARS` are left: two in a row are longer than ``least``."""
        lanes: dict[tuple[int, int], list[Bar]] = {}
        for bar in self.bars:
            lanes.setdefault(bar[:2], []).append(bar)
        least = 4 * len(lanes) * max(bar[3] for bar in self.bars) / BARS
        thinner: list[Bar] = []
        for bars in lanes.values():
            last: Bar | None = None
            for bar in sorted(bars, key=lambda bar: bar[2]):
                if last is not None and bar[3] - last[2] < least:
                    longest = max(last, bar, key=lambda one: one[3] - one[2])
                    last = (*last[:3], max(last[3], bar[3]), *longest[4:6], last[6] + bar[6])
                    continue
                if last is not None:
                    thinner.append(last)
                last = bar
            if last is not None:
                thinner.append(last)
        self.bars = thinner
        self.shift += 1

    def facts(self) -> dict[str, Any]:
        """What does not change."""
        fills = colours(self.ops)
        return {"title": self.title, "total": len(self.graph), "ops": self.ops, "of": self.of_op,
                "colours": [fills[name] for name in self.ops], "virtual": self.virtual}  # fmt: skip

    def news(self, first: int) -> dict[str, Any]:
        """What to draw, with the bars from ``first`` on."""
        tasks = self.graph.tasks
        bars = [
            [rank, worker, round(start, 7), round(end, 7), op, tasks[task].label + (f" and {n - 1} more" * (n > 1))]
            for rank, worker, start, end, op, task, n in self.bars[first:]
        ]
        done = max(self.done, sum(self.done_of_op))
        return {"run": self.number, "done": min(done, len(self.graph)), "now": self.now, "flops": self.worked,
                "ready": self.ready, "each": self.done_of_op, "bars": bars, "over": self.over}  # fmt: skip


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

    def ran(self, rows: Iterable[Ran]) -> None:
        story = self.story
        if story is not None:
            with self.changed:
                story.pending.extend(rows)
                if len(story.pending) > _PENDING:
                    story.fold()

    def __call__(self, done: int) -> None:
        if self.story is not None:
            self.story.done = done

    def end(self, how: str) -> None:
        if self.story is not None:
            with self.changed:
                self.story.ended, self.story.over = perf_counter(), how
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
                    until = monotonic() + _EVERY
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
        self.listening: set[threading.Thread] = set()
        """Those that get events, and want to hear the last word."""
        self.lock = threading.Lock()
        self.thread = threading.Thread(target=self.serve_forever, args=(0.2,), name="tilewright-live", daemon=True)
        self.thread.start()

    def server_bind(self) -> None:
        _bind(self)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self.lock:
            full = len(self.browsers) >= BROWSERS
            if not full:
                thread = threading.Thread(
                    target=self._serve, args=(request, client_address), name="tilewright-live-browser", daemon=True
                )
                self.browsers[thread] = request
        if full:
            self.shutdown_request(request)
        else:
            thread.start()

    def _serve(self, request: Any, client_address: Any) -> None:
        try:
            with contextlib.suppress(OSError):  # it has gone, or takes nothing
                self.finish_request(request, client_address)
        finally:
            self.shutdown_request(request)
            with self.lock:
                self.browsers.pop(threading.current_thread(), None)

    def close(self) -> None:
        self.shutdown()
        self.thread.join()
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
        elif what == "events":
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
