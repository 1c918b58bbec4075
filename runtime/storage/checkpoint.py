"""A checkpoint: what of a factorisation is final and on the disk, so that a run that is killed goes on from there.

A folder with three files. ``run.json`` says which run it is, and is written once. ``panels.log`` gets a line for each
block column when all its numbers are on the disk: its number, checksums of its tiles and of those of the matrix that
it was made of, and what else the rest needs, such as pivots. Each line ends in a checksum of its own, so that half a
line, the last of a run that was killed, is seen as such. ``panels.npy`` has block columns that stand nowhere else.

Where the whole result is in memory there are no lines but files: see `tilewright.storage.parts`.
"""

from __future__ import annotations

import json
import os
import secrets
import threading
import zlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import Any

from tilewright.host.files import append, open_regular, replacing, sweep, write_text
from tilewright.storage.checksums import CheckpointError, checksum
from tilewright.storage.opening import hold
from tilewright.storage.parts import StoredPart, read_part

__all__ = ["Checkpoint", "CheckpointError", "checksum", "read_call"]

_FORMAT = 1


def read_call(folder: Path) -> dict[str, Any]:
    """What ``run.json`` of a checkpoint says. CheckpointError or OSError if there is none that can be read."""
    path = Path(folder) / "run.json"
    try:
        with open_regular(path) as file:
            document = json.loads(file.read().decode("utf-8"))
        if document["format"] != _FORMAT or not isinstance(document["facts"], dict):
            raise CheckpointError(f"{path} is of another version of tilewright")
    except FileNotFoundError:
        raise FileNotFoundError(2, f"{folder} has no checkpoint: there is no file run.json in it") from None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path} is damaged: {error}") from error
    return dict(document)


def _entry(text: bytes) -> dict[str, Any] | None:
    """What a line says; None if no run wrote it."""
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if type(said) is not dict or type(said.get("panel")) is not int:
        return None
    sums = all(type(said.get(name)) is list and set(map(type, said[name])) <= {str} for name in ("tiles", "of"))
    piv = said.get("piv", [])
    whole = type(piv) is list and set(map(type, piv)) <= {int} and all(-1 < row < 1 << 31 for row in piv)
    return said if sums and whole else None


class Checkpoint:
    """The checkpoint of one run, in a folder that is this run's alone until it is closed.

    Parameters
    ----------
    folder
        Is made if it is not there.
    facts
        On which the bits of the result depend; plain data. A run goes on only from one of equal facts.
    call
        What `tilewright resume` needs to make the call again.
    resume
        Go on from what is there, if there is something. Without it a folder with a checkpoint is refused.
    every
        Seconds between two entries at least; what was final between them is lost if the process is killed.

    Attributes
    ----------
    panels
        The entries so far, one for each block column from the first on.

    Raises
    ------
    FileExistsError
        There is a checkpoint, and ``resume`` does not say to go on from it.
    CheckpointError
        It is of another run, or damaged.
    BlockingIOError
        Another process has the folder.
    """

    def __init__(
        self,
        folder: str | Path,
        facts: Mapping[str, Any],
        call: Mapping[str, Any],
        *,
        resume: bool = False,
        every: float = 0.0,
    ) -> None:
        self.folder = Path(folder)
        self.every = every
        self.panels: list[dict[str, Any]] = []
        self.again = False
        """Whether something was there."""
        self.id = ""
        """By which parts know of which run they are."""
        self._pending: list[dict[str, Any]] = []
        self._last = monotonic()
        self._writing = threading.Lock()
        self._holder = -1
        self._made = not self.folder.exists()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._holder = os.open(self.folder, os.O_RDONLY)
        except OSError as error:
            raise type(error)(error.errno, f"cannot write a checkpoint in {folder}: {error.strerror}") from error
        try:
            hold(self._holder, f"another run has its checkpoint in {folder}")
            self._begin(dict(facts), dict(call), resume)
        except BaseException:
            self.close()
            raise

    def _begin(self, facts: dict[str, Any], call: dict[str, Any], resume: bool) -> None:
        path = self.folder / "run.json"
        facts = json.loads(json.dumps(facts))
        if not os.path.lexists(path):
            self._refuse_what_is_left()
            with replacing(self.log) as log:
                log.write_bytes(b"")
            self.id = secrets.token_hex(8)
            begun = {"format": _FORMAT, "id": self.id, "facts": facts, "call": call}
            write_text(path, json.dumps(begun, indent=1) + "\n")
            return
        if not resume:
            raise FileExistsError(
                17, f"{self.folder} has the checkpoint of a run; pass resume=True to go on from it, or another folder"
            )
        said = read_call(self.folder)
        self.id, known = str(said.get("id", "")), said["facts"]
        for name in {**known, **facts}:
            if known.get(name) != facts.get(name):
                raise CheckpointError(
                    f"{self.folder} was begun with another {name.replace('_', ' ')}: "
                    f"{known.get(name)}, not {facts.get(name)}"
                )
        self.again = True
        sweep(self.folder)
        self._read()

    def _refuse_what_is_left(self) -> None:
        """CheckpointError if there are numbers of a run in the folder that nothing says which it is."""
        left = [path for path in (self.log, self.folder / "panels.npy") if path.exists() and path.stat().st_size]
        left += self.folder.glob("part-*.bin")
        if left:
            raise CheckpointError(
                f"{self.folder} has {left[0].name} of a run, but no run.json that says of which; bring it back, remove "
                f"what is there, or pass another folder"
            )

    @property
    def log(self) -> Path:
        return self.folder / "panels.log"

    def _read(self) -> None:
        """Lines up to the one that was being written."""
        try:
            with open_regular(self.log) as file:
                data = file.read()
        except FileNotFoundError:
            raise CheckpointError(f"{self.folder} is damaged: {self.log.name} is gone") from None
        end = 0
        for number, line in enumerate(data.splitlines(keepends=True)):
            text, mark, sum_ = line.rpartition(b" ")
            whole = line.endswith(b"\n") and mark and sum_.strip() == b"%08x" % zlib.crc32(text)
            if not whole:
                if end + len(line) < len(data):
                    raise CheckpointError(f"{self.log} is damaged in line {number + 1}")
                break
            entry = _entry(text)
            if entry is None:
                raise CheckpointError(f"{self.log} is damaged in line {number + 1}")
            if entry["panel"] != number:
                raise CheckpointError(f"{self.log} has panel {entry['panel']} in line {number + 1}")
            self.panels.append(entry)
            end += len(line)
        if end < len(data):
            os.truncate(self.log, end)

    def add(self, panel: int, sync: Any, **what: Any) -> None:
        """Note that a block column is final; ``sync()`` first sees to it that its numbers are on the disk."""
        with self._writing:
            self._pending.append({"panel": panel, **what})
            if monotonic() - self._last >= self.every:
                self._flush(sync)

    def flush(self, sync: Any) -> None:
        """Note what `add` kept back."""
        with self._writing:
            if self._pending:
                self._flush(sync)

    def _flush(self, sync: Any) -> None:
        sync()
        lines = [json.dumps(entry).encode() for entry in self._pending]
        try:
            append(self.log, b"".join(line + b" %08x\n" % zlib.crc32(line) for line in lines))
            with self.log.open("rb") as file:
                os.fsync(file.fileno())
        except OSError as error:
            raise type(error)(error.errno, f"cannot write {self.log}: {error.strerror}") from error
        self.panels += self._pending
        self._pending = []
        self._last = monotonic()

    def parts(self) -> list[StoredPart]:
        """What files of parts say that are there. CheckpointError if one is damaged, or of another run."""
        found = []
        for path in sorted(self.folder.iterdir()):
            part = read_part(path)
            if part is None:
                continue
            if part.run != self.id:
                raise CheckpointError(f"{path} is of another run than {self.folder}/run.json")
            found.append(part)
        return found

    def discard(self) -> None:
        """Remove what was begun here, if nothing of it is finished."""
        if self.again or self.panels or any(self.folder.glob("part-*.bin")):
            return
        for name in ("run.json", "panels.log", "panels.npy"):
            with suppress(OSError):
                (self.folder / name).unlink()
        if self._made:
            with suppress(OSError):
                self.folder.rmdir()

    def close(self) -> None:
        """Let go of the folder."""
        if self._holder >= 0:
            os.close(self._holder)
            self._holder = -1
