"""Blocks without the garbage collector: graphs of 10^5 tasks are made of 10^6 small objects, none of them garbage.

While such a graph is built the collector looks at all of it again and again, which takes twice as long as building it.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["uncollected"]

_lock = threading.Lock()
_inside = 0
_was_on = False


@contextmanager
def uncollected() -> Iterator[None]:
    """A block in which cyclic garbage waits; it may be nested, and entered by several threads.

    For blocks that build and read, and call nothing of a user that may take long. Memory without cycles is freed as
    ever.
    """
    global _inside, _was_on
    with _lock:
        if not _inside:
            _was_on = gc.isenabled()
            gc.disable()
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside and _was_on:
                gc.enable()
