"""Which rank of a pool ended first, and how. No MPI here.

Ranks are children of their launcher, not ours, and when one dies the launcher may end the others with it. By the time
somebody looks all may be gone. But the kernel notes ends in their order: it queues what an epoll watches as it happens.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import struct
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path

__all__ = ["Deaths"]

_STATUS = 0.2  # seconds for the launcher to take note of the end of a rank

#   PIDFD_GET_INFO, PIDFD_INFO_EXIT and struct pidfd_info of linux/pidfd.h; 6.15 and later tell of processes that ended
_GET_INFO = 0xC040FF0B
_EXIT = 1 << 3
_INFO = struct.Struct("=Q52xi")


class Deaths:
    """Watches ranks from their first word to the end of the pool. Without epoll, as outside of Linux, it knows nothing.

    It holds a descriptor for each rank and one for all, until `close`.
    """

    def __init__(self) -> None:
        self._ranks: dict[int, int] = {}
        self._pids: dict[int, int] = {}
        self._descriptors: dict[int, int] = {}
        self._queue = select.epoll() if sys.platform == "linux" else None

    def watch(self, rank: int, connection: Connection, pid: int) -> None:
        """The other end of the connection is held by that process, until it ends."""
        self._pids[rank] = pid
        if sys.platform != "linux" or self._queue is None:
            return
        self._ranks[connection.fileno()] = rank
        self._queue.register(connection.fileno(), select.EPOLLRDHUP)  # not told of what a rank says
        with contextlib.suppress(OSError):  # it has ended, or there are too many files
            self._descriptors[rank] = os.pidfd_open(pid)

    def first(self) -> int | None:
        """The rank that ended before the others; None if that is not known."""
        if self._queue is None or self._queue.closed:
            return None
        events = self._queue.poll(0, max(1, len(self._ranks)))
        return self._ranks[events[0][0]] if events else None

    def how(self, rank: int) -> str:
        """How that rank ended, such as " by SIGKILL" or " with exit status 3"; empty where the kernel does not say."""
        pid, descriptor = self._pids.get(rank), self._descriptors.get(rank)
        deadline = time.monotonic() + _STATUS
        while pid is not None:
            status = _of_zombie(pid)
            if status is None and descriptor is not None:
                status = _of_descriptor(descriptor)
            if status is not None:
                return _words(status)
            if time.monotonic() > deadline or descriptor is None:
                break
            time.sleep(0.002)
        return ""

    def close(self) -> None:
        """Give the descriptors back. Harmless if that was done."""
        if self._queue is not None:
            self._queue.close()
        for rank in list(self._descriptors):
            os.close(self._descriptors.pop(rank))


def _of_descriptor(descriptor: int) -> int | None:
    """The wait status of a process that was waited for."""
    import fcntl

    request = bytearray(_INFO.pack(_EXIT, 0))
    try:
        fcntl.ioctl(descriptor, _GET_INFO, request)
    except OSError:
        return None
    told, status = _INFO.unpack(request)
    return int(status) if told & _EXIT else None


def _of_zombie(pid: int) -> int | None:
    """The wait status of a process that ended and that nobody has waited for yet: the last word of its line."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return int(words[-1]) if words and words[0] == "Z" else None


def _words(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return f" with exit status {code}"
    try:
        return f" by {signal.Signals(-code).name}"
    except ValueError:
        return f" by signal {-code}"
