"""Parts of a checkpoint: files with tiles that are final, each written once, whole or not at all.

A part has a header, which says of which run it is and where each tile stands in it with a checksum, and the tiles. It
gets its name when it is on the disk. Tiles are copied when they are final, so that nobody waits for the disk; one
thread of the process writes what was copied, past the page cache where the system lets it (``O_DIRECT``), as the
processor would otherwise copy each number once more.
"""

from __future__ import annotations

import atexit
import json
import mmap
import os
import re
import secrets
import threading
import zlib
from collections.abc import Sequence
from contextlib import suppress
from math import prod
from pathlib import Path
from time import monotonic
from typing import Any, NamedTuple

import numpy as np

from tilewright.graph import Handle
from tilewright.host.files import open_regular, replacing
from tilewright.storage.checksums import CheckpointError, checksum

__all__ = ["StoredPart", "TileInPart", "keep", "read_part", "read_tile", "settle", "settle_all"]

_PAGE = 4096
_MOST = 256 << 20  # bytes of copies that wait for the disk; then whoever has more to write waits
_MAGIC = b"tilewright part 1"
_REMOVE = "remove it, and the run makes again what it had"
_NAME = re.compile(r"part-([0-9a-f]{16})\.bin", re.ASCII)


class TileInPart(NamedTuple):
    """Where a tile stands in a part, and what it is."""

    file: str
    start: int
    shape: tuple[int, ...]
    dtype: str
    order: str
    """``"F"`` if it stands there by columns."""
    sum: str
    """Its checksum."""


class StoredPart(NamedTuple):
    """What the header of a part says."""

    run: str
    """The run it is of."""
    tiles: dict[Handle, TileInPart]
    sources: dict[Handle, str]
    """Checksums of the tiles of the matrix of which they were made."""


# ------------------------------------------------------------------ writing


class _Waiting:
    """Copies of tiles, one behind the other in pages that a disk can read."""

    def __init__(self, memory: mmap.mmap) -> None:
        self.memory, self.size = memory, 0
        self.rows: list[list[Any]] = []
        self.sources: list[list[Any]] = []


class _Writer:
    """What one process writes of one run."""

    def __init__(self, folder: Path, run: str, every: float) -> None:
        self.folder, self.run, self.every = folder, run, every
        self.began = monotonic()
        self.lock = threading.Condition()
        self.waiting: list[_Waiting] = []
        self.spare: list[mmap.mmap] = []
        self.error: BaseException | None = None
        self.hurried = False
        self.thread: threading.Thread | None = None

    def put(
        self, handles: Sequence[Handle], tiles: Sequence[np.ndarray], sources: Sequence[tuple[Handle, str]]
    ) -> None:
        """Copy tiles that are final; they are written when ``every`` seconds are over, or there is much to write."""
        size = sum(-(-tile.nbytes // 64) * 64 for tile in tiles)
        with self.lock:
            while self.error is None and self.waiting and self._held() + size > _MOST:
                self.hurried = True
                self.lock.notify_all()
                self.lock.wait()
            self.check()
            copies = _Waiting(self._memory(-(-max(size, 1) // _PAGE) * _PAGE))
        for handle, tile in zip(handles, tiles, strict=True):
            start = copies.size
            by_columns = tile.ndim == 2 and not tile.flags.c_contiguous and tile.strides[0] == tile.itemsize
            there = np.frombuffer(copies.memory, tile.dtype, tile.size, start)
            there = there.reshape(tile.T.shape if by_columns else tile.shape)
            np.copyto(there, tile.T if by_columns else tile)
            copies.size += -(-tile.nbytes // 64) * 64
            copies.rows.append(
                [
                    *(handle.name, list(handle.index), start, list(tile.shape), tile.dtype.str, "CF"[by_columns]),
                    checksum(there.T if by_columns else there),
                ]
            )
        copies.sources = [[handle.name, list(handle.index), sum_] for handle, sum_ in sources]
        with self.lock:
            self.waiting.append(copies)
            if self.thread is None:
                self.thread = threading.Thread(target=self._work, name="tilewright-checkpoint", daemon=True)
                self.thread.start()
            self.lock.notify_all()

    def check(self) -> None:
        if self.error is not None:
            raise self.error

    def finish(self) -> None:
        """Write all that waits, and end the thread. Raises what went wrong."""
        with self.lock:
            self.hurried = True
            self.lock.notify_all()
            while self.thread is not None:
                self.lock.wait()
            self.check()

    def _held(self) -> int:
        return sum(len(copies.memory) for copies in self.waiting)

    def _memory(self, size: int) -> mmap.mmap:
        """Pages that are there already, where a part before was as large."""
        for place, memory in enumerate(self.spare):
            if len(memory) >= size:
                return self.spare.pop(place)
        self.spare.clear()
        return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)

    def _work(self) -> None:
        """Until there is nothing to write."""
        while True:
            with self.lock:
                while self.waiting and not self.hurried and (left := self.began + self.every - monotonic()) > 0:
                    self.lock.wait(left)
                some = list(self.waiting)
                if not some or self.error is not None:
                    self.waiting.clear()
                    self.thread, self.hurried = None, False
                    self.lock.notify_all()
                    return
            try:
                self._write(some)
            except BaseException as error:
                with self.lock:
                    self.error = error
            with self.lock:
                self.began = monotonic()
                del self.waiting[: len(some)]
                self.spare += [copies.memory for copies in some[: 2 - len(self.spare)]]
                self.lock.notify_all()

    def _write(self, some: list[_Waiting]) -> None:
        """One part."""
        rows, sources, pages, place = [], [], [], 0
        for copies in some:
            size = -(-copies.size // _PAGE) * _PAGE
            rows += [[*row[:2], row[2] + place, *row[3:]] for row in copies.rows]
            sources += copies.sources
            pages.append(memoryview(copies.memory)[:size])
            place += size
        text = json.dumps({"run": self.run, "size": place, "tiles": rows, "sources": sources}).encode()
        head = b"%s %08x %012d\n" % (_MAGIC, zlib.crc32(text), len(text)) + text
        head += b"\n" * (-len(head) % _PAGE)
        first = mmap.mmap(-1, len(head), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        first[:] = head
        with replacing(self.folder / f"part-{secrets.token_hex(8)}.bin", sync=True) as aside:
            _write_pages(aside, [memoryview(first), *pages])


def _write_pages(path: Path, pages: list[memoryview]) -> None:
    """Whole pages to a file that is there, past the cache where that is possible."""
    direct = getattr(os, "O_DIRECT", 0)
    for flags in (os.O_WRONLY | direct, os.O_WRONLY):
        try:
            file = os.open(path, flags)
        except OSError:
            if flags & direct:  # a file system that has no such thing
                continue
            raise
        try:
            place = 0
            for view in pages:
                done = 0
                while done < len(view):
                    done += os.pwrite(file, view[done:], place + done)
                place += len(view)
            return
        except OSError as error:
            if not (flags & direct and error.errno == 22):  # or one that wants other addresses
                raise
        finally:
            os.close(file)


_writers: dict[tuple[str, str], _Writer] = {}
_lock = threading.Lock()


def keep(
    folder: str,
    run: str,
    handles: Sequence[Handle],
    tiles: Sequence[np.ndarray],
    sources: Sequence[tuple[Handle, str]],
    *,
    every: float = 0.0,
    wait: bool = False,
) -> None:
    """Let tiles be written as a part of the checkpoint of a run; ``wait`` until they are. OSError as for any file."""
    with _lock:
        writer = _writers.setdefault((folder, run), _Writer(Path(folder), run, every))
    writer.put(handles, tiles, sources)
    if wait:
        writer.finish()


def settle(folder: str, run: str) -> None:
    """Wait for what this process writes of a run. Raises what went wrong with it."""
    with _lock:
        writer = _writers.pop((folder, run), None)
    if writer is not None:
        writer.finish()


def settle_all() -> None:
    """Write what waits in this process, where a run ended by an error."""
    for folder, run in list(_writers):
        with suppress(OSError):
            settle(folder, run)


atexit.register(settle_all)


# ------------------------------------------------------------------ reading


def read_part(path: Path) -> StoredPart | None:
    """What a file of a checkpoint says of itself; None if its name is not that of a part.

    Raises
    ------
    CheckpointError
        It is damaged, or cut off.
    """
    if not _NAME.fullmatch(path.name):
        return None
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        line = file.readline(64)
        found = re.fullmatch(re.escape(_MAGIC) + rb" ([0-9a-f]{8}) ([0-9]{12})\n", line)
        text = file.read(int(found[2])) if found and int(found[2]) <= size else b""
    if found is None or len(text) < int(found[2]) or zlib.crc32(text) != int(found[1], 16):
        raise CheckpointError(f"{path} is damaged: its head is not as it was written; {_REMOVE}")
    start = -(-(len(line) + len(text)) // _PAGE) * _PAGE
    try:
        said = json.loads(text)
        run, tiles, sources = said["run"], said["tiles"], said["sources"]
        if size != start + said["size"]:
            raise CheckpointError(f"{path} is damaged: it was cut off, or something was added to it; {_REMOVE}")
        return StoredPart(
            run,
            {_handle(row): _place(path.name, start, size, *row[2:]) for row in tiles},
            {_handle(row): str(row[2]) for row in sources},
        )
    except CheckpointError:
        raise
    except (ValueError, TypeError, KeyError, IndexError, OverflowError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: its head says what no run writes; {_REMOVE}") from error


def _handle(row: Sequence[Any]) -> Handle:
    name, index = row[:2]
    if type(name) is not str or not set(map(type, index)) <= {int}:
        raise ValueError("no handle")
    return Handle(name, tuple(index))


def _place(
    file: str, start: int, end: int, at: int, shape: Sequence[int], dtype: str, order: str, sum_: str
) -> TileInPart:
    """Where a tile stands, which has to be in the file. ValueError or TypeError for what no run writes."""
    if {type(at), *map(type, shape)} != {int} or {type(dtype), type(order), type(sum_)} != {str}:
        raise TypeError("other types")
    item = np.dtype(dtype)
    last = start + at + item.itemsize * prod(shape)
    if min(at, *shape) < 0 or last > end or item.kind not in "biufc" or order not in ("C", "F"):
        raise ValueError("no tile")
    return TileInPart(file, start + at, tuple(shape), dtype, order, sum_)


def read_tile(folder: str, where: TileInPart, tile: np.ndarray, name: str) -> None:
    """Fill a tile from a part. CheckpointError if it is not what was written there."""
    path = Path(folder) / where.file
    if (where.shape, np.dtype(where.dtype)) != (tile.shape, tile.dtype):
        said = f"{where.shape} of {np.dtype(where.dtype)}, not {tile.shape} of {tile.dtype}"
        raise CheckpointError(f"{path} has {name} as {said}; {_REMOVE}")
    by_columns = where.order == "F"
    shape = where.shape[::-1] if by_columns else where.shape
    found: Any = np.empty(shape, where.dtype)
    with open_regular(path) as file:
        file.seek(where.start)
        size = file.readinto(memoryview(found.reshape(-1)).cast("B")) if found.size else 0  # type: ignore[attr-defined]
    found = found.T if by_columns else found
    if size != found.nbytes or checksum(found) != where.sum:
        raise CheckpointError(f"{path} has other numbers in {name} than were written there; {_REMOVE}")
    np.copyto(tile, found)
