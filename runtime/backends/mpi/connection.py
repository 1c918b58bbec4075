"""The socket between a pool and its ranks, and what goes over it.

It is a socket of this host: on Linux without a name in the file system, elsewhere in a folder that is the user's alone.
Only the same user is let in, as the kernel says where it does, and only with the pool's key. The key travels in the
environment, which other users cannot read. Nobody who connects can keep others waiting.
"""

from __future__ import annotations

import contextlib
import errno
import hmac
import os
import secrets
import selectors
import socket
import struct
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import NamedTuple

from tilewright.backends.execution.torch_state import TorchState
from tilewright.graph import Handle
from tilewright.kernels.choice import Choice
from tilewright.runs.progress import Rows

__all__ = [
    "RemoteCall",
    "Listener",
    "Forget",
    "Go",
    "Hello",
    "Job",
    "Keep",
    "News",
    "Prepare",
    "Said",
    "connect",
    "follow",
]

_ADDRESS, _KEY = "TILEWRIGHT_POOL", "TILEWRIGHT_POOL_KEY"


class Hello(NamedTuple):
    """What a rank says first."""

    rank: int
    size: int
    pid: int
    problem: str
    """Why there is no MPI here; empty if there is."""


class Job(NamedTuple):
    """One run. What is bytes is read by the rank inside the ranks' agreement."""

    key: int
    """Under which the rank keeps graph and plan, for more runs; -1 if there is only this one."""
    program: bytes
    """Pickled (graph, order of its plan); empty where it is kept under the key."""
    contents: bytes
    """Pickled (data, scheduler)."""
    workers: int
    window: int
    synchronous: bool
    progress: bool
    """Whether to send `News`,"""
    rows: bool
    """and with them which tasks ran when."""
    blas: Choice
    path: list[str]
    """The owner's ``sys.path``: functions are found there."""
    scratch: int
    """Serial of the segment that stays mapped between runs."""
    torch_state: TorchState
    """Autocast and the like where the run was submitted."""
    pins: list[int] | None = None
    """The CPU of each worker of all ranks, if they are bound to one."""


class News(NamedTuple):
    """How far a rank is, while it runs."""

    done: int
    """Tasks that it has ended."""
    rows: Rows = ()
    """Those since it told last, where the caller wants to know."""


class Said(NamedTuple):
    """What a task printed: whole lines."""

    text: str
    error: bool
    """To standard error."""


class RemoteCall(NamedTuple):
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
    times: int = 1
    until: Handle | None = None
    rounds: int = 0
    """How many rounds of ``times`` repetitions are to be timed."""
    traced: bool = False
    torch_state: TorchState = TorchState()


class Forget(NamedTuple):
    """Free data or scripts. Not answered."""

    keys: tuple[int, ...]


PATIENCE = 5.0  # seconds for who has connected to show the key
WAITING = 256  # connections that may be without it at once; then the oldest goes
_KEY_SIZE = 32
_WELCOME = b"+"


class Listener:
    """Where ranks connect. Close it when all are in."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(_KEY_SIZE)
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._waiting: dict[socket.socket, tuple[float, bytearray]] = {}
        """Who has connected and not shown the key, the oldest first: until when, and what was said so far."""
        name = f"tilewright-{os.getpid()}-{secrets.token_hex(8)}"
        if sys.platform == "linux":
            address = f"\0{name}"  # abstract: gone with its last descriptor
        else:
            self._folder = tempfile.TemporaryDirectory(prefix="tilewright-")  # of mode 0700
            address = os.path.join(self._folder.name, "pool")
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(address)
        self._socket.listen(1024)
        self._socket.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._socket, selectors.EVENT_READ)
        self.environment = {_ADDRESS: address.replace("\0", "@"), _KEY: self._key.hex()}
        """What tells a rank the way in."""

    def admit(self, give_up: Callable[[], bool]) -> Connection | None:
        """The next rank that knows the key; None once ``give_up()`` is true."""
        while not give_up():
            for found, _ in self._selector.select(0.05):
                visitor = found.fileobj
                assert isinstance(visitor, socket.socket)
                if visitor is self._socket:
                    self._meet()
                elif visitor in self._waiting and self._hear(visitor):
                    return self._welcome(visitor)
            now = time.monotonic()
            for visitor in [each for each, (until, _) in self._waiting.items() if until < now]:
                self._dismiss(visitor)
        return None

    def _meet(self) -> None:
        """Take in all who knock, at most as many as may wait."""
        for _ in range(WAITING):
            try:
                visitor, _ = self._socket.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE) and self._waiting:  # a crowd has all descriptors
                    self._dismiss(next(iter(self._waiting)))
                return
            if not _same_user(visitor):
                visitor.close()
                continue
            visitor.setblocking(False)
            if len(self._waiting) >= WAITING:
                self._dismiss(next(iter(self._waiting)))
            self._waiting[visitor] = time.monotonic() + PATIENCE, bytearray()
            self._selector.register(visitor, selectors.EVENT_READ)

    def _hear(self, visitor: socket.socket) -> bool:
        """Whether it has shown the key; who has another one, or goes, is dismissed."""
        said = self._waiting[visitor][1]
        try:
            heard = visitor.recv(_KEY_SIZE - len(said))
        except BlockingIOError:
            return False
        except OSError:
            heard = b""
        said += heard
        if heard and len(said) < _KEY_SIZE:
            return False
        if hmac.compare_digest(bytes(said), self._key):
            return True
        self._dismiss(visitor)
        return False

    def _welcome(self, visitor: socket.socket) -> Connection:
        self._selector.unregister(visitor)
        del self._waiting[visitor]
        visitor.setblocking(True)
        with contextlib.suppress(OSError):  # it has died: who reads from it will notice
            visitor.send(_WELCOME)
        return Connection(visitor.detach())

    def _dismiss(self, visitor: socket.socket) -> None:
        self._selector.unregister(visitor)
        del self._waiting[visitor]
        visitor.close()

    def close(self) -> None:
        for visitor in list(self._waiting):
            self._dismiss(visitor)
        self._selector.close()
        self._socket.close()
        if self._folder is not None:
            self._folder.cleanup()


def _same_user(end: socket.socket) -> bool:
    """Whether the other end belongs to the user of this process; true where the system does not say."""
    if not hasattr(socket, "SO_PEERCRED"):
        return True
    _, user, _ = struct.unpack("3i", end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    return user == os.geteuid()


def connect() -> Connection:
    """The rank's end; the key disappears from the environment.

    A rank that is turned away, as a crowd at the door may bring about, knocks again. ConnectionRefusedError if the
    door is closed; PermissionError if it is another user's.
    """
    address = os.environ.pop(_ADDRESS).replace("@", "\0", 1)
    key = bytes.fromhex(os.environ.pop(_KEY))
    while True:
        end = socket.socket(socket.AF_UNIX)
        end.connect(address)
        if not _same_user(end):
            raise PermissionError("the pool's socket belongs to another user")
        with contextlib.suppress(OSError):
            end.sendall(key)
            if end.recv(1) == _WELCOME:
                return Connection(end.detach())
        end.close()
        time.sleep(0.01)


_own_path = list(sys.path)


def follow(path: list[str]) -> None:
    """Find modules in the owner's ``sys.path`` too, after this process's own: no file beside a script replaces one."""
    sys.path[:] = [*_own_path, *(entry for entry in path if entry not in _own_path)]
