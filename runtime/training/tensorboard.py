"""Scalars for TensorBoard, appended to an event file as the training goes.

Each event opens the file, is appended and closes it: no writer thread, nothing to close when a training fails, and
whoever watches sees what has happened so far.
"""

from __future__ import annotations

import io
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path

from tilewright.extras import brings

__all__ = ["event", "open_file"]


def open_file(folder: str | Path) -> Path:
    """A new event file in ``folder``. ImportError without the package tensorboard."""
    try:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.summary.writer.record_writer import RecordWriter
    except ImportError:
        raise ImportError(f"writing for TensorBoard needs it; {brings('tensorboard')}") from None
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    now = time.time()
    path = folder.resolve() / f"events.out.tfevents.{now:.6f}.{socket.gethostname()}.{os.getpid()}"
    with path.open("xb") as file:
        RecordWriter(file).write(Event(wall_time=now, file_version="brain.Event:2").SerializeToString())
    return path


def event(step: int, values: Mapping[str, float]) -> bytes:
    """Scalars of one step, to be added to the file."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.record_writer import RecordWriter

    rows = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
    record = io.BytesIO()
    RecordWriter(record).write(Event(wall_time=time.time(), step=step, summary=Summary(value=rows)).SerializeToString())
    return record.getvalue()
