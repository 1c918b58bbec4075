"""Checkpoints: one file, written aside and moved into place, read without executing anything.

A process that is killed while it writes leaves the checkpoint before untouched: the new one has another name until
it is whole and on disk.
"""

from __future__ import annotations

import io
import tempfile
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import nn

from tilewright.host.files import open_regular, replacing, sweep
from tilewright.training.state import Log, State

__all__ = ["NAME", "check", "check_extra", "make_room", "read", "write"]

NAME = "checkpoint.pt"
_VERSION = 4


_STATE = ("step", "tensors", "optimizer", "control", "random", "average", "extra")


def make_room(folder: str | Path) -> None:
    """The folder, before any work. ValueError if nothing can be written there."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise ValueError(f"cannot write checkpoints to {folder}: {error.strerror}") from error
    path = Path(folder) / NAME
    if path.exists() and not path.is_file():
        raise ValueError(f"cannot write checkpoints to {folder}: {path} is there and no file")


def write(folder: str | Path, state: State, log: Log, facts: dict[str, Any]) -> Path:
    """Write ``folder/checkpoint.pt``: whole or not at all."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / NAME
    payload = {
        "version": _VERSION,
        "facts": facts,
        "log": log.state_dict(),
        "step": state.step,
        "tensors": state.tensors,
        "optimizer": state.optimizer,
        "control": state.control,
        "random": state.random,
        "average": state.average,
        "extra": state.extra,
    }
    with replacing(path, sync=True) as aside, aside.open("wb") as file:
        saved = _Faithful(file)
        try:
            torch.save(payload, saved)
        except RuntimeError:  # torch's words for a file that takes no more
            if saved.error is None:
                raise
            raise saved.error from None
    return path


class _Faithful:
    """A file that remembers why a write failed."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self.file.flush()


def read(folder: str | Path) -> tuple[State, Log, dict[str, Any]] | None:
    """(state, log, facts) of the checkpoint in ``folder``; None if there is none.

    Files that a killed process left half-written are removed. ValueError if the checkpoint is damaged.
    """
    folder = Path(folder)
    if folder.is_dir():
        sweep(folder)
    path = folder / NAME
    if not path.exists():
        return None
    with io.BufferedReader(open_regular(path)) as file:  # type: ignore[type-var]
        try:
            payload = torch.load(file, map_location="cpu", weights_only=True)
            version = payload["version"]
            if version == _VERSION:
                return _restored(payload)
        except Exception as error:  # a damaged file may raise anything
            raise ValueError(
                f"{path} is damaged, or not a checkpoint of this library ({type(error).__name__}); remove it, pass "
                f"resume=False, or --no-resume, to start anew, or another folder"
            ) from error
    raise ValueError(f"{path} has version {version} of the format; this library reads version {_VERSION}")


def _restored(payload: dict[str, Any]) -> tuple[State, Log, dict[str, Any]]:
    """What `write` was given. Raises anything for what it cannot have been."""
    state = State(*(payload[name] for name in _STATE))
    if type(state.step) is not int or state.step < 0:
        raise TypeError("step is none")
    tables = (state.tensors, torch.Tensor), (state.average, torch.Tensor), (state.random, torch.Tensor)
    for table, kind in (*tables, (state.optimizer, dict), (state.extra, object)):
        if not all(isinstance(name, str) and isinstance(value, kind) for name, value in table.items()):
            raise TypeError("a table is none")
    for table in (state.control, payload["facts"], payload["log"]):
        if type(table) is not dict:
            raise TypeError("a table is none")
    return state, Log.from_state(payload["log"]), payload["facts"]


def check(state: State, facts: dict[str, Any], wanted: dict[str, Any], model: nn.Module, folder: str | Path) -> None:
    """Refuse, before any work, a checkpoint that is not of the training that would resume it.

    Raises
    ------
    ValueError
        It names what the two do not have in common: settings, data, parameters of other names or shapes.
    """
    differ = [
        f"{name} {facts.get(name)!r}, not {value!r}" for name, value in wanted.items() if facts.get(name) != value
    ]
    have = {name: tuple(p.shape) for name, p in model.named_parameters()}
    lacks = [name for name in have if name not in state.tensors]
    others = [
        f"{name} of shape {tuple(state.tensors[name].shape)}, not {shape}"
        for name, shape in have.items()
        if name in state.tensors and tuple(state.tensors[name].shape) != shape
    ]
    known = {*have, *(name for name, _ in model.named_buffers())}
    more = [name for name in state.tensors if name not in known]
    if lacks:
        differ.append(f"no {lacks[0]}{f', but {more[0]}' if more else ''}")
    if others:
        differ.append(others[0])
    if differ:
        raise ValueError(
            f"the checkpoint in {folder} is of another training: it has {'; '.join(differ)}. Pass "
            f"resume=False, or --no-resume, to start anew, or another folder"
        )


def check_extra(extra: dict[str, Any]) -> None:
    """ValueError, before any work, if extra state of a module could not be read again without executing code."""
    for module, state in extra.items():
        file = io.BytesIO()
        try:
            torch.save(state, file)
            file.seek(0)
            torch.load(file, weights_only=True)
        except Exception as error:
            raise ValueError(
                f"checkpoint= cannot hold what get_extra_state of {module.rstrip('.') or 'the model'} returns, a "
                f"{type(state).__name__}: checkpoints have tensors, numbers, strings and containers of those"
            ) from error
