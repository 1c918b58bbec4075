"""CUDA streams under the workers of a run: kernels are launched, nobody waits.

Each worker thread has a stream of its own. When a task has been launched, an event marks that place of the stream; a
task on another stream first lets its own stream wait for the events of its predecessors, on the device, so the thread
goes on at once. Only a task on the host, which reads memory itself, makes its thread wait.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from tilewright.graph import Task
from tilewright.runs.trace import Trace

__all__ = ["Streams"]


class Streams:
    """The streams of one run.

    Parameters
    ----------
    call
        Runs one task, on the current stream.
    on_device
        Whether a task's kernels run on the GPU.
    cuda
        `torch.cuda`, or what has its ``Stream``, ``Event``, ``current_stream`` and ``stream``.
    device
        Where the streams are; by default the current device.
    """

    def __init__(
        self, call: Callable[[Task], None], on_device: Callable[[Task], bool], cuda: Any, device: Any = None
    ) -> None:
        self._call = call
        self._on_device = on_device
        self._cuda = cuda
        self._device = device
        self.begin()

    def begin(self) -> None:
        """Forget what was launched: once more, behind all that is on the current stream."""
        self._mine = threading.local()
        self._streams: list[Any] = []
        self._events: dict[int, tuple[Any, Any, Any]] = {}  # task -> (stream, begin, end)
        self._zero = self._mark(self._cuda.current_stream(self._device))  # what the data of the run may wait for

    def call(self, task: Task) -> None:
        """Run or launch one task in the calling thread."""
        if not self._on_device(task):
            for index in task.predecessors:
                if index in self._events:
                    self._events[index][2].synchronize()
            self._call(task)
            return
        stream = self._stream()
        for index in task.predecessors:
            there = self._events.get(index)
            if there is not None and there[0] is not stream:
                stream.wait_event(there[2])
        begin = self._mark(stream)
        with self._cuda.stream(stream):
            self._call(task)
        self._events[task.index] = stream, begin, self._mark(stream)

    def _mark(self, stream: Any) -> Any:
        event = self._cuda.Event(enable_timing=True)
        stream.record_event(event)
        return event

    def _stream(self) -> Any:
        stream = getattr(self._mine, "stream", None)
        if stream is None:
            stream = self._mine.stream = self._cuda.Stream(self._device)
            stream.wait_event(self._zero)
            self._streams.append(stream)
        return stream

    def wait(self) -> None:
        """Until all that was launched has ended."""
        for stream in self._streams:
            stream.synchronize()

    def measured(self, trace: Trace) -> Trace:
        """Wait for the device; the trace with the times at which tasks ran there, not those of their launches.

        Its ``facts`` have the seconds that all workers spent on launching.
        """
        self.wait()
        records = []
        launching = 0.0
        for record in trace:
            if record.task in self._events:
                launching += record.duration
                _, begin, end = self._events[record.task]
                record = record._replace(  # milliseconds to seconds
                    start=self._zero.elapsed_time(begin) * 1e-3, end=self._zero.elapsed_time(end) * 1e-3
                )
            records.append(record)
        measured = Trace(trace.graph, trace.workers, records)
        measured.facts = {"launching": launching}
        return measured
