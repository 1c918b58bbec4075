"""What tasks print on a rank, told to the caller line by line.

On threads for which `telling` has said so, ``sys.stdout`` and ``sys.stderr`` pass whole lines on; for all others of the
process they stay what they were. What is written past them, by C code to a file descriptor, is not seen.
"""

from __future__ import annotations

import contextlib
import io
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["Say", "saying", "show", "telling"]

Say = Callable[[str, bool], object]
"""Gets lines, with their ends, and whether they are of standard error."""

_here = threading.local()


class _Stream(io.TextIOBase):
    """Standard output or error of this process."""

    def __init__(self, error: bool, usual: Any) -> None:
        self.error, self.usual = error, usual

    def write(self, text: str) -> int:
        say: Say | None = saying()
        if say is None:
            return int(self.usual.write(text)) if self.usual is not None else len(text)
        waiting: dict[bool, str] = _here.waiting
        whole, end, rest = (waiting.get(self.error, "") + text).rpartition("\n")
        waiting[self.error] = rest
        if end:
            say(whole + end, self.error)
        return len(text)

    def flush(self) -> None:
        if self.usual is not None and saying() is None:
            self.usual.flush()

    def writable(self) -> bool:
        return True

    def __getattr__(self, name: str) -> Any:  # encoding, fileno, buffer, isatty and the like
        return getattr(self.usual, name)


def saying() -> Say | None:
    """Whom this thread tells what it prints."""
    return getattr(_here, "say", None)


@contextlib.contextmanager
def telling(say: Say | None) -> Iterator[None]:
    """A block in which this thread tells what it prints; with None it prints as usual."""
    if say is None:
        yield
        return
    for name, error in (("stdout", False), ("stderr", True)):
        if not isinstance(getattr(sys, name), _Stream):
            setattr(sys, name, _Stream(error, getattr(sys, name)))
    before = getattr(_here, "say", None), getattr(_here, "waiting", {})
    _here.say, _here.waiting = say, {}
    try:
        yield
    finally:
        for error, rest in _here.waiting.items():
            if rest:
                say(rest + "\n", error)
        _here.say, _here.waiting = before


def show(rank: int, text: str, error: bool) -> None:
    """Print lines of a rank here, each with the rank before it. A stream that takes nothing ends no run."""
    stream = sys.stderr if error else sys.stdout
    if stream is not None:
        with contextlib.suppress(OSError, ValueError):
            stream.write("".join(f"[rank {rank}] {line}\n" for line in text.removesuffix("\n").split("\n")))
            stream.flush()
