"""Whether this thread is in a task of a run, and of which engine: a call that would wait for ever there is refused.

A task on a rank holds up its rank until it ends. A collective call from it waits for the other ranks, which wait for
messages of this one; a Dask task that waits for others on its own worker may keep the thread that they need.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["in_task", "refuse"]

_engine: ContextVar[str] = ContextVar("engine of the task that this thread runs", default="")


@contextmanager
def in_task(backend: str) -> Iterator[None]:
    """A block in which this thread runs tasks of an engine with ranks."""
    token = _engine.set(backend)
    try:
        yield
    finally:
        _engine.reset(token)


def refuse(backend: str) -> None:
    """RuntimeError if this thread runs a task of an engine that has no ranks to spare for a call with ``backend``."""
    if _engine.get() == backend:
        raise RuntimeError(
            f"a task of a run with backend={backend!r} calls with backend={backend!r} again, and would wait for ranks "
            f"that wait for this task; in tasks use backend='threads' or 'serial'"
        )
