"""Files that are written whole or not at all: under a name of their own beside the old one, which they then replace.

Whoever reads never sees half of one, and a full disk or a process that is killed leaves the file that was there.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

__all__ = ["append", "largest", "open_regular", "private_folder", "replacing", "sweep", "write_text"]

_ASIDE = re.compile(r"\.tilewright-([1-9][0-9]{0,9})-[0-9a-f]{8}(\..*)?", re.ASCII)
"""Names of files that are not whole yet, with the process that writes them."""


@contextlib.contextmanager
def replacing(path: str | Path, *, sync: bool = False) -> Iterator[Path]:
    """A block that writes a file to the path it gets; without an error the file then stands at ``path``.

    The path that is written to is in the same folder and has the same suffix. Links are followed, the permissions of
    the file before are kept. What is no regular file (``/dev/stdout``, a pipe), and a file in a folder where none can
    be made, is written in place.

    Parameters
    ----------
    path
        Where the file shall be.
    sync
        Also wait until it is on the disk, so that a computer that loses its power has the one or the other.

    Raises
    ------
    OSError
        It cannot be written; the message names ``path`` and the reason, and the file that was there is as it was.
    """
    target = Path(os.path.realpath(path))
    with _named(path):
        aside = _aside(target)
    if aside is None:
        with _named(path):
            yield Path(path)
        return
    try:
        with _named(path):
            yield aside
            if sync:
                _sync(aside, os.O_RDWR)
            os.replace(aside, target)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    if sync:
        _sync_folder(target.parent)


def write_text(path: str | Path, text: str) -> None:
    """Write a text in UTF-8 by `replacing`; halves of surrogate pairs, which it cannot say, become question marks."""
    with replacing(path) as aside:
        aside.write_text(text, encoding="utf-8", errors="replace")


def open_regular(path: str | Path) -> BinaryIO:
    """A file to be read, without a buffer. One that is no file is refused at once: a pipe would wait for who writes.

    Raises
    ------
    OSError
        It is not there, a folder, a pipe, or cannot be read; the message names ``path``.
    """
    try:
        file = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    except OSError as error:
        raise type(error)(error.errno, f"cannot read {path}: {error.strerror}") from error
    mode = os.fstat(file).st_mode
    if not stat.S_ISREG(mode):
        os.close(file)
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(21, f"cannot read {path}: Is a directory")
        raise OSError(22, f"cannot read {path}: it is no regular file")
    return os.fdopen(file, "rb", buffering=0)


def append(path: str | Path, data: bytes) -> None:
    """Add to the end of a file all of the data, or nothing: where the disk is full, what had got there is cut off.

    OSError if it cannot be written.
    """
    with Path(path).open("ab", buffering=0) as file:
        end = file.seek(0, os.SEEK_END) if file.seekable() else None
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[file.write(rest) :]
        except OSError:
            if end is not None:
                with contextlib.suppress(OSError):
                    file.truncate(end)
            raise


def sweep(folder: str | Path) -> None:
    """Remove what processes of this computer that were killed left half-written in a folder."""
    for file in Path(folder).iterdir():
        named = _ASIDE.fullmatch(file.name)
        if named and not _alive(int(named[1])):
            file.unlink(missing_ok=True)


def private_folder(parent: str | Path) -> Path:
    """A folder in ``parent`` that no other user can enter, one for each user; it stays.

    Whoever may write in ``parent``, as all may in ``/tmp``, could have made a folder of that name before: one that is
    not this user's alone is left, and another one made. OSError if there can be none.
    """
    user = getattr(os, "geteuid", lambda: 0)()
    path = Path(parent) / f"tilewright-{user}"
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
    found = path.lstat()
    closed = os.name == "nt" or (found.st_uid == user and not found.st_mode & 0o077)
    if stat.S_ISDIR(found.st_mode) and closed:
        return path
    return Path(tempfile.mkdtemp(prefix="tilewright-", dir=parent))


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # another user's
        return True
    return True


def _sync_folder(folder: Path) -> None:
    """Its names on the disk, where folders can be synced."""
    with contextlib.suppress(OSError):
        _sync(folder, os.O_RDONLY)


def _aside(target: Path) -> Path | None:
    """A new empty file to write to; None where the target has to be written in place."""
    there = target.exists()
    if there and not target.is_file():
        return None
    suffix = target.suffix if len(target.suffix) < 16 else ""
    aside = target.with_name(f".tilewright-{os.getpid()}-{secrets.token_hex(4)}{suffix}")
    try:
        aside.open("xb").close()
    except PermissionError:
        if there and os.access(target, os.W_OK):
            return None
        raise
    if there:
        with contextlib.suppress(OSError):
            aside.chmod(target.stat().st_mode & 0o7777)
    return aside


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _named(path: str | Path) -> Iterator[None]:
    """Errors of the system that name the file the caller knows."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        if error.errno is None:
            raise
        raise type(error)(error.errno, f"cannot write {path}: {error.strerror}") from error


def largest() -> int | None:
    """Bytes of the largest file that this process, and those it starts, may write; None without a limit."""
    try:
        import resource
    except ImportError:
        return None
    limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    return None if limit == resource.RLIM_INFINITY else limit
