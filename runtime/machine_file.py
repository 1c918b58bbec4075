"""A machine on disk: which fields a document of one may have, and what each has to be."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from tilewright import document

__all__ = ["fields_of", "read"]

T = TypeVar("T")

MOST = 1 << 20
"""Ranks, workers, or rows of a tile that a machine from a file may have."""


def read(source: str | Path, make: Callable[[Any], T]) -> T:
    """``make`` of the JSON object in a file, or in the text itself if it starts with ``{``.

    Raises
    ------
    ValueError
        It is damaged, or ``make`` refuses it.
    OSError
        The file cannot be read.
    """
    if isinstance(source, str) and source.lstrip().startswith("{"):
        try:
            return make(json.loads(source))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"the text is no machine that this version knows: {error}") from error
    try:
        return make(document.read(source))
    except ValueError as error:
        raise ValueError(f"{source} is no machine that this version knows: {error}") from error


def fields_of(found: Any) -> dict[str, Any]:
    """The fields of a JSON object. ValueError that names the one at fault."""
    time, factor = document.number(0), document.number(1e-30)
    table = document.entries(_size, time)
    rules = {
        "workers": document.integer(1, MOST), "ranks": document.integer(1, MOST), "gpus": document.integer(0, MOST),
        "alpha": time, "beta": time, "gamma": document.maybe(time), "tile_size": document.integer(1, MOST),
        "durations": document.entries(str, document.either(time, table)),
        "acceleration": document.entries(str, factor), "overhead": time, "device_alpha": time, "device_beta": time,
        "sockets": document.integer(1, MOST), "socket_alpha": time, "socket_beta": time, "dispatch": time,
    }  # fmt: skip
    return document.fields(found, "the machine", rules, optional=tuple(rules))


def _size(text: str) -> int:
    """A tile size that stands in a table."""
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and int(text)):
        raise ValueError(f"{text!r} is no tile size")
    return int(text)
