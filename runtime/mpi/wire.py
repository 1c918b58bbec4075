"""The socket between a pool and its ranks, and what goes over it.

It is local, without a name in the file system where Linux allows that, and open
only to who has the pool's key. The key travels in the environment, which other users cannot read.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import sys
import tempfile
from collections.abc import Callable
from multiprocessing.connection import Client, Connection, answer_challenge, deliver_challenge
from typing import NamedTuple

from tilewright.ambient import Ambient
from tilewright.kernels.choice import Choice

__all__ = ["Call", "Door", "Forget", "Go", "Hello", "Job", "Keep", "Prepare", "connect"]

_ADDRESS, _KEY = "TILEWRIGHT_POOL", "TILEWRIGHT_POOL_KEY"


class Hello(NamedTuple):
    """What a rank says first."""

    rank: int
    size: int
    pid: int
    problem: str
    """Why there is no MPI here; empty if there is."""


class Job(NamedTuple):
    """One run. ``graph`` and the rest travel as bytes, for the rank to read inside the ranks' agreement."""

    contents: bytes
    workers: int
    window: int
    synchronous: bool
    progress: bool
    blas: Choice
    path: list[str]
    """The owner's ``sys.path``: functions are found there."""
    scratch: int
    """Serial of the segment that stays mapped between runs."""
    ambient: Ambient
    """Autocast and the like where the run was submitted."""


class Call(NamedTuple):
    """One function that all ranks call together. ``contents`` is the pickled (function's name, arguments)."""

    contents: bytes
    path: list[str]
    """The owner's ``sys.path``."""
    keep: frozenset[int]
    """Serials of the segments that stay mapped afterwards."""


class Keep(NamedTuple):
    """Data that stays on a rank: buffers by handle, as bytes. Answered."""

    key: int
    contents: bytes


class Prepare(NamedTuple):
    """Make a script. Answered."""

    key: int
    contents: bytes
    blas: Choice
    path: list[str]


class Go(NamedTuple):
    """Run a script. Answered."""

    key: int
    traced: bool
    ambient: Ambient = Ambient()


class Forget(NamedTuple):
    """Free data or scripts. Not answered."""

    keys: tuple[int, ...]


class Door:
    """Where ranks connect. Close it when all are in."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        name = f"tilewright-{os.getpid()}-{secrets.token_hex(8)}"
        if sys.platform == "linux":
            address = f"\0{name}"  # abstract: gone with its last descriptor
        else:
            self._folder = tempfile.TemporaryDirectory(prefix="tilewright-")
            address = os.path.join(self._folder.name, "pool")
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(address)
        self._socket.listen(1024)
        self._socket.settimeout(0.05)
        self.environment = {_ADDRESS: address.replace("\0", "@"), _KEY: self._key.hex()}
        """What tells a rank the way in."""

    def admit(self, give_up: Callable[[], bool]) -> Connection | None:
        """The next rank that knows the key; None once ``give_up()`` is true."""
        while not give_up():
            with contextlib.suppress(TimeoutError):
                accepted, _ = self._socket.accept()
                accepted.setblocking(True)
                connection = Connection(accepted.detach())
                try:
                    deliver_challenge(connection, self._key)
                    answer_challenge(connection, self._key)
                except Exception:
                    connection.close()  # a stranger
                else:
                    return connection
        return None

    def close(self) -> None:
        self._socket.close()
        if self._folder is not None:
            self._folder.cleanup()


def connect() -> Connection:
    """The rank's end; the key disappears from the environment."""
    address = os.environ.pop(_ADDRESS).replace("@", "\0", 1)
    return Client(address, "AF_UNIX", authkey=bytes.fromhex(os.environ.pop(_KEY)))
